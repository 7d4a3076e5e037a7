"""The watchdog in real processes that really hang. Run as a script, this file is one of those processes."""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from mlc.engine.watchdog import STDERR, Watchdog

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_SECONDS = 0.5
BEATEN_TIMEOUT_SECONDS = 1.0
"""Where beats come, so that a busy machine does not keep them away for so long."""
REPORT_SECONDS = 1.0
BACKSTOP_SECONDS = 2.0
DEADLINE_SECONDS = 60
"""For everything, the start of Python and torch on a busy machine included; without a watchdog none of them ends."""
RANK = 3
REPORT = f"stalled-rank-{RANK:05}.txt"
DOING = "step 17: forward"


# --- what the processes do


def hang_in_python(folder: Path) -> None:
    with _watchdog(folder, on_stall=partial(_write_exit, folder)) as watchdog:
        watchdog.beat(DOING)
        _wait_for_nobody()


def hang_in_another_thread_too(folder: Path) -> None:
    threading.Thread(target=_wait_for_nobody, name="builder of batches", daemon=True).start()
    hang_in_python(folder)


def hang_before_the_first_beat(folder: Path) -> None:
    with _watchdog(folder):
        _wait_for_nobody()


def hang_with_the_lock(folder: Path) -> None:
    with _watchdog(folder) as watchdog:
        watchdog.beat(DOING)
        _keep_the_lock()


def hang_with_the_lock_after_many_beats(folder: Path) -> None:
    """The timer of the first beats must be gone, and one of later beats must be set."""
    with _watchdog(folder, timeout_seconds=BEATEN_TIMEOUT_SECONDS) as watchdog:
        for _ in _passing(BEATEN_TIMEOUT_SECONDS + BACKSTOP_SECONDS + 0.5):
            watchdog.beat(DOING)
        print("has beaten", flush=True)
        _keep_the_lock()


def hang_in_what_is_called_on_a_stall(folder: Path) -> None:
    with _watchdog(folder, on_stall=lambda reason: _wait_for_nobody()):
        _wait_for_nobody()


def keep_the_lock_in_what_is_called_on_a_stall(folder: Path) -> None:
    with _watchdog(folder, on_stall=lambda reason: _keep_the_lock(), backstop_seconds=1000.0):
        _wait_for_nobody()


def fail_in_what_is_called_on_a_stall(folder: Path) -> None:
    with _watchdog(folder, on_stall=lambda reason: 1 / 0):  # type: ignore[arg-type, return-value]
        _wait_for_nobody()


def hang_while_nobody_reads_stderr(folder: Path) -> None:
    os.set_blocking(STDERR, False)
    try:
        while True:
            os.write(STDERR, b"." * 4096)
    except BlockingIOError:
        os.set_blocking(STDERR, True)
    hang_in_python(folder)


def beat_for_ever(folder: Path) -> None:
    with _watchdog(folder, timeout_seconds=BEATEN_TIMEOUT_SECONDS, on_stall=partial(_write_exit, folder)) as watchdog:
        for _ in _passing(BEATEN_TIMEOUT_SECONDS + BACKSTOP_SECONDS + 0.5):
            watchdog.beat(DOING)
    print("done", flush=True)


def go_on_behind_the_context(folder: Path) -> None:
    with _watchdog(folder, timeout_seconds=0.5, backstop_seconds=0.1):
        pass
    for _ in _passing(1.0):
        pass
    print("done", flush=True)


def leave_and_end(folder: Path) -> None:
    with _watchdog(folder, on_stall=partial(_write_exit, folder)) as watchdog:
        watchdog.leave(DEADLINE_SECONDS)
    sys.exit(75)


def leave_and_hang(folder: Path) -> None:
    with _watchdog(folder, timeout_seconds=1000.0, on_stall=partial(_write_exit, folder)) as watchdog:
        watchdog.leave(TIMEOUT_SECONDS)
        _wait_for_nobody()


def leave_and_beat_on(folder: Path) -> None:
    with _watchdog(folder, timeout_seconds=1000.0) as watchdog:
        watchdog.leave(TIMEOUT_SECONDS)
        while True:
            watchdog.beat(DOING)


