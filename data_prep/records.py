"""Source files as records: a text (or the two of a pair) and its group, or the reason why there is none.

In:  a `Source` of the plan.
Out: `Record`s and `Rejected`s in the order of the files. Bad data never raises.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.plan import Source
from mlc.data.manifest import NO_GROUP, group_number
from mlc.data.text import Unusable
from mlc.data.text_lines import COMPRESSED, read_lines

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
KEPT_CHARACTERS = 200
"""Of a rejected record, so that a person can find it."""


@dataclass(frozen=True, slots=True)
class Record:
    """One text, or the two sides of a pair, as the file has them.

    Attributes:
        texts: [1] or [2].
        group: `mlc.data.manifest.group_number` of its key, or -1.
    """

    file: Path
    line: int
    texts: tuple[str, ...]
    group: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record set aside: where it is, why, and how it begins."""

    file: Path
    line: int
    reason: str
    detail: str
    beginning: str


def read_records(source: Source, on_bytes: Callable[[int], None]) -> Iterator[Record | Rejected]:
    """Every record of a source's files; arguments as in `read_lines`."""
    for file in source.files:
        lines = read_lines(file, on_bytes)
        if _is_json(source, file):
            yield from (_json_record(source, file, line, content) for line, content in lines if content.strip())
        else:
            yield from _text_records(source, file, lines)


def _is_json(source: Source, file: Path) -> bool:
    if source.format != "auto":
        return source.format == "jsonl"
    name = file.with_suffix("") if file.suffix in COMPRESSED else file
    return name.suffix in JSON_SUFFIXES


def _text_records(source: Source, file: Path, lines: Iterator[tuple[int, bytes]]) -> Iterator[Record | Rejected]:
    start = 0
    held: list[bytes] = []
    for number, content in lines:
        if content.strip():
            start = start if held else number
            held.append(content)
        if held and (source.separator == "line" or not content.strip()):
            yield _text_record(file, start, b"\n".join(held))
            held = []
    if held:
        yield _text_record(file, start, b"\n".join(held))


def _text_record(file: Path, line: int, content: bytes) -> Record | Rejected:
    try:
        return Record(file, line, (content.decode(),), NO_GROUP)
    except UnicodeDecodeError as error:
        return _rejected(file, line, "undecodable", str(error), content)


def _json_record(source: Source, file: Path, line: int, content: bytes) -> Record | Rejected:
    try:
        record = _json_object(content)
        texts = tuple(_text(record, name) for name in source.text_fields)
        key = [_key_part(record, name, source.group_required) for name in source.group_fields]
    except Unusable as unusable:
        return _rejected(file, line, unusable.reason, unusable.detail, content)
    whole_key = [part for part in key if part is not None]
    group = group_number(*whole_key) if whole_key and len(whole_key) == len(key) else NO_GROUP
    return Record(file, line, texts, group)


def _json_object(content: bytes) -> dict[str, Any]:
    try:
        record = json.loads(content.decode())
    except UnicodeDecodeError as error:
        raise Unusable("undecodable", str(error)) from None
    except (ValueError, RecursionError) as error:
        raise Unusable("broken_json", str(error)) from None
    if not isinstance(record, dict):
        raise Unusable("not_an_object", type(record).__name__)
    return record


def _text(record: dict[str, Any], name: str) -> str:
    value = record.get(name)
    if value is None:
        raise Unusable("missing_field", name)
    if not isinstance(value, str):
        raise Unusable("wrong_type", f"{name} is no string")
    return value


def _key_part(record: dict[str, Any], name: str, required: bool) -> str | None:
    value = record.get(name)
    if value is None and required:
        raise Unusable("missing_field", name)
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, int) or isinstance(value, bool):
        raise Unusable("wrong_type", f"{name} is no string or integer")
    return str(value)


def _rejected(file: Path, line: int, reason: str, detail: str, content: bytes) -> Rejected:
    return Rejected(
        file, line, reason, detail, content[: 4 * KEPT_CHARACTERS].decode(errors="replace")[:KEPT_CHARACTERS]
    )
