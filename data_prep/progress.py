"""What a person sees while a build runs.

In:  counts, as the steps of a build report them.
Out: a progress bar on a terminal (`RichProgress`), or nothing (`Progress`).
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars


class Progress:
    """Counts that nobody looks at; the base of those that are shown."""

    def phase(self, name: str, total_bytes: int | None = None) -> None:
        """A new step begins; `total_bytes` of source files lie before it (None: not known)."""

    def item(self, name: str) -> None:
        """The step has come to this shard."""

    def bytes(self, count: int) -> None:
        """So many more bytes of source files were read."""

    def done(self, documents: int, tokens: int) -> None:
        """So many more documents and tokens were written."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class RichProgress(Progress):
    """One bar for each step: bytes read, the shard at hand, documents, tokens a second.

    Args:
        console: where to draw.
        note: who this is, such as "rank 0 of 4".
        redraws_per_second: few where a launcher passes every redraw on.
    """

    def __init__(self, console: Console, note: str = "", redraws_per_second: float = 5) -> None:
        self._note = f"{note}: " if note else ""
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:>3.0f} % {task.fields[counts]}{task.fields[item]}"),
            TimeRemainingColumn(),
            console=console,
            refresh_per_second=redraws_per_second,
        )
        self._task: TaskID | None = None
        self._documents = self._tokens = self._read = 0
        self._started = time.monotonic()

    def phase(self, name: str, total_bytes: int | None = None) -> None:
        """See `Progress`."""
        self._complete()
        self._task = self._bars.add_task(self._note + name, total=total_bytes, counts="", item="")
        self._documents = self._tokens = self._read = 0
        self._started = time.monotonic()

    def item(self, name: str) -> None:
        """See `Progress`."""
        if self._task is not None:
            self._bars.update(self._task, item=name)

    def bytes(self, count: int) -> None:
        """See `Progress`."""
        self._read += count
        if self._task is not None:
            self._bars.advance(self._task, count)

    def done(self, documents: int, tokens: int) -> None:
        """See `Progress`."""
        self._documents += documents
        self._tokens += tokens
        rate = self._tokens / max(time.monotonic() - self._started, 1e-9)
        if self._task is not None:
            self._bars.update(self._task, counts=f"{self._documents:,} documents {rate:,.0f} tokens/s ")

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
            self._bars.update(self._task, total=self._read or 1, completed=self._read or 1, item="")
