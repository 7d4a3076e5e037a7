"""Files that are whole or absent, and what tells that they are whole.

In:  bytes and paths.
Out: files written under a temporary name, synced and renamed; checksums.
"""

from __future__ import annotations

import json
import os
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import xxhash

BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class FileFacts:
    """What a whole file must have.

    Attributes:
        bytes: its size.
        xxh3: xxh3_64 of its content, in hexadecimal.
    """

    bytes: int
    xxh3: str


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file under a temporary name, synced and renamed when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, sync it, and rename it: a reader sees all of it or the one before."""
    with new_file(path) as file:
        file.write(content)


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write a report as JSON that people can read, all of it or nothing."""
    write_atomically(path, json_bytes(content))


def json_bytes(content: Mapping[str, object]) -> bytes:
    """JSON that people can read."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def hash_file(path: Path, progress: Callable[[int], None] = lambda count: None) -> str:
    """xxh3_64 of a file's content, in hexadecimal.

    Args:
        path: the file.
        progress: told after every block how many bytes it had.
    """
    digest, buffer = xxhash.xxh3_64(), bytearray(BLOCK_BYTES)
    block = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):  # the system reads further ahead then
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while count := file.readinto(buffer):
            digest.update(block[:count])
            progress(count)
    return digest.hexdigest()


def sync_file(path: Path) -> None:
    """Make the content of a file durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make what was created, renamed or deleted in a folder durable."""
    if sys.platform == "win32":  # a folder cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
