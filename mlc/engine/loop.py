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

import torch.distributed as dist

from mlc.checkpoint.fence import Fence
from mlc.checkpoint.record import Position
from mlc.distributed.agree import from_rank_0
from mlc.engine.construct import set_learning_rate
from mlc.engine.divergence import DivergenceGuard
from mlc.engine.metrics import MetricsWriter
from mlc.engine.sample_log import SampleLog
from mlc.engine.saver import CheckpointSaver
from mlc.engine.schedule import learning_rate_factor
from mlc.engine.signals import RankSignals
from mlc.engine.stop import StopRequest
from mlc.engine.update_guard import UpdateGuard
from mlc.engine.watchdog import Watchdog
from mlc.engine.work import Batch, Parts, StepResult, Totals
from mlc.errors import FencedError
from mlc.recipe import RunRecipe

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
        recipe: resolved.
        parts: what is trained.
        saver: of this start.
        stop: requests of people and clusters.
        watchdog: told of every step.
        fence: on rank 0; None elsewhere.
        samples: log of what is consumed, where the recipe wants one.
    """

    def __init__(
        self,
        recipe: RunRecipe,
        parts: Parts,
        *,
        saver: CheckpointSaver,
        stop: StopRequest,
        watchdog: Watchdog,
        fence: Fence | None,
        samples: SampleLog | None,
    ) -> None:
        self._recipe, self._engine, self._saver = recipe, parts.engine, saver
        self._batch_builder, self._steps, self._trial = parts.batches, parts.steps, parts.trial
        self._stop, self._watchdog, self._fence, self._samples = stop, watchdog, fence, samples
        self._updates = UpdateGuard(parts.engine, recipe.divergence.gradient_norm_limit)
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
        if (enough := self._learned_enough()) is not None:  # a run that had ended is started once more
            return Outcome("finished", enough)
        for batch, data_seconds in self._batches():
            started = time.perf_counter()
            self._watchdog.beat(f"step {self.position.step + 1}")
            totals = self._steps.count(batch, self._signals())
            if (cause := self._obey(totals.signals, writer)) is not None:
                return Outcome("stopped", cause)
            result = self._take(batch, totals)
            verdict = guard.judge(
                self.position.step + 1,
                batch.step,
                loss=result.metrics["loss"],
                grad_norm=self._gradient_norm(),
                update_skipped=self._updates.left_out,
            )
            if verdict == "roll_back":
                return Outcome("roll_back", guard.reason)
            if verdict == "good":
                # Loss scaling may have left the update out that would have waited for the copy.
                self._steps.follow(batch, self._saver.wait_for_copy)
            self._advance(batch, totals)
            seconds = result.seconds | {"data": data_seconds, "step": time.perf_counter() - started + data_seconds}
            if writer is not None:
                self._report(writer, result, totals, seconds)
            self._stop.seen(step_seconds=seconds["step"])
            self._try_out(writer)
            if self._is_due() and verdict == "good":
                self._save(writer)
            if (enough := self._learned_enough()) is not None:
                self._save(writer, must_succeed=True)
                return Outcome("finished", enough)
        self._save(writer, must_succeed=True)
        return Outcome("finished")

    def _learned_enough(self) -> str | None:
        return None if self._trial is None else self._trial.enough()

    def _try_out(self, writer: MetricsWriter | None) -> None:
        """Score the model where that is due, and save it if it is the best so far."""
        step = self.position.step
        if self._trial is None or not self._trial.is_due(step):
            return
        self._watchdog.beat(f"scoring step {step}")
        self._trial.score(step)
        if self._trial.best_step == step:
            self._save(writer)

    def _batches(self) -> Iterator[tuple[Batch, float]]:
        """The run's remaining batches with the seconds the loop waited for each; one is built ahead."""
        skipped, number = self._guard.skipped, self.position.batch
        left = self._recipe.schedule.total_steps - self.position.step
        with ThreadPoolExecutor(max_workers=1) as worker:
            coming = None
            for place in range(left):
                started = time.perf_counter()
                if coming is None:
                    number = skipped.next_batch(number)
                    coming = worker.submit(self._batch_builder.build, number)
                batch = coming.result()
                number = skipped.next_batch(number + 1)
                coming = worker.submit(self._batch_builder.build, number) if place + 1 < left else None
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

    def _take(self, batch: Batch, totals: Totals) -> StepResult:
        recipe, step = self._recipe, self.position.step
        learning_rate = recipe.optimizer.learning_rate * learning_rate_factor(recipe.schedule, step)
        set_learning_rate(self._engine, learning_rate, step)
        self._updates.begin()
        if self._samples is not None:
            self._samples.write(step + 1, batch)
        return self._steps.take(batch, totals, step=step + 1)

    def _gradient_norm(self) -> float | None:
        norm = self._engine.get_global_grad_norm()
        return None if norm is None else float(norm)

    def _advance(self, batch: Batch, totals: Totals) -> None:
        self.position = replace(
            self.position,
            step=self.position.step + 1,
            batch=batch.step + 1,
            samples=self.position.samples + self._recipe.data.samples_per_step,
            tokens=self.position.tokens + totals.tokens,
        )

    def _report(self, writer: MetricsWriter, result: StepResult, totals: Totals, seconds: dict[str, float]) -> None:
        recipe, step = self._recipe, self.position.step
        writer.advance(step)
        left_out = self._updates.left_out
        if step % recipe.log.every_steps and step < recipe.schedule.total_steps and not result.notable and not left_out:
            return
        factor = learning_rate_factor(recipe.schedule, step - 1)
        writer.write(
            {
                **asdict(self.position),
                **result.metrics,
                "lr": recipe.optimizer.learning_rate * factor,
                "grad_norm": self._gradient_norm(),
                "update_left_out": int(left_out),
                **self._steps.speed(totals, seconds["step"]),
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
