"""Zstandard files frame by frame: where frames begin, without decompressing; and their content in bounded pieces.

In:  a .zst file.
Out: `frame_spans`: first byte and end of every frame; `frame_content`: the content of the frame at the file's position.

Written after RFC 8878, section 3: a frame is a header, blocks that each state their compressed size and hold at most
128 KiB, and an optional checksum. The library's stream reader takes a file that is cut short for a shorter one, and one
`decompress` call may give 2^31 times its input; walking the blocks leaves neither.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import zstandard

_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
_CONTENT_SIZE_BYTES = (0, 2, 4, 8)
_DICTIONARY_BYTES = (0, 1, 2, 4)
_BLOCK_BYTES = 1 << 17
_BLOCKS_A_PIECE = 4  # half a MiB: stays in a core's cache until its lines have been read
_SKIPPED_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class FrameSpan:
    """Bytes start <= i < end of the file are one frame; `has_content` is False for skippable and empty ones."""

    start: int
    end: int
    has_content: bool


def frame_spans(path: Path) -> Iterator[FrameSpan]:
    """Every frame of a file, by its headers alone: one small read for each block.

    Raises:
        EOFError: the file ends within a frame.
        zstandard.ZstdError: something else than a frame.
        OSError: the file cannot be read.
    """
    with path.open("rb", buffering=4096) as file:
        size = os.fstat(file.fileno()).st_size
        if hasattr(os, "posix_fadvise"):  # else the system reads ahead nearly the whole file
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        start = 0
        while start < size:
            has_content = False
            skipped = _skippable_bytes(file)
            if skipped is not None:
                file.seek(skipped, os.SEEK_CUR)
            else:
                header = _frame_header(file)
                for stored_bytes, content_bytes, _ in _blocks(file):
                    has_content |= content_bytes > 0
                    file.seek(stored_bytes, os.SEEK_CUR)
                file.seek(4 * _has_checksum(header), os.SEEK_CUR)
            end = file.tell()
            if end > size:
                raise EOFError("the last zstd frame is cut short")
            yield FrameSpan(start, end, has_content)
            start = end


def frame_content(file: BinaryIO, decompressor: zstandard.ZstdDecompressor) -> Iterator[bytes]:
    """The content of the frame at the file's position, which is then behind it; nothing for a skippable frame.

    Yields:
        pieces of at most `_BLOCKS_A_PIECE` x 128 KiB.

    Raises:
        EOFError, zstandard.ZstdError, OSError: as `frame_spans`; ZstdError also for damaged content.
    """
    skipped = _skippable_bytes(file)
    if skipped is not None:
        while skipped:
            skipped -= len(_exactly(file, min(skipped, _SKIPPED_BYTES)))
        return
    frame = decompressor.decompressobj(write_size=_BLOCK_BYTES)
    header = _frame_header(file)
    held = [_MAGIC, header]
    for blocks, (stored_bytes, _, block_header) in enumerate(_blocks(file), 1):
        held += (block_header, _exactly(file, stored_bytes))
        if blocks % _BLOCKS_A_PIECE == 0:
            yield frame.decompress(b"".join(held))
            held = []
    if _has_checksum(header):
        held.append(_exactly(file, 4))
    if held:
        yield frame.decompress(b"".join(held))
    if not frame.eof:
        raise zstandard.ZstdError("a zstd frame does not end where its blocks do")


def _skippable_bytes(file: BinaryIO) -> int | None:
    """Of a skippable frame, how many bytes to pass over; None for one with content, of which the magic is read."""
    magic = _exactly(file, 4)
    if int.from_bytes(magic, "little") in _SKIPPABLE:
        return int.from_bytes(_exactly(file, 4), "little")
    if magic != _MAGIC:
        raise zstandard.ZstdError(f"no zstd frame begins with the bytes {magic.hex()}")
    return None


def _frame_header(file: BinaryIO) -> bytes:
    """The frame header behind the magic number (RFC 8878, 3.1.1.1)."""
    descriptor = _exactly(file, 1)
    flags = descriptor[0]
    single_segment = flags >> 5 & 1
    content_size_bytes = _CONTENT_SIZE_BYTES[flags >> 6] or single_segment
    return descriptor + _exactly(file, 1 - single_segment + _DICTIONARY_BYTES[flags & 3] + content_size_bytes)


def _has_checksum(header: bytes) -> bool:
    return bool(header[0] >> 2 & 1)


def _blocks(file: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """(bytes in the file behind its header, 0 only if it has no content, header) of each block; the caller moves on."""
    last = False
    while not last:
        header = _exactly(file, 3)
        fields = int.from_bytes(header, "little")
        last, kind, size = bool(fields & 1), fields >> 1 & 3, fields >> 3
        if kind == 3:
            raise zstandard.ZstdError("a zstd block of the reserved type")
        yield (1 if kind == 1 else size), size, header  # kind 1: one byte, to be repeated `size` times


def _exactly(file: BinaryIO, count: int) -> bytes:
    content = file.read(count)
    if len(content) != count:
        raise EOFError("the last zstd frame is cut short")
    return content
