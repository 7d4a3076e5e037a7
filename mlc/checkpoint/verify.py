"""Whether a checkpoint is what its record says, and where a damaged one goes.

In:  a checkpoint folder and its `Record`.
Out: the first thing that is wrong; a damaged folder under a name that nobody loads.

Every byte is read. Several processes can share the work: each takes a share of the files, and the shares hold about
equally many bytes.
"""

from __future__ import annotations

import heapq
import itertools
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from mlc.checkpoint.fence import Fence
from mlc.checkpoint.record import Record, is_damage
from mlc.files import FileFacts, hash_file, sync_folder


def damage(
    folder: Path,
    record: Record,
    *,
    share: tuple[int, int] = (0, 1),
    progress: Callable[[int], None] = lambda byte_count: None,
) -> str | None:
    """Compare the files of a checkpoint with its record; all sizes first, then all hashes.

    Args:
        folder: the checkpoint.
        record: from `Record.read(folder)`.
        share: (number of this share, how many there are); see `share_of`.
        progress: told after every block that was hashed how many bytes it had.

    Returns:
        What is wrong with the first file that differs; None where this share is whole.

    Raises:
        OSError: a file cannot be read for a reason that says nothing about its content, such as permissions.
    """
    names = share_of(record.files, *share)
    for name in names:
        try:
            status = (folder / name).stat()
        except OSError as error:
            return _unreadable(name, error)
        if not stat.S_ISREG(status.st_mode):
            return f"{name} is not a file"
        if status.st_size != record.files[name].bytes:
            return f"{name} has {status.st_size} bytes, needed {record.files[name].bytes}"
    for name in names:
        try:
            found = hash_file(folder / name, progress)
        except OSError as error:
            return _unreadable(name, error)
        if found != record.files[name].xxh3:
            return f"{name} has xxh3 {found}, needed {record.files[name].xxh3}"
    return None


def share_of(files: Mapping[str, FileFacts], number: int, shares: int) -> list[str]:
    """The names of the files in one of several shares; every file is in exactly one of them.

    The largest file goes to the share with the fewest bytes, then the next largest (Graham 1969, "Bounds on
    multiprocessing timing anomalies"): no share has more bytes than another by more than the largest file.

    Args:
        files: what a record lists.
        number: of the share, 0 .. shares-1.
        shares: how many there are.
    """
    lightest_first = [(0, 0, share) for share in range(shares)]
    mine = []
    for name in sorted(files, key=lambda name: (-files[name].bytes, name)):
        byte_count, file_count, share = lightest_first[0]
        heapq.heapreplace(lightest_first, (byte_count + files[name].bytes, file_count + 1, share))
        if share == number:
            mine.append(name)
    return mine


def set_aside(folder: Path, fence: Fence | None = None) -> Path:
    """Rename a checkpoint to `damaged-<name>`, or `damaged-<name>-2` and so on where that is taken.

    Args:
        folder: the checkpoint.
        fence: of the start that does this. Without it the run must not be in progress: the folder could be one that a
            newer start has put in place since the damage was seen.

    Returns:
        Its new path.

    Raises:
        FencedError: a newer start owns the run.
    """
    source = folder if fence is None else fence.withdraw(folder)
    for number in itertools.count(1):
        aside = folder.with_name(f"damaged-{folder.name}" + (f"-{number}" if number > 1 else ""))
        if os.path.lexists(aside):
            continue
        if fence is not None:
            fence.place(source, aside)
        else:
            os.rename(source, aside)
            sync_folder(aside.parent)
        return aside
    raise AssertionError("there is always a number that is not taken")


def _unreadable(name: str, error: OSError) -> str:
    if not is_damage(error):
        raise error
    return f"{name} cannot be read: {error.strerror}"
