"""Plan of a study: a base recipe and its arms become runs that consume equally much text.

In:  a study file (TOML): base recipe, arms as overrides of it, seeds, text tokens of a run, how to score.
Out: `Run`s in the order in which they are done, each with its recipe, its folder and the digests of its definition.

Text tokens are those of the texts that samples hold: without [CLS] and [SEP], without Part B, and a text that a step
reads twice counts once. Arms differ in how many of them a step consumes (one view or two, pairs or spans), so steps
are counted for each run, over the very samples it will see; warm-up and the interval of checkpoints keep their
share of the steps in the base recipe.
"""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pydantic

from mlc.config import Fraction, NonNegative, Positive, Section, digest, parse_recipe, read_recipe
from mlc.data.corpus import Corpus
from mlc.data.manifest import Manifest
from mlc.errors import RecipeError
from mlc.recipe import TrainRecipe

Name = Annotated[str, pydantic.Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]
SCORE_VERSION = 1
"""Goes up when the scorer changes what its numbers mean: scores of another version are refused."""


class StudySection(Section):
    """What is compared, and on how much text."""

    name: Name
    base: str
    """Recipe that arms change; its schedule gives the shares of warm-up and of the interval of checkpoints."""
    seeds: Annotated[tuple[NonNegative, ...], pydantic.Field(min_length=1)]
    text_tokens_per_run: Positive
    folder: str = "runs/study"
    """The runs lie in <folder>/<name>/<arm>-seed<seed>."""

    @pydantic.model_validator(mode="after")
    def _different_seeds(self) -> StudySection:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds = {list(self.seeds)}, each may occur once")
        return self


class ScoreSection(Section):
    """How every run is scored."""

    retrieval: str
    """Parallel texts, as `mlc evaluate retrieval --data` takes them."""
    languages: Annotated[tuple[str, ...], pydantic.Field(min_length=1)]
    """Paired with English."""
    dev_every: Annotated[int, pydantic.Field(ge=2)] = 5
    """Every so many lines of the parallel texts one only chooses the layer of arms without a contrast; no arm is
    scored on it."""
    heldout: str
    """Shards of held-out documents for the token losses."""
    heldout_texts: Positive = 1024
    mask_fraction: Fraction = 0.15
    """Of the held-out texts: of their tokens for MLM, and again, on clean copies, for blanks."""


class ArmSection(Section):
    """One arm: what it changes in the base recipe."""

    title: str
    set: dict[str, Any] = pydantic.Field(default_factory=dict)
    """Tables to lay over the recipe; lists are replaced whole."""


class Study(Section):
    """A study file."""

    study: StudySection
    score: ScoreSection
    set: dict[str, Any] = pydantic.Field(default_factory=dict)
    """Laid over the base recipe for every arm."""
    arms: Annotated[dict[Name, ArmSection], pydantic.Field(min_length=1)]


@dataclass(frozen=True)
class Run:
    """One arm with one seed.

    Attributes:
        folder: holds everything of the run; `mlc train`'s run folder is `run/` in it.
        table: the recipe, but for its steps, which `render_recipe` adds.
        training_digest, scoring_digest: of all that decides about its weights, and about its scores besides.
    """

    arm: str
    title: str
    seed: int
    folder: Path
    table: dict[str, Any]
    training_digest: str
    scoring_digest: str

    @property
    def name(self) -> str:
        """Name of its folder."""
        return self.folder.name

    @property
    def recipe(self) -> TrainRecipe:
        """The recipe with the base's steps."""
        return parse_recipe(self.table, TrainRecipe, where=f"arm {self.arm}")


@dataclass(frozen=True)
class Budget:
    """Steps of a run, and the text tokens they consume."""

    steps: int
    text_tokens: int


def read_study(path: str | Path) -> Study:
    """Read a study file.

    Raises:
        RecipeError: see `mlc.config.read_recipe`.
    """
    return read_recipe(path, Study)


