"""`mlc jobs`: the table over many runs, what SLURM adds to it, and what it says without SLURM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recipes_for_tests import ROOT
from run_folders_for_tests import (
    LISTEN_TO_CONTROL_C,
    metrics_line,
    write_checkpoint_folder,
    write_event,
    write_exit,
    write_metrics,
    write_owner,
    write_submission,
)

from launchers.jobs import Row, SlurmView, rows_of
from launchers.run_state import read_run
from launchers.slurm import ENDED_STATES, Job, SlurmError, call, my_jobs, parse_squeue
from mlc import cli

NO_SLURM = SlurmView((), False, "none")


@pytest.fixture
def no_client(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without SLURM's clients."""
    monkeypatch.setenv("PATH", str(tmp_path_factory.mktemp("bin")))


def _mlc(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[str, str]:
    monkeypatch.setattr(sys, "argv", ["mlc", "jobs", *map(str, arguments)])
    with pytest.raises(SystemExit) as ending:
        cli.main()
    output = capsys.readouterr()
    assert not ending.value.code, output.err
    return output.out, output.err


def _run(folder: Path, now: float, job: str = "123") -> Path:
    submission = write_submission(folder, 1, time=now - 9000, job_ids=(job,))
    write_event(submission, "start", time=now - 8000, job=job, nodes=4, hosts="n[1-4]")
    write_metrics(folder, [metrics_line(10, now - 30), metrics_line(1200, now - 10)])
    write_checkpoint_folder(folder, 1000, time=now - 190)
    return folder


@pytest.mark.usefixtures("no_client")
def test_the_table_without_slurm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = time.time()
    _run(tmp_path / "a [red]name", now)
    write_exit(tmp_path / "b", 1, "no room on the disk\n  next: make some", 7, time=now)
    out, err = _mlc(monkeypatch, capsys, tmp_path, "--wide", "--json", tmp_path / "jobs.json")
    header, first, second = out.splitlines()
    assert header.split()[:5] == ["run", "state", "job", "nodes", "hosts"]
    for part in (
        "a [red]name",
        "running since",
        "123",
        "4",
        "n[1-4]",
        "1,200/400",
        "-4.0000",
        "2,200",
        "1,000, 3 min ago",
    ):
        assert part in first
    assert second.split()[1] == "failed"
    assert second.rstrip().endswith("no room on the disk")
    assert "states are those of the run folders: no SLURM client here: no squeue in PATH" in err
    written = json.loads((tmp_path / "jobs.json").read_text())
    assert written["slurm"] is False
    assert [(row["run"], row["step"]) for row in written["rows"]] == [
        (str(tmp_path / "a [red]name"), 1200),
        (str(tmp_path / "b"), 7),
    ]


@pytest.mark.usefixtures("no_client")
def test_old_finished_runs_are_hidden_but_not_old_failed_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    long_ago = time.time() - 8 * 24 * 3600
    write_exit(tmp_path / "old", 0, "finished", 7, time=long_ago)
    write_exit(tmp_path / "failed", 1, "failed", 7, time=long_ago)
    write_exit(tmp_path / "new", 0, "finished", 7, time=time.time())
    out, err = _mlc(monkeypatch, capsys, tmp_path)
    assert [line.split()[0].rpartition("/")[2] for line in out.splitlines()[1:]] == ["failed", "new"]
    assert "1 runs that finished more than a week ago are not shown: --all" in err
    out, err = _mlc(monkeypatch, capsys, tmp_path, "--all")
    assert len(out.splitlines()) == 4
    assert "--all" not in err


@pytest.mark.usefixtures("no_client")
def test_nothing_to_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert _mlc(monkeypatch, capsys)[0] == "no runs and no jobs\n"


def test_a_folder_that_is_not_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["mlc", "jobs", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit) as ending:
        cli.main()
    assert ending.value.code == 2
    assert "no such folder" in capsys.readouterr().err


def _rows(folder: Path, *jobs: Job, asked: bool = True) -> list[Row]:
    return rows_of([read_run(folder)], SlurmView(jobs, asked), time.time())


def test_slurm_decides_about_a_job_that_waits_or_runs(tmp_path: Path) -> None:
    run = _run(tmp_path / "run", time.time())
    (row,) = _rows(run, Job("123", "123", "123", "RUNNING", nodes="3", hosts="n[2-4]"))
    assert (row.state, row.job, row.nodes, row.hosts) == ("running", "123", "3", "n[2-4]")
    (row,) = _rows(run, Job("123", "123", "123", "PENDING", "BeginTime", nodes="2-4"))
    assert (row.state, row.nodes, row.hosts) == ("pending (BeginTime)", "2-4", "")
    (row,) = _rows(run, Job("123", "123", "123", "TIMEOUT", "TimeLimit", nodes="4", hosts="n[1-4]"))
    assert row.state == "timeout"
    (row,) = _rows(run)
    assert (row.state, row.nodes) == ("ended without a word", "4")
    assert row.last_end == "start 1 on n[1-4] ended without a word"
    (row,) = _rows(run, asked=False)
    assert row.state.startswith("running since ")


def test_the_run_folder_knows_better_how_a_job_ended(tmp_path: Path) -> None:
    now = time.time()
    run = _run(tmp_path / "run", now)
    write_exit(run, 75, "stopped on request", 1200, time=now)
    (row,) = _rows(run, Job("123", "123", "123", "COMPLETED", nodes="4"))
    assert row.state == "saved"
    (row,) = _rows(run, Job("123", "123", "123", "CANCELLED", nodes="4"))
    assert row.state == "cancelled"
    write_exit(run, 0, "finished", 1200, time=now)
    (row,) = _rows(run, Job("123", "123", "123", "CANCELLED", nodes="4"))
    assert row.state == "finished"


def test_tasks_of_arrays(tmp_path: Path) -> None:
    run = _run(tmp_path / "run", time.time())
    waiting = Job("123_[5-9%1]", "123", "123", "PENDING", "JobArrayTaskLimit", nodes="4")
    done = Job("123_3", "127", "123", "FAILED", nodes="4")
    (row,) = _rows(run, done, waiting, Job("123_4", "128", "123", "RUNNING", nodes="4", hosts="n[1-4]"))
    assert (row.state, row.job) == ("running", "123_4")
    (row,) = _rows(run, waiting, *(Job(f"123_{task}", f"13{task}", "123", "RUNNING") for task in range(3)))
    assert row.state == "3 running, more pending"


def test_a_job_by_its_comment(tmp_path: Path) -> None:
    run = _run(tmp_path / "run", time.time())
    running, ended = (Job("9", "9", "9", state, nodes="2", comment=f"mlc:{run}") for state in ("RUNNING", "COMPLETED"))
    (row,) = _rows(run, running)
    assert (row.state, row.job) == ("running", "9")
    (row,) = _rows(run, ended)
    assert row.job == "123"
    other = Job("10", "10", "10", "PENDING", "Resources", "2", comment="mlc:runs/other one")
    rows = _rows(run, other, Job("11", "11", "11", "RUNNING", comment="of somebody else"))
    assert [(row.run, row.state, row.job, row.nodes) for row in rows[1:]] == [
        ("runs/other one", "pending (Resources)", "10", "2")
    ]


def test_a_run_submitted_by_hand_is_known_by_the_job_of_its_owner(tmp_path: Path) -> None:
    write_owner(tmp_path, time=time.time() - 9000, job="55")
    (row,) = _rows(tmp_path, Job("50_2", "55", "50", "RUNNING", nodes="1"))
    assert (row.state, row.job) == ("running", "50_2")


NAMES = st.text(st.characters(exclude_characters="\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029", codec="utf-8"), max_size=20)
JOBS = st.builds(
    Job,
    job_id=st.from_regex(r"[1-9][0-9]{0,6}(_([0-9]{1,3}|\[[0-9]{1,2}-[0-9]{1,2}%[0-9]\]))?", fullmatch=True),
    raw_id=st.integers(1, 10**7).map(str),
    array_id=st.integers(1, 10**7).map(str),
    state=st.sampled_from(["PENDING", "RUNNING", "COMPLETING", *sorted(ENDED_STATES)]),
    reason=st.sampled_from(["", "Resources", "Nodes required for job are DOWN, DRAINED or reserved"]),
    nodes=st.sampled_from(["1", "2-4"]),
    hosts=st.sampled_from(["", "n[1-4]", "a1,b[02-17]"]),
    comment=NAMES.map(lambda name: f"mlc:/runs/{name}x"),
)


@given(st.lists(JOBS, max_size=5))
def test_any_comment_survives_squeue(jobs: list[Job]) -> None:
    """A folder's name may hold separators and ends of lines; only empty lines in it are lost."""
    numbers = [f"{job.job_id}|{job.raw_id}|{job.array_id}|{job.state}|{job.nodes}|{job.hosts}" for job in jobs]
    lines = [f"{first}|{job.reason or 'None'}|{job.comment}" for first, job in zip(numbers, jobs, strict=True)]
    parsed = parse_squeue("".join(f"{line}\n" for line in lines))
    assert [job.job_id for job in parsed] == [job.job_id for job in jobs]
    for found, job in zip(parsed, jobs, strict=True):
        assert found.comment.replace("\n", "") == job.comment.replace("\n", "")
        assert (found.state, found.reason, found.hosts) == (job.state, job.reason, job.hosts)


def test_a_controller_that_does_not_answer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = tmp_path / "squeue"
    client.write_text("#!/bin/sh\nexec /bin/sleep 100\n")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    begun = time.monotonic()
    with pytest.raises(SlurmError, match=r"SLURM does not answer; found nothing in 0.3 s"):
        my_jobs(timeout_seconds=0.3)
    assert time.monotonic() - begun < 5


def test_a_client_that_fails_is_told_in_its_words() -> None:
    with pytest.raises(SlurmError, match="Invalid job id"):
        call(["/bin/sh", "-c", "echo slurm_load_jobs error: Invalid job id specified >&2; exit 1"])


def test_filters_of_the_user_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQUEUE_PARTITION", "other")
    assert call(["/bin/sh", "-c", 'echo "${SQUEUE_PARTITION-unset}"']) == "unset\n"


@pytest.mark.usefixtures("no_client")
def test_fifty_runs_take_less_than_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = time.time()
    for number in range(50):
        run = _run(tmp_path / f"run-{number:02d}", now, job=str(number))
        write_metrics(run, [metrics_line(step, now) for step in range(5000)])
        for step in range(100, 1000, 50):
            write_checkpoint_folder(run, step, time=now)
    _mlc(monkeypatch, capsys, tmp_path)  # imports
    begun = time.process_time()
    assert len(_mlc(monkeypatch, capsys, tmp_path)[0].splitlines()) == 51
    assert time.process_time() - begun < 1.0


def test_neither_command_imports_torch(tmp_path: Path) -> None:
    program = (
        "import sys; from mlc.cli import build_app\n"
        f"for command in (['jobs', {str(tmp_path)!r}], ['logs', '--help']):\n"
        "    build_app()(command, standalone_mode=False)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.usefixtures("no_client")
def test_watch_goes_on_until_it_is_interrupted(tmp_path: Path) -> None:
    write_exit(tmp_path / "run", 0, "finished", 7, time=time.time())
    command = [*LISTEN_TO_CONTROL_C, sys.executable, "-m", "mlc", "jobs", str(tmp_path), "--watch", "0.1"]
    process: subprocess.Popen[str] = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    assert process.stdout is not None
    tables = 0
    while tables < 3:
        tables += process.stdout.readline().startswith("run ")
    process.send_signal(signal.SIGINT)
    rest: Any = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in rest[1]
