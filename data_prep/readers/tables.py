"""Comma- and tab-separated files as records.

In:  the lines of a range.
Out: a `Record` or `Rejected` for each row that begins in the range; empty lines are passed over.

Quoted fields are read as Python's `csv` reads them (RFC 4180, and a quote within an unquoted field is a quote), but row
by row, so that one bad row costs one row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_prep.readers.lines import LineCount, Lines, LongLine, first_bytes
from data_prep.readers.ranges import FileRange
from data_prep.readers.record import Record, Rejected, rejected
from data_prep.readers.rows import RowReader
from data_prep.readers.source import Format, SourceFormat
from data_prep.readers.streams import range_chunks
from mlc.data.text import Unusable

_KEPT_LINES = 8  # of a row that is set aside


@dataclass(slots=True)
class Row:
    """A row: the number of its first line, its fields (or its only beginning, if `problem`), and what is wrong."""

    line: int
    fields: list[bytes]
    problem: Unusable | None = None


def table_records(path: Path, lines: Lines, source: SourceFormat, found: Format) -> Iterator[Record | Rejected]:
    """Every row that begins in the range, without the header, which is the file's first line, whatever it holds.

    Args:
        path: what `lines` are of.
        lines: of a range.
        source, found: how to read them; csv or tsv.
    """
    delimiter = source.delimiter_of(found)
    rows = _rows(lines, source, delimiter, source.has_quotes(found))
    columns: _Columns | None = None
    for row in rows:
        if columns is None:
            is_header = _is_header(lines, row.line, source)
            header = row if is_header or not source.header else _first_row(path, source, found)
            columns = _Columns(header if source.header else None, source)
            if is_header:
                continue
        try:
            if row.problem:
                raise row.problem
            record: Record | Rejected = columns.record(row)
        except Unusable as unusable:
            record = rejected(row.line, unusable.reason, unusable.detail, delimiter.join(row.fields))
        yield record


class _Columns:
    """Which column is which field, from the header or from numbers."""

    def __init__(self, header: Row | None, source: SourceFormat) -> None:
        self._reader = RowReader(source)
        self._problem = header.problem if header else None
        self._wanted: list[tuple[str, int]] = []
        self._width: int | None = None
        if header is None:
            self._wanted = [(name, int(name)) for name in self._reader.names]
        elif self._problem is None:
            self._read_header(header)

    def _read_header(self, header: Row) -> None:
        try:
            names = [field.decode() for field in header.fields]
        except UnicodeDecodeError as error:
            self._problem = Unusable("undecodable", f"the header: {error}")
            return
        self._width = len(names)
        self._wanted = [(name, names.index(name)) for name in self._reader.names if name in names]
        twice = [name for name, _ in self._wanted if names.count(name) > 1]
        if twice:
            self._problem = Unusable("wrong_columns", f"the header names {twice[0]} twice")

    def record(self, row: Row) -> Record:
        """The record of a row; raises `Unusable`."""
        if self._problem:
            raise self._problem
        columns = len(row.fields)
        if self._width is not None and columns != self._width:
            raise Unusable("wrong_columns", f"{columns} columns, the header has {self._width}")
        if self._width is None and any(column >= columns for _, column in self._wanted):
            needed = 1 + max(column for _, column in self._wanted)
            raise Unusable("wrong_columns", f"{columns} columns, needed {needed}")
        try:
            values = {name: row.fields[column].decode() for name, column in self._wanted}
        except UnicodeDecodeError as error:
            raise Unusable("undecodable", str(error)) from None
        return self._reader.record(values, row.line)


def _first_row(path: Path, source: SourceFormat, found: Format) -> Row:
    """The header of a file of which a later range is read."""
    start = FileRange("bytes", 0, 1, 1)
    lines = Lines(path, start, _inside(path, start), source.max_line_bytes, LineCount())
    return next(_rows(lines, source, source.delimiter_of(found), source.has_quotes(found)), Row(1, []))


def _inside(path: Path, file_range: FileRange) -> Iterator[tuple[bytes, bool]]:
    return ((chunk, True) for chunk, _ in range_chunks(path, file_range, lambda count: None))


def _rows(lines: Lines, source: SourceFormat, delimiter: bytes, quoted: bool) -> Iterator[Row]:
    if quoted:
        yield from _quoted_rows(lines, source, delimiter)
        return
    for number, content, inside in lines:
        if not inside:
            return
        if isinstance(content, LongLine):
            yield _long_row(number, content.beginning, source.max_line_bytes)
        elif content or _is_header(lines, number, source):
            yield Row(number, content.split(delimiter))


def _quoted_rows(lines: Lines, source: SourceFormat, delimiter: bytes) -> Iterator[Row]:
    limit_bytes = source.max_line_bytes
    parser, start = _QuotedRow(delimiter, limit_bytes), 0
    for number, content, _ in lines:
        if isinstance(content, LongLine):  # where its quotes stand nobody knows: the next line is taken for a row
            yield _long_row(start or number, parser.take()[0] or content.beginning, limit_bytes)
            start = 0
        elif not start and b'"' not in content:
            if content or _is_header(lines, number, source):
                yield Row(number, content.split(delimiter))
        else:
            start = start or number
            if parser.add(content):
                beginning, fields = parser.take()
                yield Row(start, fields) if fields else _long_row(start, beginning, limit_bytes)
                start = 0
    if start:
        yield Row(start, [parser.take()[0]], Unusable("broken_csv", "a quoted field does not end"))


def _is_header(lines: Lines, number: int, source: SourceFormat) -> bool:
    return source.header and lines.from_first and number == 1


def _long_row(line: int, beginning: bytes, limit_bytes: int) -> Row:
    return Row(line, [beginning], Unusable("too_long", f"more than {limit_bytes} bytes"))


class _QuotedRow:
    """One row, given line by line: a quoted field may go over several."""

    def __init__(self, delimiter: bytes, limit_bytes: int) -> None:
        self._delimiter, self._limit_bytes = delimiter, limit_bytes
        self._begin()

    def _begin(self) -> None:
        self._fields: list[bytes] = []
        self._open: list[bytes] | None = None
        self._first_lines: list[bytes] = []
        self._bytes = 0

    def add(self, line: bytes) -> bool:
        """Take one line more; True where the row ends with it."""
        self._bytes += len(line) + bool(self._first_lines)
        if len(self._first_lines) < _KEPT_LINES:
            self._first_lines.append(first_bytes([line]))
        if self._open is not None and b'"' not in line and self._bytes <= self._limit_bytes:
            self._open += (line, b"\n")
            return False
        position = 0
        while True:
            if self._open is None and line[position : position + 1] == b'"':
                self._open, position = [], position + 1
            if self._open is not None:
                position = self._to_closing_quote(line, position, self._open)
                if position < 0:
                    if self._bytes > self._limit_bytes:
                        self._open = []
                    return False
            end = line.find(self._delimiter, position)
            tail = line[position:] if end < 0 else line[position:end]
            self._fields.append(b"".join(self._open or ()) + tail)
            self._open = None
            if end < 0:
                return True
            position = end + 1

    @staticmethod
    def _to_closing_quote(line: bytes, position: int, content: list[bytes]) -> int:
        """Where a quoted field's content ends, behind the quote; -1: in a later line. `content` gets it."""
        while (quote := line.find(b'"', position)) >= 0:
            content.append(line[position:quote])
            if line[quote + 1 : quote + 2] != b'"':
                return quote + 1
            content.append(b'"')
            position = quote + 2
        content.append(line[position:] + b"\n")
        return -1

    def take(self) -> tuple[bytes, list[bytes]]:
        """(How the row begins, its fields: none where it is too long). The next one begins."""
        beginning = first_bytes(line + b"\n" for line in self._first_lines).rstrip(b"\n")
        fields = self._fields if self._bytes <= self._limit_bytes else []
        self._begin()
        return beginning, fields
