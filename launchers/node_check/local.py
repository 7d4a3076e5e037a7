"""What a host can say about itself: memory and the shared folder.

In:  limits, paths of the system.
Out: facts, and problems as sentences.
"""

from __future__ import annotations

import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from launchers.node_check.findings import FolderFacts

GB = 10**9
PROBE_BYTES = 1 << 16
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Limits:
    """What a host must have.

    Attributes:
        gpus: GPUs that must be there; 0: none are looked for.
        memory_gb, shared_memory_gb, folder_gb: that must be free, in 10^9 bytes.
        clock_skew_seconds: how far a clock may be from those of the others.
    """

    gpus: int
    memory_gb: float
    shared_memory_gb: float
    folder_gb: float
    clock_skew_seconds: float


def available_memory_gb(meminfo: Path) -> float:
    """MemAvailable of /proc/meminfo in 10^9 bytes: what can be had without swapping.

    Raises:
        OSError, ValueError: the file cannot be read or has no such line.
    """
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024 / GB
    raise ValueError(f"{meminfo} has no MemAvailable")


def free_gb(folder: Path) -> float:
    """Space that this user may still fill, in 10^9 bytes.

    Raises:
        OSError: there is no such folder.
    """
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize / GB


def check_memory(meminfo: Path, shared_memory: Path, limits: Limits) -> tuple[float | None, float | None, list[str]]:
    """Free memory and free shared memory in 10^9 bytes, None where unknown, and what is wrong with them."""
    problems: list[str] = []
    memory = shared = None
    try:
        memory = available_memory_gb(meminfo)
        if memory < limits.memory_gb:
            problems.append(f"{memory:.1f} GB of memory available, needed {limits.memory_gb:g}")
    except (OSError, ValueError) as error:
        problems.append(f"free memory is unknown: {error}")
    try:
        shared = free_gb(shared_memory)
        if shared < limits.shared_memory_gb:
            problems.append(f"{shared:.1f} GB free in {shared_memory}, needed {limits.shared_memory_gb:g}")
    except OSError as error:
        problems.append(f"free shared memory is unknown: {error}")
    return memory, shared, problems


def process_age_seconds() -> float:
    """Time since this process was started, on Linux; elsewhere 0."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[19])  # starttime of proc(5), since the boot
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, AttributeError):
        return 0.0


def check_folder(folder: Path, host: str, create: bool, until: float) -> FolderFacts:
    """Write, sync, rename and read back a file.

    Args:
        folder: the shared folder. It is waited for, unless this host is to create it.
        host: this one, for the file's name.
        create: make the folder where it is missing. One host does it: were each to do so, a host without the shared
            file system would be happy with a folder of its own.
        until: of `time.monotonic`; how long the folder is waited for.

    Raises:
        OSError: the folder did not appear or cannot be written, or gave back something else.
    """
    if create:
        folder.mkdir(parents=True, exist_ok=True)
    while not folder.is_dir():
        if time.monotonic() > until:
            raise OSError("it is not there")
        time.sleep(POLL_SECONDS)
    content = os.urandom(PROBE_BYTES)
    path = folder / f".{host}.{uuid.uuid4().hex}.probe"
    renamed = path.with_suffix(".probed")
    began = time.monotonic()
    try:
        before = time.time()
        with path.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        after = time.time()
        path.rename(renamed)
        if renamed.read_bytes() != content:
            raise OSError("it gave back other bytes than were written")
        seconds = time.monotonic() - began
        modified = renamed.stat().st_mtime
    finally:
        for leftover in (path, renamed):
            leftover.unlink(missing_ok=True)
    return FolderFacts(
        write_seconds=seconds, free_gb=free_gb(folder), clock_offset_seconds=_offset(before, after, modified)
    )


def _offset(before: float, after: float, modified: float) -> float:
    """Local clock minus the server's, 0 where the server's time lies within the write.

    Times of files may be rounded down, to 10 ms by Linux and to a second by some servers.
    """
    if modified > after:
        return after - modified
    rounded = 1.0 if modified == int(modified) else 0.01
    return max(0.0, before - modified - rounded)
