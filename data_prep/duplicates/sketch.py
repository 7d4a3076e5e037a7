"""Shingle hashes to MinHash sketches: one to find similar sets, one to say how similar they are.

In:  hashes of the shingles of N parts.
Out: `minima_of`: N rows of `bins` numbers: two rows agree in a bin with the probability that is the Jaccard similarity
     of the two sets of shingles, whatever their sizes. `band_hashes_of` makes of them what similar sets share.
     `lowest_of`: N rows of `SIGNATURE_BINS` numbers; `signatures_of` leaves 2 bits of each, and `similarities`
     estimates J from those. The numbers of a union are the smaller of the numbers, in both.

The first is the fast similarity sketch of Dahlgaard, Knudsen and Thorup (FOCS 2017). In each round a shingle falls into
one bin, with a value; a bin keeps the smallest (round, value). Rounds go on until every bin of a set has one, which a
set of n shingles with n >> bins has after one or two: n + bins log(bins) hashes for a set, where MinHash (Broder 1997)
computes n x bins. From round `bins` on each round serves one bin, so `2 x bins` rounds are enough for any set.

The second is one permutation hashing (Li, Owen, Zhang, NIPS 2012): every shingle falls into one bin, bins keep the
smallest, and bins may stay empty. Of the bins that are filled in either set, the share that agrees is J on average. It
costs one hash a shingle, and the estimate of small sets, which have hardly two shingles in a bin, is nearly exact. As
in b-bit minwise hashing (Li and Koenig, WWW 2010) few bits of each number are kept: many bins of 2 bits tell more of
similar sets than fewer bins of 8.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data_prep.duplicates.shingles import Int64Array, Shingles, UInt64Array, mix

EMPTY = np.uint64((1 << 64) - 1)
_ROUND_BITS = 11  # 2 x 1,024 rounds
_LOW_HALF = np.uint64(0xFFFFFFFF)
_OPEN = np.uint32(0xFFFFFFFF)
_ROUND_STEP = np.uint32(0x9E3779B9)
_HASHES_TOGETHER = 1 << 13  # where few shingles are left, several rounds are computed in one go
SIGNATURE_BINS = 1024
SIGNATURE_BYTES = SIGNATURE_BINS // 4
NOTHING = np.uint32(0xFFFFFFFF)
"""What `lowest_of` gives for a bin without a shingle."""
_SIGNATURE_FACTOR = np.uint64(0xC2B2AE3D27D4EB4F)
_SIGNATURE_SHIFT = np.uint64(64 - 10)  # 1,024 bins
_CODE_FACTOR = np.uint32(0x85EBCA6B)
_CODES = 3  # that 2 bits hold besides 0, an empty bin
_LOW_BITS_OF_CODES = np.uint64(0x5555555555555555)
_BAND_BASE = np.uint64(0x9FB21C651E98DF25)


def minima_of(shingles: Shingles, bins: int) -> UInt64Array:
    """Sketch N sets of shingles.

    Args:
        shingles: of N parts; a part without any gets `EMPTY` in every bin.
        bins: at most 1,024.

    Returns:
        The smallest of each bin, (N, bins): 11 bits of round number, then the value. Values have 53 bits in round 0,
        which may have to tell many shingles of a bin apart, and 16 in later rounds, where bins have few.
    """
    counts = shingles.counts_N
    minima = np.full((len(counts), bins), EMPTY, dtype=np.uint64)
    part_of = np.repeat(np.arange(len(counts)), counts)
    scrambled = mix(shingles.hashes_S.copy())
    slots = (((scrambled & _LOW_HALF) * np.uint64(bins)) >> np.uint64(32)).view(np.int64)
    slots += part_of * bins
    np.minimum.at(minima.reshape(-1), slots, scrambled >> np.uint64(_ROUND_BITS))
    is_open = (minima == EMPTY).any(axis=1) & (counts > 0)
    if is_open.any():
        still = is_open[part_of]
        seeds = (scrambled[still] >> np.uint64(32)).astype(np.uint32)
        local_part_of = (np.cumsum(is_open) - 1)[part_of[still]]
        some = minima[is_open]
        late = np.where(some == EMPTY, _OPEN, np.uint32(0))  # what round 0 filled stays
        _fill(late, seeds, local_part_of)
        minima[is_open] = np.where(some == EMPTY, late.astype(np.uint64) << np.uint64(32), some)
    return minima


def _fill(late: NDArray[np.uint32], seeds: NDArray[np.uint32], part_of: Int64Array) -> None:
    """Throw shingles in rounds 1, 2, ... until no bin of a part is `_OPEN`; `late` is (parts, bins)."""
    bins = late.shape[1]
    flat = late.reshape(-1)
    done = next_look = 1
    while len(seeds) and done < 2 * bins:
        if done >= next_look:
            seeds, part_of = _without_repetitions(seeds, part_of, len(late), 8 * bins // done)
            next_look *= 2
        rounds = min(max(1, _HASHES_TOGETHER // len(seeds)), 2 * bins - done)
        numbers = np.arange(done, done + rounds, dtype=np.uint32)[:, None]
        thrown = _mix_32(np.add(seeds, numbers * _ROUND_STEP, dtype=np.uint32))
        slots = (((thrown >> np.uint32(16)) * np.uint32(bins)) >> np.uint32(16)).astype(np.int64)
        if done + rounds > bins:
            serving = numbers[:, 0] >= bins
            slots[serving] = (numbers[serving] - np.uint32(bins)).astype(np.int64)
        slots += part_of * bins
        thrown &= np.uint32(0xFFFF)
        thrown |= numbers << np.uint32(32 - _ROUND_BITS)
        np.minimum.at(flat, slots.reshape(-1), thrown.reshape(-1))
        done += rounds
        still = (late == _OPEN).any(axis=1)[part_of]
        if not still.all():
            seeds, part_of = seeds[still], part_of[still]


def _without_repetitions(
    seeds: NDArray[np.uint32], part_of: Int64Array, parts: int, most: int
) -> tuple[NDArray[np.uint32], Int64Array]:
    """Leave repeated shingles out of parts that have more than `most`.

    So many different shingles would have filled all bins by now, but for one part in twenty: sorting is seldom needed.
    """
    many = (np.bincount(part_of, minlength=parts) > most)[part_of]
    if not many.any():
        return seeds, part_of
    different = np.unique((part_of[many].astype(np.uint64) << np.uint64(32)) | seeds[many])
    seeds = np.concatenate([seeds[~many], different.astype(np.uint32)])
    return seeds, np.concatenate([part_of[~many], (different >> np.uint64(32)).astype(np.int64)])


def _mix_32(values: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Scramble 32-bit values in place, one to one: the finaliser of MurmurHash3 (Appleby 2011)."""
    values ^= values >> np.uint32(16)
    values *= np.uint32(0x85EBCA6B)
    values ^= values >> np.uint32(13)
    values *= np.uint32(0xC2B2AE35)
    values ^= values >> np.uint32(16)
    return values


