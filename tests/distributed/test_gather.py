"""The gather alone: order, dtypes, and a backward that sums over ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from ranks import run_on_ranks

from mlc.distributed import gather
from mlc.distributed.gather import gather_rows, gather_rows_detached, sum_over_ranks

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
DETACHED = [torch.float32, torch.int64, torch.int32, torch.uint8, torch.bool]


def gather_everything() -> dict[str, Any]:
    rank = dist.get_rank()
    results: dict[str, Any] = {}
    for dtype in DTYPES:
        x = (10.0 * rank + torch.arange(6).reshape(2, 3)).to(dtype).requires_grad_()
        everyone = gather_rows(x)
        # rank r weighs global row g by (r + 1) * (g + 1), so every (rank, row) pair leaves its own trace
        weight = (rank + 1.0) * (1 + torch.arange(4.0))[:, None].expand(4, 3)  # not contiguous, as gradients may be
        (everyone * weight.to(dtype)).sum().backward()
        results[f"gather {dtype}"] = (everyone.detach(), x.grad)
    for dtype in DETACHED:
        results[f"detached {dtype}"] = gather_rows_detached(torch.tensor([rank, 1 - rank]).to(dtype))
    with pytest.MonkeyPatch.context() as patch:  # the branch that GPUs' backends take
        patch.setattr(gather, "_REDUCE_SCATTER_BACKENDS", ("gloo",))
        x = torch.zeros(2, 3, dtype=torch.float32, requires_grad=True)
        (gather_rows(x) * (rank + 1) * torch.arange(12.0).reshape(4, 3)).sum().backward()
        results["reduce-scatter"] = x.grad
    gradient = torch.ones(2, 3, requires_grad=True)
    everyone = gather_rows(gradient)
    incoming = torch.ones(4, 3)
    torch.autograd.backward(everyone, incoming)
    results["incoming gradient afterwards"] = incoming
    source = torch.tensor([1.0, 2.0], requires_grad=True)
    results["sum"] = (sum_over_ranks(source * (rank + 1)), source.detach())
    return results


@pytest.fixture(scope="module")
def results() -> list[dict[str, Any]]:
    return run_on_ranks(gather_everything, 2)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_come_in_rank_order_and_gradients_are_summed(dtype: torch.dtype, results: list[dict[str, Any]]) -> None:
    rows = torch.cat([torch.arange(6).reshape(2, 3), 10 + torch.arange(6).reshape(2, 3)]).to(dtype)
    for rank in range(2):
        everyone, gradient = results[rank][f"gather {dtype}"]
        assert torch.equal(everyone, rows)
        # (1 + 2) * (g + 1) for the own rows g: whole numbers, so exact in every dtype
        expected = 3.0 * torch.tensor([2 * rank + 1.0, 2 * rank + 2.0])[:, None].expand(2, 3)
        assert gradient.dtype is dtype
        assert torch.equal(gradient.float(), expected)


@pytest.mark.parametrize("dtype", DETACHED, ids=str)
def test_detached_gather_moves_ids_and_masks(dtype: torch.dtype, results: list[dict[str, Any]]) -> None:
    for rank in range(2):
        found = results[rank][f"detached {dtype}"]
        assert found.dtype is dtype
        assert torch.equal(found, torch.tensor([0, 1, 1, 0]).to(dtype))


def test_reduce_scatter_gives_the_same_gradient(results: list[dict[str, Any]]) -> None:
    expected = 3 * torch.arange(12.0).reshape(2, 2, 3)
    for rank in range(2):
        assert torch.equal(results[rank]["reduce-scatter"], expected[rank])


def test_backward_leaves_the_incoming_gradient_alone(results: list[dict[str, Any]]) -> None:
    """Autograd may hand the same tensor to other nodes; an in-place all-reduce would change it under them."""
    assert torch.equal(results[0]["incoming gradient afterwards"], torch.ones(4, 3))


def test_sum_over_ranks_has_no_gradient_and_keeps_its_input(results: list[dict[str, Any]]) -> None:
    for rank in range(2):
        total, source = results[rank]["sum"]
        assert torch.equal(total, torch.tensor([3.0, 6.0]))
        assert not total.requires_grad
        assert torch.equal(source, torch.tensor([1.0, 2.0]))


def test_without_a_process_group_all_are_the_identity() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    assert gather_rows(x) is x
    assert torch.equal(gather_rows_detached(x), x.detach())
    assert not gather_rows_detached(x).requires_grad
    total = sum_over_ranks(x)
    total += 1  # a new tensor: changing it must not change x
    assert not torch.equal(total, x)


def test_ids_cannot_take_the_differentiable_way() -> None:
    with pytest.raises(TypeError, match="gather_rows_detached"):
        gather_rows(torch.tensor([1, 2]))
