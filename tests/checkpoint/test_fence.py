"""The fence: a start that a newer one has followed changes nothing; real processes, stopped between system calls."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fence_programs import attempts, attempts_after, insist, new_run, save, tree
from stepped_processes import SteppedProcess, count_calls

from mlc.checkpoint.fence import Fence
from mlc.errors import EXIT_FAILED, CheckpointError, FencedError


@pytest.fixture(autouse=True)
def _no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here loses power. A call of the operating system stays in the place of fsync, so processes stop there."""
    monkeypatch.setattr(os, "fsync", os.fstat)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return new_run(tmp_path)


def test_a_start_owns_the_run_and_says_so(run: Path) -> None:
    fence = Fence.take(run / "deep" / "er", {"command": "mlc train", "job": "17"})
    assert (fence.generation, fence.holds()) == (1, True)
    owner = json.loads((fence.run_folder / "owner.json").read_text())
    assert owner == json.loads((fence.work / "owner.json").read_text())
    expected = {"command": "mlc train", "job": "17", "generation": 1, "host": socket.gethostname(), "pid": os.getpid()}
    assert owner.items() >= expected.items()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", owner["started"])


def test_what_is_placed_is_in_place_and_no_longer_in_work(run: Path) -> None:
    fence = Fence.take(run, {})
    save(fence)
    fence.write(run / "file", b"one")
    fence.write(run / "file", b"two")
    assert tree(run).items() >= {"placed": "1", "checkpoints": None, "checkpoints/latest": "1", "file": "two"}.items()
    assert sorted(path.name for path in fence.work.iterdir()) == ["owner.json"]
    with pytest.raises(FileNotFoundError):  # a mistake of the owner is not taken for a newer start
        fence.place(fence.work / "nothing", run / "x")
    with pytest.raises(FileNotFoundError):
        fence.write(run / "no" / "folder", b"x")
    assert sorted(path.name for path in fence.work.iterdir()) == ["owner.json"]
    with pytest.raises(AssertionError, match="deeper"):
        fence.place(fence.work / "a" / "b", run / "x")


def test_the_older_start_learns_who_the_newer_one_is(run: Path) -> None:
    old = Fence.take(run, {})
    new = Fence.take(run, {"job": "18"})
    assert (old.holds(), new.holds(), new.generation) == (False, True, 2)
    for action in (
        old.check,
        lambda: old.write(run / "x", b""),
        lambda: old.place(old.work / "x", run / "x"),
        lambda: old.withdraw(run / "owner.json"),
    ):
        with pytest.raises(FencedError, match=r"newer start.*found generation 2, job 18, host .*number 1") as caught:
            action()
        assert caught.value.exit_code == EXIT_FAILED
    assert sorted(tree(run)) == ["checkpoints", "owner.json", "taken"]
    shutil.rmtree(run / "attempts")
    with pytest.raises(FencedError, match="working folder of this start is gone"):
        new.write(run / "x", b"")


def test_parts_of_a_run_on_two_file_systems_are_refused(run: Path) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == run.stat().st_dev:
        pytest.skip("needs two file systems")
    fence = Fence.take(run, {})
    with tempfile.TemporaryDirectory(dir=memory) as elsewhere:
        (run / "linked").symlink_to(elsewhere)
        with pytest.raises(CheckpointError, match=r"different file systems.*linked"):
            fence.write(run / "linked" / "x", b"x")


