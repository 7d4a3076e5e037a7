"""Batch scripts on a real cluster: sbatch and shellcheck take every one, and the oddest names change nothing."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import SlurmCluster, start_in_free_place
from slurm_conf import ClusterLayout
from submissions_for_tests import ODD_NAME, ODD_WORDS, command, write_scripts
from submitted_jobs import JOB_SECONDS, batch_log, events, shown, wait_for_states

from launchers.settings import Resources, Site
from launchers.submission import submit
from mlc.errors import UsageError

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]
ONE = Resources(nodes="1", ranks_per_node=1, time="10:00")
NOTE_WORDS = """
import os, sys
from pathlib import Path
folder, *words = sys.argv[1:]
Path(folder, "words").write_text("\\0".join([os.environ["ODD"], os.getcwd(), *words]))
"""


@pytest.fixture
def user(cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlurmCluster:
    """This process is a user of the cluster, in a folder of its own."""
    monkeypatch.setenv("SLURM_CONF", cluster.environ["SLURM_CONF"])
    monkeypatch.chdir(tmp_path)
    return cluster


@contextmanager
def cluster_of_two(**values: Any) -> Iterator[SlurmCluster]:
    """Two nodes beside the cluster of all tests; `values` are `ClusterLayout`'s."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        running = start_in_free_place(ClusterLayout(Path(folder, "c"), nodes=2, **values))
        try:
            yield running
        finally:
            running.stop()


@pytest.fixture
def gpu_cluster() -> Iterator[SlurmCluster]:
    """Two nodes that claim 8 GPUs each."""
    with cluster_of_two(cpus_per_node=32, gpus_per_node=8) as running:
        yield running


@pytest.fixture
def patient_cluster() -> Iterator[SlurmCluster]:
    """Two nodes; it waits longer for a process to end than for a node's answer (5 s), as clusters do by default."""
    with cluster_of_two(kill_wait_seconds=8) as running:
        yield running


def test_shellcheck_finds_nothing(tmp_path: Path) -> None:
    scripts = write_scripts(tmp_path, tmp_path / "runs")
    done = subprocess.run(["shellcheck", *scripts.values()], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), scripts


def test_sbatch_takes_every_script(gpu_cluster: SlurmCluster, tmp_path: Path) -> None:
    def said_of(script: Path) -> str:
        return gpu_cluster.run("sbatch", "--test-only", str(script), check=False).stderr

    for name, script in write_scripts(tmp_path / "scripts", tmp_path / "runs").items():
        assert " to start at " in said_of(script), name
    # It does look at them.
    script.write_text(script.read_text().replace("#SBATCH --nodes=2", "#SBATCH --nodes=3"))
    assert "allocation failure" in said_of(script)


