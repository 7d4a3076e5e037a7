"""Bytes of any kind in every format: records, reasons or one clear error, never another exception, never wrong text."""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import reader_fuzz
from reader_files import COMPRESSORS, KINDS, as_reading, read

NAMES = [kind.name for kind in KINDS]
SUFFIXES = list(COMPRESSORS)


ALPHABET = st.sampled_from(
    [b"\n", b"\r\n", b'"', b",", b"\t", b"{", b"}", b'{"text": "a"}', b"text,id\n", b"text\tid\n", b"\\ud800", b"\xff",
     b"\xef\xbb\xbf", b"<tu>", b"</tu>", b"<tuv>", b"<!--", b"-->", b"<![CDATA[", b'<seg xml:lang="en">', b"&",
     b"PAR1", b"\x00", b"a" * 300, b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18\x02\x00\x00\x00ab", b"\x1f\x8b\x08",
     b"BZh9", b"\xfd7zXZ\x00"]
)  # fmt: skip


@settings(max_examples=600)
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


@settings(max_examples=400)
@given(chance=st.randoms(use_true_random=False))
def test_damaged_files_give_what_a_plain_reading_gives(chance: random.Random) -> None:
    """benchmarks/reader_fuzz.py does many more, and says what is compared."""
    case = reader_fuzz.draw_case(chance)
    with tempfile.TemporaryDirectory() as folder:
        outcome, why = reader_fuzz.judge(Path(folder) / f"{case.kind.name}{case.suffix}", case)
    assert outcome != reader_fuzz.FAILURE, f"{case.how} of {case.kind.name}{case.suffix}: {why}"


def test_damaged_data_sets_end_no_process() -> None:
    numbers = range(0, 40 * (len(KINDS) + 1), len(KINDS) + 1)  # of cases of data sets
    found = reader_fuzz.run_some(numbers, seed=1)
    assert [why for *_, outcome, why in found if outcome == reader_fuzz.FAILURE] == []


def test_most_cases_change_one_thing_beyond_the_header() -> None:
    chance = random.Random(1)
    assert sum(reader_fuzz.draw_case(chance).one_thing for _ in range(500)) > 300


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_wrong_reading_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: object) -> None:
    """Readers that lose or change a record somewhere."""
    good = kind.write(reader_fuzz.ROWS)
    case = reader_fuzz.Case(kind, "", "field", good, good, True, 4, reader_fuzz.ROWS[4][1])
    assert reader_fuzz.judge(tmp_path / kind.name, case)[0] != reader_fuzz.FAILURE
    records = read(tmp_path / kind.name, 1 << 30)
    assert len(as_reading(records)) == 12
    last = len(records) if kind.name in ("a.tmx", "a.parquet") else 4  # of csv only those before the changed one
    for place in range(last):
        monkeypatch.setattr(reader_fuzz, "read", lambda *_, place=place: records[:place] + records[place + 1 :])
        if place != 4:
            assert reader_fuzz.judge(tmp_path / kind.name, case)[0] == reader_fuzz.FAILURE


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
