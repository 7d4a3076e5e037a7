"""Every record exactly once, however a file is cut into ranges; and the parts of a range's bookkeeping."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import pickle
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_prep.readers import FileRange, Record, Rejected, SourceFormat, format_of, plan_ranges, read_range
from data_prep.readers.zstd_frames import frame_spans
from mlc.errors import DataError, RecipeError

MARK = b"\xef\xbb\xbf"
SOURCES = {
    "text": SourceFormat("text", max_line_bytes=60),
    "lines": SourceFormat("text", separator="line", max_line_bytes=60),
    "jsonl": SourceFormat("jsonl", group_fields=("id",), max_line_bytes=60),
    "tsv": SourceFormat("tsv", text_fields=("a", "b"), max_line_bytes=60),
    "numbers": SourceFormat("tsv", text_fields=("1", "0"), header=False, max_line_bytes=60),
    "csv": SourceFormat("csv", text_fields=("a",), max_line_bytes=60),
    "unquoted": SourceFormat("csv", text_fields=("a",), quoted=False, max_line_bytes=60),
}
LINES = st.sampled_from(
    ["", " ", "\t", "\x0b ", "word", "zwei Wörter", "中文。", "a\tb", '"a', 'x "y"', "a,b", '"a,""b",c', "\ufeff",
     '{"text": "a", "id": 1}', '{"text": "ü", "id": "x"}', '{"id": 3}', "\U0001f600", "long " * 15, " " * 70]
)  # fmt: skip
CONTENT = st.builds(
    lambda mark, lines, end, last: mark + end.join(lines).encode() + (end.encode() if last else b""),
    st.sampled_from([b"", MARK, b"\xff"]),
    st.lists(LINES, max_size=12),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)


def read(path: Path, ranges: list[FileRange], source: SourceFormat) -> list[Record | Rejected]:
    """All records with their lines counted through the file, after checks of what each range reports."""
    found: list[Record | Rejected] = []
    lines = 0
    for file_range in ranges:
        consumed: list[int] = []
        reader = read_range(path, file_range, source, consumed.append)
        records = list(reader)
        assert sum(consumed) == file_range.bytes
        assert all(1 <= record.line <= reader.lines for record in records)
        found += [replace(record, line=record.line + lines) for record in records]
        lines += reader.lines
    return found


def whole(path: Path) -> list[FileRange]:
    size = path.stat().st_size
    return [FileRange("file", 0, size, size)]


def frames(content: bytes, cuts: list[int], empty: bool) -> bytes:
    """The content as zstd frames that end at the cuts; some with a checksum, without a size, skippable or empty."""
    bounds = sorted({0, len(content), *(cut % (len(content) + 1) for cut in cuts)})
    parts = [content[start:end] for start, end in pairwise(bounds)]
    written = b""
    for i, part in enumerate(parts or [b""]):
        compressor = zstandard.ZstdCompressor(write_checksum=i % 2 == 0, write_content_size=i % 3 == 0)
        if empty:
            written += compressor.compress(b"") + b"\x5a\x2a\x4d\x18\x03\x00\x00\x00abc"
        written += compressor.compress(part)
    return written


@settings(max_examples=400)
@given(content=CONTENT, name=st.sampled_from(sorted(SOURCES)), unit_bytes=st.integers(1, 80))
@example(content=MARK + b" \nword\n\nword", name="text", unit_bytes=1)
@example(content=MARK + b" " * 70 + b"\r\nword\r\n", name="numbers", unit_bytes=61)
@example(content=b"\n\na\nb\n" + b" " * 65_600 + b"\nc\n\nd", name="text", unit_bytes=32_900)
@example(content=b"word\nlong\n" + b"x" * 65_600 + b"\nc\n\nd", name="text", unit_bytes=32_900)
def test_any_cut_of_a_file_gives_the_same_records(content: bytes, name: str, unit_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(content)
        ranges = plan_ranges(path, SOURCES[name], unit_bytes)
        assert [r.start for r in ranges[1:]] == [r.end for r in ranges[:-1]]
        assert read(path, ranges, SOURCES[name]) == read(path, whole(path), SOURCES[name])


@settings(max_examples=300)
@given(
    content=CONTENT,
    name=st.sampled_from(["text", "lines", "jsonl", "tsv"]),
    cuts=st.lists(st.integers(0, 200), max_size=8),
    unit_bytes=st.integers(1, 150),
    empty=st.booleans(),
)
@example(content=MARK + b"\nword\n\nword", name="text", cuts=[1, 2, 3], unit_bytes=1, empty=True)
@example(content=MARK + b"a\tb\n\nx\ty", name="tsv", cuts=[1, 2, 3, 7, 8], unit_bytes=1, empty=False)
def test_any_cut_into_frames_gives_the_same_records(
    content: bytes, name: str, cuts: list[int], unit_bytes: int, empty: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        plain, path = Path(folder) / "file", Path(folder) / "file.zst"
        plain.write_bytes(content)
        path.write_bytes(frames(content, cuts, empty))
        ranges = plan_ranges(path, SOURCES[name], unit_bytes)
        assert sum(r.bytes for r in ranges) == path.stat().st_size
        assert read(path, ranges, SOURCES[name]) == read(plain, whole(plain), SOURCES[name])


def test_frames_are_found_without_their_content(tmp_path: Path) -> None:
    content = b"".join(b'{"text": "%d"}\n' % i for i in range(3000))
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(frames(content, [10_000, 20_000, 30_000], empty=True))
    spans = list(frame_spans(path))
    assert sum(span.has_content for span in spans) == 4
    assert len(spans) == 12
    ranges = plan_ranges(path, SourceFormat(), 100)
    assert len(ranges) == 8
    assert {r.start for r in ranges} <= {span.start for span in spans}
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match="cut short"):
        plan_ranges(path, SourceFormat(), 1000)
    with pytest.raises(DataError, match="cut short"):
        list(read_range(path, whole(path)[0], SourceFormat()))


def test_a_document_that_goes_over_ranges_belongs_to_the_one_it_begins_in(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\ntwo\nthree\n\nfour\n")
    middle = FileRange("bytes", 5, 12, 7)
    assert list(read_range(path, middle, SourceFormat())) == []
    assert list(read_range(path, FileRange("bytes", 0, 2, 2), SourceFormat())) == [Record(("one\ntwo\nthree",), -1, 1)]
    reader = read_range(path, FileRange("bytes", 5, 20, 15), SourceFormat())
    assert [(record.line, reader.lines) for record in reader] == [(3, 3)]


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("suffix", COMPRESSORS)
@pytest.mark.parametrize("name", ["jsonl", "tsv", "text"])
def test_compressed_files_read_as_plain_ones(tmp_path: Path, suffix: str, name: str) -> None:
    content = b'a\tb\n{"text": "x"}\tc\n\n{"text": "y"}\td\n' * 3
    plain, path = tmp_path / f"p.{name}", tmp_path / f"c.{name}{suffix}"
    plain.write_bytes(content)
    compress = COMPRESSORS[suffix]
    path.write_bytes(compress(content[:13]) + compress(b"") + compress(content[13:]))  # members end anywhere
    source = replace(SOURCES[name], format="auto")
    assert format_of(path, "auto") == format_of(plain, "auto") == name
    assert read(path, plan_ranges(path, source, 1 << 20), source) == read(plain, whole(plain), source)


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_compressed_files_that_end_early_are_errors(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.txt{suffix}"
    compressed = COMPRESSORS[suffix](b"line\n" * 1000)
    for damaged in (compressed[:-1], compressed[: len(compressed) // 2], b"", compressed + b"junk"):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="cannot be read"):
            list(read_range(path, whole(path)[0], SourceFormat()))


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_small_files_that_hold_much_do_not_fill_memory(tmp_path: Path, suffix: str) -> None:
    """A thousandfold compression: chunks stay small, whatever one compressed block holds."""
    from data_prep.readers.streams import range_chunks

    path = tmp_path / f"a{suffix}"
    path.write_bytes(COMPRESSORS[suffix](bytes(30 << 20)))
    sizes = [len(chunk) for chunk, _ in range_chunks(path, whole(path)[0], lambda count: None)]
    assert sum(sizes) == 30 << 20
    assert max(sizes) <= 1 << 20


def test_a_file_that_shrank_or_vanished_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "x"}\n' * 100)
    (last,) = plan_ranges(path, SourceFormat(), 1 << 20)
    path.write_bytes(b'{"text": "x"}\n' * 50)
    with pytest.raises(DataError, match="shorter than when it was planned"):
        list(read_range(path, last, SourceFormat()))
    path.unlink()
    with pytest.raises(DataError, match="No such file"):
        list(read_range(path, last, SourceFormat()))
    with pytest.raises(DataError, match="No such file"):
        plan_ranges(path, SourceFormat(), 100)


def test_ranges_and_formats_travel_between_processes() -> None:
    file_range = FileRange("bytes", 3, 9, 6, before=1)
    assert FileRange(**json.loads(json.dumps(asdict(file_range)))) == file_range
    source = SourceFormat("tmx", languages=("en", "de"))
    assert pickle.loads(pickle.dumps(source)) == source
    assert pickle.loads(pickle.dumps(Record(("a",), 1, 2))) == Record(("a",), 1, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_fields": ()}, "one, or two"),
        ({"format": "moses"}, "second_path"),
        ({"format": "tmx"}, "languages"),
        ({"delimiter": "::"}, "one ASCII character"),
        ({"format": "tsv", "header": False}, "numbers from 0"),
    ],
)
def test_formats_that_cannot_be(changes: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        SourceFormat(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.jsonl", "jsonl"), ("a.NDJSON.GZ", "jsonl"), ("a.csv.xz", "csv"), ("a.tsv.bz2", "tsv"), ("a.pq", "parquet"),
     ("a.tmx.zst", "tmx"), ("a.txt.gz", "text"), ("gz", "text"), ("", "dataset")],
)  # fmt: skip
def test_formats_by_name(tmp_path: Path, name: str, expected: str) -> None:
    assert format_of(tmp_path / name, "auto") == expected
    assert format_of(tmp_path / name, "text") == "text"
