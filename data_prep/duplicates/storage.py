"""Fingerprint files: one a unit, written a run of documents at a time, mapped into memory by whoever compares them.

In:  runs of fingerprints, in the order of the unit's documents.
Out: a file that is whole or absent, and `UnitFingerprints`, which reads slices of it.

    64 bytes  header: 8 little-endian u64: magic, key of the settings, documents, documents in a run, bands, bytes
              of a signature, whether exact hashes are there (0 or 1), 0. Without near-duplicates the fifth and sixth
              are 0.
    then runs, each of `documents in a run` documents, the last of the rest (D documents):
      exact:  u64 (D,) upper halves of the 128-bit hashes, sorted; u64 (D,) lower halves and u32 (D,) places, in that
              order
      near:   u64 (bands, D) band hashes, each band sorted; u32 (bands, D) places in those orders;
              u8 (D, bytes) signatures, in the order of the documents
    every array is filled with zeros to a multiple of 8 bytes. A place counts from 0 in its run.

Sorted columns make the part of the hash space that one process compares a slice of every run. Whoever writes holds one
run; whoever reads holds what it asks for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from data_prep.duplicates.section import DuplicatesSection
from data_prep.duplicates.shingles import UInt64Array
from data_prep.duplicates.sketch import SIGNATURE_BYTES
from mlc.errors import DataError

OpenMap = Callable[[Path], NDArray[np.uint8]]

RUN_DOCUMENTS = 1 << 16
EXACT = -1
"""The column of exact hashes; other columns are bands."""
_MAGIC = int.from_bytes(b"MLCFPRT1", "little")
_HEADER_BYTES = 64


@dataclass(frozen=True, slots=True)
class Run:
    """Fingerprints of D documents in a row.

    Attributes:
        exact: 128-bit hashes as (upper, lower) halves, (D, 2), or None.
        bands: band hashes, (bands, D), or None.
        signatures: (D, SIGNATURE_BYTES), or None.
    """

    exact: UInt64Array | None
    bands: UInt64Array | None
    signatures: NDArray[np.uint8] | None


class FingerprintWriter:
    """Writes the runs of one unit into an open file; `finish` completes the header."""

    def __init__(self, file: BinaryIO, section: DuplicatesSection, run_documents: int) -> None:
        self._file, self._section, self._run_documents = file, section, run_documents
        self._documents = 0
        file.write(bytes(_HEADER_BYTES))

    def add(self, run: Run, documents: int) -> None:
        """Append a run; every run but the last has as many documents as the header says."""
        if run.exact is not None:
            order = np.argsort(run.exact[:, 0], kind="stable")
            self._write(run.exact[order, 0])
            self._write(run.exact[order, 1])
            self._write(order.astype("<u4"))
        if run.bands is not None and run.signatures is not None:
            orders = np.argsort(run.bands, axis=1, kind="stable")
            self._write(np.take_along_axis(run.bands, orders, axis=1))
            self._write(orders.astype("<u4"))
            self._write(run.signatures)
        self._documents += documents

    def finish(self) -> None:
        """Write the header."""
        near = self._section.near
        header = [_MAGIC, self._section.fingerprint_key, self._documents, self._run_documents]
        header += [self._section.bands, SIGNATURE_BYTES] if near else [0, 0]
        self._file.seek(0)
        self._file.write(np.array([*header, int(self._section.exact), 0], dtype="<u8").tobytes())

    def _write(self, array: NDArray[Any]) -> None:
        self._file.write(np.ascontiguousarray(array).data)
        self._file.write(bytes(-array.nbytes % 8))


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where a run's arrays lie: offsets in bytes from the run's beginning."""

    documents: int
    bands: int
    signature_bytes: int
    exact: bool

    @property
    def near_offset(self) -> int:
        return 16 * self.documents + _whole_words(4 * self.documents) if self.exact else 0

    @property
    def orders_offset(self) -> int:
        return self.near_offset + 8 * self.bands * self.documents

    @property
    def signatures_offset(self) -> int:
        return self.orders_offset + _whole_words(4 * self.bands * self.documents)

    @property
    def bytes(self) -> int:
        return self.signatures_offset + _whole_words(self.signature_bytes * self.documents)


