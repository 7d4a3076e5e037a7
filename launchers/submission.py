"""One submission: its folder, its batch script, and the call of sbatch.

In:  a `Request`: what is to run, on what, and how it comes back.
Out: `<folder>.../submit-00001/` with job.sbatch, submit.json and a copy of the code; the job's id.

    submit-00001/job.sbatch     as submitted
    submit-00001/submit.json    kind, job ids, command, what was asked for, versions
    submit-00001/recipe.toml    resolved
    submit-00001/code/          mlc, data_prep, launchers (launchers.snapshot); changes.patch beside it
    submit-00001/batch.log      what the batch script says, over all its starts
    submit-00001/events.jsonl   starts and ends, for `mlc jobs`
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from launchers.script import Value, render, sbatch_path, template_text
from launchers.settings import CheckSettings, Resources, Site
from launchers.slurm import COMMENT_PREFIX, my_jobs
from launchers.snapshot import CodeVersion, snapshot
from mlc.errors import MlcError, UsageError
from mlc.files import write_atomically, write_json
from mlc.run_names import RECIPE_NAME

SBATCH_SECONDS = 60.0
_OF_A_JOB = re.compile(r"(SLURM|SLURMD|SRUN|PMI|PMIX)_(?!CONF$|CONF_SERVER$|CLUSTERS$|JWT$)")
"""Variables of a job that this process may be part of; sbatch would hand them on to the new one."""


@dataclass(frozen=True)
class Request:
    """One job, or one chain or array of them.

    Attributes:
        kind: which template: "train", "prep" or "command".
        name: of the job.
        folder: where submit-... go; its parent is what the job's comment names.
        subject: the run folder, or what else the job works on.
        logs: folder of what its processes print.
        needed: a folder that every host has to see.
        recipe: resolved recipe, as TOML; None without one.
        arguments: of mlc, or the command; where there is a recipe, the word "{recipe}" stands for its path.
        values: further variables of the template.
        start: how processes are started; which words there are depends on the template.
        chain: jobs in a row, each going on where the one before ended; 0 = one job, which requeues itself.
        tasks: of a job array whose tasks work side by side; 0 = no array.
        after: jobs that have to succeed first.
        template: the user's own; None = ours.
    """

    kind: Literal["train", "prep", "command"]
    name: str
    folder: Path
    subject: Path
    logs: Path
    needed: Path
    resources: Resources
    arguments: Sequence[str]
    recipe: str | None = None
    values: Mapping[str, Value] = field(default_factory=dict)
    start: str = "srun"
    chain: int = 0
    tasks: int = 0
    after: Sequence[str] = ()
    template: Path | None = None


@dataclass(frozen=True)
class Submitted:
    """A job that SLURM has."""

    job: str
    folder: Path


def submit(request: Request, site: Site, command: Sequence[str]) -> Submitted:
    """Write a submission's folder and hand its script to sbatch.

    Args:
        request: what is to run.
        site: of this cluster.
        command: that the user typed.

    Raises:
        UsageError: SLURM is not there, refuses the job, or has one of this folder already; or a name or path that
            it cannot take.
        MlcError: SLURM does not answer.
    """
    _refuse_second(request)
    request.needed.mkdir(parents=True, exist_ok=True)
    folder = _new_folder(request.folder)
    try:
        version = snapshot(folder)
        if request.recipe is not None:
            write_atomically(folder / RECIPE_NAME, request.recipe.encode())
        script = folder / "job.sbatch"
        write_atomically(script, script_of(request, site, folder).encode())
        # The description is there before the job can be: a job that nothing tells of would be lost.
        write_json(folder / "submit.json", _description(request, command, version, []))
        job = _sbatch(script)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    write_json(folder / "submit.json", _description(request, command, version, [job]))
    return Submitted(job, folder)


def script_of(request: Request, site: Site, folder: Path) -> str:
    """The batch script of a request whose submission lies in `folder`."""
    template = template_text(request.kind, request.template)
    return render(
        template, directives=_directives(request, site, folder), values=_values(request, site, folder), setup=site.setup
    )


def _directives(request: Request, site: Site, folder: Path) -> list[tuple[str, str]]:
    resources = request.resources
    gpus = str(resources.gpus_per_node) if resources.gpus_per_node else ""
    wanted = [
        ("job-name", request.name),
        ("comment", f"{COMMENT_PREFIX}{request.subject}"),
        ("nodes", resources.nodes),
        *_size(resources),
        (site.gpu_request, f"gpu:{gpus}" if gpus and site.gpu_request == "gres" else gpus),
        ("time", resources.time),
        ("mem", resources.memory),
        ("partition", resources.partition),
        ("account", resources.account),
        ("qos", resources.qos),
        ("constraint", resources.constraint),
        ("reservation", resources.reservation),
        ("exclude", resources.exclude),
        ("array", _array(request)),
        ("dependency", f"afterok:{':'.join(request.after)}" if request.after else ""),
        ("output", sbatch_path(folder / "batch.log")),
        ("signal", f"B:USR2@{site.warning_seconds}"),
    ]
    switches = ["open-mode=append", "requeue" if site.requeue else "no-requeue"]
    if request.after:
        switches.append("kill-on-invalid-dep=yes")
    further = [option.removeprefix("--") for option in site.sbatch_options]
    pairs = [(name, value) for name, value in wanted if value]
    return pairs + [(name, value) for name, _, value in (switch.partition("=") for switch in (*switches, *further))]


def _size(resources: Resources) -> list[tuple[str, str]]:
    """What a node has to have room for."""
    ranks, cpus = resources.ranks_of_a_node, resources.cpus_of_a_rank
    if resources.may_shrink:
        # A job that asked for tasks has to have as many when it comes back as it had at first (seen in 22.05), so that
        # it would wait for the node that it lost. Its steps say how many tasks there are.
        return [("mincpus", str(ranks * cpus))]
    return [("ntasks-per-node", str(ranks)), ("cpus-per-task", str(cpus))]


def _array(request: Request) -> str:
    if request.chain:
        return f"1-{request.chain}%1"
    return f"1-{request.tasks}" if request.tasks else ""


def _values(request: Request, site: Site, folder: Path) -> dict[str, Value]:
    container, resources = site.container, request.resources
    if request.start == "mpi" and container.kind != "none":
        raise UsageError(
            "mpirun would start its processes outside of the container",
            found=f"--start mpi with {container.kind}",
            hint="--start srun: the shards are the same",
        )
    sbatch_path(request.logs)  # srun takes it as sbatch does
    inside: tuple[str, ...] = ()
    srun_options = site.srun_options
    if container.kind == "apptainer":
        gpus = ("--nv",) if resources.gpus_per_node else ()
        mounts = tuple(word for mount in container.mounts for word in ("--bind", mount))
        inside = ("apptainer", "exec", *gpus, *mounts, *container.options, container.image)
    elif container.kind == "pyxis":
        mounts = (f"--container-mounts={','.join(container.mounts)}",) if container.mounts else ()
        srun_options += (f"--container-image={container.image}", *mounts, *container.options)
    values: dict[str, Value] = {
        "submit_folder": str(folder),
        "work_folder": str(Path.cwd()),
        "needed_folder": str(request.needed),
        "log_folder": str(request.logs),
        "arguments": _arguments(request, folder),
        "ranks_per_node": resources.ranks_of_a_node,
        "cpus_per_rank": resources.cpus_of_a_rank,
        "may_requeue": "yes" if site.requeue else "no",
        "chain": "yes" if request.chain else "no",
        "starts_without_progress": site.starts_without_progress,
        "variables": [f"{name}={value}" for name, value in site.variables.items()],
        "srun_options": srun_options,
        "inside": inside,
    }
    if request.kind != "command":
        values["python"] = site.python or ("python" if container.kind != "none" else sys.executable)
        values["start"] = request.start
    if request.kind == "train":
        values |= _check_values(site.check, resources)
    return {**values, **request.values}


def _arguments(request: Request, folder: Path) -> list[str]:
    if request.recipe is None:
        return list(request.arguments)
    return [str(folder / RECIPE_NAME) if word == "{recipe}" else word for word in request.arguments]


def _check_values(check: CheckSettings, resources: Resources) -> dict[str, Value]:
    numbers = {
        "gpus": resources.gpus_per_node,
        "min-memory-gb": check.min_memory_gb,
        "min-shm-gb": check.min_shm_gb,
        "min-free-gb": check.min_free_gb,
        "max-clock-skew-seconds": check.max_clock_skew_seconds,
    }
    options = [word for name, number in numbers.items() for word in (f"--{name}", f"{number:g}")]
    return {"check_seconds": check.seconds, "check_options": options if check.enabled else []}


def _description(request: Request, command: Sequence[str], version: CodeVersion, jobs: list[str]) -> dict[str, object]:
    return {
        "kind": request.kind,
        "job_ids": jobs,
        "command": list(command),
        "submitted": datetime.now(UTC).isoformat(timespec="seconds"),
        "subject": str(request.subject),
        "nodes": request.resources.nodes,
        "ranks_per_node": request.resources.ranks_of_a_node,
        "time_limit": request.resources.time,
        "chain": request.chain,
        "tasks": request.tasks,
        "after": list(request.after),
        **asdict(version),
    }


def _new_folder(parent: Path) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    number = max((int(path.name[7:]) for path in parent.glob("submit-*") if path.name[7:].isdecimal()), default=0)
    while True:
        number += 1
        folder = parent / f"submit-{number:05d}"
        try:
            folder.mkdir()
        except FileExistsError:  # somebody submits at the same moment
            continue
        return folder


def _refuse_second(request: Request) -> None:
    """Two jobs of one folder would take the work from each other."""
    if shutil.which("sbatch") is None:
        raise UsageError(
            "there is no sbatch here", hint="submit on a login node of the cluster, or look with --dry-run"
        )
    comment = f"{COMMENT_PREFIX}{request.subject}"
    job = next((job for job in my_jobs() if job.active and job.comment == comment), None)
    if job is not None:
        raise UsageError(
            "there is a job of this folder already",
            found=f"job {job.job_id}, {job.state}",
            where=str(request.subject),
            hint=f"mlc jobs {shlex.quote(str(request.subject))}, or scancel {job.array_id}",
        )


def _sbatch(script: Path) -> str:
    done = _called(["sbatch", "--parsable", str(script)])
    return done.stdout.strip().partition(";")[0]


def _called(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not _OF_A_JOB.match(name)}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SBATCH_SECONDS, check=False, env=environ)
    except subprocess.TimeoutExpired:
        raise MlcError(f"{command[0]} does not answer", found=f"nothing in {SBATCH_SECONDS:.0f} s") from None
    if done.returncode:
        raise UsageError(f"{command[0]} refuses", found=done.stderr.strip() or f"exit code {done.returncode}")
    return done