def lowest_of(shingles: Shingles) -> NDArray[np.uint32]:
    """The smallest 32-bit number of each bin, or `NOTHING`: (N, SIGNATURE_BINS).

    The numbers are others than those of `minima_of`, so that a set that is found by chance is not also judged by it.
    """
    counts = shingles.counts_N
    lowest = np.full((len(counts), SIGNATURE_BINS), NOTHING, dtype=np.uint32)
    thrown = mix(shingles.hashes_S.copy())
    thrown *= _SIGNATURE_FACTOR
    slots = (thrown >> _SIGNATURE_SHIFT).astype(np.int64)
    slots += np.repeat(np.arange(len(counts)) * SIGNATURE_BINS, counts)
    numbers = (thrown >> np.uint64(16)).astype(np.uint32)
    np.minimum.at(lowest.reshape(-1), slots, numbers)
    return lowest


def signatures_of(lowest: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """2 bits of each bin, 0 where it is empty: (N, SIGNATURE_BYTES)."""
    codes = (((lowest * _CODE_FACTOR) >> np.uint32(16)) % np.uint32(_CODES)).astype(np.uint8)
    codes += np.uint8(1)
    codes[lowest == NOTHING] = 0
    by_place = codes.reshape(len(codes), 4, SIGNATURE_BYTES)
    packed: NDArray[np.uint8] = by_place[:, 0].copy()
    for place in range(1, 4):
        packed |= by_place[:, place] << np.uint8(2 * place)
    return packed


def similarities(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Estimated Jaccard similarity of `first[i]` and `second[i]`, signatures of sets that are not empty.

    Two filled bins that are not alike have the same code once in `_CODES`; so of those seen to differ, as many again
    divided by `_CODES - 1` are taken to agree by chance. The standard error is sqrt(q (1 - q) / filled) x 3 / 2 with
    q = (1 + 2 J) / 3, 0.016 at J = 0.8, and less for sets of less than some thousand shingles.
    """
    one, other = first.view(np.uint64), second.view(np.uint64)
    filled = _count(one | other)
    agree = filled - _count(one ^ other)
    differ = _count(one) + _count(other) - filled - agree  # both filled, and not alike
    return (agree - differ / (_CODES - 1)) / np.maximum(filled, 1)


def _count(codes: NDArray[np.uint64]) -> Int64Array:
    """How many codes of each row are not 0."""
    found: Int64Array = np.bitwise_count((codes | codes >> np.uint64(1)) & _LOW_BITS_OF_CODES).sum(
        axis=1, dtype=np.int64
    )
    return found


def band_hashes_of(minima: UInt64Array, bands: int) -> UInt64Array:
    """One hash for each band, a run of bins: (bands, N)."""
    by_band = minima.reshape(len(minima), bands, -1)
    hashes = by_band[:, :, 0].copy()
    for row in range(1, by_band.shape[2]):
        hashes *= _BAND_BASE
        hashes += by_band[:, :, row]
    return np.ascontiguousarray(mix(hashes).T)
