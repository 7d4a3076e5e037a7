"""Fingerprints to links: pairs of documents of which the later repeats the earlier. Any process takes any share.

In:  fingerprint files of all units, in the order of the corpus, which numbers the documents 0, 1, ...; a share of the
     hash space.
Out: files of links, (earlier, later) as little-endian int64, one for exact and one for near-duplicates.

A share is a range of hashes, so all documents with one hash meet in one share, and all shares together find the same
links however many they are. Inside a share, ranges of about `ENTRIES_TOGETHER` documents are compared at a time.

Documents with one band hash are a bucket. Its smallest document leads: every other whose signature makes it as similar
to the leader as the recipe asks is linked to it and leaves; the smallest of those that stay leads next, `MOST_LEADERS`
times. A boilerplate text that is there 100,000 times costs 100,000 comparisons, not their square. The price: where a
bucket holds more than `MOST_LEADERS` different families, pairs of later families stay unlinked there; a pair that is
really similar usually meets in another band too.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.duplicates.section import DuplicatesSection
from data_prep.duplicates.shingles import BoolArray, Int64Array, UInt64Array
from data_prep.duplicates.sketch import SIGNATURE_BYTES, similarities
from data_prep.duplicates.storage import EXACT, UnitFingerprints, map_file
from mlc.files import new_file

ENTRIES_TOGETHER = 1 << 22
MOST_LEADERS = 16
_PAIRS_TOGETHER = 1 << 14
_MOST_MAPS = 256  # a process may often have 1,024 files open


@dataclass(frozen=True)
class Share:
    """One of several equal parts of the hash space: `number` counts from 0."""

    number: int = 0
    shares: int = 1

    def links_file(self, folder: Path, reason: str) -> Path:
        """Where the links of this share lie."""
        return folder / f"{reason}.{self.number:05d}-of-{self.shares:05d}.links"


class Corpus:
    """Fingerprints of all units behind one another.

    Attributes:
        unit_starts: number of the first document of each unit, and at last how many documents there are.
    """

    def __init__(self, units: Sequence[Path], section: DuplicatesSection) -> None:
        open_map = functools.lru_cache(_MOST_MAPS)(map_file)
        self._units = [UnitFingerprints(path, section, open_map) for path in units]
        self.unit_starts: Int64Array = np.cumsum([0, *(unit.documents for unit in self._units)], dtype=np.int64)
        self._runs = [(unit, run) for unit in self._units for run in range(len(unit.run_starts))]
        starts = [
            int(start) + run_start
            for start, unit in zip(self.unit_starts, self._units, strict=False)
            for run_start in unit.run_starts
        ]
        self._run_starts: Int64Array = np.array([*starts, self.documents], dtype=np.int64)

    @property
    def documents(self) -> int:
        """Of all units."""
        return int(self.unit_starts[-1])

    def entries(self, column: int, lowest: int, end: int) -> tuple[UInt64Array, Int64Array, UInt64Array | None]:
        """Hashes h of a column with lowest <= h < end, the documents' numbers, and lower halves of exact hashes."""
        hashes, numbers, lower_halves = [], [], []
        for (unit, run), start in zip(self._runs, self._run_starts, strict=False):
            found, places = unit.column(run, column)
            first = int(np.searchsorted(found, np.uint64(lowest)))
            last = len(found) if end >> 64 else int(np.searchsorted(found, np.uint64(end)))
            hashes.append(found[first:last].copy())  # a slice would keep its map open
            numbers.append(places[first:last] + start)
            if column == EXACT:
                lower_halves.append(unit.lower_halves(run)[first:last].copy())
        if not hashes:
            return np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0, np.uint64)
        return (
            np.concatenate(hashes),
            np.concatenate(numbers),
            np.concatenate(lower_halves) if column == EXACT else None,
        )

    def signatures(self, numbers: Int64Array) -> NDArray[np.uint8]:
        """Signatures of documents, in any order, (len(numbers), SIGNATURE_BYTES)."""
        order = np.argsort(numbers)
        ordered = numbers[order]
        found = np.empty((len(numbers), SIGNATURE_BYTES), dtype=np.uint8)
        first_run, last_run = np.searchsorted(self._run_starts, ordered[[0, -1]], side="right") - 1
        cuts = np.searchsorted(ordered, self._run_starts[first_run : last_run + 2])
        for i in np.flatnonzero(np.diff(cuts)).tolist():
            unit, run = self._runs[first_run + i]
            chosen = slice(cuts[i], cuts[i + 1])
            found[order[chosen]] = unit.signatures(run)[ordered[chosen] - self._run_starts[first_run + i]]
        return found


