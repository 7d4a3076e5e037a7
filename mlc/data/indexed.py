"""Megatron's indexed token files, byte for byte: `<prefix>.bin` and `<prefix>.idx`.

In:  documents, each a list of sequences of token ids (writer); or a prefix of two files on disk (reader).
Out: the two files; or views into their memory maps.

`.bin` holds the little-endian token ids of every sequence, one after the other, and nothing else. `.idx` holds, without
padding: magic `MMIDIDX\\0\\0`, version u64 = 1, dtype code u8, number of sequences S u64, number of document bounds D+1
u64, then int32 lengths [S] in tokens, int64 offsets [S] in bytes, int64 document bounds [D+1] counted in sequences.
Source: NVIDIA/Megatron-LM, megatron/core/datasets/indexed_dataset.py. Integers only: the codes of float32 and float64
are swapped between Megatron and GPT-NeoX, and tokens are never floats.
"""

from __future__ import annotations

import os
import struct
import uuid
from array import array
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mlc.errors import ShardError
from mlc.files import sync_folder

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
DTYPE_OF_CODE: dict[int, np.dtype[Any]] = {
    1: np.dtype("u1"),
    2: np.dtype("i1"),
    3: np.dtype("<i2"),
    4: np.dtype("<i4"),
    5: np.dtype("<i8"),
    8: np.dtype("<u2"),
}
CODE_OF_DTYPE = {dtype: code for code, dtype in DTYPE_OF_CODE.items()}
_CHECKED_AT_ONCE = 1 << 20  # entries; keeps the checks of a large index out of memory


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The dtype Megatron chooses for a vocabulary: uint16 under 65,500 ids, int32 from there on."""
    return np.dtype("<u2") if vocab_size < 65500 else np.dtype("<i4")


def bin_path(prefix: Path) -> Path:
    """`<prefix>.bin`; a prefix may itself contain dots ("en-de.de")."""
    return prefix.with_name(prefix.name + ".bin")


def idx_path(prefix: Path) -> Path:
    """`<prefix>.idx`."""
    return prefix.with_name(prefix.name + ".idx")


class IndexedShard:
    """Memory-mapped reader of one `.bin`/`.idx` pair.

    Arrays are views into the maps, so they cost no memory and are read-only. Pickling keeps the prefix alone, so a
    worker process maps the files itself.

    Attributes:
        dtype: of the tokens.
        lengths: int32 [S], tokens of each sequence.
        offsets: int64 [S], byte at which each sequence starts in `.bin`.
        document_bounds: int64 [D+1]; document d is sequences document_bounds[d] .. document_bounds[d+1]-1.

    Raises:
        ShardError: a file is missing, or the two do not agree to the byte.
    """

    def __init__(self, prefix: str | Path) -> None:
        self.prefix = Path(prefix)
        index_B = _map(idx_path(self.prefix), np.dtype("u1"))
        sequences, bounds = self._read_header(index_B)
        self.lengths: NDArray[np.int32] = _part(index_B, HEADER.size, sequences, np.dtype("<i4"))
        self.offsets: NDArray[np.int64] = _part(index_B, HEADER.size + 4 * sequences, sequences, np.dtype("<i8"))
        self.document_bounds: NDArray[np.int64] = _part(index_B, HEADER.size + 12 * sequences, bounds, np.dtype("<i8"))
        self._tokens_T = _map(bin_path(self.prefix), self.dtype)
        self._check_index()

    def __reduce__(self) -> tuple[type[IndexedShard], tuple[Path]]:
        return IndexedShard, (self.prefix,)

    def __len__(self) -> int:
        return self.num_documents

    @property
    def num_documents(self) -> int:
        """D."""
        return len(self.document_bounds) - 1

    @property
    def num_sequences(self) -> int:
        """S."""
        return len(self.lengths)

    @property
    def num_tokens(self) -> int:
        """Tokens of all sequences together."""
        return len(self._tokens_T)

    @property
    def document_lengths(self) -> NDArray[np.int64]:
        """int64 [D]: tokens of each document, all its sequences together (computed at each call)."""
        starts = np.append(self.offsets, np.int64(self.num_tokens * self.dtype.itemsize)) // self.dtype.itemsize
        return np.diff(starts[self.document_bounds])

    @property
    def tokens(self) -> NDArray[Any]:
        """[num_tokens]: the tokens of all sequences, one after the other, a read-only view."""
        return self._tokens_T

    def sequence(self, s: int) -> NDArray[Any]:
        """[lengths[s]] tokens of sequence s, a read-only view."""
        if not 0 <= s < self.num_sequences:
            raise IndexError(f"sequence {s} of {self.num_sequences} in {self.prefix}")
        start = int(self.offsets[s]) // self.dtype.itemsize
        return self._tokens_T[start : start + int(self.lengths[s])]

    def document(self, d: int) -> NDArray[Any]:
        """All tokens of document d, its sequences in order, a read-only view."""
        if not 0 <= d < self.num_documents:
            raise IndexError(f"document {d} of {self.num_documents} in {self.prefix}")
        first, end = self.document_bounds[d : d + 2].tolist()
        if first == end:
            return self._tokens_T[:0]
        start = int(self.offsets[first]) // self.dtype.itemsize
        stop = int(self.offsets[end - 1]) // self.dtype.itemsize + int(self.lengths[end - 1])
        return self._tokens_T[start:stop]

    def _read_header(self, index_B: NDArray[np.uint8]) -> tuple[int, int]:
        """Sets `dtype`; returns the counts S and D+1."""
        path = idx_path(self.prefix)
        if len(index_B) < HEADER.size:
            raise ShardError(
                "the index is cut short", found=f"{len(index_B)} bytes", needed=f">= {HEADER.size}", where=str(path)
            )
        magic, version, code, sequences, bounds = HEADER.unpack(index_B[: HEADER.size].tobytes())
        if magic != MAGIC:
            raise ShardError("this is no Megatron index", found=magic, needed=repr(MAGIC), where=str(path))
        if version != VERSION:
            raise ShardError("index of another version", found=version, needed=str(VERSION), where=str(path))
        if code not in DTYPE_OF_CODE:
            codes = ", ".join(str(known) for known in DTYPE_OF_CODE)
            raise ShardError("no dtype of token ids", found=f"code {code}", needed=f"one of {codes}", where=str(path))
        self.dtype = DTYPE_OF_CODE[code]
        size = HEADER.size + 12 * sequences + 8 * bounds
        if len(index_B) != size:
            raise ShardError(
                "the index has another size than its counts say",
                found=f"{len(index_B)} bytes",
                needed=f"{size} bytes for {sequences} sequences and {bounds} document bounds",
                where=str(path),
            )
        return sequences, bounds

    def _check_index(self) -> None:
        path = str(idx_path(self.prefix))
        bounds, sequences = self.document_bounds, self.num_sequences
        if not len(bounds) or bounds[0] != 0 or bounds[-1] != sequences:
            raise ShardError(
                "the document bounds do not cover the sequences",
                found=f"{bounds[0]} .. {bounds[-1]}" if len(bounds) else "none",
                needed=f"0 .. {sequences}",
                where=path,
            )
        for start in range(0, len(bounds) - 1, _CHECKED_AT_ONCE):
            part = bounds[start : start + _CHECKED_AT_ONCE + 1]
            if (part[1:] < part[:-1]).any():
                raise ShardError("the document bounds go backwards", where=path)
        offset = 0
        for start in range(0, sequences, _CHECKED_AT_ONCE):
            lengths = self.lengths[start : start + _CHECKED_AT_ONCE].astype(np.int64)
            ends = offset + np.cumsum(lengths * self.dtype.itemsize)
            starts = np.append(np.int64(offset), ends[:-1])
            wrong = (lengths < 0) | (self.offsets[start : start + _CHECKED_AT_ONCE] != starts)
            if wrong.any():
                s = start + int(np.argmax(wrong))
                raise ShardError(
                    f"sequence {s} does not start where the one before it ends",
                    found=f"offset {self.offsets[s]}, length {self.lengths[s]}",
                    needed=f"offset {starts[s - start]}, length >= 0",
                    where=path,
                )
            offset = int(ends[-1])
        if offset != self.num_tokens * self.dtype.itemsize:
            raise ShardError(
                "the tokens have another size than their index says",
                found=f"{self.num_tokens * self.dtype.itemsize} bytes",
                needed=f"{offset} bytes",
                where=str(bin_path(self.prefix)),
            )


class ShardWriter:
    """Writes one `.bin`/`.idx` pair, document by document.

    Tokens go to a temporary file beside the final one; `close` syncs both files and renames them, `.idx` last. So where
    there was none before, an `.idx` under its final name means that the pair is complete; where an older pair is
    replaced, a process that is killed in between leaves the new `.bin` beside the old `.idx`. Leaving the context with
    an exception removes the temporary files. Holds 4 bytes a sequence and 8 a document in memory.

    Args:
        prefix: where the files go; its folder is made.
        dtype: of the tokens, an integer dtype of the format (see `token_dtype`).

    Raises:
        ShardError: a dtype the format lacks, or a token the dtype cannot hold.
    """

    def __init__(self, prefix: str | Path, dtype: DTypeLike) -> None:
        self.prefix = Path(prefix)
        self.dtype = np.dtype(dtype).newbyteorder("<")
        if self.dtype not in CODE_OF_DTYPE:
            known = ", ".join(dtype.name for dtype in CODE_OF_DTYPE)
            raise ShardError("no dtype of token ids", found=self.dtype.name, needed=f"one of {known}")
        self._lengths, self._bounds = array("i"), array("q", [0])
        self.prefix.parent.mkdir(parents=True, exist_ok=True)
        self._mark = f".{uuid.uuid4().hex}.tmp"  # two writers of one prefix must not share a file
        self._bin: IO[bytes] | None = self._temporary(bin_path(self.prefix)).open("xb", buffering=1 << 20)

    def add_document(self, sequences: Sequence[NDArray[Any]]) -> None:
        """Append a document: its sequences, each an integer array [length]."""
        if self._bin is None:
            raise ValueError(f"the writer of {self.prefix} is closed")
        arrays = [self._as_tokens(sequence) for sequence in sequences]
        for tokens in arrays:
            self._bin.write(tokens.data)
            self._lengths.append(len(tokens))
        self._bounds.append(len(self._lengths))

    def close(self) -> None:
        """Make the pair complete and give it its final names; a second call does nothing."""
        if self._bin is None:
            return
        _sync_and_close(self._bin)
        self._bin = None
        with self._temporary(idx_path(self.prefix)).open("xb") as file:
            lengths = np.frombuffer(self._lengths, dtype=np.int32) if self._lengths else np.empty(0, np.int32)
            sequences, bounds = len(lengths), np.frombuffer(self._bounds, dtype=np.int64)
            file.write(HEADER.pack(MAGIC, VERSION, CODE_OF_DTYPE[self.dtype], sequences, len(bounds)))
            file.write(lengths.astype("<i4").tobytes())
            offsets = np.zeros(sequences, dtype="<i8")
            np.cumsum(lengths[:-1].astype(np.int64) * self.dtype.itemsize, out=offsets[1:])
            file.write(offsets.tobytes())
            file.write(bounds.astype("<i8").tobytes())
            _sync_and_close(file)
        for path in (bin_path(self.prefix), idx_path(self.prefix)):
            os.replace(self._temporary(path), path)
        sync_folder(self.prefix.parent)

    def abort(self) -> None:
        """Drop what was written; nothing appears under the final names."""
        if self._bin is not None:
            with suppress(OSError):  # a full disk refuses what is still in the buffer, too
                self._bin.close()
            self._bin = None
        for path in (bin_path(self.prefix), idx_path(self.prefix)):
            self._temporary(path).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.abort()
            return
        try:
            self.close()
        except BaseException:
            self.abort()
            raise

    def _temporary(self, path: Path) -> Path:
        return path.with_name(path.name + self._mark)

    def _as_tokens(self, sequence: NDArray[Any]) -> NDArray[Any]:
        tokens = np.asarray(sequence)
        if tokens.ndim != 1 or (tokens.size and tokens.dtype.kind not in "iu"):
            raise ShardError(
                "a sequence must be a one-dimensional array of integers", found=f"{tokens.dtype} {tokens.shape}"
            )
        if tokens.dtype != self.dtype:
            limits = np.iinfo(self.dtype)
            if tokens.size and (int(tokens.min()) < limits.min or int(tokens.max()) > limits.max):
                raise ShardError(
                    f"a token id does not fit into {self.dtype.name}",
                    found=f"ids {tokens.min()} .. {tokens.max()}",
                    needed=f"{limits.min} .. {limits.max}",
                    where=str(self.prefix),
                )
            tokens = tokens.astype(self.dtype)
        return np.ascontiguousarray(tokens)


def _sync_and_close(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()


def _map(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    """[size / itemsize] view of a whole file."""
    try:
        size = path.stat().st_size
        if size == 0:  # an empty file cannot be mapped
            return np.empty(0, dtype)
        if size % dtype.itemsize:
            raise ShardError(
                f"the file is no whole number of {dtype.name} tokens", found=f"{size} bytes", where=str(path)
            )
        return np.asarray(np.memmap(path, dtype=dtype, mode="r"))
    except OSError as error:
        raise ShardError("the shard cannot be opened", found=error.strerror or str(error), where=str(path)) from None


def _part(index_B: NDArray[np.uint8], start: int, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """[count] view of the index from byte `start` on (unaligned: the header has 34 bytes)."""
    return index_B[start : start + count * dtype.itemsize].view(dtype)
