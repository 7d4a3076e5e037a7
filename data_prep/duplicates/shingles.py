"""Texts to the hashes of their shingles, many texts at a time.

In:  parts: texts, or pieces of a long text.
Out: 64-bit hashes of the shingles of each part.

A token is a word (a run of letters, marks and digits, in lower case) or, in scripts that write no spaces between words,
one character. Everything else, punctuation and symbols included, separates tokens. A shingle is a run of tokens of one
text: `words` of them if it begins at a word, `characters` of them if it begins at such a character; a text that is too
short for any is one shingle. Words are hashed by a polynomial modulo 2^64, as in Karp and Rabin (1987): the base is
odd and so has an inverse, which lets one running product serve every word of a block of text.

Letters in the arrays' names: C characters, T tokens, S shingles, N parts.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

UInt64Array = NDArray[np.uint64]
Int64Array = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

BLOCK_CHARACTERS = 1 << 17  # arrays of a block stay in a core's cache

_WITHOUT_SPACES = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x1950, 0x19DF), (0x1A20, 0x1AAF),
                   (0x1B00, 0x1B7F), (0x2E80, 0x312F), (0x31A0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF),
                   (0xA980, 0xA9FF), (0xAA60, 0xAA7F), (0xF900, 0xFAFF), (0xFF66, 0xFF9F), (0x1AFF0, 0x1B16F),
                   (0x20000, 0x323AF))  # fmt: skip
"""Thai, Lao; Myanmar; Khmer; Tai scripts; Balinese; Han, Kana, Bopomofo; Javanese. Tibetan separates its syllables."""

_LAST_CODE = 0x323AF  # letters end here; what lies above separates
_WORD_BASE = 0x9E3779B97F4A7C15
_TOKEN_BASE = np.uint64(0xD6E8FEB86659FD93)
_FIRST_FACTOR = np.uint64(0xBF58476D1CE4E5B9)
_SECOND_FACTOR = np.uint64(0x94D049BB133111EB)


def mix(values: UInt64Array) -> UInt64Array:
    """Scramble 64-bit values in place, one to one: the finaliser of SplitMix64 (Steele, Lea, Flood 2014)."""
    values ^= values >> np.uint64(30)
    values *= _FIRST_FACTOR
    values ^= values >> np.uint64(27)
    values *= _SECOND_FACTOR
    values ^= values >> np.uint64(31)
    return values


@dataclass(frozen=True, slots=True)
class Shingles:
    """Shingles of N parts.

    Attributes:
        hashes_S: one after the other, repetitions included; not yet scrambled.
        counts_N: how many are each part's.
    """

    hashes_S: UInt64Array
    counts_N: Int64Array


class Shingler:
    """Makes shingles; holds the tables for it.

    Args:
        words: tokens in a shingle that begins at a word.
        characters: tokens in a shingle that begins at a character of a script without spaces.
        block_characters: most characters that are worked on together.
    """

    def __init__(self, words: int, characters: int, block_characters: int = BLOCK_CHARACTERS) -> None:
        self._words, self._characters, self.block_characters = words, characters, block_characters
        self._values = _character_values()
        powers = np.full(block_characters + 1, _WORD_BASE, dtype=np.uint64)
        powers[0] = 1
        self._powers = np.cumprod(powers, dtype=np.uint64)
        powers[1:] = pow(_WORD_BASE, -1, 1 << 64)
        self._inverse_powers = np.cumprod(powers, dtype=np.uint64)

    def shingles(self, parts: Sequence[str], whole: bool = True) -> Shingles:
        """Shingles of each part.

        Args:
            parts: at most `block_characters` characters in all, with one more for each part but the first.
            whole: parts are whole texts; one without a shingle of full length is then a shingle itself.
        """
        tokens_T, single_T, ends_N = self._tokens("\n".join(parts), parts)
        starts_N = np.concatenate(([0], ends_N[:-1]))
        hashes, valid = _windows(tokens_T, starts_N, ends_N, self._words)
        if single_T is not None:
            other_hashes, other_valid = _windows(tokens_T, starts_N, ends_N, self._characters)
            np.copyto(hashes, other_hashes, where=single_T)
            np.copyto(valid, other_valid, where=single_T)
        before = np.zeros(len(tokens_T) + 1, dtype=np.int64)
        np.cumsum(valid, out=before[1:])
        counts_N = before[ends_N] - before[starts_N]
        hashes = hashes[valid]
        empty = np.flatnonzero(counts_N == 0)
        if whole and len(empty):
            short = _short_hashes(tokens_T, starts_N[empty], ends_N[empty])
            for i in np.flatnonzero(starts_N[empty] == ends_N[empty]).tolist():
                short[i] = xxhash.xxh3_64_intdigest(parts[int(empty[i])].encode("utf-8", "surrogatepass"))
            hashes = np.insert(hashes, before[starts_N[empty]], short)
            counts_N[empty] = 1
        return Shingles(hashes, counts_N)

    def cut(self, text: str) -> Iterator[str]:
        """Cut a long text into parts of at most `block_characters` whose shingles together are the text's.

        A part begins so many tokens before the end of the last one that no shingle is lost; a shingle that is in two
        parts is one element of the set. A run of letters as long as a block is cut where the block ends.
        """
        overlap = max(self._words, self._characters) - 1
        start = 0
        while len(text) - start > self.block_characters:
            block = text[start : start + self.block_characters]
            token_starts = self._token_starts(self._codes_to_values(block))[0]
            if len(token_starts) < 2 * overlap + 2:
                yield block
                start += self.block_characters
                continue
            yield block[: token_starts[-1]]
            start += int(token_starts[-1 - overlap])
        yield text[start:]

    def _tokens(self, text: str, parts: Sequence[str]) -> tuple[UInt64Array, BoolArray | None, Int64Array]:
        """Hashes of the tokens, which of them are single characters (None: none), and where each part's end."""
        values_C = self._codes_to_values(text)
        starts_T, single_C = self._token_starts(values_C)
        part_ends = np.cumsum(np.fromiter(map(len, parts), dtype=np.int64, count=len(parts)) + 1)
        ends_N = np.searchsorted(starts_T, part_ends)
        single_T = None if single_C is None else single_C[starts_T]
        if not len(starts_T):
            return np.zeros(0, dtype=np.uint64), single_T, ends_N
        values_C *= self._powers[: len(values_C)]
        tokens_T = np.add.reduceat(values_C, starts_T)  # what separates is 0
        tokens_T *= self._inverse_powers[starts_T]
        return tokens_T, single_T, ends_N

    def _codes_to_values(self, text: str) -> UInt64Array:
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        return self._values[codes.astype(np.intp)]  # several times faster than with the codes as they are

    def _token_starts(self, values_C: UInt64Array) -> tuple[Int64Array, BoolArray | None]:
        inside = values_C != 0
        begins = inside.copy()
        begins[1:] &= ~inside[:-1]
        single = (values_C.astype("<u8", copy=False).view(np.uint8)[::8] & 1).view(np.bool_)  # the lowest bytes
        if not single.any():
            return np.flatnonzero(begins), None
        begins |= single
        begins[1:] |= inside[1:] & single[:-1]
        return np.flatnonzero(begins), single


