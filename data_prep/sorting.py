"""Files that hold records of several languages, sorted: one task reads a range once, for the shards of all languages.

In:  ranges of the files of tables with a `language_field`.
Out: `.work/sorted/<key>/<language>`: the range's records in this language, in their order; `<key>/done.json`: counts,
     written last. A `SpillReader` gives the records back as the range's own reader gave them.

What could not be read, and records of languages that the table does not list (`UNLISTED`), go with the first language
of the table. The key is a digest of the file's state, the range and how it is read, so a build that was interrupted
finds what it has sorted, and any process sorts a range to the same bytes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import xxhash

from data_prep.claims import Task
from data_prep.hashed_file import FileSet
from data_prep.plan import Source
from data_prep.project import Project
from data_prep.readers.read import RangeReader, read_range
from data_prep.readers.record import KEPT_CHARACTERS, Record, Rejected, rejected
from data_prep.spills import Entry, SpillWriter, damaged_spill, read_spill
from data_prep.units import Part, Unit
from data_prep.work import TRIED_RECORDS, UNLISTED, RecordReader, hopeless
from mlc.config import digest
from mlc.files import write_atomically

DONE = "done.json"
_FOLDER = "sorted"


def sort_tasks(project: Project, on_bytes: Callable[[int], None]) -> list[Task]:
    """One task for each range of files that hold several languages."""
    tasks: dict[str, Task] = {}
    for plan in project.plans:
        for unit in project.units[plan.name]:
            source = plan.sources[unit.source]
            if source.sorted_by[:1] != plan.languages:  # ranges are the same for all languages
                continue
            for part in chain.from_iterable(map(_shared_parts, unit.parts)):
                folder = _spill_folder(project.work, unit, part)
                work = partial(sort_part, part, source, folder, on_bytes)
                tasks[folder.name] = Task(f"sort-{folder.name}", part.range.bytes, folder / DONE, work)
    return list(tasks.values())


def record_readers(
    work: Path, unit: Unit, source: Source, language: str, on_bytes: Callable[[int], None]
) -> Callable[[Part], RecordReader]:
    """What reads the parts of a unit: their ranges, or what was sorted out of them for a language.

    Args:
        work: folder of what is only needed until the build is finished.
        unit: of which parts are to be read.
        source: of the unit.
        language: of the unit's shard; of pairs any.
        on_bytes: called with counts of bytes as they are read; they add up to the part's.
    """

    def read(part: Part) -> RecordReader:
        if not source.sorted_by:
            return read_part(part, source, on_bytes)
        folders = [_spill_folder(work, unit, shared) for shared in _shared_parts(part)]
        return SpillReader(folders, language, partial(on_bytes, part.range.bytes))

    return read


def read_part(part: Part, source: Source, on_bytes: Callable[[int], None]) -> RangeReader:
    """The reader of a part's own range."""
    reading = source.reading if part.second is None else replace(source.reading, second_path=str(part.second))
    return read_range(part.file, part.range, reading, on_bytes)


def sort_part(part: Part, source: Source, folder: Path, on_bytes: Callable[[int], None]) -> None:
    """Read a range and write its spills.

    Raises:
        DataError: the file has changed or cannot be read to its end, or none of the first records can be used.
    """
    part.check()
    reader = read_part(part, source, on_bytes)
    records: Counter[str] = Counter()
    with FileSet() as files:
        spills: dict[str, SpillWriter] = {}
        for language, record in _placed(reader, part, source):
            if language not in spills:
                spills[language] = SpillWriter(files.open(folder / language, xxhash.xxh3_64))
            spills[language].add(_entry_of(record))
            records[language] += 1
        for spill in spills.values():
            spill.flush()
        part.check()
        files.finish()
        files.commit()
    folder.mkdir(parents=True, exist_ok=True)
    content = {"lines": reader.lines, "first": source.sorted_by[0], "records": dict(sorted(records.items()))}
    write_atomically(folder / DONE, json.dumps(content).encode())


def _placed(reader: RangeReader, part: Part, source: Source) -> Iterator[tuple[str, Record | Rejected]]:
    """Every record of a range with the language whose spill it goes to."""
    languages, first = frozenset(source.sorted_by), source.sorted_by[0]
    reasons: Counter[str] | None = Counter()
    for record in reader:
        if isinstance(record, Rejected):
            if reasons is not None:
                reasons[record.reason] += 1
                if reasons.total() >= TRIED_RECORDS:
                    raise hopeless(part.file, source, reasons)
            yield first, record
            continue
        reasons = None
        if record.language in languages:
            yield record.language, record
        else:
            beginning = " | ".join(text[:KEPT_CHARACTERS] for text in record.texts)
            yield first, rejected(record.line, UNLISTED, record.language, beginning)


class SpillReader:
    """The records of one language of a part; to be gone through once. See `data_prep.work.RecordReader`.

    Args:
        folders: of the spills of the part's ranges, in their order.
        language: whose.
        on_end: called when all have been read.

    Raises:
        ShardError: a spill is missing or damaged; also while it is gone through.
    """

    def __init__(self, folders: Sequence[Path], language: str, on_end: Callable[[], None]) -> None:
        self._language, self._on_end = language, on_end
        self._spills: list[tuple[Path, int, int]] = []  # with lines of the part before it, and records in it
        self.lines = self.elsewhere = 0
        for folder in folders:
            try:
                done = json.loads((folder / DONE).read_bytes())
                records = int(done["records"].get(language, 0))
                self._spills.append((folder / language, self.lines, records))
                self.lines += int(done["lines"])
                self.elsewhere += sum(done["records"].values()) - records if done["first"] == language else 0
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise damaged_spill(folder / DONE, str(error)) from None

    def __iter__(self) -> Iterator[Record | Rejected]:
        for path, lines_before, records in self._spills:
            for entry in read_spill(path, records):
                line = lines_before + entry.place
                if entry.is_set_aside:
                    yield Rejected(line, *entry.strings)
                else:
                    yield Record(tuple(entry.strings), entry.group, line, self._language)
        self._on_end()


def _entry_of(record: Record | Rejected) -> Entry:
    if isinstance(record, Record):
        return Entry(record.line, record.group, record.texts)
    return Entry.of_rejected(record.line, record)


def _shared_parts(part: Part) -> Iterator[Part]:
    """Each of a part's shared ranges by itself."""
    return (replace(part, range=shared, shared=()) for shared in part.shared)


def _spill_folder(work: Path, unit: Unit, part: Part) -> Path:
    return work / _FOLDER / digest([unit.reading, part.identity()])[:32]
