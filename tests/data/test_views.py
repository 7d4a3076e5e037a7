"""Windows and spans: they come from the text, never overlap, and the same passage is the same passage."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlc.data.views import aligned_windows, ends_within, two_spans, window

LENGTHS = st.lists(st.integers(0, 12), max_size=8)


@given(size=st.integers(1, 80), limit=st.integers(4, 40), shortest=st.integers(1, 10), seed=st.integers(0, 999))
def test_two_spans_come_from_the_text_and_never_overlap(size: int, limit: int, shortest: int, seed: int) -> None:
    shortest = min(shortest, limit)
    spans = two_spans(size, np.random.default_rng(seed), limit, shortest)
    for span in spans:
        assert 0 <= span.start < span.stop <= size
        assert span.stop - span.start <= limit
    if size >= 2 * shortest:
        first, second = sorted(spans, key=lambda span: span.start)
        assert first.stop <= second.start
        assert min(span.stop - span.start for span in spans) >= shortest


@given(size=st.integers(0, 50), limit=st.integers(1, 30), place=st.floats(0, 1, exclude_max=True))
def test_a_window_is_as_long_as_it_may_be(size: int, limit: int, place: float) -> None:
    part = window(size, place, limit)
    assert part.stop - part.start == min(size, limit)
    assert 0 <= part.start <= part.stop <= size


@given(lengths=st.lists(st.integers(1, 12), min_size=2, max_size=8), limit=st.integers(1, 30), data=st.data())
def test_long_parallel_documents_start_at_the_same_sequence(
    lengths: list[int], limit: int, data: st.DataObject
) -> None:
    others = data.draw(st.lists(st.integers(1, 12), min_size=len(lengths), max_size=len(lengths)))
    ends = [np.cumsum(sizes) for sizes in (lengths, others)]
    seen = set()
    for seed in range(20):
        windows = aligned_windows(ends[0], ends[1], np.random.default_rng(seed), limit)
        starts = [[0, *e[:-1].tolist()].index(part.start) for e, part in zip(ends, windows, strict=True)]
        assert starts[0] == starts[1]
        seen.add(starts[0])
        assert all(part.stop == min(part.start + limit, e[-1]) for part, e in zip(windows, ends, strict=True)), (
            "a window is cut by the limit and the document's end alone"
        )
    if max(e[-1] for e in ends) <= limit:
        assert seen == {0}


def test_starts_of_parallel_windows_differ() -> None:
    ends = np.arange(5, 55, 5)
    starts = {aligned_windows(ends, ends, np.random.default_rng(seed), 10)[0].start for seed in range(200)}
    assert starts == set(range(0, 45, 5)), "every start from which the rest fills a window"


@given(first=LENGTHS, second=LENGTHS, limit=st.integers(1, 30), seed=st.integers(0, 999))
def test_any_two_documents_give_windows(first: list[int], second: list[int], limit: int, seed: int) -> None:
    ends = [np.cumsum(sizes, dtype=np.int64) for sizes in (first, second)]
    for part, sizes in zip(
        aligned_windows(ends[0], ends[1], np.random.default_rng(seed), limit), (first, second), strict=True
    ):
        assert 0 <= part.start <= part.stop <= sum(sizes)
        assert part.stop - part.start <= limit


@given(lengths=LENGTHS, data=st.data())
def test_ends_within_a_part_are_those_of_its_tokens(lengths: list[int], data: st.DataObject) -> None:
    size = sum(lengths)
    start = data.draw(st.integers(0, size))
    part = slice(start, data.draw(st.integers(start, size)))
    owner = np.repeat(np.arange(len(lengths)), lengths)[part]
    expected = [place + 1 for place in range(len(owner)) if place + 1 == len(owner) or owner[place] != owner[place + 1]]
    assert ends_within(np.cumsum(lengths, dtype=np.int64), part).tolist() == expected
