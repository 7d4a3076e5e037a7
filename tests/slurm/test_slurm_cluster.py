"""The test cluster itself: it starts, its faults do what other tests rely on, and it leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slurm_cluster import SlurmCluster, start_in_free_place
from slurm_conf import ClusterError, ClusterLayout, read_layout
from slurm_jobs import parse_jobs
from slurm_machine import PlaceInUseError, check_machine, claim_name, process_name

SCRIPT = Path(__file__).parent / "slurm_cluster.py"
FAULT_SECONDS = 90.0
LONG_TASK = "python3 -c 'import time; time.sleep(300)'"
CRASH = """
import os, signal, sys
from pathlib import Path
from slurm_cluster import start_in_free_place
from slurm_conf import ClusterLayout
cluster = start_in_free_place(ClusterLayout(Path(sys.argv[1]), nodes=1))
print(cluster.layout.name, cluster.layout.subnet, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder with a path short enough for slurmstepd's sockets."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        yield Path(folder, "c")


def submit(cluster: SlurmCluster, folder: Path, command: str, *options: str) -> str:
    done = cluster.run("sbatch", "--parsable", f"--chdir={folder}", *options, f"--wrap={command}")
    return done.stdout.strip()


def wait_for_state(cluster: SlurmCluster, job_id: str, state: str, restarts: int = 0) -> None:
    def reached() -> bool:
        job = cluster.job(job_id)
        return job.state == state and job.restarts >= restarts

    cluster.wait_for(reached, FAULT_SECONDS, f"job {job_id} to be {state} after {restarts} restarts")


def reaching(host: str, port: int = 6818) -> list[str]:
    """A command that succeeds where a daemon of another host can be reached: slurmd by default."""
    return ["timeout", "3", "bash", "-c", f"exec 3<>/dev/tcp/{host}/{port}"]


def named(cluster: SlurmCluster, host: str, name: str) -> list[int]:
    return [process for process in cluster.processes(host) if process_name(process) == name]


def wait_for_process(cluster: SlurmCluster, host: str, name: str) -> list[int]:
    return cluster.wait_for(lambda: named(cluster, host, name), FAULT_SECONDS, f"{name} on {host}")


def traces(layout: ClusterLayout) -> list[str]:
    """Everything on this machine that belongs to a cluster: namespaces, interfaces, mounts, processes."""
    prefix, folder = f"{layout.name}-", str(layout.folder)
    found = [f"namespace {name}" for name in os.listdir("/run/netns") if name.startswith(prefix)]
    found += [f"interface {name}" for name in os.listdir("/sys/class/net") if name == layout.name]
    for process in filter(str.isdecimal, os.listdir("/proc")):
        # A mount can live on in another process's view, and a process in no namespace that has a name.
        with contextlib.suppress(OSError):
            mounts = Path(f"/proc/{process}/mountinfo").read_text().splitlines()
            found += [f"mount {line}" for line in mounts if f"/{prefix}" in line or folder in line]
            words = Path(f"/proc/{process}/environ").read_bytes() + Path(f"/proc/{process}/cmdline").read_bytes()
            if folder.encode() in words:
                found.append(f"process {process_name(int(process))}")
    return found


@pytest.mark.slurm
def test_every_node_is_a_host_of_its_own(cluster: SlurmCluster, tmp_path: Path) -> None:
    assert cluster.node_states() == dict.fromkeys(["n1", "n2", "n3", "n4"], "idle")
    command = 'touch /dev/shm/$(hostname); echo $(hostname) $(hostname -i) $(ls /dev/shm) > "$(hostname)"'
    job = submit(cluster, tmp_path, f"srun bash -c '{command}'", "--nodes=4", "--ntasks-per-node=1")
    wait_for_state(cluster, job, "COMPLETED")
    for number in range(1, 5):
        host, address, *shared_memory = (tmp_path / f"n{number}").read_text().split()
        assert (host, address) == (f"n{number}", f"{cluster.layout.subnet}.{number}")
        assert shared_memory == [host]


@pytest.mark.slurm
def test_a_job_without_environment_finds_its_own_cluster(cluster: SlurmCluster, tmp_path: Path) -> None:
    command = "/usr/bin/srun /bin/hostname > host; /usr/bin/env -i /usr/bin/sinfo -h -p main -o %N > nodes"
    job = submit(cluster, tmp_path, command, "--export=NONE")
    wait_for_state(cluster, job, "COMPLETED")
    assert (tmp_path / "host").read_text().strip() == cluster.job(job).nodes
    assert (tmp_path / "nodes").read_text() == "n[1-4]\n"


@pytest.mark.slurm
def test_power_off_requeues_the_job_on_other_nodes(cluster: SlurmCluster, tmp_path: Path) -> None:
    job = submit(cluster, tmp_path, f"srun {LONG_TASK}", "--nodes=2", "--ntasks=2")
    wait_for_process(cluster, "n2", "python3")
    cluster.power_off("n2")
    assert cluster.processes("n2") == []
    cluster.power_on("n2")
    cluster.wait_for(lambda: cluster.node_states()["n2"] == "down", FAULT_SECONDS, "n2 to be down")
    wait_for_state(cluster, job, "RUNNING", restarts=1)
    assert "n2" not in cluster.run("scontrol", "show", "hostnames", cluster.job(job).nodes).stdout.split()
    cluster.resume("n2")
    assert cluster.node_states()["n2"] == "idle"


@pytest.mark.slurm
def test_a_cut_node_is_down_and_its_task_lives_on(cluster: SlurmCluster, tmp_path: Path) -> None:
    job = submit(cluster, tmp_path, f"srun {LONG_TASK}", "--nodes=2", "--ntasks=2")
    (task,) = wait_for_process(cluster, "n2", "python3")
    cluster.cut("n2")
    cluster.wait_for(lambda: cluster.node_states()["n2"] == "down*", FAULT_SECONDS, "n2 to be down")
    cluster.wait_for(lambda: cluster.job(job).restarts == 1, FAULT_SECONDS, "the job to be requeued")
    assert named(cluster, "n2", "python3") == [task]
    cluster.heal("n2")
    cluster.resume("n2")
    assert cluster.execute("n2", *reaching("n1")).returncode == 0


def saved(state_file: Path) -> bytes:
    """What slurmctld has saved; it takes the file away before it puts the next in its place."""
    try:
        return state_file.read_bytes()
    except FileNotFoundError:
        return b""


@pytest.mark.slurm
def test_a_job_outlives_slurmd_and_slurmctld(cluster: SlurmCluster, tmp_path: Path) -> None:
    job = submit(cluster, tmp_path, "until [ -e go ]; do sleep 0.1; done; echo done > out", "--nodelist=n3")
    wait_for_state(cluster, job, "RUNNING")
    state_file = cluster.layout.folder / "state" / "job_state"
    # What slurmctld had not saved is gone with it.
    cluster.run("scontrol", "update", f"jobid={job}", "comment=running and saved")
    cluster.wait_for(lambda: b"running and saved" in saved(state_file), FAULT_SECONDS, "slurmctld to save its state")
    before = named(cluster, "n3", "slurmd") + named(cluster, "ctl", "slurmctld")
    cluster.kill_slurmd("n3")
    assert named(cluster, "n3", "slurmd") == []
    assert named(cluster, "n3", "slurmstepd")
    cluster.start_slurmd("n3")
    cluster.restart_controller()
    assert not set(before) & {*cluster.processes("n3"), *cluster.processes("ctl")}
    (tmp_path / "go").touch()
    wait_for_state(cluster, job, "COMPLETED")
    assert (tmp_path / "out").read_text() == "done\n"
    assert cluster.job(job).restarts == 0


@pytest.mark.slurm
def test_killed_step_daemons_leave_orphans_that_settling_ends(cluster: SlurmCluster, tmp_path: Path) -> None:
    job = submit(cluster, tmp_path, f"srun {LONG_TASK}", "--nodelist=n4")
    (orphan,) = wait_for_process(cluster, "n4", "python3")
    cluster.kill_slurmd("n4", with_steps=True)
    assert named(cluster, "n4", "slurmstepd") == []
    assert named(cluster, "n4", "python3") == [orphan]
    cluster.settle()
    assert cluster.is_idle()
    assert named(cluster, "n4", "python3") == []
    assert cluster.jobs() == []
    assert int(submit(cluster, tmp_path, "true")) > int(job)


@pytest.mark.slurm
def test_a_preempted_job_is_asked_then_requeued(short_folder: Path, tmp_path: Path) -> None:
    cluster = start_in_free_place(ClusterLayout(short_folder, nodes=1, grace_seconds=3, kill_wait_seconds=1))
    try:
        command = "trap 'date +%s >> said' TERM; touch up; while :; do sleep 0.1; done"
        low = submit(cluster, tmp_path, f'srun bash -c "{command}"', "--partition=low")
        cluster.wait_for((tmp_path / "up").exists, FAULT_SECONDS, "the task to begin")
        submit(cluster, tmp_path, "sleep 300", "--partition=high", "--exclusive")
        cluster.wait_for((tmp_path / "said").exists, FAULT_SECONDS, "SIGTERM to reach the task")
        assert cluster.job(low).restarts == 0
        wait_for_state(cluster, low, "PENDING", restarts=1)
        assert time.time() - int((tmp_path / "said").read_text().split()[0]) >= 3
    finally:
        cluster.stop()


@pytest.mark.slurm
def test_a_node_can_lose_a_folder_and_a_neighbour(cluster: SlurmCluster, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    see = ("ls", str(tmp_path))
    cluster.hide_folder("n1", tmp_path)
    cluster.blackhole("n1", "n2")
    assert cluster.execute("n1", *see).stdout == ""
    assert cluster.execute("n2", *see).stdout == "file\n"
    assert cluster.execute("n1", *reaching("n2"), check=False).returncode != 0
    assert cluster.execute("n3", *reaching("n2")).returncode == 0
    cluster.show_folder("n1", tmp_path)
    cluster.remove_blackhole("n1", "n2")
    assert cluster.execute("n1", *see).stdout == "file\n"
    assert cluster.execute("n1", *reaching("n2")).returncode == 0


@pytest.mark.slurm
@pytest.mark.parametrize("damage", ["stubborn job", "drained", "hidden", "blackhole", "cut", "off", "no controller"])
def test_settling_mends_everything_within_seconds(cluster: SlurmCluster, tmp_path: Path, damage: str) -> None:
    if damage == "stubborn job":
        submit(cluster, tmp_path, "trap '' TERM; touch up; while :; do sleep 0.1; done")
        cluster.wait_for((tmp_path / "up").exists, FAULT_SECONDS, "the job to begin")
    elif damage == "drained":
        cluster.run("scontrol", "update", "nodename=n2", "state=drain", "reason=test")
    elif damage == "hidden":
        cluster.hide_folder("n2", tmp_path)
    elif damage == "blackhole":
        cluster.blackhole("n2", "n1")
    elif damage == "cut":
        cluster.cut("n2")
    else:
        cluster.power_off("n2" if damage == "off" else "ctl")
    begun = time.monotonic()
    cluster.settle()
    assert time.monotonic() - begun < 15, "it waited for something instead of starting anew"
    assert cluster.is_idle()
    assert not any(job.state in ("RUNNING", "PENDING", "COMPLETING") for job in cluster.jobs())
    assert cluster.hosts.cut_hosts() == cluster.hosts.hidden_folders("n2") == cluster.hosts.blackholes("n2") == []
    assert cluster.execute("n2", *reaching("n1")).returncode == 0


@pytest.mark.slurm
def test_waiting_in_vain_shows_jobs_nodes_and_logs(cluster: SlurmCluster) -> None:
    with pytest.raises(ClusterError) as raised:
        cluster.wait_for(lambda: False, 0.1, "what never comes")
    assert "what never comes" in str(raised.value)
    for part in ("JOBID", "n4       idle", "slurmd version", "Running as primary controller"):
        assert part in str(raised.value)


@pytest.mark.slurm
def test_a_command_that_hangs_on_a_host_is_ended(cluster: SlurmCluster) -> None:
    with pytest.raises(ClusterError, match="did not end"):
        cluster.execute("n1", "sleep", "1234", timeout_seconds=0.5)
    hanging = [p for p in cluster.processes("n1") if b"1234" in Path(f"/proc/{p}/cmdline").read_bytes()]
    assert hanging == []


@pytest.mark.slurm
def test_stop_leaves_nothing_behind(cluster: SlurmCluster, short_folder: Path, tmp_path: Path) -> None:
    layout = ClusterLayout(short_folder, nodes=2, gpus_per_node=2)
    second = start_in_free_place(layout)
    try:
        assert second.layout.subnet != cluster.layout.subnet
        submit(second, tmp_path, "srun sleep 300", "--nodes=2")
        shown = second.run("srun", "--overlap", "--nodes=1", "--gpus-per-node=2", "printenv", "CUDA_VISIBLE_DEVICES")
        assert shown.stdout == "0,1\n"
        second.cut("n1")
        second.hide_folder("n2", tmp_path)
        second.popen("n2", "sleep", "300")
        kinds = {line.split()[0] for line in traces(second.layout)}
        assert kinds == {"namespace", "interface", "mount", "process"}
    finally:
        second.stop()
    assert traces(second.layout) == []
    assert cluster.is_idle()
    begun = time.monotonic()
    assert "stopped" in second.layout.config_file.read_text()
    assert second.run("squeue", check=False).returncode != 0
    assert time.monotonic() - begun < 5, "a client looked for a controller that is gone"


@pytest.mark.slurm
def test_a_start_that_fails_leaves_nothing_behind(short_folder: Path) -> None:
    with pytest.raises(ClusterError, match="did not boot") as raised:
        start_in_free_place(ClusterLayout(short_folder, nodes=1, extra_config="NoSuchKey=1"))
    assert "NoSuchKey" in str(raised.value)
    assert traces(read_layout(short_folder)) == []


@pytest.mark.slurm
def test_the_next_start_clears_what_a_crashed_owner_left(short_folder: Path) -> None:
    crashed = subprocess.run(
        [sys.executable, "-c", CRASH, str(short_folder)],
        env=os.environ | {"PYTHONPATH": str(SCRIPT.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert crashed.returncode == -signal.SIGKILL, crashed.stderr
    name, subnet = crashed.stdout.split()
    old = ClusterLayout(short_folder, name=name, subnet=subnet)
    left = SlurmCluster.of(old).processes("n1")
    assert left
    with SlurmCluster(short_folder.with_name("d"), nodes=1, name=name, subnet=subnet) as cluster:
        assert cluster.is_idle()
        assert not set(left) & set(cluster.processes("n1"))
        with pytest.raises(PlaceInUseError):
            SlurmCluster(short_folder.with_name("e"), nodes=1, name=name, subnet=subnet).start()
        with pytest.raises(ClusterError, match="subnet is in use"):
            SlurmCluster(short_folder.with_name("e"), nodes=1, name="mlcother", subnet=subnet).start()
        assert cluster.is_idle()
    assert traces(old) == traces(cluster.layout) == []


@pytest.mark.slurm
def test_by_hand(short_folder: Path) -> None:
    def call(*arguments: str, code: int = 0) -> str:
        command = [sys.executable, str(SCRIPT), arguments[0], "--folder", str(short_folder), *arguments[1:]]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert "start 4" in call("status", code=1)
    printed = call("start", "1", "--name", "mlcbyhand", "--subnet", "10.79.250", "--cpus", "3")
    try:
        assert printed == f"export SLURM_CONF={short_folder}/etc/slurm.conf\n"
        assert re.search(r"n1 +idle +0/3/0/3", call("status"))
        assert call("exec", "n1", "hostname") == "n1\n"
        call("exec", "n1", "bash", "-c", "exit 7", code=7)
        call("off", "n1")
        assert "n1 is off" in call("exec", "n1", "hostname", code=1)
        call("on", "n1")
        call("cut", "n1")
        call("exec", "n1", *reaching("ctl", 6817), code=124)
        call("heal", "n1")
        call("exec", "n1", *reaching("ctl", 6817))
        assert "no such host; found n9" in call("off", "n9", code=1)
    finally:
        call("stop")
    assert traces(ClusterLayout(short_folder, name="mlcbyhand")) == []


def test_help_shows_examples() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--help"], capture_output=True, text=True, check=True)
    assert "examples:" in done.stdout
    assert "export SLURM_CONF=" in done.stdout


@pytest.mark.parametrize(
    "change",
    [
        {"name": "Big"},
        {"name": "a-b"},
        {"name": "abcdefghijklm"},
        {"subnet": "10.1"},
        {"subnet": "10.1.256"},
        {"nodes": 0},
        {"folder": Path("/tmp", "a b")},
        {"folder": Path("/tmp", "x" * 70)},
    ],
)
def test_layouts_that_cannot_be_are_refused(change: dict[str, Any]) -> None:
    usable = ClusterLayout(Path("/tmp/c"), name="mlc", subnet="10.1.2", nodes=2)
    with pytest.raises(ClusterError, match="needed"):
        replace(usable, **change)


def test_a_machine_without_slurm_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match=r"slurmctld(.|\n)*next: python tests/slurm/slurm_cluster.py install"):
        check_machine()


def test_a_user_who_is_not_root_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ClusterError, match="needed root"):
        check_machine()


def test_the_environment_leads_to_no_other_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm/slurm.conf")
    monkeypatch.setenv("SBATCH_CLUSTERS", "other")
    monkeypatch.setenv("SQUEUE_USERS", "somebody")
    monkeypatch.setenv("KEPT", "1")
    environ = SlurmCluster(Path("/tmp/c")).environ
    assert environ["SLURM_CONF"] == "/tmp/c/etc/slurm.conf"
    assert environ["KEPT"] == "1"
    assert not {"SBATCH_CLUSTERS", "SQUEUE_USERS"} & set(environ)


def test_a_claim_ends_with_its_socket() -> None:
    name = f"t{os.getpid()}"
    with claim_name(name), pytest.raises(PlaceInUseError):
        claim_name(name)
    claim_name(name).close()


@given(name=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"])))
def test_jobs_with_any_name_are_read(name: str) -> None:
    line = (
        f"JobId=12 ArrayJobId=10 ArrayTaskId=2 JobName={name} UserId=root(0) GroupId=root(0) JobState=RUNNING "
        "Reason=None Dependency=(null) Requeue=1 Restarts=3 NodeList=n[1-2] Command=(null) WorkDir=/tmp Power= "
    )
    (job,) = parse_jobs(f"{line}\n")
    assert (job.id, job.name, job.state, job.reason, job.restarts) == ("10_2", name, "RUNNING", "None", 3)
    assert job.nodes == "n[1-2]"
    assert job.fields["WorkDir"] == "/tmp"
