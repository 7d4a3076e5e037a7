"""Work that may hang, in processes that may be left behind.

In:  functions, and the time until which their results are wanted.
Out: what the functions sent, as JSON values; a function that hangs, even inside the kernel, holds up nobody.

Processes are forked, so that they cost milliseconds: a process that has started threads of its own must not do so.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

Send = Callable[[object], None]
T = TypeVar("T")

_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h


class ChildFailed(Exception):
    """The function raised, or its process ended, before it was done."""


class Child:
    """A forked process that runs one function.

    Args:
        work: called in the new process with a function that sends JSON values here. Its standard output and error are
            those of this process.
    """

    def __init__(self, work: Callable[[Send], None]) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self._source, target = os.pipe()
        self._rest = b""
        self._finished = False
        self._failure: str | None = None
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._source)
            _run(work, target)
        os.close(target)

    def receive(self, until: float) -> list[Any]:
        """Values that came since the last call; returns when the function is done, at the latest at a time.

        Args:
            until: of `time.monotonic`. What has arrived by then is returned even where the time has passed.
        """
        values: list[Any] = []
        while not self._finished:
            readable, _, _ = select.select([self._source], [], [], max(0.0, until - time.monotonic()))
            if not readable:
                break
            block = os.read(self._source, 1 << 16)
            *lines, self._rest = (self._rest + block).split(b"\n")
            for line in lines:
                kind, value = json.loads(line)
                if kind == "value":
                    values.append(value)
                else:
                    self._finished, self._failure = True, value
            if not block and not self._finished:
                self._finished, self._failure = True, "its process ended early"
        return values

    @property
    def finished(self) -> bool:
        """Whether `receive` has seen the end of the function."""
        return self._finished

    @property
    def failure(self) -> str | None:
        """What the function raised, once `receive` has seen its end."""
        return self._failure

    def end(self) -> None:
        """Kill the process; one that the kernel does not let go is left to die later."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        until = time.monotonic() + 0.2
        while os.waitpid(self._pid, os.WNOHANG)[0] == 0 and time.monotonic() < until:
            time.sleep(0.005)
        os.close(self._source)


def call_until(work: Callable[[], T], until: float) -> T:
    """The result of a function, a JSON value, computed in a process of its own.

    Args:
        until: of `time.monotonic`.

    Raises:
        TimeoutError: it was not there in time.
        ChildFailed: with what the function raised.
    """
    child = Child(lambda send: send(work()))
    try:
        values = child.receive(until)
        if not child.finished:
            raise TimeoutError
        if child.failure is not None:
            raise ChildFailed(child.failure)
        result: T = values[0]
        return result
    finally:
        child.end()


def _run(work: Callable[[Send], None], target: int) -> None:
    """Body of the new process; never returns."""

    def say(kind: str, value: object) -> None:
        left = json.dumps([kind, value]).encode() + b"\n"
        while left:
            left = left[os.write(target, left) :]

    code = 1
    try:
        _die_with_parent()
        work(lambda value: say("value", value))
        say("done", None)
        code = 0
    except BaseException as error:
        with contextlib.suppress(OSError):
            say("failed", " ".join(f"{type(error).__name__}: {error}".split())[:300])
    finally:
        os._exit(code)  # no clean-up of what belongs to the parent


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
