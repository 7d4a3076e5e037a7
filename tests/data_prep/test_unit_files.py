"""The files of a unit: what is written is read back, a unit without a whole record is not there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit_files_for_tests import Row, add, write_unit

from data_prep.unit_files import Side, UnitCounts, UnitRecord, UnitWriter, place_of, read_blocks
from mlc.errors import ShardError

SEQUENCES = st.lists(st.lists(st.integers(0, 999), max_size=4).map(tuple), max_size=3).map(tuple)


def rows(count: int) -> list[Row]:
    return [Row(line, (((line, line + 1), (line,)),), group=line * 5, text_bytes=10 + line) for line in range(1, count)]


@settings(max_examples=40)
@given(
    documents=st.lists(st.tuples(SEQUENCES, SEQUENCES, st.integers(-1, 2**62)), max_size=12),
    sides=st.sampled_from([1, 2]),
    chunk=st.integers(1, 5),
    dtype=st.sampled_from(["uint16", "int32"]),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    documents: list[tuple[tuple, tuple, int]],
    sides: int,
    chunk: int,
    dtype: str,
) -> None:
    folder = tmp_path_factory.mktemp("unit")
    written = [(0, Row(3 * i + 1, texts[:sides], texts[2], 100 + i)) for i, texts in enumerate(documents)]
    with UnitWriter(folder, "u", dtype, sides) as writer:
        for start in range(0, len(written), chunk):
            add(writer, written[start : start + chunk], dtype, sides)
        made = writer.finish(UnitCounts((3 * len(written) + 1,)))
    record = UnitRecord.read(folder, "u")
    assert record == made
    record.check_hashes()
    blocks = [
        (
            block.groups(),
            block.text_bytes(),
            block.places(),
            *((block.sizes(s), block.lengths(s)) for s in range(sides)),
        )
        for block in read_blocks(record)
    ]
    assert [int(group) for block in blocks for group in block[0]] == [row.group for _, row in written]
    assert [int(size) for block in blocks for size in block[1]] == [row.text_bytes for _, row in written]
    assert [int(place) for block in blocks for place in block[2]] == [row.line for _, row in written]
    assert record.text_bytes == sum(row.text_bytes for _, row in written)
    for side in range(sides):
        sequences = [sequence for _, row in written for sequence in row.sides[side]]
        assert [int(s) for block in blocks for s in block[3 + side][0]] == [len(row.sides[side]) for _, row in written]
        assert [int(length) for block in blocks for length in block[3 + side][1]] == [len(s) for s in sequences]
        tokens = np.fromfile(record.tokens_path(side), dtype=dtype)
        assert tokens.tolist() == [token for sequence in sequences for token in sequence]
        assert (record.sequences[side], record.tokens[side]) == (len(sequences), len(tokens))


def test_rejected_records_are_counted_and_kept(tmp_path: Path) -> None:
    record = write_unit(tmp_path, "u", [([Row(1), Row(2, reason="broken_json")], 5), ([Row(4)], 9)])
    assert (record.dropped, record.records, record.documents) == ({"broken_json": 1, "empty": 2}, 3, 0)
    assert (record.lines, record.numbers) == ((5, 9), {"bytes_read": 7})
    assert record.rejected_path is not None
    found = [json.loads(row) for row in record.rejected_path.read_text().splitlines()]
    assert [(row["part"], row["line"], row["reason"]) for row in found] == [
        (0, 1, "empty"),
        (0, 2, "broken_json"),
        (1, 4, "empty"),
    ]
    assert found[0]["record"] == "ü1\ud800"
    assert write_unit(tmp_path, "v", [(rows(4), 3)]).rejected_path is None


def test_a_unit_is_there_when_its_record_is(tmp_path: Path) -> None:
    assert UnitRecord.find(tmp_path, "u") is None
    with pytest.raises(ShardError, match="no finished unit"):
        UnitRecord.read(tmp_path, "u")
    record = write_unit(tmp_path, "u", [(rows(9), 8)])
    assert UnitRecord.find(tmp_path, "u") == record
    for name in record.files:
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[:-1])
        with pytest.raises(ShardError, match=f"{name}.*{len(content) - 1}.*{len(content)}"):
            UnitRecord.read(tmp_path, "u")
        (tmp_path / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ShardError, match="xxh3"):
            UnitRecord.read(tmp_path, "u").check_hashes()
        (tmp_path / name).unlink()
        assert UnitRecord.find(tmp_path, "u") is None
        (tmp_path / name).write_bytes(content)
    record.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "mlc-unit", "version": 2}', "[" * 99_999])
def test_a_record_that_cannot_be_read_is_none(tmp_path: Path, content: str) -> None:
    write_unit(tmp_path, "u", [(rows(3), 2)])
    (tmp_path / "u.json").write_text(content)
    assert UnitRecord.find(tmp_path, "u") is None


def test_an_exception_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with UnitWriter(tmp_path, "u", "uint16") as writer:
            add(writer, [(0, row) for row in rows(5)], "uint16", 1)
            writer.reject(0, 9, "empty", "", "")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_unit(tmp_path: Path) -> None:
    """A claim that was taken over: both finish, the bytes are the same, neither disturbs the other."""
    with UnitWriter(tmp_path, "u", "uint16") as slow:
        add(slow, [(0, row) for row in rows(4)], "uint16", 1)
        fast = write_unit(tmp_path, "u", [(rows(4), 3)], chunk=99)
        assert UnitRecord.find(tmp_path, "u") == fast
        slow.finish(UnitCounts((3,), {"bytes_read": 7}))
    assert UnitRecord.read(tmp_path, "u") == fast
    fast.check_hashes()


def test_what_does_not_add_up_is_our_mistake(tmp_path: Path) -> None:
    one, none = np.array([1]), np.array([], dtype=np.int64)
    with UnitWriter(tmp_path, "u", "uint16") as writer:
        for side in (Side(one, one + 1, one), Side(one, one, one + 1), Side(one, one, none), Side(one - 2, one, one)):
            with pytest.raises(AssertionError):
                writer.add([side], one, one, one)
        with pytest.raises(AssertionError):
            writer.add([Side(one, one, one)] * 2, one, one, one)
    with pytest.raises(ShardError, match="float32"):
        UnitWriter(tmp_path, "u", "float32")


def test_places_grow_with_part_and_line() -> None:
    assert place_of(0, 1) < place_of(0, 10**11) < place_of(1, 1) < place_of(2**22, 1) < 2**63


WRITE_PAST_A_LIMIT = """
import resource, sys
from pathlib import Path
import numpy as np
from data_prep.unit_files import Side, UnitCounts, UnitWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
one = np.ones(1, np.int64)
with UnitWriter(Path(sys.argv[1]), "u", "uint16") as writer:
    for _ in range(9):
        writer.add([Side(np.zeros(30_000, np.uint16), np.array([30_000]), one)], one, one, one)
    writer.finish(UnitCounts((1,)))
"""


def test_a_disk_that_takes_no_more_leaves_nothing(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", WRITE_PAST_A_LIMIT, str(tmp_path)], check=False, capture_output=True, text=True
    )
    assert "OSError: [Errno 27]" in ended.stderr
    assert list(tmp_path.iterdir()) == []
