"""The hand-written backward passes against finite differences and against plain torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mlc.model.functions_glm import collect, gated_silu, rms_norm, rotate_pairs, spread


def values(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


def test_rms_norm() -> None:
    x, weight = values(5, 8), values(8, seed=1)
    torch.testing.assert_close(rms_norm(x, weight, 1e-6), F.rms_norm(x, (8,), weight, 1e-6), rtol=1e-12, atol=1e-12)
    # An epsilon as large as the mean square, so that its part of the derivative is seen.
    assert torch.autograd.gradcheck(lambda a, b: rms_norm(a, b, 0.5), (x, weight))


def test_rms_norm_takes_its_statistics_in_fp32() -> None:
    # In bf16 a running sum of 4096 ones stops at 256, and the result would be 4 instead of 1.
    x = torch.ones(1, 4096, dtype=torch.bfloat16)
    assert torch.equal(rms_norm(x, torch.ones(4096, dtype=torch.bfloat16), 1e-6), x)


def test_gated_silu() -> None:
    x = values(5, 8)
    torch.testing.assert_close(gated_silu(x), F.silu(x[:, :4]) * x[:, 4:], rtol=1e-14, atol=1e-14)
    assert torch.autograd.gradcheck(gated_silu, (x,))


def test_rotation_turns_pairs_and_keeps_lengths() -> None:
    x, angle = values(5, 8), values(5, 4, seed=1).detach()
    turned = rotate_pairs(x, angle.cos(), angle.sin())
    expected = torch.complex(x[:, :4], x[:, 4:]) * torch.polar(torch.ones_like(angle), angle)
    torch.testing.assert_close(turned, torch.cat([expected.real, expected.imag], 1), rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(lambda a: rotate_pairs(a, angle.cos(), angle.sin()), (x,))


def test_spread_and_collect_are_transposes() -> None:
    x, place = values(4, 3), torch.tensor([5, 0, 2, 3])
    source = torch.zeros(6, dtype=torch.long).index_copy(0, place, torch.arange(4))
    assert torch.equal(collect(spread(x, source, place), place), x)
    assert torch.autograd.gradcheck(lambda a: collect(spread(a, source, place).sin(), place), (x,))
    assert torch.autograd.gradcheck(lambda a: collect(a, place), (values(6, 3),))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_types_stay_close_to_fp64(dtype: torch.dtype) -> None:
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]  # a few roundings of 24 or 8 bits
    wide, weight, direction = values(64, 32).detach(), values(32, seed=1).detach(), values(64, 32, seed=2).detach()

    def run(kind: torch.dtype) -> list[Tensor]:
        x, w = wide.to(dtype).to(kind).requires_grad_(), weight.to(dtype).to(kind).requires_grad_()
        out = rms_norm(x, w, 1e-6)
        return [out.detach(), *torch.autograd.grad(out, (x, w), direction.to(dtype).to(kind))]

    for found, expected in zip(run(dtype), run(torch.float64), strict=True):
        error = (found.double() - expected).norm() / expected.norm()
        assert error < tolerance
