"""Fine-tuning for retrieval as the work of a run: InfoNCE between queries and passages on a pre-trained encoder.

In:  a validated recipe whose task.kind is "retrieval".
Out: the `Work` that `mlc finetune` runs. Its checkpoints are those of `mlc train`: a bi-encoder that mlc embed,
     mlc evaluate and mlc export read.

The step is that of pre-training (mlc.engine.step) with the contrast alone: candidates of every rank, the hard negatives
of the examples, copies of right answers left out, micro-batches in two passes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist

from mlc.checkpoint.record import Plan
from mlc.data.batches import BatchBuilder, RankBatch
from mlc.distributed.ranks import RankInfo
from mlc.engine.construct import engine_around
from mlc.engine.engine_state import EngineState
from mlc.engine.resume import Start
from mlc.engine.signals import RankSignals
from mlc.engine.step import Totals, TrainingStep, count_totals
from mlc.engine.work import Parts, StepResult
from mlc.errors import RecipeError
from mlc.finetune.layers import freeze, parameter_groups
from mlc.finetune.recipe import FinetuneRecipe
from mlc.finetune.resolve import model_to_open, resolved_schedule
from mlc.finetune.retrieval_model import RetrievalStart, open_start, retrieval_model
from mlc.finetune.retrieval_samples import RetrievalSamples
from mlc.finetune.retrieval_trial import RetrievalSet
from mlc.finetune.trial import DevelopmentTrial
from mlc.finetune.work import FinetuneWork
from mlc.model.adapters import LoraSettings, inject_adapters
from mlc.model.configuration_glm import MlcGlmConfig
from mlc.model.saving import write_description
from mlc.recipe_objectives import ContrastiveSection, ObjectivesSection
from mlc.tasks.encoder import batch_tokens_of
from mlc.tasks.examples import RankingExample
from mlc.tasks.locate import ModelSource
from mlc.tasks.scores_rankings import score_rankings


class RetrievalTraining(FinetuneWork):
    """The work of a `FinetuneRecipe` of this kind."""

    def __init__(self, recipe: FinetuneRecipe) -> None:
        super().__init__(recipe)
        self._start: RetrievalStart
        self._samples: RetrievalSamples

    def check(self, world_size: int) -> None:
        """Read the data and the tokenizer; nothing of the model but its configuration."""
        recipe = self.recipe
        self._read(world_size)
        known = score_rankings([[1, 0]], [[1.0, 0.0]], resamples=2).scores
        if recipe.evaluation.metric and recipe.evaluation.metric not in known:
            found, needed = recipe.evaluation.metric, ", ".join(known)
            raise RecipeError("no such score", found=found, needed=needed, where="evaluation.metric")
        source = model_to_open(recipe, "checkpoint")
        self._start = open_start(source, recipe.model, recipe.data.max_tokens)
        self.recipe = recipe.model_copy(update={"schedule": resolved_schedule(recipe, len(self._data.train))})

    def open(self) -> None:
        """Tokenise the training data."""
        data = self.recipe.data
        self._tokenizer = self._start.tokenizer(data.max_tokens)
        self._samples = RetrievalSamples(
            _ranking(self._data.train),
            self._tokenizer,
            seed=self.recipe.run.seed,
            samples_per_step=data.samples_per_step,
        )

    def build(self, plan: Plan, start: Start | None, ranks: RankInfo, device: torch.device) -> Parts:
        """The engine around the start, batches, steps and the trial."""
        data = self.recipe.data.model_copy(update={"micro_batches": plan.micro_batches})
        recipe = self.recipe.model_copy(update={"data": data})
        opened = self._start
        if start is not None:
            source = ModelSource("checkpoint", str(start.folder / "model"))
            opened = open_start(source, recipe.model, data.max_tokens)
        model = retrieval_model(opened, max_tokens=data.max_tokens, dropout=recipe.model.dropout, seed=recipe.run.seed)
        if (lora := self._lora_of(model.backbone, model.backbone_config)) is not None:
            inject_adapters(model.backbone, lora)
        freeze(model, model.backbone_config, recipe.freeze)
        groups = parameter_groups(model, model.backbone_config, recipe.optimizer, recipe.freeze)
        engine = engine_around(model, groups, recipe, ranks, device)
        objectives = objectives_of(recipe)
        batches = BatchBuilder(
            self._samples,
            opened.special,
            objectives,
            seed=recipe.run.seed,
            samples_per_step=data.samples_per_step,
            micro_batches=plan.micro_batches,
            rank=ranks.rank,
            world_size=ranks.world_size,
        )
        packed = isinstance(model.backbone_config, MlcGlmConfig)
        trial, cut = self._trial(engine, device)
        return Parts(
            batches=batches,
            steps=RetrievalSteps(engine, objectives, self._samples, seed=recipe.run.seed, packed=packed, device=device),
            engine=engine,
            state=EngineState(engine),
            model_files=partial(self._write_model_files, model.backbone_config, lora),
            trial=trial,
            notes=(*self._data.notes(), *self._notes(cut)),
        )

    def _trial(self, engine: Any, device: torch.device) -> tuple[DevelopmentTrial, int]:
        recipe, data = self.recipe, self._data
        batch_tokens = recipe.evaluation.batch_tokens or batch_tokens_of(device)

        def scored(examples: Any) -> RetrievalSet | None:
            return RetrievalSet(_ranking(examples), self._tokenizer, batch_tokens) if examples else None

        dev, test = scored(data.dev), scored(data.test)
        trial = DevelopmentTrial(recipe, data, engine, dev=dev, test=test, device=device)
        return trial, sum(part.cut for part in (dev, test) if part is not None)

    def _notes(self, cut_of_scored: int) -> list[str]:
        samples, longest = self._samples, self.recipe.data.max_tokens
        notes = []
        if samples.cut or cut_of_scored:
            notes.append(
                f"texts cut to data.max_tokens = {longest}: {samples.cut} of train, {cut_of_scored} of dev and test"
            )
        if samples.largest_group > 1:
            notes.append(
                f"up to {samples.largest_group} examples share a query or a right passage: no negatives of one another"
            )
        return notes

    def _write_model_files(
        self, backbone_config: Any, lora: LoraSettings | None, folder: Path, stated: Mapping[str, Any]
    ) -> None:
        """Everything in a checkpoint's model folder but the weights."""
        recipe = self.recipe
        info = {
            **self._start.description(),
            "max_tokens": recipe.data.max_tokens,
            "languages": [language for language in self._data.trained_languages if language],
            "objectives": objectives_of(recipe).model_dump(mode="json"),
            "start": recipe.model.start,
            "lora": None if lora is None else lora.to_json(),
            "data": {"examples": len(self._data.train), "sha256": self._data.digest},
        }
        write_description(folder, backbone_config, {**info, **stated})
        (folder / self._start.file_name).write_bytes(self._start.tokenizer_file)


