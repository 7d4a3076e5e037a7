"""Data sets of Hugging Face's `datasets` as records: saved by `save_to_disk`, or by name, prepared or streamed.

In:  a folder or the name of a data set on the hub; a `FileRange` of rows, or of shards where it is streamed.
Out: `Record`s and `Rejected`s, numbered by rows.

A folder that `save_to_disk` did not write goes to `load_dataset`, as the name of one on the hub does: it then finds
the JSON lines, CSV or Parquet files in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_prep.readers.arrow_rows import arrow_records, columns_needed, rows_a_batch
from data_prep.readers.lines import LineCount
from data_prep.readers.ranges import FileRange
from data_prep.readers.record import Record, Rejected
from data_prep.readers.source import SourceFormat
from mlc.errors import DataError, MlcError, RecipeError

_STREAMED_ROWS = 256


def dataset_ranges(path: Path, source: SourceFormat, unit_bytes: int) -> list[FileRange]:
    """Ranges of rows of about `unit_bytes` of Arrow data; the shards of a streamed data set.

    Raises:
        RecipeError: there is no such data set, configuration or split.
    """
    dataset = _opened(path, source)
    if source.streaming:
        return [FileRange("rows", i, i + 1, 0) for i in range(dataset.num_shards)]
    rows, size = len(dataset), dataset.data.nbytes
    count = max(1, min(rows, -(-size // unit_bytes)))
    bounds = [(rows * i // count, size * i // count) for i in range(count + 1)]
    return [FileRange("rows", start[0], end[0], end[1] - start[1]) for start, end in pairwise(bounds)]


def dataset_records(
    path: Path, file_range: FileRange, source: SourceFormat, on_bytes: Callable[[int], None], count: LineCount
) -> Iterator[Record | Rejected]:
    """Every row of a range.

    Raises:
        RecipeError: see `dataset_ranges`.
        DataError: rows cannot be read.
    """
    dataset = _opened(path, source)
    if source.streaming:
        part = dataset.shard(num_shards=dataset.num_shards, index=file_range.start)
        batch_rows = _STREAMED_ROWS
    else:
        if file_range.end > len(dataset):
            raise DataError(
                "the data set has changed since it was planned", found=f"{len(dataset)} rows", where=str(path)
            )
        part = dataset.select(range(file_range.start, file_range.end))
        needed = columns_needed(part.column_names, source)
        part = part.select_columns(needed) if needed else part  # without a column there would be no rows
        batch_rows = rows_a_batch(dataset.data.nbytes, max(1, len(dataset)))
    yield from arrow_records(_batches(part, path, batch_rows, file_range, on_bytes), source, count)


def _batches(
    part: Any, path: Path, batch_rows: int, file_range: FileRange, on_bytes: Callable[[int], None]
) -> Iterator[Any]:
    rows, done = file_range.end - file_range.start, 0
    batches = iter(part.with_format("arrow").iter(batch_size=batch_rows))
    while (batch := _next(batches, path)) is not None:
        _check(batch, path)
        yield batch
        before, done = done, done + batch.num_rows
        if file_range.bytes:
            on_bytes(file_range.bytes * done // rows - file_range.bytes * before // rows)


def _next(batches: Iterator[Any], path: Path) -> Any:
    try:
        return next(batches, None)
    except Exception as error:  # builders and file systems raise what they like
        raise DataError("the data set cannot be read to its end", found=_said(error), where=str(path)) from None


def _check(batch: Any, path: Path) -> None:
    """Refuse damaged offsets, over which Arrow ends the process when it makes Python objects of them."""
    for column in batch.columns:
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            if "UTF8" not in str(error):  # that costs single records
                raise DataError("the data set is damaged", found=str(error), where=str(path)) from None


def _opened(path: Path, source: SourceFormat) -> Any:
    import datasets

    try:
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            return _saved(datasets.load_from_disk(str(path)), path, source)
        return datasets.load_dataset(
            str(path),
            source.config or None,
            split=source.split,
            revision=source.revision or None,
            streaming=source.streaming,
        )
    except MlcError:
        raise
    except Exception as error:  # the hub, builders and file systems raise what they like
        raise RecipeError(
            "the data set cannot be opened",
            found=_said(error),
            where=f"{path}, config {source.config!r}, split {source.split!r}",
            hint="name a folder of save_to_disk, or the name, config and split of a data set on the hub; if the hub "
            "cannot be reached, set HF_HUB_OFFLINE=1 to take one that was fetched before",
        ) from None


def _saved(dataset: Any, path: Path, source: SourceFormat) -> Any:
    if isinstance(dataset, dict):
        if source.split not in dataset:
            raise RecipeError(
                "the data set has no such split", found=source.split, needed=", ".join(dataset), where=str(path)
            )
        dataset = dataset[source.split]
    return dataset.to_iterable_dataset(num_shards=_saved_shards(dataset)) if source.streaming else dataset


def _saved_shards(dataset: Any) -> int:
    return max(1, len(dataset.cache_files))


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
