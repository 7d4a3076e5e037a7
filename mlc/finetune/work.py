"""Fine-tuning as the work of a run: a task's loss on a pre-trained encoder.

In:  a validated recipe.
Out: the `Work` that `mlc finetune` runs (mlc.engine.attempt).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from mlc.checkpoint.record import Plan, checkpoint_folders
from mlc.config import digest
from mlc.data.batches import check_batch_size
from mlc.distributed.ranks import RankInfo
from mlc.engine.changes import micro_batches_as_large
from mlc.engine.construct import engine_around
from mlc.engine.deepspeed_config import deepspeed_config
from mlc.engine.engine_state import EngineState
from mlc.engine.resume import Start
from mlc.engine.work import ChangeRules, Parts
from mlc.errors import RecipeError
from mlc.finetune.batches import FinetuneBatches
from mlc.finetune.data import FinetuneData, read_data
from mlc.finetune.layers import blocks_of, freeze, head_of, number_of_layers, parameter_groups
from mlc.finetune.recipe import FinetuneRecipe
from mlc.finetune.resolve import model_to_open, resolved_schedule
from mlc.finetune.steps import FinetuneSteps
from mlc.finetune.tasks import learned_task, on_model, training_rows
from mlc.finetune.translation_copy import WholeCopy
from mlc.finetune.trial import DevelopmentTrial, ScoredSet
from mlc.model.adapters import LoraSettings, add_adapters, layers_in, linear_layers
from mlc.tasks.encoder import batch_tokens_of
from mlc.tasks.fast_tokenizer_of import open_fast_tokenizer
from mlc.tasks.features_pieces import PieceEncoder
from mlc.tasks.learned.models import HeadSettings, empty_model, new_model, write_finetuned_description
from mlc.tasks.learned.task import LearnedTask, WritingTask

RULES = ChangeRules(
    harmless=(
        "data.train",
        "data.dev",
        "data.test",
        "data.dev_languages",
        "data.test_languages",
        "data.train_languages",
    ),
    fixed=("task", "model", "ranking", "translation", "cloze", "lora", "freeze", "data.samples_per_step"),
    not_fixed=("model.dropout", "translation.beams", "task.bad_records", "task.columns"),
    contents={"data": ("data", "training examples")},
)


LOW = ("mean_squared_error",)
"""Scores of which a lower one is better; they choose no checkpoint."""


class FinetuneWork:
    """What all kinds of fine-tuning have in common; see `mlc.engine.work.Work`."""

    rules = RULES

    def __init__(self, recipe: FinetuneRecipe) -> None:
        self.recipe = recipe
        self._data: FinetuneData

    def identity(self) -> dict[str, str]:
        """Digests of the recipe and of the training examples."""
        return {"recipe": digest(json.loads(self.recipe.model_dump_json())), "data": self._data.digest}

    def check_continuation(self, start: Start) -> None:
        """Nothing besides what the rules say."""

    def next_plan(self, first: Plan, world_size: int) -> Plan:
        """As many micro-batches as keep one as large or smaller."""
        return micro_batches_as_large(first, world_size, self.recipe.data.samples_per_step)

    def _lora_of(self, model: Any, config: Any) -> LoraSettings | None:
        """Of the adapters that the recipe wants; None = none. What is drawn next, A, follows from the seed alone.

        They go into blocks alone, by whole names: heads and decoders, which learn as a whole, have layers of such ends.
        """
        section = self.recipe.lora
        if not section.rank:
            return None
        blocks = blocks_of(model, number_of_layers(config))
        targets = layers_in(model, blocks, section.targets or linear_layers(blocks))
        # peft draws A from torch's own generator.
        torch.manual_seed(self.recipe.run.seed)
        return LoraSettings(section.rank, section.alpha, section.dropout, targets)

    def _read(self, world_size: int) -> None:
        """Refuse sizes and a DeepSpeed file that do not fit, then read the data."""
        recipe = self.recipe
        goes_on = bool(checkpoint_folders(Path(recipe.run.folder)))
        check_batch_size(recipe.data.samples_per_step, 1 if goes_on else recipe.data.micro_batches, world_size)
        deepspeed_config(recipe, world_size)
        self._data = read_data(recipe)


class Finetuning(FinetuneWork):
    """The work of a `FinetuneRecipe` whose task has a head."""

    def __init__(self, recipe: FinetuneRecipe) -> None:
        super().__init__(recipe)
        self._task: LearnedTask
        self._encoder: PieceEncoder

    def check(self, world_size: int) -> None:
        """Read the data and the tokenizer; nothing of the model but its configuration."""
        recipe = self.recipe
        self._read(world_size)
        self._task = learned_task(recipe, self._data)
        self._check_metric()
        self._source = model_to_open(recipe, "finetuned")
        self._encoder = PieceEncoder(open_fast_tokenizer(self._source, max_tokens=recipe.data.max_tokens))
        self._task = on_model(self._task, self._source, self._encoder, self._data)
        self.recipe = recipe.model_copy(update={"schedule": resolved_schedule(recipe, len(self._data.train))})

    def _check_metric(self) -> None:
        """Refuse a score that the task does not have, by scoring a few right answers."""
        few, metric = (self._data.dev or self._data.test)[:4], self.recipe.evaluation.metric
        if not few or not metric:
            return
        known = [name for name in self._task.score(few, self._task.gold(few), resamples=2).scores if name not in LOW]
        if metric not in known:
            raise RecipeError("no such score", found=metric, needed=", ".join(known), where="evaluation.metric")

    def open(self) -> None:
        """Tokenise."""
        data = self._data
        self._train = training_rows(self.recipe, self._task.rows(self._encoder, data.train))
        self._dev = self._task.rows(self._encoder, data.dev) if data.dev else None
        self._test = self._task.rows(self._encoder, data.test) if data.test else None

    def build(self, plan: Plan, start: Start | None, ranks: RankInfo, device: torch.device) -> Parts:
        """The engine around the start's encoder with a new head, batches, steps and the trial."""
        data = self.recipe.data.model_copy(update={"micro_batches": plan.micro_batches})
        recipe = self.recipe.model_copy(update={"data": data})
        model, lora = self._model(start)
        groups = parameter_groups(model, model.config, recipe.optimizer, recipe.freeze)
        scored = self._dev is not None or self._test is not None
        self._copy = WholeCopy(model) if scored and isinstance(self._task, WritingTask) else None
        engine = engine_around(model, groups, recipe, ranks, device)
        return Parts(
            batches=FinetuneBatches(
                self._train,
                seed=recipe.run.seed,
                samples_per_step=data.samples_per_step,
                micro_batches=plan.micro_batches,
                rank=ranks.rank,
                world_size=ranks.world_size,
            ),
            steps=FinetuneSteps(engine, self._task, seed=recipe.run.seed, device=device),
            engine=engine,
            state=EngineState(engine),
            model_files=partial(self._write_model_files, model.config, lora),
            trial=self._trial(engine, device),
            notes=(*self._data.notes(), *self._cuts()),
        )

    def _model(self, start: Start | None) -> tuple[Any, LoraSettings | None]:
        """The model with adapters and frozen parts; a run that goes on does not look at what it began with."""
        recipe = self.recipe
        head = HeadSettings(recipe.run.seed, recipe.model.pooling, recipe.model.dropout)
        if start is None:
            model = new_model(self._source, self._task, head)
        else:
            model = empty_model(start.folder / "model", self._task, None).train()
        if (lora := self._lora_of(model, model.config)) is not None:
            head_ids = head_of(model)
            model = add_adapters(model, lora, [p for p in model.parameters() if id(p) in head_ids])
        freeze(model, model.config, recipe.freeze)
        return model, lora

    def _trial(self, engine: Any, device: torch.device) -> DevelopmentTrial:
        recipe, data = self.recipe, self._data
        batch_tokens = recipe.evaluation.batch_tokens or batch_tokens_of(device)

        def scored(examples: Any, rows: Any) -> ScoredSet | None:
            if rows is None:
                return None
            return ScoredSet(self._task, examples, rows, batch_tokens, self._copy)

        dev, test = scored(data.dev, self._dev), scored(data.test, self._test)
        return DevelopmentTrial(recipe, data, engine, dev=dev, test=test, device=device)

    def _write_model_files(
        self, config: Any, lora: LoraSettings | None, folder: Path, stated: Mapping[str, Any]
    ) -> None:
        """Everything in a checkpoint's model folder but the weights."""
        info = {
            "task": self._task.settings.to_json(),
            "start": self.recipe.model.start,
            "lora": None if lora is None else lora.to_json(),
            "languages": list(self._data.trained_languages),
            "data": {"examples": len(self._data.train), "sha256": self._data.digest},
        }
        write_finetuned_description(folder, config, {**info, **stated})
        # Copied by hand: transformers would make the folder, which a newer start may have taken away.
        with TemporaryDirectory() as name:
            self._encoder.tokenizer.save_pretrained(name)
            for file in Path(name).iterdir():
                if file.is_file():
                    shutil.copyfile(file, folder / file.name)

    def _cuts(self) -> list[str]:
        """What became of texts that are longer than the model takes."""
        notes, longest = [], self.recipe.data.max_tokens
        for name, rows in (("train", self._train), ("dev", self._dev), ("test", self._test)):
            if rows is None:
                continue
            cut, split = getattr(rows, "cut", 0), getattr(rows, "split", 0)
            if cut:
                notes.append(f"{name}: {cut} of {len(rows)} rows were cut to data.max_tokens = {longest}")
            if split:
                notes.append(f"{name}: {split} sentences are longer than {longest} tokens: several rows each")
        return notes
