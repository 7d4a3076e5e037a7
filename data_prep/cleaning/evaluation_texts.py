"""The texts of evaluation sets, for the index of contamination.

In:  files of JSON lines, plain text, tables or Parquet, also compressed.
Out: every text in them, whatever its field is called.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from data_prep.cleaning.section import ContaminationSection
from data_prep.readers.ranges import plan_ranges
from data_prep.readers.read import read_range
from data_prep.readers.record import Record, Rejected
from data_prep.readers.source import SourceFormat, format_of
from data_prep.source_files import find_files
from mlc.errors import DataError

_WHOLE_BYTES = 1 << 62
_NO_TEXT = ("empty", "missing_field", "wrong_type")
_NO_SUCH_COLUMN = "wrong_columns"


def find_evaluation_sets(section: ContaminationSection) -> tuple[Path, ...]:
    """Files that `cleaning.contamination.paths` names, each once.

    Raises:
        RecipeError: a path is no file, or a glob matches none.
    """
    return find_files(section.paths, "cleaning.contamination.paths")


def read_texts(path: Path) -> Iterator[str]:
    """Every text of a file: each line; each string in a line's JSON or a Parquet row; each cell of a table.

    A list of strings is one text. The first line of a table counts like the others: it may be a header or not.

    Raises:
        DataError: the file cannot be read to its end, or something in it is not UTF-8, no JSON or no row: an
            evaluation set that is read in part would be reported as clean in part.
    """
    found = format_of(path, "auto")
    if found == "parquet":
        from data_prep.readers.parquet import parquet_values

        for number, row in enumerate(parquet_values(path), 1):
            for value in row:
                yield from _strings(value, path, number)
    elif found in ("csv", "tsv"):
        yield from _cells(path)
    else:
        for record in _records(path, SourceFormat("text", separator="line")):
            if isinstance(record, Record):
                yield from _strings(_json(path, record), path, record.line) if found == "jsonl" else record.texts


def _records(path: Path, source: SourceFormat) -> Iterator[Record | Rejected]:
    """Records, and those set aside for a reason that leaves no text out."""
    before = 0
    for file_range in plan_ranges(path, source, _WHOLE_BYTES):
        reader = read_range(path, file_range, source)
        for record in reader:
            if isinstance(record, Rejected) and record.reason not in (*_NO_TEXT, _NO_SUCH_COLUMN):
                raise _unreadable(path, before + record.line, f"{record.reason}: {record.detail}")
            yield record
        before += reader.lines


def _cells(path: Path) -> Iterator[str]:
    """Column by column, until no row has another."""
    for column in count():
        is_there = False
        for record in _records(path, SourceFormat(text_fields=(str(column),), header=False)):
            is_there |= isinstance(record, Record) or record.reason != _NO_SUCH_COLUMN
            if isinstance(record, Record):
                yield from record.texts
        if not is_there:
            return


def _json(path: Path, record: Record) -> Any:
    try:
        return json.loads(record.texts[0])
    except (json.JSONDecodeError, RecursionError) as error:
        raise _unreadable(path, record.line, str(error)) from None


def _strings(value: object, path: Path, line: int) -> Iterator[str]:
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise _unreadable(path, line, str(error)) from None
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        if all(isinstance(part, str) for part in value):
            yield " ".join(value)
        else:
            for part in value:
                yield from _strings(part, path, line)
    elif isinstance(value, dict):
        for part in value.values():
            yield from _strings(part, path, line)


def _unreadable(path: Path, line: int, found: str) -> DataError:
    return DataError("an evaluation set cannot be read", found=found, where=f"{path}:{line}", hint="mend the file")
