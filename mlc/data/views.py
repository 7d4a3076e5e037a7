"""Which part of a document a view shows: arithmetic on places, without tokens.

In:  the size of a document or the ends of its sequences, a random generator.
Out: slices of the document's tokens.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]


def window(size: int, place: float, limit: int) -> slice:
    """At most `limit` of `size` tokens; `place` in [0, 1) says where they start among the starts there are."""
    start = int(place * (max(0, size - limit) + 1))
    return slice(start, min(start + limit, size))


def two_spans(size: int, random: np.random.Generator, limit: int, shortest: int) -> tuple[slice, slice]:
    """Two spans of one document that do not overlap, in random order.

    A window of at most twice `limit` tokens is cut at a random place; each side gives a span of random length at a
    random place. Overlapping spans would let shared words, rather than shared meaning, find the partner.
    A document shorter than twice `shortest` gives both views the whole text.

    Args:
        size: of the document in tokens.
        random: of this sample alone.
        limit: longest span in tokens.
        shortest: shortest span in tokens.
    """
    if size < 2 * shortest:
        whole = slice(0, min(size, limit))
        return whole, whole
    outer = window(size, random.random(), 2 * limit)
    cut = outer.start + int(random.integers(shortest, outer.stop - outer.start - shortest + 1))
    spans = []
    for low, high in ((outer.start, cut), (cut, outer.stop)):
        longest = min(high - low, limit)
        length = int(random.integers(min(shortest, longest), longest + 1))
        span = window(high - low, random.random(), length)
        spans.append(slice(low + span.start, low + span.stop))
    if random.random() < 0.5:
        spans.reverse()
    return spans[0], spans[1]


def aligned_windows(
    first_ends: Int64Array, second_ends: Int64Array, random: np.random.Generator, limit: int
) -> tuple[slice, slice]:
    """The same passage of a document in two languages, at most `limit` tokens a side.

    Documents with equally many sequences are taken to correspond sequence by sequence: the passage starts at the same
    sequence in both. Otherwise it starts at the same fraction of the text.

    Args:
        first_ends, second_ends: where each sequence of the two documents ends, in tokens from the document's start.
        random: of this sample alone.
        limit: longest window in tokens.
    """
    ends = (first_ends, second_ends)
    sizes = [int(e[-1]) if len(e) else 0 for e in ends]
    place = random.random()
    if max(sizes) <= limit:
        return slice(0, sizes[0]), slice(0, sizes[1])
    if len(ends[0]) != len(ends[1]) or len(ends[0]) == 1:
        return window(sizes[0], place, limit), window(sizes[1], place, limit)
    # The last start from which the rest still fills a view, so that late starts do not give stubs.
    late = min(int(np.searchsorted(e, max(0, size - limit), side="right")) for e, size in zip(ends, sizes, strict=True))
    sequence = int(place * (late + 1))
    first, second = (int(e[sequence - 1]) if sequence else 0 for e in ends)
    return slice(first, min(first + limit, sizes[0])), slice(second, min(second + limit, sizes[1]))


def ends_within(ends: Int64Array, part: slice) -> Int64Array:
    """Where the sequences of a document end inside a part of it, ascending; the last end is the length of the part.

    A sequence that the part cuts ends with the part. Sequences without tokens are left out.
    """
    inside = np.minimum(np.maximum(ends, part.start), part.stop) - part.start
    before = np.zeros_like(inside)
    before[1:] = inside[:-1]
    has_tokens: Int64Array = inside[inside > before]
    return has_tokens
