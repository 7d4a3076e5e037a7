"""The logs of a run's starts as files: which there are, their last lines, and what is appended to them.

In:  a run folder; its logs while jobs append to them, cut them short, or put others in their place.
Out: `StartLog`s in order of their starts; folded lines; newly appended bytes.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from launchers.log_lines import Folder, Line, LineCutter, Said
from launchers.run_files import submission_folders
from launchers.run_state import Event, read_events

BLOCK_BYTES = 1 << 20
_FIRST_TAIL_BYTES = 1 << 16
_NAME = re.compile(r"([0-9]+)(?:_([0-9]+))?\.([0-9]+)\.log")

Reader = Callable[[bytes], Line | None]
"""What a line says; None for one that is not asked for."""


@dataclass(frozen=True)
class StartLog:
    """`RUN/logs/<job>.<restart>.log`; `start` is the event of that start, if the batch script could write it."""

    path: Path
    job: str
    restart: int
    start: Event | None

    def header(self, number: int) -> str:
        """The line above its lines. `number`: of the start, from 1."""
        parts = [f"job {self.job}", f"start {number} (restart {self.restart})"]
        if self.start is not None:
            parts += [f"nodes {self.start.hosts}"] if self.start.hosts else []
            parts.append(f"{datetime.fromtimestamp(self.start.time, UTC):%Y-%m-%d %H:%M:%S} UTC")
        return f"== {', '.join(parts)}"


def start_logs(run_folder: Path) -> list[StartLog]:
    """Logs of all starts of a run, oldest first.

    Where no event tells when a start was, the time of its last line serves: a later start begins after that.
    """
    try:
        names = [match for match in map(_NAME.fullmatch, os.listdir(run_folder / "logs")) if match]
    except OSError:
        return []
    events = [event for submitted in submission_folders(run_folder) for event in read_events(submitted)]
    starts = {(event.job, event.restart): event for event in events if event.kind == "start"}
    dated = []
    for name in names:
        path, restart = run_folder / "logs" / name[0], int(name[3])
        log = StartLog(path, name[0].partition(".")[0], restart, starts.get((name[0].partition(".")[0], restart)))
        with suppress(OSError):
            time = log.start.time if log.start is not None else path.stat().st_mtime
            dated.append(((time, int(name[1]), int(name[2] or 0), restart), log))
    return [log for _, log in sorted(dated, key=lambda entry: entry[0])]


@dataclass(frozen=True)
class Tail:
    """The end of a log.

    Attributes:
        said: its last lines, folded.
        end_bytes: where the line begins that has not ended yet.
        begun: that line; b"" if there is none.
    """

    said: list[Said]
    end_bytes: int
    begun: bytes


def read_tail(path: Path, count: int, reader: Reader) -> Tail:
    """The last `count` folded lines of a log, read from its end; a file that is not there is empty."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            tail_bytes = min(size, _FIRST_TAIL_BYTES)
            while True:
                tail, folded = _read_from(file, size - tail_bytes, size, count, reader)
                # The first of them may have begun before the place where reading began.
                if folded > count or tail_bytes == size:
                    return tail
                tail_bytes = min(size, 4 * tail_bytes)
    except OSError:
        return Tail([], 0, b"")


def _read_from(file: BinaryIO, first: int, size: int, count: int, reader: Reader) -> tuple[Tail, int]:
    """The last folded lines of a part of a file, and how many folded lines the part has."""
    cutter, folder, last, folded = LineCutter(), Folder(), deque[Said](maxlen=count), 0
    file.seek(first)
    is_cut, left = first > 0, size - first

    def keep(said: Said | None) -> None:
        nonlocal folded
        if said is not None:
            last.append(said)
            folded += 1

    while left > 0 and (block := file.read(min(left, BLOCK_BYTES))):
        left -= len(block)
        for raw in cutter.feed(block):
            line = None if is_cut else reader(raw)
            is_cut = False
            if line is not None:
                keep(folder.feed(line))
    keep(folder.flush())
    end_bytes = size - left - cutter.begun_bytes
    return Tail(list(last), end_bytes, b"" if is_cut else cutter.flush()), folded


class GrowingFile:
    """A file that others append to, cut short, move away, or have not made yet."""

    def __init__(self, path: Path, position_bytes: int = 0) -> None:
        self._path = path
        self._position_bytes = position_bytes
        self._file: BinaryIO | None = None
        self.is_new = False
        """The last `read` began at the beginning of another content."""

    def read(self) -> bytes:
        """At most 1 MiB of what was appended since the last call; b"" if there is nothing."""
        self.is_new = False
        if self._file is None and not self._open(self._position_bytes):
            return b""
        assert self._file is not None
        if os.fstat(self._file.fileno()).st_size < self._file.tell():
            self._file.seek(0)
            self.is_new = True
        block = self._file.read(BLOCK_BYTES)
        if not block and self._was_replaced():  # what the old file had left was read first
            self.close()
            self.is_new = self._open(0)
            block = self._file.read(BLOCK_BYTES) if self._file is not None else b""
        return block

    def close(self) -> None:
        """It can be read again, from the beginning."""
        if self._file is not None:
            self._file.close()
        self._file, self._position_bytes = None, 0

    def _open(self, position_bytes: int) -> bool:
        try:
            self._file = self._path.open("rb", buffering=0)
        except OSError:
            return False
        self._file.seek(position_bytes)
        return True

    def _was_replaced(self) -> bool:
        assert self._file is not None
        try:
            named, opened = os.stat(self._path), os.fstat(self._file.fileno())
        except OSError:
            return False
        return (named.st_dev, named.st_ino) != (opened.st_dev, opened.st_ino)
