"""Small valid files of every format that data_prep reads, and plain readings of them to compare with.

In:  rows, as (id, text).
Out: a file's bytes; how it is read; a reference reading of any bytes in its format, written without data_prep, or None
     where nobody can say what is right.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from data_prep.readers import Record, Rejected, SourceFormat, plan_ranges, read_range
from mlc.errors import DataError, RecipeError

LIMIT_BYTES = 500
"""Of a line, row or unit."""
TEXTS = [f"text {i} ä中\U0001f600 {'x' * (i % 7)}" for i in range(12)]
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}
Row = tuple[Any, Any]
Reading = list[tuple[int, tuple[str, ...] | None]]
"""(line, texts) of each record, (line, None) of each one set aside."""


@dataclass(frozen=True)
class Kind:
    """A format.

    Attributes:
        name: of its files, without a compression.
        write: rows to bytes; a value that is no string is written as the format can.
        reference: reading of any bytes; None where it is not decidable.
        header_bytes: of a file of the given bytes, how many come before the first row.
        compressed: whether such files are read compressed.
    """

    name: str
    write: Callable[[Sequence[Row]], bytes]
    reference: Callable[[bytes], Reading | None]
    header_bytes: Callable[[bytes], int] = lambda content: 0
    compressed: bool = True


def source_of(path: Path) -> SourceFormat:
    """How a file is read, by its name; the sides of line-aligned files are the same file."""
    if path.name.startswith("a.moses"):
        return SourceFormat("moses", second_path=str(path), max_line_bytes=LIMIT_BYTES)
    if path.name.startswith("a.tmx"):
        return SourceFormat("tmx", languages=("en", "de"), max_line_bytes=LIMIT_BYTES)
    separator = "line" if path.name.startswith("a.lines") else "blank_line"
    return SourceFormat(group_fields=("id",), separator=separator, max_line_bytes=LIMIT_BYTES)


def read(path: Path, unit_bytes: int) -> list[Record | Rejected] | None:
    """All records, numbered from the file's start; None where the file is one that cannot be read."""
    source, lines = source_of(path), 0
    records: list[Record | Rejected] = []
    try:
        for file_range in plan_ranges(path, source, unit_bytes):
            reader = read_range(path, file_range, source)
            records += [replace(record, line=record.line + lines) for record in reader]
            lines += reader.lines
    except DataError:
        return None
    except RecipeError:  # a damaged data set is one that cannot be opened
        if path.is_dir():
            return None
        raise
    return records


def as_reading(records: Sequence[Record | Rejected]) -> Reading:
    """Records as a reference reading gives them."""
    return [(record.line, record.texts if isinstance(record, Record) else None) for record in records]


def _lines(content: bytes) -> list[bytes]:
    """Lines of a file with their carriage returns; no byte-order mark."""
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    return lines if lines[-1] else lines[:-1]


def _without_return(line: bytes) -> bytes:
    return line[:-1] if line[-1:] == b"\r" else line


def _usable(value: object) -> bool:
    return isinstance(value, str) and bool(value) and not value.isspace()


def _decoded(content: bytes) -> str | None:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    return text if _usable(text) else None


def _lines_reading(content: bytes) -> Reading:
    found: Reading = []
    for number, line in enumerate(_lines(content), 1):
        if not line.strip():
            continue
        text = None if len(line) > LIMIT_BYTES else _decoded(_without_return(line))
        found.append((number, None if text is None else (text,)))
    return found


def _blank_line_reading(content: bytes) -> Reading:
    found: Reading = []
    held: list[bytes] = []
    start = 0
    for number, line in enumerate([*_lines(content), b""], 1):
        if line.strip():
            start = start or number
            held.append(line)
        elif held:
            document = b"\n".join(map(_without_return, held))
            long = any(len(part) > LIMIT_BYTES for part in held) or len(document) > LIMIT_BYTES
            text = None if long else _decoded(document)
            found.append((start, None if text is None else (text,)))
            held, start = [], 0
    return found


def _json_text(line: bytes) -> tuple[str] | None:
    try:
        row = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not _usable(row.get("text")):
        return None
    key = row.get("id")
    return None if isinstance(key, bool) or not isinstance(key, str | int | None) else (row["text"],)


def _jsonl_reading(content: bytes) -> Reading:
    return [
        (number, None if len(line) > LIMIT_BYTES else _json_text(_without_return(line)))
        for number, line in enumerate(_lines(content), 1)
        if line.strip()
    ]


