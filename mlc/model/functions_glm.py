"""Differentiable functions the GLM spends its time in, each with a backward pass written out.

In, out: tensors. Each equals a few lines of plain torch (said in its docstring); written out, they pass over memory
fewer times, which is what elementwise work costs on a CPU, and never add into the same place twice, so they are
deterministic on every device.

Shape letters: T tokens, D width, F feed-forward width, N rows of any table.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

_Context = Any


def rms_norm(states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """x / sqrt(mean(x^2) + epsilon) * weight over the last dimension; statistics in at least fp32."""
    if states.device.type == "cpu":
        return cast(Tensor, _RmsNorm.apply(states, weight, epsilon))
    return F.rms_norm(states, weight.shape, weight, epsilon)


class _RmsNorm(Function):
    """torch 2.13 has no fused kernel for `F.rms_norm` on CPU; forward and backward take a fifth of its time."""

    @staticmethod
    def forward(ctx: _Context, states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = states.to(torch.promote_types(states.dtype, torch.float32))
        scale: Tensor = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_()
        scale = scale.div_(states.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(states, weight, scale)
        return (wide * scale).to(states.dtype).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, grad_output: Tensor) -> tuple[Tensor, Tensor, None]:
        states, weight, scale = ctx.saved_tensors
        flat, width = states.reshape(-1, states.shape[-1]), states.shape[-1]
        product = grad_output.reshape(flat.shape) * flat
        scale, narrow_scale = scale.view(-1, 1), scale.view(-1, 1).to(states.dtype)
        grad_weight = (narrow_scale.t() @ product)[0]
        along = (product @ weight[:, None]).to(scale.dtype).mul_(scale.pow(3)).div_(-width)
        grad_states = torch.mul(grad_output.reshape(flat.shape), weight, out=product).mul_(narrow_scale)
        grad_states.addcmul_(flat, along.to(states.dtype))
        return grad_states.view(states.shape), grad_weight, None


def gated_silu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of (T, 2F) = [gate, up] -> (T, F)  (SwiGLU, Shazeer 2020)."""
    return cast(Tensor, _GatedSilu.apply(gate_up))


class _GatedSilu(Function):
    @staticmethod
    def forward(ctx: _Context, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, grad_output: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        grad = torch.empty_like(gate_up)
        grad_gate, grad_up = grad.chunk(2, dim=-1)
        torch.mul(grad_output, F.silu(gate), out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grad_output * up, gate, grad_input=grad_gate)
        return grad


def rotate_pairs(pairs: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate (x, y) of (T, 2N) = [x, y] to [x cos - y sin, y cos + x sin]; the tables are (T, N)."""
    return cast(Tensor, _RotatePairs.apply(pairs, cosine, sine))


class _RotatePairs(Function):
    @staticmethod
    def forward(ctx: _Context, pairs: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        return _rotated(pairs, cosine, sine, sign=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, grad_output: Tensor) -> tuple[Tensor, None, None]:
        cosine, sine = ctx.saved_tensors
        return _rotated(grad_output, cosine, sine, sign=-1), None, None


def _rotated(pairs: Tensor, cosine: Tensor, sine: Tensor, *, sign: int) -> Tensor:
    first, second = pairs.chunk(2, dim=-1)
    rotated = torch.empty_like(pairs)
    rotated_first, rotated_second = rotated.chunk(2, dim=-1)
    torch.mul(first, cosine, out=rotated_first).addcmul_(second, sine, value=-sign)
    torch.mul(second, cosine, out=rotated_second).addcmul_(first, sine, value=sign)
    return rotated


def spread(table: Tensor, source: Tensor, place: Tensor) -> Tensor:
    """Rows of `table` (N, d) to more places: out[i] = table[source[i]].

    Args:
        table: the rows.
        source: for each place of the output the row it shows. Places that are not in `place` show any row, and must
            get no gradient.
        place: for each row of the table its one place.
    """
    return cast(Tensor, _Spread.apply(table, source, place))


class _Spread(Function):
    @staticmethod
    def forward(ctx: _Context, table: Tensor, source: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(place)
        return table.index_select(0, source)

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, grad_output: Tensor) -> tuple[Tensor, None, None]:
        (place,) = ctx.saved_tensors
        return grad_output.index_select(0, place), None, None


def collect(table: Tensor, place: Tensor) -> Tensor:
    """out[i] = table[place[i]], where no place is named twice."""
    return cast(Tensor, _Collect.apply(table, place))


class _Collect(Function):
    @staticmethod
    def forward(ctx: _Context, table: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(place)
        ctx.rows = table.shape[0]
        return table.index_select(0, place)

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, grad_output: Tensor) -> tuple[Tensor, None]:
        (place,) = ctx.saved_tensors
        grad = grad_output.new_zeros(ctx.rows, *grad_output.shape[1:])
        return grad.index_copy_(0, place, grad_output), None
