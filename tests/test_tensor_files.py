"""Tensor files: what was written is read back bit for bit, in any pieces, and what is wrong is refused."""

from __future__ import annotations

import errno
import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mlc.errors import CheckpointError
from mlc.files import hash_file
from mlc.tensor_files import (
    BLOCK_BYTES,
    DTYPE_NAMES,
    Layout,
    Piece,
    PieceReader,
    read_whole,
    stream_tensors,
    write_pieces,
    write_tensors,
)

NAMES = st.text("ab@.0", min_size=1, max_size=4) | st.text(min_size=1, max_size=8)
DTYPES = st.sampled_from(list(DTYPE_NAMES))


@contextmanager
def folder() -> Iterator[Path]:
    """A folder for one example of hypothesis, which calls a test many times."""
    with TemporaryDirectory() as name:
        yield Path(name)


def bits(tensor: Tensor) -> bytes:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())


def random_bits(seed: int, dtype: torch.dtype, count: int) -> Tensor:
    """Any bit pattern of a dtype, NaNs of every kind among them."""
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.bool:
        return torch.randint(0, 2, (count,), generator=generator).bool()
    return torch.randint(0, 256, (count * dtype.itemsize,), generator=generator, dtype=torch.uint8).view(dtype)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    count = torch.Size(shape).numel()
    tensor = random_bits(draw(st.integers(0, 99)), draw(DTYPES), count).reshape(shape)
    if draw(st.booleans()):
        return tensor.transpose(0, -1) if tensor.dim() else tensor
    return tensor


@given(st.dictionaries(NAMES, tensors(), max_size=5))
def test_safetensors_reads_what_was_written(content: dict[str, Tensor]) -> None:
    with folder() as root:
        path, told = root / "file", list[int]()
        facts = write_tensors(path, content, progress=told.append)
        written = path.read_bytes()
        assert (facts.bytes, facts.xxh3) == (len(written), xxhash.xxh3_64_hexdigest(written))
        assert facts.xxh3 == hash_file(path)
        assert sum(told) == sum(tensor.numel() * tensor.itemsize for tensor in content.values())
        loaded = load_file(path)
        with safe_open(path, framework="pt") as handle:
            assert handle.metadata() == {"format": "pt"}
            assert set(handle.keys()) == set(loaded) == set(content)
            for name, tensor in content.items():
                for found in (loaded[name], handle.get_tensor(name)):
                    assert (found.dtype, found.shape, bits(found)) == (tensor.dtype, tensor.shape, bits(tensor))


@given(st.dictionaries(NAMES, tensors(), max_size=5))
def test_values_lie_at_multiples_of_their_width(content: dict[str, Tensor]) -> None:
    """Otherwise a reader that maps the file into memory has to copy them, or cannot read them at all."""
    with folder() as root:
        write_tensors(root / "file", content)
        data = (root / "file").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    for name, tensor in content.items():
        assert (start + header[name]["data_offsets"][0]) % tensor.itemsize == 0, name


def test_the_order_of_the_tensors_does_not_change_the_file(tmp_path: Path) -> None:
    content = {"b": torch.ones(3), "a": torch.arange(2), "c": torch.zeros(3)}
    one = write_tensors(tmp_path / "one", content)
    assert write_tensors(tmp_path / "other", dict(reversed(content.items()))) == one


@dataclass(frozen=True)
class Split:
    """Tensors as pieces: which piece lies in which file."""

    whole: dict[str, Tensor]
    files: list[list[Piece]]


@st.composite
def splits(draw: st.DrawFn) -> Split:
    dtype = draw(DTYPES)
    whole, files = {}, [list[Piece]() for _ in range(draw(st.integers(1, 4)))]
    for number, name in enumerate(draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))):
        tensor = random_bits(draw(st.integers(0, 99)) + number, dtype, draw(st.integers(1, 30)))
        whole[name] = tensor
        cuts = sorted(draw(st.lists(st.integers(0, len(tensor)), max_size=6)))
        for start, end in zip([0, *cuts], [*cuts, len(tensor)], strict=True):
            files[draw(st.integers(0, len(files) - 1))].append(Piece(name, start, tensor[start:end]))
    return Split(whole, files)


