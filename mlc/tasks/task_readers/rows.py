"""What readers hand on: rows as their file has them, and records that cannot be used, each with its place.

In:  nothing but values for messages.
Out: `Row`, `RecordError`, `Reading` (what the caller asked for).

A `RecordError` concerns one record and can be set aside. Any other DataError concerns the whole file and cannot.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from mlc.data.text import REMOVED_RANGES, SPACE_RANGES
from mlc.errors import DataError
from mlc.tasks.examples import Place, TaskKind

Form = Literal["json_lines", "json", "tsv", "csv", "parquet", "conll", "moses", "hub"]

SET_ASIDE_HINT = 'correct the record, or set such records aside: bad_records = "set_aside"'


@dataclass(frozen=True, slots=True)
class Reading:
    """What a caller of `read_task` asked for; the attributes are its arguments."""

    kind: TaskKind
    columns: Mapping[str, str | int]
    language: str
    target_language: str
    labels: frozenset[str] | None
    gold_is_needed: bool
    limit: int | None

    @property
    def numbered_columns(self) -> dict[str, int] | None:
        """The columns by their number from 1; None where they go by name."""
        numbers = {role: column for role, column in self.columns.items() if isinstance(column, int)}
        return numbers or None


@dataclass(frozen=True, slots=True)
class Row:
    """One record as its file has it: values by column. `place.language` is set where the form itself states it."""

    place: Place
    fields: dict[str, Any]


class RecordError(DataError):
    """One record cannot be used.

    Args:
        problem: the same words for the same mistake, so that mistakes can be counted.
        place: of the record, or of the line in it.
        found, needed, hint: as in MlcError; `found` is shown by `repr`, shortened.
    """

    def __init__(
        self, problem: str, place: Place, *, found: object = None, needed: str | None = None, hint: str | None = None
    ) -> None:
        shown = None if found is None else shorten(found)
        super().__init__(problem, found=shown, needed=needed, where=str(place), hint=hint or SET_ASIDE_HINT)
        self.place = place

    def of_record(self, number: int) -> RecordError:
        """The same error, of the record with this number in its file."""
        self.place = replace(self.place, record=number)
        return self


def shorten(value: object, characters: int = 160) -> str:
    """A value as an error shows it: `repr`, the middle left out where it is long; half surrogates are escaped."""
    if isinstance(value, str):
        value = value if len(value) <= characters else f"{value[: characters - 20]} ... {value[-15:]}"
        return repr(value)
    try:
        text = repr(value)
    except RecursionError:  # lists in lists in lists, as JSON may have them
        text = type(value).__name__
    return text if len(text) <= characters else f"{text[: characters - 20]} ... {text[-15:]}"


def _class(ranges: tuple[tuple[int, int], ...]) -> str:
    return "".join(f"\\u{first:04x}-\\u{last:04x}" for first, last in ranges)


_SOMETHING = re.compile(f"[^{_class((*SPACE_RANGES, *REMOVED_RANGES, (0xD800, 0xDFFF)))}]")
_HALF_SURROGATE = re.compile("[\ud800-\udfff]")


def text_of(value: object, column: str, place: Place) -> str:
    """A text that a model can read, as it stands.

    Raises:
        RecordError: it is no string; nothing is left of it after `mlc.data.text.clean_text` (white space, control
            characters); or it holds half of a surrogate pair, which is no character and cannot be encoded.
    """
    if not isinstance(value, str):
        raise RecordError(f'"{column}" is no text', place, found=value, needed="a string")
    if _SOMETHING.search(value) is None:
        raise RecordError(f'"{column}" is empty', place, found=value, needed="a text with visible characters")
    if not value.isascii() and _HALF_SURROGATE.search(value):
        raise RecordError(f'"{column}" holds half of a surrogate pair', place, found=value, needed="whole characters")
    return value
