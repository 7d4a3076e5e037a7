"""Randomness as a pure function: keyed hashes, keyed permutations, and one generator per (seed, purpose, index).

In:  a seed and integers.
Out: numbers that depend on nothing else: not on rank, world size, worker, history or Python's hash seed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xxhash

UInt64Array = npt.NDArray[np.uint64]

FEISTEL_ROUNDS = 6


def hash_words(*words: int | str) -> int:
    """A 63-bit non-negative hash of integers and strings (xxh3; types and order count)."""
    text = "\x1f".join(f"str:{word}" if isinstance(word, str) else f"int:{int(word)}" for word in words)
    return xxhash.xxh3_64_intdigest(text.encode()) >> 1


def generator(seed: int, purpose: str, index: int) -> np.random.Generator:
    """The generator of one sample: Philox (Salmon et al. 2011) keyed by all three arguments."""
    return np.random.Generator(np.random.Philox(key=[hash_words(seed, purpose), index]))


def stochastic_round(value: float, random: np.random.Generator) -> int:
    """Round so that the mean is exact: short texts would otherwise never, or always, be corrupted."""
    return int(value + random.random())


def keyed_permutation(index: npt.ArrayLike, size: int, key: int | UInt64Array) -> npt.NDArray[np.int64]:
    """Where a keyed pseudo-random permutation of 0..size-1 sends `index`, in O(1) memory.

    A balanced Feistel network over the next power of four, with cycle walking back into range: a bijection for every
    size and key, so that visiting 0..size-1 visits everything exactly once, and any place can be computed alone.

    Args:
        index: integers in [0, size).
        size: size of the set, at least 1.
        key: one key for all, or one per index.

    Source: Black & Rogaway 2002, "Ciphers with arbitrary finite domains", methods 2 and 3.
    """
    value = np.atleast_1d(np.asarray(index)).astype(np.uint64)
    if value.size and int(value.max()) >= size:
        raise ValueError(f"index {int(value.max())} is outside a permutation of {size}")
    half_bits = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    keys = np.broadcast_to(np.asarray(key, dtype=np.uint64), value.shape)
    value = _feistel(value, half_bits, keys)
    outside = np.flatnonzero(value >= np.uint64(size))
    while outside.size:
        value[outside] = _feistel(value[outside], half_bits, keys[outside])
        outside = outside[value[outside] >= np.uint64(size)]
    return value.astype(np.int64)


def _feistel(value: UInt64Array, half_bits: np.uint64, key: UInt64Array) -> UInt64Array:
    low_mask = (np.uint64(1) << half_bits) - np.uint64(1)
    left, right = value >> half_bits, value & low_mask
    for round_number in range(FEISTEL_ROUNDS):
        # Odd multiples of the golden ratio keep the rounds' keys apart.
        mixed = _mix(right ^ (key + np.uint64((2 * round_number + 1) * 0x9E3779B97F4A7C15 % 2**64)))
        left, right = right, left ^ (mixed & low_mask)
    return (left << half_bits) | right


def _mix(value: UInt64Array) -> UInt64Array:
    """Finaliser of splitmix64 (Steele et al. 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
