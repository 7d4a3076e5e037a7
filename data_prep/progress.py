"""What a person sees while a build runs.

In:  counts, as the steps of a build report them.
Out: a progress bar on a terminal (`RichProgress`), or nothing (`Progress`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from data_prep.board import Board, Counts, notes_in
from data_prep.project import STAGE_NAMES, STAGES_OF_UNITS, Project

BOARD = "board"
_SECONDS_BETWEEN_LOOKS = 0.5


class Progress:
    """Counts that nobody looks at; the base of those that are shown."""

    shows = False
    """Whether anybody looks."""

    def phase(self, name: str, total_bytes: int | None = None) -> None:
        """A new step begins; `total_bytes` of source files lie before it (None: not known)."""

    def show(self, counts: Counts) -> None:
        """What all processes have done in this step, as far as is known."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


def board_folder(project: Project, stage: str) -> Path:
    """Where all processes count what they do in a stage."""
    return project.work / BOARD / stage.replace(" ", "-")


@contextmanager
def watched(project: Project, progress: Progress) -> Iterator[None]:
    """Show what the processes of a build do, wherever they are, until the context is left."""
    if not progress.shows:
        yield
        return
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(project, progress, over), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _watch(project: Project, progress: Progress, over: threading.Event) -> None:
    shown = ""
    while not over.wait(_SECONDS_BETWEEN_LOOKS):
        begun = [name for name in STAGE_NAMES if notes_in(board_folder(project, name))]
        if begun and begun[-1] != shown:
            shown = begun[-1]
            total_bytes = sum(unit.bytes for unit in project.all_units) if shown in STAGES_OF_UNITS else None
            progress.phase(shown, total_bytes)
        if shown:
            progress.show(Board(board_folder(project, shown)).totals())


class RichProgress(Progress):
    """One bar for each step: bytes read, documents, tokens a second.

    Args:
        console: where to draw.
        note: who this is, such as "rank 0 of 4".
        redraws_per_second: few where a launcher passes every redraw on.
    """

    shows = True

    def __init__(self, console: Console, note: str = "", redraws_per_second: float = 5) -> None:
        self._note = f"{note}: " if note else ""
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:>3.0f} % {task.fields[counts]}"),
            TimeRemainingColumn(),
            console=console,
            refresh_per_second=redraws_per_second,
        )
        self._task: TaskID | None = None
        self._read = 0
        self._started = time.monotonic()

    def phase(self, name: str, total_bytes: int | None = None) -> None:
        """See `Progress`."""
        self._complete()
        self._task = self._bars.add_task(self._note + name, total=total_bytes, counts="")
        self._read = 0
        self._started = time.monotonic()

    def show(self, counts: Counts) -> None:
        """See `Progress`."""
        self._read = counts.bytes
        if self._task is None:
            return
        seconds = max(time.monotonic() - self._started, 1e-9)
        shown = f"{decimal(counts.bytes)} {counts.documents:,} documents {counts.tokens / seconds:,.0f} tokens/s"
        self._bars.update(self._task, completed=counts.bytes, counts=shown)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._complete()
        self._bars.stop()

    def _complete(self) -> None:
        """A step may read less than the files' sizes promised (max_documents), or have no size at all."""
        if self._task is not None:
            self._bars.update(self._task, total=self._read or 1, completed=self._read or 1)
