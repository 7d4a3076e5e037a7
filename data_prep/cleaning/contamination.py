"""Documents that share a row of words with an evaluation set.

In:  `Document`s; the index that `build_index` makes of the evaluation sets.
Out: the same, or `Dropped` with contaminated.

As for GPT-3 (Brown et al. 2020, appendix C) a document and an evaluation text overlap when 13 words in a row are equal,
without case and punctuation. An evaluation text of 8 to 12 words overlaps when all of it is in the document. The
document is left out as a whole, not in part. In scripts that write no spaces three letters stand for a word: 13 letters
are a common phrase of Thai. A row is taken for one of such a script when its words, with a space behind each, have
fewer than 2.5 characters on average; rows of numbers are, too.

The index is a folder of sorted arrays of 64-bit hashes, which every process maps into memory: `rows-13x1.npy` the rows
of 13 words (13x3: of scripts without spaces), `texts-9x1.npy` the evaluation texts of 9 words, `beginnings-8x1.npy`
the first 8 words of these shorter texts: only where those are found is the rest looked for. The chance that any of
10^10 rows of words meets one of 10^7 hashes by accident is below 1 in 100.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_prep.cleaning.document import Document, Dropped
from data_prep.cleaning.units import (
    LETTERS_PER_WORD,
    PIECE_CHARACTERS,
    Int64Array,
    Uint64Array,
    Units,
    batches,
    character_table,
    hash_rows,
    polynomial_powers,
    read_units,
    row_places,
)
from mlc.errors import DataError
from mlc.files import write_atomically

_OVERLAP_CHARACTERS = 4096  # of the pieces of a long text: longer than rows of words are
_PIECES_CHARACTERS = 4 * PIECE_CHARACTERS  # of pieces that are held at once
_SEARCH_CHARACTERS = 1024  # for a space to cut at
_LARGEST_FIRST_BITS = 26
_SPACED_CHARACTERS = 2.5
_NAME = re.compile(r"(rows|texts|beginnings)-([0-9]+)x([0-9]+)\.npy")

Kind = tuple[str, int, int]
"""Of an array: what it holds, words, entries of `Units` for a word."""


class ContaminationFilter:
    """Judges each side of a document by its rows of words."""

    def __init__(self, folder: Path) -> None:
        """Map an index of `build_index`.

        Raises:
            DataError: the folder has no readable index.
        """
        self._table, self._powers = character_table("folded"), polynomial_powers()
        self._indices = {kind: _Index(hashes) for kind, hashes in _load(folder).items()}

    def __call__(self, document: Document) -> Document | Dropped:
        """The document, or why it is left out."""
        return self.many((document,))[0]

    def many(self, documents: Sequence[Document]) -> list[Document | Dropped]:
        """Each document, in order, or why it is left out."""
        results: list[Document | Dropped] = list(documents)
        for texts, owners in _some_pieces(documents):
            for first, end in batches(texts):
                units = read_units(texts[first:end], self._table, self._powers)
                for number, words, unit, place in sorted(self._hits(units)):
                    owner = owners[first + number]
                    if isinstance(results[owner], Document):
                        row = _spelled(units, place, words * unit)
                        results[owner] = Dropped("contaminated", f"{words} words in a row: {row}")
        return results

    def _hits(self, units: Units) -> Iterator[tuple[int, int, int, int]]:
        """(text, words, entries a word, place) of each row that is in the index."""
        begun: dict[int, Int64Array] = {}
        for (holds, words, unit), index in self._indices.items():  # beginnings come first
            if holds == "texts" and not len(begun[unit]):
                continue
            places = row_places(units, words * unit) if holds == "beginnings" else _rows(units, words, unit)
            if holds == "texts":
                places = np.intersect1d(places, begun[unit], assume_unique=True)
            places = places[index.find(hash_rows(units, places, words * unit, self._powers))]
            if holds == "beginnings":
                begun[unit] = places
                continue
            texts = np.searchsorted(units.bounds, places, side="right") - 1
            for text, place in zip(texts.tolist(), places.tolist(), strict=True):
                yield text, words, unit, place


def build_index(texts: Iterable[str], ngram_words: int, smallest_words: int, folder: Path) -> dict[int, int]:
    """Write the index of evaluation texts: {words in a row: how many different rows}.

    Args:
        texts: of all evaluation sets.
        ngram_words: rows of so many words are looked for.
        smallest_words: a text with fewer words than `ngram_words` but at least so many counts as one row.
        folder: where the arrays go; made if it is missing.
    """
    smallest_words = min(smallest_words, ngram_words)
    found: dict[Kind, list[Uint64Array]] = {}
    for some in _chunks(piece for text in texts for piece in pieces(text)):
        for first, end in batches(some):
            _hash_batch(some[first:end], ngram_words, smallest_words, found)
    for path in folder.glob("*.npy"):
        if _NAME.fullmatch(path.name):  # of an index with other settings
            path.unlink()
    sizes = dict.fromkeys(range(smallest_words, ngram_words + 1), 0)
    found.setdefault(("rows", ngram_words, 1), [np.zeros(0, dtype=np.uint64)])
    for (holds, words, unit), parts in found.items():
        hashes = np.unique(np.concatenate(parts))
        content = io.BytesIO()
        np.save(content, hashes)
        write_atomically(folder / f"{holds}-{words}x{unit}.npy", content.getvalue())
        sizes[words] += len(hashes) if holds != "beginnings" else 0
    return sizes


def _hash_batch(
    texts: Sequence[str], ngram_words: int, smallest_words: int, found: dict[Kind, list[Uint64Array]]
) -> None:
    powers = polynomial_powers()
    units = read_units(texts, character_table("folded"), powers)
    counts = np.diff(units.bounds)
    begins = np.zeros(len(units.starts), dtype=bool)
    begins[units.bounds[:-1][counts > 0]] = True
    for unit in (1, LETTERS_PER_WORD):
        for words in range(smallest_words, ngram_words + 1):
            places = _rows(units, words, unit)
            holds = "rows" if words == ngram_words else "texts"
            if holds == "texts":  # as many whole words as the text has
                places = places[begins[places] & np.repeat(counts // unit == words, counts)[places]]
                beginnings = np.unique(hash_rows(units, places, smallest_words * unit, powers))
                found.setdefault(("beginnings", smallest_words, unit), []).append(beginnings)
            found.setdefault((holds, words, unit), []).append(np.unique(hash_rows(units, places, words * unit, powers)))


def pieces(text: str) -> Iterator[str]:
    """A text in overlapping pieces that `batches` takes, cut between words where there is a space to cut at."""
    start = 0
    while len(text) - start > PIECE_CHARACTERS:
        yield text[start : start + PIECE_CHARACTERS]
        start += PIECE_CHARACTERS - _OVERLAP_CHARACTERS
        space = text.rfind(" ", start - _SEARCH_CHARACTERS, start)
        start = space if space >= 0 else start
    yield text[start:]


def _some_pieces(documents: Sequence[Document]) -> Iterator[tuple[list[str], list[int]]]:
    """Pieces of all texts, some at a time, and the number of the document that each is of."""
    texts: list[str] = []
    owners: list[int] = []
    characters = 0
    for i, document in enumerate(documents):
        for text in document.texts:
            for piece in pieces(text):
                texts.append(piece)
                owners.append(i)
                characters += len(piece)
                if characters >= _PIECES_CHARACTERS:
                    yield texts, owners
                    texts, owners, characters = [], [], 0
    if texts:
        yield texts, owners


class _Index:
    """Hashes to look up. A table over their first bits, 16 times as long, tells of most others at one look."""

    def __init__(self, hashes: Uint64Array) -> None:
        bits = min(len(hashes).bit_length() + 4, _LARGEST_FIRST_BITS)
        self._hashes, self._shift = hashes, np.uint64(64 - bits)
        self._first_bits: npt.NDArray[np.bool_] = np.zeros(1 << bits, dtype=bool)
        self._first_bits[hashes >> self._shift] = True

    def find(self, hashes: Uint64Array) -> npt.NDArray[np.int64]:
        """Places of the hashes that are in the index."""
        places = np.flatnonzero(self._first_bits[hashes >> self._shift])
        nearest = np.searchsorted(self._hashes, hashes[places])
        nearest = np.minimum(nearest, len(self._hashes) - 1)
        found: npt.NDArray[np.int64] = places[self._hashes[nearest] == hashes[places]]
        return found


def _load(folder: Path) -> dict[Kind, Uint64Array]:
    found: dict[Kind, Uint64Array] = {}
    names = [(name, path) for path in folder.glob("*.npy") if (name := _NAME.fullmatch(path.name))]
    if not names:
        raise DataError("there is no index of evaluation sets", needed="rows-<words>x1.npy", where=str(folder))
    try:
        for name, path in names:
            hashes = np.load(path, mmap_mode="r")
            if hashes.dtype != np.uint64 or hashes.ndim != 1:
                raise ValueError(f"{path.name} holds {hashes.dtype}, {hashes.ndim} dimensions")
            if len(hashes):
                found[name[1], int(name[2]), int(name[3])] = hashes
    except (OSError, ValueError, EOFError) as error:
        raise DataError("the index of evaluation sets cannot be read", found=str(error), where=str(folder)) from None
    if any(
        holds == "texts" and not any(kind[::2] == ("beginnings", unit) for kind in found) for holds, _, unit in found
    ):
        raise DataError("the index of evaluation sets lacks the beginnings of short texts", where=str(folder))
    return dict(sorted(found.items()))


def _rows(units: Units, words: int, unit: int) -> Int64Array:
    """Places of the rows of `words` that are of scripts with spaces (unit 1) or without (`LETTERS_PER_WORD`)."""
    places = row_places(units, words * unit)
    characters = units.ends[places + (words * unit - 1)] - units.starts[places] + 1
    spaced = characters >= _SPACED_CHARACTERS * words * unit
    return places[spaced if unit == 1 else ~spaced]


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    some: list[str] = []
    characters = 0
    for text in texts:
        some.append(text)
        characters += len(text)
        if characters >= PIECE_CHARACTERS:
            yield some
            some, characters = [], 0
    if some:
        yield some


def _spelled(units: Units, place: int, size: int) -> str:
    codes = units.codes[units.starts[place] : units.ends[place + size - 1]]
    return "".join(map(chr, (codes - 1).tolist()))
