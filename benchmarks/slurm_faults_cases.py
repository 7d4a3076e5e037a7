"""The cases of slurm_faults.py: when something happens to a run, what, and what is put right afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from slurm_cluster import SlurmCluster
from slurm_runs import EVERY_STEPS, SlurmRun

Act = Callable[[SlurmCluster, SlurmRun], None]
ELASTIC = ("--nodes", "2-4")
BATCH_HOST, OTHER_HOST = "n1", "n3"
MIDDLE = EVERY_STEPS + EVERY_STEPS // 2
"""A step between two checkpoints, behind the first one."""


def nothing(cluster: SlurmCluster, run: SlurmRun) -> None:
    """Afterwards: nothing has to be put right."""


@dataclass(frozen=True)
class Case:
    """One thing that happens.

    Attributes:
        name: of the case.
        what: in words.
        strike: does it.
        afterwards: puts right what a person would, once the run goes on again.
        at_step: it happens when this step is logged.
        in_save: it happens at the next moment behind it at which a checkpoint is half written.
        comes_back: whether the job has to be started again for it.
        options: of mlc submit.
        site: changes to the site file.
    """

    name: str
    what: str
    strike: Act
    afterwards: Act = nothing
    at_step: int = MIDDLE
    in_save: bool = False
    comes_back: bool = True
    options: tuple[str, ...] = ()
    site: Mapping[str, Any] = field(default_factory=dict)


def reach_time_limit(cluster: SlurmCluster, run: SlurmRun) -> None:
    run.wait(lambda: "warned" in run.batch_log(), "the warning before the time limit")


def signal_tasks(cluster: SlurmCluster, run: SlurmRun) -> None:
    cluster.run("scancel", "--signal=USR2", run.job)


def signal_all(cluster: SlurmCluster, run: SlurmRun) -> None:
    cluster.run("scancel", "--full", "--signal=TERM", run.job)


def requeue(cluster: SlurmCluster, run: SlurmRun) -> None:
    cluster.run("scontrol", "requeue", run.job)


def preempt(cluster: SlurmCluster, run: SlurmRun) -> None:
    cluster.run("sbatch", "--partition=high", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=sleep 2")


def power_off(host: str) -> Act:
    return lambda cluster, run: cluster.power_off(host)


def power_off_all(cluster: SlurmCluster, run: SlurmRun) -> None:
    """And on again: a power failure of the whole room but for the controller."""
    for host in cluster.layout.node_names:
        cluster.power_off(host)
    for host in cluster.layout.node_names:
        cluster.power_on(host)
        cluster.resume(host)


def cut(host: str) -> Act:
    return lambda cluster, run: cluster.cut(host)


def heal(host: str) -> Act:
    def act(cluster: SlurmCluster, run: SlurmRun) -> None:
        """The old processes are alive on this host until SLURM gets to them."""
        assert cluster.processes(host), f"{host} should have outlived the cut"
        cluster.heal(host)
        cluster.resume(host)

    return act


def kill_slurmd_and_steps(host: str) -> Act:
    return lambda cluster, run: cluster.kill_slurmd(host, with_steps=True)


def start_slurmd(host: str) -> Act:
    return lambda cluster, run: cluster.start_slurmd(host)


def restart_slurmd(cluster: SlurmCluster, run: SlurmRun) -> None:
    cluster.kill_slurmd(OTHER_HOST)
    cluster.start_slurmd(OTHER_HOST)


def restart_controller(cluster: SlurmCluster, run: SlurmRun) -> None:
    cluster.restart_controller()


def stop_without_controller(cluster: SlurmCluster, run: SlurmRun) -> None:
    """The run saves while nobody could requeue it."""
    cluster.power_off("ctl")
    (run.folder / "stop").touch()
    cluster.wait_for(lambda: "does not answer" in run.batch_log(), 120, "the batch script to miss the controller")
    cluster.power_on("ctl")


def fill_disk(cluster: SlurmCluster, run: SlurmRun) -> None:
    """No byte is left; the next saves fail."""
    step = run.saved_step()
    ballast = run.folder.parent / "ballast"
    try:
        with ballast.open("wb", buffering=0) as file:
            while file.write(b"0" * (1 << 20)):
                pass
    except OSError:
        pass
    run.wait(lambda: "training goes on" in _ranks_log(run) or len(run.events("end")) > 0, "a save that failed")
    assert run.saved_step() == step, "there was room for a checkpoint"
    ballast.unlink()


def hide_folder(cluster: SlurmCluster, run: SlurmRun) -> None:
    """Its shared file system is gone, and the node is up: found by the next start's node check."""
    cluster.hide_folder(OTHER_HOST, run.folder.parent)
    cluster.run("scontrol", "requeue", run.job)


def _ranks_log(run: SlurmRun) -> str:
    return "".join(path.read_text(errors="replace") for path in run.folder.glob("logs/*.log"))


WARN = {"warning_seconds": 90}
CASES = (
    Case(
        "time_limit", "the limit of 3 minutes", reach_time_limit, at_step=1, options=("--time", "00:03:00"), site=WARN
    ),
    Case("scancel_signal", "scancel --signal=USR2", signal_tasks),
    Case("scancel_signal_full", "scancel --signal=TERM --full", signal_all),
    Case("preempted", "a job of a higher partition", preempt, options=("--partition", "low")),
    Case("requeue", "scontrol requeue", requeue),
    Case("requeue_in_save", "the same during a save", requeue, in_save=True),
    Case("power_off", "a node's power", power_off(OTHER_HOST), options=ELASTIC),
    Case("power_off_in_save", "the same during a save", power_off(OTHER_HOST), in_save=True, options=ELASTIC),
    Case("power_off_batch_host", "the batch host's power", power_off(BATCH_HOST), options=ELASTIC),
    Case(
        "power_off_batch_host_in_save", "the same during a save", power_off(BATCH_HOST), in_save=True, options=ELASTIC
    ),
    Case("power_off_all", "the power of all nodes, and back", power_off_all),
    Case("cut", "a node's network", cut(OTHER_HOST), heal(OTHER_HOST), options=ELASTIC),
    Case("cut_in_save", "the same during a save", cut(OTHER_HOST), heal(OTHER_HOST), in_save=True, options=ELASTIC),
    Case("cut_batch_host", "the batch host's network", cut(BATCH_HOST), heal(BATCH_HOST), options=ELASTIC),
    Case(
        "cut_batch_host_in_save",
        "the same during a save",
        cut(BATCH_HOST),
        heal(BATCH_HOST),
        in_save=True,
        options=ELASTIC,
    ),
    Case("slurmd_and_steps", "SIGKILL to slurmd and its steps", kill_slurmd_and_steps(OTHER_HOST), options=ELASTIC),
    Case(
        "slurmd_and_steps_in_save",
        "the same during a save",
        kill_slurmd_and_steps(OTHER_HOST),
        in_save=True,
        options=ELASTIC,
    ),
    Case("slurmd_restarted", "SIGKILL to slurmd, started again", restart_slurmd, comes_back=False),
    Case("slurmctld_restarted", "SIGKILL to slurmctld, started again", restart_controller, comes_back=False),
    Case("stop_without_slurmctld", "RUN/stop while slurmctld is away", stop_without_controller),
    Case("disk_full", "no byte left for some saves", fill_disk, comes_back=False),
    Case(
        "bad_node",
        "a node without the shared folder",
        hide_folder,
        options=ELASTIC,
        site={"check": {"enabled": True, "min_free_gb": 0.0}},
    ),
)
