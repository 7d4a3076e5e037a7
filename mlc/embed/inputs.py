"""Texts to embed: lines or JSON records of files, in one order, cut into units.

In:  files of text (a text a line) or of JSON lines, as they are or with .gz or .zst behind the name.
Out: `scan`: sizes, hashes, the number of rows and where units begin, every line checked; `read_unit`: the rows of one.

Row numbers count every line of a text file and every record of a JSON-lines file, file after file. A line that cannot
be used is refused or keeps its row without a text, so row k of the vectors is always text k of the input.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlc.data.text_lines import read_lines
from mlc.errors import DataError, UsageError
from mlc.files import hash_file
from mlc.tasks.text_files import plain_name

BadLines = Literal["refuse", "keep"]
OTHER_FORMS = (".csv", ".json", ".npy", ".parquet", ".tsv", ".xml")
JSON_LINES = ".jsonl"


@dataclass(frozen=True)
class Source:
    """A file to read, and what it is called in messages and records."""

    path: Path
    name: str


@dataclass(frozen=True)
class InputForm:
    """How a line is read.

    Attributes:
        column: field of a JSON record that holds the text; None = by the name of the file: "text" of .jsonl, the line
            itself of anything else.
        id_column, language_column: fields that are carried along where a record has them.
    """

    column: str | None = None
    id_column: str = "id"
    language_column: str = "lang"

    def text_column(self, source: Source) -> str | None:
        """The field that holds the text in this file; None = its lines are texts."""
        return self.column or ("text" if plain_name(source.path).endswith(JSON_LINES) else None)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the input; `text` is None where the line could not be used and such lines are kept."""

    text: str | None
    id: str | None = None
    language: str | None = None
    where: str = ""


@dataclass(frozen=True)
class InputFile:
    """A file as it was when the work began."""

    path: str
    bytes: int
    xxh3: str
    rows: int


@dataclass(frozen=True)
class UnitStart:
    """Where a unit's first row is: number of the file, number of the row within it."""

    file: int
    row: int


@dataclass(frozen=True)
class InputPlan:
    """What there is to embed: a function of the files' content, the form and the size of a unit.

    Attributes:
        rows: over all files.
        blank_lines: of JSON-lines files; they are no records and have no row.
        unit_rows: rows of every unit but the last.
    """

    files: tuple[InputFile, ...]
    rows: int
    blank_lines: int
    unit_rows: int
    units: tuple[UnitStart, ...]

    def rows_of(self, unit: int) -> int:
        """Rows of a unit."""
        return min(self.unit_rows, self.rows - unit * self.unit_rows)


def find_sources(paths: Sequence[Path]) -> list[Source]:
    """Refuse what is missing or of another form, before anything is read.

    Raises:
        UsageError: a path is no file, or a file of a form that is not read here.
    """
    for path in paths:
        if not path.is_file():
            raise UsageError("no such file", found=str(path), needed="a file of texts, or - for standard input")
        suffix = Path(plain_name(path)).suffix
        if suffix in OTHER_FORMS:
            raise UsageError(
                "files of this form are not read", found=suffix, needed="lines of text, or .jsonl", where=str(path)
            )
    return [Source(path, str(path)) for path in paths]


def scan(sources: Sequence[Source], form: InputForm, unit_rows: int, bad_lines: BadLines) -> InputPlan:
    """Read everything once: check every line, count rows, hash files, note where units begin.

    Raises:
        DataError: a file cannot be read to its end, there are no rows, or (`bad_lines` "refuse") a line cannot be used;
            with file and line.
    """
    files, units, rows, blank = [], [], 0, 0
    for number, source in enumerate(sources):
        column, rows_before = form.text_column(source), rows
        for line, raw in read_lines(source.path):
            if column is not None and not raw.strip():
                blank += 1
                continue
            _parse(raw, f"{source.name}:{line}", column, form, bad_lines)
            if rows % unit_rows == 0:
                units.append(UnitStart(number, rows - rows_before))
            rows += 1
        size, digest = source.path.stat().st_size, hash_file(source.path)
        files.append(InputFile(source.name, size, digest, rows - rows_before))
    if not rows:
        raise DataError("there are no texts", found="no lines", where=", ".join(s.name for s in sources))
    return InputPlan(tuple(files), rows, blank, unit_rows, tuple(units))


def read_unit(sources: Sequence[Source], plan: InputPlan, unit: int, form: InputForm) -> list[Row]:
    """The rows of a unit; files before its first row are not opened.

    Raises:
        DataError: there are fewer rows than when the input was planned.
    """
    start, needed = plan.units[unit], plan.rows_of(unit)
    found: list[Row] = []
    for number in range(start.file, len(sources)):
        skipped = start.row if number == start.file else 0
        for place, row in enumerate(_rows(sources[number], form, skipped)):
            if place >= skipped and row is not None:
                found.append(row)
                if len(found) == needed:
                    return found
    raise DataError("the input is shorter than when the work began", found=f"{len(found)} rows of unit {unit}")


def _rows(source: Source, form: InputForm, skipped: int) -> Iterator[Row | None]:
    """Rows of a file; None for the first `skipped` of them, which are not parsed."""
    column, place = form.text_column(source), 0
    for line, raw in read_lines(source.path):
        if column is not None and not raw.strip():
            continue
        yield None if place < skipped else _parse(raw, f"{source.name}:{line}", column, form, "keep")
        place += 1


def _parse(raw: bytes, where: str, column: str | None, form: InputForm, bad_lines: BadLines) -> Row:
    try:
        return _row(raw, where, column, form)
    except DataError:
        if bad_lines == "refuse":
            raise
        return Row(None, where=where)


def _row(raw: bytes, where: str, column: str | None, form: InputForm) -> Row:
    try:
        content = raw.decode()
    except UnicodeDecodeError as error:
        raise _bad("this is not UTF-8", str(error), None, where) from None
    if column is None:
        return Row(content.rstrip("\r"), where=where)
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _bad("this line is not JSON", str(error), None, where) from None
    if not isinstance(record, dict):
        raise _bad("this line is not a JSON object", type(record).__name__, "{...}", where)
    text = record.get(column)
    if not isinstance(text, str):
        fields = ", ".join(map(str, record)) or "no fields"
        found = f"{fields}" if column not in record else f'"{column}": {text!r}'
        raise _bad("there is no text", found, f'a string in "{column}" (--column)', where)
    _refuse_surrogates(text, where)
    return Row(text, _carried(record, form.id_column, where), _carried(record, form.language_column, where), where)


def _carried(record: dict[str, Any], column: str, where: str) -> str | None:
    value = record.get(column)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _bad(f'"{column}" is neither a string nor a whole number', repr(value)[:60], None, where)
    _refuse_surrogates(str(value), where)
    return str(value)


def _refuse_surrogates(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _bad("half of a surrogate pair", f"at character {error.start}", "text", where) from None


def _bad(problem: str, found: str, needed: str | None, where: str) -> DataError:
    hint = "correct the line, or keep a row without a vector for each such line: --bad-lines keep"
    return DataError(problem, found=found, needed=needed, where=where, hint=hint)
