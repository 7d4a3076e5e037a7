"""Text files as numbered lines of bytes: plain, .gz or .zst. Preparing data and evaluating both read through here.

In:  a path.
Out: (line number from 1, the line without its line feed), streamed; a byte-order mark is no part of the first line.

A compressed file that ends early is an error, not an end: the records behind the damage would be lost in silence.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import zstandard

from mlc.errors import DataError

_CHUNK = 1 << 18
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
COMPRESSED = (".gz", ".zst")


def read_lines(path: Path, on_bytes: Callable[[int], None] = lambda count: None) -> Iterator[tuple[int, bytes]]:
    """Lines of a file.

    Args:
        path: .gz and .zst are decompressed, anything else is read as it is.
        on_bytes: called with the number of bytes of the file (compressed, if it is) as they are read.

    Raises:
        DataError: the file cannot be read to its end.
    """
    number, pending = 1, []
    try:
        for chunk in _decompressed(path, on_bytes):
            first, *rest = chunk.split(b"\n")
            pending.append(first)
            for part in rest:
                line = b"".join(pending)
                yield number, line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
                number, pending = number + 1, [part]
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise DataError(
            "the file cannot be read to its end",
            found=str(error) or type(error).__name__,
            where=f"{path}:{number}",
            hint="fetch or compress the file again",
        ) from None
    line = b"".join(pending)
    if line:
        yield number, line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line


def _decompressed(path: Path, on_bytes: Callable[[int], None]) -> Iterator[bytes]:
    if path.suffix == ".gz":
        with path.open("rb") as raw, gzip.GzipFile(fileobj=raw) as file:
            before, chunk = 0, b"not empty"
            while chunk:
                chunk = file.read(_CHUNK)
                on_bytes(raw.tell() - before)
                before = raw.tell()
                yield chunk
        return
    with path.open("rb") as file:
        chunks = _counted(iter(lambda: file.read(_CHUNK), b""), on_bytes)
        yield from _zstandard_frames(chunks) if path.suffix == ".zst" else chunks


def _counted(chunks: Iterator[bytes], on_bytes: Callable[[int], None]) -> Iterator[bytes]:
    for chunk in chunks:
        on_bytes(len(chunk))
        yield chunk


def _zstandard_frames(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """All frames of a .zst file. zstandard's stream_reader takes a file cut short for a shorter one, hence this."""
    frame = None
    for chunk in chunks:
        data = chunk
        while data:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            yield frame.decompress(data)
            data = frame.unused_data if frame.eof else b""
            if frame.eof:
                frame = None
    if frame is not None:
        raise EOFError("the last zstd frame is cut short")
