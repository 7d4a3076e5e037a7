"""Texts as arrays: where their words begin and end, and a 64-bit hash of every n words in a row.

In:  texts.
Out: `Units`: the words of many texts at once. In scripts that write no spaces every letter is a word of its own,
     together with its vowel signs and tone marks.

Hashes are polynomials over code points modulo 2^64 (Karp and Rabin 1987), taken from prefix sums, so the hash of any
stretch of text costs two look-ups. They depend on nothing but the characters: the same in every process and on every
machine.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from mlc.data.spacing import UNSPACED_RANGES

Uint64Array = npt.NDArray[np.uint64]
Int64Array = npt.NDArray[np.int64]
Uint8Array = npt.NDArray[np.uint8]

PIECE_CHARACTERS = 1 << 18
"""A longer text is looked at in pieces of so many characters."""
BATCH_CHARACTERS = 1 << 17
"""Shorter texts are looked at together, so many characters at once: their arrays fit into a core's cache."""
BATCH_TEXTS = 1 << 16
LARGEST_BATCH_CHARACTERS = PIECE_CHARACTERS + 1
"""Of the texts of one `read_units`, with the line feed behind each: `batches` cuts them so."""

LETTERS_PER_WORD = 3
"""In scripts without spaces: what is said of n words is said of 3 n letters there."""

_SPACE, _LETTER, _SINGLE, _MARK, _IGNORED = range(5)
_TABLE_SIZE = UNSPACED_RANGES[-1][1] + 2  # nothing but tags, variation selectors and private use lies above
_BASE = 0x9E3779B97F4A7C15 | 1
_MIX = 0xBF58476D1CE4E5B9


@dataclass(frozen=True, slots=True)
class CharacterTable:
    """What each code point is to the words of a text.

    Attributes:
        kinds: space, letter, letter that is a word of its own, mark that belongs to the word before, or ignored.
        codes: the code point that stands for it in hashes.
    """

    kinds: Uint8Array
    codes: Int64Array
    folds: bool


@dataclass(frozen=True, slots=True)
class Units:
    """The words of several texts, one after the other.

    Attributes:
        codes: one more than the code point of each character that counts, int64 [C].
        starts, ends: of each word in `codes`, int64 [W].
        bounds: words of text d are bounds[d] .. bounds[d + 1] - 1, int64 [texts + 1].
        sums: prefix sums of the polynomial, uint64 [C + 1].
    """

    codes: Int64Array
    starts: Int64Array
    ends: Int64Array
    bounds: Int64Array
    sums: Uint64Array


@functools.cache
def character_table(how: Literal["written", "folded"]) -> CharacterTable:
    """The table for words as they are written (white space alone ends them), or folded.

    Folded words are runs of letters, marks and digits, in small letters and in the compatibility form where that is
    one character; joiners and other format characters are left out.
    """
    kinds = np.full(_TABLE_SIZE, _LETTER, dtype=np.uint8)
    codes = np.arange(_TABLE_SIZE)
    unspaced = np.zeros(_TABLE_SIZE, dtype=bool)
    for low, high in UNSPACED_RANGES:
        unspaced[low : high + 1] = True
    for code in range(_TABLE_SIZE):
        character = chr(code)
        category = unicodedata.category(character)
        if character.isspace():
            kinds[code] = _SPACE
        elif how == "folded" and category == "Cf":
            kinds[code] = _IGNORED
        elif how == "folded" and category[0] not in "LMN":
            kinds[code] = _SPACE
        elif unspaced[code]:
            kinds[code] = _MARK if category[0] == "M" else _SINGLE
        if how == "folded" and kinds[code] in {_LETTER, _SINGLE}:
            folded = unicodedata.normalize("NFKC", character).casefold()
            codes[code] = ord(folded) if len(folded) == 1 else code
    codes[kinds == _SPACE] = ord(" ")
    kinds[-1], codes[-1] = (_IGNORED if how == "folded" else _LETTER), _TABLE_SIZE - 1
    kinds.setflags(write=False)
    codes.setflags(write=False)
    return CharacterTable(kinds, codes, how == "folded")


