"""Files written past the page cache: the same bytes as any other, on every file system, whatever the system refuses."""

from __future__ import annotations

import errno
import os
import random
import resource
from pathlib import Path
from typing import Any

import pytest
import xxhash
from faults_for_tests import SmallDisk
from hypothesis import given
from hypothesis import strategies as st

from mlc import streamed_file
from mlc.files import FileFacts, hash_file
from mlc.streamed_file import ALIGNMENT_BYTES, BUFFER_BYTES, StreamedFile


def write(path: Path, blocks: list[bytes]) -> FileFacts:
    with StreamedFile(path) as file:
        for block in blocks:
            assert file.write(block) == len(block)
        return file.finish()


def assert_is(path: Path, content: bytes, facts: FileFacts) -> None:
    assert path.read_bytes() == content
    assert facts == FileFacts(len(content), xxhash.xxh3_64_hexdigest(content))
    assert hash_file(path) == facts.xxh3


LENGTHS = st.integers(0, 3000) | st.sampled_from([ALIGNMENT_BYTES - 1, ALIGNMENT_BYTES, 3 * ALIGNMENT_BYTES])


@given(lengths=st.lists(LENGTHS, max_size=12), seed=st.integers(0, 99))
def test_content_and_hash_are_those_of_the_blocks(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], seed: int
) -> None:
    generator = random.Random(seed)
    blocks = [generator.randbytes(length) for length in lengths]
    path = tmp_path_factory.mktemp("blocks") / "file"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streamed_file, "BUFFER_BYTES", 2 * ALIGNMENT_BYTES)
        patch.setattr(streamed_file, "BLOCK_BYTES", 1000)
        assert_is(path, b"".join(blocks), write(path, blocks))


def test_longer_than_the_buffer(tmp_path: Path) -> None:
    content = random.Random(1).randbytes(2 * BUFFER_BYTES + 12_345)
    assert_is(tmp_path / "file", content, write(tmp_path / "file", [content[:7], content[7:]]))


def test_direct_writes_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, flags, mode: (asked.append(flags), real(path, flags, mode))[1])
    write(tmp_path / "file", [b"x" * BUFFER_BYTES])
    assert [bool(flags & os.O_DIRECT) for flags in asked] == [True]


def test_a_file_system_without_direct_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some refuse to open a file so, others the first write."""
    content = random.Random(2).randbytes(BUFFER_BYTES + 100)
    refused: list[str] = []
    real_open, real_write = os.open, os.write

    def open_refused(path: Any, flags: int, mode: int) -> int:
        if flags & os.O_DIRECT:
            refused.append("open")
            Path(path).touch()
            raise OSError(errno.EINVAL, "Invalid argument")
        return real_open(path, flags, mode)

    def write_refused(file: int, block: memoryview) -> int:
        import fcntl

        if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DIRECT:
            refused.append("write")
            raise OSError(errno.EINVAL, "Invalid argument")
        return real_write(file, block)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", open_refused)
        assert_is(tmp_path / "one", content, write(tmp_path / "one", [content]))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write_refused)
        assert_is(tmp_path / "two", content, write(tmp_path / "two", [content]))
    assert refused == ["open", "write"]


def test_writes_that_come_short_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = random.Random(3).randbytes(BUFFER_BYTES + 5000)
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, block: real(file, block[: max(1, len(block) // 3)]))
    assert_is(tmp_path / "file", content, write(tmp_path / "file", [content]))


@pytest.mark.parametrize("limit", [300, BUFFER_BYTES + 300, 2 * BUFFER_BYTES])
def test_a_limit_is_named_and_nothing_is_left(limit: int, tmp_path: Path) -> None:
    """A quota leaves a last write that is not aligned, which a direct write would call an invalid argument."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write(tmp_path / "file", [b"x" * BUFFER_BYTES] * 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk(tmp_path: Path) -> None:
    with SmallDisk(tmp_path / "disk", mib=6) as disk:
        with pytest.raises(OSError, match="No space left on device"):
            write(disk.folder / "file", [b"x" * BUFFER_BYTES] * 2)
        assert list(disk.folder.iterdir()) == []
        assert_is(disk.folder / "file", b"abc", write(disk.folder / "file", [b"abc"]))


def test_a_file_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("before")
    with pytest.raises(FileExistsError):
        StreamedFile(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "before"
