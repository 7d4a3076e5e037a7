"""`mlc submit`: training, shards, or a pipeline of both, as jobs of SLURM.

In:  a recipe or a pipeline file, a site file, options.
Out: jobs; on the terminal their ids and the commands to watch and to cancel them.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from launchers.jobs_to_submit import prep_request, train_request
from launchers.pipeline import read_pipeline, requests_of
from launchers.script import template_text
from launchers.settings import Resources, Site, read_site, resources_of, site_example
from launchers.submission import Request, Submitted, script_of, submit
from mlc.config import parse_recipe
from mlc.errors import UsageError

NOT_YET = "submit-NNNNN"
"""Stands for a submission's folder where nothing is submitted."""


class _SubmitGroup(TyperGroup):
    """`mlc submit RECIPE` is `mlc submit train RECIPE`, `mlc submit --pipeline FILE` is `mlc submit pipeline FILE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return list(super().parse_args(ctx, self.with_command(args)))

    def with_command(self, args: list[str]) -> list[str]:
        """The arguments, with the name of a command before them where it was left out."""
        if not args or args[0] in self.commands or args[0] in ("--help", "-h"):
            return args
        if "--pipeline" in args:
            return ["pipeline", *(word for word in args if word != "--pipeline")]
        return ["train", *args]


app = typer.Typer(
    name="submit",
    help="Submit jobs to SLURM; without the name of a command: train. docs/slurm.md has the whole story.",
    epilog="Examples:\n\n"
    "mlc submit recipes/seed_mlc.toml --nodes 4 --gpus-per-node 8 --time 24:00:00\n\n"
    "mlc submit --pipeline recipes/demo_pipeline.toml --dry-run\n\n"
    "mlc submit train --help",
    no_args_is_help=True,
    cls=_SubmitGroup,
)

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change a key of the recipe; repeatable."),
]
SiteFile = Annotated[Path | None, typer.Option("--site", metavar="FILE", help="Site file: docs/slurm.md.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the batch script; submit nothing, write nothing.")]
NodesOption = Annotated[
    str | None, typer.Option("--nodes", metavar="N|N-M", help="Nodes; with a range the job may come back smaller.")
]
Ranks = Annotated[
    int | None, typer.Option("--ranks-per-node", min=1, help="Processes on a node; default: one for each GPU.")
]
Cpus = Annotated[int | None, typer.Option("--cpus-per-rank", min=1, help="CPUs of a process.")]
Time = Annotated[str | None, typer.Option("--time", metavar="TIME", help="Limit of one start: 24:00:00.")]
Memory = Annotated[str | None, typer.Option("--mem", metavar="SIZE", help="Memory of a node, as sbatch takes it.")]
Partition = Annotated[str | None, typer.Option("--partition", "-p")]
Account = Annotated[str | None, typer.Option("--account", "-A")]
Qos = Annotated[str | None, typer.Option("--qos")]
Constraint = Annotated[str | None, typer.Option("--constraint", "-C")]
Reservation = Annotated[str | None, typer.Option("--reservation")]
Exclude = Annotated[str | None, typer.Option("--exclude", "-x", metavar="HOSTS", help="Never use these: n[3,7].")]
Name = Annotated[str | None, typer.Option("--name", "-J", help="Of the job; default: mlc- and the run folder's name.")]
Container = Annotated[
    str | None,
    typer.Option("--container", metavar="IMAGE", help="Instead of the site's image."),
]
ContainerKind = Annotated[Literal["pyxis", "apptainer", "none"] | None, typer.Option("--container-kind")]
Requeue = Annotated[
    bool | None, typer.Option("--requeue/--no-requeue", help="Whether the job may come back by itself.")
]
After = Annotated[list[str] | None, typer.Option("--after", metavar="JOB", help="Wait until this job has succeeded.")]
Template = Annotated[Path | None, typer.Option("--template", metavar="FILE", help="See mlc submit template.")]


@app.command(
    "train",
    epilog="Examples:\n\n"
    "mlc submit recipes/seed_mlc.toml --nodes 4 --gpus-per-node 8 --time 24:00:00\n\n"
    "mlc submit recipes/seed_mlc.toml --nodes 2-4 --gpus-per-node 8 --time 12:00:00 --dry-run\n\n"
    "mlc submit recipes/seed_mlc.toml --nodes 4 --gpus-per-node 8 --time 2:00:00 --no-requeue --chain 12",
)
def _train_command(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.toml", help="Recipe of the run.")],
    overrides: Overrides = None,
    nodes: NodesOption = None,
    gpus_per_node: Annotated[int | None, typer.Option("--gpus-per-node", min=0)] = None,
    ranks_per_node: Ranks = None,
    cpus_per_rank: Cpus = None,
    time: Time = None,
    memory: Memory = None,
    partition: Partition = None,
    account: Account = None,
    qos: Qos = None,
    constraint: Constraint = None,
    reservation: Reservation = None,
    exclude: Exclude = None,
    name: Name = None,
    container: Container = None,
    container_kind: ContainerKind = None,
    requeue: Requeue = None,
    chain: Annotated[
        int, typer.Option("--chain", min=0, help="So many jobs in a row, where jobs may not requeue themselves.")
    ] = 0,
    check: Annotated[
        bool | None, typer.Option("--check/--no-check", help="Whether nodes are checked before training.")
    ] = None,
    start: Annotated[Literal["srun", "torchrun"], typer.Option("--start", help="What starts the ranks.")] = "srun",
    after: After = None,
    template: Template = None,
    site_file: SiteFile = None,
    dry_run: DryRun = False,
) -> None:
    """Train a recipe on SLURM: saved, requeued and resumed until it is finished.

    The recipe and the code are copied at submission. A job that is warned of its time limit or preempted saves and
    comes back; so does one that lost a node. docs/slurm.md tells what happens when.
    """
    site = _site(site_file, container, container_kind, requeue, check)
    resources = resources_of(
        site,
        {
            "nodes": nodes,
            "gpus_per_node": gpus_per_node,
            "ranks_per_node": ranks_per_node,
            "cpus_per_rank": cpus_per_rank,
            "time": time,
            "memory": memory,
            "partition": partition,
            "account": account,
            "qos": qos,
            "constraint": constraint,
            "reservation": reservation,
            "exclude": exclude,
        },
        where="mlc submit",
    )
    request = train_request(
        recipe, overrides or (), resources, name=name, start=start, chain=chain, after=after or (), template=template
    )
    _submit_or_show(request, site, dry_run)


@app.command(
    "prep",
    epilog="Examples:\n\n"
    "mlc submit prep recipes/demo_prep.toml --tasks 16 --time 4:00:00\n\n"
    "mlc submit prep recipes/demo_prep.toml --start mpi --nodes 4 --ranks-per-node 32 --time 4:00:00",
)
def _prep_command(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.toml", help="Recipe of a build of shards.")],
    overrides: Overrides = None,
    tasks: Annotated[
        int, typer.Option("--tasks", min=0, help="Tasks of a job array, each on --nodes of its own; 0 = one job.")
    ] = 0,
    nodes: NodesOption = None,
    ranks_per_node: Ranks = None,
    cpus_per_rank: Cpus = None,
    time: Time = None,
    memory: Memory = None,
    partition: Partition = None,
    account: Account = None,
    qos: Qos = None,
    constraint: Constraint = None,
    reservation: Reservation = None,
    exclude: Exclude = None,
    name: Name = None,
    container: Container = None,
    container_kind: ContainerKind = None,
    requeue: Requeue = None,
    start: Annotated[
        Literal["srun", "mpi"], typer.Option("--start", help="srun: processes that share the folder; mpi: mpirun.")
    ] = "srun",
    after: After = None,
    template: Template = None,
    site_file: SiteFile = None,
    dry_run: DryRun = False,
) -> None:
    """Build shards on SLURM: one job of many processes, or a job array. Any of them leaves the same bytes."""
    site = _site(site_file, container, container_kind, requeue, None)
    resources = resources_of(
        site,
        {
            "nodes": nodes,
            "gpus_per_node": 0,
            "ranks_per_node": ranks_per_node,
            "cpus_per_rank": cpus_per_rank,
            "time": time,
            "memory": memory,
            "partition": partition,
            "account": account,
            "qos": qos,
            "constraint": constraint,
            "reservation": reservation,
            "exclude": exclude,
        },
        where="mlc submit prep",
    )
    request = prep_request(
        recipe, overrides or (), resources, name=name, start=start, tasks=tasks, after=after or (), template=template
    )
    _submit_or_show(request, site, dry_run)


@app.command("pipeline", epilog="Example: mlc submit --pipeline recipes/demo_pipeline.toml --dry-run")
def _pipeline_command(
    file: Annotated[Path, typer.Argument(metavar="PIPELINE.toml", help="Stages: docs/slurm.md.")],
    site_file: SiteFile = None,
    dry_run: DryRun = False,
) -> None:
    """Submit dependent jobs: prep, train, then whatever comes after."""
    site = read_site(site_file)
    stages = read_pipeline(file)
    placeholders = {stage.name: f"JOB_OF_{stage.name}" for stage in stages.stage}
    # All of it is refused before the first job is there.
    for stage, request in requests_of(stages, site, placeholders):
        script = script_of(request, site, request.folder / NOT_YET)
        if dry_run:
            print(f"# ==== stage {stage}\n{script}", end="")
    jobs: dict[str, str] = {}
    for stage, request in () if dry_run else requests_of(stages, site, jobs):
        jobs[stage] = _submit(request, site).job


@app.command(
    "template",
    epilog="Examples:\n\nmlc submit template train > my.sbatch\n\nmlc submit template site > ~/.config/mlc/site.toml",
)
def _template_command(
    kind: Annotated[Literal["train", "prep", "command", "site"], typer.Argument(help="Which one.")] = "train",
) -> None:
    """Print a template, whole, to edit and to give to --template; or a site file with every key."""
    print(site_example() if kind == "site" else template_text(kind), end="")


def _site(
    site_file: Path | None,
    container: str | None,
    container_kind: str | None,
    requeue: bool | None,
    check: bool | None,
) -> Site:
    site = read_site(site_file)
    table = site.model_dump(mode="json")
    if container_kind is not None:
        table["container"]["kind"] = container_kind
    if container is not None:
        table["container"]["image"] = container
        if table["container"]["kind"] == "none":
            raise UsageError(
                "a container needs a kind", found=container, needed="pyxis or apptainer", hint="--container-kind pyxis"
            )
    if requeue is not None:
        table["requeue"] = requeue
    if check is not None:
        table["check"]["enabled"] = check
    return parse_recipe(table, Site, where="mlc submit")


def _submit_or_show(request: Request, site: Site, dry_run: bool) -> None:
    if dry_run:
        print(script_of(request, site, request.folder / NOT_YET), end="")
    else:
        _submit(request, site)


def _submit(request: Request, site: Site) -> Submitted:
    submitted = submit(request, site, sys.argv)
    subject = shlex.quote(str(request.subject))
    print(f"job {submitted.job}: {request.kind} {request.subject}, {_size(request)}")
    print(f"  written to  {submitted.folder}")
    print(f"  watch       mlc jobs {subject}; mlc logs {subject} --follow")
    print(f"  cancel      scancel {submitted.job}")
    return submitted


def _size(request: Request) -> str:
    resources: Resources = request.resources
    size = f"{resources.nodes} nodes x {resources.ranks_of_a_node} ranks"
    if request.chain:
        return f"{size}, {request.chain} jobs in a row"
    return f"{size}, {request.tasks} tasks" if request.tasks else size
