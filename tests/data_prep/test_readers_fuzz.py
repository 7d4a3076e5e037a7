"""Bytes of any kind in every format: records, reasons or one clear error, never another exception, never wrong text."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.readers import Record, Rejected, SourceFormat, plan_ranges, read_range
from mlc.errors import DataError

NAMES = ["a.txt", "a.jsonl", "a.csv", "a.tsv", "a.parquet", "a.tmx", "a.moses"]
SUFFIXES = ["", ".gz", ".zst", ".xz", ".bz2"]
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}
TEXTS = [f"text {i} ä中\U0001f600 {'x' * (i % 7)}" for i in range(12)]


def source_of(path: Path) -> SourceFormat:
    if path.name.startswith("a.moses"):
        return SourceFormat("moses", second_path=str(path), max_line_bytes=500)
    if path.name.startswith("a.tmx"):
        return SourceFormat("tmx", languages=("en", "de"), max_line_bytes=500)
    return SourceFormat(group_fields=("id",), max_line_bytes=500)


def read(path: Path, unit_bytes: int) -> list[Record | Rejected] | None:
    """All records; None where the file is one that cannot be read."""
    source, lines = source_of(path), 0
    records: list[Record | Rejected] = []
    try:
        for file_range in plan_ranges(path, source, unit_bytes):
            reader = read_range(path, file_range, source)
            records += [replace(record, line=record.line + lines) for record in reader]
            lines += reader.lines
    except DataError:
        return None
    return records


def texts(records: list[Record | Rejected] | None) -> list[tuple[str, ...] | str] | None:
    return None if records is None else [r.texts if isinstance(r, Record) else r.reason for r in records]


def valid(name: str) -> bytes:
    if name == "a.parquet":
        file = io.BytesIO()
        pq.write_table(
            pa.table({"id": list(range(12)), "text": TEXTS}), file, row_group_size=5, write_page_checksum=True
        )
        return file.getvalue()
    if name == "a.tmx":
        unit = '<tu><tuv xml:lang="en"><seg>{0}</seg></tuv><tuv xml:lang="de"><seg>{0}</seg></tuv></tu>\n'
        return ("<tmx><body>" + "".join(unit.format(text) for text in TEXTS) + "</body></tmx>").encode()
    if name == "a.jsonl":
        return "\n".join(json.dumps({"id": i, "text": text}) for i, text in enumerate(TEXTS)).encode()
    delimiter = {"a.csv": ",", "a.tsv": "\t"}.get(name)
    if delimiter:
        return "\n".join(["id" + delimiter + "text", *(f'{i}{delimiter}"{t}"' for i, t in enumerate(TEXTS))]).encode()
    return ("\n" if name == "a.moses" else "\n\n").join(TEXTS).encode()


ALPHABET = st.sampled_from(
    [b"\n", b"\r\n", b'"', b",", b"\t", b"{", b"}", b'{"text": "a"}', b"text,id\n", b"text\tid\n", b"\\ud800", b"\xff",
     b"\xef\xbb\xbf", b"<tu>", b"</tu>", b"<tuv>", b"<!--", b"-->", b"<![CDATA[", b'<seg xml:lang="en">', b"&",
     b"PAR1", b"\x00", b"a" * 300, b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18\x02\x00\x00\x00ab", b"\x1f\x8b\x08",
     b"BZh9", b"\xfd7zXZ\x00"]
)  # fmt: skip


@settings(max_examples=600, deadline=None)
@given(
    content=st.lists(ALPHABET | st.binary(max_size=6), max_size=20).map(b"".join),
    name=st.sampled_from(NAMES),
    suffix=st.sampled_from(SUFFIXES),
    inside=st.booleans(),
    unit_bytes=st.integers(1, 100),
)
def test_any_bytes(content: bytes, name: str, suffix: str, inside: bool, unit_bytes: int) -> None:
    """`inside`: the compression is whole, and the strange bytes are its content."""
    suffix = suffix if name != "a.parquet" else ""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}{suffix}"
        path.write_bytes(COMPRESSORS[suffix](content) if inside else content)
        assert read(path, unit_bytes) == read(path, 1 << 30)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", NAMES)
def test_valid_files_with_one_byte_changed(tmp_path: Path, name: str, suffix: str) -> None:
    """The checksum of every compression shows the change; in JSON lines at most two records suffer."""
    if name == "a.parquet" and suffix:
        return
    good = COMPRESSORS[suffix](valid(name))
    path = tmp_path / f"{name}{suffix}"
    path.write_bytes(good)
    shown = [f'"{text}"' for text in TEXTS] if name == "a.tsv" else TEXTS
    expected = [(text, text) if name in ("a.tmx", "a.moses") else (text,) for text in shown]
    assert texts(read(path, 1 << 30)) == expected
    chosen = random.Random(f"{name}{suffix}")
    for _ in range(60):
        place, value = chosen.randrange(len(good)), chosen.randrange(256)
        path.write_bytes(good[:place] + bytes([value]) + good[place + 1 :])
        found = texts(read(path, 1 << 30))
        if suffix:
            assert found is None or found == expected
        elif name == "a.jsonl" and found is not None:
            assert sum(text not in found for text in expected) <= 2
        assert found == texts(read(path, 50))


PROGRAM = """
import sys
from pathlib import Path
from data_prep.readers import SourceFormat, plan_ranges, read_range
path, source = Path(sys.argv[1]), SourceFormat(sys.argv[2], text_fields=("0",) if sys.argv[2] in ("csv", "tsv") else
                                               ("text",), header=False, separator=sys.argv[3])
for file_range in plan_ranges(path, source, 64 << 20):
    for record in read_range(path, file_range, source):
        print(record.line, getattr(record, "reason", ""))
(peak,) = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(int(peak) // 1024)
"""


def peak_mib(path: Path, kind: str, separator: str = "line") -> tuple[list[str], int]:
    """What a process of its own reads of a file, and its peak memory in MiB."""
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path), kind, separator], capture_output=True, text=True, check=True
    )
    *lines, peak = ran.stdout.splitlines()
    return lines, int(peak)


def write_long_line(path: Path, size: int) -> None:
    """A first record, a line of NUL bytes that takes no room on the disk, and a last record."""
    with path.open("wb") as file:
        file.write(b'{"text": "a"}\n\n')
        file.truncate(size)
        file.seek(size)
        file.write(b'\n\n{"text": "b"}\n')


@pytest.mark.parametrize(
    ("kind", "separator"),
    [("jsonl", "line"), ("text", "line"), ("text", "blank_line"), ("tsv", "line"), ("csv", "line")],
)
@pytest.mark.parametrize("size", [70 << 20, pytest.param(1 << 30, marks=pytest.mark.slow)])
def test_lines_over_the_limit_are_streamed_past(tmp_path: Path, kind: str, separator: str, size: int) -> None:
    path = tmp_path / "a"
    write_long_line(path, size)
    lines, peak = peak_mib(path, kind, separator)
    assert [line.split()[1:] for line in lines] == [[], ["too_long"], []]
    assert peak < 300


@pytest.mark.slow
def test_compressed_lines_over_the_limit_are_streamed_past(tmp_path: Path) -> None:
    plain, path = tmp_path / "a.jsonl", tmp_path / "a.jsonl.zst"
    write_long_line(plain, 1 << 30)
    with plain.open("rb") as source, path.open("wb") as target:
        zstandard.ZstdCompressor().copy_stream(source, target)
    lines, peak = peak_mib(path, "jsonl")
    assert [line.split()[1:] for line in lines] == [[], ["too_long"], []]
    assert peak < 300
