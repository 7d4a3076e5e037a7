"""From a recipe to a job: what a training run and a build of shards ask of a submission.

In:  a recipe file, overrides, resources.
Out: a `Request` (launchers.submission). A recipe is refused here, before it waits in a queue.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from data_prep.recipe import PrepRecipe
from launchers.settings import Resources
from launchers.submission import Request
from mlc.config import is_finetune_recipe, read_recipe
from mlc.errors import UsageError
from mlc.finetune.recipe import FinetuneRecipe
from mlc.recipe import RunRecipe, TrainRecipe


def train_request(
    recipe_file: Path,
    overrides: Sequence[str],
    resources: Resources,
    *,
    name: str | None = None,
    start: Literal["srun", "torchrun"] = "srun",
    chain: int = 0,
    after: Sequence[str] = (),
    template: Path | None = None,
) -> Request:
    """`mlc train` as a job, or `mlc finetune` where the recipe says what to fine-tune for.

    Raises:
        RecipeError: the recipe is refused.
        UsageError: its shards are not there, and no job is waited for that could make them.
    """
    recipe: RunRecipe
    if is_finetune_recipe(recipe_file):
        recipe, command = read_recipe(recipe_file, FinetuneRecipe, overrides), "finetune"
    else:
        recipe, command = _pretraining(recipe_file, overrides, waits=bool(after)), "train"
    run_folder = Path(recipe.run.folder).absolute()
    return Request(
        kind="train",
        name=name or f"mlc-{run_folder.name}",
        folder=run_folder / "slurm",
        subject=run_folder,
        logs=run_folder / "logs",
        needed=run_folder,
        resources=resources,
        arguments=(command, "{recipe}"),
        recipe=recipe.to_toml(),
        values={"run_folder": str(run_folder)},
        start=start,
        chain=chain,
        after=after,
        template=template,
    )


def _pretraining(recipe_file: Path, overrides: Sequence[str], *, waits: bool) -> TrainRecipe:
    recipe = read_recipe(recipe_file, TrainRecipe, overrides)
    shards = Path(recipe.data.shards)
    if not waits and not (shards / "manifest.json").is_file():
        raise UsageError(
            "the run's shards are not there",
            found=str(shards),
            where=f"{recipe_file}: data.shards",
            hint="mlc prep build RECIPE, or wait for the job that builds them: --after JOB",
        )
    return recipe


def prep_request(
    recipe_file: Path,
    overrides: Sequence[str],
    resources: Resources,
    *,
    name: str | None = None,
    start: Literal["srun", "mpi"] = "srun",
    tasks: int = 0,
    after: Sequence[str] = (),
    template: Path | None = None,
) -> Request:
    """`mlc prep build` as a job, or as the tasks of a job array.

    The folder of a build holds nothing but the build, so that a job's files lie beside it, in `<output>.slurm`.

    Raises:
        RecipeError: the recipe is refused.
        UsageError: MPI in a job array.
    """
    recipe = read_recipe(recipe_file, PrepRecipe, overrides)
    if start == "mpi" and tasks:
        raise UsageError(
            "a job array needs no MPI: its tasks share the build by its folder",
            found="--start mpi --tasks",
            hint="leave out one of them",
        )
    output = Path(recipe.build.output).absolute()
    beside = output.with_name(f"{output.name}.slurm")
    mpirun = shutil.which("mpirun", path=str(Path(sys.executable).parent)) or "mpirun"
    sets = [word for override in overrides for word in ("--set", override)]
    return Request(
        kind="prep",
        name=name or f"mlc-prep-{output.name}",
        folder=beside,
        subject=output,
        logs=beside / "logs",
        needed=beside,
        resources=resources,
        recipe=recipe_file.read_text(encoding="utf-8"),
        arguments=("prep", "build", "{recipe}", *sets),
        values={
            "work_of_build": str(output / ".work"),
            "manifest_of_build": str(output / "manifest.json"),
            "mpirun": mpirun,
        },
        start=start,
        tasks=tasks,
        after=after,
        template=template,
    )


def command_request(
    command: Sequence[str], folder: Path, resources: Resources, *, name: str, after: Sequence[str] = ()
) -> Request:
    """Any other command as a job: one process a rank, on the nodes of the job."""
    folder = folder.absolute()
    return Request(
        kind="command",
        name=name,
        folder=folder / "slurm",
        subject=folder,
        logs=folder / "logs",
        needed=folder,
        resources=resources,
        arguments=command,
        after=after,
    )
