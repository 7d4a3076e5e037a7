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
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

LEASE_SECONDS = 120.0
"""Longer than a file server answers late."""
SECONDS_BETWEEN_LOOKS = 0.1
"""At what others do, while there is nothing to take: at least."""
MOST_SECONDS_BETWEEN_LOOKS = 8.0
SHARE_OF_TIME_TO_WAIT = 0.02
"""A stage of an hour need not end to the second; many processes that look often are a load on a file server."""
SHARE_OF_TIME_FOR_LISTINGS = 0.05
CHECKS_IN_A_LEASE = 24
CLAIMS_CHECKED = 8
"""For whether they were abandoned, at a time: chosen at random, so that many processes look at all of them."""


@dataclass(frozen=True)
class Task:
    """A piece of work.

    Attributes:
        name: a file name, different for every task of a stage.
        bytes: of input, roughly; large ones are begun first.
        made: a file that is there once the task is done, and stays.
        run: does it; doing it again does no harm.
        is_needless: whether it need not be done at all, by what others have come to.
    """

    name: str
    bytes: int
    made: Path
    run: Callable[[], None]
    is_needless: Callable[[], bool] = lambda: False


class Claims:
    """Claims of this process in a folder.

    Args:
        folder: exists.
        lease_seconds: after so long without a sign of life a claim is free.

    Both are attributes.
    """

    def __init__(self, folder: Path, lease_seconds: float = LEASE_SECONDS) -> None:
        self.folder, self.lease_seconds = folder, lease_seconds
        self._clock = folder / f".clock-{uuid.uuid4().hex}"

    def path(self, name: str) -> Path:
        """The file that claims a name."""
        return self.folder / name

    @contextmanager
    def take(self, name: str) -> Iterator[bool]:
        """Claim a name; False where another process holds it. Held until the context is left."""
        path = self.path(name)
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
            if self._now() - changed < self.lease_seconds:
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
        while not over.wait(self.lease_seconds / 6):
            with suppress(OSError):  # taken over, or a file server that does not answer
                os.utime(path)


class Listings:
    """Which files there are, known from looks at whole folders: thousands of processes may ask for thousands of files.

    What has been seen stays: it is for files that are made and not taken away. Others may be there without being known
    of yet.
    """

    def __init__(self) -> None:
        self._names: dict[Path, set[str]] = {}
        self._next: dict[Path, float] = {}

    def has(self, path: Path) -> bool:
        """Whether a file is known to be there."""
        folder = path.parent
        if path.name in self._names.get(folder, ()):
            return True
        started = time.monotonic()
        if started < self._next.get(folder, 0.0):
            return False
        try:
            self._names[folder] = set(os.listdir(folder))
        except FileNotFoundError:
            self._names[folder] = set()
        now = time.monotonic()
        self._next[folder] = now + (now - started) / SHARE_OF_TIME_FOR_LISTINGS
        return path.name in self._names[folder]

    def forget(self, folder: Path) -> None:
        """Look anew the next time."""
        self._names.pop(folder, None)
        self._next.pop(folder, None)


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
        seconds_between_looks: at least, while there is nothing to take; longer the longer the stage has taken.

    Raises:
        Exception: of a task.
    """
    left = sorted(tasks, key=lambda task: (-task.bytes, task.name))
    left = left[first:] + left[:first]
    made, held = Listings(), Listings()
    began = looked = checked = time.monotonic()
    while left:
        look()
        waiting, worked = [], False
        for task in left:
            if time.monotonic() - looked > SECONDS_BETWEEN_LOOKS:
                look()
                looked = time.monotonic()
            if made.has(task.made) or task.is_needless():
                continue
            if held.has(claims.path(task.name)):
                waiting.append(task)
                continue
            taken = _do(task, claims)
            worked = worked or taken
            if not taken:
                waiting.append(task)
        now = time.monotonic()
        if not worked and waiting and now - checked > claims.lease_seconds / CHECKS_IN_A_LEASE:
            checked = now
            for task in random.sample(waiting, min(len(waiting), CLAIMS_CHECKED)):
                worked = _do(task, claims) or worked
        if not worked and waiting:
            pause = min(MOST_SECONDS_BETWEEN_LOOKS, max(seconds_between_looks, SHARE_OF_TIME_TO_WAIT * (now - began)))
            time.sleep(pause * random.uniform(0.5, 1.5))
        held.forget(claims.folder)
        left = waiting


def _do(task: Task, claims: Claims) -> bool:
    """Do a task unless another process holds it; whether nobody else did."""
    with claims.take(task.name) as taken:
        if taken and not task.made.exists() and not task.is_needless():
            task.run()
        return taken
