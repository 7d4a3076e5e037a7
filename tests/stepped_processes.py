"""Real processes that stop right before each of their system calls, for tests of races and of kills.

The process is forked, so that it starts at once and does what a test has replaced in this process. It stops itself by
SIGSTOP before every call of a function of the operating system, until `step` lets it go on to the next one. What
several such processes do together is then a list of numbers: which of them takes the next step.
"""

from __future__ import annotations

import io
import itertools
import mmap
import os
import pickle
import signal
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

NO_CALL = frozenset({"fspath", "fsencode", "getpid", "_exit", "urandom", "get_inheritable", "uname", "kill"})
"""Functions of `posix` that change nothing and look at nothing that others change."""


class SteppedProcess:
    """Calls `function(*args)` in a forked process, one system call at a time; a context manager that kills it.

    Args:
        function: any; what it returns or raises can be pickled.
        stop_at: number of the first system call that it stops before, from 0.
    """

    def __init__(self, function: Callable[..., Any], *args: Any, stop_at: int = 0) -> None:
        self.calls: list[str] = []
        """Names of the system calls it was stopped before; the last one is yet to come while it is stopped."""
        self._outcome: tuple[str, Any] | None = None
        self._killed = False
        self._free = mmap.mmap(-1, 1)  # shared with the forked process
        results, names = os.pipe(), os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            _run(function, args, stop_at, self._free, results[1], names[1])
        os.close(results[1])
        os.close(names[1])
        self._results, self._names = results[0], names[0]
        self._wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    @property
    def ended(self) -> bool:
        return self._killed or self._outcome is not None

    def step(self) -> bool:
        """Make the next system call and go on to the one after it; False where there is none."""
        if not self.ended:
            os.kill(self._pid, signal.SIGCONT)
            self._wait()
        return not self.ended

    def to_the_end(self) -> Any:
        """Let it go on without stops. Returns what the function returns; the error it raises is raised here."""
        self._free[0] = 1
        self.step()
        assert self._outcome is not None, "it was killed"
        kind, value = self._outcome
        if kind == "error":
            raise value
        return value

    def kill(self) -> None:
        """SIGKILL, at the place where it is stopped."""
        if not self.ended:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._killed = True
            self._close()

    def _wait(self) -> None:
        _, status = os.waitpid(self._pid, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            self.calls.append(os.read(self._names, 100).decode())
            return
        with open(self._results, "rb", closefd=False) as file:
            content = file.read()
        self._outcome = pickle.loads(content) if content else ("error", RuntimeError(f"it ended with status {status}"))
        self._close()

    def _close(self) -> None:
        os.close(self._results)
        os.close(self._names)


def count_calls(function: Callable[..., Any], *args: Any) -> int:
    """How many system calls a function makes."""
    with SteppedProcess(function, *args) as process:
        while process.step():
            pass
        return len(process.calls)


def _run(
    function: Callable[..., Any], args: tuple[Any, ...], stop_at: int, free: mmap.mmap, results: int, names: int
) -> None:
    """The forked process; never returns."""
    own, kill, write, call = os.getpid(), os.kill, os.write, itertools.count()

    def stop_before(frame: Any, event: str, called: Any) -> None:
        if event != "c_call" or free[0]:
            return
        if called is not io.open and (getattr(called, "__module__", None) != "posix" or called.__name__ in NO_CALL):
            return
        if next(call) >= stop_at:
            write(names, called.__name__.encode())
            kill(own, signal.SIGSTOP)

    outcome: tuple[str, Any]
    try:
        sys.setprofile(stop_before)
        outcome = ("value", function(*args))
    except BaseException as error:
        sys.setprofile(None)
        outcome = ("error", error)
    sys.setprofile(None)
    try:
        content = pickle.dumps(outcome)
        pickle.loads(content)
    except Exception:  # an error that cannot be pickled
        content = pickle.dumps((outcome[0], RuntimeError(repr(outcome[1]))))
    os.write(results, content)
    os._exit(0)
