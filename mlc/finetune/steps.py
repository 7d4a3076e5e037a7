"""Optimizer steps of fine-tuning: the task's loss over a global batch, exactly, on any number of ranks.

In:  the DeepSpeed engine, this rank's share of the batch.
Out: metrics.

J = (sum over the global batch of the loss) / (what counts in it, over all ranks and micro-batches). Each rank
backpropagates W x its share, and the mean over ranks that DeepSpeed takes is then the gradient of J.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from mlc.data.randomness import hash_words
from mlc.distributed.gather import sum_over_ranks
from mlc.engine.signals import RankSignals
from mlc.engine.step import no_update_unless_finite
from mlc.engine.work import StepResult
from mlc.finetune.batches import FinetuneBatch
from mlc.tasks.learned.predict import to_device
from mlc.tasks.learned.task import LearnedTask


@dataclass(frozen=True)
class FinetuneTotals:
    """Counts of one global batch over all ranks.

    Attributes:
        weight: what counts: rows or words.
        tokens: real tokens.
        slots: the same with padding.
        signals: on how many ranks each happened.
    """

    weight: float
    tokens: int
    slots: int
    signals: RankSignals


class FinetuneSteps:
    """Takes optimizer steps.

    Args:
        engine: DeepSpeed engine whose accumulation steps are the micro-batches.
        task: whose loss is learned.
        seed: of the run.
        device: where the model is.
    """

    def __init__(self, engine: Any, task: LearnedTask, *, seed: int, device: torch.device) -> None:
        self._engine, self._task, self._seed, self._device = engine, task, seed, device
        self._rank, self._world_size = dist.get_rank(), dist.get_world_size()

    def count(self, batch: FinetuneBatch, signals: RankSignals) -> FinetuneTotals:
        """Count a global batch with one collective, which also carries each rank's signals."""
        parts = [part.arrays for part in batch.micro_batches]
        local = [
            float(sum(part.targets["weights"].sum() for part in parts)),
            float(sum(part.tokens for part in parts)),
            float(sum(part.inputs["input_ids"].size for part in parts)),
            *map(float, signals),
        ]
        counts = sum_over_ranks(torch.tensor(local, dtype=torch.float64, device=self._device)).tolist()
        return FinetuneTotals(counts[0], int(counts[1]), int(counts[2]), RankSignals(*map(int, counts[3:])))

    def take(self, batch: FinetuneBatch, totals: FinetuneTotals, *, step: int) -> StepResult:
        """Forward, backward and update for one global batch; a collective."""
        del step
        seconds = dict.fromkeys(("forward", "backward", "optimizer"), 0.0)
        sums = torch.zeros(2, dtype=torch.float64, device=self._device)
        for number, part in enumerate(batch.micro_batches):
            started = time.perf_counter()
            # Dropout is a function of (seed, step, rank, micro-batch): no generator state has to be saved.
            torch.manual_seed(hash_words(self._seed, "dropout", batch.step, self._rank, number))
            inputs, targets = (to_device(arrays, self._device) for arrays in (part.arrays.inputs, part.arrays.targets))
            found = self._task.loss(self._engine(**inputs), inputs, targets)
            sums += torch.stack([found.loss.detach(), found.correct]).double()
            loss = no_update_unless_finite(found.loss * (self._world_size / max(1.0, totals.weight)))
            forwarded = time.perf_counter()
            self._engine.backward(loss, scale_wrt_gas=False)
            backwarded = time.perf_counter()
            self._engine.step()
            seconds["forward"] += forwarded - started
            seconds["backward"] += backwarded - forwarded
            seconds["optimizer"] += time.perf_counter() - backwarded
        loss_sum, correct = sum_over_ranks(sums).tolist()
        weight = max(1.0, totals.weight)
        return StepResult({"loss": loss_sum / weight, "accuracy": correct / weight, "count": totals.weight}, seconds)

    def follow(self, batch: FinetuneBatch, before_change: Callable[[], None]) -> None:
        """Nothing follows an update."""

    def speed(self, totals: FinetuneTotals, seconds: float) -> dict[str, Any]:
        """Tokens a second, padding, memory."""
        metrics: dict[str, Any] = {
            "padding_fraction": 1 - totals.tokens / totals.slots,
            "tokens_per_second": totals.tokens / seconds,
        }
        if self._device.type == "cuda":
            metrics["memory/peak_gib"] = round(torch.cuda.max_memory_allocated(self._device) / 2**30, 3)
        return metrics