def written(root: Path, files: list[list[Piece]]) -> list[Path]:
    paths = [root / f"pieces-{number}" for number in range(len(files))]
    for path, pieces in zip(paths, files, strict=True):
        facts = write_pieces(path, iter(pieces))
        assert (facts.bytes, facts.xxh3) == (path.stat().st_size, hash_file(path))
    return paths


@given(splits(), st.data())
def test_any_range_of_any_split_is_read_back(split: Split, data: st.DataObject) -> None:
    with folder() as root:
        paths = written(root, split.files)
        first = data.draw(st.sampled_from([None, *paths]))
        with PieceReader(paths, first=first) as reader:
            for _ in range(3):
                name = data.draw(st.sampled_from(sorted(split.whole)))
                start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(split.whole[name]))] * 2)))
                expected = split.whole[name][start:end]
                out = torch.empty_like(expected)
                reader.read_into(name, start, out)
                assert bits(out) == bits(expected)
            assert reader.keys() == set(split.whole)
            for name, tensor in split.whole.items():
                assert reader.length(name) == len(tensor)
                found, expected = read_whole(reader, name, (len(tensor), 1)), tensor.float().reshape(-1, 1)
                torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
                assert tensor.dtype != torch.float32 or bits(found) == bits(expected)  # a cast may change a NaN's bits


@given(splits(), st.data())
def test_a_range_without_a_piece_is_refused_and_named(split: Split, data: st.DataObject) -> None:
    lost = data.draw(st.sampled_from([piece for file in split.files for piece in file if len(piece.values)]))
    with folder() as root:
        paths = written(root, [[piece for piece in file if piece is not lost] for file in split.files])
        start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(split.whole[lost.key]))] * 2)))
        out = torch.empty_like(split.whole[lost.key][start:end])
        with PieceReader(paths) as reader:
            gap = range(max(start, lost.start), min(end, lost.start + len(lost.values)))
            if not gap:
                reader.read_into(lost.key, start, out)
                assert bits(out) == bits(split.whole[lost.key][start:end])
                return
            with pytest.raises(CheckpointError) as caught:
                reader.read_into(lost.key, start, out)
        assert lost.key in caught.value.problem
        rest = [piece for file in split.files for piece in file if piece is not lost and piece.key == lost.key]
        if any(len(piece.values) for piece in rest):
            assert caught.value.found == f"no elements {gap[0]} to {gap[-1]}"
        else:
            assert caught.value.found == "nothing of it"
        assert str(paths[0]) in str(caught.value)


def test_pieces_beyond_the_shape_are_refused(tmp_path: Path) -> None:
    write_pieces(tmp_path / "file", [Piece("weight", 0, torch.ones(6))])
    with PieceReader([tmp_path / "file"]) as reader:
        assert read_whole(reader, "weight", (2, 3)).shape == (2, 3)
        with pytest.raises(CheckpointError, match=r"more of weight.*6 elements"):
            read_whole(reader, "weight", (5,))
        with pytest.raises(CheckpointError, match="no elements 6 to 6"):
            read_whole(reader, "weight", (7,))
        assert read_whole(reader, "absent", (0, 3)).shape == (0, 3)  # nothing is written of an empty tensor


def test_values_are_cast_to_what_is_asked_for(tmp_path: Path) -> None:
    values = torch.tensor([1.0, 2.5, -3.0])
    write_pieces(tmp_path / "file", [Piece("weight", 0, values.bfloat16())])
    out = torch.zeros(2, dtype=torch.float64)
    strided = torch.zeros(6)[::2]
    with PieceReader([tmp_path / "file"]) as reader:
        reader.read_into("weight", 1, out)
        reader.read_into("weight", 0, strided)
    assert out.tolist() == [2.5, -3.0]
    assert strided.tolist() == values.tolist()


