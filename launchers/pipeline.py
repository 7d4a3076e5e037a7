"""Pipelines: stages that wait for one another, each one a job.

In:  a TOML file of `[[stage]]` tables.
Out: the requests of its jobs, in an order in which every stage comes behind what it waits for.

    [[stage]]
    name = "shards"
    kind = "prep"                      # prep | train | finetune | command
    recipe = "recipes/prep.toml"
    set = ["build.workers=1"]
    tasks = 8                          # prep: of a job array
    resources = {time = "4:00:00"}

    [[stage]]
    name = "pretrain"
    kind = "train"
    recipe = "recipes/joint.toml"
    after = ["shards"]
    resources = {nodes = "4", gpus_per_node = 8, time = "24:00:00"}

    [[stage]]
    name = "sentiment"
    kind = "finetune"
    recipe = "recipes/sentiment.toml"  # its model.start is the run above
    after = ["pretrain"]

    [[stage]]
    name = "retrieval"
    kind = "command"
    command = ["mlc", "evaluate", "retrieval", "--model", "runs/joint", "--data", "heldout.tsv"]
    folder = "runs/joint-retrieval"    # logs go there
    after = ["pretrain"]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from launchers.jobs_to_submit import command_request, prep_request, train_request
from launchers.settings import Site, resources_of
from launchers.submission import Request
from mlc.config import NonNegative, Section, read_recipe


class Stage(Section):
    """One job. Which keys a stage needs depends on its kind.

    Attributes:
        set: overrides of the recipe.
        start: "srun"; or "torchrun" to train or fine-tune, "mpi" to build shards.
        tasks: (prep) of a job array; 0 = one job.
        after: names of the stages that have to succeed first.
        resources: keys of the site file's [resources], in place of the site's.
    """

    name: Annotated[str, pydantic.Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    kind: Literal["prep", "train", "finetune", "command"]
    recipe: str = ""
    set: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    folder: str = ""
    start: Literal["srun", "torchrun", "mpi"] = "srun"
    tasks: NonNegative = 0
    after: tuple[str, ...] = ()
    resources: Mapping[str, Any] = {}

    @pydantic.model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> Stage:
        needed = ("command", "folder") if self.kind == "command" else ("recipe",)
        unknown = ("recipe", "set", "tasks") if self.kind == "command" else ("command", "folder")
        if missing := [key for key in needed if not getattr(self, key)]:
            raise ValueError(f"stage {self.name} is of kind {self.kind} and needs {' and '.join(missing)}")
        if surplus := [key for key in unknown if getattr(self, key)]:
            raise ValueError(f"stage {self.name} is of kind {self.kind} and has no {' or '.join(surplus)}")
        of_a_run = ("srun", "torchrun")
        starts = {"train": of_a_run, "finetune": of_a_run, "prep": ("srun", "mpi"), "command": ("srun",)}[self.kind]
        if self.start not in starts or (self.tasks and self.kind != "prep"):
            raise ValueError(
                f"stage {self.name} is of kind {self.kind}: start is one of {starts}, tasks belong to prep"
            )
        return self


class Pipeline(Section):
    """Stages, each one behind those it waits for."""

    stage: Annotated[tuple[Stage, ...], pydantic.Field(min_length=1)]

    @pydantic.model_validator(mode="after")
    def _in_order(self) -> Pipeline:
        seen: set[str] = set()
        for stage in self.stage:
            if stage.name in seen:
                raise ValueError(f"two stages are called {stage.name}")
            if missing := [name for name in stage.after if name not in seen]:
                raise ValueError(f"stage {stage.name} waits for {missing[0]}, which is no stage above it")
            seen.add(stage.name)
        return self


def read_pipeline(path: Path) -> Pipeline:
    """A pipeline file.

    Raises:
        RecipeError: it is refused.
    """
    return read_recipe(path, Pipeline)


def requests_of(pipeline: Pipeline, site: Site, jobs: Mapping[str, str]) -> Iterator[tuple[str, Request]]:
    """(stage, its job), one after the other.

    Args:
        pipeline: of which.
        site: its resources are the defaults.
        jobs: {stage: job} of the stages before; the caller adds each one before it takes the next.

    Raises:
        RecipeError: a recipe or a stage's resources are refused.
        UsageError: as of `train_request`.
    """
    for stage in pipeline.stage:
        no_gpus = {"gpus_per_node": 0} if stage.kind == "prep" else {}
        resources = resources_of(site, {**no_gpus, **stage.resources}, where=f"stage {stage.name}")
        after = [jobs[name] for name in stage.after]
        recipe = Path(stage.recipe)
        if stage.kind == "prep":
            mpi: Literal["srun", "mpi"] = "mpi" if stage.start == "mpi" else "srun"
            yield stage.name, prep_request(recipe, stage.set, resources, start=mpi, tasks=stage.tasks, after=after)
        elif stage.kind in ("train", "finetune"):
            torchrun: Literal["srun", "torchrun"] = "torchrun" if stage.start == "torchrun" else "srun"
            yield stage.name, train_request(recipe, stage.set, resources, start=torchrun, after=after)
        else:
            folder = Path(stage.folder)
            yield stage.name, command_request(stage.command, folder, resources, name=f"mlc-{stage.name}", after=after)
