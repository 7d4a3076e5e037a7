"""`mlc check cluster`: options in, lines for the log of a job out, exit code 0 where all hosts are good.

In:  arguments, SLURM's name of this host.
Out: a table on a terminal, plain lines in a log, from the one process that judged; its own problems from any other.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from launchers.node_check.check import Outcome, own_index, parse_hosts, start
from launchers.node_check.findings import Host
from launchers.node_check.local import Limits
from launchers.node_check.verdict import Verdict
from mlc.errors import EXIT_FAILED, UsageError


def check_cluster(
    folder: Annotated[Path, typer.Option("--folder", metavar="FOLDER", help="On the shared file system; a new one.")],
    hosts: Annotated[
        str | None,
        typer.Option("--hosts", metavar="A,B", help="All hosts, or name=address each; default: this one alone."),
    ] = None,
    gpus: Annotated[int, typer.Option("--gpus", min=0, help="GPUs a host must have; 0: do not look.")] = 0,
    memory_gb: Annotated[float, typer.Option("--min-memory-gb", min=0, help="Available memory, in GB.")] = 1.0,
    shared_memory_gb: Annotated[float, typer.Option("--min-shm-gb", min=0, help="Free in /dev/shm, in GB.")] = 0.0,
    folder_gb: Annotated[float, typer.Option("--min-free-gb", min=0, help="Free in the folder, in GB.")] = 1.0,
    clock_skew_seconds: Annotated[
        float, typer.Option("--max-clock-skew-seconds", min=0, help="A clock's distance from the others' median.")
    ] = 2.0,
    seconds: Annotated[float, typer.Option("--seconds", min=5, help="For everything.")] = 50.0,
) -> None:
    """Find bad nodes before training: GPUs, memory, the shared folder, clocks, collectives between pairs of hosts.

    Start one process a node, all at the same time. The first host writes FOLDER/verdict.json and FOLDER/bad-nodes.txt
    (a line "host<TAB>reason" for each bad host), at the latest after --seconds. Exit code 1 if a host is bad:
    docs/node_check.md.
    """
    hostname = socket.gethostname()
    name = os.environ.get("SLURMD_NODENAME") or hostname
    all_hosts = parse_hosts(hosts) if hosts else (Host(name, name),)
    if len({host.name for host in all_hosts}) != len(all_hosts):
        raise UsageError("a host is named twice", found=hosts or "", where="--hosts")
    me = own_index(all_hosts, os.environ, hostname)
    if me is None:
        hint = '--hosts "$(scontrol show hostnames | paste -sd, -)"'
        raise UsageError("this host is not one of the hosts", found=name, needed=hosts, where="--hosts", hint=hint)
    limits = Limits(gpus, memory_gb, shared_memory_gb, folder_gb, clock_skew_seconds)
    outcome = start(folder, all_hosts, me, limits, seconds, os.environ)
    if outcome.judged and outcome.verdict is not None:
        _show(all_hosts, outcome.verdict, folder)
    elif outcome.findings.problems:
        for problem in outcome.findings.problems:
            print(f"node check: {name}: {problem}", file=sys.stderr, flush=True)
    sys.exit(EXIT_FAILED if is_bad(outcome) else 0)


def is_bad(outcome: Outcome) -> bool:
    """Whether to end with an error; a process that has no verdict knows of itself alone."""
    return bool(outcome.findings.problems if outcome.verdict is None else outcome.verdict.bad)


def _show(hosts: tuple[Host, ...], verdict: Verdict, folder: Path) -> None:
    rows = [(host.name, "bad", "; ".join(verdict.bad[host.name])) for host in hosts if host.name in verdict.bad]
    rows += [(host, "warning", "; ".join(said)) for host, said in verdict.warnings.items()]
    if sys.stdout.isatty() and rows:
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        table = Table("host", "", "why")
        for row in rows:
            table.add_row(*map(escape, row))
        Console().print(table)
    else:
        for host, kind, why in rows:
            print(f"node check: {host}: {kind}: {why}")
    good = len(hosts) - len(verdict.bad)
    print(f"node check: {good} of {len(hosts)} hosts are good; {folder / 'verdict.json'}", flush=True)
