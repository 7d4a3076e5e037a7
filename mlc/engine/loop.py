"""The training loop: from one global batch to the next until the run is done, or has to end or go back.

In:  the parts of a run, ready for their next step.
Out: an `Outcome`; metrics and checkpoints on the way.

Every decision is taken alike on all ranks at the same step, from numbers that all of them have: counts that travel with
the batch's denominators, the step's sums, the gradient's norm.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
import torch.distributed as dist

from mlc.checkpoint.fence import Fence
from mlc.checkpoint.record import Position
from mlc.data.batches import BatchBuilder, RankBatch
from mlc.distributed.agree import from_rank_0
from mlc.engine.construct import set_learning_rate
from mlc.engine.divergence import DivergenceGuard
from mlc.engine.metrics import MetricsWriter
from mlc.engine.momentum import MomentumQueue
from mlc.engine.sample_log import SampleLog
from mlc.engine.saver import CheckpointSaver
from mlc.engine.schedule import learning_rate_factor
from mlc.engine.signals import RankSignals
from mlc.engine.step import StepSums, Totals, TrainingStep, count_totals
from mlc.engine.step_metrics import objective_metrics, speed_metrics
from mlc.engine.stop import StopRequest
from mlc.engine.update_guard import UpdateGuard
from mlc.engine.watchdog import Watchdog
from mlc.errors import FencedError
from mlc.recipe import TrainRecipe

SECONDS_BETWEEN_LOOKS = 1.0
"""At the folder that says who owns the run."""


@dataclass(frozen=True)
class Outcome:
    """Why the loop ended.

    Attributes:
        reason: for people.
    """

    kind: Literal["finished", "stopped", "roll_back", "diverged"]
    reason: str = ""


class TrainingLoop:
    """Takes the steps of a run.

    Args:
        recipe: resolved, with the micro-batches of this start.
        languages: of the corpus.
        vocab_size: of the shards' tokenizer.
        builder: of batches.
        engine: DeepSpeed engine.
        queue: of negatives, where the run has one.
        saver: of this start.
        stop: requests of people and clusters.
        watchdog: told of every step.
        fence: on rank 0; None elsewhere.
        samples: log of what is consumed, where the recipe wants one.
        device: of this rank.
    """

    def __init__(
        self,
        recipe: TrainRecipe,
        *,
        languages: list[str],
        vocab_size: int,
        builder: BatchBuilder,
        engine: Any,
        queue: MomentumQueue | None,
        saver: CheckpointSaver,
        stop: StopRequest,
        watchdog: Watchdog,
        fence: Fence | None,
        samples: SampleLog | None,
        device: torch.device,
    ) -> None:
        self._recipe, self._languages, self._vocab_size = recipe, languages, vocab_size
        self._builder, self._engine, self._queue, self._saver = builder, engine, queue, saver
        self._stop, self._watchdog, self._fence = stop, watchdog, fence
        self._samples, self._device = samples, device
        self._updates = UpdateGuard(engine, recipe.divergence.gradient_norm_limit)
        self._step = TrainingStep.of(engine, recipe, languages=len(languages), device=device)
        self._next_look = 0.0
        self.position = Position(0, 0, 0, 0)

    def run(self, position: Position, guard: DivergenceGuard, writer: MetricsWriter | None) -> Outcome:
        """Train from `position` on.

        Args:
            position: of what the engine holds.
            guard: knows the batches that were stepped over.
            writer: of metrics, on rank 0.
        """
        recipe, self.position, self._guard = self._recipe, position, guard
        if recipe.checkpoint.at_start and position.step == 0:
            self._save(writer)
        for batch, data_seconds in self._batches():
            started = time.perf_counter()
            self._watchdog.beat(f"step {self.position.step + 1}")
            totals = count_totals(batch, device=self._device, signals=self._signals())
            if (cause := self._obey(totals.signals, writer)) is not None:
                return Outcome("stopped", cause)
            sums, cosines = self._take(batch, totals)
            metrics = objective_metrics(recipe, totals, sums, self._languages)
            verdict = guard.judge(
                self.position.step + 1,
                batch.step,
                loss=metrics["loss"],
                grad_norm=self._gradient_norm(),
                update_skipped=self._updates.left_out,
            )
            if verdict == "roll_back":
                return Outcome("roll_back", guard.reason)
            if self._queue is not None and verdict == "good":
                self._saver.wait_for_copy()  # loss scaling may have left the update out that would have waited
                self._queue.advance(batch)
            self._advance(batch, totals)
            seconds = sums.seconds | {"data": data_seconds, "step": time.perf_counter() - started + data_seconds}
            if writer is not None:
                self._report(writer, metrics | cosines, totals, seconds)
            self._stop.seen(step_seconds=seconds["step"])
            if self._is_due() and verdict == "good":
                self._save(writer)
        self._save(writer, must_succeed=True)
        return Outcome("finished")

    def _batches(self) -> Iterator[tuple[RankBatch, float]]:
        """The run's remaining batches with the seconds the loop waited for each; one is built ahead."""
        skipped, number = self._guard.skipped, self.position.batch
        left = self._recipe.schedule.total_steps - self.position.step
        with ThreadPoolExecutor(max_workers=1) as worker:
            coming = None
            for place in range(left):
                started = time.perf_counter()
                if coming is None:
                    number = skipped.next_batch(number)
                    coming = worker.submit(self._builder.build, number)
                batch = coming.result()
                number = skipped.next_batch(number + 1)
                coming = worker.submit(self._builder.build, number) if place + 1 < left else None
                yield batch, time.perf_counter() - started

    def _signals(self) -> RankSignals:
        fenced = False
        if self._fence is not None and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + SECONDS_BETWEEN_LOOKS
            fenced = not self._fence.holds()
        return RankSignals(
            stop=self._stop.stop is not None,
            save=self._stop.save,
            written=self._saver.written,
            placed=self._saver.placed,
            fenced=fenced,
        )

    def _obey(self, signals: RankSignals, writer: MetricsWriter | None) -> str | None:
        """Act on what ranks have told each other; returns why the run is to end, if it is."""
        if signals.fenced:
            if self._fence is not None:
                self._fence.check()
            raise FencedError("another start owns this run by now", where=self._recipe.run.folder)
        self._saver.go_on(signals)
        if signals.stop:
            self._save(writer, must_succeed=True)
            causes: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(causes, self._stop.stop)
            from_rank_0(self._stop.honoured)
            return next(f"{cause} on rank {rank}" for rank, cause in enumerate(causes) if cause)
        if signals.save:
            self._save(writer)
            from_rank_0(self._stop.honoured)
        return None

    def _take(self, batch: RankBatch, totals: Totals) -> tuple[StepSums, dict[str, float]]:
        recipe = self._recipe
        factor = learning_rate_factor(recipe.schedule, self.position.step)
        set_learning_rate(self._engine, recipe.optimizer.learning_rate * factor)
        self._updates.begin()
        if self._samples is not None:
            self._samples.write(self.position.step + 1, batch)
        queued = self._queue.pairs() if self._queue else None
        every = recipe.log.gradient_cosine_every
        if every and (self.position.step + 1) % every == 0:
            return self._step.take_by_terms(batch, totals, queued)
        return self._step.take(batch, totals, queued), {}

    def _gradient_norm(self) -> float | None:
        norm = self._engine.get_global_grad_norm()
        return None if norm is None else float(norm)

    def _advance(self, batch: RankBatch, totals: Totals) -> None:
        self.position = replace(
            self.position,
            step=self.position.step + 1,
            batch=batch.step + 1,
            samples=self.position.samples + self._recipe.data.samples_per_step,
            tokens=self.position.tokens + totals.tokens,
        )

    def _report(
        self, writer: MetricsWriter, metrics: dict[str, Any], totals: Totals, seconds: dict[str, float]
    ) -> None:
        recipe, step = self._recipe, self.position.step
        writer.advance(step)
        cosines = any(key.startswith("gradient_") for key in metrics)
        left_out = self._updates.left_out
        if step % recipe.log.every_steps and step < recipe.schedule.total_steps and not cosines and not left_out:
            return
        factor = learning_rate_factor(recipe.schedule, step - 1)
        speed = speed_metrics(
            recipe,
            totals,
            seconds["step"],
            vocab_size=self._vocab_size,
            world_size=dist.get_world_size(),
            device=self._device,
        )
        writer.write(
            {
                **asdict(self.position),
                **metrics,
                "lr": recipe.optimizer.learning_rate * factor,
                "grad_norm": self._gradient_norm(),
                "update_left_out": int(left_out),
                **speed,
                **{f"seconds/{name}": value for name, value in seconds.items()},
                "seconds/checkpoint": self._saver.seconds,
                "time": time.time(),
            }
        )

    def _is_due(self) -> bool:
        step = self.position.step
        return step % self._recipe.checkpoint.every_steps == 0 and step < self._recipe.schedule.total_steps

    def _save(self, writer: MetricsWriter | None, *, must_succeed: bool = False) -> None:
        self._saver.finish()
        if self._saver.saved_step == self.position.step:
            return
        self._saver.save(
            self.position,
            self._guard,
            first=_nothing if writer is None else writer.sync,
            own=_nothing if self._samples is None else self._samples.sync,
            must_succeed=must_succeed,
            behind=not must_succeed,
        )
        self._stop.seen(save_seconds=self._saver.longest_seconds)


def _nothing() -> None:
    """Other ranks than 0 have no metrics to sync, and most runs no log of samples."""
