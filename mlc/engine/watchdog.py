"""Ends a rank that gets no further, and says where it stood.

In:  beats of the main thread.
Out: nothing while they come. Without them: the stacks of all threads, in a file and on stderr, and the end of the
     process.

A dead peer, a stuck collective or a stuck file system makes a rank wait for ever, and every other rank then waits for
that one. So each rank watches itself alone, and all of them end without a word between them: the stacks of the one
that hung differ from those of the ones that waited for it.

Each of three guards works where the one before it cannot:

1. A thread looks for beats. It writes the report. It needs the interpreter's lock (GIL).
2. faulthandler's timer, set anew by that thread while beats come, needs no lock: it ends a process whose main thread
   hangs in C code that keeps the GIL. It writes stacks to stderr.
3. SIGALRM, whose default action is the kernel's, ends a process that hangs while it reports, or in destructors of C++
   libraries after the interpreter is gone. It leaves the exit status of that signal.

A process that was stopped (SIGSTOP, a suspended job) for longer than the timeout ends when it is woken.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn, Self

from mlc.errors import EXIT_FAILED

LONGEST_SECONDS_BETWEEN_LOOKS = 1.0
LOOKS_PER_TIMEOUT = 10
STDERR = 2
"""Its file descriptor: whatever `sys.stderr` has become, a launcher reads this one."""


@dataclass(frozen=True)
class _Beat:
    """What the main thread said last.

    Attributes:
        at: seconds of the monotonic clock.
        doing: what it was about to do.
        limit_seconds: how long the next beat may take.
        leaving: whether there will be none, because the process is ending.
    """

    at: float
    doing: str
    limit_seconds: float
    leaving: bool = False

    @property
    def silent_seconds(self) -> float:
        return time.monotonic() - self.at


class Watchdog:
    """Context in which a rank without beats ends with exit code 1.

    Its report is appended to `log_folder/stalled-rank-00001.txt` (rank 1's; stacks of every start stay) and goes to
    stderr. `log_folder` has to exist and is never created: an attempt's folder that was taken away from this process
    must not come back.

    Args:
        timeout_seconds: longest time between two beats.
        log_folder: for the report.
        rank: of this process.
        on_stall: called with one sentence, in a thread, before the process ends; never after `leave`.
        report_seconds: how long report and `on_stall` may take together.
        backstop_seconds: how much later than the thread faulthandler's timer acts; more than `report_seconds`.
    """

    def __init__(
        self,
        timeout_seconds: float,
        log_folder: Path,
        rank: int,
        *,
        on_stall: Callable[[str], None] = lambda reason: None,
        report_seconds: float = 10.0,
        backstop_seconds: float = 30.0,
    ) -> None:
        self._timeout_seconds, self._log_folder, self._rank, self._on_stall = (
            timeout_seconds,
            log_folder,
            rank,
            on_stall,
        )
        self._report_seconds, self._backstop_seconds = report_seconds, backstop_seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._beat = _Beat(time.monotonic(), "starting", timeout_seconds)

    def __enter__(self) -> Self:
        self.beat("starting")
        self._set_backstop(self._beat)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._beat.leaving:  # the guards stay until the process is gone
            return
        self._over.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def beat(self, doing: str) -> None:
        """Say what comes next, at least once a step and between the parts of long work; costs about a microsecond.

        Args:
            doing: for the report, "step 17: forward". After `leave` it changes nothing.
        """
        if not self._beat.leaving:
            self._beat = _Beat(time.monotonic(), doing, self._timeout_seconds)

    def leave(self, seconds: float) -> None:
        """From now on the process has to end by itself within `seconds`; nothing takes this back.

        Ending a process group, joining threads and the interpreter's exit can all hang. How the run ended is known and
        written by now, so `on_stall` is not called any more.
        """
        self._beat = _Beat(time.monotonic(), "leaving", seconds, leaving=True)
        self._set_backstop(self._beat)
        signal.setitimer(signal.ITIMER_REAL, seconds + self._backstop_seconds + self._report_seconds)

    def _watch(self) -> None:
        backed = self._beat
        while not self._over.wait(self._seconds_between_looks()):
            beat = self._beat
            if beat.silent_seconds > beat.limit_seconds:
                self._end(beat)
            if beat is not backed:
                self._set_backstop(beat)
                backed = beat

    def _seconds_between_looks(self) -> float:
        return min(LONGEST_SECONDS_BETWEEN_LOOKS, self._beat.limit_seconds / LOOKS_PER_TIMEOUT)

    def _set_backstop(self, beat: _Beat) -> None:
        seconds = beat.limit_seconds + self._backstop_seconds - beat.silent_seconds
        with contextlib.suppress(RuntimeError):  # no thread to be had at the moment: the next beat's timer will do
            faulthandler.dump_traceback_later(max(seconds, self._backstop_seconds), file=STDERR, exit=True)

    def _end(self, beat: _Beat) -> NoReturn:
        """Report and end. Each part has a thread of its own: a stuck file system must not keep stderr from people."""
        try:
            signal.setitimer(signal.ITIMER_REAL, 2 * self._report_seconds)
            reason = (
                f"rank {self._rank} on {platform.node()} (process {os.getpid()}) got no further for "
                f"{beat.silent_seconds:.0f} s; it was at: {beat.doing}"
            )
            report = f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {reason}\n{stacks()}\n"
            parts: list[Callable[[], None]] = [lambda: _write_stderr(report), lambda: self._append(report)]
            if not beat.leaving:
                parts.append(lambda: self._on_stall(reason))
            threads = [threading.Thread(target=part, name="watchdog report", daemon=True) for part in parts]
            for thread in threads:
                thread.start()
            deadline = time.monotonic() + self._report_seconds
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))
        finally:
            os._exit(EXIT_FAILED)

    def _append(self, report: str) -> None:
        with (self._log_folder / f"stalled-rank-{self._rank:05}.txt").open("a", encoding="utf-8") as file:
            file.write(report)


def stacks() -> str:
    """The stacks of all threads, the innermost call last.

    File names and lines only: the sources may lie on the file system that is stuck.
    """
    threads = {thread.ident: thread for thread in threading.enumerate()}
    parts: list[str] = []
    for ident, frame in sys._current_frames().items():
        lines = []
        current: FrameType | None = frame
        while current is not None:
            lines.append(f'  File "{current.f_code.co_filename}", line {current.f_lineno}, in {current.f_code.co_name}')
            current = current.f_back
        thread = threads.get(ident)
        name = "not of Python's making" if thread is None else f"{thread.name}, native id {thread.native_id}"
        parts.append("\n".join([f"Thread {ident} ({name}):", *reversed(lines)]))
    return "\n".join(parts)


def _write_stderr(report: str) -> None:
    left = report.encode(errors="replace")
    while left:
        left = left[os.write(STDERR, left) :]