def test_a_folder_that_cannot_be_emptied_is_an_error(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Fence.take(run, {})

    def busy(path: object) -> None:
        raise OSError(errno.ENOTEMPTY, "not empty", str(path))

    monkeypatch.setattr(os, "rmdir", busy)
    with pytest.raises(CheckpointError, match="older start cannot be emptied"):
        Fence.take(run, {})


# One live owner, stopped before each of its system calls, while another start takes over.


def _changed_by_a_stale_start(parent: Path, program: Callable[[Fence], None], stop_at: int) -> bool:
    """Whether a start that was stopped before its system call number `stop_at` changes anything after a takeover."""
    run = new_run(parent)
    old = Fence.take(run, {})
    with SteppedProcess(program, old, stop_at=stop_at) as process:
        new = Fence.take(run, {})
        before = tree(run)
        with contextlib.suppress(FencedError):
            process.to_the_end()
            assert program is insist, "it did not notice that it is stale"
        return tree(run) != before or not new.holds()


@pytest.mark.parametrize("program", [save, insist])
def test_a_stale_start_changes_nothing_wherever_it_was_stopped(
    tmp_path: Path, program: Callable[[Fence], None]
) -> None:
    calls = count_calls(program, Fence.take(new_run(tmp_path), {}))
    assert calls > 30
    assert [at for at in range(calls) if _changed_by_a_stale_start(tmp_path, program, at)] == []


def test_without_a_tombstone_a_stale_start_would_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rename_and_delete_only(fence: Fence, number: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            box = fence.work / ".revoked-it"
            os.rename(fence.work.with_name(f"attempt-{number:08d}"), box)
            fence._dissolve(box)

    monkeypatch.setattr(Fence, "_revoke", rename_and_delete_only)
    assert _changed_by_a_stale_start(tmp_path, insist, 0)


def test_to_look_before_a_rename_would_not_be_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def look_and_rename(fence: Fence, temporary: Path, final: Path) -> None:
        fence.check()
        os.rename(temporary, final)

    monkeypatch.setattr(Fence, "holds", lambda fence: max(attempts(fence.run_folder)) == fence.work.name)
    monkeypatch.setattr(Fence, "place", look_and_rename)
    monkeypatch.setattr(Fence, "_revoke", lambda fence, number: None)
    calls = count_calls(save, Fence.take(new_run(tmp_path), {}))
    assert any(_changed_by_a_stale_start(tmp_path, save, at) for at in range(calls))


@contextlib.contextmanager
def _handle(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def test_a_handle_of_the_working_folder_is_worth_nothing_after_a_takeover(run: Path) -> None:
    """An NFS client remembers the handles of folders, and a process can be stopped when a path is already resolved."""
    old = Fence.take(run, {})
    for name in ("file", "other"):
        (old.work / name).write_text("1")
    with _handle(old.work) as handle:
        os.rename("other", run / "placed", src_dir_fd=handle)
        Fence.take(run, {})
        before = tree(run)
        for name in ("file", "owner.json"):
            with pytest.raises(FileNotFoundError):
                os.rename(name, run / "placed", src_dir_fd=handle)
        with pytest.raises(FileNotFoundError):
            os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=handle)
    assert tree(run) == before


def test_a_file_made_through_a_handle_during_the_takeover_is_lost_too(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Fence.take(run, {})
    made, remove_folder = [], os.rmdir
    with _handle(old.work) as handle:

        def late(path: str | Path, *, dir_fd: int | None = None) -> None:
            if not made:
                made.append(os.mkdir("late", dir_fd=handle))
            remove_folder(path, dir_fd=dir_fd)

        monkeypatch.setattr(os, "rmdir", late)
        Fence.take(run, {})
        with pytest.raises(FileNotFoundError):
            os.rename("late", run / "placed", src_dir_fd=handle)
    assert made
    assert attempts(run) == attempts_after(2)


@pytest.mark.parametrize("crash", [False, True], ids=["", "a start has crashed in between"])
def test_a_checkpoint_is_never_half_deleted_when_it_is_placed_at_the_last_moment(tmp_path: Path, crash: bool) -> None:
    """Through a handle, right before each call of the takeover in turn: it is put in place whole or not at all."""
    outcomes = set()
    for stop_at in range(200):
        run = new_run(tmp_path)
        old = Fence.take(run, {})
        for name in ("a", "b", "c"):
            (old.work / "step" / name).mkdir(parents=True)
        with _handle(old.work) as handle:
            if crash:
                _crash_once_the_folder_is_taken(old)
            with SteppedProcess(Fence.take, run, {}, stop_at=stop_at) as process:
                over = process.ended
                with contextlib.suppress(FileNotFoundError):
                    os.rename("step", run / "placed", src_dir_fd=handle)
                process.to_the_end()
        placed = run / "placed"
        outcomes.add(placed.exists())
        assert not placed.exists() or sorted(path.name for path in placed.iterdir()) == ["a", "b", "c"]
        if over:
            break
    assert over
    assert outcomes == {True, False}


def _crash_once_the_folder_is_taken(old: Fence) -> None:
    with SteppedProcess(Fence.take, old.run_folder, {}) as process:
        while old.holds():
            process.step()
        process.kill()
