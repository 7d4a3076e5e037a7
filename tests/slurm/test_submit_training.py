"""`mlc submit` on a real cluster: 8 ranks on 4 hosts, undisturbed and disturbed, end with the same metrics."""

from __future__ import annotations

from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster
from slurm_runs import EVERY_STEPS, TOTAL_STEPS, SlurmRuns

from mlc.engine.compare import compare_runs

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def runs(cluster: SlurmCluster, folder: Path) -> SlurmRuns:
    return SlurmRuns(cluster, folder)


@pytest.fixture
def undisturbed(runs: SlurmRuns) -> Path:
    """Started by torchrun on one machine; made once."""
    done = runs.folder / "undisturbed"
    return done if (done / "exit.json").exists() else runs.torchrun("undisturbed", 8)


def test_a_submitted_run_has_the_metrics_of_torchrun(runs: SlurmRuns, undisturbed: Path) -> None:
    run = runs.submit("submitted")
    run.wait_for_end()
    assert compare_runs(run.folder, undisturbed).difference is None
    (start,), (end,) = run.events("start"), run.events("end")
    assert (start["nodes"], start["ranks"], start["step"]) == (4, 8, 0)
    assert (end["code"], end["next"], end["step"]) == (0, "done", TOTAL_STEPS)


def test_warned_requeued_and_preempted_it_ends_as_undisturbed(runs: SlurmRuns, undisturbed: Path) -> None:
    """One run meets one after the other; each but the requeue saves first."""
    cluster = runs.cluster
    run = runs.submit("disturbed", "--partition", "low")
    run.wait_for_step(5)
    cluster.run("scancel", "--batch", "--signal=USR2", run.job)  # as before a time limit
    run.wait_for_step(15, after_start=1)
    first = run.events("end")[0]
    assert (first["code"], first["next"]) == (75, "requeue")
    assert first["step"] >= 5
    cluster.run("scontrol", "requeue", run.job)
    run.wait_for_step(25, after_start=2)
    cluster.run("sbatch", "--partition=high", "--nodes=4", "--exclusive", "--wrap=sleep 1", "--output=/dev/null")
    run.wait(lambda: len(run.events("start")) == 4, "the start after the preemption")
    ends = run.events("end")
    assert ends[-1]["code"] == 75
    assert run.events("start")[3]["step"] >= 25  # saved within the time of grace
    run.wait_for_end()
    assert compare_runs(run.folder, undisturbed).difference is None


def test_without_a_node_that_lost_power_it_goes_on(runs: SlurmRuns) -> None:
    run = runs.submit("elastic", "--nodes", "2-4")
    run.wait_for_step(EVERY_STEPS + 4)
    saved, step = run.saved_step(), run.step()
    runs.cluster.power_off("n2")
    run.wait_for_end()
    first, second = run.events("start")
    assert (first["ranks"], second["ranks"], second["hosts"]) == (8, 6, "n[1,3-4]")
    assert second["step"] >= saved
    assert step - second["step"] <= EVERY_STEPS
    assert [line["step"] for line in run.metrics()] == list(range(1, TOTAL_STEPS + 1))


def test_a_node_that_fails_the_check_is_left_out_and_the_run_finishes(runs: SlurmRuns) -> None:
    runs.cluster.hide_folder("n3", runs.folder)
    site = runs.site(check={"enabled": True, "seconds": 40})
    run = runs.submit("checked", "--nodes", "2-4", site=site, schedule={"total_steps": EVERY_STEPS})
    run.wait_for_end()
    (bad,) = run.events("bad node")
    assert bad["hosts"] == "n3"
    first, second = run.events("start")
    assert (first["hosts"], second["hosts"], second["ranks"]) == ("n[1-4]", "n[1-2,4]", 6)
    assert "n3" in run.cluster.job(run.job).fields["ExcNodeList"]


def test_what_every_node_lacks_ends_the_job_and_excludes_nobody(runs: SlurmRuns) -> None:
    site = runs.site(check={"enabled": True, "seconds": 40, "min_free_gb": 1e9})
    run = runs.submit("without_room", site=site)
    runs.cluster.wait_for(lambda: run.state() == "FAILED", 120, "the job to fail")
    assert "no node passes the check" in run.batch_log()
    assert run.cluster.job(run.job).fields["ExcNodeList"] == "(null)"
    assert run.cluster.job(run.job).restarts == 0
