"""Jobs that follow one another: stages of a pipeline, and the jobs of a chain."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import tomli_w
from recipes_for_tests import recipe_table
from slurm_cluster import SlurmCluster
from small_shards import write_small_shards
from submissions_for_tests import command
from submitted_jobs import batch_log, events, shown, states, wait_for_states

from launchers.settings import Resources, Site
from launchers.submission import Submitted, submit

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]
PIPELINE_SECONDS = 120.0
OWN_TEMPLATE = """#!/bin/bash
#@directives
#@values
set -u -o pipefail
#@include common.sh
#@setup
position() { wc -l <"$log_folder/work"; }
begin
echo "begin $SLURM_ARRAY_TASK_ID" >>"$log_folder/order"
echo "$SLURM_ARRAY_TASK_ID" >>"$log_folder/work"
count_start 1
run_step srun --ntasks=1 sleep 0.5
echo "end $SLURM_ARRAY_TASK_ID" >>"$log_folder/order"
LAST_LINE
"""


@pytest.fixture
def user(cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlurmCluster:
    """This process is a user of the cluster, in a folder of its own."""
    monkeypatch.setenv("SLURM_CONF", cluster.environ["SLURM_CONF"])
    monkeypatch.chdir(tmp_path)
    return cluster


def mlc(user: SlurmCluster, folder: Path, *arguments: str) -> str:
    """What a command of mlc prints."""
    return user.run(sys.executable, "-m", "mlc", *arguments, cwd=folder).stdout


def submit_pipeline(user: SlurmCluster, folder: Path, *scripts: str) -> list[Submitted]:
    """Stages of one bash script each, each behind the one before."""
    stages = [
        {
            "name": f"stage-{number}",
            "kind": "command",
            "command": ["bash", "-c", script],
            "folder": f"stage-{number}",
            "after": [f"stage-{number - 1}"] if number else [],
            "resources": {"nodes": "1", "ranks_per_node": 1, "time": "10:00"},
        }
        for number, script in enumerate(scripts)
    ]
    (folder / "pipeline.toml").write_bytes(tomli_w.dumps({"stage": stages}).encode())
    printed = mlc(user, folder, "submit", "--pipeline", "pipeline.toml")
    jobs = re.findall(r"^job (\d+): command ", printed, re.MULTILINE)
    assert len(jobs) == len(scripts), printed
    return [Submitted(job, folder / f"stage-{number}" / "slurm" / "submit-00001") for number, job in enumerate(jobs)]


def test_stages_run_one_behind_the_other(user: SlurmCluster, tmp_path: Path) -> None:
    """Also behind one that comes back meanwhile."""
    comes_back = "echo first >>order; mkdir began && exit 75; exit 0"
    stages = submit_pipeline(user, tmp_path, comes_back, "echo second >>order", "echo third >>order")
    wait_for_states(user, stages[2].job, "COMPLETED", seconds=PIPELINE_SECONDS)
    assert (tmp_path / "order").read_text().split() == ["first", "first", "second", "third"]
    assert [event["next"] for event in events(stages[0], "end")] == ["requeue", "done"]
    assert [states(user, stage.job) for stage in stages] == [["COMPLETED"]] * 3


def test_behind_a_stage_that_fails_nothing_runs(user: SlurmCluster, tmp_path: Path) -> None:
    stages = submit_pipeline(user, tmp_path, "exit 3", "touch second", "touch third")
    for stage, state in zip(stages, ("FAILED", "CANCELLED", "CANCELLED"), strict=True):
        wait_for_states(user, stage.job, state, seconds=PIPELINE_SECONDS)
    assert " ExitCode=3:0 " in shown(user, stages[0].job)
    (end,) = events(stages[0], "end")
    assert (end["code"], end["next"]) == (3, "stop")
    assert not events(stages[1])
    assert {path.name for path in tmp_path.iterdir()} == {"pipeline.toml", *(f"stage-{n}" for n in range(3))}


def submit_chain(user: SlurmCluster, folder: Path, jobs: int, last_line: str) -> Submitted:
    """Jobs in a row that do not requeue themselves."""
    write_small_shards(folder / "shards")
    (folder / "run.toml").write_bytes(tomli_w.dumps(recipe_table()).encode())
    (folder / "own.sbatch").write_text(OWN_TEMPLATE.replace("LAST_LINE", last_line))
    options = ("--no-requeue", "--chain", str(jobs), "--template", "own.sbatch", "--nodes", "1", "--time", "10:00")
    printed = mlc(user, folder, "submit", "run.toml", *options)
    assert f"{jobs} jobs in a row" in printed
    return Submitted(printed.split()[1].rstrip(":"), folder / "run" / "slurm" / "submit-00001")


def test_a_chain_ends_with_the_job_that_finishes(user: SlurmCluster, tmp_path: Path) -> None:
    """The first names a bad node, the second saves, the third finishes, the fourth has nothing to do."""
    last_line = (
        '((SLURM_ARRAY_TASK_ID > 1)) || come_back 1 "bad nodes" n4\n'
        '((SLURM_ARRAY_TASK_ID > 2)) || come_back 75 "saved on request"\nfinish'
    )
    chain = submit_chain(user, tmp_path, 4, last_line)
    behind = submit(
        command(tmp_path / "behind", arguments=("true",), resources=Resources(), after=(chain.job,)), Site(), ["mlc"]
    )
    wait_for_states(user, chain.job, *["COMPLETED"] * 4)
    order = (tmp_path / "run" / "logs" / "order").read_text().splitlines()
    assert order == [f"{what} {number}" for number in (1, 2, 3) for what in ("begin", "end")]
    assert [event["next"] for event in events(chain, "end")] == ["chain", "chain", "done"]
    assert "an earlier job of this chain has finished" in batch_log(chain)
    excluded = re.findall(r" ArrayTaskId=(\d) .* ExcNodeList=(\S+) ", shown(user, chain.job))
    assert sorted(excluded) == [("1", "(null)"), ("2", "n4"), ("3", "n4"), ("4", "n4")]
    wait_for_states(user, behind.job, "COMPLETED")


def test_a_chain_that_fails_for_good_goes_no_further(user: SlurmCluster, tmp_path: Path) -> None:
    chain = submit_chain(user, tmp_path, 3, 'stop 2 "the run was refused"')
    wait_for_states(user, chain.job, *["FAILED"] * 3)
    assert (tmp_path / "run" / "logs" / "order").read_text().splitlines() == ["begin 1", "end 1"]
    assert "an earlier job of this chain has failed for good" in batch_log(chain)


def test_a_chain_that_is_not_finished_has_failed(user: SlurmCluster, tmp_path: Path) -> None:
    chain = submit_chain(user, tmp_path, 2, 'come_back 75 "saved on request"')
    wait_for_states(user, chain.job, "COMPLETED", "FAILED")
    assert [event["next"] for event in events(chain, "end")] == ["chain", "chain"]
