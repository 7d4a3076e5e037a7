"""Hosts that are namespaces of this machine, in a network of their own.

In:  the layout of a cluster (names and addresses); the command each host runs at boot.
Out: per host its own network, host name, process table, IPC, mounts, /etc/hosts and /dev/shm; all other files are
     this machine's. Nothing is remembered here: everything is read from the kernel, so another process can go on.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from slurm_conf import ClusterError, ClusterLayout, PlaceInUseError

NAMESPACES = Path("/run/netns")
DEATH_SECONDS = 20.0
POLL_SECONDS = 0.01
HIDDEN = "hidden"
"""Source of the mounts that hide a folder: how they are told from all others."""
INIT = """
set -e
hostname "$1"
mount --bind "$2/hosts" /etc/hosts
mount --bind "$2" /etc/slurm
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
shift 2
"$@" >&2
echo up
exec >&2
set +e
while :; do sleep 3600; done
"""
"""Process 1 of a host: reaps orphans and outlives the daemon. /etc/slurm serves commands without an environment."""


def ip(*arguments: str) -> str:
    """Run `ip`, and return what it printed.

    Raises:
        ClusterError: `ip` failed.
    """
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"`ip {' '.join(arguments)}` failed", found=done.stderr.strip())
    return done.stdout


class NamespaceHosts:
    """All hosts of one cluster, by name."""

    def __init__(self, layout: ClusterLayout) -> None:
        self.layout = layout
        self._boots: list[subprocess.Popen[bytes]] = []

    def _namespace(self, host: str) -> str:
        return f"{self.layout.name}-{host}"

    def existing(self) -> list[str]:
        """Names of hosts that have a network namespace now, also of an earlier owner."""
        pattern = re.compile(rf"{self.layout.name}-(ctl|n\d+)")
        names = sorted(os.listdir(NAMESPACES)) if NAMESPACES.is_dir() else []
        return [match[1] for match in map(pattern.fullmatch, names) if match]

    def create_network(self) -> None:
        """Make this machine's interface and every host's network, all plugged into one bridge.

        The bridge lies in a namespace of its own, where no firewall of this machine applies.

        Raises:
            ClusterError: the subnet is in use.
        """
        layout, lan = self.layout, self._namespace("lan")
        taken = [line for line in ip("-4", "-o", "address").splitlines() if f" {layout.subnet}." in line]
        if taken:
            raise PlaceInUseError("the subnet is in use", found=taken[0], hint="choose another subnet (--subnet)")
        ip("netns", "add", lan)
        ip("-n", lan, "link", "add", "lan", "type", "bridge")
        ip("-n", lan, "link", "set", "lan", "up")
        ip("link", "add", layout.name, "type", "veth", "peer", "name", "here", "netns", lan)
        ip("-n", lan, "link", "set", "here", "master", "lan", "up")
        ip("address", "add", f"{layout.machine_address}/24", "dev", layout.name)
        ip("link", "set", layout.name, "up")
        for host, address in layout.addresses.items():
            name = self._namespace(host)
            ip("netns", "add", name)
            ip("-n", lan, "link", "add", host, "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("-n", lan, "link", "set", host, "master", "lan", "up")
            ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")

    def remove_all(self) -> None:
        """Kill every process of every host, and remove the network, whoever made them."""
        hosts = self.existing()
        self.power_off(*hosts)
        if Path("/sys/class/net", self.layout.name).exists():
            ip("link", "delete", self.layout.name)
        for host in (*hosts, "lan"):
            if (NAMESPACES / self._namespace(host)).exists():
                ip("netns", "delete", self._namespace(host))

    def processes(self, *hosts: str) -> list[int]:
        """Ids, as this machine counts, of all living processes of these hosts."""
        networks = set()
        for host in hosts:
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(NAMESPACES / self._namespace(host))
                networks.add((status.st_dev, status.st_ino))
        found = []
        for name in os.listdir("/proc"):
            if name.isdecimal():
                with contextlib.suppress(OSError):  # it ended, or is a zombie
                    status = os.stat(f"/proc/{name}/ns/net")
                    if (status.st_dev, status.st_ino) in networks:
                        found.append(int(name))
        return sorted(found)

    def first_process(self, host: str) -> int | None:
        """Id of a host's process 1, as this machine counts; None where the host is off."""
        for process in self.processes(host):
            with contextlib.suppress(OSError):
                ids = re.search(r"^NSpid:\s+(.*)$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
                if ids and ids[1].split()[1:] == ["1"]:
                    return process
        return None

    def boot(self, daemons: Mapping[str, Sequence[str]], environ: Mapping[str, str]) -> None:
        """Start hosts, all at once, and on each its daemon, which goes into the background when it has begun.

        Args:
            daemons: host name -> command.
            environ: of the daemons.

        Raises:
            ClusterError: a host is on already, its namespaces cannot be made, or its daemon ended.
        """
        begun = {host: self._begin_boot(host, daemon, environ) for host, daemon in daemons.items()}
        for host, boot in begun.items():
            assert boot.stdout is not None
            with boot.stdout as printed:
                if printed.readline() != b"up\n":
                    raise ClusterError(
                        f"{host} did not boot",
                        found=self._boot_log(host).read_text(errors="replace").strip() or "no message",
                        needed=f"namespaces and mounts (CAP_SYS_ADMIN), and that `{daemons[host][0]}` starts",
                        hint=f"the logs in {self.layout.logs}",
                    )

    def _boot_log(self, host: str) -> Path:
        return self.layout.logs / f"{host}.boot"

    def _begin_boot(self, host: str, daemon: Sequence[str], environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
        if self.processes(host):
            raise ClusterError(f"{host} is on already")
        unshare = ["unshare", "--uts", "--ipc", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        init = ["bash", "-c", INIT, "init", host, str(self.layout.etc), *daemon]
        with open(self._boot_log(host), "ab") as errors:
            boot = subprocess.Popen(
                ["nsenter", f"--net={NAMESPACES / self._namespace(host)}", *unshare, *init],
                env=dict(environ),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        self._boots.append(boot)
        return boot

    def power_off(self, *hosts: str) -> None:
        """SIGKILL all processes of these hosts, and wait until there are none.

        Raises:
            ClusterError: a process does not die.
        """
        limit = time.monotonic() + DEATH_SECONDS
        while left := self.processes(*hosts):
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            if time.monotonic() > limit:
                raise ClusterError(f"processes of {' '.join(hosts)} do not die", found=str(left))
            time.sleep(POLL_SECONDS)
        self._boots = [boot for boot in self._boots if boot.poll() is None]

    def enter(self, host: str, *command: str) -> list[str]:
        """The command line that runs `command` on a host, in this process's working directory.

        Raises:
            ClusterError: the host is off.
        """
        process = self.first_process(host)
        if process is None:
            raise ClusterError(f"{host} is off", hint=f"python tests/slurm/slurm_cluster.py on {host}")
        kinds = ["--net", "--uts", "--ipc", "--mount", "--pid"]
        return ["nsenter", "--target", str(process), *kinds, f"--wdns={os.getcwd()}", "--", *command]

    def set_link(self, host: str, state: str) -> None:
        """Take a host's network link `up` or `down`: silence, not a reset."""
        ip("-n", self._namespace("lan"), "link", "set", host, state)

    def cut_hosts(self) -> list[str]:
        """Hosts whose link is down."""
        lines = ip("-n", self._namespace("lan"), "-o", "link").splitlines()
        down = {line.split()[1].split("@")[0] for line in lines if ",UP" not in line.split()[2]}
        return [host for host in self.layout.addresses if host in down]

    def add_blackhole(self, host: str, address: str) -> None:
        """Drop all that a host sends to an address."""
        ip("-n", self._namespace(host), "route", "add", "blackhole", f"{address}/32")

    def remove_blackhole(self, host: str, address: str) -> None:
        """Undo `add_blackhole`."""
        ip("-n", self._namespace(host), "route", "delete", "blackhole", f"{address}/32")

    def blackholes(self, host: str) -> list[str]:
        """Addresses a host cannot send to."""
        routes = ip("-n", self._namespace(host), "route", "show", "type", "blackhole")
        return [line.split()[1] for line in routes.splitlines()]

    def hide_folder(self, host: str, path: Path) -> None:
        """Mount an empty folder over `path`, seen by this host alone."""
        self._run_on(host, "mount", "-t", "tmpfs", HIDDEN, str(path))

    def show_folder(self, host: str, path: Path) -> None:
        """Undo `hide_folder`."""
        self._run_on(host, "umount", str(path))

    def _run_on(self, host: str, *command: str) -> None:
        done = subprocess.run(self.enter(host, *command), capture_output=True, text=True, check=False)
        if done.returncode:
            raise ClusterError(f"`{' '.join(command)}` failed on {host}", found=done.stderr.strip())

    def hidden_folders(self, host: str) -> list[str]:
        """Folders hidden on a host that is on."""
        mounts = Path(f"/proc/{self.first_process(host)}/mounts").read_text().splitlines()
        return [line.split()[1] for line in mounts if line.startswith(f"{HIDDEN} ")]
