"""Source files and records: what is read, and what is set aside with which reason."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.plan import Source
from data_prep.records import Record, Rejected, read_records
from mlc.data.manifest import group_number
from mlc.data.text_lines import read_lines
from mlc.errors import DataError


def compress(path: Path, content: bytes) -> Path:
    if path.suffix == ".gz":
        content = gzip.compress(content)
    if path.suffix == ".zst":
        content = zstandard.ZstdCompressor().compress(content)
    path.write_bytes(content)
    return path


def source(*files: Path, **changes: object) -> Source:
    settings = {
        "files": files,
        "format": "auto",
        "text_fields": ("text",),
        "group_fields": ("id",),
        "group_required": False,
    }
    return Source(**{**settings, **changes})  # type: ignore[arg-type]


def records(*files: Path, **changes: object) -> list[Record | Rejected]:
    return list(read_records(source(*files, **changes), lambda count: None))


@settings(max_examples=40, deadline=None)
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


def test_plain_text_by_blank_lines_and_by_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"\n\none\ntwo\r\n  \n\nthree\n\xff bad\n\nfour")
    kinds = [(type(found).__name__, found.line) for found in records(path)]
    assert kinds == [("Record", 3), ("Rejected", 7), ("Record", 10)]
    assert records(path)[0].texts == ("one\ntwo\r",)  # type: ignore[union-attr]
    by_line = records(path, separator="line")
    assert [found.line for found in by_line] == [3, 4, 7, 8, 10]
    assert [type(found).__name__ for found in by_line].count("Rejected") == 1


BAD = {
    b"\xff\xfe": "undecodable",
    b'{"text": "a"': "broken_json",
    b"[" * 100_000: "broken_json",
    b'["text"]': "not_an_object",
    b'{"id": "a"}': "missing_field",
    b'{"text": null}': "missing_field",
    b'{"text": 5}': "wrong_type",
    b'{"text": "a", "id": [1]}': "wrong_type",
    b'{"text": "a", "id": true}': "wrong_type",
}


@pytest.mark.parametrize("line", BAD, ids=lambda line: line[:20].decode(errors="replace"))
def test_a_bad_record_is_set_aside(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"text": "first"}\n\n' + line + b'\n{"text": "last"}\n')
    first, bad, last = records(path)
    assert isinstance(first, Record)
    assert isinstance(last, Record)
    assert isinstance(bad, Rejected)
    assert (bad.reason, bad.line, bad.file) == (BAD[line], 3, path)
    assert line.decode(errors="replace").startswith(bad.beginning)
    assert len(bad.beginning) <= 200


def test_groups(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    rows = [{"text": "a", "id": "k"}, {"text": "b", "id": 7}, {"text": "c"}, {"text": "d", "id": "z", "key": "k"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert [r.group for r in records(path)] == [group_number("k"), group_number("7"), -1, group_number("z")]  # type: ignore[union-attr]
    required = records(path, group_fields=("key",), group_required=True)
    assert [r.reason if isinstance(r, Rejected) else r.group for r in required] == [
        *["missing_field"] * 3,
        group_number("k"),
    ]
    two = records(path, group_fields=("key", "id"))
    assert [r.group for r in two] == [-1, -1, -1, group_number("k", "z")]  # type: ignore[union-attr]


@pytest.mark.parametrize(("name", "is_json"), [("x.jsonl.gz", True), ("x.json.zst", True), ("x.gz", False)])
def test_the_name_decides_the_format(tmp_path: Path, name: str, is_json: bool) -> None:
    path = compress(tmp_path / name, b'{"text": "a"}\n')
    assert records(path)[0].texts == (("a",) if is_json else ('{"text": "a"}',))  # type: ignore[union-attr]
    assert records(path, format="text")[0].texts == ('{"text": "a"}',)  # type: ignore[union-attr]
