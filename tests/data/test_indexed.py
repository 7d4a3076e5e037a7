"""The shard format: its bytes, written out by hand here, and what the reader refuses."""

from __future__ import annotations

import errno
import io
import pickle
import struct
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlc.data.indexed import IndexedShard, ShardWriter, token_dtype
from mlc.errors import ShardError

DOCUMENTS = [[[1, 2, 3], [4]], [], [[65535], [], [7, 8]]]


def write(prefix: Path, documents: list[list[list[int]]], dtype: str) -> None:
    with ShardWriter(prefix, dtype) as writer:
        for document in documents:
            writer.add_document([np.array(sequence, dtype=np.int64) for sequence in document])


def index_bytes(code: int, lengths: list[int], bounds: list[int], itemsize: int) -> bytes:
    """Megatron's layout, spelled independently of the writer."""
    offsets = [itemsize * sum(lengths[:i]) for i in range(len(lengths))]
    return (
        b"MMIDIDX\x00\x00"
        + struct.pack("<Q", 1)
        + struct.pack("<B", code)
        + struct.pack("<Q", len(lengths))
        + struct.pack("<Q", len(bounds))
        + b"".join(struct.pack("<i", length) for length in lengths)
        + b"".join(struct.pack("<q", offset) for offset in offsets)
        + b"".join(struct.pack("<q", bound) for bound in bounds)
    )


@pytest.mark.parametrize(("dtype", "code", "letter"), [("uint16", 8, "H"), ("int32", 4, "i"), ("int64", 5, "q")])
def test_files_are_megatrons_to_the_byte(tmp_path: Path, dtype: str, code: int, letter: str) -> None:
    write(tmp_path / "x", DOCUMENTS, dtype)
    tokens = [1, 2, 3, 4, 65535, 7, 8]
    assert (tmp_path / "x.bin").read_bytes() == struct.pack(f"<7{letter}", *tokens)
    expected = index_bytes(code, [3, 1, 1, 0, 2], [0, 2, 2, 5], struct.calcsize(f"<{letter}"))
    assert (tmp_path / "x.idx").read_bytes() == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.bin", "x.idx"]


def test_a_file_written_by_hand_is_read(tmp_path: Path) -> None:
    (tmp_path / "en-de.de.bin").write_bytes(struct.pack("<5H", 10, 11, 12, 13, 14))
    (tmp_path / "en-de.de.idx").write_bytes(index_bytes(8, [2, 3], [0, 1, 2], 2))
    shard = IndexedShard(tmp_path / "en-de.de")
    assert (shard.num_documents, shard.num_sequences, shard.num_tokens) == (2, 2, 5)
    assert shard.sequence(1).tolist() == [12, 13, 14]
    assert shard.document(0).tolist() == [10, 11]
    assert shard.offsets.tolist() == [0, 4]


@settings(max_examples=60)
@given(
    documents=st.lists(st.lists(st.lists(st.integers(0, 65535), max_size=6), max_size=4), max_size=6),
    dtype=st.sampled_from(["uint16", "int32", "int64"]),
)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, documents: list[list[list[int]]], dtype: str) -> None:
    prefix = tmp_path_factory.mktemp("shard") / "deep" / "x"
    write(prefix, documents, dtype)
    shard = IndexedShard(prefix)
    flat = [sequence for document in documents for sequence in document]
    assert shard.dtype == np.dtype(dtype)
    assert [shard.sequence(s).tolist() for s in range(shard.num_sequences)] == flat
    assert [shard.document(d).tolist() for d in range(len(shard))] == [list(chain(*document)) for document in documents]
    assert shard.document_lengths.tolist() == [sum(map(len, document)) for document in documents]
    assert shard.lengths.tolist() == [len(sequence) for sequence in flat]
    assert shard.tokens.tolist() == list(chain(*flat))


def test_views_are_read_only_and_survive_pickling(tmp_path: Path) -> None:
    write(tmp_path / "x", DOCUMENTS, "uint16")
    shard = pickle.loads(pickle.dumps(IndexedShard(tmp_path / "x")))
    assert shard.document(0).tolist() == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="read-only"):
        shard.document(0)[0] = 9
    for wrong in (-1, 3):
        with pytest.raises(IndexError):
            shard.document(wrong)
    for wrong in (-1, 5):
        with pytest.raises(IndexError):
            shard.sequence(wrong)


def test_an_exception_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ShardError), ShardWriter(tmp_path / "x", "uint16") as writer:
        writer.add_document([np.array([1]), np.array([-1])])
    assert list(tmp_path.iterdir()) == []


