"""The pieces of work of a build: ranges of files of about the same size, in the order of the shards they go into.

In:  `ShardPlan`s, and how many bytes a unit should have.
Out: `Unit`s. A large file is several units, several small files are one; a unit belongs to one source of one shard.

What a unit comes to depends on the unit, the recipe and the tokenizer alone. `Unit.key` is a digest of these, by which
a build that was interrupted finds what it has already done.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from itertools import zip_longest
from pathlib import Path

from data_prep.plan import ShardPlan, Source
from data_prep.readers.ranges import FileRange, plan_ranges
from data_prep.readers.source import SourceFormat
from data_prep.source_files import ELSEWHERE, FileState, state_of
from mlc.config import digest
from mlc.errors import DataError

MOST_SHARED_RANGES = 16
"""Of a file of several languages in one unit. More would waste less time on small units of rare languages, but most of
such a file may be in one language."""


@dataclass(frozen=True, slots=True)
class Part:
    """A range of a file or data set, and its state when the build was planned.

    Attributes:
        range: of a file whose records several shards share, `bytes` is the shard's equal part.
        second: moses: the file of the second side.
        shared: of a file whose records several shards share: the ranges in `range`, each of which is sorted by itself.
    """

    file: Path
    range: FileRange
    state: FileState
    second: Path | None = None
    second_state: FileState | None = None
    shared: tuple[FileRange, ...] = ()

    def check(self) -> None:
        """Refuse a file that is another one by now.

        Raises:
            DataError: it has changed since the build was planned, or is gone.
        """
        _check(self.file, self.state)
        if self.second is not None and self.second_state is not None:
            _check(self.second, self.second_state)

    def identity(self) -> list[object]:
        """What the records of the part are a function of, besides how they are read; plain values."""
        files = [str(self.file), astuple(self.state)]
        if self.second is not None and self.second_state is not None:
            files += [str(self.second), astuple(self.second_state)]
        return [*files, self.range.kind, self.range.start, self.range.end]


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of work.

    Attributes:
        shard: name of the shard.
        number: place among the units of its shard, from 0.
        source: place of its source among the shard's.
        parts: several whole files, or one range of one file.
        reading: digest of how the source's records are read.
    """

    shard: str
    number: int
    source: int
    parts: tuple[Part, ...]
    reading: str

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
        decided = digest([self.source, self.reading, [part.identity() for part in self.parts], *decided_by])
        return f"{self.shard.replace('/', '.')}.{self.number:06d}.{decided[:16]}"


def plan_units(plans: Sequence[ShardPlan], unit_bytes: int) -> dict[str, tuple[Unit, ...]]:
    """{shard: its units, in the order in which their documents stand in it}.

    Args:
        plans: of the shards.
        unit_bytes: of source files on disk, about. A file that cannot be entered in its middle is one part, whatever
            its size.
    """
    files = _Files(unit_bytes)
    found: dict[str, list[Unit]] = {plan.name: [] for plan in plans}
    for plan in plans:
        units = found[plan.name]
        for place, source in enumerate(plan.sources):
            reading = reading_digest(source)
            for parts in _grouped(files.parts(source), unit_bytes):
                units.append(Unit(plan.name, len(units), place, parts, reading))
    return {name: tuple(units) for name, units in found.items()}


def reading_digest(source: Source) -> str:
    """Of what decides how the files of a source are read, but not which they are."""
    return digest([asdict(source.reading), source.sequences, source.sorted_by])


class _Files:
    """Cuts files into parts."""

    def __init__(self, unit_bytes: int) -> None:
        self._unit_bytes = unit_bytes
        self._shared: dict[tuple[Path, SourceFormat], tuple[FileState, list[FileRange]]] = {}

    def parts(self, source: Source) -> Iterator[list[Part]]:
        """The parts of each file of a source."""
        shards = len(source.sorted_by)
        for file, second in zip_longest(source.files, source.second_files):
            if shards:
                state, ranges = self._ranges_of_several_shards(file, source.reading)
                count = min(shards, MOST_SHARED_RANGES)
                runs = [tuple(ranges[first : first + count]) for first in range(0, len(ranges), count)]
                yield [Part(file, _run(each, shards), state, shared=each) for each in runs]
                continue
            reading = source.reading if second is None else replace(source.reading, second_path=str(second))
            state = state_of(file, reading.format == "dataset")
            second_state = None if second is None else state_of(second)
            ranges = plan_ranges(file, reading, self._unit_bytes)
            yield [Part(file, each, state, second, second_state) for each in ranges]

    def _ranges_of_several_shards(self, file: Path, reading: SourceFormat) -> tuple[FileState, list[FileRange]]:
        """Looked for once: a file of many frames takes a while."""
        if (file, reading) not in self._shared:
            state = state_of(file, reading.format == "dataset")
            self._shared[file, reading] = (state, plan_ranges(file, reading, self._unit_bytes))
        return self._shared[file, reading]


def _run(ranges: Sequence[FileRange], shards: int) -> FileRange:
    """Ranges that follow one another as one, with the equal part of one shard."""
    size = sum(each.bytes for each in ranges)
    return replace(ranges[0], end=ranges[-1].end, bytes=size // shards)


def _grouped(files: Iterable[list[Part]], unit_bytes: int) -> Iterator[tuple[Part, ...]]:
    """Whole files together until they are large enough; a part of a file by itself."""
    held: list[Part] = []
    held_bytes = 0
    for parts in files:
        whole, size = len(parts) == 1, parts[0].range.bytes
        if held and (not whole or held_bytes + size > unit_bytes):
            yield tuple(held)
            held, held_bytes = [], 0
        if not whole:
            yield from ((part,) for part in parts)
            continue
        held += parts
        held_bytes += size
    if held:
        yield tuple(held)


def _check(file: Path, state: FileState) -> None:
    try:
        found = state if state == ELSEWHERE else state_of(file, file.is_dir())
    except OSError as error:
        raise _changed(file, str(error.strerror)) from None
    if found != state:
        raise _changed(file, f"{found.size_bytes} bytes, changed at {found.changed_ns / 1e9:.3f}")


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
