"""Parquet files as records, by groups of row groups.

In:  a path; a `FileRange` of row groups.
Out: `Record`s and `Rejected`s, numbered by rows. Memory: a batch of rows of the wanted columns, about 4 MiB; more only
     where a single value is larger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.readers.arrow_rows import arrow_records, columns_needed, rows_a_batch, values_of
from data_prep.readers.lines import LineCount
from data_prep.readers.ranges import FileRange
from data_prep.readers.record import Record, Rejected
from data_prep.readers.source import SourceFormat
from mlc.errors import DataError

_BUFFER_BYTES = 1 << 20


def row_group_ranges(path: Path, unit_bytes: int) -> list[FileRange]:
    """Row groups in ranges of about `unit_bytes`; a group is never cut, and bytes between them count to none.

    Raises:
        DataError: no Parquet file, or one that is damaged.
    """
    with _open(path) as file:
        sizes = [_stored_bytes(file.metadata.row_group(i)) for i in range(file.num_row_groups)]
    ranges: list[FileRange] = []
    start = held = 0
    for i, size in enumerate(sizes):
        if held and held + size > unit_bytes:
            ranges.append(FileRange("rows", start, i, held))
            start, held = i, 0
        held += size
    return [*ranges, FileRange("rows", start, len(sizes), held)]


def parquet_records(
    path: Path, file_range: FileRange, source: SourceFormat, on_bytes: Callable[[int], None], count: LineCount
) -> Iterator[Record | Rejected]:
    """Every row of a range of row groups.

    Raises:
        DataError: the file is damaged, or has fewer row groups than when it was planned.
    """
    with _open(path) as file:
        if file_range.end > file.num_row_groups:
            raise DataError(
                "the file has changed since it was planned",
                found=f"{file.num_row_groups} row groups",
                needed=f"at least {file_range.end}",
                where=str(path),
            )
        yield from arrow_records(_batches(file, path, file_range, source, on_bytes), source, count)


def parquet_values(path: Path) -> Iterator[list[Any]]:
    """The values of every column, row by row; a string that is not UTF-8 is its bytes.

    Raises:
        DataError: no Parquet file, or one that is damaged.
    """
    with _open(path) as file:
        for group in range(file.num_row_groups):
            about = file.metadata.row_group(group)
            rows = rows_a_batch(about.total_byte_size, about.num_rows)
            batches = file.iter_batches(batch_size=rows, row_groups=[group], use_threads=False)
            while (batch := _next(batches, path)) is not None:
                yield from map(list, zip(*map(values_of, batch.columns), strict=True))


def _batches(
    file: pq.ParquetFile, path: Path, file_range: FileRange, source: SourceFormat, on_bytes: Callable[[int], None]
) -> Iterator[pa.RecordBatch]:
    columns = columns_needed(file.schema_arrow.names, source)
    for group in range(file_range.start, file_range.end):
        about = file.metadata.row_group(group)
        rows = rows_a_batch(about.total_byte_size, about.num_rows)
        done, total_bytes = 0, _stored_bytes(about)
        batches = file.iter_batches(batch_size=rows, row_groups=[group], columns=columns, use_threads=False)
        while (batch := _next(batches, path)) is not None:
            before, done = done, done + batch.num_rows
            yield batch
            on_bytes(total_bytes * done // about.num_rows - total_bytes * before // about.num_rows)
        on_bytes(total_bytes if about.num_rows == 0 else 0)


def _next(batches: Iterator[pa.RecordBatch], path: Path) -> pa.RecordBatch | None:
    try:
        return next(batches, None)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from None


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError("the Parquet file cannot be read", found=str(error), where=str(path), hint="fetch it again")


def _stored_bytes(group: pq.RowGroupMetaData) -> int:
    return sum(group.column(i).total_compressed_size for i in range(group.num_columns))
