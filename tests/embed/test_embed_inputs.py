"""Rows of the input: in order, whatever the files and units; what cannot be read is refused or keeps its place."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from mlc.embed.inputs import InputForm, Row, Source, find_sources, read_unit, scan
from mlc.errors import DataError, UsageError

LINE = st.text(st.characters(codec="utf-8", exclude_characters="\n\r\ufeff"), max_size=8)


def all_rows(sources: list[Source], unit_rows: int, form: InputForm | None = None) -> list[Row]:
    plan = scan(sources, form or InputForm(), unit_rows, "keep")
    rows = [read_unit(sources, plan, unit, form or InputForm()) for unit in range(len(plan.units))]
    assert [len(found) for found in rows] == [plan.rows_of(unit) for unit in range(len(rows))]
    assert sum(file.rows for file in plan.files) == plan.rows
    return [row for found in rows for row in found]


@given(st.lists(st.lists(LINE, max_size=7), min_size=1, max_size=4).filter(any), st.integers(1, 6))
def test_every_line_has_one_row_in_order(files: list[list[str]], unit_rows: int) -> None:
    with TemporaryDirectory() as name:
        sources = []
        for number, texts in enumerate(files):
            content = "".join(f"{text}\n" for text in texts).encode()
            file = Path(name) / (f"{number}.txt" + ("", ".gz", ".zst")[number % 3])
            compress = (bytes, gzip.compress, zstandard.compress)[number % 3]
            file.write_bytes(compress(content))
            sources.append(Source(file, file.name))
        rows = all_rows(sources, unit_rows)
    assert [row.text for row in rows] == [text for texts in files for text in texts]


def test_the_end_of_a_line_is_no_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\n\ntwo")
    (tmp_path / "b.txt").write_bytes(b" three \n")
    assert [row.text for row in all_rows(find_sources([tmp_path / "a.txt", tmp_path / "b.txt"]), 2)] == [
        "one", "", "two", " three ",
    ]  # fmt: skip


def test_records_carry_id_and_language(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"id": 7, "lang": "de", "text": "Tag"}\n\n{"text": "x", "more": 1}\n{"title": "y", "text": ""}\n')
    sources = find_sources([file])
    assert all_rows(sources, 2) == [
        Row("Tag", "7", "de", f"{file}:1"),
        Row("x", None, None, f"{file}:3"),
        Row("", None, None, f"{file}:4"),
    ]
    assert scan(sources, InputForm(), 2, "refuse").blank_lines == 1
    (tmp_path / "b.dump").write_text('{"body": "z", "nr": "1"}\n')
    form = InputForm("body", id_column="nr")
    assert all_rows(find_sources([tmp_path / "b.dump"]), 9, form)[0].id == "1"


BAD = {
    "this is not UTF-8": b"\xff\xfe",
    "this line is not JSON": b"{",
    "this line is not a JSON object": b'["text"]',
    "there is no text": b'{"texts": "a"}',
    '"text": 3': b'{"text": 3}',
    "half of a surrogate pair": b'{"text": "\\ud800"}',
    '"id" is neither a string nor a whole number': b'{"text": "a", "id": [1]}',
}


@pytest.mark.parametrize("problem", BAD)
def test_a_bad_line_is_refused_with_its_place_or_keeps_its_row(tmp_path: Path, problem: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"text": "before"}\n' + BAD[problem] + b'\n{"text": "after"}\n')
    with pytest.raises(DataError) as caught:
        scan(find_sources([file]), InputForm(), 2, "refuse")
    assert problem in str(caught.value)
    assert f"{file}:2" in str(caught.value)
    assert "--bad-lines keep" in str(caught.value)
    assert [row.text for row in all_rows(find_sources([file]), 2)] == ["before", None, "after"]


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        find_sources([tmp_path / "absent.txt"])
    (tmp_path / "table.tsv").write_text("a\tb\n")
    with pytest.raises(UsageError, match=r"files of this form are not read; found \.tsv"):
        find_sources([tmp_path / "table.tsv"])
    (tmp_path / "empty.txt").touch()
    with pytest.raises(DataError, match="there are no texts"):
        scan(find_sources([tmp_path / "empty.txt"]), InputForm(), 2, "keep")
    cut = tmp_path / "cut.txt.gz"
    cut.write_bytes(gzip.compress(b"line\n" * 1000)[:-9])
    with pytest.raises(DataError, match="cannot be read to its end"):
        scan(find_sources([cut]), InputForm(), 2, "keep")


def test_an_input_that_has_become_shorter_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps({"text": str(number)}) + "\n" for number in range(5)))
    sources = find_sources([file])
    plan = scan(sources, InputForm(), 2, "refuse")
    file.write_text('{"text": "0"}\n')
    with pytest.raises(DataError, match="shorter than when the work began"):
        read_unit(sources, plan, 1, InputForm())
