"""Records on their way from one stage of a build to a later one: a file of compressed blocks.

In:  entries in their order: where a record comes from (a number), its group, its texts; or why it was set aside.
Out: the file, and the entries again as they were.

A spill is a row of blocks: their compressed bytes (u64), then one zstd frame with a checksum, which holds: numbers of
entries E and of strings S (u32 each), and arrays: place of each entry (i64 [E]), its group (i64 [E]), how many strings
it has (u8 [E]; 3: what was set aside, else texts), bytes of each string (u32 [S]); then the strings in UTF-8.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import zstandard

from data_prep.hashed_file import HashedFile
from data_prep.readers.record import Rejected
from mlc.data.manifest import NO_GROUP
from mlc.errors import ShardError

BLOCK_BYTES = 1 << 18
STRINGS_SET_ASIDE = 3
"""Reason, detail and beginning; a record has one or two texts."""
_LEVEL = 1
_HEADER = struct.Struct("<II")
_SIZE = struct.Struct("<Q")


class Entry(NamedTuple):
    """One record.

    Attributes:
        place: where it comes from, by which whoever wrote it finds it again.
        group: number of its meaning, -1 without one.
        strings: its one or two texts; or reason, detail and beginning of what was set aside.
    """

    place: int
    group: int
    strings: Sequence[str]

    @classmethod
    def of_rejected(cls, place: int, record: Rejected) -> Entry:
        """What was set aside."""
        return cls(place, NO_GROUP, (record.reason, record.detail, record.beginning))

    @property
    def is_set_aside(self) -> bool:
        """Whether it is no document."""
        return len(self.strings) == STRINGS_SET_ASIDE


class SpillWriter:
    """Entries, written block by block; call `flush` behind the last one."""

    def __init__(self, file: HashedFile) -> None:
        self._file, self._compressor = file, zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
        self._begin()

    def _begin(self) -> None:
        self._places: list[int] = []
        self._groups: list[int] = []
        self._counts: list[int] = []
        self._strings: list[bytes] = []
        self._bytes = 0

    def add(self, entry: Entry) -> None:
        """Append an entry."""
        strings = [text.encode("utf-8", "surrogatepass") for text in entry.strings]
        self._places.append(entry.place)
        self._groups.append(entry.group)
        self._counts.append(len(strings))
        self._strings += strings
        self._bytes += sum(map(len, strings))
        if self._bytes >= BLOCK_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what has been added so far."""
        if not self._places:
            return
        block = (
            _HEADER.pack(len(self._places), len(self._strings)),
            np.array(self._places, "<i8").tobytes(),
            np.array(self._groups, "<i8").tobytes(),
            bytes(self._counts),
            np.array([len(string) for string in self._strings], "<u4").tobytes(),
            *self._strings,
        )
        frame = self._compressor.compress(b"".join(block))
        self._file.write(_SIZE.pack(len(frame)))
        self._file.write(frame)
        self._begin()


def read_spill(path: Path, entries: int) -> Iterator[Entry]:
    """The entries of a file.

    Args:
        path: of the file; without entries there may be none.
        entries: that it has.

    Raises:
        ShardError: it is missing or damaged, or has another number of entries.
    """
    count = 0
    for block in _blocks(path) if entries else ():
        for entry in _entries(block):
            count += 1
            yield entry
    if count != entries:
        raise damaged_spill(path, f"{count} entries, not {entries}")


def damaged_spill(path: Path, found: str) -> ShardError:
    """The error of a file that is not what it was."""
    return ShardError(
        "a file that an earlier stage of this build has written is missing or damaged",
        found=found,
        where=str(path),
        hint=f"delete {path.parent} and build again",
    )


def _blocks(path: Path) -> Iterator[bytes]:
    decompressor = zstandard.ZstdDecompressor()
    try:
        with path.open("rb") as file:
            while size := file.read(_SIZE.size):
                yield decompressor.decompress(file.read(*_SIZE.unpack(size)))
    except (OSError, struct.error, zstandard.ZstdError) as error:
        raise damaged_spill(path, str(error)) from None


def _entries(block: bytes) -> Iterator[Entry]:
    entries, strings = _HEADER.unpack_from(block)
    places = np.frombuffer(block, "<i8", entries, _HEADER.size).tolist()
    groups = np.frombuffer(block, "<i8", entries, _HEADER.size + 8 * entries).tolist()
    counts = block[_HEADER.size + 16 * entries : _HEADER.size + 17 * entries]
    sizes = np.frombuffer(block, "<u4", strings, _HEADER.size + 17 * entries).tolist()
    end, first = _HEADER.size + 17 * entries + 4 * strings, 0
    for place, group, count in zip(places, groups, counts, strict=True):
        texts = []
        for size in sizes[first : first + count]:
            start, end = end, end + size
            texts.append(block[start:end].decode("utf-8", "surrogatepass"))
        first += count
        yield Entry(place, group, texts)