def test_the_oddest_names_change_nothing(user: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the job, of its folders, of the working folder; also where it looks at itself to come back."""
    folder, work = tmp_path / ODD_NAME, tmp_path / f"work {ODD_NAME}"
    work.mkdir()
    monkeypatch.chdir(work)
    first_time = 'if mkdir began; then exit 75; fi; exec "$@"'
    words = ("bash", "-c", first_time, "bash", sys.executable, "-c", NOTE_WORDS, str(folder), *ODD_WORDS)
    request = command(folder, arguments=words, resources=ONE)
    submitted = submit(request, Site(variables={"ODD": ODD_NAME}), ["mlc"])
    said = shown(user, submitted.job)
    assert f" JobName={ODD_NAME} UserId=root(0) " in said
    assert f" Comment=mlc:{folder} " in said
    with pytest.raises(UsageError, match=f"there is a job of this folder already; found job {submitted.job}"):
        submit(request, Site(), ["mlc"])
    wait_for_states(user, submitted.job, "COMPLETED")
    assert (folder / "words").read_text().split("\0") == [ODD_NAME, str(work), *ODD_WORDS]
    assert [(event["code"], event["next"]) for event in events(submitted, "end")] == [(75, "requeue"), (0, "done")]
    assert sorted(path.name for path in (folder / "logs").iterdir()) == [
        f"{submitted.job}.0.log",
        f"{submitted.job}.1.log",
    ]
    assert [path.name for path in work.iterdir()] == ["began"]
    assert not list(tmp_path.rglob("made"))
    # It has ended: another one may begin.
    assert submit(request, Site(), ["mlc"]).folder.name == "submit-00002"


def test_a_command_that_is_warned_comes_back(user: SlurmCluster, tmp_path: Path) -> None:
    second_time = "if mkdir began; then sleep 100; fi"
    request = command(tmp_path / "run", arguments=("bash", "-c", second_time), resources=ONE)
    submitted = submit(request, Site(), ["mlc"])
    user.wait_for((tmp_path / "began").exists, JOB_SECONDS, "the command")
    user.run("scancel", "--batch", "--signal=USR2", submitted.job)
    wait_for_states(user, submitted.job, "COMPLETED")
    assert [event["next"] for event in events(submitted, "end")] == ["requeue", "done"]
    assert "warned: asking for a save" in batch_log(submitted)


def test_a_signal_that_slurm_repeats_does_not_meet_the_next_start(
    patient_cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step was slow to end: SLURM signals it again after a minute, when the next start has one of its number."""
    monkeypatch.setenv("SLURM_CONF", patient_cluster.environ["SLURM_CONF"])
    monkeypatch.chdir(tmp_path)
    second_time = "mkdir began-$SLURM_PROCID || exec sleep 60"
    first_ends_other_will_not = 'trap "exit 1" USR2; ((SLURM_PROCID == 0)) || trap "" USR2 TERM'
    until_killed = "touch $SLURM_PROCID; while :; do sleep 1; done"
    words = ("bash", "-c", f"{second_time}; {first_ends_other_will_not}; {until_killed}")
    request = command(tmp_path / "run", arguments=words, resources=Resources(nodes="2", ranks_per_node=1, time="10:00"))
    submitted = submit(request, Site(), ["mlc"])
    both = [tmp_path / "0", tmp_path / "1"]
    patient_cluster.wait_for(lambda: all(path.exists() for path in both), JOB_SECONDS, "both tasks")
    patient_cluster.run("scancel", "--batch", "--signal=USR2", submitted.job)
    wait_for_states(patient_cluster, submitted.job, "COMPLETED")
    assert [event["next"] for event in events(submitted, "end")] == ["requeue", "done"]


def test_a_cancelled_job_does_not_come_back(user: SlurmCluster, tmp_path: Path) -> None:
    request = command(tmp_path / "run", arguments=("bash", "-c", "touch began; sleep 100"), resources=ONE)
    submitted = submit(request, Site(), ["mlc"])
    user.wait_for((tmp_path / "began").exists, JOB_SECONDS, "the command")
    user.run("scancel", submitted.job)
    # As long as it could come back SLURM says COMPLETING, and after that PENDING.
    wait_for_states(user, submitted.job, "CANCELLED")
    assert " Restarts=0 " in shown(user, submitted.job)
    (end,) = events(submitted, "end")
    assert end["next"] == "stop"
    assert str(end["reason"]).startswith("cancelled: ")


def test_a_job_that_comes_no_further_is_ended(user: SlurmCluster, tmp_path: Path) -> None:
    request = command(tmp_path / "run", arguments=("bash", "-c", "exit 75"), resources=ONE)
    submitted = submit(request, Site(starts_without_progress=1), ["mlc"])
    wait_for_states(user, submitted.job, "FAILED")
    assert len(events(submitted, "start")) == 2
    ends = [(event["code"], event["next"]) for event in events(submitted, "end")]
    assert ends == [(75, "requeue"), (1, "stop")]
    assert "1 starts came no further than 0" in batch_log(submitted)
    assert len(list((tmp_path / "run" / "logs").iterdir())) == 1


def test_a_job_without_requeue_ends_with_its_code(user: SlurmCluster, tmp_path: Path) -> None:
    """Also where its environment is not handed on to steps by itself."""
    site = Site(requeue=False, sbatch_options=("--export=NONE",), variables={"ODD": ODD_NAME})
    needs_all = "[[ -n $PYTHONPATH && -n $ODD ]] && command -v sleep && exit 75"
    submitted = submit(command(tmp_path / "run", arguments=("bash", "-c", needs_all), resources=ONE), site, ["mlc"])
    wait_for_states(user, submitted.job, "FAILED")
    assert " ExitCode=75:0 " in shown(user, submitted.job)
    assert [(event["code"], event["next"]) for event in events(submitted, "end")] == [(75, "stop")]
