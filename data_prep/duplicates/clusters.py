"""Links to clusters: which documents of each unit go, and why.

In:  fingerprint files in the order of the corpus, and the links of every share (data_prep/duplicates/links.py).
Out: for each unit a .npy file, int64 (documents that go, 2): their places in the unit, ascending, and for each the
     number of its reason in `REASONS`.

Documents that are linked, directly or over others, are one cluster; its smallest document number survives, so the
result does not depend on how many shares there were or on the order of links. A document with the text of an earlier
one goes as an exact duplicate, any other of a cluster as a near-duplicate. Held at once: 9 bytes a document of the
corpus.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.duplicates.links import Corpus, Share, find_links
from data_prep.duplicates.section import DuplicatesSection
from data_prep.duplicates.shingles import Int64Array
from mlc.errors import DataError
from mlc.files import write_atomically

REASONS = ("exact_duplicate", "near_duplicate")
LINKS_TOGETHER = 1 << 20


@dataclass(frozen=True)
class Drops:
    """Documents of one unit that go.

    Attributes:
        places: in the unit, ascending, int64.
        reasons: for each the number of its reason in `REASONS`.
    """

    places: Int64Array
    reasons: Int64Array

    @classmethod
    def read(cls, path: Path) -> Drops:
        """Read a unit's file.

        Raises:
            DataError: it is missing or damaged.
        """
        try:
            table: NDArray[np.int64] = np.load(path)
            places, reasons = table[:, 0], table[:, 1]
        except (OSError, ValueError, IndexError, EOFError) as error:
            raise DataError("a list of duplicates cannot be read", found=str(error), where=str(path)) from None
        return cls(places, reasons)


@dataclass(frozen=True)
class DuplicateCounts:
    """What was found: documents compared, and those that go by reason."""

    documents: int
    exact_duplicates: int
    near_duplicates: int


class Clusters:
    """Sets of document numbers that are joined pair by pair; a set is known by its smallest number."""

    def __init__(self, documents: int) -> None:
        self._parents: Int64Array = np.arange(documents, dtype=np.int64)  # never larger than the document itself

    def roots(self, numbers: Int64Array) -> Int64Array:
        """The smallest number of the set of each document."""
        found = self._parents[numbers]
        while True:
            above = self._parents[found]
            if np.array_equal(above, found):
                break
            found = above
        self._parents[numbers] = found
        return found

    def join(self, first: Int64Array, second: Int64Array) -> None:
        """Join the sets of `first[i]` and `second[i]`, for every i."""
        while True:
            first, second = self.roots(first), self.roots(second)
            apart = first != second
            if not apart.any():
                return
            first, second = first[apart], second[apart]
            np.minimum.at(self._parents, np.maximum(first, second), np.minimum(first, second))


def write_drops(
    units: Sequence[Path], drops: Sequence[Path], section: DuplicatesSection, shares: int, folder: Path
) -> DuplicateCounts:
    """Join the links of all shares and write for each unit which documents go.

    Args:
        units: fingerprint files in the order of the corpus, as `find_links` had them.
        drops: for each unit the file to write.
        section: what the fingerprints were made with.
        shares: how many there were.
        folder: of their links.

    Raises:
        DataError: a file is missing, not whole, or does not fit the others.
    """
    unit_starts = Corpus(units, section).unit_starts
    documents = int(unit_starts[-1])
    clusters = Clusters(documents)
    exact = np.zeros(documents, dtype=np.bool_)
    for number in range(shares):
        for reason in ("exact", "near"):
            if not (section.exact if reason == "exact" else section.near):
                continue
            path = Share(number, shares).links_file(folder, reason)
            for links in _read_links(path, documents):
                if reason == "exact":
                    exact[links[:, 1]] = True
                clusters.join(links[:, 0], links[:, 1])
    totals = [0, 0]
    for path, start, end in zip(drops, unit_starts[:-1].tolist(), unit_starts[1:].tolist(), strict=True):
        numbers = np.arange(start, end, dtype=np.int64)
        gone = np.flatnonzero(clusters.roots(numbers) != numbers)
        reasons = np.where(exact[start:end][gone], 0, 1)
        content = io.BytesIO()
        np.save(content, np.stack([gone, reasons], axis=1).astype(np.int64))
        write_atomically(path, content.getvalue())
        for i in range(2):
            totals[i] += int(np.count_nonzero(reasons == i))
    return DuplicateCounts(documents, *totals)


def find_duplicates(
    units: Sequence[Path], drops: Sequence[Path], section: DuplicatesSection, folder: Path
) -> DuplicateCounts:
    """`find_links` and `write_drops` in one process; arguments and errors as there."""
    find_links(units, section, Share(), folder)
    return write_drops(units, drops, section, 1, folder)


def _read_links(path: Path, documents: int) -> Sequence[NDArray[np.int64]]:
    """The links of a file, some at a time, mapped."""
    try:
        size = path.stat().st_size
        links = np.memmap(path, dtype="<i8", mode="r").reshape(-1, 2) if size else np.zeros((0, 2), dtype=np.int64)
    except (OSError, ValueError) as error:
        raise DataError("links between documents cannot be read", found=str(error), where=str(path)) from None
    if len(links) and int(links.max()) >= documents:
        raise DataError(
            "links are of another corpus",
            found=f"document {int(links.max()):,} of {documents:,}",
            where=str(path),
            hint="remove the file and build again",
        )
    return [links[start : start + LINKS_TOGETHER] for start in range(0, len(links), LINKS_TOGETHER)]
