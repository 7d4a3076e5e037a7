"""Documents that repeat themselves: duplicate lines and paragraphs, frequent and duplicate n-grams.

In:  `Document`s.
Out: the same, or `Dropped` with duplicate_lines, duplicate_paragraphs, frequent_ngram or duplicate_ngrams.

The rules are those of Gopher (Rae et al. 2021, "Scaling Language Models", section A.1.1 and table A1): the share of
lines and of paragraphs, and of their characters, that came before in the document; the share of its characters in the
most frequent row of 2, 3 or 4 words (of those equally frequent, the longest); the share in rows of 5 to 10 words that
came before, where no character counts twice. Characters of words count, spaces between words do not. A row of words
is frequent when it comes at least twice. In languages without spaces, three letters stand for a word.

Rows of many documents are sorted at once. Most documents need two sorts: no row of n + 1 words comes more often than
the most frequent of n, and what repeats n + 1 words repeats n.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_prep.cleaning.document import Document, Dropped
from data_prep.cleaning.repeated_parts import repeated_parts
from data_prep.cleaning.section import RepetitionSection
from data_prep.cleaning.units import (
    LETTERS_PER_WORD,
    PIECE_CHARACTERS,
    Int64Array,
    Powers,
    Uint64Array,
    Units,
    batches,
    character_table,
    hash_rows,
    polynomial_powers,
    read_units,
    row_places,
)
from mlc.data.spacing import writes_spaces

FREQUENT_WORDS = (2, 3, 4)
DUPLICATE_WORDS = (5, 6, 7, 8, 9, 10)
_TEXT_SHIFT = np.uint64(48)  # a batch has at most 2^16 texts
_HASH_SHIFT = np.uint64(16)

BoolArray = npt.NDArray[np.bool_]


class RepetitionFilter:
    """Judges each side of a document. Of a side longer than `PIECE_CHARACTERS`, n-grams of its beginning are judged."""

    def __init__(self, section: RepetitionSection) -> None:
        self._section = section
        self._table, self._powers = character_table("written"), polynomial_powers()

    def __call__(self, document: Document) -> Document | Dropped:
        """The document, or why it is left out."""
        return self.many((document,))[0]

    def many(self, documents: Sequence[Document]) -> list[Document | Dropped]:
        """Each document, in order, or why it is left out."""
        results: list[Document | Dropped] = list(documents)
        for words_spaced, unit in ((True, 1), (False, LETTERS_PER_WORD)):
            long_enough = [  # a word has a character at least, and a space behind it
                (i, text)
                for i, document in enumerate(documents)
                for text, language in zip(document.texts, document.languages, strict=True)
                if len(text) >= self._section.smallest_words * unit and writes_spaces(language) == words_spaced
            ]
            texts = [text[:PIECE_CHARACTERS] for _, text in long_enough]
            for first, end in batches(texts):
                for text, dropped in self._judge(long_enough[first:end], texts[first:end], unit):
                    owner = long_enough[first + text][0]
                    if isinstance(results[owner], Document):
                        results[owner] = dropped
        return results

    def _judge(
        self, whole: Sequence[tuple[int, str]], beginnings: Sequence[str], unit: int
    ) -> Iterator[tuple[int, Dropped]]:
        units = read_units(beginnings, self._table, self._powers)
        judged = np.diff(units.bounds) >= max(1, self._section.smallest_words * unit)
        found = judge_ngrams(_Rows(units, self._powers, unit), judged, self._section)
        for text in np.flatnonzero(judged).tolist():
            dropped = judge_lines(whole[text][1], self._section) or found.get(text)
            if dropped:
                yield text, dropped


def judge_lines(text: str, section: RepetitionSection) -> Dropped | None:
    """Whether too many lines or paragraphs of a text came before in it."""
    parts, characters = repeated_parts(text, "\n")
    if parts > section.duplicate_lines or characters > section.duplicate_line_characters:
        return Dropped("duplicate_lines", f"{parts:.2f} of the lines, {characters:.2f} of their characters")
    if "\n\n" in text:
        parts, characters = repeated_parts(text, "\n\n")
        if parts > section.duplicate_paragraphs or characters > section.duplicate_paragraph_characters:
            return Dropped("duplicate_paragraphs", f"{parts:.2f} of them, {characters:.2f} of their characters")
    return None


def judge_ngrams(rows: _Rows, judged: BoolArray, section: RepetitionSection) -> dict[int, Dropped]:
    """{text: why it is left out} for those of the `judged` texts whose n-grams take too large a share."""
    found: dict[int, Dropped] = {}
    most = np.full(len(judged), np.iinfo(np.int64).max // PIECE_CHARACTERS)
    for size, limit in zip(FREQUENT_WORDS, section.frequent_ngrams, strict=True):
        allowed = limit * rows.characters
        open_texts = judged & (most >= 2) & (most * rows.longest(size) > allowed)
        if not open_texts.any():
            continue
        times = rows.most_frequent(size, open_texts)
        most[open_texts] = times[open_texts]
        over = open_texts & (times >= 2) & (times * rows.longest(size) > allowed)
        if over.any():
            characters = rows.characters_of_most_frequent(size, over)
            for text in np.flatnonzero(times * characters > allowed).tolist():
                found.setdefault(text, Dropped("frequent_ngram", f"{size} words in a row come {times[text]} times"))
    open_texts = judged.copy()
    for size, limit in zip(DUPLICATE_WORDS, section.duplicate_ngrams, strict=True):
        repeated = rows.repeated_characters(size, open_texts)
        over = repeated > limit * rows.characters
        for text in np.flatnonzero(over).tolist():
            share = repeated[text] / rows.characters[text]
            found.setdefault(
                text, Dropped("duplicate_ngrams", f"{share:.2f} in {size} words in a row that came before")
            )
        smallest = min(section.duplicate_ngrams[size - DUPLICATE_WORDS[0] + 1 :], default=1.0)
        open_texts &= ~over & (repeated > smallest * rows.characters)
        if not open_texts.any():
            break
    return found


@dataclass(frozen=True, slots=True)
class _Sorted:
    """Rows of words in the order of their hashes, text by text: runs of equal rows.

    Attributes:
        places: of each row among the words, in sorted order, int64 [rows].
        runs: where runs of equal rows begin, and the number of rows at the end, int64 [runs + 1].
        texts: of each run, int64 [runs].
    """

    places: Int64Array
    runs: Int64Array
    texts: Int64Array


class _Rows:
    """All rows of n words of a batch of texts; `unit` entries of `units` make a word."""

    def __init__(self, units: Units, powers: Powers, unit: int) -> None:
        self._units, self._powers, self._unit = units, powers, unit
        self._texts = np.repeat(np.arange(len(units.bounds) - 1), np.diff(units.bounds))
        self._text_bits = self._texts.astype(np.uint64) << _TEXT_SHIFT
        self._widths = np.concatenate([[0], np.cumsum(units.ends - units.starts)])
        self.characters: Int64Array = np.diff(self._widths[units.bounds])

    def longest(self, size: int) -> Int64Array:
        """Characters of the longest row of each text, 0 without one: int64 [texts]."""
        size *= self._unit
        found = np.zeros(len(self.characters), dtype=np.int64)
        first, end = self._units.bounds[:-1], self._units.bounds[1:] - size + 1
        filled = np.flatnonzero(end > first)
        if len(filled):
            widths = self._widths[size:] - self._widths[:-size]
            edges = np.stack([first[filled], end[filled]], axis=1).ravel()
            found[filled] = np.maximum.reduceat(np.append(widths, 0), edges)[::2]
        return found

    def most_frequent(self, size: int, wanted: BoolArray) -> Int64Array:
        """How often each text's most frequent row comes: int64 [texts]."""
        size *= self._unit
        keys = np.sort(self._keys(self._places(size, wanted), size))
        runs = _runs(keys)
        return self._largest(np.diff(runs), (keys[runs[:-1]] >> _TEXT_SHIFT).astype(np.int64))

    def characters_of_most_frequent(self, size: int, wanted: BoolArray) -> Int64Array:
        """Characters of each text's most frequent row, of several the longest: int64 [texts]."""
        size *= self._unit
        rows = self._sort(size, wanted)
        counts = np.diff(rows.runs)
        places = rows.places[rows.runs[:-1]]
        widths = self._widths[places + size] - self._widths[places]
        most = self._largest(counts, rows.texts)
        return self._largest(np.where(counts == most[rows.texts], widths, 0), rows.texts)

    def repeated_characters(self, size: int, wanted: BoolArray) -> Int64Array:
        """Characters of each text in rows that came before in it: int64 [texts]."""
        size *= self._unit
        rows = self._sort(size, wanted)
        counts = np.diff(rows.runs)
        several = counts > 1
        if not several.any():
            return np.zeros_like(self.characters)
        places = rows.places[np.repeat(several, counts)]
        counts = counts[several]
        firsts = np.minimum.reduceat(places, np.cumsum(counts) - counts)
        again = np.sort(places[places != np.repeat(firsts, counts)])
        ends = again + size
        np.minimum(ends[:-1], again[1:], out=ends[:-1])  # rows overlap
        characters = self._widths[ends] - self._widths[again]
        sums = np.bincount(self._texts[again], weights=characters, minlength=len(self.characters))
        return sums.astype(np.int64)

    def _largest(self, values: Int64Array, texts: Int64Array) -> Int64Array:
        """The largest value of each text, 0 without one; `texts` is in order."""
        found = np.zeros_like(self.characters)
        if len(values):
            firsts = np.flatnonzero(np.diff(texts, prepend=-1))
            found[texts[firsts]] = np.maximum.reduceat(values, firsts)
        return found

    def _sort(self, size: int, wanted: BoolArray) -> _Sorted:
        places = self._places(size, wanted)
        keys = self._keys(places, size)
        order = np.argsort(keys)
        runs = _runs(keys[order])
        return _Sorted(places[order], runs, self._texts[places[order[runs[:-1]]]])

    def _places(self, size: int, wanted: BoolArray) -> Int64Array:
        places = row_places(self._units, size)
        return places if wanted.all() else places[wanted[self._texts[places]]]

    def _keys(self, places: Int64Array, size: int) -> Uint64Array:
        hashes = hash_rows(self._units, places, size, self._powers)
        hashes >>= _HASH_SHIFT
        hashes |= self._text_bits[places]
        return hashes


def _runs(values: Uint64Array) -> Int64Array:
    """Where runs of equal values begin, and the number of values at the end."""
    if not len(values):
        return np.zeros(1, dtype=np.int64)
    return np.concatenate([[0], np.flatnonzero(values[1:] != values[:-1]) + 1, [len(values)]])
