"""Line-aligned files of two languages (the form of Moses and OPUS) as records.

In:  two files; line i of one translates line i of the other.
Out: a `Record` or `Rejected` for each two lines. Where one file has lines beyond the other, nobody knows which lines
     belong together, and the files are refused; blank lines at the end are nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path

from data_prep.readers.lines import LineCount, Lines, LongLine
from data_prep.readers.ranges import FileRange
from data_prep.readers.record import Record, Rejected, rejected
from data_prep.readers.rows import refuse_empty
from data_prep.readers.source import SourceFormat
from data_prep.readers.streams import range_chunks
from mlc.data.manifest import NO_GROUP
from mlc.data.text import Unusable
from mlc.errors import DataError

_SHOWN_SEPARATOR = b" | "


def moses_records(
    path: Path, source: SourceFormat, on_bytes: Callable[[int], None], count: LineCount
) -> Iterator[Record | Rejected]:
    """Every pair of lines; `path` is the first side, `source.second_path` the second, each plain or compressed.

    Raises:
        DataError: the files have different numbers of lines.
    """
    paths = (path, Path(source.second_path))
    lengths, is_text = [0, 0], False
    for number, pair in enumerate(zip_longest(*(_lines(side, source, on_bytes) for side in paths)), 1):
        count.lines = number
        for side, line in enumerate(pair):
            lengths[side] += line is not None
        first, second = pair
        if first is not None and second is not None:
            yield _pair(number, first, second, source.max_line_bytes)
        else:
            line = second if first is None else first
            is_text = is_text or isinstance(line, LongLine) or bool(line and line.strip())
    if is_text:
        raise DataError(
            "two line-aligned files have different numbers of lines",
            found=f"{lengths[0]:,} in {paths[0]}, {lengths[1]:,} in {paths[1]}",
            needed="line i of one to translate line i of the other",
            hint="align them again, or take them out of the recipe",
        )


def _lines(path: Path, source: SourceFormat, on_bytes: Callable[[int], None]) -> Iterator[bytes | LongLine]:
    whole = FileRange("file", 0, path.stat().st_size, 0)
    chunks = range_chunks(path, whole, on_bytes)
    return (content for _, content, _ in Lines(path, whole, chunks, source.max_line_bytes, LineCount()))


def _pair(number: int, first: bytes | LongLine, second: bytes | LongLine, limit_bytes: int) -> Record | Rejected:
    if isinstance(first, LongLine):
        return first.rejected(number, limit_bytes)
    if isinstance(second, LongLine):
        return second.rejected(number, limit_bytes)
    try:
        texts = (first.decode(), second.decode())
        refuse_empty(texts)
    except UnicodeDecodeError as error:
        return rejected(number, "undecodable", str(error), first + _SHOWN_SEPARATOR + second)
    except Unusable as unusable:
        return rejected(number, unusable.reason, unusable.detail, first + _SHOWN_SEPARATOR + second)
    return Record(texts, NO_GROUP, number)
