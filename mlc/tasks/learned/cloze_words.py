"""Pieces of patterns and of the words that may fill their blanks, as they are amid other text.

In:  a `PieceEncoder`, texts without spaces around them, how they follow what is before them.
Out: ids; the words of a language with their classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mlc.data.text import clean_text
from mlc.errors import RecipeError
from mlc.tasks.features_pieces import Ints, PieceEncoder, Ragged, SmallInts
from mlc.tasks.learned.cloze_settings import Begin, ClozeSection

ANCHORS = "qxa0.,:;!)"
"""Characters to stand before text that goes on inside other text; letters first, which make it the inside of a word."""


@dataclass(frozen=True)
class WordScores:
    """The words of one language.

    Attributes:
        words: tokens of each.
        labels: (K,) class of each.
        has_end: [eop] is scored too, and there is a row for every word.
        length_normalised: a word's score is a mean over its tokens.
    """

    words: tuple[SmallInts, ...]
    labels: tuple[int, ...]
    has_end: bool
    length_normalised: bool

    @property
    def part_b_tokens(self) -> int:
        """Of the longest row."""
        return 1 + (max(map(len, self.words)) if self.has_end else 0)

    def tokens(self, part_a: Ints) -> Ints:
        """(n,) tokens of all rows of examples, whose Part A has `part_a` tokens each."""
        if not self.has_end:
            return part_a + 1
        return len(self.words) * (part_a + 1) + sum(map(len, self.words))


def scored_words(encoder: PieceEncoder, section: ClozeSection, language: str, labels: Sequence[str]) -> WordScores:
    """The words of a language as tokens.

    Raises:
        RecipeError: a word has no tokens or unknown ones, or two labels' words have the same tokens.
    """
    pattern, verbalizer = section.wording(language)
    begin = next(part.begin for part in pattern if part.kind == "blank")
    where = section.where(language, "verbalizer")
    words: list[SmallInts] = []
    numbers: list[int] = []
    owners: dict[tuple[int, ...], tuple[str, str]] = {}
    for number, label in enumerate(labels):
        found = pieces_of(encoder, [clean_text(word) for word in verbalizer[label]], begin)
        for word, ids in zip(verbalizer[label], found, strict=True):
            key = tuple(ids.tolist())
            if not key or encoder.unknown_id in key:
                problem = "the tokenizer leaves nothing of a word" if not key else "the tokenizer does not know a word"
                raise RecipeError(problem, found=word, needed="a word of known tokens", where=f"{where}.{label}")
            if key in owners:
                raise RecipeError(
                    "two words of the verbalizer are the same to the tokenizer",
                    found=f"{owners[key][1]!r} for {owners[key][0]}, {word!r} for {label}",
                    needed="other tokens for each word",
                    where=where,
                )
            owners[key] = (label, word)
            words.append(ids)
            numbers.append(number)
    has_end = any(len(word) > 1 for word in words)
    return WordScores(tuple(words), tuple(numbers), has_end, section.length_normalised)


def pieces_of(encoder: PieceEncoder, texts: Sequence[str], begin: Begin) -> list[SmallInts]:
    """Ids of texts as they are behind other text.

    Args:
        begin: "word" = a space comes before them, "inside" = none does.
    """
    if begin == "start":
        return list(_rows(encoder.encode(texts)))
    space = " " if begin == "word" else ""
    found: list[SmallInts | None] = [None] * len(texts)
    for anchor in ANCHORS:
        missing = [place for place, ids in enumerate(found) if ids is None]
        if not missing:
            break
        (before,) = _rows(encoder.encode([anchor]))
        size = len(before)
        for place, ids in zip(
            missing, _rows(encoder.encode([anchor + space + texts[place] for place in missing])), strict=True
        ):
            # Else a piece reaches from the anchor into the text.
            if np.array_equal(ids[:size], before):
                found[place] = ids[size:]
    rest = [place for place, ids in enumerate(found) if ids is None]
    for place, ids in zip(rest, _rows(encoder.encode([texts[place] for place in rest])), strict=True):
        found[place] = ids
    return [ids for ids in found if ids is not None]


def _rows(ragged: Ragged) -> Iterator[SmallInts]:
    return (ragged[row] for row in range(len(ragged)))
