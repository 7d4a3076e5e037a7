"""Which document is sample i: a pure function of (seed, i), with O(1) seeking and no index files.

In:  the streams (a stream is one source in one language or language pair), their sizes and shares.
Out: for any sample indices, the stream and the document of each.

Samples come in blocks of `SLOTS_PER_BLOCK`. In every block a stream owns a fixed number of slots, proportional to its
share; a keyed permutation of the block decides their order. The stream's earlier slots in the block, plus those of
all earlier blocks, say how many samples it has given before; a second keyed permutation, renewed every epoch of the
stream, turns that count into a document. So within a stream every document is drawn exactly once an epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from mlc.data.randomness import hash_words, keyed_permutation

Int64Array = npt.NDArray[np.int64]

SLOTS_PER_BLOCK = 1 << 14


class Sampler:
    """Maps sample indices to (stream, document).

    Args:
        sizes: documents (or pairs) in each stream, all at least 1.
        shares: share of the samples for each stream, positive; normalised here.
        seed: run seed.
        samples_per_step: size N of the global batch; used by `language_pure`.
        language_pure: all samples of one global batch come from one stream.

    Raises:
        ValueError: no stream, an empty stream, or more streams than slots.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        shares: Sequence[float],
        *,
        seed: int,
        samples_per_step: int,
        language_pure: bool = False,
    ) -> None:
        if not sizes or min(sizes) < 1 or min(shares) <= 0 or len(sizes) != len(shares):
            raise ValueError(f"streams need positive sizes and shares, got sizes {sizes} and shares {shares}")
        self.sizes = np.asarray(sizes, dtype=np.int64)
        self.slots = apportion(shares, SLOTS_PER_BLOCK)
        self._first_slot = np.concatenate([[0], np.cumsum(self.slots)])
        self._seed = seed
        self._samples_per_draw = samples_per_step if language_pure else 1
        self._block_key = hash_words(seed, "block")
        self._epoch_key = hash_words(seed, "epoch")
        self._block = lru_cache(maxsize=4)(self._lay_out_block)

    def draw(self, index: npt.ArrayLike) -> tuple[Int64Array, Int64Array]:
        """Stream and document of each sample.

        Args:
            index: sample indices, shape (n,), any order.

        Returns:
            stream (n,) and document (n,), both int64.
        """
        index = np.asarray(index, dtype=np.int64)
        drawing, within = np.divmod(index, self._samples_per_draw)
        block, place = np.divmod(drawing, SLOTS_PER_BLOCK)
        stream, drawn_before = np.empty_like(place), np.empty_like(place)
        for number in np.unique(block):
            chosen = block == number
            stream_of_place, earlier_of_place = self._block(int(number))
            stream[chosen] = stream_of_place[place[chosen]]
            drawn_before[chosen] = earlier_of_place[place[chosen]]
        drawn_before += block * self.slots[stream]
        return stream, self._document(stream, drawn_before * self._samples_per_draw + within)

    def _lay_out_block(self, block: int) -> tuple[Int64Array, Int64Array]:
        """For each place of a block: its stream, and how many earlier places of the block have the same stream."""
        slot = keyed_permutation(np.arange(SLOTS_PER_BLOCK), SLOTS_PER_BLOCK, hash_words(self._block_key, block))
        stream = np.searchsorted(self._first_slot, slot, side="right").astype(np.int64) - 1
        by_stream = np.argsort(stream, kind="stable")
        earlier = np.empty_like(stream)
        earlier[by_stream] = np.arange(SLOTS_PER_BLOCK) - self._first_slot[stream[by_stream]]
        return stream, earlier

    def _document(self, stream: Int64Array, count: Int64Array) -> Int64Array:
        epoch, place = np.divmod(count, self.sizes[stream])
        document = np.empty_like(place)
        for number in np.unique(stream):
            chosen = stream == number
            epochs, which = np.unique(epoch[chosen], return_inverse=True)
            keys = np.array([hash_words(self._epoch_key, int(number), int(e)) for e in epochs], dtype=np.uint64)
            document[chosen] = keyed_permutation(place[chosen], int(self.sizes[number]), keys[which])
        return document


def apportion(shares: Sequence[float], total: int) -> Int64Array:
    """Split `total` slots in proportion to `shares`, at least one each (largest remainders; ties to the first).

    Raises:
        ValueError: more shares than slots.
    """
    if len(shares) > total:
        raise ValueError(f"{len(shares)} streams do not fit into {total} slots")
    exact = np.asarray(shares, dtype=np.float64) / np.sum(shares) * (total - len(shares))
    slots: Int64Array = np.floor(exact).astype(np.int64) + 1
    by_remainder = np.argsort(slots - exact, kind="stable")
    slots[by_remainder[: total - int(slots.sum())]] += 1
    return slots
