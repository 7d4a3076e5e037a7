"""Translation memories (TMX 1.4b) as records.

In:  the bytes of a file: UTF-8, or what its byte-order mark or XML declaration says.
Out: a `Record` or `Rejected` for each unit of translation, `<tu>`.

Units are found by their tags (outside comments and CDATA) and parsed one by one. So memory is that of one unit, a unit
that is no XML costs one unit, and no document type is ever read: entities beyond XML's own five are refused, whatever
they would expand to.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from xml.etree import ElementTree

from data_prep.readers.lines import LineCount, LongLine, first_bytes
from data_prep.readers.record import Record, Rejected, rejected
from data_prep.readers.rows import RowReader, refuse_empty
from data_prep.readers.source import SourceFormat
from mlc.data.text import Unusable
from mlc.errors import DataError

_OUTSIDE = re.compile(rb"<!--|<tu(?=[\s/>])")
_INSIDE = re.compile(rb"<!--|<!\[CDATA\[|<tu(?=[\s/>])|</tu\s*>")
_ENDS = {b"<!--": b"-->", b"<![CDATA[": b"]]>"}
_LONGEST_TAG_BYTES = 64
_DECLARATION_BYTES = 256
_DECLARED = re.compile(rb"""^(?:\xef\xbb\xbf)?\s*<\?xml[^>]*encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
_MARKS = ((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
_INLINE_CODES = (
    "bpt",
    "ept",
    "it",
    "ph",
    "ut",
)  # formatting of the original file, no text (TMX 1.4b, "inline elements")
_REPLACED = "\ufffd".encode()
_NO_UTF8 = b"\xff"


def tmx_records(chunks: Iterable[bytes], source: SourceFormat, count: LineCount) -> Iterator[Record | Rejected]:
    """Every unit of a file; `count` counts them.

    Args:
        chunks: the file's content.
        source: its `languages` are the sides to take; `group_fields` attributes of `<tu>`.
        count: gets the number of units.

    Raises:
        DataError: the file says it has an encoding that nobody knows.
    """
    rows = RowReader(source)
    for unit in _units(_as_utf8(iter(chunks)), source.max_line_bytes):
        count.lines += 1
        if isinstance(unit, LongLine):
            yield unit.rejected(count.lines, source.max_line_bytes)
            continue
        try:
            record: Record | Rejected = _record(unit, count.lines, source, rows)
        except Unusable as unusable:
            record = rejected(count.lines, unusable.reason, unusable.detail, unit)
        yield record


def _record(unit: bytes, number: int, source: SourceFormat, rows: RowReader) -> Record:
    try:
        element = ElementTree.fromstring(unit)
    except (ElementTree.ParseError, ValueError) as error:
        raise Unusable(*_problem(unit, error)) from None
    sides: dict[str, ElementTree.Element] = {}
    for variant in element.iterfind("tuv"):
        code = (variant.get(_LANGUAGE) or variant.get("lang") or "").lower()
        segment = variant.find("seg")
        if segment is not None:
            sides.setdefault(code, segment)
    texts = tuple(_text(_side(sides, language)) for language in source.languages)
    refuse_empty(texts)
    return Record(texts, rows.group(element.attrib), number)


def _problem(unit: bytes, error: Exception) -> tuple[str, str]:
    try:
        unit.decode()
    except UnicodeDecodeError as undecodable:
        return "undecodable", str(undecodable)
    return "broken_xml", str(error)


def _side(sides: dict[str, ElementTree.Element], language: str) -> ElementTree.Element:
    wanted = language.lower()
    for code, segment in sides.items():
        if code == wanted:
            return segment
    for code, segment in sides.items():
        if re.split("[-_]", code)[0] == wanted:
            return segment
    raise Unusable("missing_language", language)


def _text(segment: ElementTree.Element) -> str:
    """The text of a segment, that of inline elements included, without inline codes. Nested as deep as it may be."""
    parts: list[str] = []
    left: list[str | ElementTree.Element] = [segment]
    while left:
        item = left.pop()
        if isinstance(item, str):
            parts.append(item)
            continue
        for child in reversed(item):
            left.append(child.tail or "")
            if child.tag not in _INLINE_CODES:
                left.append(child)
        parts.append(item.text or "")
    return "".join(parts)


def _units(chunks: Iterator[bytes], limit_bytes: int) -> Iterator[bytes | LongLine]:
    """The units of translation as they stand in the file."""
    scanner = _Scanner(limit_bytes)
    for chunk in chunks:
        yield from scanner.feed(chunk)
    yield from scanner.end()


class _Scanner:
    """Cuts XML, given in chunks, at its units."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held = bytearray()  # from the beginning of the unit on, else what has not been searched
        self._searched = 0  # of `_held`
        self._inside = False
        self._passes_to = b""  # the end of a comment or CDATA section
        self._long: LongLine | None = None

    def feed(self, chunk: bytes) -> Iterator[bytes | LongLine]:
        """The units that end in this chunk."""
        self._held += chunk
        start = 0
        while (found := self._next_tag()) is not None:
            if self._inside:
                at = found.end() if found[0].startswith(b"</") else found.start()  # a new one: this has no end
                yield self._long or self._unit(bytes(self._held[start:at]))
            self._inside, self._long, start = not found[0].startswith(b"</"), None, found.start()
        drop = start if self._inside and not self._long else self._searched
        if self._inside and not self._long and len(self._held) - start > self._limit_bytes:
            self._long = LongLine(first_bytes([bytes(self._held[start : start + _LONGEST_TAG_BYTES * 16])]))
            drop = self._searched
        del self._held[:drop]
        self._searched -= drop

    def end(self) -> Iterator[bytes | LongLine]:
        """The unit that the end of the file cuts short, if there is one."""
        if self._inside:
            yield self._long or self._unit(bytes(self._held))

    def _unit(self, unit: bytes) -> bytes | LongLine:
        return unit if len(unit) <= self._limit_bytes else LongLine(first_bytes([unit]))

    def _next_tag(self) -> re.Match[bytes] | None:
        """The next tag that begins or ends a unit; None: the rest of it must come first."""
        while True:
            if self._passes_to:
                at = self._held.find(self._passes_to, self._searched)
                if at < 0:
                    self._searched = max(self._searched, len(self._held) - len(self._passes_to) + 1)
                    return None
                self._searched, self._passes_to = at + len(self._passes_to), b""
            found = (_INSIDE if self._inside else _OUTSIDE).search(self._held, self._searched)
            if found is None:
                self._searched = max(self._searched, len(self._held) - _LONGEST_TAG_BYTES)
                return None
            self._searched = found.end()
            self._passes_to = _ENDS.get(found[0], b"")
            if not self._passes_to:
                return found


def _as_utf8(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The file in UTF-8; what cannot be decoded becomes a byte that UTF-8 does not have: its unit is then refused."""
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= _DECLARATION_BYTES:
            break
    encoding = next((name for mark, name in _MARKS if head.startswith(mark)), "")
    if not encoding and (declared := _DECLARED.match(head[:_DECLARATION_BYTES])):
        encoding = declared[1].decode().lower()
    if encoding in ("", "utf-8", "utf8", "us-ascii", "ascii"):
        yield head
        yield from chunks
        return
    try:
        decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
        yield decoder.decode(head).encode().replace(_REPLACED, _NO_UTF8)
        for chunk in chunks:
            yield decoder.decode(chunk).encode().replace(_REPLACED, _NO_UTF8)
        yield decoder.decode(b"", final=True).encode().replace(_REPLACED, _NO_UTF8)
    except (LookupError, TypeError, UnicodeError) as error:
        raise DataError("the file's encoding cannot be read", found=f"{encoding}: {error}", needed="UTF-8") from None