class RetrievalSteps:
    """Steps of the contrast between queries and passages.

    Args:
        engine: DeepSpeed engine.
        objectives: of `objectives_of`.
        samples: their languages.
        seed: of the run.
        packed: the model computes on real tokens only.
        device: of this rank.
    """

    def __init__(
        self,
        engine: Any,
        objectives: ObjectivesSection,
        samples: RetrievalSamples,
        *,
        seed: int,
        packed: bool,
        device: torch.device,
    ) -> None:
        self._packed, self._device = packed, device
        self._step = TrainingStep(
            engine,
            objectives,
            languages=len(samples.languages),
            seed=seed,
            rank=dist.get_rank(),
            world_size=dist.get_world_size(),
            device=device,
        )

    def count(self, batch: RankBatch, signals: RankSignals) -> Totals:
        """See `mlc.engine.step.count_totals`."""
        return count_totals(batch, device=self._device, signals=signals)

    def take(self, batch: RankBatch, totals: Totals, *, step: int) -> StepResult:
        """Forward, backward and update for one global batch; a collective."""
        del step
        sums = self._step.take(batch, totals)
        pairs = max(1.0, totals.denominators["contrastive"])
        metrics = {
            "loss": sums.loss["contrastive"] / pairs,
            "accuracy": sums.correct["contrastive"] / pairs,
            "count": totals.denominators["contrastive"],
            "temperature": sums.temperature,
            "masked_negatives": sums.masked_negatives,
        }
        return StepResult(metrics, sums.seconds)

    def follow(self, batch: RankBatch, before_change: Callable[[], None]) -> None:
        """Nothing follows an update."""

    def speed(self, totals: Totals, seconds: float) -> dict[str, Any]:
        """Tokens a second, padding, memory."""
        metrics: dict[str, Any] = {
            "padding_fraction": 0.0 if self._packed else 1 - totals.tokens / totals.slots,
            "tokens_per_second": totals.tokens / seconds,
        }
        if self._device.type == "cuda":
            metrics["memory/peak_gib"] = round(torch.cuda.max_memory_allocated(self._device) / 2**30, 3)
        return metrics


def objectives_of(recipe: FinetuneRecipe) -> ObjectivesSection:
    """The contrast that a recipe's [ranking] means."""
    ranking = recipe.ranking
    return ObjectivesSection(
        contrastive=ContrastiveSection(
            weight=1.0,
            temperature=ranking.temperature,
            symmetric=ranking.symmetric,
            hard_negatives=ranking.negatives_per_query,
        )
    )


def _ranking(examples: Any) -> list[RankingExample]:
    return [cast(RankingExample, example) for example in examples]
