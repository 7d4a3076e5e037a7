"""What tests of single jobs ask: how SLURM shows a job, and what its batch script noted.

In:  a running `SlurmCluster`, a `Submitted`.
Out: states, fields, events, text.
"""

from __future__ import annotations

import json
from typing import Any

from slurm_cluster import SlurmCluster

from launchers.submission import Submitted

JOB_SECONDS = 150.0
"""For a job of a second or two, with a requeue or two, beside other work."""


def shown(cluster: SlurmCluster, job: str) -> str:
    """All that SLURM says of a job, in one line."""
    return cluster.run("scontrol", "--oneliner", "show", "job", job).stdout


def states(cluster: SlurmCluster, job: str) -> list[str]:
    """Of a job, or of all tasks of an array, by their numbers."""
    options = ("--noheader", "--states=all", "--array", f"--jobs={job}", "--format=%i %T")
    lines = sorted(cluster.run("squeue", *options, check=False).stdout.splitlines())
    return [line.split()[1] for line in lines]


def wait_for_states(cluster: SlurmCluster, job: str, *expected: str, seconds: float = JOB_SECONDS) -> None:
    cluster.wait_for(lambda: states(cluster, job) == list(expected), seconds, f"job {job} to be {expected}")


def events(submitted: Submitted, kind: str = "") -> list[dict[str, Any]]:
    path = submitted.folder / "events.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    return [event for event in found if not kind or event["event"] == kind]


def batch_log(submitted: Submitted) -> str:
    return (submitted.folder / "batch.log").read_text()
