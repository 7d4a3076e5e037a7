"""`mlc check cluster` on four nodes of a real SLURM cluster: all good, and with real faults."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import SlurmCluster

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 50
LIMIT_SECONDS = 60
HOSTS = "n1,n2,n3,n4"
ONE_STEP = "srun --ntasks-per-node=1 --nodes=4 --kill-on-bad-exit=0 --wait=0 {check}"
STEP_A_NODE = 'for host in ${{hosts//,/ }}; do srun --nodes=1 --ntasks=1 --nodelist="$host" {check} & done; wait'


def command_of(folder: Path) -> list[str]:
    options = ["--folder", str(folder / "run" / "check"), "--hosts", HOSTS, "--min-memory-gb", "0.1"]
    return [sys.executable, "-m", "mlc", "check", "cluster", *options, "--seconds", str(SECONDS)]


def check(cluster: SlurmCluster, folder: Path, start: str) -> str:
    """What a batch script on n1 printed that started the check on all nodes."""
    script, log = folder / "check.sbatch", folder / "check.log"
    lines = [
        "#!/bin/bash",
        f"cd {shlex.quote(str(ROOT))}",
        "export OMP_NUM_THREADS=1",
        "hosts=$(scontrol show hostnames | paste -sd, -)",
        start.format(check=shlex.join(command_of(folder))),
        'echo "ended with $? after $SECONDS s"',
    ]
    script.write_text("\n".join(lines) + "\n")
    options = ["--nodes=4", "--ntasks-per-node=1", f"--output={log}"]
    job = cluster.run("sbatch", "--parsable", *options, str(script)).stdout.strip()
    cluster.wait_for(lambda: log.exists() and "ended with" in log.read_text(), 2 * LIMIT_SECONDS, f"job {job}")
    return log.read_text()


def verdict_of(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The verdict, and the hosts of bad-nodes.txt."""
    verdict: dict[str, Any] = json.loads((folder / "run" / "check" / "verdict.json").read_text())
    lines = (folder / "run" / "check" / "bad-nodes.txt").read_text().splitlines()
    return verdict, [line.split("\t")[0] for line in lines]


def seconds_of(log: str) -> int:
    return int(log.rpartition(" after ")[2].split()[0])


def test_four_good_nodes(cluster: SlurmCluster, tmp_path: Path) -> None:
    log = check(cluster, tmp_path, ONE_STEP)
    verdict, bad = verdict_of(tmp_path)
    assert (verdict["bad"], verdict["warnings"], bad) == ({}, {}, []), log
    assert "ended with 0 " in log
    assert seconds_of(log) < LIMIT_SECONDS
    for host in HOSTS.split(","):
        found = json.loads((tmp_path / "run" / "check" / f"{host}.json").read_text())
        assert len(found["pairs"]) == 3


def test_a_node_without_the_shared_folder_is_named(cluster: SlurmCluster, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    cluster.hide_folder("n3", tmp_path / "run")
    log = check(cluster, tmp_path, ONE_STEP)
    verdict, bad = verdict_of(tmp_path)
    assert bad == ["n3"], log
    assert verdict["bad"]["n3"] == ["wrote no file: its process did not start, or the shared folder is not there"]
    assert "n3: shared folder: OSError: it is not there" in log
    assert "ended with 1 " in log
    assert seconds_of(log) < LIMIT_SECONDS


def test_a_node_that_reaches_no_other_is_named(cluster: SlurmCluster, tmp_path: Path) -> None:
    """The step is started from outside: n2 can hear of it and cannot talk to its partners."""
    cut_from_others(cluster, "n2")
    began = time.monotonic()
    environ = ["env", f"--chdir={ROOT}", "OMP_NUM_THREADS=1"]
    srun = ["srun", "--nodes=4", "--ntasks-per-node=1", "--kill-on-bad-exit=0", "--wait=0"]
    done = cluster.run(*environ, *srun, *command_of(tmp_path), check=False, timeout_seconds=2 * LIMIT_SECONDS)
    assert time.monotonic() - began < LIMIT_SECONDS
    verdict, bad = verdict_of(tmp_path)
    assert bad == ["n2"], done.stdout + done.stderr
    assert verdict["bad"]["n2"][0].startswith("no collective with n1, n3, n4 (3 of 3 partners): ")
    assert done.returncode == 1


def test_a_node_that_the_batch_node_does_not_reach_is_named(cluster: SlurmCluster, tmp_path: Path) -> None:
    """A single step would fail as a whole, before any process runs; so each node is a step."""
    cut_from_others(cluster, "n2")
    log = check(cluster, tmp_path, STEP_A_NODE)
    verdict, bad = verdict_of(tmp_path)
    assert bad == ["n2"], log
    assert "its process did not start" in verdict["bad"]["n2"][0]
    assert seconds_of(log) < LIMIT_SECONDS


def cut_from_others(cluster: SlurmCluster, host: str) -> None:
    for other in HOSTS.split(","):
        if other != host:
            cluster.blackhole(host, other)
