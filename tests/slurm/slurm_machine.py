"""What a test cluster needs of this machine: root, Debian's packages, a name that nobody else uses; processes.

In:  nothing but the machine.
Out: refusals that say what is missing, installed packages, a claim on a name, facts about processes.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from slurm_conf import ClusterError, PlaceInUseError

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "iproute2", "shellcheck")
COMMANDS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "ip", "shellcheck", "nsenter", "unshare")
INSTALL_COMMAND = "python tests/slurm/slurm_cluster.py install"


def check_machine() -> None:
    """Refuse a machine on which no cluster can start.

    Raises:
        ClusterError: not root, or commands are missing.
    """
    if os.geteuid() != 0:
        raise ClusterError(
            "a test cluster needs namespaces and mounts",
            found=f"user id {os.geteuid()}",
            needed="root",
            hint="the same command as root",
        )
    missing = [command for command in COMMANDS if shutil.which(command) is None]
    if missing:
        raise ClusterError(
            "commands are missing",
            found=", ".join(missing),
            needed=f"Debian's packages {' '.join(PACKAGES)}, and /usr/sbin in PATH",
            hint=INSTALL_COMMAND,
        )
    if not Path("/etc/slurm").is_dir():
        raise ClusterError("there is no folder /etc/slurm", needed="Debian's packages", hint=INSTALL_COMMAND)


def install_packages() -> None:
    """Install the packages that are missing.

    Raises:
        ClusterError: not root, or apt-get failed.
    """
    query = ["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Package}\n", *PACKAGES]
    status = subprocess.run(query, capture_output=True, text=True, check=False)
    present = {line.split()[1] for line in status.stdout.splitlines() if line.startswith("installed ")}
    missing = [package for package in PACKAGES if package not in present]
    if not missing:
        return
    if os.geteuid() != 0:
        raise ClusterError(
            "packages are missing", found=", ".join(missing), needed="root, to install them", hint="the same as root"
        )
    environ = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    get = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *missing]
    if subprocess.run(get, env=environ, check=False).returncode == 0:
        return
    # A fresh image has no package lists yet, or old ones.
    subprocess.run(["apt-get", "update", "--quiet"], env=environ, check=False)
    if subprocess.run(get, env=environ, check=False).returncode:
        raise ClusterError("packages cannot be installed", found=", ".join(missing), hint=" ".join(get))


def claim_name(name: str) -> socket.socket:
    """Hold a cluster's name until the socket is closed or this process ends: an abstract socket is no file.

    Raises:
        PlaceInUseError: another process holds it.
    """
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0slurm-test-cluster/{name}")
    except OSError as error:
        claim.close()
        if error.errno != errno.EADDRINUSE:
            raise
        raise PlaceInUseError(
            "a living process has a cluster of this name",
            found=name,
            hint="choose another name and subnet (--name, --subnet)",
        ) from None
    return claim


def run_command(
    shown: Sequence[str],
    command: Sequence[str],
    environ: Mapping[str, str],
    check: bool,
    timeout_seconds: float,
    cwd: Path | None,
) -> subprocess.CompletedProcess[str]:
    """Run a command, and end all it started in its group when it takes too long.

    Args:
        shown: the command as messages show it.
        check: whether a failure is an error.

    Raises:
        ClusterError: it failed, or did not end.
    """
    process = subprocess.Popen(
        command,
        env=dict(environ),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=timeout_seconds)
    except subprocess.TimeoutExpired:
        raise ClusterError(f"`{' '.join(shown)}` did not end within {timeout_seconds:g} s") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if check and process.returncode:
        found = f"exit code {process.returncode}; {errors.strip()} {output.strip()}"
        raise ClusterError(f"`{' '.join(shown)}` failed", found=found)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def process_name(process: int) -> str:
    """The name of a process's program; empty when it has ended."""
    try:
        return Path(f"/proc/{process}/comm").read_text().strip()
    except OSError:
        return ""


def process_start(process: int) -> float:
    """When a process started, in seconds since 1970, to a clock tick (0.01 s); infinite when it has ended."""
    try:
        ticks = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return math.inf
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")
