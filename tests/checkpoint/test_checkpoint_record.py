"""`complete.json`: what is written is read, and what has changed is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from mlc.checkpoint.record import (
    RECORD_NAME,
    VERSION,
    Plan,
    Position,
    Record,
    checkpoint_folders,
    checksum,
    complete_checkpoints,
    step_name,
    step_of,
)
from mlc.errors import EXIT_USAGE, CheckpointError, RecipeError
from mlc.files import FileFacts

RECORD = Record(
    position=Position(step=12, batch=13, samples=117, tokens=2048),
    plan=Plan(world_size=2, micro_batches=1),
    first_plan=Plan(world_size=1, micro_batches=2),
    zero_stage=3,
    precision="fp16",
    generation=2,
    identity={"tokenizer": "0f", "récipé": "é"},
    optimizer_steps=11,
    loss_scaler={"scale": 65536.0, "good_steps": 3.0},
    skipped_batches=(7,),
    parameters={"a.weight": (3, 2), "scalar": ()},
    files={"model/a": FileFacts(24, "00ff00ff00ff00ff"), "b": FileFacts(0, "1111111111111111")},
)

count = st.integers(0, 2**70)
plan = st.builds(Plan, st.integers(1, 2**40), st.integers(1, 2**40))
name = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=8)
file_name = st.lists(name.filter(lambda part: part not in (".", "..")), min_size=1, max_size=3).map("/".join)
records = st.builds(
    Record,
    position=st.builds(Position, step=st.integers(0, 10**10), batch=count, samples=count, tokens=count),
    plan=plan,
    first_plan=plan,
    zero_stage=count,
    precision=st.text(),
    generation=count,
    identity=st.dictionaries(st.text(), st.text(), max_size=3),
    optimizer_steps=count,
    loss_scaler=st.dictionaries(st.text(), st.floats(allow_nan=False), max_size=3),
    skipped_batches=st.lists(count, max_size=3).map(tuple),
    parameters=st.dictionaries(st.text(), st.lists(count, max_size=3).map(tuple), max_size=3),
    files=st.dictionaries(file_name, st.builds(FileFacts, count, st.text()), max_size=3),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / step_name(RECORD.position.step)
    folder.mkdir()
    return folder


def _put(folder: Path, content: bytes) -> None:
    (folder / RECORD_NAME).write_bytes(content)


def _refused_or_the_same(folder: Path, content: bytes, record: Record) -> bool:
    """Whether changed bytes are refused as damaged; they may say the same in other white space."""
    _put(folder, content)
    try:
        return Record.read(folder) == record
    except CheckpointError:
        return True


@settings(max_examples=100)
@given(record=records)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, record: Record) -> None:
    folder = tmp_path_factory.mktemp("run") / step_name(record.position.step)
    folder.mkdir()
    _put(folder, record.to_bytes())
    assert Record.read(folder) == record
    assert step_of(folder) == record.position.step


def test_write_makes_one_file_and_no_folder(folder: Path) -> None:
    (folder / "model").mkdir()
    RECORD.write(folder)
    assert Record.read(folder) == RECORD
    assert sorted(path.name for path in folder.iterdir()) == [RECORD_NAME, "model"]
    gone = folder.with_name(step_name(13))
    with pytest.raises(FileNotFoundError):
        replace(RECORD, files={}).write(gone)
    assert not gone.exists()


def test_every_changed_byte_is_seen(folder: Path) -> None:
    content = RECORD.to_bytes()
    for place in range(len(content)):
        for mask in (0x01, 0x20, 0xFF):  # a digit for the next, a letter for its capital, no text at all
            changed = bytearray(content)
            changed[place] ^= mask
            assert _refused_or_the_same(folder, bytes(changed), RECORD), (place, mask)


def test_every_truncation_is_seen(folder: Path) -> None:
    content = RECORD.to_bytes()
    for length in range(len(content) - 1):  # the last byte is a line feed
        _put(folder, content[:length])
        with pytest.raises(CheckpointError):
            Record.read(folder)


@settings(max_examples=150)
@given(data=st.data())
def test_swapped_doubled_and_lost_parts_are_seen(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = RECORD.to_bytes()
    first, second, third = sorted(data.draw(st.tuples(*[st.integers(0, len(content))] * 3)))
    a, b, c, d = content[:first], content[first:second], content[second:third], content[third:]
    changed = data.draw(st.sampled_from([a + c + b + d, a + d, a + b + b + c + d, a + bytes(len(b)) + c + d]))
    folder = tmp_path_factory.mktemp("run") / step_name(RECORD.position.step)
    folder.mkdir()
    assert _refused_or_the_same(folder, changed, RECORD)


def test_a_checksum_that_is_not_compared_would_let_changes_through(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = RECORD.to_bytes()
    _put(folder, content.replace(b'"samples": 117', b'"samples": 118'))
    with pytest.raises(CheckpointError, match="checksum"):
        Record.read(folder)
    stated = json.loads(RECORD.to_bytes())["xxh3"]
    monkeypatch.setattr("mlc.checkpoint.record.checksum", lambda content: stated)
    assert Record.read(folder).position.samples == 118


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b"{}", b"\xff", b"[" * 10**6, b'{"a":' * 10**5, b"\0" * 99])
def test_what_is_no_record_is_damaged(folder: Path, content: bytes) -> None:
    _put(folder, content)
    with pytest.raises(CheckpointError, match=RECORD_NAME):
        Record.read(folder)


def test_a_missing_record_is_damage_but_one_that_cannot_be_opened_is_not(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        Record.read(folder)
    (folder / RECORD_NAME).mkdir()
    with pytest.raises(CheckpointError, match="cannot be read"):
        Record.read(folder)
    (folder / RECORD_NAME).rmdir()
    (folder / RECORD_NAME).symlink_to(RECORD_NAME)  # too many links: the file system says nothing about content
    with pytest.raises(OSError, match="symbolic links"):
        Record.read(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"position": {"step": "12", "batch": 13, "samples": 117, "tokens": 2048}},
        {"position": {"step": 12.0, "batch": 13, "samples": 117, "tokens": 2048}},
        {"position": {"step": 12, "batch": -1, "samples": 117, "tokens": 2048}},
        {"plan": {"world_size": 0, "micro_batches": 1}},
        {"zero_stage": True},
        {"identity": {"a": 1}},
        {"skipped_batches": None},
        {"parameters": {"a": 3}},
        {"files": {"../a": {"bytes": 1, "xxh3": ""}}},
        {"files": {"/etc/passwd": {"bytes": 1, "xxh3": ""}}},
        {"files": {"a//b": {"bytes": 1, "xxh3": ""}}},
        {"files": {"": {"bytes": 1, "xxh3": ""}}},
        {"files": {"a": {"bytes": 1}}},
        {"precision": None},
        {"unknown": 1},
    ],
    ids=str,
)
def test_content_of_another_type_is_refused_although_its_checksum_fits(folder: Path, change: dict[str, Any]) -> None:
    content = {**json.loads(RECORD.to_bytes()), **change}
    del content["xxh3"]
    _put(folder, json.dumps({**content, "xxh3": checksum(content)}).encode())
    with pytest.raises(CheckpointError, match="no record"):
        Record.read(folder)


@pytest.mark.parametrize("version", [1, VERSION + 1])
def test_a_whole_record_of_another_version_is_not_damaged(folder: Path, version: int) -> None:
    content = {"version": version, "world_size": 2, "files": {}}
    _put(folder, json.dumps({**content, "xxh3": checksum(content)}).encode())
    with pytest.raises(
        RecipeError, match=f"another version; found {version}; needed {VERSION}.*\n.*that wrote it"
    ) as e:
        Record.read(folder)
    assert e.value.exit_code == EXIT_USAGE
    _put(folder, json.dumps({**content, "world_size": 3, "xxh3": checksum(content)}).encode())
    with pytest.raises(CheckpointError, match="checksum"):
        Record.read(folder)


def test_the_checksum_is_that_of_version_1() -> None:
    expected = xxhash.xxh3_64_hexdigest(b'{"a": [1, 2.5], "b": "\\u00e9"}')
    assert checksum({"b": "é", "a": [1, 2.5]}) == checksum({"a": [1, 2.5], "b": "é"}) == expected


@pytest.mark.parametrize("name", ["step-00000011", "step-12", "best", "damaged-step-00000012", "step-000000012"])
def test_a_checkpoint_under_another_name_is_refused(folder: Path, name: str) -> None:
    _put(folder, RECORD.to_bytes())
    renamed = folder.rename(folder.with_name(name))
    with pytest.raises(CheckpointError, match=f"found {name}; needed step-00000012"):
        Record.read(renamed)


def test_checkpoints_are_found_oldest_first(tmp_path: Path) -> None:
    assert checkpoint_folders(tmp_path) == []
    root = tmp_path / "checkpoints"
    steps = [0, 5, 99_999_999, 100_000_000, 1_234_567_890]
    for step in reversed(steps):
        (root / step_name(step)).mkdir(parents=True)
    for other in ("step-5", "step-00000005x", "damaged-step-00000005", "step-000000007", "step-0000000٣"):
        (root / other).mkdir()
    (root / "step-00000001").touch()
    assert checkpoint_folders(tmp_path) == [root / step_name(step) for step in steps]
    for step in steps[1:3]:
        (root / step_name(step) / RECORD_NAME).touch()
    assert complete_checkpoints(tmp_path) == [root / step_name(step) for step in steps[1:3]]
