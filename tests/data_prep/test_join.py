"""Joining units: the bytes of the format's own writer, wherever the files were cut, in memory that does not grow."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit_files_for_tests import Row, write_reference, write_unit

from data_prep.join import JoinPlan, PlacedUnit, join_shard
from data_prep.unit_files import UnitRecord
from mlc.data.indexed import IndexedShard
from mlc.data.manifest import ShardEntry
from mlc.errors import ShardError

SEQUENCES = st.lists(st.lists(st.integers(0, 999), max_size=3).map(tuple), max_size=3).map(tuple)
DOCUMENT = st.builds(
    Row, st.just(0), st.tuples(SEQUENCES, SEQUENCES), st.integers(-1, 2**62), text_bytes=st.integers(0, 99)
)
REJECTED = st.builds(Row, st.just(0), reason=st.sampled_from(["empty", "broken_json"]))
FILE = st.lists(st.one_of(DOCUMENT, REJECTED), max_size=6)
SOURCES = st.lists(st.tuples(st.lists(FILE, max_size=4), st.none() | st.integers(1, 6)), max_size=3)
"""Each source: its files, each its records; and how many documents are taken of it."""


def numbered(rows: list[Row], sides: int) -> list[Row]:
    """One record every second line."""
    return [dataclasses.replace(row, line=2 * i + 1, sides=row.sides[:sides]) for i, row in enumerate(rows)]


def write_units(folder: Path, sources: list, sides: int, dtype: str, data: st.DataObject | None) -> list[PlacedUnit]:
    """Units of the sources' files, cut and grouped as drawn; without `data` one unit a file."""
    folder.mkdir()
    units = []
    for source, (files, _) in enumerate(sources):
        held: list[tuple[str, list[Row], int]] = []

        def flush(source: int = source, held: list = held) -> None:
            if held:
                name, parts = f"u{len(units)}", [(rows, lines) for _, rows, lines in held]
                chunk = 2 if data is None else data.draw(st.integers(1, 5))
                record = write_unit(folder, name, parts, sides=sides, dtype=dtype, chunk=chunk)
                units.append(PlacedUnit(record, source, tuple(file for file, _, _ in held)))
                held.clear()

        for number, rows in enumerate(files):
            name, rows = f"s{source}/ü{number}.txt", numbered(rows, sides)  # noqa: PLW2901
            cuts = [] if data is None else sorted(data.draw(st.lists(st.integers(0, 2 * len(rows)), max_size=3)))
            for low, high in zip([0, *cuts], [*cuts, 2 * len(rows)], strict=True):
                part = [dataclasses.replace(row, line=row.line - low) for row in rows if low < row.line <= high]
                held.append((name, part, high - low))
                if data is None or cuts or data.draw(st.booleans()):
                    flush()
        flush()
    return units


def expected_rows(sources: list, sides: int) -> tuple[list[Row], list[tuple[str, int, str]]]:
    """Documents and rejected records of the shard: of each source what stands up to its last document."""
    documents, rejected = [], []
    for source, (files, limit) in enumerate(sources):
        kept = 0
        for number, rows in enumerate(files):
            for row in numbered(rows, sides):
                if limit is not None and kept == limit:
                    break
                if row.sides:
                    documents.append(row)
                    kept += 1
                else:
                    rejected.append((f"s{source}/ü{number}.txt", row.line, row.reason))
    return documents, rejected


def join(output: Path, units: list[PlacedUnit], limits: list[int | None], sides: int) -> ShardEntry:
    languages = ("en", "de")[:sides]
    kind = "documents" if sides == 1 else "pairs"
    plan = JoinPlan(f"{kind}/{'-'.join(languages)}", kind, languages, units, limits)  # type: ignore[arg-type]
    return join_shard(output, plan)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@settings(max_examples=60)
