"""Documents of a unit to its fingerprint file: the slow part of looking for duplicates, done once a unit.

In:  documents as tuples of normalised texts (one, or the sides of a pair), in the unit's order.
Out: the unit's file (data_prep/duplicates/storage.py). It depends on the documents alone, not on the process, on how
     documents were put together to blocks, or on what the process did before.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from data_prep.duplicates.section import DuplicatesSection
from data_prep.duplicates.shingles import Shingler, Shingles, UInt64Array
from data_prep.duplicates.sketch import (
    EMPTY,
    NOTHING,
    SIGNATURE_BINS,
    band_hashes_of,
    lowest_of,
    minima_of,
    signatures_of,
)
from data_prep.duplicates.storage import RUN_DOCUMENTS, FingerprintWriter, Run
from mlc.files import new_file

_DOCUMENTS_TOGETHER = 4096  # of a block: a sketch takes the same memory for a short text as for a long one


class Fingerprinter:
    """Makes fingerprints of units; one a process, because its tables take a moment to make.

    Args:
        section: `exact`, `near` or both have to be on.
        run_documents: of a fingerprint file; held at once, with the defaults: about 1 KB a document.
    """

    def __init__(self, section: DuplicatesSection, run_documents: int = RUN_DOCUMENTS) -> None:
        self._section, self._run_documents = section, run_documents
        self._shingler = Shingler(section.words, section.characters) if section.near else None

    def fingerprint_unit(self, documents: Iterable[tuple[str, ...]], path: Path) -> int:
        """Write the fingerprints of a unit's documents.

        Args:
            documents: each the texts of its sides.
            path: of the file, which is whole or absent.

        Returns:
            How many documents there were: their places in the unit are 0 and up.
        """
        with new_file(path) as file:
            writer = FingerprintWriter(file, self._section, self._run_documents)
            total = 0
            run = self._new_run()
            for texts in documents:
                run.add(texts)
                if run.documents == self._run_documents:
                    total += run.documents
                    writer.add(run.finish(), run.documents)
                    run = self._new_run()
            if run.documents:
                total += run.documents
                writer.add(run.finish(), run.documents)
            writer.finish()
        return total

    def _new_run(self) -> _OpenRun:
        return _OpenRun(self._section, self._shingler)


class _OpenRun:
    """A run that is still growing: texts are put together to blocks, and each block is sketched at once."""

    def __init__(self, section: DuplicatesSection, shingler: Shingler | None) -> None:
        self._section, self._shingler = section, shingler
        self._digests: list[bytes] = []
        self._waiting: list[str] = []
        self._waiting_characters = 0
        self._bands: list[UInt64Array] = []
        self._signatures: list[NDArray[np.uint8]] = []
        self.documents = 0

    def add(self, texts: tuple[str, ...]) -> None:
        self.documents += 1
        if self._section.exact:
            self._digests.append(_exact_digest(texts))
        if self._shingler is None:
            return
        text = texts[0] if len(texts) == 1 else "\n".join(texts)
        full = self._waiting_characters + len(text) >= self._shingler.block_characters
        if full or len(self._waiting) == _DOCUMENTS_TOGETHER:
            self._sketch_waiting(self._shingler)
        if len(text) >= self._shingler.block_characters:
            self._keep(*_sketch_long(text, self._shingler, self._section.bins))
            return
        self._waiting.append(text)
        self._waiting_characters += len(text) + 1

    def finish(self) -> Run:
        exact = bands = signatures = None
        if self._section.exact:
            exact = np.frombuffer(b"".join(self._digests), dtype=">u8").reshape(-1, 2).astype("<u8")
        if self._shingler is not None:
            self._sketch_waiting(self._shingler)
            bands, signatures = np.concatenate(self._bands, axis=1), np.concatenate(self._signatures)
        return Run(exact, bands, signatures)

    def _sketch_waiting(self, shingler: Shingler) -> None:
        if self._waiting:
            shingles = shingler.shingles(self._waiting)
            self._keep(minima_of(shingles, self._section.bins), lowest_of(shingles))
        self._waiting, self._waiting_characters = [], 0

    def _keep(self, minima: UInt64Array, lowest: NDArray[np.uint32]) -> None:
        self._bands.append(band_hashes_of(minima, self._section.bands))
        self._signatures.append(signatures_of(lowest))


def _sketch_long(text: str, shingler: Shingler, bins: int) -> tuple[UInt64Array, NDArray[np.uint32]]:
    """Both sketches of a text of more than a block, from those of its parts."""
    minima = np.full((1, bins), EMPTY, dtype=np.uint64)
    lowest = np.full((1, SIGNATURE_BINS), NOTHING, dtype=np.uint32)
    for part in shingler.cut(text):
        shingles = shingler.shingles([part], whole=False)
        np.minimum(minima, minima_of(shingles, bins), out=minima)
        np.minimum(lowest, lowest_of(shingles), out=lowest)
    if minima[0, 0] == EMPTY:  # hardly a letter in it: like itself alone
        hashes = np.array([xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))], dtype=np.uint64)
        shingles = Shingles(hashes, np.ones(1, dtype=np.int64))
        return minima_of(shingles, bins), lowest_of(shingles)
    return minima, lowest


def _exact_digest(texts: tuple[str, ...]) -> bytes:
    """128 bits of all sides; their lengths are hashed too, so that ("a", "bc") is not ("ab", "c")."""
    if len(texts) == 1:
        return xxhash.xxh3_128_digest(texts[0].encode("utf-8", "surrogatepass"))
    lengths = ",".join([str(len(text)) for text in texts])
    return xxhash.xxh3_128_digest("\n".join((*texts, lengths)).encode("utf-8", "surrogatepass"))
