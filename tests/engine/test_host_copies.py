"""Copies of tensors that are views of a few storages, of any place, order and dtype."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mlc.engine import host_copies
from mlc.engine.host_copies import HostCopies

DTYPES = (torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.uint8, torch.float64)
views = st.tuples(st.integers(0, 2), st.sampled_from(DTYPES), st.integers(0, 300), st.integers(0, 40))
"""Number of the storage, dtype, first element and number of elements."""


def _view(storages: list[Tensor], view: tuple[int, torch.dtype, int, int]) -> Tensor:
    number, dtype, start, count = view
    return storages[number].view(dtype)[start : start + count]


def _is_equal(one: Tensor, other: Tensor) -> bool:
    """By bytes: a random one may be no number."""
    return one.dtype == other.dtype and one.shape == other.shape and bytes_of(one) == bytes_of(other)


def bytes_of(tensor: Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


@given(
    rounds=st.lists(st.lists(views, max_size=12), min_size=1, max_size=3),
    gap=st.sampled_from([0, 1, 100, 64 << 10]),
    seed=st.integers(0, 99),
)
def test_a_copy_is_equal_and_stays(rounds: list[list[tuple[int, torch.dtype, int, int]]], gap: int, seed: int) -> None:
    generator, copies = torch.Generator().manual_seed(seed), HostCopies()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host_copies, "LARGEST_GAP_BYTES", gap)
        for chosen in rounds:
            storages = [torch.randint(0, 2, (4096,), dtype=torch.uint8, generator=generator) for _ in range(3)]
            live = [_view(storages, view) for view in chosen]
            before = [tensor.clone() for tensor in live]
            copied = copies.of(live)
            for storage in storages:
                storage.random_(generator=generator)
            assert all(_is_equal(one, other) for one, other in zip(copied, before, strict=True))


def test_memory_is_used_again_and_not_much_more_than_needed() -> None:
    flat, other = torch.randn(100_000), torch.randn(8, 8)
    tensors = [*flat[:99_000].split(1000), other.T, torch.tensor(3.0)]
    copies = HostCopies()
    first = copies.of(tensors)
    places = [tensor.data_ptr() for tensor in first]
    assert copies.bytes == 4 * (99_000 + 64 + 1)
    flat.add_(1.0)
    second = copies.of(tensors)
    assert [tensor.data_ptr() for tensor in second[:99]] == places[:99]
    assert all(torch.equal(one, live) for one, live in zip(second, tensors, strict=True))


def test_a_small_part_of_a_long_tensor_takes_little() -> None:
    flat, copies = torch.randn(1_000_000), HostCopies()
    first, last = copies.of([flat[:10], flat[-10:]])
    assert torch.equal(first, flat[:10])
    assert torch.equal(last, flat[-10:])
    assert copies.bytes < 300
