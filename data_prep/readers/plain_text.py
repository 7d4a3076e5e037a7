"""Plain text as records: a document is a line, or what stands between blank lines.

In:  the lines of a range.
Out: a `Record` or `Rejected` for each document whose first line begins in the range.
"""

from __future__ import annotations

from collections.abc import Iterator

from data_prep.readers.lines import Lines, LongLine, first_bytes
from data_prep.readers.record import Record, Rejected, rejected
from data_prep.readers.source import SourceFormat
from mlc.data.manifest import NO_GROUP


def text_records(lines: Lines, source: SourceFormat) -> Iterator[Record | Rejected]:
    """Every document that begins in the range."""
    if source.separator == "line":
        return _line_documents(lines, source.max_line_bytes)
    return _blank_line_documents(lines, source.max_line_bytes)


def _line_documents(lines: Lines, limit_bytes: int) -> Iterator[Record | Rejected]:
    for number, content, inside in lines:
        if not inside:
            return
        if not isinstance(content, LongLine):
            if content and not content.isspace():
                yield _document(number, content)
        elif not content.blank:
            yield content.rejected(number, limit_bytes)


def _blank_line_documents(lines: Lines, limit_bytes: int) -> Iterator[Record | Rejected]:
    held = _Held(limit_bytes)
    within = None  # a document that began before the range
    for number, content, inside in lines:
        if within is None:
            within = not lines.after_blank
        if content.blank if isinstance(content, LongLine) else not content or content.isspace():
            within = False
            if held.start:
                yield held.take()
            continue
        if not inside and (not held.start or held.too_long):
            break
        if not within:
            held.add(number, content)
    if held.start:
        yield held.take()


class _Held:
    """The lines of one document so far; of one that is too long only its beginning."""

    def __init__(self, limit_bytes: int) -> None:
        self.start = 0
        self.too_long = False
        self._bytes = 0
        self._limit_bytes = limit_bytes
        self._lines: list[bytes] = []

    def add(self, number: int, content: bytes | LongLine) -> None:
        self.start = self.start or number
        if self.too_long:
            return
        line = content.beginning if isinstance(content, LongLine) else content
        self._bytes += len(line) + bool(self._lines)
        self._lines.append(line)
        if isinstance(content, LongLine) or self._bytes > self._limit_bytes:
            self.too_long = True
            self._lines = [first_bytes(part + b"\n" for part in self._lines).rstrip(b"\n")]

    def take(self) -> Record | Rejected:
        """The document; the next one begins."""
        content, start, too_long = b"\n".join(self._lines), self.start, self.too_long
        self.start, self.too_long, self._bytes, self._lines = 0, False, 0, []
        if too_long:
            return LongLine(content).rejected(start, self._limit_bytes)
        return _document(start, content)


def _document(line: int, content: bytes) -> Record | Rejected:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        return rejected(line, "undecodable", str(error), content)
    if text.isspace():  # white space beyond ASCII
        return rejected(line, "empty", "no text is left", content)
    return Record((text,), NO_GROUP, line)