@dataclass(frozen=True, slots=True)
class Powers:
    """Powers of the polynomial's base and of its inverse, uint64 [LARGEST_BATCH_CHARACTERS + 1] each."""

    up: Uint64Array
    down: Uint64Array


@functools.cache
def polynomial_powers() -> Powers:
    """The powers that every hash of this module is made with."""
    return Powers(_powers(_BASE), _powers(pow(_BASE, -1, 1 << 64)))


def batches(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Ranges (first, end) of texts for one `read_units` each. No text may be longer than `PIECE_CHARACTERS`."""
    found, first, characters = [], 0, 0
    for i, text in enumerate(texts):
        if i > first and (characters + len(text) > BATCH_CHARACTERS or i - first == BATCH_TEXTS):
            found.append((first, i))
            first, characters = i, 0
        characters += len(text) + 1
    if first < len(texts):
        found.append((first, len(texts)))
    return found


def read_units(texts: Sequence[str], table: CharacterTable, powers: Powers) -> Units:
    """The words of texts that make one of `batches`; a lone surrogate is a letter like another."""
    joined = "\n".join(texts) + "\n"
    raw = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.int64)
    first_characters = np.cumsum([0] + [len(text) + 1 for text in texts])
    in_table = np.minimum(raw, _TABLE_SIZE - 1)
    kinds, codes = table.kinds[in_table], raw
    if table.folds:
        codes, kinds, first_characters = _compressed(table.codes[in_table], kinds, first_characters)
    space = kinds == _SPACE
    codes[space] = ord(" ")
    begins = np.empty_like(space)
    begins[0] = not space[0]
    begins[1:] = space[:-1] & ~space[1:]
    if (kinds > _LETTER).any():
        own = kinds == _SINGLE
        begins |= own
        begins[1:] |= (own[:-1] | (kinds[:-1] == _MARK)) & (kinds[1:] == _LETTER)
    stops = (begins[1:] | space[1:]) & ~space[:-1]
    starts = np.flatnonzero(begins)
    ends = np.flatnonzero(stops) + 1  # the last character is a space
    sums = np.zeros(len(codes) + 1, dtype=np.uint64)
    codes += 1
    np.cumsum(codes.view(np.uint64) * powers.up[: len(codes)], out=sums[1:])
    return Units(codes, starts, ends, np.searchsorted(starts, first_characters), sums)


def row_places(units: Units, size: int) -> Int64Array:
    """The first of every `size` words in a row that are in one text."""
    inside = np.ones(len(units.starts), dtype=bool)
    for back in range(1, size):
        inside[np.maximum(units.bounds[1:] - back, 0)[units.bounds[1:] > 0]] = False
    return np.flatnonzero(inside)


def hash_rows(units: Units, places: Int64Array, size: int, powers: Powers) -> Uint64Array:
    """A hash of words place .. place + size - 1 with what is between them, for each place: uint64 [places]."""
    starts, ends = units.starts[places], units.ends[places + (size - 1)]
    hashes: Uint64Array = (units.sums[ends] - units.sums[starts]) * powers.down[starts]
    hashes ^= hashes >> np.uint64(31)
    hashes *= np.uint64(_MIX)
    hashes ^= hashes >> np.uint64(32)
    return hashes


def _powers(base: int) -> Uint64Array:
    factors = np.full(LARGEST_BATCH_CHARACTERS + 1, base, dtype=np.uint64)
    factors[0] = 1
    powers = np.cumprod(factors, dtype=np.uint64)
    powers.setflags(write=False)
    return powers


def _compressed(
    codes: Int64Array, kinds: Uint8Array, first_characters: Int64Array
) -> tuple[Int64Array, Uint8Array, Int64Array]:
    """Without ignored characters, and with one space for each run of them."""
    kept = np.flatnonzero(kinds != _IGNORED)
    if len(kept) < len(kinds):
        codes, kinds = codes[kept], kinds[kept]
        first_characters = np.searchsorted(kept, first_characters)
    space = kinds == _SPACE
    keep = ~space
    keep[0] = True
    keep[1:] |= ~space[:-1]
    kept = np.flatnonzero(keep)
    return codes[kept], kinds[kept], np.searchsorted(kept, first_characters)
