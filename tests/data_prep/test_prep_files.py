"""Lines of plain and compressed files."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from mlc.data.text_lines import read_lines
from mlc.errors import DataError


def compress(path: Path, content: bytes) -> Path:
    if path.suffix == ".gz":
        content = gzip.compress(content)
    if path.suffix == ".zst":
        content = zstandard.ZstdCompressor().compress(content)
    path.write_bytes(content)
    return path


@settings(max_examples=40)
@given(
    lines=st.lists(st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"")), max_size=8),
    suffix=st.sampled_from([".txt", ".gz", ".zst"]),
    last=st.booleans(),
)
def test_lines_are_those_of_the_file(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], suffix: str, last: bool
) -> None:
    content = b"\n".join(lines) + (b"\n" if last else b"")
    path = compress(tmp_path_factory.mktemp("lines") / f"x{suffix}", content)
    expected = content.removesuffix(b"\n").split(b"\n") if content else []
    if expected:
        expected[0] = expected[0].removeprefix(b"\xef\xbb\xbf")
    if content == b"\xef\xbb\xbf":
        expected = [b""]
    counted: list[int] = []
    assert list(read_lines(path, counted.append)) == list(enumerate(expected, 1))
    assert sum(counted) == path.stat().st_size


@pytest.mark.parametrize("suffix", [".txt", ".gz", ".zst"])
def test_long_lines_and_many_chunks(tmp_path: Path, suffix: str) -> None:
    lines = [b"a" * 700_000, b"", b"b" * 10, b"c" * 300_000]
    path = compress(tmp_path / f"x{suffix}", b"\n".join(lines))
    assert [line for _, line in read_lines(path)] == lines


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_several_members_are_one_file(tmp_path: Path, suffix: str) -> None:
    parts = [compress(tmp_path / f"{i}{suffix}", b"%d\n" % i).read_bytes() for i in range(3)]
    (tmp_path / f"x{suffix}").write_bytes(b"".join(parts))
    assert [line for _, line in read_lines(tmp_path / f"x{suffix}")] == [b"0", b"1", b"2"]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("cut", [1, 4, 40])
def test_a_file_cut_short_is_an_error_and_not_an_end(tmp_path: Path, suffix: str, cut: int) -> None:
    path = compress(tmp_path / f"x{suffix}", bytes(range(48, 91)) * 50 + b"\nlast\n")
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(DataError, match=rf"x\{suffix}"):
        list(read_lines(path))


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_file_that_is_not_compressed_is_an_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"plain text\n")
    with pytest.raises(DataError):
        list(read_lines(path))