def _tsv_reading(content: bytes) -> Reading | None:
    lines = _lines(content)
    if not lines or lines[0].rstrip(b"\r") != b"id\ttext":
        return None
    found: Reading = []
    for number, line in enumerate(lines[1:], 2):
        fields = _without_return(line).split(b"\t")
        if len(line) > LIMIT_BYTES or len(fields) != 2:
            found += [(number, None)] if _without_return(line) else []
            continue
        key, text = (_decoded(field) if field else "" for field in fields)
        found.append((number, None if not text or (key is None and not _is_utf8(fields[0])) else (text,)))
    return found


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _csv_reading(content: bytes) -> Reading | None:
    """What Python's csv makes of it, where no line is too long, nothing undecodable, and every quote ends."""
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    plain = content.replace(b"\r\n", b"\n")
    odd = b"\r" in plain or b"\0" in content or not _is_utf8(content)
    if odd or not content.startswith(b"id,text\n") or max(map(len, lines)) > LIMIT_BYTES // 2:
        return None
    last = ["the end"]
    reader = csv.reader(io.StringIO(f"{plain.decode()}\n{last[0]}", newline=""), strict=False)
    found: Reading = []
    before = 0
    for row in reader:
        if row == last:
            return found
        start, before = before + 1, reader.line_num
        if not row or start == 1:
            continue
        if before > start:  # a quote that goes over lines may be one without an end
            return None
        found.append((start, (row[1],) if len(row) == 2 and _usable(row[1]) else None))
    return None  # the end is within quotes


def _moses_reading(content: bytes) -> Reading:
    found: Reading = []
    for number, line in enumerate(_lines(content), 1):
        text = None if len(line) > LIMIT_BYTES else _decoded(_without_return(line))
        found.append((number, None if text is None else (text, text)))
    return found


def _undecidable(content: bytes) -> None:
    return None


def as_line(value: Any) -> str:
    """A value where a format has nothing but text."""
    return value if isinstance(value, str) else json.dumps(value)


def _write_jsonl(rows: Sequence[Row]) -> bytes:
    return "\n".join(json.dumps({"id": key, "text": text}) for key, text in rows).encode()


def _write_lines(separator: str) -> Callable[[Sequence[Row]], bytes]:
    return lambda rows: separator.join(as_line(text) for _, text in rows).encode("utf-8", "surrogatepass")


def _write_csv(rows: Sequence[Row]) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
    file.write("id,text\n")
    writer.writerows([as_line(key), as_line(text)] for key, text in rows)
    return file.getvalue().encode("utf-8", "surrogatepass")


def _write_tsv(rows: Sequence[Row]) -> bytes:
    lines = ["id\ttext", *(f"{as_line(key)}\t{as_line(text)}" for key, text in rows)]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _write_parquet(rows: Sequence[Row]) -> bytes:
    file = io.BytesIO()
    columns = {
        name: pa.array([None if row[i] is None else as_line(row[i]).encode("utf-8", "surrogatepass") for row in rows])
        for i, name in enumerate(("id", "text"))
    }
    table = pa.table({name: column.cast(pa.binary()).view(pa.string()) for name, column in columns.items()})
    pq.write_table(table, file, row_group_size=5, write_page_checksum=True)
    return file.getvalue()


def _write_tmx(rows: Sequence[Row]) -> bytes:
    unit = '<tu id="{1}"><tuv xml:lang="en"><seg>{0}</seg></tuv><tuv xml:lang="de"><seg>{0}</seg></tuv></tu>\n'
    body = "".join(unit.format(as_line(text), as_line(key)) for key, text in rows)
    return f"<tmx><body>{body}</body></tmx>".encode("utf-8", "surrogatepass")


def _first_line(content: bytes) -> int:
    return content.find(b"\n") + 1


KINDS = (
    Kind("a.txt", _write_lines("\n\n"), _blank_line_reading),
    Kind("a.lines.txt", _write_lines("\n"), _lines_reading),
    Kind("a.jsonl", _write_jsonl, _jsonl_reading),
    Kind("a.csv", _write_csv, _csv_reading, _first_line),
    Kind("a.tsv", _write_tsv, _tsv_reading, _first_line),
    Kind("a.tmx", _write_tmx, _undecidable, lambda content: len(b"<tmx><body>")),
    Kind("a.moses", _write_lines("\n"), _moses_reading),
    Kind("a.parquet", _write_parquet, _undecidable, lambda content: 4, compressed=False),
)
ROWS: list[Row] = [(f"id{i}", text) for i, text in enumerate(TEXTS)]