def test_other_files_are_opened_only_when_needed(tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    write_pieces(own, [Piece("weight", 2, torch.tensor([2.0, 3.0]))])
    out = torch.empty(2)
    with PieceReader([other, own], first=own) as reader:
        reader.read_into("weight", 2, out)
        assert out.tolist() == [2.0, 3.0]
        with pytest.raises(CheckpointError, match="cannot be read") as caught:
            reader.read_into("weight", 1, out)
    assert caught.value.where == str(other)


@given(st.data())
def test_a_truncated_file_is_refused(data: st.DataObject) -> None:
    with folder() as root:
        path = root / "file"
        write_pieces(path, [Piece("weight", 0, torch.ones(5)), Piece("bias", 3, torch.ones(1))])
        content = path.read_bytes()
        path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
        with PieceReader([path]) as reader, pytest.raises(CheckpointError, match="cannot be read") as caught:
            reader.keys()
        assert caught.value.where == str(path)


@settings(max_examples=300)
@given(st.data())
def test_a_changed_byte_gives_no_other_error(data: st.DataObject) -> None:
    """Values and names can change without a trace in the format itself: what finds that is the hash."""
    with folder() as root:
        path = root / "file"
        write_pieces(path, [Piece("weight", 0, torch.ones(5)), Piece("bias", 3, torch.ones(1))])
        content = bytearray(path.read_bytes())
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        try:
            with PieceReader([path]) as reader:
                read_whole(reader, "weight", (5,))
                reader.read_into("bias", 3, torch.empty(1))
        except CheckpointError:
            pass


def test_a_file_of_whole_tensors_is_no_file_of_pieces(tmp_path: Path) -> None:
    cases = {
        "weight": torch.ones(2),
        "weight@": torch.ones(2),
        "weight@-1": torch.ones(2),
        "weight@0": torch.ones(2, 1),
    }
    for number, (name, tensor) in enumerate(cases.items()):
        save_file({name: tensor}, tmp_path / str(number))
        with (
            PieceReader([tmp_path / str(number)]) as reader,
            pytest.raises(CheckpointError, match="not a piece") as caught,
        ):
            reader.keys()
        assert name in str(caught.value)


def test_a_file_is_synced_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    facts = write_tensors(tmp_path / "file", {"weight": torch.ones(5)})
    assert synced == [facts.bytes]


def test_a_file_that_exists_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(FileExistsError):
        write_tensors(path, {"weight": torch.ones(2)})
    assert path.read_text() == "before"


def test_a_file_that_cannot_be_finished_is_taken_away(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: the system refuses the same call in the same way."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * BLOCK_BYTES, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write_tensors(tmp_path / "file", {"weight": torch.ones(BLOCK_BYTES)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []


def test_what_the_format_has_no_place_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"weight: this dtype.*complex64"):
        write_tensors(tmp_path / "file", {"weight": torch.ones(2, dtype=torch.complex64)})
    with pytest.raises(CheckpointError, match="__metadata__"):
        write_tensors(tmp_path / "file", {"__metadata__": torch.ones(2)})
    assert list(tmp_path.iterdir()) == []


def test_streamed_tensors_are_asked_for_one_by_one(tmp_path: Path) -> None:
    content = {"a": torch.randn(3, 2), "b": torch.tensor(1.5), "c": torch.arange(4)}
    asked: list[str] = []

    def tensor_of(name: str) -> Tensor:
        asked.append(name)
        return content[name]

    layout = {name: Layout(tensor.dtype, tuple(tensor.shape)) for name, tensor in content.items()}
    facts = stream_tensors(tmp_path / "streamed", layout, tensor_of)
    assert sorted(asked) == ["a", "b", "c"]
    assert facts == write_tensors(tmp_path / "at-once", content)


def test_writing_takes_no_memory_of_the_size_of_the_tensors(tmp_path: Path) -> None:
    tensor = torch.zeros(16 << 20)  # 64 MiB
    peak_bytes = peak_memory(lambda: write_tensors(tmp_path / "file", {"weight": tensor}))
    assert peak_bytes < 8 << 20


def peak_memory(work: object) -> int:
    """How far the process' resident memory rises, in bytes (proc(5): clear_refs, VmHWM)."""
    assert callable(work)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{key}:")]
    return int(line.split()[1]) << 10
