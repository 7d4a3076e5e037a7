"""Lines of logs: cut out of bytes, given to ranks, folded where ranks say the same, and made fit for a terminal.

In:  bytes as they were appended to a log, in pieces of any size.
Out: `Line`s with their rank, and `Said`: a text with all ranks that said it in a row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mlc.errors import UsageError

MOST_LINE_BYTES = 1 << 20

# srun --label pads the number of the task to the width of the largest one.
_SRUN_LABEL = re.compile(r" {0,9}([0-9]{1,9}): ?(.*)", re.DOTALL)
# torch puts this before its own messages, torchrun before all.
_TORCH_LABEL = re.compile(r"\[(?:rank|default)([0-9]{1,9})\]: ?(.*)", re.DOTALL)
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True)
class Line:
    """One line of a log. `rank` is None where it carries none: a message of srun or torchrun itself."""

    rank: int | None
    text: str


@dataclass(frozen=True)
class Said:
    """A text, and the ranks that said it directly after each other, in that order; none for a line without a rank."""

    ranks: tuple[int, ...]
    text: str


class LineCutter:
    """Puts lines together from pieces. Of a line of more than `most_bytes` the rest is counted and dropped."""

    def __init__(self, most_bytes: int = MOST_LINE_BYTES) -> None:
        self._most_bytes = most_bytes
        self._begun = bytearray()
        self._dropped_bytes = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """Lines, without their newlines, that end in this piece."""
        *ends, rest = piece.split(b"\n")
        lines = []
        for end in ends:
            self._append(end)
            lines.append(self.flush())
        self._append(rest)
        return lines

    @property
    def begun_bytes(self) -> int:
        """Bytes of the line that has not ended yet."""
        return len(self._begun) + self._dropped_bytes

    def flush(self) -> bytes:
        """The line that has not ended yet, which then counts as ended; b"" if there is none."""
        line = bytes(self._begun)
        if self._dropped_bytes:
            line += f" ... ({self._dropped_bytes:,} bytes more)".encode()
        self._begun.clear()
        self._dropped_bytes = 0
        return line

    def _append(self, piece: bytes) -> None:
        room = self._most_bytes - len(self._begun)
        self._begun += piece[:room]
        self._dropped_bytes += max(0, len(piece) - room)


class Folder:
    """Puts lines of the same text together that different ranks said directly after each other."""

    def __init__(self) -> None:
        self._ranks: list[int] = []
        self._text: str | None = None

    def feed(self, line: Line) -> Said | None:
        """What was said before this line, if this line does not belong to it."""
        if line.text == self._text and line.rank is not None and self._ranks and line.rank not in self._ranks:
            self._ranks.append(line.rank)
            return None
        before = self.flush()
        self._ranks, self._text = ([] if line.rank is None else [line.rank]), line.text
        return before

    def flush(self) -> Said | None:
        """What more ranks could still say, which then counts as said."""
        said = None if self._text is None else Said(tuple(self._ranks), self._text)
        self._ranks, self._text = [], None
        return said


def fold(lines: Iterable[Line]) -> list[Said]:
    """All lines, folded."""
    folder = Folder()
    said = [folder.feed(line) for line in lines]
    return [one for one in (*said, folder.flush()) if one is not None]


def parse_line(line: bytes) -> Line:
    """Rank and text of a line; bytes that are no UTF-8 become U+FFFD."""
    text = line.decode("utf-8", errors="replace")
    rank = None
    for label in (_SRUN_LABEL, _TORCH_LABEL):
        if match := label.match(text):
            rank, text = int(match[1]), match[2]
    return Line(rank, printable(text))


def printable(text: str) -> str:
    """One line that changes nothing but its own place on a terminal.

    Of a progress bar that is drawn over and over the last state is kept; escape sequences go, and control characters
    but tabs become their codes.
    """
    text = text.rstrip("\r").rpartition("\r")[2]
    if text.isprintable():  # nearly always, and much faster than to look for what is not
        return text
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", _ESCAPE.sub("", text))


def parse_ranks(texts: Sequence[str]) -> frozenset[int] | None:
    """Ranks from "0,3-5", several times; None, for all of them, if there is no text.

    Raises:
        UsageError: a text is no list of ranks.
    """
    ranks: set[int] = set()
    for part in ",".join(texts).split(",") if texts else ():
        match = re.fullmatch(r"\s*([0-9]{1,6})(?:-([0-9]{1,6}))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise UsageError("no list of ranks", found=part, needed="ranks and ranges, such as 0,3-5", where="--rank")
        ranks.update(range(first, last + 1))
    return frozenset(ranks) if texts else None


def format_ranks(ranks: Iterable[int]) -> str:
    """0, 3, 4 and 5 as "0,3-5"."""
    runs: list[list[int]] = []
    for rank in sorted(set(ranks)):
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
