"""Scores on development data while a model is fine-tuned; which checkpoint is best; when to stop; the test at the end.

In:  the engine, a task, examples with gold answers.
Out: `RUN/scores.jsonl` (one object a scoring: {"step", "metric", "value", "best", "scores", "languages"}), the name of
     the best checkpoint in `checkpoints/best`, and `RUN/test.json`.

All ranks score: each takes its share of the rows, as many batches as the others, and rank 0 puts the predictions
together. What is decided follows from scores.jsonl alone, so a run that goes on decides as one that was not stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from rich.console import Console

from mlc.checkpoint.fence import Fence
from mlc.checkpoint.record import BEST_NAME, step_name
from mlc.distributed.agree import from_rank_0
from mlc.engine.metrics import read_lines
from mlc.errors import RecipeError
from mlc.files import json_bytes
from mlc.finetune.data import FinetuneData
from mlc.finetune.recipe import FinetuneRecipe
from mlc.finetune.resolve import steps_per_epoch
from mlc.finetune.translation_copy import WholeCopy
from mlc.finetune.translation_data import group_of
from mlc.run_names import SCORES_NAME, TEST_NAME
from mlc.tasks.encoder import batches_by_length
from mlc.tasks.features_batch import Array, TaskRows
from mlc.tasks.learned.predict import predict_rows
from mlc.tasks.learned.task import LearnedTask
from mlc.tasks.scores import Scores, mean_over_languages

RESAMPLES_ON_THE_WAY = 100
"""Intervals of scores on the way are for a glance; those of the test have the usual number."""


class Scored(Protocol):
    """What the model under an engine is scored on."""

    def score(self, engine: Any, device: torch.device, resamples: int) -> dict[str, Scores]:
        """Scores by language; a collective, whose result is on rank 0 alone (empty elsewhere)."""
        ...


class ScoredSet:
    """Examples, tokenised, that the model under an engine is scored on.

    Args:
        task: of the examples.
        examples: with gold answers.
        rows: of the examples.
        batch_tokens: longest row x rows of one batch.
        whole_copy: of the model, where the task's answers are written token by token.
    """

    def __init__(
        self,
        task: LearnedTask,
        examples: Sequence[Any],
        rows: TaskRows,
        batch_tokens: int,
        whole_copy: WholeCopy | None = None,
    ) -> None:
        self._task, self._examples, self._rows, self._copy = task, examples, rows, whole_copy
        batches = list(batches_by_length(rows.lengths.tolist(), batch_tokens))
        rank, world_size = dist.get_rank(), dist.get_world_size()
        self._rounds = -(-len(batches) // world_size)
        self._own = batches[rank::world_size]

    def score(self, engine: Any, device: torch.device, resamples: int) -> dict[str, Scores]:
        """Scores by language; a collective, whose result is on rank 0 alone (empty elsewhere)."""
        if self._copy is None:
            predictions = self._predict(engine.module, device)
        else:
            predictions = predict_rows(self._task, self._copy.of(engine, device), self._rows, self._own, device)
        gathered: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, predictions)
        if dist.get_rank() != 0:
            return {}
        by_row = {place: row for part in gathered for place, row in part}
        answers = self._task.answers(self._rows, self._examples, [by_row[place] for place in range(len(self._rows))])
        languages = sorted({group_of(example) for example in self._examples})
        scores = {}
        for language in languages:
            chosen = [place for place, example in enumerate(self._examples) if group_of(example) == language]
            scores[language or "all"] = self._task.score(
                [self._examples[place] for place in chosen],
                [answers[place] for place in chosen],
                resamples=resamples,
            )
        return scores

    def _predict(self, model: Any, device: torch.device) -> list[tuple[int, Array]]:
        """(row, prediction) of this rank's rows."""
        # As many forwards as the others, which gather parameters together.
        batches = [self._own[number] if number < len(self._own) else [] for number in range(self._rounds)]
        model.eval()
        try:
            return predict_rows(self._task, model, self._rows, batches, device)
        finally:
            model.train()