def test_an_older_shard_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    write(tmp_path / "x", [[[1]]], "uint16")
    writer = ShardWriter(tmp_path / "x", "uint16")
    writer.add_document([np.array([2, 3])])
    assert IndexedShard(tmp_path / "x").tokens.tolist() == [1]
    writer.close()
    writer.close()
    assert IndexedShard(tmp_path / "x").tokens.tolist() == [2, 3]
    with pytest.raises(ValueError, match="closed"):
        writer.add_document([np.array([2])])


@pytest.mark.parametrize(
    ("sequence", "complaint"),
    [
        (np.array([65536]), "does not fit"),
        (np.array([-1]), "does not fit"),
        (np.array([1.0]), "integers"),
        (np.array([[1]]), "one-dimensional"),
    ],
)
def test_tokens_that_would_be_changed_are_refused(tmp_path: Path, sequence: np.ndarray, complaint: str) -> None:
    with pytest.raises(ShardError, match=complaint), ShardWriter(tmp_path / "x", "uint16") as writer:
        writer.add_document([sequence])


def test_float_tokens_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="dtype"):
        ShardWriter(tmp_path / "x", "float32")


class _FullDisk(io.RawIOBase):
    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("stopped", [False, True])
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, stopped: bool) -> None:
    """What waits in the buffer cannot be written when the file is closed, neither at the end nor in giving up."""

    def fill_the_disk() -> None:
        with ShardWriter(tmp_path / "x", "uint16") as writer:
            assert writer._bin is not None
            writer._bin.close()
            writer._bin = io.BufferedWriter(_FullDisk())
            writer.add_document([np.array([1, 2, 3])])
            if stopped:
                raise RuntimeError("stopped")

    with pytest.raises(RuntimeError if stopped else OSError, match="stopped" if stopped else "No space"):
        fill_the_disk()
    assert list(tmp_path.iterdir()) == []


def test_vocabulary_decides_the_dtype() -> None:
    assert (token_dtype(65499), token_dtype(65500)) == (np.dtype("uint16"), np.dtype("int32"))


def index_of(code: int = 8, lengths: tuple[int, ...] = (3, 1), bounds: tuple[int, ...] = (0, 1, 2)) -> bytes:
    return index_bytes(code, list(lengths), list(bounds), 2)


GOOD = index_of()
DAMAGES = {
    "magic": (b"X" + GOOD[1:], "no Megatron index"),
    "version": (GOOD[:9] + b"\x02" + GOOD[10:], "another version"),
    "float tokens": (index_of(code=7), "no dtype"),
    "unknown dtype": (index_of(code=9), "no dtype"),
    "header cut": (GOOD[:20], "cut short"),
    "empty": (b"", "cut short"),
    "index cut": (GOOD[:-1], "its counts say"),
    "bytes added": (GOOD + b"\x00", "its counts say"),
    "sequence count": (GOOD[:18] + b"\x03" + GOOD[19:], "its counts say"),
    "bound count": (GOOD[:26] + b"\x02" + GOOD[27:], "its counts say"),
    "huge count": (GOOD[:18] + b"\xff" * 8 + GOOD[26:], "its counts say"),
    "length": (GOOD[:34] + b"\x02" + GOOD[35:], "does not start where"),
    "negative length": (index_of(lengths=(5, -1)), "does not start where"),
    "offset": (GOOD[:50] + b"\x02" + GOOD[51:], "does not start where"),
    "last length": (index_of(lengths=(3, 2)), "another size"),
    "first bound": (index_of(bounds=(1, 1, 2)), "do not cover"),
    "last bound": (index_of(bounds=(0, 1, 1)), "do not cover"),
    "bounds backwards": (index_of(bounds=(0, 2, 1, 2)), "backwards"),
    "no bounds": (index_of(bounds=()), "do not cover"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_index_is_refused(tmp_path: Path, damage: str) -> None:
    content, complaint = DAMAGES[damage]
    (tmp_path / "x.bin").write_bytes(bytes(8))
    (tmp_path / "x.idx").write_bytes(GOOD)
    IndexedShard(tmp_path / "x")
    (tmp_path / "x.idx").write_bytes(content)
    with pytest.raises(ShardError, match=complaint) as refused:
        IndexedShard(tmp_path / "x")
    assert str(tmp_path / "x.") in str(refused.value)


@pytest.mark.parametrize("size", [0, 6, 7, 10])
def test_tokens_of_another_size_are_refused(tmp_path: Path, size: int) -> None:
    (tmp_path / "x.idx").write_bytes(GOOD)
    (tmp_path / "x.bin").write_bytes(bytes(size))
    with pytest.raises(ShardError, match=r"size|whole number"):
        IndexedShard(tmp_path / "x")


@pytest.mark.parametrize("suffix", ["bin", "idx"])
def test_a_missing_file_is_named(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / "x", DOCUMENTS, "uint16")
    (tmp_path / f"x.{suffix}").unlink()
    with pytest.raises(ShardError, match=rf"x\.{suffix}"):
        IndexedShard(tmp_path / "x")
