"""How much of a text is in lines, or paragraphs, that came before in it.

In:  a text, and what separates its parts.
Out: the shares of the non-empty parts, and of their characters, that came before.

A long text is gone through in pieces, and of its parts only 64-bit hashes are kept: a set of the parts themselves takes
twenty times the text's bytes where they are short. Two of ten million different lines have the same hash in one of
300,000 such texts, and then the share is off by one line.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import xxhash

LONG_TEXT_CHARACTERS = 1 << 20
"""A longer text is gone through in pieces of so many characters."""

Uint64Array = npt.NDArray[np.uint64]


def repeated_parts(text: str, separator: str, piece_characters: int = LONG_TEXT_CHARACTERS) -> tuple[float, float]:
    """Shares of the non-empty parts of `text.split(separator)`, and of their characters, that came before.

    Args:
        text: any.
        separator: not empty.
        piece_characters: a longer text is gone through in pieces.
    """
    if len(text) > piece_characters:
        return _repeated_in_long(text, separator, piece_characters)
    parts = text.split(separator)
    different = set(parts)
    if len(different) == len(parts):
        return 0.0, 0.0
    different.discard("")
    filled = len(parts) - parts.count("")
    return _shares(len(different), filled, sum(map(len, different)), sum(map(len, parts)))


def _repeated_in_long(text: str, separator: str, piece_characters: int) -> tuple[float, float]:
    seen = _Seen()
    filled = characters = different = different_characters = 0
    for hashes, lengths in _hashed_parts(text, separator, piece_characters):
        filled += len(lengths)
        characters += int(lengths.sum())
        sorted_hashes, first = np.unique(hashes, return_index=True)
        new = seen.add(sorted_hashes)
        different += int(np.count_nonzero(new))
        different_characters += int(lengths[first[new]].sum())
    return _shares(different, filled, different_characters, characters)


def _shares(different: int, filled: int, different_characters: int, characters: int) -> tuple[float, float]:
    if not filled:
        return 0.0, 0.0
    return 1 - different / filled, 1 - different_characters / characters


def _hashed_parts(
    text: str, separator: str, piece_characters: int
) -> Iterator[tuple[Uint64Array, npt.NDArray[np.int64]]]:
    """Hashes and lengths of the non-empty parts, those of one piece of text at a time."""
    start = 0
    while start <= len(text):
        parts = text[start : start + piece_characters].split(separator)
        if start + piece_characters < len(text):
            parts.pop()  # it may go on behind the piece
        if parts:
            start += sum(map(len, parts)) + len(parts) * len(separator)
            parts = list(filter(None, parts))
            hashes = [xxhash.xxh3_64_intdigest(part.encode("utf-8", "surrogatepass")) for part in parts]
            lengths = list(map(len, parts))
        else:
            end = text.find(separator, start)
            end = end if end >= 0 else len(text)
            filled = end > start  # a piece may be shorter than the separator
            hashes = [_hash_of_stretch(text, start, end, piece_characters)] if filled else []
            lengths = [end - start] if filled else []
            start = end + len(separator)
        yield np.array(hashes, dtype=np.uint64), np.array(lengths, dtype=np.int64)


def _hash_of_stretch(text: str, start: int, end: int, piece_characters: int) -> int:
    digest = xxhash.xxh3_64()
    for first in range(start, end, piece_characters):
        digest.update(text[first : min(end, first + piece_characters)].encode("utf-8", "surrogatepass"))
    return digest.intdigest()


class _Seen:
    """Hashes met so far, 8 bytes each: sorted arrays, each of at least twice the length of the next."""

    def __init__(self) -> None:
        self._arrays: list[Uint64Array] = []

    def add(self, hashes: Uint64Array) -> npt.NDArray[np.bool_]:
        """Take sorted hashes, each there once; which of them are new."""
        new = np.ones(len(hashes), dtype=np.bool_)
        for array in self._arrays:
            places = np.minimum(np.searchsorted(array, hashes), len(array) - 1)
            new &= array[places] != hashes
        if new.any():
            self._arrays.append(hashes[new])
        while len(self._arrays) > 1 and len(self._arrays[-2]) < 2 * len(self._arrays[-1]):
            merged = np.concatenate((self._arrays.pop(), self._arrays.pop()))
            merged.sort()
            self._arrays.append(merged)
        return new