class DevelopmentTrial:
    """The trial of a fine-tuning run; see `mlc.engine.work.Trial`.

    Args:
        recipe: resolved, with its number of steps.
        data: of the run.
        engine: DeepSpeed engine.
        dev: scored on the way; None = nothing is.
        test: scored at the end; None = nothing is.
        device: of this rank.
    """

    def __init__(
        self,
        recipe: FinetuneRecipe,
        data: FinetuneData,
        engine: Any,
        *,
        dev: Scored | None,
        test: Scored | None,
        device: torch.device,
    ) -> None:
        self._folder, self._engine, self._dev, self._test = Path(recipe.run.folder), engine, dev, test
        self._section, self._total = recipe.evaluation, recipe.schedule.total_steps
        self._every = recipe.evaluation.every_steps or steps_per_epoch(recipe, len(data.train))
        self._trained, self._device = data.trained_groups, device
        self._console = Console() if dist.get_rank() == 0 else None
        self._fence: Fence | None = None
        self._lines: list[dict[str, Any]] = []

    @property
    def best_step(self) -> int | None:
        """The first step of the highest score."""
        best = max(self._lines, key=lambda line: (line["value"], -line["step"]), default=None)
        return None if best is None else int(best["step"])

    def begin(self, step: int, fence: Fence | None) -> None:
        """Forget scores after `step`."""
        self._fence = fence

        def read() -> list[dict[str, Any]]:
            lines = [line for line in read_lines(self._folder / SCORES_NAME) if line["step"] <= step]
            if self._dev is not None:
                self._write(lines)
            return lines

        self._lines = from_rank_0(read)

    def is_due(self, step: int) -> bool:
        """At multiples of `every_steps`, and at the last step."""
        return self._dev is not None and (step % self._every == 0 or step == self._total)

    def score(self, step: int) -> None:
        """Score the model on the development data."""
        assert self._dev is not None
        scores = self._dev.score(self._engine, self._device, RESAMPLES_ON_THE_WAY)
        self._lines = [*self._lines, from_rank_0(lambda: self._line(step, scores))]
        from_rank_0(lambda: self._write(self._lines))
        line = self._lines[-1]
        best = " (best so far)" if self.best_step == step else ""
        self._say(f"step {step}: {line['metric']} {line['value']:.4f} on the development data{best}")

    def enough(self) -> str | None:
        """Whether the last `patience` scores were no better than the best."""
        patience, best = self._section.patience, self.best_step
        if not patience or best is None:
            return None
        since = [line for line in self._lines if line["step"] > best]
        if len(since) < patience:
            return None
        return f"no better score in {len(since)} since step {best}"

    def conclude(self, load_best: Callable[[int], None]) -> None:
        """Score the best checkpoint on the test data."""
        if self._test is None:
            return
        best = self.best_step
        if best is not None and best != self._lines[-1]["step"]:
            load_best(best)
        scores = self._test.score(self._engine, self._device, 1000)
        from_rank_0(lambda: self._write_test(scores, best))

    def _say(self, line: str) -> None:
        if self._console is not None:
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _line(self, step: int, scores: dict[str, Scores]) -> dict[str, Any]:
        metric = self._section.metric or next(iter(scores.values())).main
        if any(metric not in found.scores for found in scores.values()):
            known = ", ".join(next(iter(scores.values())).scores)
            raise RecipeError("no such score", found=metric, needed=known, where="evaluation.metric")
        value = float(np.mean([found.scores[metric].value for found in scores.values()]))
        return {
            "step": step,
            "metric": metric,
            "value": value,
            "scores": {
                name: float(np.mean([found.scores[name].value for found in scores.values()]))
                for name in next(iter(scores.values())).scores
            },
            "languages": {language: found.scores[metric].value for language, found in scores.items()},
        }

    def _write(self, lines: Sequence[dict[str, Any]]) -> None:
        assert self._fence is not None, "rank 0 owns the run"
        content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        self._fence.write(self._folder / SCORES_NAME, content.encode())
        best = max(lines, key=lambda line: (line["value"], -line["step"]), default=None)
        if best is not None and (self._folder / "checkpoints").is_dir():
            self._fence.write(self._folder / "checkpoints" / BEST_NAME, f"{step_name(int(best['step']))}\n".encode())

    def _write_test(self, scores: dict[str, Scores], step: int | None) -> None:
        assert self._fence is not None, "rank 0 owns the run"
        means = mean_over_languages(scores, trained=self._trained, name=self._section.metric or None)
        content = {
            "step": step,
            **means.to_json(),
            "sets": {language: found.to_json() for language, found in scores.items()},
        }
        self._fence.write(self._folder / TEST_NAME, json_bytes(content))
        zero_shot = "" if means.zero_shot is None else f", zero-shot {means.zero_shot.value:.4f}"
        self._say(f"test: {means.score} {means.macro.value:.4f} over {len(scores)} languages{zero_shot}")