@given(sources=SOURCES, sides=st.sampled_from([1, 2]), dtype=st.sampled_from(["uint16", "int32"]), data=st.data())
def test_the_bytes_are_those_of_the_writer_for_any_cut(
    tmp_path_factory: pytest.TempPathFactory, sources: list, sides: int, dtype: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("join")
    units = write_units(folder / "units", sources, sides, dtype, data)
    entry = join(folder / "out", units, [limit for _, limit in sources], sides)
    documents, rejected = expected_rows(sources, sides)
    if units:
        write_reference(folder / "reference", entry.name, entry.prefixes, documents, dtype)
        made = contents(folder / "out")
        rows = made.pop(f"rejected/{entry.name}.jsonl", b"").decode().splitlines()
        assert made == contents(folder / "reference")
        assert [tuple(json.loads(row)[key] for key in ("file", "line", "reason")) for row in rows] == rejected
    assert entry.documents == len(documents)
    assert entry.sequences == sum(len(row.sides[0]) for row in documents)
    assert entry.tokens == sum(len(sequence) for row in documents for side in row.sides for sequence in side)
    assert entry.text_bytes == sum(row.text_bytes for row in documents)
    assert entry.dropped == Counter(reason for _, _, reason in rejected)
    for name, facts in entry.files.items():
        content = (folder / "out" / name).read_bytes()
        assert facts == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def ten(first: int) -> list[Row]:
    return [Row(line, (((line,),),), text_bytes=line) for line in range(first, first + 10)]


def test_units_behind_the_last_document_need_not_be_there(tmp_path: Path) -> None:
    units = [PlacedUnit(write_unit(tmp_path, f"u{i}", [(ten(1), 10)]), 0, ("a",)) for i in range(3)]
    for limit in (10, 15, 20):
        entries = [join(tmp_path / str(count), units[:count], [limit], 1) for count in (2, 3)]
        assert entries[0] == entries[1]
        assert entries[0].documents == limit


@pytest.mark.parametrize("suffix", ["0.bin", "index", "rejected.jsonl"])
@pytest.mark.parametrize("limit", [None, 4])
def test_a_damaged_unit_is_never_joined(tmp_path: Path, suffix: str, limit: int | None) -> None:
    record = write_unit(tmp_path / "units", "u", [([Row(1), *ten(2)], 11)])
    path = record.folder / f"u.{suffix}"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(ShardError, match=f"u.{suffix}"):
        join(tmp_path / "out", [PlacedUnit(record, 0, ("a",))], [limit], 1)
    path.write_bytes(content[:-3])
    with pytest.raises(ShardError, match=f"u.{suffix}"):
        join(tmp_path / "out", [PlacedUnit(record, 0, ("a",))], [limit], 1)
    assert not [name for name in contents(tmp_path / "out") if not name.startswith("rejected")]


def test_an_older_rejected_file_goes_when_nothing_is_rejected(tmp_path: Path) -> None:
    for row in (Row(1), *ten(1)[:1]):
        record = write_unit(tmp_path / "units", "u", [([row, *ten(2)], 11)])
        join(tmp_path / "out", [PlacedUnit(record, 0, ("a",))], [None], 1)
        assert (tmp_path / "out/rejected/documents/en.jsonl").exists() == (not row.sides)


def test_units_of_two_dtypes_are_refused(tmp_path: Path) -> None:
    records = [
        write_unit(tmp_path, f"u{i}", [(ten(1), 10)], dtype=dtype) for i, dtype in enumerate(("uint16", "int32"))
    ]
    with pytest.raises(ShardError, match="dtype"):
        join(tmp_path / "out", [PlacedUnit(record, 0, ("a",)) for record in records], [None], 1)


JOIN_AND_PRINT_PEAK = """
import resource, sys
from pathlib import Path
from data_prep.join import JoinPlan, PlacedUnit, join_shard
from data_prep.unit_files import UnitRecord
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
folder, times = Path(sys.argv[1]), int(sys.argv[2])
unit = PlacedUnit(UnitRecord.read(folder, "u"), 0, ("a",))
entry = join_shard(folder / "out", JoinPlan("documents/en", "documents", ("en",), [unit] * times, [None]))
print(entry.sequences, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("times", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_shard(tmp_path: Path, times: int) -> None:
    """A million sequences (slow: ten million) in chunks of 20,000: their lengths alone are 4 MB (40 MB)."""
    from data_prep.unit_files import Side, UnitCounts, UnitWriter

    count, documents = 20_000, 4_000
    lengths = np.random.default_rng(1).integers(1, 9, count).astype(np.int32)
    side = Side(np.zeros(int(lengths.sum()), np.uint16), lengths, np.full(documents, count // documents))
    numbers = np.arange(documents)
    with UnitWriter(tmp_path, "u", "uint16") as writer:
        for chunk in range(5):
            writer.add([side], numbers, numbers, numbers + 1 + chunk * documents)
        writer.finish(UnitCounts((5 * documents,)))
    ended = subprocess.run(
        [sys.executable, "-c", JOIN_AND_PRINT_PEAK, str(tmp_path), str(times)],
        check=True,
        capture_output=True,
        text=True,
    )
    sequences, grown_kib = map(int, ended.stdout.split())
    assert sequences == 100_000 * times
    assert grown_kib < 8 << 10  # buffers of a MiB or two, and one chunk's arrays
    shard = IndexedShard(tmp_path / "out/documents/en")
    assert (shard.num_sequences, shard.num_documents) == (sequences, 20_000 * times)
    assert UnitRecord.read(tmp_path, "u").sequences == (100_000,)
