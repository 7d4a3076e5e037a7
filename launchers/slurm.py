"""SLURM's command-line clients: thin calls with a time limit.

In:  job ids; PATH and SLURM_CONF of this process.
Out: what SLURM knows of jobs; SlurmError where a client is missing, fails, or gets no answer from the controller.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from mlc.errors import MlcError

TIMEOUT_SECONDS = 10.0
COMMENT_PREFIX = "mlc:"
"""A job's comment is this and its run folder."""
ENDED_STATES = frozenset(
    {
        *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED"),
        *("NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"),
    }
)

# Only the comment can hold any character, so it comes last.
_SQUEUE_FORMAT = "%i|%A|%F|%T|%D|%N|%r|%k"
_SQUEUE_LINE = re.compile(r"[0-9][0-9_+,%\[\]\-.]*\|[0-9]+\|[0-9]+\|[A-Z_]+\|")
_SACCT_FORMAT = "JobID,JobIDRaw,State,NNodes,NodeList"
_FILTERS = ("SQUEUE_", "SACCT_")


class SlurmError(MlcError):
    """A SLURM client is not installed, failed, or had no answer in time."""


@dataclass(frozen=True)
class Job:
    """A job, or tasks of an array, as SLURM shows it.

    Attributes:
        job_id: "123"; of an array "123_4", or "123_[5-9%1]" for tasks that wait together.
        raw_id: SLURM_JOB_ID inside it: for an array task another number than the array's.
        array_id: number that sbatch printed: of the array, or of the job itself.
        state: SLURM's word, "RUNNING".
        reason: why it waits, or why it ended; "" if there is none.
        nodes: their number; what was asked for while it waits.
        hosts: "n[1-4]"; "" while it waits.
        comment: of the job, or "".
    """

    job_id: str
    raw_id: str
    array_id: str
    state: str
    reason: str = ""
    nodes: str = ""
    hosts: str = ""
    comment: str = ""

    @property
    def active(self) -> bool:
        """Whether it waits, runs, or is being cleaned up."""
        return self.state not in ENDED_STATES


def my_jobs(timeout_seconds: float = TIMEOUT_SECONDS) -> list[Job]:
    """This user's jobs that squeue knows, ended ones included (for `MinJobAge`, 5 minutes by default)."""
    return _squeue("--me", timeout_seconds)


def jobs_by_id(job_ids: Sequence[str], timeout_seconds: float = TIMEOUT_SECONDS) -> list[Job]:
    """Those of some jobs that squeue knows, whoever owns them, ended ones included."""
    if not job_ids:
        return []
    try:
        return _squeue(f"--jobs={','.join(job_ids)}", timeout_seconds)
    except SlurmError as error:
        # Said of a single unknown job only; of several, those that are known are listed (seen in 22.05).
        if "Invalid job id" in str(error.found):
            return []
        raise


def accounted_jobs(job_ids: Sequence[str], timeout_seconds: float = TIMEOUT_SECONDS) -> list[Job]:
    """Ended jobs, from accounting; SlurmError where the cluster keeps none."""
    if not job_ids:
        return []
    options = ["--noheader", "--parsable2", "--allocations", f"--format={_SACCT_FORMAT}"]
    lines = call(["sacct", *options, f"--jobs={','.join(job_ids)}"], timeout_seconds).splitlines()
    jobs = []
    for line in lines:
        job_id, raw_id, state, nodes, hosts = (line.split("|", 4) + [""] * 5)[:5]
        if state:  # "CANCELLED by 1000"
            array_id = job_id.partition("_")[0]
            hosts = "" if hosts == "None assigned" else hosts
            jobs.append(Job(job_id, raw_id, array_id, state.split()[0], nodes=nodes, hosts=hosts))
    return jobs


def call(arguments: Sequence[str], timeout_seconds: float = TIMEOUT_SECONDS) -> str:
    """Run a client and return its standard output.

    Variables of the user that set filters for squeue or sacct do not count.

    Raises:
        SlurmError: it is not installed, ended with another code than 0, or took longer than `timeout_seconds`.
    """
    environ = {name: value for name, value in os.environ.items() if not name.startswith(_FILTERS)}
    try:
        done = subprocess.run(
            arguments,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_seconds,
            check=False,
            env=environ,
            errors="replace",
        )
    except FileNotFoundError:
        raise SlurmError("no SLURM client here", found=f"no {arguments[0]} in PATH") from None
    except OSError as error:
        raise SlurmError("a SLURM client cannot be run", found=str(error), where=arguments[0]) from None
    except subprocess.TimeoutExpired:
        raise SlurmError(
            "SLURM does not answer", found=f"nothing in {timeout_seconds:g} s", where=arguments[0]
        ) from None
    if done.returncode:
        said = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise SlurmError("SLURM gives no answer", found=said, where=arguments[0])
    return done.stdout


def parse_squeue(output: str) -> list[Job]:
    """Jobs from squeue's output. A line that begins no job belongs to the comment before it."""
    lines: list[str] = []
    for line in output.split("\n"):
        if _SQUEUE_LINE.match(line):
            lines.append(line)
        elif lines and line:
            lines[-1] += f"\n{line}"
    jobs = []
    for line in lines:
        job_id, raw_id, array_id, state, nodes, hosts, reason, comment = (line.split("|", 7) + [""] * 8)[:8]
        reason, comment = ("" if text in ("None", "(null)") else text for text in (reason, comment))
        jobs.append(Job(job_id, raw_id, array_id, state, reason, nodes, hosts, comment))
    return jobs


def _squeue(which: str, timeout_seconds: float) -> list[Job]:
    return parse_squeue(
        call(["squeue", "--noheader", "--states=all", which, f"--format={_SQUEUE_FORMAT}"], timeout_seconds)
    )
