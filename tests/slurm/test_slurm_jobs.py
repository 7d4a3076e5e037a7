"""`mlc jobs` and `mlc logs` beside real SLURM daemons: the format of squeue, and jobs that wait, run, end and go."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from recipes_for_tests import ROOT
from run_folders_for_tests import write_submission
from slurm_cluster import SlurmCluster

pytestmark = pytest.mark.slurm
LIMIT_SECONDS = 40.0


def _submit(cluster: SlurmCluster, run: Path, script: str, *options: str) -> str:
    """A job with a submission's description; its number."""
    run.mkdir()
    command = ["sbatch", "--parsable", f"--comment=mlc:{run}", f"--output={run}/log", *options, f"--wrap={script}"]
    job = cluster.run(*command).stdout.strip()
    write_submission(run, 1, time=time.time(), job_ids=(job,))
    return job


def _rows(cluster: SlurmCluster, folder: Path, output: Path) -> dict[str, dict[str, Any]]:
    """Rows of the table by the names of their folders."""
    done = cluster.run(sys.executable, "-m", "mlc", "jobs", str(folder), "--json", str(output), cwd=ROOT)
    assert done.stderr == ""
    return {Path(row["run"]).name: row for row in json.loads(output.read_text())["rows"]}


def test_jobs_that_wait_run_and_end(cluster: SlurmCluster, tmp_path: Path) -> None:
    runs, output = tmp_path / "runs", tmp_path / "jobs.json"
    runs.mkdir()
    odd = 'it\'s "a|b" $(touch x)\nrun'
    jobs = {
        odd: _submit(cluster, runs / odd, "sleep 60", "--nodes=2"),
        "later": _submit(cluster, runs / "later", "true", "--begin=now+1hour", "--nodes=1-3"),
        "chain": _submit(cluster, runs / "chain", "sleep 60", "--array=3-5%1"),
        "failed": _submit(cluster, runs / "failed", "exit 3"),
        "cancelled": _submit(cluster, runs / "cancelled", "sleep 60", "--hold"),
    }
    elsewhere = _submit(cluster, tmp_path / "elsewhere", "sleep 60")
    cluster.run("scancel", jobs["cancelled"])

    def settled() -> dict[str, dict[str, Any]] | None:
        rows = _rows(cluster, runs, output)
        states = [rows[name]["state"] for name in (odd, "chain", "elsewhere", "failed")]
        return rows if states == ["running", "running", "running", "failed"] else None

    rows = cluster.wait_for(settled, LIMIT_SECONDS, "all jobs to be where they belong")
    assert set(rows) == {*jobs, "elsewhere"}
    assert rows["later"]["state"] == "pending (BeginTime)"
    assert rows["cancelled"]["state"] == "cancelled"
    assert (rows[odd]["job"], rows[odd]["nodes"], rows[odd]["run"]) == (jobs[odd], "2", str(runs / odd))
    assert rows[odd]["hosts"].startswith("n[")
    assert rows["chain"]["job"] == f"{jobs['chain']}_3"
    assert rows["elsewhere"]["job"] == elsewhere


def test_following_ends_when_the_job_is_gone(cluster: SlurmCluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    script = f"mkdir {run}/logs; srun --label sh -c 'echo hello; sleep 2; echo bye' >{run}/logs/$SLURM_JOB_ID.0.log"
    job = _submit(cluster, run, script, "--nodes=2", "--ntasks=4", "--overcommit")
    command = [sys.executable, "-m", "mlc", "logs", str(run), "--follow"]
    done = subprocess.run(
        command, cwd=ROOT, env=cluster.environ, capture_output=True, text=True, check=False, timeout=2 * LIMIT_SECONDS
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"== job {job}, start 1 (restart 0)"
    words = [line.partition(" | ")[2] for line in done.stdout.splitlines()[1:]]
    assert words[0] == "hello"
    assert words[-1] == "bye"
    assert f"job {job} is gone (COMPLETED)" in done.stderr


def test_a_controller_that_is_down_leaves_the_table(cluster: SlurmCluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    _submit(cluster, run, "sleep 60")
    cluster.cut("ctl")
    try:
        done = cluster.run(sys.executable, "-m", "mlc", "jobs", str(run), cwd=ROOT, timeout_seconds=LIMIT_SECONDS)
    finally:
        cluster.heal("ctl")
    assert str(run) in done.stdout
    assert "submitted" in done.stdout
    assert "states are those of the run folders: SLURM " in done.stderr
