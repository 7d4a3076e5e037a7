"""Damaged checkpoints are found and set aside; whole ones are not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mlc.checkpoint.fence import Fence
from mlc.checkpoint.record import RECORD_NAME, Plan, Position, Record, complete_checkpoints, step_name, step_of
from mlc.checkpoint.verify import damage, set_aside, share_of
from mlc.errors import CheckpointError, FencedError
from mlc.files import FileFacts, hash_file

STEPS = (100, 200)
CONTENTS = {
    "model/mlc.json": b"{}",
    "model/weights-00000-of-00002.safetensors": b"weights " * 40,
    "model/weights-00001-of-00002.safetensors": b"more weights " * 30,
    "optimizer/state-00000-of-00002.safetensors": bytes(range(256)),
    "optimizer/state-00001-of-00002.safetensors": b"",
}


def _write_checkpoint(run: Path, step: int) -> Path:
    folder = run / "checkpoints" / step_name(step)
    files = {}
    for name, content in CONTENTS.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.replace(b"weights", b"%07d" % step))
        files[name] = FileFacts(path.stat().st_size, hash_file(path))
    record = Record(
        position=Position(step, step, 9 * step, 99 * step),
        plan=Plan(2, 1),
        first_plan=Plan(2, 1),
        zero_stage=3,
        precision="bf16",
        generation=1,
        identity={},
        optimizer_steps=step,
        loss_scaler={},
        skipped_batches=(),
        parameters={"a": (2, 3)},
        files=files,
    )
    (folder / RECORD_NAME).write_bytes(record.to_bytes())
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return _write_checkpoint(tmp_path, 100)


def _problem(folder: Path, shares: int = 1) -> str | None:
    """As a run looks: the record, then every share of the files."""
    try:
        record = Record.read(folder)
    except CheckpointError as error:
        return str(error)
    found = [damage(folder, record, share=(share, shares)) for share in range(shares)]
    return next((problem for problem in found if problem is not None), None)


def _accepted(run: Path, shares: int = 1) -> set[int | None]:
    """Steps of the checkpoints that a run would load."""
    return {step_of(folder) for folder in complete_checkpoints(run) if _problem(folder, shares) is None}


@pytest.mark.parametrize("shares", [1, 2, 7])
def test_a_whole_checkpoint_has_no_damage(folder: Path, shares: int) -> None:
    record, seen = Record.read(folder), list[int]()
    assert [damage(folder, record, share=(i, shares), progress=seen.append) for i in range(shares)] == [None] * shares
    assert sum(seen) == sum(facts.bytes for facts in record.files.values())


def _flip(data: st.DataObject, path: Path) -> None:
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)


def _truncate(data: st.DataObject, path: Path) -> None:
    # a record may lose its last line feed
    os.truncate(path, data.draw(st.integers(0, path.stat().st_size - 1 - (path.name == RECORD_NAME))))


def _lengthen(data: st.DataObject, path: Path) -> None:
    path.write_bytes(path.read_bytes() + data.draw(st.binary(min_size=1).filter(bytes.strip)))


def _empty(data: st.DataObject, path: Path) -> None:
    path.write_bytes(b"")


def _delete(data: st.DataObject, path: Path) -> None:
    path.unlink()


def _replace_by_a_folder(data: st.DataObject, path: Path) -> None:
    path.unlink()
    path.mkdir()


def _overwrite_a_range(data: st.DataObject, path: Path) -> None:
    content = bytearray(path.read_bytes())
    start = data.draw(st.integers(0, len(content) - 1))
    block = data.draw(st.binary(min_size=1, max_size=len(content) - start))
    assume(content[start : start + len(block)] != block)
    content[start : start + len(block)] = block
    path.write_bytes(content)


def _swap(first: Path, second: Path) -> None:
    aside = first.with_name("aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)


Damage = Callable[[st.DataObject, Path], None]
DAMAGES: list[Damage] = [_flip, _truncate, _lengthen, _empty, _delete, _replace_by_a_folder, _overwrite_a_range]


@settings(max_examples=150)
@given(data=st.data(), harm=st.sampled_from(DAMAGES), shares=st.integers(1, 4))
def test_a_damaged_file_is_found(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, harm: Damage, shares: int
) -> None:
    run = tmp_path_factory.mktemp("run")
    hurt, _ = data.draw(st.permutations([_write_checkpoint(run, step) for step in STEPS]))
    paths = sorted(path for path in hurt.rglob("*") if path.is_file())
    if harm not in (_delete, _replace_by_a_folder, _lengthen):
        paths = [path for path in paths if path.stat().st_size]
    path = data.draw(st.sampled_from(paths))
    record_before = Record.read(hurt)
    harm(data, path)
    if path.name == RECORD_NAME and path.is_file() and _problem(hurt) is None:
        assert Record.read(hurt) == record_before  # other white space
        return
    assert _accepted(run, shares) == {*STEPS} - {step_of(hurt)}


@settings(max_examples=60)
@given(data=st.data(), shares=st.integers(1, 4))
def test_swapped_files_are_found(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, shares: int) -> None:
    """Two files of one step, one file of two steps, or different files of two steps; the records too."""
    run = tmp_path_factory.mktemp("run")
    folders = [_write_checkpoint(run, step) for step in STEPS]
    paths = [folder / name for folder in folders for name in (*CONTENTS, RECORD_NAME)]
    first, second = data.draw(st.lists(st.sampled_from(paths), min_size=2, max_size=2, unique=True))
    assume(first.read_bytes() != second.read_bytes())
    _swap(first, second)
    hurt = {folder for folder in folders if folder in first.parents or folder in second.parents}
    assert _accepted(run, shares) == {*STEPS} - {step_of(folder) for folder in hurt}


def test_exchanged_and_renamed_folders_are_found(tmp_path: Path) -> None:
    first, second = (_write_checkpoint(tmp_path, step) for step in STEPS)
    _swap(first, second)
    assert _accepted(tmp_path) == set()
    _swap(first, second)
    assert _accepted(tmp_path) == {*STEPS}
    _swap(first / "optimizer", first / "model")
    assert _accepted(tmp_path) == {200}
    _swap(first / "optimizer", first / "model")
    assert _accepted(tmp_path) == {*STEPS}
    first.rename(first.with_name(step_name(300)))
    second.rename(second.with_name("step-200"))
    assert _accepted(tmp_path) == set()


def test_the_message_names_the_file_and_what_differs(folder: Path) -> None:
    record, name = Record.read(folder), "model/weights-00001-of-00002.safetensors"
    (folder / name).write_bytes(b"x" * record.files[name].bytes)
    assert damage(folder, record) == f"{name} has xxh3 {hash_file(folder / name)}, needed {record.files[name].xxh3}"
    (folder / "model/mlc.json").write_bytes(b"{")
    assert damage(folder, record) == "model/mlc.json has 1 bytes, needed 2"  # sizes before hashes
    (folder / "model/mlc.json").unlink()
    assert damage(folder, record) == "model/mlc.json cannot be read: No such file or directory"
    os.mkfifo(folder / "model/mlc.json")
    assert damage(folder, record) == "model/mlc.json is not a file"


def test_a_file_that_cannot_be_opened_for_another_reason_is_not_called_damaged(folder: Path) -> None:
    record = Record.read(folder)
    (folder / "model/mlc.json").unlink()
    (folder / "model/mlc.json").symlink_to("mlc.json")
    with pytest.raises(OSError, match="symbolic links"):
        damage(folder, record)


@settings(max_examples=200)
@given(sizes=st.lists(st.integers(0, 1000), max_size=40), shares=st.integers(1, 12))
def test_shares_hold_every_file_once_and_equally_many_bytes(sizes: list[int], shares: int) -> None:
    files = {f"file-{number}": FileFacts(size, "") for number, size in enumerate(sizes)}
    parts = [share_of(files, number, shares) for number in range(shares)]
    assert sorted(name for part in parts for name in part) == sorted(files)
    assert parts == [share_of(dict(reversed(files.items())), number, shares) for number in range(shares)]
    loads = [sum(files[name].bytes for name in part) for part in parts]
    for part, load in zip(parts, loads, strict=True):
        # its smallest file came last, when no other share had fewer bytes
        assert load - min((files[name].bytes for name in part), default=0) <= min(loads)
    if not any(sizes):
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_nothing_set_aside_before_is_lost(tmp_path: Path) -> None:
    asides = []
    for content in (b"first", b"second", b"third"):
        folder = _write_checkpoint(tmp_path, 100)
        (folder / "model/mlc.json").write_bytes(content)
        asides.append(set_aside(folder))
        assert not folder.exists()
    names = ["damaged-step-00000100", "damaged-step-00000100-2", "damaged-step-00000100-3"]
    assert [path.name for path in asides] == names
    assert [(path / "model/mlc.json").read_bytes() for path in asides] == [b"first", b"second", b"third"]
    assert complete_checkpoints(tmp_path) == []


def test_only_the_newest_start_sets_aside(tmp_path: Path) -> None:
    folders = [_write_checkpoint(tmp_path, step) for step in STEPS]
    old = Fence.take(tmp_path, {})
    assert set_aside(folders[0], old).name == "damaged-step-00000100"
    assert sorted(path.name for path in old.work.iterdir()) == ["owner.json"]
    Fence.take(tmp_path, {})
    with pytest.raises(FencedError):
        set_aside(folders[1], old)
    assert _accepted(tmp_path) == {200}
