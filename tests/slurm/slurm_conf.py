"""What a SLURM test cluster looks like, and its configuration files.

In:  a folder, a name, a subnet, the number of nodes and what each pretends to have.
Out: paths and addresses of the cluster; slurm.conf and the files beside it, in the cluster's `etc` folder.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from mlc.errors import MlcError

CONTROLLER = "ctl"
CONTROLLER_NUMBER, MACHINE_NUMBER = 253, 254
NODES_AT_MOST = 200
MEMORY_PER_NODE_MIB = 16_000
"""Claimed, never enforced: so that `--mem` is accepted."""
FOLDER_LENGTH_AT_MOST = 70
"""slurmstepd listens at SPOOL/n1/n1_JOB.STEP; a socket's path has 107 characters at most."""
LAYOUT_FILE = "cluster.json"


class ClusterError(MlcError):
    """The test cluster cannot be started, or did not come to the state that was waited for."""


class PlaceInUseError(ClusterError):
    """A living process has a cluster of this name, or this machine an address of this subnet."""


@dataclass(frozen=True)
class ClusterLayout:
    """The unchanging facts of one cluster.

    Args:
        folder: configuration, state, spool and logs of the cluster; must not exist, be empty, or be a cluster's.
        name: prefix of its network namespaces, and the name of its network interface on this machine.
        subnet: first three numbers of an unused /24: .1 to .N are the nodes, .253 the controller, .254 this machine.
        grace_seconds: what a preempted job of the partition `low` has from the first signal to the last.
        kill_wait_seconds: from SIGTERM to SIGKILL at a time limit or scancel.
        extra_config: more lines of slurm.conf.

    Raises:
        ClusterError: a name, subnet, folder or number that cannot be used.
    """

    folder: Path
    name: str = "mlc"
    subnet: str = "10.78.0"
    nodes: int = 4
    cpus_per_node: int = 2
    gpus_per_node: int = 0
    grace_seconds: int = 20
    kill_wait_seconds: int = 5
    extra_config: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9]{0,11}", self.name):
            raise ClusterError(
                "this cannot name a cluster",
                found=self.name,
                needed="a small letter, then at most 11 small letters or digits (it names a network interface)",
            )
        numbers = self.subnet.split(".")
        if len(numbers) != 3 or not all(number.isdecimal() and int(number) < 256 for number in numbers):
            raise ClusterError("this is no subnet", found=self.subnet, needed="three numbers, like 10.78.0")
        if not 1 <= self.nodes <= NODES_AT_MOST:
            raise ClusterError("so many nodes cannot be", found=self.nodes, needed=f"1 to {NODES_AT_MOST}")
        if len(str(self.folder)) > FOLDER_LENGTH_AT_MOST or " " in str(self.folder):
            raise ClusterError(
                "SLURM cannot put its sockets into this folder",
                found=str(self.folder),
                needed=f"an absolute path of at most {FOLDER_LENGTH_AT_MOST} characters without spaces",
            )

    @property
    def node_names(self) -> list[str]:
        """n1 to nN."""
        return [f"n{number}" for number in range(1, self.nodes + 1)]

    @property
    def addresses(self) -> dict[str, str]:
        """Host name -> IPv4 address, the controller first."""
        numbers = {CONTROLLER: CONTROLLER_NUMBER} | {f"n{number}": number for number in range(1, self.nodes + 1)}
        return {host: f"{self.subnet}.{number}" for host, number in numbers.items()}

    @property
    def machine_address(self) -> str:
        """The address of this machine in the cluster's network."""
        return f"{self.subnet}.{MACHINE_NUMBER}"

    @property
    def etc(self) -> Path:
        """Configuration; the hosts see it as /etc/slurm."""
        return self.folder / "etc"

    @property
    def logs(self) -> Path:
        """Logs of all daemons, and of every boot."""
        return self.folder / "log"

    @property
    def config_file(self) -> Path:
        """What SLURM_CONF must name."""
        return self.etc / "slurm.conf"

    def write(self, first_job_id: int = 1) -> None:
        """Write all configuration files into an empty or new folder.

        Args:
            first_job_id: the id of the first job.
        """
        for name in ("etc", "state", "log", *(f"spool/{node}" for node in self.node_names)):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        lines = [f"{address} {host}" for host, address in self.addresses.items()]
        (self.etc / "hosts").write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
        # Nothing uses it, but slurmd loads one, and the default, "autodetect", ends slurmd on some machines.
        (self.etc / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        # The default, /tmp, is one folder for all hosts: their PMIx servers would meet in it.
        (self.etc / "mpi.conf").write_text("PMIxCliTmpDirBase=/dev/shm\n")
        if self.gpus_per_node:
            for gpu in range(self.gpus_per_node):
                # slurmd wants a device; nobody opens it.
                (self.etc / f"gpu{gpu}").symlink_to("/dev/null")
            (self.etc / "gres.conf").write_text(f"Name=gpu File={self.etc}/gpu[0-{self.gpus_per_node - 1}]\n")
        values = asdict(self) | {"folder": str(self.folder)}
        (self.folder / LAYOUT_FILE).write_text(json.dumps(values, indent=2) + "\n")
        self.config_file.write_text(self._slurm_conf(first_job_id))

    def retire(self) -> None:
        """After the end: a client that still has this SLURM_CONF fails at once and looks for no controller.

        Were the file gone, a client would look for it for a minute.
        """
        if self.config_file.exists():
            self.config_file.replace(self.logs / "slurm.conf")
            self.config_file.write_text(f"# The cluster {self.name} was stopped. Its slurm.conf lies in {self.logs}.\n")

    def _slurm_conf(self, first_job_id: int) -> str:
        gres = f" Gres=gpu:{self.gpus_per_node}" if self.gpus_per_node else ""
        nodes = "\n".join(
            f"NodeName={host} NodeAddr={self.addresses[host]} CPUs={self.cpus_per_node} "
            f"RealMemory={MEMORY_PER_NODE_MIB}{gres}"
            for host in self.node_names
        )
        return f"""\
ClusterName={self.name}
SlurmctldHost={CONTROLLER}({self.addresses[CONTROLLER]})
SlurmUser=root
SlurmdUser=root
StateSaveLocation={self.folder}/state
SlurmdSpoolDir={self.folder}/spool/%n
SlurmctldPidFile={self.folder}/{CONTROLLER}.pid
SlurmdPidFile={self.folder}/%n.pid
SlurmctldLogFile={self.logs}/{CONTROLLER}.log
SlurmdLogFile={self.logs}/%n.log
FirstJobId={first_job_id}

# Neither munge nor cgroups: every local user is trusted.
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none

# A node may claim more CPUs than this machine has.
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
{"GresTypes=gpu" if self.gpus_per_node else ""}

# Seconds where a real cluster takes minutes. A requeued job is held back for as long as cred_expire (default 120).
AuthInfo=cred_expire=5
MessageTimeout=5
SlurmdTimeout=10
KillWait={self.kill_wait_seconds}
SchedulerParameters=bf_interval=2,sched_interval=5

# A node that booted by surprise is DOWN and its jobs are requeued.
ReturnToService=1
JobRequeue=1
# Ended jobs stay in `scontrol show job` for a day.
MinJobAge=86400
JobCompType=jobcomp/filetxt
JobCompLoc={self.logs}/jobs.txt

PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes=ALL PriorityTier=10 Default=YES
PartitionName=high Nodes=ALL PriorityTier=20
PartitionName=low Nodes=ALL PriorityTier=1 GraceTime={self.grace_seconds}
{nodes}
{self.extra_config}
"""


def read_layout(folder: Path) -> ClusterLayout:
    """The layout a cluster was started with.

    Raises:
        ClusterError: no cluster was ever started in this folder.
    """
    try:
        values = json.loads((folder / LAYOUT_FILE).read_text())
    except FileNotFoundError:
        raise ClusterError(
            "no cluster was started in this folder",
            found=str(folder),
            hint=f"python tests/slurm/slurm_cluster.py start 4 --folder {folder}",
        ) from None
    return ClusterLayout(**(values | {"folder": Path(values["folder"])}))
