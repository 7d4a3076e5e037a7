"""A file that is written once, from its beginning to its end, and hashed on the way.

In:  blocks of bytes.
Out: the file, complete on disk under a temporary name, then under its own; its size and hash.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Protocol, Self

from mlc.files import sync_folder

BUFFER_BYTES = 64 << 10
"""Small, so that large blocks are written without another copy."""


class Digest(Protocol):
    """What hashlib and xxhash have in common."""

    def update(self, data: Any, /) -> None:
        """Take in the next bytes."""

    def hexdigest(self) -> str:
        """Of all bytes so far."""


class HashedFile:
    """A new file under a temporary name, until `commit`.

    Two processes may write the same file at the same time: each has a name of its own, and the last commit stays.

    Args:
        path: its final name; the folder is made.
        digest: of hashlib or xxhash, without any bytes yet.

    Raises:
        OSError: from any method: it cannot be written.
    """

    def __init__(self, path: Path, digest: Digest) -> None:
        self.path = path
        self.bytes = 0
        self._digest = digest
        path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
        self._file: IO[bytes] | None = self._temporary.open("xb", buffering=BUFFER_BYTES)

    def write(self, block: Any) -> None:
        """Append a block: bytes, or a contiguous array."""
        assert self._file is not None, f"{self.path} is closed"
        view = memoryview(block)
        if not view.nbytes:  # cannot be cast
            return
        view = view.cast("B")
        self._file.write(view)
        self._digest.update(view)
        self.bytes += len(view)

    def finish(self) -> tuple[int, str]:
        """Make the content durable; it has its temporary name still.

        Returns:
            Its size in bytes and its hash in hexadecimal.
        """
        assert self._file is not None, f"{self.path} is closed"
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        return self.bytes, self._digest.hexdigest()

    def commit(self) -> None:
        """Give a finished file its name. The folder is not synced: see `commit_all`."""
        os.replace(self._temporary, self.path)

    def abort(self) -> None:
        """Remove what was not committed."""
        if self._file is not None:
            with suppress(OSError):  # a full disk refuses what is still in the buffer, too
                self._file.close()
            self._file = None
        self._temporary.unlink(missing_ok=True)


class FileSet:
    """Files that get their names together, in the order they were opened; a context manager.

    Leaving it by an exception removes what was not committed.
    """

    def __init__(self) -> None:
        self._files: list[HashedFile] = []

    def open(self, path: Path, digest: Callable[[], Digest]) -> HashedFile:
        """A further file."""
        self._files.append(HashedFile(path, digest()))
        return self._files[-1]

    def finish(self) -> dict[Path, tuple[int, str]]:
        """Make all files durable; returns {path: its size and hash}."""
        return {file.path: file.finish() for file in self._files}

    def commit(self) -> None:
        """Give the finished files their names and sync their folders."""
        for file in self._files:
            file.commit()
        for folder in sorted({file.path.parent for file in self._files}):
            sync_folder(folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._files:
            file.abort()
