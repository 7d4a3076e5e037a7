"""A range of a file as records: the one door to all formats.

In:  a path, a `FileRange` of `plan_ranges`, and how the file is read.
Out: a `RangeReader`: its records, and afterwards how many lines begin in the range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from data_prep.readers.json_lines import json_records
from data_prep.readers.lines import LineCount, Lines
from data_prep.readers.plain_text import text_records
from data_prep.readers.ranges import FileRange
from data_prep.readers.record import Record, Rejected
from data_prep.readers.source import SourceFormat, format_of
from data_prep.readers.streams import READ_ERRORS, range_chunks
from data_prep.readers.tables import table_records
from mlc.errors import DataError


class RangeReader:
    """The records that begin in a range, in order; to be gone through once.

    Attributes:
        lines: lines (rows, units of translation) that begin in the range; whole once the last record has been given.
            A record's line in the file is its own plus the `lines` of all ranges before it.
        elsewhere: see `data_prep.work.RecordReader`.
    """

    elsewhere = 0

    def __init__(
        self, path: Path, file_range: FileRange, source: SourceFormat, on_bytes: Callable[[int], None]
    ) -> None:
        self._path, self._range, self._source, self._on_bytes = path, file_range, source, on_bytes
        self._count = LineCount()

    @property
    def lines(self) -> int:
        """See the class."""
        return self._count.lines

    def __iter__(self) -> Iterator[Record | Rejected]:
        try:
            yield from self._records()
        except READ_ERRORS as error:
            raise DataError(
                "the file cannot be read to its end",
                found=str(error) or type(error).__name__,
                where=f"{self._path}, range {self._range.start} to {self._range.end}, behind line {self.lines} of it",
                hint="fetch or compress the file again",
            ) from None

    def _records(self) -> Iterator[Record | Rejected]:
        path, file_range, source, on_bytes = self._path, self._range, self._source, self._on_bytes
        found = format_of(path, source.format)
        if found == "dataset":
            from data_prep.readers.huggingface import dataset_records

            return dataset_records(path, file_range, source, on_bytes, self._count)
        if found == "parquet":
            from data_prep.readers.parquet import parquet_records

            return parquet_records(path, file_range, source, on_bytes, self._count)
        if found == "moses":
            from data_prep.readers.moses import moses_records

            return moses_records(path, source, on_bytes, self._count)
        chunks = range_chunks(path, file_range, on_bytes)
        if found == "tmx":
            from data_prep.readers.tmx import tmx_records

            return tmx_records((chunk for chunk, _ in chunks), source, self._count)
        lines = Lines(path, file_range, chunks, source.max_line_bytes, self._count)
        if found == "jsonl":
            return json_records(lines, source)
        return text_records(lines, source) if found == "text" else table_records(path, lines, source, found)


def read_range(
    path: Path, file_range: FileRange, source: SourceFormat, on_bytes: Callable[[int], None] = lambda count: None
) -> RangeReader:
    """Every record that begins in a range: over all ranges of a file each exactly once, however it was cut.

    Args:
        path: the file, folder or name of a data set that `file_range` was planned for.
        file_range: one of `plan_ranges`.
        source: how it is read.
        on_bytes: called with counts of the file's bytes as they are read; they add up to `file_range.bytes`.

    Returns:
        an iterable of `Record` and, for bad data, `Rejected`. Reasons: undecodable, broken_json, not_an_object,
        missing_field, wrong_type, empty, too_long, wrong_columns, broken_csv, broken_xml,
        missing_language.

    Raises (when gone through):
        DataError: the file has vanished, is cut short or damaged.
        RecipeError: a data set that cannot be opened.
    """
    return RangeReader(path, file_range, source, on_bytes)
