"""Which process does which piece of work: claims in a folder that all of them see.

In:  tasks with names, the same in every process; a folder on a file system that the processes share.
Out: every task done, each by one process at a time, and done again where a process has died over it.

A claim is a file that can be made once (open(2), O_EXCL: atomic on local file systems, NFS from version 3 on, and
Lustre). Its holder renews its time of change; a claim not renewed for `LEASE_SECONDS` is taken over. So it does
not matter how processes were started, whether they know of one another, or which of them end: a build needs MPI for
nothing but starting them.

A process that was only slow may find its task taken over. That costs time and nothing else, because a task puts what it
makes in place by one rename, and any process makes the same bytes.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

LEASE_SECONDS = 120.0
"""Longer than a file server answers late."""
SECONDS_BETWEEN_LOOKS = 0.5
"""At what others do, while there is nothing to take."""


@dataclass(frozen=True)
class Task:
    """A piece of work.

    Attributes:
        name: a file name, different for every task of a stage.
        bytes: of input, roughly; large ones are begun first.
        is_done: whether its result is in place. Once it is, it stays.
        run: does it; doing it again does no harm.
    """

    name: str
    bytes: int
    is_done: Callable[[], bool]
    run: Callable[[], None]


class Claims:
    """Claims of this process in a folder.

    Args:
        folder: exists.
        lease_seconds: after so long without a sign of life a claim is free.
    """

    def __init__(self, folder: Path, lease_seconds: float = LEASE_SECONDS) -> None:
        self._folder, self._lease_seconds = folder, lease_seconds
        self._clock = folder / f".clock-{uuid.uuid4().hex}"

    @contextmanager
    def take(self, name: str) -> Iterator[bool]:
        """Claim a name; False where another process holds it. Held until the context is left."""
        path = self._folder / name
        if not self._make(path) and not (self._free_if_abandoned(path) and self._make(path)):
            yield False
            return
        over = threading.Event()
        renewal = threading.Thread(target=self._renew, args=(path, over), daemon=True)
        renewal.start()
        try:
            yield True
        finally:
            over.set()
            renewal.join()
            path.unlink(missing_ok=True)

    def _make(self, path: Path) -> bool:
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            return False
        return True

    def _free_if_abandoned(self, path: Path) -> bool:
        try:
            changed = path.stat().st_mtime
            if self._now() - changed < self._lease_seconds:
                return False
            # Of several processes that find it abandoned one can rename it.
            aside = path.with_name(f".abandoned-{uuid.uuid4().hex}")
            os.rename(path, aside)
            aside.unlink()
        except FileNotFoundError:
            pass
        return True

    def _now(self) -> float:
        """The file system's own time: clocks of nodes differ."""
        self._clock.touch()
        now = self._clock.stat().st_mtime
        self._clock.unlink()
        return now

    def _renew(self, path: Path, over: threading.Event) -> None:
        while not over.wait(self._lease_seconds / 6):
            with suppress(OSError):  # taken over, or a file server that does not answer
                os.utime(path)


def do_together(
    tasks: Sequence[Task],
    claims: Claims,
    *,
    first: int = 0,
    look: Callable[[], None] = lambda: None,
    seconds_between_looks: float = SECONDS_BETWEEN_LOOKS,
) -> None:
    """Return when every task is done, by this process or by others that do the same.

    Args:
        tasks: the same in every process, in any order.
        claims: where to claim them.
        first: place in the order of size at which this process begins. Processes that were started together begin at
            different ones, so that they seldom meet.
        look: called now and then; an error of it ends the work, such as one that another process has left.

    Raises:
        Exception: of a task.
    """
    left = sorted(tasks, key=lambda task: (-task.bytes, task.name))
    left = left[first:] + left[:first]
    while left:
        waiting = []
        for task in left:
            look()
            if task.is_done():
                continue
            with claims.take(task.name) as taken:
                if not taken:
                    waiting.append(task)
                elif not task.is_done():  # or done between the look and the claim
                    task.run()
        if len(waiting) == len(left):
            time.sleep(seconds_between_looks)
        left = waiting
