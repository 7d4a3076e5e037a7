"""Tensors in safetensors files: written as a stream, hashed on the way, and read back in pieces.

In:  tensors by name; or pieces, which are contiguous parts of flattened tensors.
Out: files that safetensors opens, with their size and hash; any range of a flattened tensor, from any number of files.

The format (https://huggingface.co/docs/safetensors, "Format"): a little-endian u64 with the length of the header, the
header in JSON ({name: {"dtype", "shape", "data_offsets"}}), the values without gaps.

Why not safetensors' own `save_file` (0.8): a hash would need a second pass, over what the disk gives back instead of
over what was meant; the file would not be synced; and all tensors would have to be in memory together.
"""

from __future__ import annotations

import bisect
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mlc.errors import CheckpointError
from mlc.files import FileFacts
from mlc.streamed_file import StreamedFile

DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
METADATA = {"format": "pt"}
"""What safetensors.torch writes for transformers, which refuses files without it."""
BLOCK_BYTES = 4 << 20
"""Between two reports of progress."""
_METADATA_KEY = "__metadata__"
_ALIGNMENT_BYTES = 8
_MARK = "@"

Progress = Callable[[int], None]
"""Told after every block how many bytes of tensors were written."""


@dataclass(frozen=True)
class Piece:
    """A contiguous part of a flattened tensor.

    Attributes:
        key: name of the tensor.
        start: number of elements of the flattened tensor before this part.
        values: (n,), on the CPU.
    """

    key: str
    start: int
    values: Tensor


