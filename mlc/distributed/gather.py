"""Rows of every rank on every rank, with the gradient of the whole.

In:  this rank's rows, as many on every rank (what is missing is padded and marked invalid by the caller).
Out: the rows of all ranks in rank order; sums, maxima and log-sum-exps over ranks.
Letters: B = rows on this rank, W = ranks.

Every function here is a collective: all ranks of the group call it in the same order with the same shapes and dtypes.
Without a process group, or with one rank, each is the identity.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

# torch 2.13 renamed both and warns on every call of the old names.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor

# These reduce-scatter every floating dtype; gloo's support depends on its version and dtype.
_REDUCE_SCATTER_BACKENDS = ("nccl", "xccl", "hccl")


def gather_rows(x: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """All ranks' rows in rank order, differentiable: (B, ...) -> (W*B, ...).

    The gradient of this rank's rows is the SUM over ranks of the gradients that reached them, which is the full-batch
    gradient when each rank backpropagates its share of one global sum: tests/distributed/test_gradient_exactness.py.
    The backward is a collective too, so the result takes part in the loss on every rank or on none.

    Args:
        x: floating-point rows, the same shape on every rank. Unequal B is not detected (that would cost another
            collective): pad to the same B and mark the padding invalid.
        group: ranks to gather over; None = all.

    Raises:
        TypeError: x is not floating point; `gather_rows_detached` takes those.
    """
    if not x.is_floating_point():
        raise TypeError(f"gather_rows needs floating-point rows, found {x.dtype}; use gather_rows_detached")
    if _world_size(group) == 1:
        return x
    gathered: Tensor = _GatherRows.apply(x, group)
    return gathered


def gather_rows_detached(x: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """All ranks' rows in rank order, of any dtype and without gradient: (B, ...) -> (W*B, ...)."""
    x = x.detach()
    if _world_size(group) == 1:
        return x
    if x.dtype is torch.bool:  # not every backend moves bool
        return _gather(x.to(torch.uint8), group).bool()
    return _gather(x, group)


def sum_over_ranks(x: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Elementwise sum over ranks, a new tensor without gradient; same shape on every rank."""
    total = x.detach().clone()
    if _world_size(group) > 1:
        dist.all_reduce(total, group=group)
    return total


def max_over_ranks(x: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Elementwise maximum over ranks, a new tensor without gradient; same shape on every rank."""
    largest = x.detach().clone()
    if _world_size(group) > 1:
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
    return largest


def log_sum_exp_over_ranks(x: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Elementwise log of the sum over ranks of exp(x), differentiable; finite x of the same shape on every rank.

    Every rank may use any part of the result: the gradient that reaches x is the SUM over ranks of the gradients of
    their results, times this rank's share exp(x - result). The backward is a collective, as that of `gather_rows`.
    """
    if _world_size(group) == 1:
        return x
    total: Tensor = _LogSumExpOverRanks.apply(x, group)
    return total


class _LogSumExpOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        largest = max_over_ranks(x, group)
        total = largest + sum_over_ranks((x - largest).exp(), group).log()
        ctx.save_for_backward(x, total)
        ctx.group = group
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x, total = ctx.saved_tensors
        return sum_over_ranks(gradient, ctx.group) * (x - total).exp(), None


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        return _gather(x, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _sum_own_rows(gradient, ctx.group), None


def _gather(x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    x = x.contiguous()
    out = x.new_empty((_world_size(group) * x.shape[0], *x.shape[1:]))
    _all_gather(out, x, group=group)
    return out


def _sum_own_rows(x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """This rank's rows of the sum over ranks: (W*B, ...) -> (B, ...)."""
    # fp32: a sum over W ranks in bf16 would lose bits that depend on W.
    total = x.to(torch.float32 if x.dtype in (torch.bfloat16, torch.float16) else x.dtype).contiguous()
    rows = x.shape[0] // _world_size(group)
    if dist.get_backend(group) in _REDUCE_SCATTER_BACKENDS:
        own = total.new_empty((rows, *x.shape[1:]))
        _reduce_scatter(own, total, group=group)
    else:
        if total is x:  # the incoming gradient may be shared with other nodes of the graph
            total = x.clone()
        dist.all_reduce(total, group=group)
        own = total.narrow(0, dist.get_rank(group) * rows, rows)
    return own.to(x.dtype)


def _world_size(group: dist.ProcessGroup | None) -> int:
    if not (dist.is_available() and dist.is_initialized()):
        return 1
    return dist.get_world_size(group)
