"""The pieces of work of a build: ranges of files of about the same size, in the order of the shards they go into.

In:  `ShardPlan`s, and how many bytes a unit should have.
Out: `Unit`s. A large file is several units, several small files are one; a unit belongs to one source of one shard.

What a unit comes to depends on the unit, the recipe and the tokenizer alone. `Unit.key` is a digest of these, by which
a build that was interrupted finds what it has already done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.plan import ShardPlan, Source
from data_prep.readers.ranges import FileRange, plan_ranges
from mlc.config import digest
from mlc.errors import DataError


@dataclass(frozen=True, slots=True)
class Part:
    """A range of a file, and the file's state when the build was planned."""

    file: Path
    range: FileRange
    size_bytes: int
    changed_ns: int

    def check(self) -> None:
        """Refuse a file that is another one by now.

        Raises:
            DataError: it has changed since the build was planned, or is gone.
        """
        try:
            status = self.file.stat()
        except OSError as error:
            raise _changed(self.file, str(error.strerror)) from None
        if (status.st_size, status.st_mtime_ns) != (self.size_bytes, self.changed_ns):
            raise _changed(self.file, f"{status.st_size} bytes, changed at {status.st_mtime_ns / 1e9:.3f}")


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of work.

    Attributes:
        shard: name of the shard.
        number: place among the units of its shard, from 0.
        source: place of its source among the shard's.
        parts: several whole files, or one range of one file.
    """

    shard: str
    number: int
    source: int
    parts: tuple[Part, ...]

    @property
    def bytes(self) -> int:
        """Of its parts, on disk."""
        return sum(part.range.bytes for part in self.parts)

    def key(self, *decided_by: str) -> str:
        """A name for the unit's files: equal only where its bytes are.

        Args:
            decided_by: digests of the recipe's part that decides about bytes, of the tokenizer, and of what an earlier
                stage has found out.
        """
        parts = [
            [str(part.file), part.range.kind, part.range.start, part.range.end, part.size_bytes, part.changed_ns]
            for part in self.parts
        ]
        return f"{self.shard.replace('/', '.')}.{self.number:06d}.{digest([self.source, parts, *decided_by])[:16]}"


def plan_units(plan: ShardPlan, unit_bytes: int) -> tuple[Unit, ...]:
    """The units of a shard, in the order in which their documents stand in it.

    Args:
        plan: of the shard.
        unit_bytes: of source files on disk, about. A file that cannot be entered in its middle is one part, whatever
            its size.
    """
    found: list[Unit] = []
    for place, source in enumerate(plan.sources):
        for parts in _grouped(_parts(source, unit_bytes), unit_bytes):
            found.append(Unit(plan.name, len(found), place, parts))
    return tuple(found)


def _parts(source: Source, unit_bytes: int) -> Iterator[Part]:
    for file in source.files:
        status = file.stat()
        for file_range in plan_ranges(file, source.reading, unit_bytes):
            yield Part(file, file_range, status.st_size, status.st_mtime_ns)


def _grouped(parts: Iterator[Part], unit_bytes: int) -> Iterator[tuple[Part, ...]]:
    """Whole files together until they are large enough; a part of a file by itself."""
    held: list[Part] = []
    held_bytes = 0
    for part in parts:
        whole = part.range.bytes >= part.size_bytes
        if held and (not whole or held_bytes + part.range.bytes > unit_bytes):
            yield tuple(held)
            held, held_bytes = [], 0
        if not whole:
            yield (part,)
            continue
        held.append(part)
        held_bytes += part.range.bytes
    if held:
        yield tuple(held)


def check_unchanged(units: Sequence[Unit]) -> None:
    """As `Part.check`, for all files of some units."""
    for part in {part.file: part for unit in units for part in unit.parts}.values():
        part.check()


def _changed(file: Path, found: str) -> DataError:
    return DataError(
        "a source file has changed since this build began",
        found=found,
        where=str(file),
        hint="build again: units of files that are as they were are not done again",
    )
