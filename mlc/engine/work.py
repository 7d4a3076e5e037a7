"""What a run trains: the contract between the machinery of a run and pre-training or fine-tuning.

In:  nothing. Out: the interfaces that `mlc.engine.attempt` and `mlc.engine.loop` work through; `mlc.engine.pretraining`
and `mlc.finetune.work` have them.

The machinery owns when things happen: starts, steps, saves, stops, returns to a checkpoint. A `Work` owns what happens:
which batches there are, what their loss is, what is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from mlc.checkpoint.fence import Fence
from mlc.checkpoint.record import Plan
from mlc.distributed.ranks import RankInfo
from mlc.engine.engine_state import EngineState
from mlc.engine.momentum import MomentumQueue
from mlc.engine.resume import Start
from mlc.engine.signals import RankSignals
from mlc.recipe import RunRecipe


class Part(Protocol):
    """One forward of one rank."""

    @property
    def samples(self) -> npt.NDArray[np.int64]:
        """Numbers of the samples; -1 = added for evenness."""
        ...


class Batch(Protocol):
    """What one rank does for one optimizer step."""

    @property
    def step(self) -> int:
        """Number of the global batch, from 0."""
        ...

    @property
    def micro_batches(self) -> Sequence[Part]:
        """One a backward pass."""
        ...


class Totals(Protocol):
    """Counts of a global batch over all ranks, known before its first backward."""

    @property
    def tokens(self) -> int:
        """Real tokens."""
        ...

    @property
    def signals(self) -> RankSignals:
        """On how many ranks each happened."""
        ...


B = TypeVar("B", bound=Batch)
T = TypeVar("T", bound=Totals)
B_co = TypeVar("B_co", bound=Batch, covariant=True)
B_contra = TypeVar("B_contra", bound=Batch, contravariant=True)


@dataclass(frozen=True)
class StepResult:
    """What a step has brought, alike on all ranks but for the seconds.

    Attributes:
        metrics: flat, with "loss".
        seconds: of this rank, by part of the step.
        notable: a line in metrics.jsonl is due whatever `log.every_steps` says.
    """

    metrics: dict[str, Any]
    seconds: dict[str, float]
    notable: bool = False


class Batches(Protocol[B_co]):
    """Builds any step's batch for this rank."""

    def build(self, step: int) -> B_co:
        """The rank's part of global batch `step`, a pure function of it."""
        ...


class Steps(Protocol[B_contra, T]):
    """Takes optimizer steps."""

    def count(self, batch: B_contra, signals: RankSignals) -> T:
        """Count a global batch with one collective, which also carries each rank's signals."""
        ...

    def take(self, batch: B_contra, totals: T, *, step: int) -> StepResult:
        """Forward, backward and update for one global batch, which is the run's `step`-th; a collective."""
        ...

    def follow(self, batch: B_contra, before_change: Callable[[], None]) -> None:
        """What a good step brings besides its update; `before_change` comes before anything saved changes."""
        ...

    def speed(self, totals: T, seconds: float) -> dict[str, Any]:
        """Metrics that are read off a clock or a meter, of a step of so many seconds."""
        ...


class Trial(Protocol):
    """Scores on development data on the way: which checkpoint is best, and whether the run has learned enough."""

    @property
    def best_step(self) -> int | None:
        """Step of the best score so far; None before the first."""
        ...

    def begin(self, step: int, fence: Fence | None) -> None:
        """The run goes on after `step`: later scores are forgotten. A collective; the fence is rank 0's."""
        ...

    def is_due(self, step: int) -> bool:
        """Whether the model is to be scored after `step`."""
        ...

    def score(self, step: int) -> None:
        """Score the model after `step`; a collective."""
        ...

    def enough(self) -> str | None:
        """Why the run is to end by now, for people; None = it goes on."""
        ...

    def conclude(self, load_best: Callable[[int], None]) -> None:
        """The run has ended by itself: `load_best` loads the checkpoint of a step. A collective."""
        ...


@dataclass(frozen=True)
class Parts(Generic[B, T]):
    """What is trained, on this rank.

    Attributes:
        queue: of negatives, where the run has one.
        fill_queue: fills it where a run begins without a saved one.
        trial: scores on the way, where the run has such.
        model_files: writes all files of a checkpoint's model folder but the weights, given what to state besides.
        notes: lines for people about what the run is trained on.
    """

    batches: Batches[B]
    steps: Steps[B, T]
    engine: Any
    state: EngineState
    model_files: Callable[[Path, Mapping[str, Any]], None]
    queue: MomentumQueue | None = None
    fill_queue: Callable[[], None] | None = None
    trial: Trial | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ChangeRules:
    """What may differ between a run and its continuation; keys of the recipe, or tables.

    Attributes:
        harmless: they do not touch what is computed, or touch only the order of sums.
        fixed: they would leave saved tensors or the meaning of the position behind.
        not_fixed: exceptions to `fixed`.
        contents: {name in `Work.identity`: what `run.allow_changes` calls another content, and a phrase for it}.
    """

    harmless: tuple[str, ...]
    fixed: tuple[str, ...]
    not_fixed: tuple[str, ...]
    contents: Mapping[str, tuple[str, str]]


class Work(Protocol):
    """One kind of run, of one recipe."""

    @property
    def recipe(self) -> RunRecipe:
        """Resolved."""
        ...

    @property
    def rules(self) -> ChangeRules:
        """Of a continuation."""
        ...

    def check(self, world_size: int) -> None:
        """Refuse what cannot work, before any model is built."""
        ...

    def open(self) -> None:
        """Open what the run is trained on; before ranks are connected."""
        ...

    def identity(self) -> dict[str, str]:
        """Digests of what the run is trained on, by name; a continuation compares them."""
        ...

    def check_continuation(self, start: Start) -> None:
        """Refuse to go on from `start`, before the recipes are compared."""
        ...

    def next_plan(self, first: Plan, world_size: int) -> Plan:
        """Ranks x micro-batches on another number of ranks than the run's first plan was made for."""
        ...

    def build(self, plan: Plan, start: Start | None, ranks: RankInfo, device: torch.device) -> Parts:
        """What is trained, with new weights; those of `start` are loaded afterwards."""
        ...