def plan_runs(study: Study) -> list[Run]:
    """All runs: the arms with the first seed, then with the second, so that the first results compare all arms.

    Raises:
        RecipeError: an arm's recipe is refused, or it sets what the study owns.
        ShardError: shards are missing.
    """
    base = _read_table(Path(study.study.base))
    tables = {name: arm_table(base, study, name) for name in study.arms}
    shards = {path: Manifest.read(path).sha256 for path in {table["data"]["shards"] for table in tables.values()}}
    scoring = {**study.score.model_dump(mode="json"), "heldout": Manifest.read(study.score.heldout).sha256}
    runs = []
    for seed in study.study.seeds:
        for name, arm in study.arms.items():
            folder = Path(study.study.folder) / study.study.name / f"{name}-seed{seed}"
            table = copy.deepcopy(tables[name])
            table["run"] |= {"seed": seed, "folder": str(folder / "run")}
            decides = {key: value for key, value in table.items() if key not in ("checkpoint", "log")}
            decides["run"] = {key: value for key, value in table["run"].items() if key != "folder"}
            decides["data"] = {**table["data"], "shards": shards[table["data"]["shards"]]}
            training = digest({"recipe": decides, "text_tokens": study.study.text_tokens_per_run})
            score = digest({"version": SCORE_VERSION, "score": scoring})
            runs.append(Run(name, arm.title, seed, folder, table, training, score))
    return runs


def arm_table(base: Mapping[str, Any], study: Study, name: str) -> dict[str, Any]:
    """The base recipe with the study's and the arm's overrides, validated.

    Raises:
        RecipeError: it is refused, or sets what the study owns.
    """
    table = copy.deepcopy(dict(base))
    where = f"arm {name} of study {study.study.name}"
    for change in (study.set, study.arms[name].set):
        for owned in (("run", "folder"), ("run", "seed"), ("schedule", "total_steps")):
            if owned[1] in change.get(owned[0], {}):
                raise RecipeError(f"an arm cannot set {'.'.join(owned)}: the study sets it for each run", where=where)
        _lay_over(table, change)
    parse_recipe(table, TrainRecipe, where=where)
    return table


def count_steps(recipe: TrainRecipe, text_tokens: int) -> Budget:
    """The number of steps whose text comes nearest to `text_tokens`, at least 1.

    Reads every sample that the run will see, without a model: some ten milliseconds a step of 64 pairs.
    """
    corpus = Corpus(recipe.data, Manifest.read(recipe.data.shards), seed=recipe.run.seed)
    steps, consumed = 0, 0
    while True:
        views = [(sample.first, sample.second) for sample in corpus.samples(corpus.step_indices(steps))]
        more = sum(len(view) for pair in views for view in pair if view is not None)
        if steps and consumed + more - text_tokens > text_tokens - consumed:
            return Budget(steps, consumed)
        steps, consumed = steps + 1, consumed + more
        if consumed >= text_tokens:
            return Budget(steps, consumed)
        if not more:
            raise RecipeError("a whole step holds no text", found=f"step {steps - 1}", where=recipe.data.shards)


def render_recipe(run: Run, steps: int) -> TrainRecipe:
    """The run's recipe for `steps` steps; warm-up, decay and the interval of checkpoints are scaled to them."""
    table = copy.deepcopy(run.table)
    base = run.recipe
    scale = steps / base.schedule.total_steps
    table["schedule"] |= {
        "total_steps": steps,
        "warmup_steps": int(base.schedule.warmup_steps * scale),
        "decay_steps": int(np.ceil(base.schedule.decay_steps * scale)),
    }
    table["checkpoint"] = {
        **table.get("checkpoint", {}),
        "every_steps": max(1, int(np.ceil(base.checkpoint.every_steps * scale))),
    }
    return parse_recipe(table, TrainRecipe, where=f"arm {run.arm}")


def _read_table(path: Path) -> dict[str, Any]:
    read_recipe(path, TrainRecipe)  # a broken base is refused by its own name, not by an arm's
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _lay_over(table: dict[str, Any], change: Mapping[str, Any]) -> None:
    for key, value in change.items():
        if isinstance(value, dict) and isinstance(table.get(key), dict):
            _lay_over(table[key], value)
        else:
            table[key] = copy.deepcopy(value)
