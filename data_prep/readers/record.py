"""What every reader gives: records, and records set aside with the reason.

In:  what one line, row or unit of translation holds.
Out: `Record` or `Rejected`. Line numbers count from the start of the range that was read (`ranges.py`), from 1.
"""

from __future__ import annotations

from dataclasses import dataclass

KEPT_CHARACTERS = 200
"""Of a rejected record, so that a person can find it."""


@dataclass(frozen=True, slots=True)
class Record:
    """One text, or the two sides of a pair, as the file has them.

    Attributes:
        texts: [1] or [2], none of them empty or white space only.
        group: `mlc.data.manifest.group_number` of its key, or -1.
        line: number of its first line (row, unit of translation) in the range, from 1.
        language: what the record's language field says; empty where none is read.
    """

    texts: tuple[str, ...]
    group: int
    line: int
    language: str = ""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record set aside: where it begins in the range, why, and how it begins (at most `KEPT_CHARACTERS`)."""

    line: int
    reason: str
    detail: str
    beginning: str


def rejected(line: int, reason: str, detail: str, content: bytes | str) -> Rejected:
    """A record to set aside, of whose content the beginning is kept; bytes that are not UTF-8 become U+FFFD."""
    if isinstance(content, bytes):
        content = content[: 4 * KEPT_CHARACTERS].decode(errors="replace")
    return Rejected(line, reason, detail[:KEPT_CHARACTERS], content[:KEPT_CHARACTERS])