@dataclass(frozen=True)
class Layout:
    """What the header says of a tensor before its values are there."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Size of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], *, progress: Progress = lambda byte_count: None
) -> FileFacts:
    """Write tensors that are in memory into a new file, and sync it.

    Args:
        path: must not exist. The folder is not synced.
        tensors: on the CPU, of any shape, with dtypes of `DTYPE_NAMES`. One that is not contiguous is copied, alone.
        progress: see `Progress`.

    Returns:
        Size and hash of the file, from the bytes that were handed to the operating system.

    Raises:
        OSError: the file exists, or cannot be written; nothing is left of it then.
        CheckpointError: a dtype or a name that the format has no place for.
    """
    layout = {name: Layout(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    return stream_tensors(path, layout, tensors.__getitem__, progress=progress)


def stream_tensors(
    path: Path,
    layout: Mapping[str, Layout],
    tensor_of: Callable[[str], Tensor],
    *,
    progress: Progress = lambda byte_count: None,
) -> FileFacts:
    """As `write_tensors`, for tensors that need not be in memory together: `tensor_of` is asked for one after another.

    Each name is asked for once; its tensor has the shape and dtype that `layout` states.
    """
    # Wide dtypes first, as safetensors does: a tensor that starts at a multiple of its width needs no copy on reading.
    names = sorted(layout, key=lambda name: (-layout[name].dtype.itemsize, name))
    header = _header({name: layout[name] for name in names})
    with StreamedFile(path) as file:
        file.write(header)
        for name in names:
            tensor = tensor_of(name).detach()
            assert (tensor.dtype, tuple(tensor.shape)) == (layout[name].dtype, layout[name].shape), name
            values = tensor.reshape(-1).view(torch.uint8).numpy().data
            for start in range(0, len(values), BLOCK_BYTES):
                progress(file.write(values[start : start + BLOCK_BYTES]))
        return file.finish()


def write_pieces(path: Path, pieces: Iterable[Piece], *, progress: Progress = lambda byte_count: None) -> FileFacts:
    """Write pieces into a new file, one tensor `<key>@<start>` each; those without values are left out.

    Arguments, result and errors as in `write_tensors`.
    """
    tensors: dict[str, Tensor] = {}
    for piece in pieces:
        name = f"{piece.key}{_MARK}{piece.start}"
        assert piece.values.dim() == 1, f"{name} is not flat"
        if len(piece.values):
            assert name not in tensors, f"{name} comes twice"
            tensors[name] = piece.values
    return write_tensors(path, tensors, progress=progress)


def _header(layout: Mapping[str, Layout]) -> bytes:
    """Length and header, so long that the values start at a multiple of 8 bytes."""
    entries: dict[str, Any] = {_METADATA_KEY: METADATA}
    end = 0
    for name, tensor in layout.items():
        if tensor.dtype not in DTYPE_NAMES:
            raise CheckpointError(
                f"{name}: this dtype is not written",
                found=str(tensor.dtype),
                needed=", ".join(str(dtype) for dtype in DTYPE_NAMES),
            )
        if name in entries:
            raise CheckpointError("a tensor cannot have this name in a safetensors file", found=name)
        start, end = end, end + tensor.bytes
        entries[name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT_BYTES)
    return len(text).to_bytes(8, "little") + text


@dataclass(frozen=True, order=True)
class _Place:
    """Where a piece lies: elements start .. end - 1 of its key are tensor `name` of file number `file`."""

    start: int
    end: int
    file: int
    name: str


class PieceReader:
    """Ranges of flattened tensors from the files of `write_pieces`; a context manager, which closes the files.

    Files are opened when they are needed: a process that asks for what it wrote itself opens one.

    Args:
        files: all that together hold the tensors.
        first: one of them, to be looked at first.
    """

    def __init__(self, files: Sequence[Path], *, first: Path | None = None) -> None:
        self._files = sorted(files, key=lambda path: path != first)  # stable: the others keep their order
        self._opened: list[Any] = []
        self._places: dict[str, list[_Place]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._opened.clear()
        self._places.clear()
        self._stack.close()

    def keys(self) -> set[str]:
        """Names of all tensors of which there is a piece. Opens all files; errors as in `read_into`."""
        self._open_all()
        return set(self._places)

    def length(self, key: str) -> int:
        """Elements of `key` up to the end of its last piece; 0 = none. Opens all files; errors as in `read_into`."""
        self._open_all()
        return max((place.end for place in self._places.get(key, ())), default=0)

    def read_into(self, key: str, start: int, out: Tensor) -> None:
        """Fill `out` with elements start .. start + len(out) - 1 of the flattened tensor `key`.

        Args:
            key: name of the tensor.
            start: first element to read.
            out: (n,), on any device; values are cast to its dtype.

        Raises:
            CheckpointError: no file holds a part of the range, or a file cannot be read.
        """
        assert start >= 0, start
        assert out.dim() == 1, tuple(out.shape)
        position, end = start, start + len(out)
        while position < end:
            place = self._find(key, position)
            if place is None:
                if len(self._opened) == len(self._files):
                    raise self._missing(key, position, end)
                self._open_next()
                continue
            until = min(end, place.end)
            values = self._read(place, position, until)
            with torch.no_grad():
                out[position - start : until - start].copy_(values)
            position = until

    def _find(self, key: str, position: int) -> _Place | None:
        """A piece that holds an element, among the files opened so far."""
        places = self._places.get(key, [])
        after = bisect.bisect_right(places, position, key=lambda place: place.start)
        return next((place for place in reversed(places[:after]) if place.end > position), None)

    def _read(self, place: _Place, start: int, end: int) -> Tensor:
        try:
            values: Tensor = self._opened[place.file].get_slice(place.name)[start - place.start : end - place.start]
        except (SafetensorError, OSError, RuntimeError) as error:  # torch's mmap raises the last
            raise _unreadable(self._files[place.file], error) from None
        return values

    def _open_all(self) -> None:
        while len(self._opened) < len(self._files):
            self._open_next()

    def _open_next(self) -> None:
        number = len(self._opened)
        path = self._files[number]
        try:
            handle = self._stack.enter_context(safe_open(path, framework="pt"))
            shapes = {name: handle.get_slice(name).get_shape() for name in list(handle.keys())}
        except (SafetensorError, OSError, RuntimeError) as error:  # torch's mmap raises the last
            raise _unreadable(path, error) from None
        for name, shape in shapes.items():
            key, mark, start = name.rpartition(_MARK)
            if not (mark and start.isascii() and start.isdigit() and len(shape) == 1):
                raise CheckpointError(
                    "a tensor is not a piece",
                    found=f"{name!r} of shape {tuple(shape)}",
                    needed="<parameter>@<first element>, one-dimensional",
                    where=str(path),
                )
            bisect.insort(self._places.setdefault(key, []), _Place(int(start), int(start) + shape[0], number, name))
        self._opened.append(handle)

    def _missing(self, key: str, position: int, end: int) -> CheckpointError:
        after = [place.start for place in self._places.get(key, []) if place.start > position]
        return CheckpointError(
            f"a part of {key} is in none of the files",
            found=f"no elements {position} to {min([end, *after]) - 1}" if key in self._places else "nothing of it",
            where=_names(self._files),
        )


def read_whole(reader: PieceReader, key: str, shape: Sequence[int]) -> Tensor:
    """A whole tensor in fp32 on the CPU.

    Raises:
        CheckpointError: as in `PieceReader.read_into`; or the pieces reach beyond the shape.
    """
    values = torch.empty(math.prod(shape), dtype=torch.float32)
    reader.read_into(key, 0, values)
    if (length := reader.length(key)) > len(values):
        raise CheckpointError(
            f"there is more of {key} than its shape has", found=f"{length} elements", needed=f"shape {tuple(shape)}"
        )
    return values.reshape(tuple(shape))


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError("a file of tensors cannot be read", found=str(error), where=str(path))


def _names(files: Sequence[Path]) -> str:
    shown = ", ".join(str(path) for path in files[:3])
    return shown + (f" and {len(files) - 3} more" if len(files) > 3 else "") if files else "no files"
