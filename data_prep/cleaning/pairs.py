"""Pairs that are hardly translations: of very different length, or copies.

In:  `Document` with two texts; with one text it passes.
Out: the same, or `Dropped` with length_ratio or copy.
"""

from __future__ import annotations

import re

from data_prep.cleaning.document import Document, Dropped
from data_prep.cleaning.section import PairsSection

_NO_LETTERS = re.compile(r"[\W_]+")
_PIECE_CHARACTERS = 1 << 18  # of a long side: what stands between spaces is a list on the way
_LONGEST_COMPARED = 1000  # letters; comparing takes the square of the length


class PairFilter:
    """Judges a pair by the length and the letters of its sides."""

    def __init__(self, section: PairsSection) -> None:
        from rapidfuzz.fuzz import ratio

        self._section, self._ratio = section, ratio

    def __call__(self, document: Document) -> Document | Dropped:
        """The pair, or why it is left out."""
        if len(document.texts) != 2:
            return document
        return self._judge_lengths(document) or self._judge_letters(document) or document

    def _judge_lengths(self, pair: Document) -> Dropped | None:
        limit = self._section.largest_length_ratio
        if limit is None:
            return None
        first, second = (len(text.encode("utf-8", "replace")) for text in pair.texts)
        shorter, longer = sorted((first + self._section.length_allowance, second + self._section.length_allowance))
        if longer <= limit * shorter:
            return None
        return Dropped("length_ratio", f"{first} bytes of {pair.languages[0]}, {second} of {pair.languages[1]}")

    def _judge_letters(self, pair: Document) -> Dropped | None:
        limit = self._section.largest_similarity
        if limit is None:
            return None
        first, second = map(_letters, pair.texts)
        if min(len(first), len(second)) < self._section.copy_characters:
            return None
        if first == second:
            return Dropped("copy", "both sides are the same")
        # The Indel similarity is at most 2 x shorter / (shorter + longer).
        similarity = self._ratio(first[:_LONGEST_COMPARED], second[:_LONGEST_COMPARED], score_cutoff=100 * limit) / 100
        return Dropped("copy", f"{similarity:.2f} of the letters are the same") if similarity > limit else None


def _letters(text: str) -> str:
    """Letters and digits without case; both rules look at one character at a time."""
    return "".join(
        _NO_LETTERS.sub("", text[start : start + _PIECE_CHARACTERS].casefold())
        for start in range(0, len(text), _PIECE_CHARACTERS)
    )
