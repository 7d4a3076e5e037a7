"""The command line of slurm_cluster.py: a test cluster by hand.

In:  arguments; the cluster's folder, where an earlier call left its layout.
Out: a started, changed or stopped cluster; an exit code.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from slurm_cluster import SlurmCluster
from slurm_conf import ClusterError, read_layout
from slurm_machine import install_packages

EXAMPLES = """
examples:
  python tests/slurm/slurm_cluster.py start 4        # prints: export SLURM_CONF=...
  export SLURM_CONF=/tmp/mlc-slurm/etc/slurm.conf    # always: no client may look for another cluster
  srun -N4 hostname
  python tests/slurm/slurm_cluster.py off n2         # SIGKILL to all its processes
  python tests/slurm/slurm_cluster.py on n2
  scontrol update nodename=n2 state=resume           # a node that was DOWN is used again after this
  python tests/slurm/slurm_cluster.py exec n1 ip address
  python tests/slurm/slurm_cluster.py stop

A second cluster beside it: start --folder /tmp/other --name other --subnet 10.90.0; later calls need --folder alone.
"""


def parser() -> argparse.ArgumentParser:
    """The arguments of all commands."""
    folder = argparse.ArgumentParser(add_help=False)
    default = Path(tempfile.gettempdir(), "mlc-slurm")
    folder.add_argument("--folder", type=Path, default=default, help="state and logs (default: %(default)s)")
    whole = argparse.ArgumentParser(
        prog="slurm_cluster.py",
        description="A real SLURM cluster on this machine, for tests. Needs root.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    start = commands.add_parser("start", parents=[folder], help="start a cluster, in place of one of the same name")
    start.add_argument("nodes", type=int, nargs="?", default=4, help="number of nodes (default: 4)")
    start.add_argument("--name", default="mlc", help="prefix of namespaces and name of the interface (default: mlc)")
    start.add_argument("--subnet", default="10.78.0", help="an unused /24 (default: 10.78.0)")
    start.add_argument("--cpus", type=int, default=2, help="CPUs each node claims (default: 2)")
    start.add_argument("--gpus", type=int, default=0, help="GPUs each node pretends to have (default: 0)")
    start.add_argument("--grace-seconds", type=int, default=20, help="of the partition low (default: 20)")
    commands.add_parser("stop", parents=[folder], help="kill everything and remove the network; the logs stay")
    commands.add_parser("status", parents=[folder], help="nodes, jobs and numbers of processes")
    commands.add_parser("install", help="install Debian's packages where they are missing")
    for name, does in (
        ("off", "SIGKILL all processes of a host"),
        ("on", "boot a host"),
        ("cut", "take a host's network away"),
        ("heal", "give it back"),
        ("exec", "run a command on a host"),
    ):
        one = commands.add_parser(name, parents=[folder], help=does)
        one.add_argument("host", help="n1 to nN, or ctl")
        if name == "exec":
            one.add_argument("arguments", nargs=argparse.REMAINDER, metavar="CMD ...", help="the command")
    return whole


def _start(arguments: argparse.Namespace) -> None:
    cluster = SlurmCluster(
        arguments.folder.resolve(),
        nodes=arguments.nodes,
        cpus_per_node=arguments.cpus,
        gpus_per_node=arguments.gpus,
        name=arguments.name,
        subnet=arguments.subnet,
        grace_seconds=arguments.grace_seconds,
    )
    cluster.start()
    print(f"export SLURM_CONF={cluster.layout.config_file}")


def _act(arguments: argparse.Namespace) -> int:
    cluster = SlurmCluster.of(read_layout(arguments.folder.resolve()))
    if arguments.command == "stop":
        cluster.stop()
        return 0
    if arguments.command == "status":
        print(cluster.status())
        return 0
    if arguments.host not in cluster.layout.addresses:
        raise ClusterError("there is no such host", found=arguments.host, needed=", ".join(cluster.layout.addresses))
    if arguments.command == "exec":
        return subprocess.run(
            cluster.hosts.enter(arguments.host, *arguments.arguments), env=cluster.environ, check=False
        ).returncode
    act = {"off": cluster.power_off, "on": cluster.power_on, "cut": cluster.cut, "heal": cluster.heal}
    act[arguments.command](arguments.host)
    return 0


def main() -> int:
    """Do what the command line says. Returns the exit code."""
    arguments = parser().parse_args()
    try:
        if arguments.command == "install":
            install_packages()
        elif arguments.command == "start":
            _start(arguments)
        else:
            return _act(arguments)
    except ClusterError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0
