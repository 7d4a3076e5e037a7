"""Files as chunks of bytes: plain or decompressed, from the start of a range on, each inside or behind the range.

In:  a path and a `FileRange` of kind "bytes" or "file".
Out: (chunk, whether it lies in the range). What lies behind is read only as far as the caller asks for it, to end the
     last record that began inside. Chunks are bounded (at most 1 MiB), however well the file is compressed.

A compressed file that ends early is an error, not an end: the records behind the damage would be lost in silence.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import zstandard

from data_prep.readers.ranges import FileRange
from data_prep.readers.source import Compression, compression_of
from data_prep.readers.zstd_frames import frame_content

READ_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError)
"""What reading a damaged or vanished file raises here."""

_CHUNK_BYTES = 1 << 19
_COMPRESSED_BYTES = 1 << 18
_BEHIND_BYTES = 1 << 14
_PADDING = b"\0"  # between and behind members: allowed by gzip, and by xz in fours


def range_chunks(path: Path, file_range: FileRange, on_bytes: Callable[[int], None]) -> Iterator[tuple[bytes, bool]]:
    """Content of a file from the start of a range.

    Args:
        path: .gz, .zst, .xz and .bz2 are decompressed.
        file_range: kind "bytes": of the content; of .zst, of the file, at frames. Kind "file": all of it.
        on_bytes: called with counts of the file's own bytes that lie in the range; they add up to its size.

    Raises:
        One of `READ_ERRORS`.
    """
    compression = compression_of(path)
    with path.open("rb", buffering=_CHUNK_BYTES if compression == "zst" else 0) as file:
        file.seek(file_range.start)
        if compression == "":
            yield from _plain(file, file_range, on_bytes)
        elif compression == "zst":
            yield from _zstandard(file, file_range, on_bytes)
        else:
            compressed = _counted(file, file_range, on_bytes)
            for chunk in _gzip(compressed) if compression == "gz" else _members(compressed, compression):
                yield chunk, True


def _plain(file: BinaryIO, file_range: FileRange, on_bytes: Callable[[int], None]) -> Iterator[tuple[bytes, bool]]:
    left = file_range.end - file_range.start
    while left:
        chunk = file.read(min(left, _CHUNK_BYTES))
        if not chunk:
            raise EOFError("the file is shorter than when it was planned")
        on_bytes(len(chunk))
        left -= len(chunk)
        yield chunk, True
    while chunk := file.read(_BEHIND_BYTES):
        yield chunk, False


def _zstandard(file: BinaryIO, file_range: FileRange, on_bytes: Callable[[int], None]) -> Iterator[tuple[bytes, bool]]:
    decompressor = zstandard.ZstdDecompressor()
    position = file_range.start
    if position == file_range.end:
        raise EOFError("an empty file is no zstd file")
    while position < file_range.end or file.peek(1):  # type: ignore[attr-defined]
        inside = position < file_range.end
        for content in frame_content(file, decompressor):
            if inside:
                on_bytes(file.tell() - position)
                position = file.tell()
            yield content, inside
        if inside:
            on_bytes(file.tell() - position)
        position = file.tell()


def _counted(file: BinaryIO, file_range: FileRange, on_bytes: Callable[[int], None]) -> Iterator[bytes]:
    left = file_range.end - file_range.start
    while chunk := file.read(_COMPRESSED_BYTES):
        on_bytes(min(left, len(chunk)))
        left -= min(left, len(chunk))
        yield chunk
    if left:
        raise EOFError("the file is shorter than when it was planned")


def _gzip(compressed: Iterator[bytes]) -> Iterator[bytes]:
    member, members = None, 0
    for chunk in compressed:
        data = chunk
        while data:
            if member is None:
                data = data.lstrip(_PADDING) if members else data
                if not data:
                    break
                member, members = zlib.decompressobj(wbits=31), members + 1
            content = member.decompress(data, _CHUNK_BYTES)
            if content:
                yield content
            data = member.unconsumed_tail
            if member.eof:
                data, member = member.unused_data, None
    if member is not None or not members:
        raise EOFError("the compressed file is cut short")


def _members(compressed: Iterator[bytes], compression: Compression) -> Iterator[bytes]:
    """Content of an .xz or .bz2 file, whose decompressors keep what they were given for the next call."""
    member: lzma.LZMADecompressor | bz2.BZ2Decompressor | None = None
    members = 0
    for chunk in compressed:
        data = chunk
        while data or (member is not None and not member.needs_input):
            if member is None:
                data = data.lstrip(_PADDING) if members else data
                if not data:
                    break
                member, members = lzma.LZMADecompressor() if compression == "xz" else bz2.BZ2Decompressor(), members + 1
            content = member.decompress(data, _CHUNK_BYTES)
            data = b""
            if content:
                yield content
            if member.eof:
                data, member = member.unused_data, None
    if member is not None or not members:
        raise EOFError("the compressed file is cut short")