def leave_and_hang_at_exit(folder: Path) -> None:
    atexit.register(_wait_for_nobody)
    with _watchdog(folder, timeout_seconds=1000.0) as watchdog:
        watchdog.leave(TIMEOUT_SECONDS)


def leave_and_hang_behind_the_interpreter(folder: Path) -> None:
    """As a destructor of a C++ library does: no thread of Python, nor faulthandler, is there any more."""
    libc = ctypes.CDLL(None)
    libc.__cxa_atexit(libc.pause, None, None)
    with _watchdog(folder, timeout_seconds=1000.0) as watchdog:
        watchdog.leave(TIMEOUT_SECONDS)
    print("done", flush=True)


def meet_at_a_barrier(folder: Path, rank: str, peer_gets: str) -> None:
    from datetime import timedelta

    import torch.distributed as dist

    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=int(rank),
        world_size=2,
        timeout=timedelta(seconds=10 * DEADLINE_SECONDS),
    )
    with _watchdog(folder, timeout_seconds=BEATEN_TIMEOUT_SECONDS) as watchdog:
        dist.barrier()
        watchdog.beat("the barrier")
        if rank == "1":
            os.kill(os.getpid(), getattr(signal, peer_gets))
        dist.barrier()
    print("met", flush=True)


def _watchdog(
    folder: Path,
    *,
    timeout_seconds: float = TIMEOUT_SECONDS,
    backstop_seconds: float = BACKSTOP_SECONDS,
    on_stall: Callable[[str], None] = lambda reason: None,
) -> Watchdog:
    return Watchdog(
        timeout_seconds,
        folder,
        RANK,
        on_stall=on_stall,
        report_seconds=REPORT_SECONDS,
        backstop_seconds=backstop_seconds,
    )


def _write_exit(folder: Path, reason: str) -> None:
    (folder / "exit.json").write_text(json.dumps({"reason": reason}))


def _wait_for_nobody() -> None:
    threading.Event().wait()


def _keep_the_lock() -> None:
    ctypes.PyDLL(None).sleep(1000)  # PyDLL does not give the GIL away, as CDLL does


def _passing(seconds: float) -> Iterator[None]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield


# --- the tests


