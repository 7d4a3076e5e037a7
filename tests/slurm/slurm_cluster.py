"""A real SLURM cluster (slurmctld and N slurmd) on this machine, for tests and benchmarks; also a command line.

In:  a folder for its state and logs, the number of nodes, what each pretends to have. Root, and Debian's packages.
Out: a running cluster, reached by `environ`; its hosts can lose power, network or slurmd; nothing is left after `stop`.

Every local user is trusted by it (auth/none): for machines that serve nothing but tests.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from namespace_hosts import NamespaceHosts
from slurm_conf import CONTROLLER, LAYOUT_FILE, ClusterError, ClusterLayout
from slurm_jobs import Job, parse_jobs
from slurm_machine import PlaceInUseError, check_machine, claim_name, process_name, process_start, run_command

START_SECONDS = 60.0
CLIENT_SECONDS = 60.0
RESUME_SECONDS = 60.0
SETTLE_SECONDS = 1.5
"""What jobs have to end after a test, before the cluster is started anew, which is quicker than patience."""
POLL_SECONDS = 0.05
PLACES = 20
JOBS_PER_START = 1000
"""By so much the first id of a job grows when `settle` starts the cluster anew."""
LOG_LINES = 15
CLIENT_VARIABLES = re.compile(r"(SLURM|SBATCH|SALLOC|SRUN|SCANCEL|SQUEUE|SINFO|SACCT|SCONTROL|PMI|PMIX)_.*")
"""Settings of clients and of an enclosing job: they could lead to another cluster."""
Found = TypeVar("Found")


class SlurmCluster:
    """One cluster; `with SlurmCluster(folder) as cluster` starts and stops it.

    Args: see `ClusterLayout`.

    Raises:
        ClusterError: settings that cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        nodes: int = 4,
        cpus_per_node: int = 2,
        gpus_per_node: int = 0,
        extra_config: str = "",
        name: str = "mlc",
        subnet: str = "10.78.0",
        grace_seconds: int = 20,
        kill_wait_seconds: int = 5,
    ) -> None:
        self.layout = ClusterLayout(
            folder=folder,
            name=name,
            subnet=subnet,
            nodes=nodes,
            cpus_per_node=cpus_per_node,
            gpus_per_node=gpus_per_node,
            grace_seconds=grace_seconds,
            kill_wait_seconds=kill_wait_seconds,
            extra_config=extra_config,
        )
        self.hosts = NamespaceHosts(self.layout)
        self._claim: socket.socket | None = None
        self._first_job_id = 1

    @classmethod
    def of(cls, layout: ClusterLayout) -> SlurmCluster:
        """The cluster of a layout, which may be running already."""
        return cls(**asdict(layout))

    # Life

    def start(self) -> None:
        """Clear what an earlier owner left under this name, start all daemons, and wait until all nodes are idle.

        Raises:
            ClusterError: not root, packages are missing, the name or the subnet is in use, or a daemon does not
                come up. Nothing is left behind then.
        """
        check_machine()
        if self._claim is None:
            self._claim = claim_name(self.layout.name)
        try:
            self.hosts.remove_all()
            self._clear_folder()
            self.layout.write(self._first_job_id)
            self.hosts.create_network()
            self._boot(*self.layout.addresses)
            self.wait_for(self.is_idle, START_SECONDS, "all nodes to be idle")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Kill everything and remove the network; the folder stays, with the logs."""
        self.hosts.remove_all()
        self.layout.retire()
        if self._claim is not None:
            self._claim.close()
            self._claim = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _clear_folder(self) -> None:
        folder = self.layout.folder
        if folder.exists() and any(folder.iterdir()) and not (folder / LAYOUT_FILE).exists():
            raise ClusterError("this folder is not a cluster's", found=str(folder), needed="a new or empty folder")
        shutil.rmtree(folder, ignore_errors=True)

    # Commands

    @property
    def environ(self) -> dict[str, str]:
        """This process's environment with the cluster's SLURM_CONF, and nothing that could lead to another cluster."""
        kept = {name: value for name, value in os.environ.items() if not CLIENT_VARIABLES.fullmatch(name)}
        return kept | {"SLURM_CONF": str(self.layout.config_file)}

    def run(
        self, *command: str, check: bool = True, timeout_seconds: float = CLIENT_SECONDS, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on this machine, with `environ`.

        Raises:
            ClusterError: `check`, and it failed; or it took too long.
        """
        return run_command(command, list(command), self.environ, check, timeout_seconds, cwd)

    def execute(
        self, host: str, *command: str, check: bool = True, timeout_seconds: float = CLIENT_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host, as `ssh` would, in this process's working directory.

        Raises:
            ClusterError: the host is off; or as `run`.
        """
        return run_command(
            (host, *command), self.hosts.enter(host, *command), self.environ, check, timeout_seconds, None
        )

    def popen(self, host: str, *command: str, stdout: int | None = None) -> subprocess.Popen[str]:
        """Begin a command on a host. The process is a leader of its group, which has the command in it."""
        return subprocess.Popen(
            self.hosts.enter(host, *command), env=self.environ, stdout=stdout, text=True, start_new_session=True
        )

    # Faults

    def power_off(self, host: str) -> None:
        """SIGKILL all processes of a host; its kernel, and so its sockets, close at once."""
        self.hosts.power_off(host)

    def power_on(self, host: str) -> None:
        """Boot a host. A node that was in use before is DOWN until `resume`."""
        for address in self.hosts.blackholes(host):
            self.hosts.remove_blackhole(host, address)
        self._boot(host)

    def _boot(self, *hosts: str) -> None:
        # -b: "this machine was rebooted", which slurmd otherwise reads off the kernel's uptime.
        daemons = {host: ["slurmctld"] if host == CONTROLLER else ["slurmd", "-b"] for host in hosts}
        commands = {host: [*daemon, "-f", str(self.layout.config_file)] for host, daemon in daemons.items()}
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TZ") if name in os.environ}
        self.hosts.boot(commands, kept | {"SLURM_CONF": str(self.layout.config_file)})

    def cut(self, host: str) -> None:
        """Take a host's network away: silence, not a reset."""
        self.hosts.set_link(host, "down")

    def heal(self, host: str) -> None:
        """Give a host its network back. A node that was DOWN meanwhile needs `resume`."""
        self.hosts.set_link(host, "up")

    def kill_slurmd(self, host: str, with_steps: bool = False) -> None:
        """SIGKILL slurmd; `with_steps`: its step daemons first, which leaves their tasks as orphans."""
        for name in ("slurmstepd", "slurmd") if with_steps else ("slurmd",):
            self._kill_named(host, name)

    def start_slurmd(self, host: str) -> None:
        """Start slurmd on a host that is on."""
        self.execute(host, "slurmd", "-f", str(self.layout.config_file))

    def restart_controller(self) -> None:
        """SIGKILL slurmctld and start it again with the state it had saved; returns when it answers."""
        self._kill_named(CONTROLLER, "slurmctld")
        self.execute(CONTROLLER, "slurmctld", "-f", str(self.layout.config_file))
        self.wait_for(self._controller_answers, START_SECONDS, "slurmctld to answer")

    def _controller_answers(self) -> bool:
        return " is UP" in self.run("scontrol", "ping", check=False).stdout

    def _kill_named(self, host: str, name: str) -> None:
        def alive() -> list[int]:
            return [process for process in self.processes(host) if process_name(process) == name]

        for process in alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.wait_for(lambda: not alive(), CLIENT_SECONDS, f"{name} on {host} to die")

    def hide_folder(self, host: str, path: Path) -> None:
        """Mount an empty folder over `path`, seen by this host alone."""
        self.hosts.hide_folder(host, path)

    def show_folder(self, host: str, path: Path) -> None:
        """Undo `hide_folder`."""
        self.hosts.show_folder(host, path)

    def blackhole(self, host: str, other_host: str) -> None:
        """Let a host send nothing to another one."""
        self.hosts.add_blackhole(host, self.layout.addresses[other_host])

    def remove_blackhole(self, host: str, other_host: str) -> None:
        """Undo `blackhole`."""
        self.hosts.remove_blackhole(host, self.layout.addresses[other_host])

    def processes(self, host: str) -> list[int]:
        """Ids, as this machine counts, of all living processes of a host, its own daemons included."""
        return self.hosts.processes(host)

    # State

    def jobs(self) -> list[Job]:
        """All jobs and array tasks slurmctld knows, ended ones too, by id."""
        return parse_jobs(self.run("scontrol", "--oneliner", "show", "job").stdout)

    def job(self, job_id: str | int) -> Job:
        """One job, or one task of an array (`17_2`).

        Raises:
            ClusterError: there is none.
        """
        found = [job for job in self.jobs() if job.id == str(job_id)]
        if not found:
            raise ClusterError("there is no such job", found=str(job_id))
        return found[0]

    def node_states(self) -> dict[str, str]:
        """Host name -> SLURM's state in small letters; an asterisk behind it says that the node does not answer."""
        lines = self.run("sinfo", "-N", "-h", "-p", "main", "-o", "%N %T").stdout.splitlines()
        return dict(line.split() for line in lines)

    def is_idle(self) -> bool:
        """Whether every node answers and is idle. False while the controller does not answer."""
        answer = self.run("sinfo", "-h", "-p", "main", "-t", "idle", "-o", "%D %T", check=False)
        return answer.stdout.split() == [str(self.layout.nodes), "idle"]

    def resume(self, host: str) -> None:
        """Put a node that is on, connected, and DOWN or drained, back to work; returns when it may be used.

        Raises:
            ClusterError: it does not come back.
        """

        def usable() -> bool:
            if not self._is_registered(host):
                return False
            state = self.node_states()[host]
            if re.match(r"(down|drain|fail|error)", state):
                self.run("scontrol", "update", f"nodename={host}", "state=resume", check=False)
                return False
            return not state.endswith("*")

        self.wait_for(usable, RESUME_SECONDS, f"{host} to be usable")

    def _is_registered(self, host: str) -> bool:
        """Whether slurmctld has heard of the slurmd that runs now: until then it shows the state before a boot."""
        started = [process_start(p) for p in self.processes(host) if process_name(p) == "slurmd"]
        shown = re.search(r" SlurmdStartTime=(\S+T\S+)", self.run("scontrol", "-o", "show", "node", host).stdout)
        if shown is None or not started:
            return False
        return datetime.fromisoformat(shown[1]).timestamp() >= int(min(started))

    def wait_for(self, predicate: Callable[[], Found], timeout_seconds: float, what: str) -> Found:
        """Ask until the answer is true, and return it.

        Raises:
            ClusterError: the answer was never true; the message has jobs, nodes and the ends of the logs.
        """
        limit = time.monotonic() + timeout_seconds
        while not (found := predicate()):
            if time.monotonic() > limit:
                raise ClusterError(f"waited {timeout_seconds:g} s for {what}", found=self.describe())
            time.sleep(POLL_SECONDS)
        return found

    def status(self) -> str:
        """Jobs, nodes and numbers of processes, as text; also while the controller is gone."""
        parts = []
        nodes = ("sinfo", "-N", "-p", "main", "-o", "%8N %12T %14C %10G %E")
        for command in (("squeue", "--states=all"), nodes):
            done = self.run(*command, check=False)
            parts.append(f"$ {' '.join(command)}\n{done.stdout}{done.stderr}")
        counts = [f"{host} {len(self.processes(host))}" for host in self.layout.addresses]
        return "\n".join([*parts, f"processes: {', '.join(counts)}\n"])

    def describe(self) -> str:
        """`status`, and the ends of the logs."""
        parts = [self.status()]
        for log in sorted([*self.layout.logs.glob("*.log"), *self.layout.logs.glob("*.boot")]):
            lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
            if lines:
                parts.append("\n".join([f"end of {log}:", *lines, ""]))
        return "\n".join(parts)

    # Between tests

    def settle(self) -> None:
        """End all jobs and make every host as it was after `start`, where need be by a new start.

        A start takes half a second; waiting for a lost node takes many. Ids of jobs are not used again.
        """
        if not self._is_damaged():
            if self.run("squeue", "-h").stdout:
                self.run("scancel", "--user=root")
            limit = time.monotonic() + SETTLE_SECONDS
            while time.monotonic() < limit:
                if self.is_idle() and not self.run("squeue", "-h").stdout and not self._strays():
                    return
                time.sleep(POLL_SECONDS)
        self._first_job_id += JOBS_PER_START
        self.start()

    def _is_damaged(self) -> bool:
        hosts = self.hosts
        if hosts.cut_hosts():
            return True
        for host in self.layout.addresses:
            daemon = "slurmctld" if host == CONTROLLER else "slurmd"
            if daemon not in map(process_name, self.processes(host)):
                return True
            if hosts.hidden_folders(host) or hosts.blackholes(host):
                return True
        return bool(re.search(r"down|drain|\*", " ".join(self.node_states().values())))

    def _strays(self) -> list[str]:
        """Names of processes that no idle host has."""
        names = [process_name(process) for host in self.layout.node_names for process in self.processes(host)]
        return sorted(set(names) - {"", "unshare", "bash", "sleep", "slurmd"})


def start_in_free_place(layout: ClusterLayout) -> SlurmCluster:
    """Start a cluster under the first name and subnet that no living process uses (mlctest0, 10.79.0 and on).

    Names come back: what a crashed process left is cleared by the next. The name and subnet of `layout` are not used.

    Raises:
        ClusterError: as `start`; or all places are in use.
    """
    for place in range(PLACES):
        cluster = SlurmCluster.of(replace(layout, name=f"mlctest{place}", subnet=f"10.79.{place}"))
        with contextlib.suppress(PlaceInUseError):
            cluster.start()
            return cluster
    raise ClusterError("all places of test clusters are in use", found=f"mlctest0 to mlctest{PLACES - 1}")


if __name__ == "__main__":
    from slurm_cluster_command import main

    sys.exit(main())
