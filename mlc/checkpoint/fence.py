"""Who may write into a run folder when several starts of one run are alive.

In:  a run folder, and what a start knows of itself.
Out: a `Fence`: the newest start's right to put files in place. A start that a newer one has followed puts nothing in
     place any more, whatever it does and whenever it wakes up. Only what it would write to its place directly, past
     its fence, is not held back.

There are no locks and no clocks, only mkdir, rename, rmdir and the exclusive making of a file, which are atomic on NFS
and Lustre too.

    RUN/owner.json                        the newest start, for people
    RUN/attempts/attempt-00000001         empty file, a tombstone: this number is over
    RUN/attempts/attempt-00000002/        working folder of the newest start, with its owner.json

A start takes the next number and makes its working folder. Everything it puts into the run is first written there, as
a direct entry of it, and then renamed to its place; what it takes out of the run goes the other way. To take over, a
newer start does this with every lower number, the highest first:

1. rename the working folder into its own, and make a tombstone under the old name;
2. rename every entry of that folder, whole, to another folder under another name;
3. remove the folder itself, and go back to 2 for as long as it is not empty.

Only then has it taken over. Why it alone can put a file in place from then on:

* Nothing comes out of a working folder that was removed. Its path cannot be used after 1, and the tombstone keeps
  anything like `mkdir -p` from making it again; where that was faster than the tombstone, 1 is done again. A rename
  that had already found the folder (stopped inside the system call, or on an NFS client that remembers the folder's
  handle) finds no entry after 2 and no folder after 3. Until then one of two renames wins, so an entry is put in place
  whole or not at all. New entries that such a process makes keep 3 from succeeding.
* A start that is itself taking over needs its working folder for 1 and 2, so once that is removed it revokes nobody.
  As higher numbers go first, none but a still newer start can be half-way through revoking the number that comes next.
  What it had renamed into its own folder is in that folder, and is removed with it in the same way.
* Of two that take over at once the higher number revokes the lower, and one that sees a higher number gives up. A
  number can be made twice only between the two parts of 1; the second maker sees the higher number of the start that
  is at work there, and the folder is revoked again.
* After a crash at any point the next start finds the same numbers, takes a higher one, and does all of this again.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import socket
import stat
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from mlc.errors import CheckpointError, FencedError
from mlc.files import json_bytes, sync_folder
from mlc.run_names import OWNER_NAME

ATTEMPTS_NAME = "attempts"

_ATTEMPT = re.compile(r"attempt-([0-9]{8,})")
_REVOKED = ".revoked-"
_TRASH = ".trash"
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)
_ROUNDS = 1000
"""So often a folder is emptied before it is an error; what a process that was stopped in a system call makes is one
entry."""


@dataclass(frozen=True)
class Fence:
    """One start's right to put files in place; from `Fence.take`.

    Attributes:
        run_folder: of the run.
        generation: number of this start, from 1.
    """

    run_folder: Path
    generation: int

    @classmethod
    def take(cls, run_folder: Path, started_as: Mapping[str, object]) -> Self:
        """Take the run over from every earlier start. Call it in one process of a start, rank 0.

        Args:
            run_folder: of the run; made where it is not there.
            started_as: what people want to know of this start (job, command), put into owner.json beside "generation",
                "host", "pid" and "started" (ISO 8601, UTC).

        Raises:
            FencedError: a newer start has come in the meantime.
            CheckpointError: an older start still has files open in its working folder.
            OSError: the run folder cannot be written.
        """
        attempts = run_folder / ATTEMPTS_NAME
        attempts.mkdir(parents=True, exist_ok=True)
        fence = cls(run_folder, _make_attempt(attempts))
        owner = json_bytes(
            {
                **started_as,
                "generation": fence.generation,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "started": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )
        with fence.working():
            fence.write(fence.work / OWNER_NAME, owner)
            sync_folder(attempts)
            if _newest(attempts) != fence.generation:
                raise fence._fenced()
            for number in range(fence.generation - 1, 0, -1):
                fence._revoke(number)
            sync_folder(attempts)
            fence.write(run_folder / OWNER_NAME, owner)
        shutil.rmtree(fence._trash, ignore_errors=True)
        return fence

    @property
    def work(self) -> Path:
        """The working folder, on the file system of the run folder. Never make it, nor a parent of anything in it."""
        return self.run_folder / ATTEMPTS_NAME / attempt_name(self.generation)

    def holds(self) -> bool:
        """Whether no newer start has taken over, by one stat.

        A network file system may answer from a cache for some seconds; `place` is certain.
        """
        try:
            return stat.S_ISDIR(os.stat(self.work).st_mode)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            return False

    def check(self) -> None:
        """Raise FencedError, naming the newer start, where `holds` is false."""
        if not self.holds():
            raise self._fenced()

    def place(self, temporary: Path, final: Path) -> None:
        """Rename something from the working folder to its place, and make that durable.

        Args:
            temporary: a file or folder, synced; a direct entry of `work`.
            final: not there, or a file or an empty folder that is replaced; on the same file system.

        Raises:
            FencedError: a newer start owns the run. It was not renamed, or before that start had taken over.
            CheckpointError: `final` is on another file system.
            OSError: as of os.rename.
        """
        assert temporary.parent == self.work, "what lies deeper could still be renamed while its folder is deleted"
        with self.working():
            self._rename(temporary, final)
            sync_folder(final.parent)
            sync_folder(self.work)

    def withdraw(self, path: Path) -> Path:
        """Rename something of the run into the working folder, to delete it there or to `place` it elsewhere.

        Args:
            path: a file or folder on the file system of the run folder.

        Returns:
            Its path in `work`, under a name that nothing else has.

        Raises:
            as `place`.
        """
        withdrawn = self.work / f"{path.name}-{uuid.uuid4().hex}"
        with self.working():
            self._rename(path, withdrawn)
            sync_folder(self.work)
            sync_folder(path.parent)
        return withdrawn

    def write(self, final: Path, content: bytes) -> None:
        """Write a file, or replace it: a reader sees all of it or the one before. Errors as in `place`."""
        temporary = self.work / f"{final.name}-{uuid.uuid4().hex}"
        try:
            with self.working(), temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            self.place(temporary, final)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Around anything that is done in `work`: FencedError where it failed because a newer start owns the run."""
        try:
            yield
        except OSError as error:
            # The number is looked at too: while starts take over, one of them can have made this folder again.
            if error.errno in _GONE and (not self.holds() or _newest(self.work.parent) > self.generation):
                raise self._fenced() from None
            raise

    def _rename(self, source: Path, target: Path) -> None:
        try:
            os.rename(source, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            raise CheckpointError(
                "two parts of a run folder are on different file systems, so nothing can be renamed between them",
                found=str(target.parent),
                needed=f"the file system of {self.run_folder}",
                hint="make the whole run folder a link, or set run.folder, instead of linking a part of it",
            ) from None

    def _revoke(self, number: int) -> None:
        """See the module's header: after this nothing comes out of the working folder of `number`."""
        attempt = self.run_folder / ATTEMPTS_NAME / attempt_name(number)
        for _ in range(_ROUNDS):
            if attempt.is_file():
                return
            # The target is an empty folder, and the source ends in a separator: a tombstone that another start has
            # made since cannot be renamed by mistake.
            box = self.work / f"{_REVOKED}{uuid.uuid4().hex}"
            os.mkdir(box)
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.rename(f"{attempt}{os.sep}", box)
            with contextlib.suppress(FileExistsError):  # an older start has made the folder again
                os.close(os.open(attempt, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            self._dissolve(box)
        raise _cannot_empty(attempt)

    def _dissolve(self, folder: Path) -> None:
        """Remove what was a working folder. Its entries are moved away whole before anything in them is deleted."""
        self._trash.mkdir(exist_ok=True)
        for _ in range(_ROUNDS):
            with os.scandir(folder) as found:
                entries = list(found)
            for entry in entries:
                # It can be gone: its owner, or a start that revoked that owner, was stopped inside a system call.
                with contextlib.suppress(FileNotFoundError):
                    if entry.name.startswith(_REVOKED) and entry.is_dir(follow_symlinks=False):
                        self._dissolve(Path(entry.path))  # was revoked by the start whose folder this was
                    else:
                        os.rename(entry.path, self._trash / uuid.uuid4().hex)
            try:
                os.rmdir(folder)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            else:
                return
        raise _cannot_empty(folder)

    @property
    def _trash(self) -> Path:
        return self.work / _TRASH

    def _fenced(self) -> FencedError:
        attempts = self.run_folder / ATTEMPTS_NAME
        newest = _newest(attempts)
        if newest <= self.generation:
            return FencedError(
                "the working folder of this start is gone",
                where=str(self.work),
                hint="start the run again; never delete or move a run folder, or a part of it, while it is in use",
            )
        return FencedError(
            "a newer start of this run owns its folder, so this one ends",
            found=_describe(attempts / attempt_name(newest), newest),
            needed=f"no start after number {self.generation}",
            where=str(self.run_folder),
            hint="nothing, if the newer one is wanted; otherwise stop it and start the run again",
        )


def attempt_name(generation: int) -> str:
    """Name of a start's working folder: "attempt-00000003"."""
    return f"attempt-{generation:08d}"


def _make_attempt(attempts: Path) -> int:
    number = _newest(attempts) + 1
    while True:
        try:
            os.mkdir(attempts / attempt_name(number))
        except FileExistsError:
            number += 1
        else:
            return number


def _newest(attempts: Path) -> int:
    """The highest number that a start has or had; 0 where there was none."""
    try:
        matches = [_ATTEMPT.fullmatch(name) for name in os.listdir(attempts)]
    except FileNotFoundError:
        matches = []
    return max((int(match[1]) for match in matches if match), default=0)


def _cannot_empty(folder: Path) -> CheckpointError:
    return CheckpointError(
        "the working folder of an older start cannot be emptied",
        found=", ".join(sorted(os.listdir(folder))[:3]) if folder.is_dir() else None,
        where=str(folder),
        hint="end the older process: it still has files open there",
    )


def _describe(attempt: Path, generation: int) -> str:
    """The owner of a working folder, as far as it has said who it is."""
    try:
        owner = json.loads((attempt / OWNER_NAME).read_bytes())
    except (OSError, ValueError):
        owner = {}
    facts = {"generation": generation} | (owner if isinstance(owner, dict) else {})
    return ", ".join(f"{key} {value}" for key, value in facts.items())