def map_file(path: Path) -> NDArray[np.uint8]:
    """A file's bytes, mapped.

    Raises:
        DataError: it is gone.
    """
    try:
        return np.memmap(path, dtype=np.uint8, mode="r")
    except (OSError, ValueError) as error:
        raise DataError("fingerprints cannot be read", found=str(error), where=str(path)) from None


class UnitFingerprints:
    """A unit's fingerprint file, mapped when it is asked for something.

    Args:
        path: of the file.
        section: what it was made with.
        open_map: maps a file; a map holds a file descriptor, so whoever reads many files keeps some maps only.

    Attributes:
        documents: of the unit.
        run_starts: number within the unit of the first document of each run.

    Raises:
        DataError: the file is missing, not whole, or made with other settings.
    """

    def __init__(self, path: Path, section: DuplicatesSection, open_map: OpenMap = map_file) -> None:
        self._path, self._open_map = path, open_map
        try:
            with path.open("rb") as file:
                header, size = file.read(_HEADER_BYTES), os.fstat(file.fileno()).st_size
        except OSError as error:
            raise DataError("fingerprints cannot be read", found=str(error), where=str(path)) from None
        if len(header) < _HEADER_BYTES or int.from_bytes(header[:8], "little") != _MAGIC:
            raise DataError("this is no file of fingerprints", where=str(path), hint="remove it and build again")
        _, key, self.documents, run_documents, bands, width, exact, _ = np.frombuffer(header, dtype="<u8").tolist()
        if key != section.fingerprint_key:
            raise DataError(
                "fingerprints were made with other settings, or by another version of Python or of this program",
                where=str(path),
                hint="remove it and build again",
            )
        self.run_starts = list(range(0, self.documents, max(1, run_documents)))
        sizes = [min(run_documents, self.documents - start) for start in self.run_starts]
        self._layouts = [_Layout(size, bands, width, bool(exact)) for size in sizes]
        ends = np.cumsum([_HEADER_BYTES, *(layout.bytes for layout in self._layouts)])
        if int(ends[-1]) != size:
            needed = f"{ends[-1]:,} bytes"
            raise DataError("fingerprints are not whole", found=f"{size:,} bytes", needed=needed, where=str(path))
        self._offsets: list[int] = ends[:-1].tolist()

    def column(self, run: int, column: int) -> tuple[UInt64Array, NDArray[np.uint32]]:
        """Sorted hashes of a run's column (a band, or `EXACT` for upper halves), and the places they belong to."""
        layout, offset = self._layouts[run], self._offsets[run]
        count = layout.documents
        if column == EXACT:
            return self._array(offset, count, "<u8"), self._array(offset + 16 * count, count, "<u4")
        hashes = self._array(offset + layout.near_offset + 8 * column * count, count, "<u8")
        return hashes, self._array(offset + layout.orders_offset + 4 * column * count, count, "<u4")

    def lower_halves(self, run: int) -> UInt64Array:
        """Lower halves of a run's exact hashes, in the order of the column `EXACT`."""
        count = self._layouts[run].documents
        return self._array(self._offsets[run] + 8 * count, count, "<u8")

    def signatures(self, run: int) -> NDArray[np.uint8]:
        """Signatures of a run, (D, SIGNATURE_BYTES)."""
        layout = self._layouts[run]
        offset = self._offsets[run] + layout.signatures_offset
        width = layout.signature_bytes
        return self._array(offset, layout.documents * width, "u1").reshape(layout.documents, width)

    def _array(self, offset: int, count: int, dtype: str) -> NDArray[Any]:
        return self._open_map(self._path)[offset : offset + count * np.dtype(dtype).itemsize].view(dtype)


def _whole_words(count: int) -> int:
    return count + -count % 8
