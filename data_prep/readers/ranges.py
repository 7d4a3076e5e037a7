"""Files as ranges that can be read alone, by any process: the pieces of work of a build.

In:  a path, how it is read, and how large a piece should be.
Out: `FileRange`s in order. Together they cover the file; a record belongs to the range in which it begins.

| file | ranges |
|---|---|
| text, jsonl, csv and tsv without quotes | bytes |
| the same as .zst | whole frames, found by their headers alone (one frame: one range) |
| Parquet | row groups |
| a data set | rows; shards where it is streamed |
| anything else | one range, the file |
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import zstandard

from data_prep.readers.source import SourceFormat, compression_of, format_of
from data_prep.readers.zstd_frames import FrameSpan, frame_spans
from mlc.errors import DataError, RecipeError

LINE_FORMATS = ("text", "jsonl", "csv", "tsv")


@dataclass(frozen=True, slots=True)
class FileRange:
    """A part of a file; plain values, so that it can be kept as JSON (`dataclasses.asdict`, `FileRange(**values)`).

    Attributes:
        kind: what `start` and `end` count: "bytes" of the file, "rows" (of Parquet: row groups; of a streamed data
            set: shards); "file": bytes, all of them.
        start, end: start <= i < end.
        bytes: its size on disk, for scheduling; what `read_range` reports as it goes adds up to it. Of moses the sum
            of both files; 0 where nobody knows (a streamed data set).
        before: of .zst: where the frame begins whose content comes before the range's.
    """

    kind: Literal["bytes", "file", "rows"]
    start: int
    end: int
    bytes: int
    before: int = 0


def plan_ranges(path: Path, source: SourceFormat, unit_bytes: int) -> list[FileRange]:
    """Cut a file into ranges of about `unit_bytes` on disk; at least one. The same file gives the same ranges.

    Raises:
        DataError: the file is missing or cut short.
        RecipeError: a data set that is not there, or a compressed file of a format that is not read compressed.
    """
    found = format_of(path, source.format)
    if found == "dataset":
        from data_prep.readers.huggingface import dataset_ranges

        return dataset_ranges(path, source, unit_bytes)
    compression = compression_of(path)
    try:
        if found == "parquet":
            _refuse_compression(path, compression)
            from data_prep.readers.parquet import row_group_ranges

            return row_group_ranges(path, unit_bytes)
        size = path.stat().st_size
        if found not in LINE_FORMATS or source.has_quotes(found) or compression in ("gz", "xz", "bz2"):
            return [FileRange("file", 0, size, size + _second_size(source))]
        if compression == "zst":
            return _frame_ranges(path, size, unit_bytes)
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise DataError(
            "the file cannot be read",
            found=str(error) or type(error).__name__,
            where=str(path),
            hint="fetch or compress the file again",
        ) from None
    return _byte_ranges(size, unit_bytes)


def _byte_ranges(size: int, unit_bytes: int) -> list[FileRange]:
    count = max(1, -(-size // unit_bytes))
    bounds = [size * i // count for i in range(count + 1)]
    return [FileRange("bytes", *span, span[1] - span[0]) for span in pairwise(bounds)]


def _frame_ranges(path: Path, size: int, unit_bytes: int) -> list[FileRange]:
    if size <= unit_bytes:
        return [FileRange("file", 0, size, size)]
    ranges: list[FileRange] = []
    held: list[FrameSpan] = []
    before = last_content = 0
    for span in frame_spans(path):
        if held and span.end - held[0].start > unit_bytes:
            ranges.append(_range_of(held, before))
            held, before = [], last_content
        held.append(span)
        if span.has_content:
            last_content = span.start
    return [*ranges, _range_of(held, before)]


def _range_of(frames: Sequence[FrameSpan], before: int) -> FileRange:
    start, end = frames[0].start, frames[-1].end
    return FileRange("bytes", start, end, end - start, before)


def _second_size(source: SourceFormat) -> int:
    return Path(source.second_path).stat().st_size if source.format == "moses" else 0


def _refuse_compression(path: Path, compression: str) -> None:
    if compression:
        raise RecipeError(
            "a compressed Parquet file is not read",
            found=str(path),
            needed="Parquet as it is: it is compressed inside",
            hint=f"decompress {path}",
        )
