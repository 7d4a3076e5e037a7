"""A file that is written once, from its beginning to its end: hashed on the way, past the page cache, synced.

In:  blocks of bytes.
Out: the file, with its size and hash.

What is written to be read by another start, if ever, has no business in the page cache: there it costs a copy, and
memory that the system has to find first, while training wants both (docs/benchmarks.md, "Saving and resuming"). So
Linux is asked for direct writes (open(2), O_DIRECT), which need aligned memory, places and lengths: bytes go through a
buffer. Where a file system does not offer them, or not for this write, the same bytes are written in the usual way.
"""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path
from types import TracebackType
from typing import Self

import xxhash

from mlc.files import FileFacts

BUFFER_BYTES = 4 << 20
BLOCK_BYTES = 256 << 10
"""Hashed and copied at a time: so small that it is still in the processor's cache for the second of both."""
ALIGNMENT_BYTES = 4096
"""A multiple of the logical block size of every disk."""
_DIRECT = getattr(os, "O_DIRECT", 0)  # macOS has none


class StreamedFile:
    """A new file; a context manager, which deletes it if an error gets through.

    Args:
        path: must not exist. The folder is not synced.

    Raises:
        OSError: from any method: it exists, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            self._file, self._direct = os.open(path, flags | _DIRECT, 0o666), bool(_DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            path.unlink(missing_ok=True)  # some systems make the file before they refuse
            self._file, self._direct = os.open(path, flags, 0o666), False
        self._buffer = mmap.mmap(-1, BUFFER_BYTES)
        self._memory = memoryview(self._buffer)
        self._filled = self._bytes = 0
        self._digest = xxhash.xxh3_64()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._memory.release()
        self._buffer.close()
        os.close(self._file)
        if kind is not None:
            self._path.unlink(missing_ok=True)  # of no use to anyone, and the disk may be full

    def write(self, block: bytes | memoryview) -> int:
        """Append a block; returns its length."""
        whole = memoryview(block)
        for start in range(0, len(whole), BLOCK_BYTES):
            part = whole[start : start + BLOCK_BYTES]
            self._digest.update(part)
            self._append(part)
        self._bytes += len(whole)
        return len(whole)

    def finish(self) -> FileFacts:
        """Write what is left and sync it.

        Returns:
            Size and hash, from the bytes that were handed over.
        """
        aligned = self._filled - self._filled % ALIGNMENT_BYTES
        self._put(0, aligned)
        if aligned < self._filled:
            self._write_as_usual()
            self._put(aligned, self._filled)
        os.fsync(self._file)
        return FileFacts(self._bytes, self._digest.hexdigest())

    def _append(self, part: memoryview) -> None:
        while part:
            count = min(len(part), BUFFER_BYTES - self._filled)
            self._memory[self._filled : self._filled + count] = part[:count]
            self._filled, part = self._filled + count, part[count:]
            if self._filled == BUFFER_BYTES:
                self._put(0, BUFFER_BYTES)
                self._filled = 0

    def _put(self, start: int, end: int) -> None:
        """Write a part of the buffer."""
        while start < end:
            try:
                start += os.write(self._file, self._memory[start:end])
            except OSError as error:
                # Not as a direct write: the file system has none, or a limit has left a length that is not aligned.
                if not (self._direct and error.errno == errno.EINVAL):
                    raise
                self._write_as_usual()

    def _write_as_usual(self) -> None:
        if self._direct:
            import fcntl

            flags = fcntl.fcntl(self._file, fcntl.F_GETFL)
            fcntl.fcntl(self._file, fcntl.F_SETFL, flags & ~_DIRECT)
            self._direct = False
