"""Parquet files and Hugging Face data sets: rows as records, in ranges, with bad values set aside."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.readers import Record, Rejected, SourceFormat, plan_ranges, read_range
from mlc.data.manifest import NO_GROUP, group_number
from mlc.errors import DataError, RecipeError

TEXTS = ["a", "zwei", "中文", "", None, " ", "\U0001f600", "x" * 50]
SOURCE = SourceFormat(group_fields=("id",), max_line_bytes=40)


def read(path: Path, source: SourceFormat, unit_bytes: int) -> tuple[list[Record | Rejected], int]:
    """All records with rows counted through the file, and the number of ranges."""
    found: list[Record | Rejected] = []
    rows = 0
    ranges = plan_ranges(path, source, unit_bytes)
    for file_range in ranges:
        consumed: list[int] = []
        reader = read_range(path, file_range, source, consumed.append)
        for record in reader:
            found.append(type(record)(**{**fields(record), "line": record.line + rows}))
        rows += reader.lines
        assert sum(consumed) == file_range.bytes
    return found, len(ranges)


def fields(record: Record | Rejected) -> dict[str, object]:
    return {name: getattr(record, name) for name in record.__slots__}


def expected(texts: Sequence[str | None]) -> list[tuple[int, str]]:
    """(row, text) of each record, or its reason with an exclamation mark."""
    found = []
    for row, text in enumerate(texts, 1):
        if text is None:
            found.append((row, "!missing_field"))
        elif not text.strip():
            found.append((row, "!empty"))
        else:
            found.append((row, "!too_long" if len(text.encode()) > 40 else text))
    return found


def shown(records: Sequence[Record | Rejected]) -> list[tuple[int, str]]:
    return [(r.line, r.texts[0] if isinstance(r, Record) else f"!{r.reason}") for r in records]


@settings(max_examples=60)
@given(texts=st.lists(st.sampled_from(TEXTS), max_size=30), group=st.integers(1, 9), unit_bytes=st.integers(1, 2000))
def test_parquet_in_any_ranges(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str | None], group: int, unit_bytes: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "property.parquet"
    ids = [f"i{i}" for i in range(len(texts))]
    table = pa.table({"other": [{"x": 1}] * len(texts), "id": ids, "text": pa.array(texts, pa.string())})
    pq.write_table(table, path, row_group_size=group)
    records, ranges = read(path, SOURCE, unit_bytes)
    assert shown(records) == expected(texts)
    assert [r.group for r in records if isinstance(r, Record)] == [
        group_number(key) for key, (_, text) in zip(ids, expected(texts), strict=True) if text[0] != "!"
    ]
    assert ranges == 1 or unit_bytes < path.stat().st_size


def test_parquet_values_of_other_types(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"

    def found(values: pa.Array, source: SourceFormat = SOURCE) -> list[tuple[int, str]]:
        pq.write_table(pa.table({"text": values, "n": [1] * len(values)}), path)
        return shown(read(path, source, 1)[0])

    broken = pa.Array.from_buffers(pa.string(), 2, pa.array([b"\xff", b"b"], pa.binary()).buffers())
    assert found(broken) == [(1, "!undecodable"), (2, "b")]
    assert found(pa.array([b"a", b"\xff"])) == [(1, "a"), (2, "!undecodable")]
    assert found(pa.array(["a", "b", "a"]).dictionary_encode()) == [(1, "a"), (2, "b"), (3, "a")]
    assert found(pa.array(["a"], pa.large_string())) == [(1, "a")]
    assert found(pa.array([1, None])) == [(1, "!wrong_type"), (2, "!missing_field")]
    assert found(pa.array([["a"]])) == [(1, "!wrong_type")]
    assert found(pa.array([2**55], pa.timestamp("ms"))) == [(1, "!wrong_type")]
    assert found(pa.array([datetime(2020, 1, 1)])) == [(1, "!wrong_type")]
    assert found(pa.array(["a", "b"]), SourceFormat(text_fields=("body",))) == [
        (1, "!missing_field"),
        (2, "!missing_field"),
    ]
    inner = SourceFormat(text_fields=("text.de",))
    assert found(pa.StructArray.from_arrays([broken], ["de"]), inner) == [(1, "!undecodable"), (2, "b")]
    assert found(pa.ListArray.from_arrays([0, 1, 2], broken)) == [(1, "!wrong_type"), (2, "!wrong_type")]
    nested = SourceFormat(text_fields=("text.de", "text.en"))
    assert found(pa.array([{"de": "A", "en": "a"}, {"de": None, "en": "b"}]), nested) == [
        (1, "A"),
        (2, "!missing_field"),
    ]


def test_parquet_that_is_none_or_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"text {i} " * 20 for i in range(500)]}), path, compression="zstd")
    content = path.read_bytes()
    (file_range,) = plan_ranges(path, SOURCE, 1 << 30)
    for damaged in (b"", b"PAR1", content[:-20], content[: len(content) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="cannot be read"):
            plan_ranges(path, SOURCE, 1)
        with pytest.raises(DataError, match="cannot be read"):
            list(read_range(path, file_range, SOURCE))
    path.write_bytes(content[:100] + bytes(100) + content[200:])
    with pytest.raises(DataError, match="cannot be read"):
        list(read_range(path, file_range, SOURCE))
    pq.write_table(
        pa.table({"text": ["abc"] * 50}), path, compression="none", use_dictionary=False, write_page_checksum=True
    )
    path.write_bytes(path.read_bytes().replace(b"\x03\0\0\0abc", b"\x03\0\0\0abd", 1))
    with pytest.raises(DataError, match="cannot be read"):
        list(read_range(path, file_range, SOURCE))
    pq.write_table(pa.table({"text": []}), path)
    with pytest.raises(DataError, match="changed since it was planned"):
        list(read_range(path, type(file_range)("rows", 0, 5, 1), SOURCE))
    compressed = tmp_path / "a.parquet.gz"
    compressed.write_bytes(content)
    with pytest.raises(RecipeError, match="compressed inside"):
        plan_ranges(compressed, SOURCE, 1)


@pytest.fixture
def rows() -> list[dict[str, object]]:
    return [{"id": i, "text": f"text {i}", "translation": {"en": f"e{i}", "de": f"d{i}"}} for i in range(100)]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["saved", "splits", "folder"])
def test_data_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, object]], kind: str, streaming: bool
) -> None:
    import datasets

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    path = tmp_path / "set"
    made = datasets.Dataset.from_list(rows)
    if kind == "saved":
        made.save_to_disk(path, num_shards=4)
    elif kind == "splits":
        datasets.DatasetDict({"train": made, "test": made.select([0])}).save_to_disk(
            path, num_shards={"train": 4, "test": 1}
        )
    else:
        path.mkdir()
        for part in range(4):
            lines = [json.dumps(row) for row in rows[25 * part : 25 * (part + 1)]]
            (path / f"train-{part}.jsonl").write_text("\n".join(lines))
    source = SourceFormat("dataset", ("translation.en", "translation.de"), ("id",), streaming=streaming)
    records, ranges = read(path, source, 200)
    assert records == [Record((f"e{i}", f"d{i}"), group_number(str(i)), i + 1) for i in range(100)]
    assert ranges == 4 if streaming else ranges > 4
    none, _ = read(path, SourceFormat("dataset", ("no",), streaming=streaming), 1 << 20)
    assert shown(none) == [(row, "!missing_field") for row in range(1, 101)]
    if kind != "saved":  # it has no splits
        with pytest.raises(RecipeError, match="split"):
            plan_ranges(path, SourceFormat("dataset", split="dev", streaming=streaming), 1000)


def test_a_folder_is_a_data_set_and_bad_rows_are_set_aside(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(tmp_path / "set")
    source = SourceFormat(max_line_bytes=40)
    records, _ = read(tmp_path / "set", source, 1)
    assert shown(records) == expected(TEXTS)
    assert {r.group for r in records if isinstance(r, Record)} == {NO_GROUP}
    with pytest.raises(RecipeError, match="cannot be opened"):
        plan_ranges(tmp_path / "nothing", SourceFormat("dataset"), 1)
    (tmp_path / "set/state.json").write_text("{")
    with pytest.raises(RecipeError, match="cannot be opened"):
        plan_ranges(tmp_path / "set", SourceFormat("dataset"), 1)
