"""Files that hold records of several languages: the shards are those of one file a language."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_corpus import WORDS, text

from data_prep.command import build
from data_prep.plan import Source, plan_shards
from data_prep.readers import Record, Rejected, SourceFormat
from data_prep.recipe import PrepRecipe
from data_prep.sorting import DONE, SpillReader, read_part, sort_part
from data_prep.source_files import state_of
from data_prep.units import Part, plan_units
from data_prep.verify import find_faults
from data_prep.work import UNLISTED
from mlc.config import read_recipe
from mlc.data.manifest import Manifest
from mlc.errors import DataError, RecipeError, ShardError

LANGUAGES = tuple(WORDS)
ROWS = [
    {"id": f"d{i}", "lang": language, "text": text(language, 7 * i + place, 25)}
    for i in range(60)
    for place, language in enumerate(LANGUAGES)
    if i % (place + 2)
]


def write_recipe(home: Path, name: str, table: str, *, tokenizer: str = "vocab_size = 360") -> Path:
    head = f'[build]\noutput = "{home}/{name}"\nmax_rejected_fraction = 0\n[tokenizer]\n{tokenizer}\n'
    (home / f"{name}.toml").write_text(f"{head}[[documents]]\n{table}\n")
    return home / f"{name}.toml"


def build_with(home: Path, name: str, table: str, *overrides: str, tokenizer: str = "vocab_size = 360") -> Manifest:
    return build(write_recipe(home, name, table, tokenizer=tokenizer), overrides).manifest


def shard_hashes(manifest: Manifest) -> dict[str, object]:
    return {name: facts["sha256"] for entry in manifest.shards for name, facts in entry.files.items()}


def listed(languages: Sequence[str] = LANGUAGES) -> str:
    return f'languages = {json.dumps(languages)}\nlanguage_field = "lang"\n'


def write_rows(path: Path, rows: Sequence[dict[str, str]]) -> None:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=16)
    elif path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="," if path.suffix == ".csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    else:
        import datasets

        datasets.Dataset.from_list(list(rows)).save_to_disk(path)


@pytest.fixture(scope="module")
def separate(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """The shards of one file a language."""
    home = tmp_path_factory.mktemp("separate")
    for language in LANGUAGES:
        write_rows(home / f"{language}.jsonl", [row for row in ROWS if row["lang"] == language])
    table = f'languages = {json.dumps(LANGUAGES)}\npaths = ["{home}/{{language}}.jsonl"]'
    return build_with(home, "out", table)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet", ""])
@pytest.mark.parametrize("unit_bytes", [1000, 1 << 20])
def test_the_shards_are_those_of_separate_files(
    tmp_path: Path, separate: Manifest, suffix: str, unit_bytes: int
) -> None:
    for part in range(2):
        write_rows(tmp_path / f"mixed-{part}{suffix}", ROWS[part * 70 : 70 if part == 0 else None])
    if suffix:
        tables = listed() + f'paths = ["{tmp_path}/mixed-*{suffix}"]'
    else:
        sets = [f'dataset = "{tmp_path}/mixed-{part}"' for part in range(2)]
        tables = "\n[[documents]]\n".join(listed() + each for each in sets)
    own = f'path = "{separate.folder / separate.tokenizer.file}"'
    manifest = build_with(tmp_path, "out", tables, f"build.unit_bytes={unit_bytes}", tokenizer=own)
    assert shard_hashes(manifest) == shard_hashes(separate)
    assert find_faults(manifest) == []
    assert all(not entry.dropped for entry in manifest.shards)
    assert not (tmp_path / "out/.work").exists()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_processes_writes_the_same(tmp_path: Path, separate: Manifest, workers: int) -> None:
    write_rows(tmp_path / "mixed.jsonl", ROWS)
    own = f'path = "{separate.folder / separate.tokenizer.file}"'
    recipe = write_recipe(tmp_path, "out", listed() + f'paths = ["{tmp_path}/mixed.jsonl"]', tokenizer=own)
    manifest = build(recipe, ["build.unit_bytes=500"], workers=workers).manifest
    assert shard_hashes(manifest) == shard_hashes(separate)


def test_what_cannot_be_used_is_listed_with_the_first_language(tmp_path: Path) -> None:
    rows = [json.dumps(row) for row in ROWS]
    rows[10] = '{"text": "no language"}'
    rows[50] = '{"text": "no string", "lang": 3}'
    rows[80] = "{broken"
    rows[90] = json.dumps({"lang": "de", "text": " "})
    rows[100:100] = [json.dumps({"lang": code, "text": f"in {code}"}) for code in ("fr", "EN", "en ")]
    (tmp_path / "mixed.jsonl").write_text("\n".join(rows))
    table = listed() + f'paths = ["{tmp_path}/mixed.jsonl"]'
    four = 4 / len(rows)
    settings = ("build.unit_bytes=1500", f"build.max_rejected_fraction={four + 1e-9}")
    manifest = build_with(tmp_path, "out", table, *settings)
    first, *others = (manifest.entry(f"documents/{language}") for language in LANGUAGES)
    assert first.dropped == {"broken_json": 1, "empty": 1, "missing_field": 1, "wrong_type": 1, UNLISTED: 3}
    assert [entry.dropped for entry in others] == [{}, {}]
    rejected = [json.loads(line) for line in (tmp_path / "out/rejected/documents/en.jsonl").read_text().splitlines()]
    assert [(row["line"], row["reason"]) for row in rejected] == [
        (11, "missing_field"),
        (51, "wrong_type"),
        (81, "broken_json"),
        (91, "empty"),
        *((101 + place, UNLISTED) for place in range(3)),
    ]
    assert {row["file"] for row in rejected} == {str(tmp_path / "mixed.jsonl")}
    assert [row["detail"] for row in rejected[-3:]] == ["fr", "EN", "en "]
    with pytest.raises(DataError, match=rf"documents/en.*4 of {len(rows)}"):  # of all records, not those in English
        build_with(tmp_path, "strict", table, "build.unit_bytes=1500", f"build.max_rejected_fraction={four - 1e-4}")


def test_a_range_without_the_first_language_is_no_failure(tmp_path: Path) -> None:
    rows = [{"lang": "fr", "text": f"texte {i}"} for i in range(1500)]
    rows += [{"lang": language, "text": text(language, i, 25)} for language in ("de", "en") for i in range(50)]
    write_rows(tmp_path / "mixed.jsonl", rows)
    manifest = build_with(tmp_path, "out", listed(("en", "de")) + f'paths = ["{tmp_path}/mixed.jsonl"]')
    assert [entry.documents for entry in manifest.shards] == [50, 50]
    assert manifest.entry("documents/en").dropped == {UNLISTED: 1500}


def test_the_wrong_field_stops_at_once(tmp_path: Path) -> None:
    write_rows(tmp_path / "mixed.jsonl", [{"language": "en", "text": f"text {i}"} for i in range(3000)])
    with pytest.raises(DataError, match=r"none of the first 1000 records.*missing_field(.|\n)*lang"):
        build_with(tmp_path, "out", listed() + f'paths = ["{tmp_path}/mixed.jsonl"]')


def test_languages_share_the_bytes_of_a_range(tmp_path: Path) -> None:
    write_rows(tmp_path / "mixed.jsonl", ROWS)
    table = listed() + f'paths = ["{tmp_path}/mixed.jsonl"]'
    plans = plan_shards(read_recipe(write_recipe(tmp_path, "out", table), PrepRecipe), "out.toml")
    units = list(plan_units(plans, 1000).values())
    size = (tmp_path / "mixed.jsonl").stat().st_size
    assert len({len(each) for each in units}) == 1
    assert len(units[0]) == math.ceil(math.ceil(size / 1000) / 3)
    total_bytes = sum(unit.bytes for each in units for unit in each)
    assert all(unit.bytes <= 1000 for unit in units[0])
    assert size - 3 * len(units[0]) <= total_bytes <= size
    assert abs(sum(plan.source_bytes for plan in plans) - size) <= 3


def part_of(path: Path, source: Source) -> Part:
    from data_prep.readers import plan_ranges

    (only,) = plan_ranges(path, source.reading, 1 << 30)
    return Part(path, only, state_of(path))


LINE = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            "lang": st.sampled_from(["en", "de", "fr", ""]) | st.integers(),
            "text": st.text(st.characters(), max_size=20) | st.none(),
            "id": st.integers() | st.text(max_size=3),
        },
    ).map(lambda row: json.dumps(row).encode()),
    st.binary(max_size=8).filter(lambda line: b"\n" not in line),
)


@settings(max_examples=150)
@given(lines=st.lists(LINE, max_size=30), block_bytes=st.sampled_from([1, 50, 1 << 18]))
def test_records_come_back_as_they_were_read(lines: list[bytes], block_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr("data_prep.spills.BLOCK_BYTES", block_bytes)
        path, folder = Path(name) / "mixed.jsonl", Path(name) / "sorted"
        path.write_bytes(b"\n".join(lines))
        reading = SourceFormat("jsonl", group_fields=("id",), language_field="lang")
        source = Source((path,), reading, sorted_by=("en", "de"))
        part = part_of(path, source)
        sort_part(part, source, folder, lambda count: None)
        reader = read_part(part, source, lambda count: None)
        read = list(reader)
        english, german = (SpillReader([folder], language, lambda: None) for language in ("en", "de"))
        assert english.lines == german.lines == reader.lines
        assert list(german) == [record for record in read if isinstance(record, Record) and record.language == "de"]
        first = [record for record in read if isinstance(record, Rejected) or record.language != "de"]
        found = list(english)
        assert len(found) == len(first)
        assert english.elsewhere == len(read) - len(first)
        for one, other in zip(found, first, strict=True):
            if isinstance(other, Record) and other.language != "en":
                assert isinstance(one, Rejected)
                assert (one.line, one.reason, one.detail) == (other.line, UNLISTED, other.language)
            else:
                assert one == other


def test_a_spill_that_is_damaged_is_an_error(tmp_path: Path) -> None:
    path, folder = tmp_path / "mixed.jsonl", tmp_path / "sorted"
    write_rows(path, ROWS)
    source = Source((path,), SourceFormat("jsonl", language_field="lang"), sorted_by=LANGUAGES)
    sort_part(part_of(path, source), source, folder, lambda count: None)
    before = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}
    sort_part(part_of(path, source), source, folder, lambda count: None)  # again, as when a claim was taken over
    assert {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()} == before
    good = (folder / "de").read_bytes()
    for bad in (b"", good[:3], good[:-1], good[:40] + bytes([good[40] ^ 1]) + good[41:]):
        (folder / "de").write_bytes(bad)
        with pytest.raises(ShardError, match=r"written is missing or damaged(.|\n)*build again"):
            list(SpillReader([folder], "de", lambda: None))
    (folder / DONE).unlink()
    with pytest.raises(ShardError, match="missing or damaged"):
        SpillReader([folder], "en", lambda: None)


def test_a_file_that_changes_while_it_is_sorted_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "mixed.jsonl"
    write_rows(path, ROWS)
    source = Source((path,), SourceFormat("jsonl", language_field="lang"), sorted_by=LANGUAGES)
    part = part_of(path, source)
    os.utime(path, ns=(1, part.state.changed_ns + 1))
    with pytest.raises(DataError, match="has changed"):
        sort_part(part, source, tmp_path / "sorted", lambda count: None)
    assert not (tmp_path / "sorted" / DONE).exists()
    with pytest.raises(DataError, match="has changed"):
        sort_part(replace(part, file=tmp_path / "gone"), source, tmp_path / "sorted", lambda count: None)


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ('language = "en"\nlanguage_field = "lang"\npaths = ["{file}"]', "needs languages"),
        ('languages = ["en"]\nlanguage_field = "lang"\npaths = ["{language}.jsonl"]', "no {language} in paths"),
        (
            'languages = ["en"]\nlanguage_field = "lang"\npaths = ["{file}"]\nformat = "text"',
            "plain text has",
        ),
    ],
)
def test_tables_that_cannot_be_sorted_are_refused(tmp_path: Path, table: str, complaint: str) -> None:
    (tmp_path / "a.jsonl").touch()
    recipe = write_recipe(tmp_path, "out", table.replace("{file}", str(tmp_path / "a.jsonl")))
    with pytest.raises(RecipeError, match=complaint.replace("{", r"\{")):
        plan_shards(read_recipe(recipe, PrepRecipe), "out.toml")
