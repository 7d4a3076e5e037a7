"""Several starts that take a run over at once, real processes: stopped, killed and interleaved at system calls."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path

import pytest
from fence_programs import attempts, attempts_after, insist, new_run, take_and_insist, take_and_write, tree
from hypothesis import given, settings
from hypothesis import strategies as st
from stepped_processes import SteppedProcess, count_calls

from mlc.checkpoint.fence import Fence
from mlc.errors import CheckpointError, FencedError


@pytest.fixture(autouse=True)
def _no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here loses power. A call of the operating system stays in the place of fsync, so processes stop there."""
    monkeypatch.setattr(os, "fsync", os.fstat)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return new_run(tmp_path)


# A start that is stopped or killed while it takes over.


def test_a_start_stopped_while_it_takes_over_gives_up_or_is_the_newest(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    Fence.take(run, {})
    calls = count_calls(take_and_write, run)
    fenced = 0
    for stop_at in range(calls):
        run = new_run(tmp_path)
        oldest = Fence.take(run, {})
        with SteppedProcess(take_and_write, run, stop_at=stop_at) as process:
            assert not process.ended
            other = Fence.take(run, {})
            before = tree(run)
            try:
                generation = process.to_the_end()
            except FencedError:
                fenced += 1
                assert tree(run) == before
                assert other.holds()
            else:  # it had no number yet
                assert generation > other.generation
                assert not other.holds()
        assert not oldest.holds()
        insist(oldest)
        assert sum(attempts(run).values()) == 1
    assert fenced > calls // 2


def test_what_is_no_folder_under_a_starts_name_is_an_error(run: Path) -> None:
    fence = Fence.take(run, {})
    shutil.rmtree(fence.work)
    fence.work.symlink_to("nowhere")
    with pytest.raises(CheckpointError, match="older start cannot be emptied"):
        Fence.take(run, {})


def test_a_start_gives_up_when_a_newer_one_has_come_even_if_that_one_is_dead(run: Path) -> None:
    with SteppedProcess(Fence.take, run, {}) as first, SteppedProcess(Fence.take, run, {}) as second:
        for process in (first, second):
            while not (run / "attempts" / f"attempt-0000000{1 + (process is second)}").exists():
                process.step()
        second.kill()
        with pytest.raises(FencedError, match="found generation 2"):
            first.to_the_end()


def test_two_starts_with_one_number_are_both_fenced(run: Path) -> None:
    """A folder was renamed away and its tombstone is not there yet: a start that had looked before makes it again."""
    first = Fence.take(run, {})
    second = run / "attempts" / "attempt-00000002"
    with (
        SteppedProcess(Fence.take, run, {}) as late,
        SteppedProcess(Fence.take, run, {}) as early,
        SteppedProcess(Fence.take, run, {}) as newest,
    ):
        while late.calls[-2:] != ["listdir", "mkdir"]:
            late.step()
        while first.holds():
            early.step()
        while second.exists():
            newest.step()
        late.step()
        assert second.is_dir()
        for process in (early, late):
            with pytest.raises(FencedError, match="found generation 3"):
                process.to_the_end()
        assert newest.to_the_end().holds()
    assert attempts(run) == attempts_after(3)


def test_a_stale_start_that_makes_its_folder_again_during_the_takeover_loses_it_again(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    Fence.take(run, {})
    for stop_at in range(count_calls(Fence.take, run, {})):
        run = new_run(tmp_path)
        oldest = Fence.take(run, {})
        with SteppedProcess(Fence.take, run, {}, stop_at=stop_at) as process:
            insist(oldest)
            new = process.to_the_end()
        before = tree(run)
        insist(oldest)
        assert tree(run) == before
        assert new.holds()
        assert attempts(run) == attempts_after(2)


def test_after_a_crash_while_taking_over_the_next_start_takes_over(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    Fence.take(run, {})
    calls = count_calls(take_and_write, run)
    for kill_at in range(calls):
        run = new_run(tmp_path)
        oldest = Fence.take(run, {})
        (oldest.work / "partial").mkdir()
        (oldest.work / "partial" / "file").touch()
        with SteppedProcess(take_and_write, run, stop_at=kill_at) as process:
            process.kill()
        new = Fence.take(run, {})
        before = tree(run)
        insist(oldest)
        assert tree(run) == before
        assert new.holds()
        assert attempts(run) == attempts_after(new.generation)
        assert sorted(path.name for path in new.work.iterdir()) == ["owner.json"]
        assert json.loads(before["owner.json"] or "")["generation"] == new.generation


def _violations(run: Path, starts: int, schedule: list[int]) -> list[str]:
    """Run several starts, one system call at a time, each of which takes over and then insists on writing.

    Args:
        schedule: which of those that have not ended makes the next call; in turn when it is at its end.
    """
    found: list[str] = []
    generations: dict[SteppedProcess, int] = {}
    taken, folders, placed = 0, _folders(run), _without_reports(run)
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(SteppedProcess(take_and_insist, run)) for _ in range(starts)]
        turns, turn = iter(schedule), 0
        while alive := [process for process in processes if not process.ended]:
            turn = next(turns, turn + 1)
            process = alive[turn % len(alive)]
            process.step()
            before, placed = placed, _without_reports(run)
            made, folders = _folders(run) - folders, _folders(run)
            if made:  # the first one that a process makes is its own
                generations.setdefault(process, made.pop())
            if placed != before and generations[process] < taken:
                found.append(f"{generations[process]}: {process.calls[-2]} after {taken} had taken over")
            taken = max((int(path.name) for path in (run / "taken").iterdir()), default=0)
        for process in processes:
            with contextlib.suppress(FencedError):
                process.to_the_end()
    newest = max(_folders(run))
    holding = [number for number in range(1, newest + 1) if Fence(run, number).holds()]
    return found if holding == [newest] else [*found, f"{holding} hold, of {newest}"]


def _without_reports(run: Path) -> dict[str, str | None]:
    return {name: content for name, content in tree(run).items() if not name.startswith("taken")}


def _folders(run: Path) -> set[int]:
    folder = run / "attempts"
    return {int(path.name[-8:]) for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else set()


@settings(max_examples=15)
@given(starts=st.integers(2, 4), schedule=st.lists(st.integers(0, 3), max_size=200))
def test_any_interleaving_leaves_one_owner(
    tmp_path_factory: pytest.TempPathFactory, starts: int, schedule: list[int]
) -> None:
    assert _violations(new_run(tmp_path_factory.mktemp("runs")), starts, schedule) == []
