"""Which checkpoints are kept; one that is removed is whole or gone, whenever the process is killed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stepped_processes import SteppedProcess, count_calls

from mlc.checkpoint.fence import Fence
from mlc.checkpoint.record import checkpoint_folders, step_name
from mlc.checkpoint.retention import remove, superseded

ROOT = Path("checkpoints")
steps = st.lists(st.integers(0, 60), unique=True, max_size=20)


def _folders(numbers: list[int]) -> list[Path]:
    return [ROOT / step_name(step) for step in numbers]


@given(data=st.data(), numbers=steps, keep_last=st.integers(1, 6), keep_every=st.integers(0, 12))
def test_what_goes_is_neither_new_nor_a_multiple(
    data: st.DataObject, numbers: list[int], keep_last: int, keep_every: int
) -> None:
    folders = data.draw(st.permutations(_folders(numbers)))
    gone = superseded(folders, keep_last=keep_last, keep_every=keep_every)
    expected = []
    for step in sorted(numbers):
        newer = sum(other > step for other in numbers)
        multiple = keep_every > 0 and step % keep_every == 0
        if newer >= keep_last and not multiple:
            expected.append(step)
    assert gone == _folders(expected)


@given(numbers=steps, keep_last=st.integers(1, 6), keep_every=st.integers(0, 12))
def test_removing_after_every_save_leaves_what_removing_once_leaves(
    numbers: list[int], keep_last: int, keep_every: int
) -> None:
    kept: list[Path] = []
    for folder in _folders(sorted(numbers)):
        kept.append(folder)
        gone = superseded(kept, keep_last=keep_last, keep_every=keep_every)
        kept = [folder for folder in kept if folder not in gone]
    once = superseded(_folders(numbers), keep_last=keep_last, keep_every=keep_every)
    assert sorted(kept) == sorted(set(_folders(numbers)) - set(once))
    assert superseded(kept, keep_last=keep_last, keep_every=keep_every) == []


@given(data=st.data(), numbers=steps, keep_last=st.integers(1, 6), keep_every=st.integers(0, 12))
def test_those_of_bad_steps_take_no_place(
    data: st.DataObject, numbers: list[int], keep_last: int, keep_every: int
) -> None:
    amid = data.draw(st.sets(st.sampled_from(numbers))) if numbers else set()
    folders = _folders(numbers)
    gone = superseded(folders, keep_last=keep_last, keep_every=keep_every, amid_bad_steps=_folders(list(amid)))
    lasting = [step for step in numbers if step not in amid]
    overtaken = [step for step in amid if any(other > step for other in lasting)]
    expected = superseded(_folders(lasting), keep_last=keep_last, keep_every=keep_every)
    assert sorted(gone) == sorted([*expected, *_folders(overtaken)])


def test_a_folder_of_no_step_stays_and_the_newest_too() -> None:
    folders = [*_folders([1, 2]), ROOT / "best", ROOT / "damaged-step-00000001"]
    assert superseded(folders, keep_last=1, keep_every=0) == _folders([1])
    with pytest.raises(AssertionError):
        superseded(folders, keep_last=0, keep_every=0)


def _write(run: Path) -> Path:
    folder = run / "checkpoints" / step_name(1)
    for name in ("model/a", "model/b", "optimizer/c", "complete.json"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (run / "trash").mkdir()
    return folder


def _names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_removed_checkpoint_leaves_nothing(tmp_path: Path) -> None:
    folder = _write(tmp_path)
    remove(folder, tmp_path / "trash")
    assert _names(tmp_path) == ["checkpoints", "trash"]


def test_a_kill_leaves_it_whole_or_not_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", os.fstat)  # no power is lost here
    _write(tmp_path / "whole")
    whole = _names(tmp_path / "whole" / "checkpoints")
    _write(tmp_path / "count")
    calls = count_calls(remove, tmp_path / "count" / "checkpoints" / step_name(1), tmp_path / "count" / "trash")
    left = []
    for kill_at in range(calls):
        run = tmp_path / str(kill_at)
        with SteppedProcess(remove, _write(run), run / "trash", stop_at=kill_at) as process:
            process.kill()
        left.append(_names(run / "checkpoints"))
        assert bool(checkpoint_folders(run)) == (left[-1] == whole)
    assert left.count(whole) + left.count([]) == calls
    assert left.count(whole) < calls


def test_a_start_that_no_longer_owns_the_run_removes_nothing(tmp_path: Path) -> None:
    folder = _write(tmp_path)
    old = Fence.take(tmp_path, {})
    Fence.take(tmp_path, {})
    with pytest.raises(NotADirectoryError):
        remove(folder, old.work)
    assert checkpoint_folders(tmp_path) == [folder]
