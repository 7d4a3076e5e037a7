"""Files as lines of bytes, from any range on, in bounded memory.

In:  chunks of a file (`streams.py`).
Out: (number, line, whether it begins in the range), in order; a line beyond the limit is a `LongLine`.

A line is what ends with a line feed or the end of the file; the line feed, and a carriage return before it, are no part
of it, nor is a byte-order mark at the beginning of the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from data_prep.readers.ranges import FileRange
from data_prep.readers.record import KEPT_CHARACTERS, Rejected, rejected
from data_prep.readers.source import compression_of
from data_prep.readers.streams import range_chunks

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LOOKED_BACK_BYTES = 1 << 16
_KEPT_BYTES = 4 * KEPT_CHARACTERS


@dataclass(frozen=True, slots=True)
class LongLine:
    """A line of more bytes than the limit: how it begins, and whether it is white space only.

    How long it is nobody knows who does not read to its end.
    """

    beginning: bytes
    blank: bool = False

    def rejected(self, line: int, limit_bytes: int) -> Rejected:
        """The record it would have been."""
        return rejected(line, "too_long", f"more than {limit_bytes} bytes", self.beginning)


Line = tuple[int, bytes | LongLine, bool]


@dataclass(slots=True)
class LineCount:
    """How many lines (rows, units of translation) begin in a range, once it has been read to its end."""

    lines: int = 0


@dataclass(frozen=True, slots=True)
class Before:
    """What stands before a range.

    Attributes:
        head: the first bytes of the file's content, at most 3; empty where the range is its beginning.
        mid_line: the range begins within a line.
        blank: the last line before it, as far as it goes, is blank.
    """

    head: bytes
    mid_line: bool
    blank: bool


_NOTHING = Before(head=b"", mid_line=False, blank=True)


class Lines:
    """The lines of a range, and those behind it, as long as somebody asks for them.

    Attributes:
        from_first: the range's first line is the file's.
        after_blank: before the first line of the range stands a blank one, or nothing. Known once a line was asked for.
    """

    def __init__(
        self,
        path: Path,
        file_range: FileRange,
        chunks: Iterator[tuple[bytes, bool]],
        limit_bytes: int,
        count: LineCount,
    ) -> None:
        """Lines of `limit_bytes` at most from `chunks`, the content of `file_range` and what comes behind it.

        `count` gets the number of lines that begin in the range.
        """
        self._chunks, self._limit_bytes, self._count = chunks, limit_bytes, count
        self._before = look_before(path, file_range)
        self.from_first = not self._before.head
        self.after_blank = self._before.blank

    def __iter__(self) -> Iterator[Line]:
        first, skips = self.from_first, self._before.mid_line
        pending, number, begins_inside = _Pending(self._limit_bytes, first), 0, True
        for chunk, inside in self._chunks:
            if not inside and (skips or pending.is_settled):
                break  # nothing begins here, or nothing more is to be known of what did
            if not pending.bytes:
                begins_inside = inside
            pieces = chunk.split(b"\n")
            last = pieces.pop()
            for piece in pieces:
                if pending.bytes or len(piece) > self._limit_bytes:
                    pending.add(piece)
                    line = pending.take()
                else:
                    line = piece[:-1] if piece[-1:] == b"\r" else piece
                if skips:
                    self._skip(line)
                    skips = False
                else:
                    number += 1
                    self._count.lines += begins_inside
                    yield number, _without_mark(line) if first else line, begins_inside
                    first = False
                begins_inside = inside
            pending.add(last)
        if pending.bytes and not skips:
            self._count.lines += begins_inside
            line = pending.take()
            yield number + 1, _without_mark(line) if first else line, begins_inside

    def _skip(self, line: bytes | LongLine) -> None:
        """Pass over the end of a line that began before the range."""
        if isinstance(line, LongLine):
            self.after_blank = self._before.blank and line.blank
        elif len(self._before.head) < len(_BYTE_ORDER_MARK):  # it is all that stands before
            self.after_blank = not (self._before.head + line).removeprefix(_BYTE_ORDER_MARK).strip()
        else:
            self.after_blank = self._before.blank and not line.strip()


class _Pending:
    """The parts of a line that have been read so far; of a long one only the beginning."""

    def __init__(self, limit_bytes: int, first: bool) -> None:
        self.bytes = 0
        self._limit_bytes = limit_bytes
        self._first = first  # line of the file: only there is a byte-order mark no text
        self._parts: list[bytes] = []
        self._too_long = self._has_text = False

    @property
    def is_settled(self) -> bool:
        """Whether the rest of the line can change nothing: it is too long, and not blank."""
        return self._too_long and self._has_text

    def add(self, part: bytes) -> None:
        self.bytes += len(part)
        if self._too_long:
            self._has_text = self._has_text or bool(part.strip())
            return
        self._parts.append(part)
        if self.bytes > self._limit_bytes:
            line = b"".join(self._parts)
            self._parts = [line[: min(_KEPT_BYTES, self._limit_bytes)]]  # the same for chunks of any size
            text = line.removeprefix(_BYTE_ORDER_MARK) if self._first else line
            self._too_long, self._has_text = True, bool(text.strip())

    def take(self) -> bytes | LongLine:
        """The whole line; the next one begins."""
        line = b"".join(self._parts)
        long = LongLine(line, blank=not self._has_text) if self._too_long else None
        self.bytes, self._parts, self._first, self._too_long, self._has_text = 0, [], False, False, False
        return long or (line[:-1] if line[-1:] == b"\r" else line)


def first_bytes(parts: Iterable[bytes]) -> bytes:
    """As many first bytes of what the parts make as a rejected record keeps."""
    kept = b""
    for part in parts:
        kept += part[: _KEPT_BYTES - len(kept)]
        if len(kept) == _KEPT_BYTES:
            break
    return kept


def look_before(path: Path, file_range: FileRange) -> Before:
    """What stands before a range: from the frame before it, or the 64 KiB; from all of the file where that is unclear.

    Raises:
        One of `data_prep.readers.streams.READ_ERRORS`.
    """
    end = file_range.start
    if end == 0:
        return _NOTHING
    near = file_range.before if compression_of(path) else max(0, end - _LOOKED_BACK_BYTES)
    found = _look_from(path, near, end) if near else None
    return found or _look_from(path, 0, end) or _NOTHING


def _look_from(path: Path, start: int, end: int) -> Before | None:
    """As `look_before`, from bytes start <= i < end of the file; None where they hold nothing or leave it open."""
    chunks = range_chunks(path, FileRange("bytes", start, end, end - start), lambda count: None)
    head = last_byte = b""
    open_has_text = last_has_text = False
    line_ends = 0
    for chunk in _chunks_with_whole_mark(chunks):
        if head:
            content = chunk
        else:  # what comes first may end a byte-order mark that a frame cuts in two: it proves nothing
            content = chunk[len(_BYTE_ORDER_MARK) :] if start else chunk.removeprefix(_BYTE_ORDER_MARK)
        parts = content.rsplit(b"\n", 2)
        if len(parts) > 1:
            last_has_text = bool(parts[-2].strip()) or (len(parts) == 2 and open_has_text)
            open_has_text = False
        open_has_text |= bool(parts[-1].strip())
        line_ends = min(2, line_ends + len(parts) - 1)
        head, last_byte = head or chunk[: len(_BYTE_ORDER_MARK)], chunk[-1:]
    mid_line = last_byte != b"\n"
    has_text = open_has_text if mid_line else last_has_text
    seen_whole = line_ends > (0 if mid_line else 1)
    if not head or (start and not seen_whole and not has_text):
        return None
    return Before(head if start == 0 else _BYTE_ORDER_MARK, mid_line, not has_text)


def _chunks_with_whole_mark(chunks: Iterable[tuple[bytes, bool]]) -> Iterator[bytes]:
    """The chunks inside the range, the first one long enough for a byte-order mark if there is as much."""
    head, is_whole = b"", False
    for chunk, inside in chunks:
        if not inside:
            break
        if is_whole and chunk:
            yield chunk
        if is_whole:
            continue
        head += chunk
        if len(head) >= len(_BYTE_ORDER_MARK):
            is_whole = True
            yield head
    if head and not is_whole:
        yield head


def _without_mark(line: bytes | LongLine) -> bytes | LongLine:
    if isinstance(line, LongLine):
        return LongLine(line.beginning.removeprefix(_BYTE_ORDER_MARK), line.blank)
    return line.removeprefix(_BYTE_ORDER_MARK)
