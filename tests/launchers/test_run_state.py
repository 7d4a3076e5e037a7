"""What a run folder says of its run: progress, state, and why it last ended."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_folders_for_tests import (
    metrics_line,
    write_checkpoint_folder,
    write_event,
    write_exit,
    write_metrics,
    write_owner,
    write_submission,
)

from launchers.run_files import find_runs, last_objects
from launchers.run_state import read_run

NOW = 1_800_000_000.0
HOUR = 3600.0
DEAD = 0
"""No process has this number."""

OBJECTS = st.lists(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=200), max_size=3), max_size=30)


@given(objects=OBJECTS, count=st.integers(1, 4), torn=st.sampled_from([b"", b'{"step"', b'{"step": 1}', b"\x00" * 99]))
def test_the_last_objects_of_a_file(objects: list[dict[str, object]], count: int, torn: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.jsonl"
        path.write_bytes(b"".join(json.dumps(one).encode() + b"\n" for one in objects) + torn)
        assert last_objects(path, count) == objects[-count:]


def test_the_last_objects_of_a_huge_file_with_long_lines_are_found_from_its_end(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "text": "x" * 300_000}) + "\n" for step in (1, 2, 3)]
    with path.open("wb") as file:
        file.seek(20 << 30)  # 20 GiB of nothing
        file.write(b"\n" + "".join(lines).encode())
    begun = time.process_time()
    assert [line["step"] for line in last_objects(path, 2)] == [2, 3]
    assert time.process_time() - begun < 1.0  # of work, whatever runs beside; reading all of it takes far more


def test_last_objects_where_there_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert last_objects(tmp_path / "empty", 2) == last_objects(tmp_path / "missing", 2) == []


def test_run_folders_are_found_at_any_depth_but_not_in_checkpoints(tmp_path: Path) -> None:
    for name in ("one", "group/two", "group/deep/three"):
        write_owner(tmp_path / name, time=NOW)
    write_submission(tmp_path / "pending", 1, time=NOW)
    write_owner(tmp_path / "one" / "checkpoints" / "step-1", time=NOW)
    write_owner(tmp_path / "one" / "slurm" / "submit-00001" / "code", time=NOW)
    (tmp_path / "corpus").mkdir()
    elsewhere = tmp_path.parent / f"{tmp_path.name}-elsewhere"
    write_owner(elsewhere / "linked", time=NOW)
    (tmp_path / "link").symlink_to(elsewhere)
    (tmp_path / "loop").symlink_to(tmp_path)
    found = [str(run.relative_to(tmp_path)) for run in find_runs([tmp_path, tmp_path / "one"])]
    assert found == ["group/deep/three", "group/two", "link/linked", "one", "pending"]


def test_what_lies_beside_shards_is_found_with_them(tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    submission = write_submission(tmp_path / "other", 1, time=NOW, kind="prep")
    (tmp_path / "shards.slurm").mkdir()
    submission.rename(tmp_path / "shards.slurm" / "submit-00001")
    (run,) = find_runs([shards])
    assert read_run(run).job_ids == ("123",)
    assert read_run(run).subject == shards


def test_progress_checkpoint_and_schedule(tmp_path: Path) -> None:
    write_submission(tmp_path, 1, time=NOW - HOUR)
    write_metrics(tmp_path, [metrics_line(10, NOW - 30), metrics_line(20, NOW - 10)], torn='{"step": 30, "lo')
    write_checkpoint_folder(tmp_path, 9, time=NOW - 40)
    write_checkpoint_folder(tmp_path, 15, time=NOW - 20)
    write_checkpoint_folder(tmp_path, 20, time=NOW, complete=False)
    run = read_run(tmp_path)
    assert run.progress is not None
    assert (run.progress.step, run.progress.loss, run.progress.tokens_per_second) == (20, 7.8, 1020.0)
    assert run.progress.interval_seconds == 20
    assert (run.checkpoint, run.total_steps, run.step) == ((15, NOW - 20), 400, 20)


def test_numbers_that_json_does_not_have(tmp_path: Path) -> None:
    write_metrics(tmp_path, [{"step": 3, "loss": None, "tokens_per_second": 10**400, "time": NOW}])
    progress = read_run(tmp_path).progress
    assert progress is not None
    assert (progress.step, progress.loss, progress.tokens_per_second) == (3, None, None)


@pytest.mark.parametrize(("code", "state"), [(0, "finished"), (75, "saved"), (1, "failed"), (2, "failed")], ids=str)
def test_exit_json_decides(tmp_path: Path, code: int, state: str) -> None:
    write_owner(tmp_path, time=NOW - HOUR)
    write_metrics(tmp_path, [metrics_line(1, NOW)])
    write_exit(tmp_path, code, "the reason\n  next: a command", 1, time=NOW)
    run = read_run(tmp_path)
    assert run.state(NOW) == state
    assert run.last_end() == "the reason"


def test_exit_json_of_an_earlier_start_says_nothing(tmp_path: Path) -> None:
    write_exit(tmp_path, 0, "finished", 400, time=NOW - HOUR)
    submission = write_submission(tmp_path, 1, time=NOW - 60)
    assert read_run(tmp_path).exit is None
    assert read_run(tmp_path).state(NOW) == "submitted"
    write_exit(tmp_path, 75, "saved", 10, time=NOW - 40)
    assert read_run(tmp_path).state(NOW) == "saved"
    write_event(submission, "start", time=NOW - 20, restart=1, hosts="n1")
    assert read_run(tmp_path).state(NOW).startswith("running since ")


def test_a_living_process_on_this_host_runs_and_a_dead_one_does_not(tmp_path: Path) -> None:
    write_metrics(tmp_path, [metrics_line(1, NOW)])
    write_owner(tmp_path, time=NOW - 30 * HOUR, host=socket.gethostname(), pid=os.getpid())
    assert read_run(tmp_path).state(NOW + 20 * HOUR).startswith("running since ")
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    write_owner(tmp_path, time=NOW - HOUR, host=socket.gethostname(), pid=child.pid)
    assert read_run(tmp_path).state(NOW) == "ended without a word"


@pytest.mark.parametrize(
    ("quiet_seconds", "interval_seconds", "alive"),
    [(60, 10, True), (700, 10, False), (700, 300, True), (1000, 300, False)],
)
def test_elsewhere_fresh_metrics_mean_running(
    tmp_path: Path, quiet_seconds: float, interval_seconds: float, alive: bool
) -> None:
    write_owner(tmp_path, time=NOW - 9 * HOUR, host="another-host")
    last = NOW - quiet_seconds
    write_metrics(tmp_path, [metrics_line(1, last - interval_seconds), metrics_line(2, last)])
    state = read_run(tmp_path).state(NOW)
    assert state.startswith("running since ") == alive
    assert alive or state == "ended without a word"
    assert read_run(tmp_path).state(NOW, job_is_gone=True) == "ended without a word"


def test_starts_ends_and_restarts(tmp_path: Path) -> None:
    submission = write_submission(tmp_path, 1, time=NOW - HOUR)
    write_event(submission, "start", time=NOW - 3000, nodes=4, hosts="n[1-4]")
    assert read_run(tmp_path).last_end() == ""
    write_event(submission, "end", time=NOW - 2000, code=75, reason="saved on request", next="requeue")
    run = read_run(tmp_path)
    assert (run.last_end(), run.state(NOW), run.restarts) == ("saved on request", "saved", 0)
    write_event(submission, "start", time=NOW - 1900, restart=1, nodes=4, hosts="n[1-4]")
    write_event(submission, "start", time=NOW - 100, restart=2, nodes=3, hosts="n[1-3]")
    run = read_run(tmp_path)
    assert run.restarts == 2
    assert run.last_end() == "start 2 on n[1-4] ended without a word"
    assert run.last_end(ended=True) == "start 3 on n[1-3] ended without a word"
    write_event(submission, "bad node", time=NOW - 90, restart=2, hosts="n3", reason="no GPU")
    assert read_run(tmp_path).last_end() == "bad node n3: no GPU"
    write_submission(tmp_path, 2, time=NOW, job_ids=("124",))
    run = read_run(tmp_path)
    assert (run.restarts, run.job_ids, run.state(NOW)) == (0, ("124",), "submitted")


def test_a_start_by_hand_after_a_submission_has_ended(tmp_path: Path) -> None:
    submission = write_submission(tmp_path, 1, time=NOW - HOUR)
    write_event(submission, "start", time=NOW - 3000)
    write_event(submission, "end", time=NOW - 2000, code=75, reason="saved on request", next="stop")
    write_owner(tmp_path, time=NOW - 60, host="another-host")
    assert read_run(tmp_path).state(NOW).startswith("running since ")


def test_a_failure_is_told_in_the_words_of_training(tmp_path: Path) -> None:
    submission = write_submission(tmp_path, 1, time=NOW - HOUR)
    write_event(submission, "start", time=NOW - 3000)
    write_exit(tmp_path, 1, "stopped because it diverges: loss", 7, time=NOW - 2010)
    write_event(submission, "end", time=NOW - 2000, code=1, reason="failed with code 1", next="stop")
    assert read_run(tmp_path).last_end() == "stopped because it diverges: loss"


def test_tasks_side_by_side_are_finished_when_all_are(tmp_path: Path) -> None:
    submission = write_submission(tmp_path, 1, time=NOW - HOUR, kind="prep")
    for task in ("123_0", "123_1"):
        write_event(submission, "start", time=NOW - 60, job=task)
    write_event(submission, "end", time=NOW - 30, job="123_1", code=0, reason="finished", next="done")
    assert read_run(tmp_path).state(NOW).startswith("running since ")
    write_event(submission, "end", time=NOW - 20, job="123_0", code=1, reason="failed", next="stop")
    assert read_run(tmp_path).state(NOW) == "failed"


def test_a_run_without_submission_counts_its_starts(tmp_path: Path) -> None:
    write_owner(tmp_path, time=NOW, generation=4, job="77")
    run = read_run(tmp_path)
    assert (run.restarts, run.job_ids) == (3, ("77",))


JUNK = st.sampled_from(
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"code": "x"}', b'{"job_ids": 3, "submitted": []}', b"{}\n"]
)


@settings(max_examples=60)
@given(contents=st.lists(JUNK | st.binary(max_size=30), min_size=7, max_size=7))
def test_nothing_in_a_run_folder_breaks_the_reading(contents: list[bytes]) -> None:
    names = ["owner.json", "exit.json", "metrics.jsonl", "recipe.toml"]
    names += [f"slurm/submit-00001/{name}" for name in ("submit.json", "events.jsonl", "recipe.toml")]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        (run / "slurm" / "submit-00001").mkdir(parents=True)
        for name, content in zip(names, contents, strict=True):
            (run / name).write_bytes(content)
        state = read_run(run)
        assert isinstance(state.state(NOW), str)
        assert isinstance(state.last_end(), str)
