"""The queue against Python's own deque; the rows of several ranks against a plain sort."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from ranks import run_on_ranks

from mlc.distributed.queue import NegativeQueue, QueuedPairs, gather_pairs
from mlc.errors import CheckpointError

WIDTH = 3
CPU = torch.device("cpu")
LARGEST = 2**63 - 1


def make_pairs(numbers: list[int], step: int = 0, valid: list[bool] | None = None) -> QueuedPairs:
    """Pairs whose every field tells its number; the hashes need all of their 63 bits."""
    number = torch.tensor(numbers, dtype=torch.int64)
    row_QE = number[:, None] + torch.arange(WIDTH) / 8
    return QueuedPairs(
        first_QE=row_QE.float(),
        second_QE=-row_QE.float(),
        group=number,
        first_text=LARGEST - number,
        second_text=LARGEST - 1000 - number,
        first_language=number % 5,
        second_language=number % 7,
        valid=torch.ones(len(numbers), dtype=torch.bool) if valid is None else torch.tensor(valid, dtype=torch.bool),
        step=torch.full((len(numbers),), step, dtype=torch.int64),
    )


def rows(pairs: QueuedPairs) -> list[tuple[Any, ...]]:
    columns = [tensor.tolist() for tensor in pairs.by_name().values()]
    return [tuple(map(str, row)) for row in zip(*columns, strict=True)]


def oldest_first(queue: NegativeQueue) -> list[tuple[Any, ...]]:
    """The valid places; the ring's next place is its oldest."""
    following = int(queue.state()["next"])
    order = torch.arange(following, following + len(queue)) % len(queue)
    pairs = queue.pairs().take(order)
    return rows(pairs.take(pairs.valid.nonzero().squeeze(1)))


@given(size=st.integers(1, 7), pushes=st.lists(st.integers(0, 17), max_size=8), cut=st.integers(0, 8))
def test_it_keeps_what_a_deque_keeps(size: int, pushes: list[int], cut: int) -> None:
    """Any pushes, empty ones and ones larger than the queue included; saved and loaded anywhere between them."""
    queue, expected, number = NegativeQueue(size, WIDTH, CPU), deque[tuple[Any, ...]](maxlen=size), 0
    for step, count in enumerate(pushes):
        if step == cut:
            state = {name: tensor.clone() for name, tensor in queue.state().items()}
            queue = NegativeQueue(size, WIDTH, CPU)
            queue.load(state)
        pairs = make_pairs(list(range(number, number + count)), step)
        number += count
        queue.push(pairs)
        expected.extend(rows(pairs))
        assert oldest_first(queue) == list(expected)
        assert queue.filled == len(expected)


def test_places_without_a_pair_are_not_valid_and_have_no_identity() -> None:
    queue = NegativeQueue(4, WIDTH, CPU)
    queue.push(make_pairs([1]))
    pairs = queue.pairs()
    assert pairs.valid.tolist() == [True, False, False, False]
    for name in ("group", "first_text", "second_text", "first_language", "second_language"):
        assert getattr(pairs, name)[1:].tolist() == [-1, -1, -1], name


@pytest.mark.parametrize(("size", "width"), [(1, WIDTH), (5, WIDTH), (4, 1)])
def test_the_state_of_another_queue_is_refused(size: int, width: int) -> None:
    """A size or a width of 1 would broadcast."""
    with pytest.raises(CheckpointError, match="does not fit"):
        NegativeQueue(4, WIDTH, CPU).load(NegativeQueue(size, width, CPU).state())


def gathered_rows() -> list[tuple[Any, ...]]:
    """Samples 0..9 dealt to the ranks unevenly; each rank adds a padded row, and sample 4 has no partner."""
    dealt = [[7, 0, 4, 9, 2], [8, 3, 1, 6, 5]] if dist.get_world_size() == 2 else [[5, 9, 0, 3, 2, 8, 7, 1, 4, 6]]
    samples = [*dealt[dist.get_rank()], -1]
    pairs = make_pairs(samples, step=12, valid=[sample not in (4, -1) for sample in samples])
    return rows(gather_pairs(pairs, torch.tensor(samples)))


@pytest.mark.parametrize("world_size", [1, 2])
def test_every_rank_gets_the_same_rows_in_the_order_of_their_samples(world_size: int) -> None:
    expected = rows(make_pairs([0, 1, 2, 3, 5, 6, 7, 8, 9], step=12))
    assert run_on_ranks(gathered_rows, world_size) == [expected] * world_size