def _windows(
    tokens_T: UInt64Array, starts_N: Int64Array, ends_N: Int64Array, length: int
) -> tuple[UInt64Array, BoolArray]:
    """Hash of the `length` tokens from each token on, and whether all of them are of the token's part."""
    hashes = tokens_T.copy()
    last = len(tokens_T) - length + 1
    if last > 0:
        window = hashes[:last]
        for k in range(1, length):
            window *= _TOKEN_BASE
            window += tokens_T[k : last + k]
    valid = np.ones(len(tokens_T), dtype=np.bool_)
    for k in range(1, length):
        places = ends_N - k
        valid[places[places >= starts_N]] = False
    return hashes, valid


def _short_hashes(tokens_T: UInt64Array, starts_N: Int64Array, ends_N: Int64Array) -> UInt64Array:
    """One hash for all tokens of each of some parts that have few."""
    hashes = mix((ends_N - starts_N).astype(np.uint64))
    for k in range(int((ends_N - starts_N).max())):
        places = np.minimum(starts_N + k, max(len(tokens_T) - 1, 0))
        there = starts_N + k < ends_N
        hashes[there] = hashes[there] * _TOKEN_BASE + tokens_T[places[there]]
    return hashes


def _character_values() -> UInt64Array:
    """For each code point 0 if it separates, else a random number of its lower case; odd if it is a token alone."""
    folded = np.zeros(0x110000, dtype=np.uint32)
    for code in range(_LAST_CODE + 1):
        category = unicodedata.category(character := chr(code))
        if category[0] in "LMN" or category in {"Cn", "Co"}:
            folded[code] = ord(character.lower()[0])
    values = mix(folded.astype(np.uint64) * np.uint64(_WORD_BASE)) & ~np.uint64(1)
    values[folded == 0] = 0
    for first, last in _WITHOUT_SPACES:
        inside = slice(first, last + 1)
        values[inside] |= (folded[inside] != 0).astype(np.uint64)
    return values
