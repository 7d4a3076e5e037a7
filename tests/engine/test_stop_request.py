"""Requests to stop and to save: real signals to real processes, real files, and a clock that the test holds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlc.engine.stop import SECONDS_BETWEEN_LOOKS, STOP_SIGNALS, StopRequest
from mlc.errors import EXIT_FAILED, MlcError

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_SECONDS = 60
RANK = """
import sys, time
from mlc.engine.stop import StopRequest

with StopRequest(None) as request:
    print("listening", flush=True)
    while request.stop is None:
        time.sleep(0.01)
    print(request.stop, flush=True)
    sys.stdin.read()
"""


class _Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds

    def next_look(self) -> None:
        self.seconds += SECONDS_BETWEEN_LOOKS


@pytest.fixture
def clock() -> _Clock:
    return _Clock()


@contextmanager
def _rank() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", RANK],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("first", STOP_SIGNALS)
def test_a_signal_asks_and_ctrl_c_behind_it_ends_the_process(first: signal.Signals) -> None:
    with _rank() as process:
        _ask(process, first)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=DEADLINE_SECONDS) == -signal.SIGINT


@pytest.mark.parametrize("again", [signal.SIGTERM, signal.SIGUSR2])
@pytest.mark.parametrize("first", STOP_SIGNALS)
def test_slurms_signals_may_come_again_during_a_save(first: signal.Signals, again: signal.Signals) -> None:
    with _rank() as process:
        _ask(process, first)
        for _ in range(3):
            process.send_signal(again)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=DEADLINE_SECONDS) == 0


def _ask(process: subprocess.Popen[str], number: signal.Signals) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "listening\n"
    process.send_signal(number)
    assert process.stdout.readline() == f"signal {number.name}\n"
    assert process.poll() is None


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with StopRequest(None):
        assert all(signal.getsignal(number) not in before for number in STOP_SIGNALS)
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_a_file_stop_asks_until_it_is_honoured(tmp_path: Path, clock: _Clock) -> None:
    request = StopRequest(tmp_path, now=clock)
    assert (request.stop, request.save) == (None, False)
    (tmp_path / "stop").touch()
    assert request.stop is None  # looked a moment ago
    clock.next_look()
    assert (request.stop, request.save) == ("file stop", False)
    request.honoured()
    assert request.stop is None
    assert not (tmp_path / "stop").exists()
    assert StopRequest(tmp_path, now=clock).stop is None


def test_a_file_save_asks_for_a_save_alone(tmp_path: Path, clock: _Clock) -> None:
    (tmp_path / "save").write_text("anything")
    request = StopRequest(tmp_path, now=clock)
    assert (request.stop, request.save) == (None, True)
    request.honoured()
    clock.next_look()
    assert (request.save, (tmp_path / "save").exists()) == (False, False)


def test_a_request_stays_when_its_file_goes(tmp_path: Path, clock: _Clock) -> None:
    (tmp_path / "stop").touch()
    request = StopRequest(tmp_path, now=clock)
    assert request.stop == "file stop"
    (tmp_path / "stop").unlink()
    clock.next_look()
    assert request.stop == "file stop"
    request.honoured()
    assert request.stop is None


def test_a_request_made_while_another_is_carried_out_is_a_new_one(tmp_path: Path, clock: _Clock) -> None:
    save = tmp_path / "save"
    save.touch()
    request = StopRequest(tmp_path, now=clock)
    assert request.save
    os.utime(save, ns=(0, save.stat().st_mtime_ns + 1))  # touched while the save was written
    (tmp_path / "stop").touch()  # not seen yet
    request.honoured()
    assert not request.save
    clock.next_look()
    assert (request.save, request.stop) == (True, "file stop")


def test_a_file_that_cannot_be_deleted_is_named(tmp_path: Path, clock: _Clock) -> None:
    (tmp_path / "stop").mkdir()
    request = StopRequest(tmp_path, now=clock)
    assert request.stop == "file stop"
    with pytest.raises(MlcError, match=r"stop") as raised:
        request.honoured()
    assert raised.value.exit_code == EXIT_FAILED
    assert str(tmp_path / "stop") in str(raised.value)


def test_a_run_folder_that_cannot_be_asked_makes_no_requests(tmp_path: Path, clock: _Clock) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "absent", tmp_path / "file", tmp_path / ("long" * 100)):
        request = StopRequest(folder, now=clock)
        assert (request.stop, request.save) == (None, False)
        request.honoured()


def test_only_the_rank_with_the_folder_looks(tmp_path: Path, clock: _Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stop").touch()
    monkeypatch.chdir(tmp_path)
    assert StopRequest(None, now=clock).stop is None
    assert StopRequest(Path(), now=clock).stop == "file stop"


@given(
    longest_step=st.floats(min_value=0.001, max_value=100.0),
    longest_save=st.floats(min_value=0.001, max_value=100.0),
    steps_that_fit=st.floats(min_value=0.0, max_value=20.0),
    parts=st.lists(st.tuples(st.floats(0.0, 1.0), st.none() | st.floats(0.0, 1.0)), max_size=40),
)
def test_the_time_limit_leaves_room_for_a_step_and_a_save_and_no_more(
    longest_step: float, longest_save: float, steps_that_fit: float, parts: list[tuple[float, float | None]]
) -> None:
    """A loop as training has it: ask, take a step, save at times; save on request what is not saved yet.

    `parts` are those of the longest step and the longest save, which are known from the start.
    """
    limit = longest_step * (1 + steps_that_fit) + longest_save
    clock = _Clock()
    started, saved = clock.seconds, True
    request = StopRequest(None, limit, now=clock)
    request.seen(step_seconds=longest_step, save_seconds=longest_save)
    for step, save in parts:
        if request.stop is not None:
            assert request.stop == "time limit"
            assert clock.seconds - started + longest_step + longest_save > limit  # not sooner than needed
            break
        clock.seconds += step * longest_step + (save or 0.0) * longest_save
        saved = save is not None
    clock.seconds += 0.0 if saved else longest_save
    assert clock.seconds - started <= limit + 1e-6  # rounding of sums


def test_the_allowance_is_the_longest_step_and_the_longest_save_seen(clock: _Clock) -> None:
    request = StopRequest(None, 100.0, now=clock)
    for step_seconds, save_seconds in ((1.0, 20.0), (9.0, 3.0), (2.0, 4.0)):
        request.seen(step_seconds=step_seconds)
        request.seen(save_seconds=save_seconds)
    clock.seconds += 71.0
    assert request.stop is None
    clock.seconds += 0.1
    assert request.stop == "time limit"


def test_no_time_limit_is_none(clock: _Clock) -> None:
    request = StopRequest(None, now=clock)
    request.seen(step_seconds=1e9, save_seconds=1e9)
    clock.seconds += 1e9
    assert request.stop is None


def test_a_signal_is_named_before_a_file(tmp_path: Path, clock: _Clock) -> None:
    (tmp_path / "stop").touch()
    with StopRequest(tmp_path, 1.0, now=clock) as request:
        assert request.stop == "file stop"
        os.kill(os.getpid(), signal.SIGUSR2)
        assert request.stop == "signal SIGUSR2"
        request.honoured()
        assert request.stop == "signal SIGUSR2"  # nothing a file's deletion could take back
