"""A row with named fields (a JSON object, a row of a table) as a record.

In:  a mapping of field names to values, and its line.
Out: a `Record`, or `Unusable` with the reason why it is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_prep.readers.record import Record
from data_prep.readers.source import SourceFormat
from mlc.data.manifest import NO_GROUP, group_number
from mlc.data.text import Unusable


class RowReader:
    """Picks what a source asks for out of its rows."""

    def __init__(self, source: SourceFormat) -> None:
        self.names = (*source.text_fields, *source.group_fields, *filter(None, [source.language_field]))
        self._texts, self._groups = source.text_fields, source.group_fields
        self._group_required, self._language = source.group_required, source.language_field

    def record(self, row: Mapping[str, Any], line: int) -> Record:
        """The record of a row.

        Raises:
            Unusable: missing_field, wrong_type, undecodable (of bytes), or empty.
        """
        texts = tuple([_text(row, name) for name in self._texts])
        group = self.group(row) if self._groups else NO_GROUP
        language = _text(row, self._language) if self._language else ""
        if self._language and not language:
            raise Unusable("missing_field", self._language)
        refuse_empty(texts)
        return Record(texts, group, line, language)

    def has_inexact_key(self, row: Mapping[str, Any]) -> bool:
        """Whether a part of the key is a float, which may have been an integer too large for the parser."""
        return any(isinstance(_value(row, name), float) for name in self._groups)

    def group(self, row: Mapping[str, Any]) -> int:
        """The group number of a row's key, or -1; raises `Unusable` where one is required."""
        key = [_key_part(row, name) for name in self._groups]
        if None not in key:
            return group_number(*key)  # type: ignore[arg-type]
        if self._group_required:
            raise Unusable("missing_field", self._groups[key.index(None)])
        return NO_GROUP


def refuse_empty(texts: tuple[str, ...]) -> None:
    """Refuse a record of which a side has nothing but white space.

    Raises:
        Unusable: empty.
    """
    for text in texts:
        if not text or text.isspace():
            raise Unusable("empty", "no text is left" if len(texts) == 1 else "a side of the pair has no text")


def _value(row: Mapping[str, Any], name: str) -> Any:
    value = row.get(name)
    if value is None and "." in name and name not in row:
        for part in name.split("."):
            if not isinstance(row, Mapping):
                return None
            row = value = row.get(part)  # type: ignore[assignment]
    return value


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if type(value) is str:
        return value
    value = _value(row, name)
    if value is None:
        raise Unusable("missing_field", name)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise Unusable("undecodable", f"{name}: {error}") from None
    if not isinstance(value, str):
        raise Unusable("wrong_type", f"{name} is no string")
    return value


def _key_part(row: Mapping[str, Any], name: str) -> str | None:
    value = _value(row, name)
    if value is None or value == "" or type(value) is str:
        return value or None
    if not isinstance(value, int) or isinstance(value, bool):
        raise Unusable("wrong_type", f"{name} is no string or integer")
    return str(value)
