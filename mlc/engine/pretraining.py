"""Pre-training as the work of a run: the joint objective on shards.

In:  a validated recipe.
Out: the `Work` that `mlc train` runs (mlc.engine.attempt).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from mlc.checkpoint.record import Plan, checkpoint_folders
from mlc.data.batches import BatchBuilder, RankBatch
from mlc.data.corpus import Corpus
from mlc.data.manifest import Manifest
from mlc.distributed.ranks import RankInfo
from mlc.engine.changes import micro_batches_as_large
from mlc.engine.construct import engine_for
from mlc.engine.engine_state import EngineState
from mlc.engine.momentum import MomentumQueue, build_momentum_queue
from mlc.engine.preflight import check_run, run_identity
from mlc.engine.resume import Start
from mlc.engine.signals import RankSignals
from mlc.engine.start_from import begin, check_start
from mlc.engine.step import Totals, TrainingStep, count_totals
from mlc.engine.step_metrics import objective_metrics, speed_metrics
from mlc.engine.work import ChangeRules, Parts, StepResult
from mlc.errors import RecipeError
from mlc.model.saving import write_description
from mlc.recipe import TrainRecipe

RULES = ChangeRules(
    harmless=("data.shards",),  # compared by content
    # The model's tensors are those of the checkpoint; sample numbers are multiples of the global batch.
    # Where the first weights came from is a fact; a run that goes on does not read it.
    fixed=("model", "start", "data.samples_per_step"),
    not_fixed=("model.dropout",),
    contents={"shards": ("shards", "shards"), "encoder": ("model.config", "content of model.config")},
)


class Pretraining:
    """The work of a `TrainRecipe`; see `mlc.engine.work.Work`."""

    rules = RULES

    def __init__(self, recipe: TrainRecipe) -> None:
        self.recipe = recipe
        self._manifest: Manifest
        self._corpus: Corpus

    def check(self, world_size: int) -> None:
        """Refuse what cannot work; see `mlc.engine.preflight.check_run`."""
        self._manifest = check_run(self.recipe, world_size)
        # A run with a checkpoint goes on from that: what it started from may be gone.
        if self.recipe.start.model and not checkpoint_folders(Path(self.recipe.run.folder)):
            check_start(self.recipe, self._manifest)

    def open(self) -> None:
        """Open the shards."""
        self._corpus = Corpus(self.recipe.data, self._manifest, seed=self.recipe.run.seed)

    def identity(self) -> dict[str, str]:
        """Digests of recipe, encoder, shards and tokenizer."""
        return run_identity(self.recipe, self._manifest)

    def check_continuation(self, start: Start) -> None:
        """Refuse another tokenizer."""
        saved, found = start.record.identity, self.identity()["tokenizer"]
        if saved["tokenizer"] != found:
            raise RecipeError(
                "this run was trained on another tokenizer",
                found=f"tokenizer {found[:12]} in {self.recipe.data.shards}",
                needed=f"tokenizer {saved['tokenizer'][:12]}",
                where=self.recipe.run.folder,
                hint="point data.shards at shards of the run's own tokenizer, or start a new run.folder",
            )

    def next_plan(self, first: Plan, world_size: int) -> Plan:
        """As many micro-batches as keep one as large or smaller, where objectives allow that."""
        objectives = self.recipe.objectives
        if objectives.micro_batch_contrastive.weight:
            return _same_micro_batches(first, world_size)
        if objectives.perturbation.weight or self.recipe.log.gradient_cosine_every:
            return Plan(world_size, 1)  # they need it
        return micro_batches_as_large(first, world_size, self.recipe.data.samples_per_step)

    def build(self, plan: Plan, start: Start | None, ranks: RankInfo, device: torch.device) -> Parts:
        """The engine around a new model, its batches and steps, and an empty queue where there is one."""
        data = self.recipe.data.model_copy(update={"micro_batches": plan.micro_batches})
        recipe = self.recipe.model_copy(update={"data": data})
        tokenizer = self._manifest.tokenizer
        engine = engine_for(recipe, ranks, self._corpus, device)
        state = EngineState(engine)
        if recipe.start.model and start is None:
            begin(recipe, self._manifest, engine, state)  # before a queue's encoder copies the weights
        queue = build_momentum_queue(
            recipe, engine, vocab_size=tokenizer.vocab_size, special_ids=tokenizer.special_ids, device=device
        )
        batches = BatchBuilder.of(recipe, self._corpus, rank=ranks.rank, world_size=ranks.world_size)
        return Parts(
            batches=batches,
            steps=PretrainingSteps(engine, recipe, self._corpus, queue, device),
            engine=engine,
            state=state,
            model_files=partial(_write_model_files, self._model_info(), engine.module.backbone_config, self._manifest),
            queue=queue,
            fill_queue=partial(queue.fill, batches, recipe.schedule.total_steps) if queue is not None else None,
        )

    def _model_info(self) -> dict[str, Any]:
        recipe, tokenizer = self.recipe, self._manifest.tokenizer
        return {
            "model": recipe.model.model_dump(mode="json"),
            "vocab_size": tokenizer.vocab_size,
            "special_ids": tokenizer.special_ids,
            "max_tokens": recipe.data.max_tokens,
            "tokenizer_sha256": tokenizer.sha256,
            "tokenizer_kind": tokenizer.kind,
            "shards_sha256": self._manifest.sha256,
            "languages": self._corpus.languages,
            "contrastive": recipe.objectives.info_nce is not None,
            "objectives": recipe.objectives.model_dump(mode="json"),
            "start": recipe.start.model or None,
        }


class PretrainingSteps:
    """Steps of the joint objective, with its queue and its metrics.

    Args:
        engine: DeepSpeed engine.
        recipe: resolved, with the micro-batches of this start.
        corpus: its languages and vocabulary.
        queue: of negatives, where the run has one.
        device: of this rank.
    """

    def __init__(
        self, engine: Any, recipe: TrainRecipe, corpus: Corpus, queue: MomentumQueue | None, device: torch.device
    ) -> None:
        self._recipe, self._corpus, self._queue, self._device = recipe, corpus, queue, device
        self._step = TrainingStep.of(engine, recipe, languages=len(corpus.languages), device=device)

    def count(self, batch: RankBatch, signals: RankSignals) -> Totals:
        """See `count_totals`."""
        return count_totals(batch, device=self._device, signals=signals)

    def take(self, batch: RankBatch, totals: Totals, *, step: int) -> StepResult:
        """One step; where the recipe wants the terms' gradients apart, with these."""
        queued = self._queue.pairs() if self._queue else None
        every = self._recipe.log.gradient_cosine_every
        apart = bool(every) and step % every == 0
        cosines: dict[str, float] = {}
        if apart:
            sums, cosines = self._step.take_by_terms(batch, totals, queued)
        else:
            sums = self._step.take(batch, totals, queued)
        metrics = objective_metrics(self._recipe, totals, sums, self._corpus.languages)
        return StepResult(metrics | cosines, sums.seconds, notable=apart)

    def follow(self, batch: RankBatch, before_change: Callable[[], None]) -> None:
        """The momentum encoder follows, and its embeddings of the batch enter the queue."""
        if self._queue is not None:
            before_change()
            self._queue.advance(batch)

    def speed(self, totals: Totals, seconds: float) -> dict[str, Any]:
        """See `speed_metrics`."""
        return speed_metrics(
            self._recipe,
            totals,
            seconds,
            vocab_size=self._corpus.manifest.tokenizer.vocab_size,
            world_size=dist.get_world_size(),
            device=self._device,
        )


def _write_model_files(
    info: Mapping[str, Any], backbone_config: Any, manifest: Manifest, folder: Path, stated: Mapping[str, Any]
) -> None:
    """Everything in a checkpoint's model folder but the weights."""
    for name, path in manifest.tokenizer_files().items():
        shutil.copyfile(path, folder / name)
    write_description(folder, backbone_config, {**info, **stated})


def _same_micro_batches(first: Plan, world_size: int) -> Plan:
    parts = first.world_size * first.micro_batches
    if parts % world_size:
        raise RecipeError(
            "objectives.micro_batch_contrastive takes its negatives from a micro-batch, and these would be other ones",
            found=f"{world_size} ranks",
            needed=f"a number of ranks that divides {parts}, the micro-batches of a step",
            hint="use objectives.contrastive, which is the same on any number of ranks",
        )
    return Plan(world_size, parts // world_size)
