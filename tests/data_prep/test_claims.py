"""Work shared by real processes that know of one another through a folder alone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from data_prep.claims import Claims, Task, do_together

SHORT_LEASE_SECONDS = 1.5
"""Other work does not keep the process that renews it away for so long."""
TASK_SECONDS = 0.01
"""Long enough for every process to get its turn on few cores."""


def tasks_of(folder: Path, count: int) -> list[Task]:
    """Each writes a line to a common log when it begins, and then its own file."""

    def task(number: int) -> Task:
        result = folder / f"done-{number}"

        def run() -> None:
            with (folder / "log").open("a") as log:
                log.write(f"{number} {os.getpid()}\n")
            time.sleep(TASK_SECONDS)
            temporary = folder / f"temporary-{number}-{os.getpid()}"
            temporary.write_text(str(number))
            os.replace(temporary, result)

        return Task(f"task-{number}", number % 3, result, run)

    return [task(number) for number in range(count)]


def work(folder: Path, count: int, first: int, all_ready: Any = None) -> None:
    if all_ready is not None:
        all_ready.wait()
    do_together(tasks_of(folder, count), Claims(folder / "claims"), first=first, seconds_between_looks=0.01)


def hang(folder: Path, count: int) -> None:
    """Claims the first task and never does it."""
    tasks = tasks_of(folder, count)
    largest = max(tasks, key=lambda task: task.bytes)
    with Claims(folder / "claims", SHORT_LEASE_SECONDS).take(largest.name):
        (folder / "claimed").touch()
        time.sleep(600)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "claims").mkdir()
    return tmp_path


def log_of(folder: Path) -> list[tuple[int, int]]:
    lines = (folder / "log").read_text().splitlines()
    return [(int(number), int(pid)) for number, pid in map(str.split, lines)]


@pytest.mark.parametrize("processes", [1, 4])
def test_every_task_is_done_once(processes: int, folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Barrier(processes)
    started = [context.Process(target=work, args=(folder, 60, 15 * number, ready)) for number in range(processes)]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
    assert [process.exitcode for process in started] == [0] * processes
    assert sorted(number for number, _ in log_of(folder)) == list(range(60))
    assert len(Counter(pid for _, pid in log_of(folder))) == processes
    assert list((folder / "claims").iterdir()) == []


def test_what_is_done_is_not_done_again(folder: Path) -> None:
    work(folder, 10, 0)
    work(folder, 12, 5)
    assert sorted(number for number, _ in log_of(folder)) == list(range(12))


def test_what_is_done_is_found_by_a_look_at_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of processes that ask for every file by itself would be too much for a file server."""
    tasks = tasks_of(folder, 500)
    for task in tasks:
        task.made.touch()
    listed: list[object] = []
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(path) or listdir(path))
    monkeypatch.setattr(Path, "exists", lambda path: pytest.fail(f"asked for {path}"))
    do_together(tasks, Claims(folder / "claims"))
    assert len(listed) == 1


def test_the_task_of_a_process_that_died_is_taken_over(folder: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=hang, args=(folder, 3))
    process.start()
    deadline = time.monotonic() + 60
    while not (folder / "claimed").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    claims = Claims(folder / "claims", SHORT_LEASE_SECONDS)
    alive_for = time.monotonic() + 3 * SHORT_LEASE_SECONDS
    while time.monotonic() < alive_for:  # it is renewed, so it stays
        with claims.take("task-2") as taken:
            assert not taken
        time.sleep(0.05)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    do_together(tasks_of(folder, 3), claims, seconds_between_looks=0.01)
    assert sorted(number for number, _ in log_of(folder)) == [0, 1, 2]
    assert list((folder / "claims").iterdir()) == []


def test_a_failed_task_frees_its_claim(folder: Path) -> None:
    def fail() -> None:
        raise ValueError("of the task")

    with pytest.raises(ValueError, match="of the task"):
        do_together([Task("one", 1, folder / "never", fail)], Claims(folder / "claims"))
    assert list((folder / "claims").iterdir()) == []


def test_an_error_that_another_process_left_ends_the_wait(folder: Path) -> None:
    looks: list[int] = []

    def look() -> None:
        looks.append(1)
        if len(looks) > 3:
            raise ValueError("of another")

    with Claims(folder / "claims").take("task-0") as taken:
        assert taken
        others = Claims(folder / "claims")
        with pytest.raises(ValueError, match="of another"):
            do_together(tasks_of(folder, 1), others, look=look, seconds_between_looks=0.01)
