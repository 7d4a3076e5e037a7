"""What goes wrong around a rank and in it, and exactly when: before the n-th call of one of the program's functions.

In:  `Fault`s, in the process that is to have them; folders that become file systems of their own.
Out: that process, killed, stopped, or with a loss that is not its own; disks that are full or read-only.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import resource
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

LONGEST_SECONDS_HELD = 120.0


@dataclass(frozen=True)
class Fault:
    """One of four kinds.

    Attributes:
        rank: on which; None = on all.
        call: "module:Class.function" as its caller finds it. Before call number `number`, from 1, the process sends
            itself `signal`. Only calls with `argument` in the text of an argument count.
        held_until: another function: from call number `number` on, each call waits instead until that one has been
            called twice more, by another thread.
        batches: global batches whose loss (`of_loss`) or whose gradient alone is multiplied by `factor`.
        largest_file_bytes: no file of this process gets longer: the kernel refuses the write, as it does beyond a disk
            quota, while the disk has space.
    """

    rank: int | None = None
    call: str = ""
    argument: str = ""
    number: int = 1
    signal: int = signal.SIGKILL
    held_until: str = ""
    batches: tuple[int, ...] = ()
    factor: float = float("nan")
    of_loss: bool = True
    largest_file_bytes: int = 0


def install(faults: Sequence[Mapping[str, Any]]) -> None:
    """In a rank, before it starts."""
    for content in faults:
        fault = Fault(**content)
        if fault.held_until:
            _hold_call(fault)
        elif fault.call:
            _signal_at_call(fault)
        if fault.batches:
            _change_loss(fault)
        if fault.largest_file_bytes:
            resource.setrlimit(resource.RLIMIT_FSIZE, (fault.largest_file_bytes, fault.largest_file_bytes))


class SmallDisk:
    """A file system in memory on `folder`, which can be filled; a context manager that takes it away."""

    def __init__(self, folder: Path, mib: int) -> None:
        self.folder, self._mib, self._ballast = folder, mib, folder / "ballast"

    def __enter__(self) -> SmallDisk:
        self.folder.mkdir(exist_ok=True)
        _mount("-t", "tmpfs", "-o", f"size={self._mib}m", "tmpfs", str(self.folder))
        return self

    def __exit__(self, *exception: object) -> None:
        unmount(self.folder)

    @property
    def free_bytes(self) -> int:
        status = os.statvfs(self.folder)
        return status.f_bavail * status.f_frsize

    def fill(self) -> None:
        """Leave nothing."""
        with contextlib.suppress(OSError), self._ballast.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
        assert self.free_bytes == 0

    def free(self) -> None:
        """Undo `fill`."""
        self._ballast.unlink()


@contextlib.contextmanager
def failing_disk(folder: Path) -> Iterator[Callable[[], None]]:
    """A file system on `folder`, and what turns it read-only under open files, as the kernel does after an error."""
    image = folder.with_suffix(".image")
    folder.mkdir(exist_ok=True)
    with image.open("wb") as file:
        file.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    _mount("-o", "loop,errors=remount-ro", str(image), str(folder))
    try:
        device = _mounted(folder)
        yield lambda: _write(Path("/sys/fs/ext4") / Path(device).name / "trigger_fs_error", "1")
    finally:
        unmount(folder)


def unmount(folder: Path) -> None:
    # Lazily: a process that is still in there must not keep the test from cleaning up.
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f"this mounts a file system and was not allowed to: {done.stderr.strip()}; run it as root, on a "
            "machine or in a container with CAP_SYS_ADMIN and loop devices"
        )


def _mounted(folder: Path) -> str:
    """The device of a mounted folder."""
    lines = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return next(fields[0] for fields in lines if fields[1] == str(folder))


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def _signal_at_call(fault: Fault) -> None:
    owner, name = _find(fault.call)
    function, calls, over = getattr(owner, name), 0, False

    @functools.wraps(function)
    def faulty(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls, over
        calls += not fault.argument or any(fault.argument in str(argument) for argument in (*args, *kwargs.values()))
        if calls == fault.number and not over:
            over = True
            # At this thread: one at the process may be taken by another thread, and this one runs on until it is.
            signal.pthread_kill(threading.get_ident(), fault.signal)
        return function(*args, **kwargs)

    setattr(owner, name, faulty)


def _hold_call(fault: Fault) -> None:
    """As a slow disk does, but for as long as it takes."""
    happened, calls, waited_for = threading.Condition(), 0, 0
    owner, name = _find(fault.call)
    function = getattr(owner, name)
    other_owner, other_name = _find(fault.held_until)
    other = getattr(other_owner, other_name)

    @functools.wraps(function)
    def held(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls >= fault.number:
            with happened:
                until = waited_for + 2
                happened.wait_for(lambda: waited_for >= until, LONGEST_SECONDS_HELD)
        return function(*args, **kwargs)

    @functools.wraps(other)
    def noted(*args: Any, **kwargs: Any) -> Any:
        nonlocal waited_for
        with happened:
            waited_for += 1
            happened.notify_all()
        return other(*args, **kwargs)

    setattr(owner, name, held)
    setattr(other_owner, other_name, noted)


def _change_loss(fault: Fault) -> None:
    from mlc.engine import step

    current = -1
    take, token_sum, joint_loss = step.TrainingStep.take, step.token_cross_entropy_sum, step.joint_loss

    def factor() -> float:
        return fault.factor if current in fault.batches else 1.0

    def noting(self: Any, batch: Any, *args: Any) -> Any:
        nonlocal current
        current = batch.step
        return take(self, batch, *args)

    def of_tokens(*args: Any) -> Any:
        sums = token_sum(*args)
        return replace(sums, loss=sums.loss * factor()) if factor() != 1.0 else sums

    def of_gradient(*args: Any) -> Any:
        loss = joint_loss(*args)
        return loss * factor() if factor() != 1.0 else loss

    step.TrainingStep.take = noting
    if fault.of_loss:
        step.token_cross_entropy_sum = of_tokens
    else:
        step.joint_loss = of_gradient


def _find(path: str) -> tuple[Any, str]:
    module, _, names = path.partition(":")
    owner: Any = importlib.import_module(module)
    *outer, name = names.split(".")
    for attribute in outer:
        owner = getattr(owner, attribute)
    return owner, name
