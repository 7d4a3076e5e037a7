"""Requests to save and to stop: signals, files in the run folder, a time limit.

In:  signals to this rank; on rank 0 the files `RUN/stop` and `RUN/save`, and a clock.
Out: what this rank was asked for; the counts that ranks share at every step carry it to all of them.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from mlc.errors import MlcError

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
STOP_FILE, SAVE_FILE = "stop", "save"
SECONDS_BETWEEN_LOOKS = 1.0
"""A shared file system is asked for the two files at most so often, however short the steps are."""


class StopRequest:
    """Context in which SIGTERM, SIGINT and SIGUSR2 ask for a save and a clean end at the next step boundary.

    A second SIGINT acts as if nobody listened: it ends the process at once, and the run's last checkpoint stays whole.
    SIGTERM and SIGUSR2 may come again while the run still saves: SLURM warns, and sends SIGTERM at the beginning and
    at the end of a preempted job's time of grace.
    A file `stop` in the run folder asks for the same as a signal, a file `save` for a save alone; what is in them does
    not matter. A file system that cannot be asked has no such files: a request may come late, but a run never ends
    because of one that nobody made.

    Args:
        run_folder: where to look for the files; None on every rank but 0.
        time_limit_seconds: how long after the making of this object everything has to be over; 0 = no limit.
        now: a clock in seconds.
    """

    def __init__(
        self, run_folder: Path | None, time_limit_seconds: float = 0.0, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder, self._limit_seconds, self._now = run_folder, time_limit_seconds, now
        self._started = self._next_look = now()
        self._longest_step_seconds = self._longest_save_seconds = 0.0
        self._signal: str | None = None
        self._files: dict[str, int] = {}
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._on_signal) for number in STOP_SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @property
    def stop(self) -> str | None:
        """Why this rank was asked to save and end: "signal SIGTERM", "file stop", "time limit"; None = it was not."""
        self._look()
        if self._signal is not None:
            return f"signal {self._signal}"
        if STOP_FILE in self._files:
            return f"file {STOP_FILE}"
        if self._limit_seconds and self._now() - self._started + self._allowance_seconds > self._limit_seconds:
            return "time limit"
        return None

    @property
    def save(self) -> bool:
        """Whether this rank was asked to save and go on."""
        self._look()
        return SAVE_FILE in self._files

    def seen(self, *, step_seconds: float = 0.0, save_seconds: float = 0.0) -> None:
        """Tell how long a step or a whole save took, its writing in the background included.

        The time limit asks to stop while the longest of both still fit in: one more step may pass before the next
        chance to ask. A save that was not seen is not allowed for, so the limit needs that much room until the first.
        """
        self._longest_step_seconds = max(self._longest_step_seconds, step_seconds)
        self._longest_save_seconds = max(self._longest_save_seconds, save_seconds)

    def honoured(self) -> None:
        """Delete the files whose requests have been carried out; one that was touched again since is a new request.

        Raises:
            MlcError: a file cannot be deleted; the next look, or the next start, would obey it again.
        """
        for name, modified_ns in self._files.items():
            path = self._path(name)
            if _modified_ns(path) != modified_ns:
                continue
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise MlcError(
                    f"the request in the file {name} was carried out, but the file cannot be deleted",
                    found=str(error),
                    where=str(path),
                    hint=f"delete {path} before the next start",
                ) from None
        self._files = {}

    @property
    def _allowance_seconds(self) -> float:
        return self._longest_step_seconds + self._longest_save_seconds

    def _look(self) -> None:
        if self._folder is None or self._now() < self._next_look:
            return
        self._next_look = self._now() + SECONDS_BETWEEN_LOOKS
        for name in (STOP_FILE, SAVE_FILE):
            if (modified_ns := _modified_ns(self._path(name))) is not None:
                self._files[name] = modified_ns  # stays a request if the file goes: other ranks may know of it by now

    def _path(self, name: str) -> Path:
        assert self._folder is not None
        return self._folder / name

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signal = self._signal or signal.Signals(number).name
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _modified_ns(path: Path) -> int | None:
    """When a file was last touched; None = it is not there, or the file system does not say."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
