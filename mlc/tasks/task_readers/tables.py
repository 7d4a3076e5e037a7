"""Rows of JSON lines, TSV and CSV, each with its line.

In:  files, plain, .gz or .zst.
Out: `Row`, or `RecordError` for a line that cannot be used; DataError where the file as a whole cannot.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from mlc.data import text_lines
from mlc.errors import DataError
from mlc.languages import languages_in_pair
from mlc.tasks.examples import Place
from mlc.tasks.task_readers.columns import TRANSLATION_COLUMNS
from mlc.tasks.task_readers.rows import Reading, RecordError, Row

Cells = tuple[int, list[str] | RecordError]
"""A line's number, with its cells, or why it has none."""


def decoded_lines(path: Path) -> Iterator[tuple[int, str | RecordError]]:
    """(line number from 1, line without its end), blank lines too; a line that is not UTF-8 is a RecordError.

    Raises:
        DataError: the file cannot be read or decompressed.
    """
    for number, content in text_lines.read_lines(path):
        try:
            yield number, content.decode().removesuffix("\r")
        except UnicodeDecodeError as error:
            yield number, RecordError("this is not UTF-8", Place(str(path), number), found=str(error))


def read_json_lines(path: Path) -> Iterator[Row | RecordError]:
    """Rows of JSON lines; blank lines are no records."""
    record = 0
    for number, line in decoded_lines(path):
        if isinstance(line, str) and not line.strip():
            continue
        if isinstance(line, RecordError):
            yield line.of_record(record)
        else:
            yield json_row(line, Place(str(path), number, record=record))
        record += 1


def json_row(line: str, place: Place) -> Row | RecordError:
    """The row of one line of JSON."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        form = " (a line with tabs: a .tsv or a .conll file?)" if "\t" in line else ""
        return RecordError("this line is not JSON", place, found=f"{error}{form}")
    if not isinstance(fields, dict):
        return RecordError("this line is not a JSON object", place, found=fields, needed="{...}")
    return Row(place, fields)


def read_separated(path: Path, form: str, reading: Reading) -> Iterator[Row | RecordError]:
    """Rows of a TSV or CSV file.

    TSV: cells between tabs as they stand; a quote is a character and no cell holds a tab or a line feed. CSV: RFC 4180,
    so a cell in quotes may; the place is the line a record ends on. The first line names the columns, unless they are
    given by number, or it is a translation's with two cells that are no names of columns.

    Raises:
        DataError: CSV that breaks RFC 4180; a header with a name twice; fewer columns than are asked for.
    """
    lines = _csv_cells(path) if form == "csv" else _tsv_cells(path)
    names: Callable[[list[str]], dict[str, str]] | None = None
    width, record = 0, 0
    for number, cells in lines:
        place = Place(str(path), number, record=record)
        if isinstance(cells, RecordError):
            yield cells.of_record(record)
            record += 1
            continue
        if names is None:
            width = len(cells)
            names, is_header = _naming(cells, reading, place)
            if is_header:
                continue
        if len(cells) != width:
            needed = f"{width}, as on the first line"
            yield RecordError("the line has another number of columns", place, found=len(cells), needed=needed)
        else:
            yield Row(place, dict(names(cells)))
        record += 1


def _naming(cells: list[str], reading: Reading, place: Place) -> tuple[Callable[[list[str]], dict[str, str]], bool]:
    """How cells become fields, by the first line; and whether that line is a header."""
    numbers = reading.numbered_columns
    if numbers is None and reading.kind == "translation" and not reading.columns and _is_headless_pair(cells):
        numbers = {"source": 1, "target": 2}
    if numbers is None:
        header = [cell.strip() for cell in cells]
        twice = next((name for name in header if header.count(name) > 1), None)
        if twice is not None:
            raise DataError(
                "the header has a column twice",
                found=repr(twice),
                where=str(place),
                hint="a file without a header needs columns by number: columns = {text = 1, label = 2}",
            )
        return lambda line: dict(zip(header, line, strict=True)), True
    outside = {role: number for role, number in numbers.items() if not 1 <= number <= len(cells)}
    if outside:
        raise DataError(
            "there is no such column",
            found=str(outside),
            needed=f"numbers from 1 to {len(cells)}, the columns of the first line",
            where=str(place),
        )
    chosen = numbers
    return lambda line: {role: line[number - 1] for role, number in chosen.items()}, False


def _is_headless_pair(cells: list[str]) -> bool:
    names = tuple(cell.strip() for cell in cells)
    return len(names) == 2 and names not in TRANSLATION_COLUMNS and languages_in_pair("-".join(names)) is None


def _tsv_cells(path: Path) -> Iterator[Cells]:
    for number, line in decoded_lines(path):
        if isinstance(line, RecordError):
            yield number, line
        elif line.strip(" "):
            yield number, line.split("\t")


def _csv_cells(path: Path) -> Iterator[Cells]:
    reader = csv.reader(_whole_lines(path), strict=True)
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(
            "this is not CSV as RFC 4180 has it",
            found=str(error),
            needed='cells with quotes, commas or line feeds in "quotes", a quote in them doubled; 131,072 characters',
            where=f"{path}:{reader.line_num}",
        ) from None


def _whole_lines(path: Path) -> Iterator[str]:
    """Lines with their ends. One that is not UTF-8 ends the reading: it may lie inside a cell."""
    for number, content in text_lines.read_lines(path):
        try:
            yield f"{content.decode()}\n"
        except UnicodeDecodeError as error:
            raise DataError("this is not UTF-8", found=str(error), where=f"{path}:{number}") from None