def find_links(
    units: Sequence[Path],
    section: DuplicatesSection,
    share: Share,
    folder: Path,
    entries_together: int = ENTRIES_TOGETHER,
) -> None:
    """Write the links of a share, `Share.links_file`, for exact and for near-duplicates as the section asks.

    Args:
        units: fingerprint files in the order of the corpus, the same for every share.
        section: what they were made with.
        share: the part of the hash space that is compared here.
        folder: of the links.
        entries_together: documents compared at a time, about; a bucket is never cut. About 60 bytes each are held.

    Raises:
        DataError: a fingerprint file is missing, not whole, or made with other settings.
    """
    corpus = Corpus(units, section)
    ranges = max(1, -(-corpus.documents // (entries_together * share.shares)))
    if section.exact:
        with new_file(share.links_file(folder, "exact")) as file:
            for lowest, end in _hash_ranges(share, ranges):
                file.write(_exact_links(corpus, lowest, end).astype("<i8").tobytes())
    if section.near:
        with new_file(share.links_file(folder, "near")) as file:
            for band in range(section.bands):
                for lowest, end in _hash_ranges(share, ranges):
                    for links in _near_links(corpus, section, band, lowest, end):
                        file.write(links.astype("<i8").tobytes())


def _hash_ranges(share: Share, ranges: int) -> Iterator[tuple[int, int]]:
    parts = share.shares * ranges
    for part in range(share.number * ranges, (share.number + 1) * ranges):
        yield (part << 64) // parts, ((part + 1) << 64) // parts


def _exact_links(corpus: Corpus, lowest: int, end: int) -> Int64Array:
    """Every document with the first one of the same text: (links, 2)."""
    upper, numbers, lower = corpus.entries(EXACT, lowest, end)
    assert lower is not None
    order = _repeated(upper)
    upper, lower, numbers = upper[order], lower[order], numbers[order]
    order = np.lexsort((numbers, lower, upper))
    upper, lower, numbers = upper[order], lower[order], numbers[order]
    first = np.ones(len(numbers), dtype=np.bool_)
    first[1:] = (upper[1:] != upper[:-1]) | (lower[1:] != lower[:-1])
    leaders = numbers[first][np.cumsum(first) - 1]
    return np.stack([leaders[~first], numbers[~first]], axis=1)


def _near_links(corpus: Corpus, section: DuplicatesSection, band: int, lowest: int, end: int) -> Iterator[Int64Array]:
    """Links inside the buckets of one band and one range of hashes, (links, 2) at a time."""
    hashes, numbers, _ = corpus.entries(band, lowest, end)
    order = _repeated(hashes)
    hashes, numbers = hashes[order], numbers[order]
    order = np.lexsort((numbers, hashes))
    hashes, numbers = hashes[order], numbers[order]
    buckets = np.cumsum(_first_of_each(hashes)) - 1
    for _ in range(MOST_LEADERS):
        if not len(numbers):
            return
        first = _first_of_each(buckets)
        leaders = numbers[first][np.cumsum(first) - 1]
        leaders, numbers, buckets = leaders[~first], numbers[~first], buckets[~first]
        agree = np.zeros(len(numbers), dtype=np.bool_)
        for start in range(0, len(numbers), _PAIRS_TOGETHER):
            some = slice(start, start + _PAIRS_TOGETHER)
            found = similarities(corpus.signatures(leaders[some]), corpus.signatures(numbers[some]))
            agree[some] = found >= section.threshold
        yield np.stack([leaders[agree], numbers[agree]], axis=1)
        numbers, buckets = numbers[~agree], buckets[~agree]


def _repeated(hashes: UInt64Array) -> Int64Array:
    """Places of the hashes that are there more than once."""
    order = np.argsort(hashes)
    ordered = hashes[order]
    same = ordered[1:] == ordered[:-1]
    repeated = np.zeros(len(hashes), dtype=np.bool_)
    repeated[1:] = same
    repeated[:-1] |= same
    return order[repeated]


def _first_of_each(values: NDArray[np.generic]) -> BoolArray:
    """Whether each of some sorted values is the first of its kind."""
    first = np.ones(len(values), dtype=np.bool_)
    first[1:] = values[1:] != values[:-1]
    return first