@contextmanager
def _started(case: Callable[..., None], folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, __file__, case.__name__, str(folder), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _run(case: Callable[..., None], folder: Path) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    with _started(case, folder) as process:
        out, error = process.communicate(timeout=DEADLINE_SECONDS)
        return process.returncode, out, error


def test_a_rank_that_hangs_tells_where_and_ends(tmp_path: Path) -> None:
    (tmp_path / REPORT).write_text("of an earlier start\n")
    code, _, error = _run(hang_in_another_thread_too, tmp_path)
    assert code == 1
    report = (tmp_path / REPORT).read_text()
    assert report.startswith("of an earlier start\n")
    report = report.removeprefix("of an earlier start\n")
    assert error == report
    assert f"rank {RANK} on {os.uname().nodename} " in report
    assert f"it was at: {DOING}\n" in report
    main = report.partition("(MainThread, native id ")[2]
    assert main.index("in hang_in_python\n") < main.index("in _wait_for_nobody\n")  # the innermost call last
    other = report.partition("(builder of batches, native id ")[2].partition("\nThread ")[0]
    assert "in _wait_for_nobody\n" in other
    assert "in hang_in_python" not in other
    reason = json.loads((tmp_path / "exit.json").read_text())["reason"]
    assert f" {reason}\n" in report


def test_the_time_before_the_first_beat_counts(tmp_path: Path) -> None:
    code, _, error = _run(hang_before_the_first_beat, tmp_path)
    assert code == 1
    assert "it was at: starting\n" in error


@pytest.mark.parametrize("case", [hang_with_the_lock, hang_with_the_lock_after_many_beats])
def test_c_code_that_keeps_the_interpreter_lock(case: Callable[[Path], None], tmp_path: Path) -> None:
    code, out, error = _run(case, tmp_path)
    assert code == 1
    assert f"in {case.__name__}" in error
    assert not (tmp_path / REPORT).exists()  # so it was not the thread
    assert ("has beaten" in out) == (case is hang_with_the_lock_after_many_beats)


@pytest.mark.parametrize("case", [hang_in_what_is_called_on_a_stall, fail_in_what_is_called_on_a_stall])
def test_what_is_called_on_a_stall_cannot_stop_the_end(case: Callable[[Path], None], tmp_path: Path) -> None:
    code, _, error = _run(case, tmp_path)
    assert code == 1
    assert "in _wait_for_nobody" in error
    assert "in _wait_for_nobody" in (tmp_path / REPORT).read_text()


def test_the_kernel_ends_a_report_that_keeps_the_interpreter_lock(tmp_path: Path) -> None:
    code, _, _ = _run(keep_the_lock_in_what_is_called_on_a_stall, tmp_path)
    assert code == -signal.SIGALRM


def test_a_file_system_that_hangs_does_not_keep_the_report_from_stderr(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / REPORT)  # to open it waits for a reader that never comes
    code, _, error = _run(hang_in_python, tmp_path)
    assert code == 1
    assert "in hang_in_python" in error
    assert (tmp_path / "exit.json").exists()


def test_a_stderr_that_hangs_does_not_keep_the_report_from_the_file(tmp_path: Path) -> None:
    with _started(hang_while_nobody_reads_stderr, tmp_path) as process:
        assert process.wait(timeout=DEADLINE_SECONDS) == 1
    assert "in hang_while_nobody_reads_stderr" in (tmp_path / REPORT).read_text()
    assert (tmp_path / "exit.json").exists()


def test_a_log_folder_that_was_taken_away_does_not_come_back(tmp_path: Path) -> None:
    code, _, error = _run(hang_before_the_first_beat, tmp_path / "revoked")
    assert code == 1
    assert "it was at: starting\n" in error
    assert not (tmp_path / "revoked").exists()


def test_a_rank_that_beats_is_let_alone(tmp_path: Path) -> None:
    assert _run(beat_for_ever, tmp_path) == (0, "done\n", "")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_watched_behind_the_context(tmp_path: Path) -> None:
    assert _run(go_on_behind_the_context, tmp_path) == (0, "done\n", "")


def test_a_process_that_leaves_keeps_its_exit_code(tmp_path: Path) -> None:
    assert _run(leave_and_end, tmp_path) == (75, "", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("case", [leave_and_hang, leave_and_hang_at_exit, leave_and_beat_on])
def test_a_process_that_does_not_get_away_ends(case: Callable[[Path], None], tmp_path: Path) -> None:
    code, _, error = _run(case, tmp_path)
    assert code == 1
    report = (tmp_path / REPORT).read_text()
    assert error == report
    assert "it was at: leaving\n" in report
    assert f"in {case.__name__ if case is leave_and_beat_on else '_wait_for_nobody'}\n" in report
    assert not (tmp_path / "exit.json").exists()  # how the run ended is not written over


def test_a_process_that_hangs_when_the_interpreter_is_gone_ends(tmp_path: Path) -> None:
    code, out, _ = _run(leave_and_hang_behind_the_interpreter, tmp_path)
    assert (code, out) == (-signal.SIGALRM, "done\n")


def test_every_rank_ends_when_a_peer_hangs(tmp_path: Path) -> None:
    with (
        _started(meet_at_a_barrier, tmp_path, "0", "SIGSTOP") as waiting,
        _started(meet_at_a_barrier, tmp_path, "1", "SIGSTOP") as hanging,
    ):
        out, error = waiting.communicate(timeout=DEADLINE_SECONDS)
        assert (waiting.returncode, out) == (1, "")
        assert "it was at: the barrier\n" in error
        assert "in meet_at_a_barrier\n" in (tmp_path / REPORT).read_text()
        assert hanging.poll() is None
        hanging.send_signal(signal.SIGCONT)
        assert hanging.wait(timeout=DEADLINE_SECONDS) == 1


def test_every_rank_ends_when_a_peer_is_killed(tmp_path: Path) -> None:
    with (
        _started(meet_at_a_barrier, tmp_path, "0", "SIGKILL") as waiting,
        _started(meet_at_a_barrier, tmp_path, "1", "SIGKILL") as killed,
    ):
        assert killed.wait(timeout=DEADLINE_SECONDS) == -signal.SIGKILL
        out, _ = waiting.communicate(timeout=DEADLINE_SECONDS)
        assert (waiting.returncode, out) == (1, "")


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
