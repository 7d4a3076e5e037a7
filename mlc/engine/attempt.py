"""One start of a run, whatever it trains: from a recipe to checkpoints.

In:  a `Work` (mlc.engine.work); the ranks of this process.
Out: a run folder, and an exit code (0 finished, 75 saved on request).

Take the run over (mlc.checkpoint.fence), find where it stands (mlc.engine.resume), build what it trains, load, and take
steps (mlc.engine.loop) until it ends, or goes back to its last checkpoint and on from there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

import torch.distributed as dist
from rich.console import Console

from mlc.checkpoint.fence import Fence
from mlc.checkpoint.record import Plan, Position, Record, step_name
from mlc.distributed.agree import from_rank_0
from mlc.distributed.ranks import RankInfo, find_job
from mlc.engine.changes import check_changes, notes_on, plan_of
from mlc.engine.construct import parameter_count, prepare_process, start_process_group
from mlc.engine.divergence import SKIPPED_NAME, DivergenceGuard, SkippedBatches
from mlc.engine.loop import Outcome, TrainingLoop
from mlc.engine.metrics import MetricsWriter, start_metrics
from mlc.engine.preflight import environment
from mlc.engine.resume import Start, forget_later, load, newest_readable, newest_verified
from mlc.engine.sample_log import SampleLog
from mlc.engine.saver import CheckpointSaver, RunFacts
from mlc.engine.stop import StopRequest
from mlc.engine.watchdog import Watchdog
from mlc.engine.work import Parts, Work
from mlc.errors import EXIT_FAILED, EXIT_SAVED, CheckpointError, FencedError, MlcError, RecipeError
from mlc.files import json_bytes, write_json
from mlc.recipe import RunRecipe
from mlc.run_names import EXIT_NAME, RECIPE_NAME

LEAVING_SECONDS = 120.0


def run_work(work: Work, ranks: RankInfo, *, ends_process: bool = False) -> int:
    """Run a work to its end, or to the first request to stop.

    Args:
        work: with a resolved recipe.
        ranks: of this process.
        ends_process: the caller exits with the result; it is then seen to that the process really ends.

    Returns:
        0 when all steps are done, 75 when saved on request: start the same command again to go on.

    Raises:
        MlcError: refused before a model was built, or failed.
    """
    return _Attempt(work, ranks).run(ends_process=ends_process)


class _Attempt:
    """One start of a run on this rank."""

    def __init__(self, work: Work, ranks: RankInfo) -> None:
        self.work, self.ranks = work, ranks
        self.run_folder = Path(work.recipe.run.folder)
        self.fence: Fence | None = None
        """On rank 0, once the run is taken over."""
        self.console = Console() if ranks.rank == 0 else None

    @property
    def recipe(self) -> RunRecipe:
        """Of the work; what follows from the data (the number of steps) stands in it once the work is checked."""
        return self.work.recipe

    def run(self, *, ends_process: bool) -> int:
        try:
            self.work.check(self.ranks.world_size)
            self.run_folder.mkdir(parents=True, exist_ok=True)
            watchdog = Watchdog(
                self.recipe.run.stall_timeout_seconds,
                self.run_folder,
                self.ranks.rank,
                on_stall=lambda reason: self.write_exit(EXIT_FAILED, reason, step=None),
            )
            limit_seconds = 60 * self.recipe.run.time_limit_minutes
            with watchdog, StopRequest(self.run_folder if self.ranks.rank == 0 else None, limit_seconds) as stop:
                try:
                    return self._run(watchdog, stop)
                finally:
                    if ends_process:
                        watchdog.leave(LEAVING_SECONDS)
                    if dist.is_initialized():
                        dist.destroy_process_group()
        except FencedError:
            raise  # the run folder is another start's
        except MlcError as error:
            self.write_exit(error.exit_code, str(error), step=None)
            raise

    def _run(self, watchdog: Watchdog, stop: StopRequest) -> int:
        recipe, ranks = self.recipe, self.ranks
        device = prepare_process(recipe, ranks)
        self.work.open()
        start_process_group()
        # Before the run is taken from a start that may be alive: a refusal must not end that one.
        from_rank_0(lambda: self._check(newest_readable(self.run_folder)))
        generation = from_rank_0(self._take_over)
        start = newest_verified(self.run_folder, self.fence, watchdog.beat, self.say)
        notes = from_rank_0(lambda: self._check(start))
        plan, first_plan = plan_of(self.work, ranks.world_size, start)
        parts = self.work.build(plan, start, ranks, device)
        saver = CheckpointSaver(
            self.run_folder,
            parts.state,
            parts.queue,
            recipe.checkpoint,
            self._facts(parts, plan, first_plan),
            fence=self.fence,
            beat=watchdog.beat,
            say=self.say,
        )
        loop = TrainingLoop(
            recipe,
            parts,
            saver=saver,
            stop=stop,
            watchdog=watchdog,
            fence=self.fence,
            samples=SampleLog(self.run_folder, generation, ranks.rank) if recipe.log.samples else None,
        )
        self._announce(parts, start, plan, notes)
        return self._to_the_end(loop, parts, saver, start, watchdog)

    def _to_the_end(
        self, loop: TrainingLoop, parts: Parts, saver: CheckpointSaver, start: Start | None, watchdog: Watchdog
    ) -> int:
        """Load, train, and as often as the recipe allows: go back to the last checkpoint and on from there."""
        recipe = self.recipe
        while True:
            position = self._load(parts, start)
            saver.saved_step = position.step if start is not None else None
            skipped = from_rank_0(lambda: SkippedBatches.from_file(self.run_folder / SKIPPED_NAME))
            row: tuple[int, ...] = ()
            if start is not None:
                skipped = skipped.restored(position.step, start.record.skipped_batches)
                row = start.record.bad_row
            guard = DivergenceGuard(recipe.divergence, skipped, precision=recipe.run.precision, row=row)
            if parts.trial is not None:
                parts.trial.begin(position.step, self.fence)
            with self._metrics(position) as writer:
                outcome = loop.run(position, guard, writer)
            saver.finish()
            if outcome.kind != "roll_back":
                break
            start = newest_verified(self.run_folder, self.fence, watchdog.beat, self.say, to_return=True)
            if start is None:
                raise CheckpointError(
                    "the run has diverged before its first checkpoint",
                    found=outcome.reason,
                    hint="lower optimizer.learning_rate, or set checkpoint.at_start = true to step over the batches",
                )
            if not guard.may_return_to(start.record.position.step):
                outcome = Outcome("diverged", outcome.reason)
                break
            self._return_to(start, guard)
        saver.close()
        if parts.trial is not None and outcome.kind == "finished":
            parts.trial.conclude(lambda step: self._load_step(parts, step))
        return self._end(outcome, loop.position.step)

    def _load_step(self, parts: Parts, step: int) -> None:
        """Load the weights of a checkpoint of this run; a collective."""
        folder = self.run_folder / "checkpoints" / step_name(step)
        load(Start(folder, from_rank_0(lambda: Record.read(folder))), parts.state, None)

    def _return_to(self, start: Start, guard: DivergenceGuard) -> None:
        to_step = start.record.position.step
        skipped = guard.skipped.add(to_step, guard.row, guard.reason)

        def write() -> None:
            # In this order: a kill in between leaves a run that meets the bad batches once more, and does the same.
            forget_later(start, self.run_folder, self._own_fence())
            self._place(SKIPPED_NAME, skipped.to_bytes())

        from_rank_0(write)
        self.say(f"{guard.reason}: back to step {to_step}; batches {', '.join(map(str, guard.row))} are left out")

    def _take_over(self) -> int:
        self.fence = Fence.take(
            self.run_folder, {"launcher": self.ranks.launcher, "ranks": self.ranks.world_size, **find_job(os.environ)}
        )
        (self.run_folder / EXIT_NAME).unlink(missing_ok=True)  # how an earlier start ended says nothing of this one
        self._place(RECIPE_NAME, self.recipe.to_toml().encode())
        self._place("environment.json", json_bytes(environment(self.ranks)))
        return self.fence.generation

    def _check(self, start: Start | None) -> list[str]:
        """Refuse a continuation that may not be; returns notes on what has changed since the checkpoint."""
        if start is None:
            return []
        if self.recipe.run.resume == "never":
            raise RecipeError(
                "the run folder already holds a checkpoint",
                found=str(start.folder),
                needed='an empty run.folder, or run.resume = "auto"',
                hint="--set run.resume=auto to continue it",
            )
        plan_of(self.work, self.ranks.world_size, start)
        return check_changes(start, self.work)

    def _load(self, parts: Parts, start: Start | None) -> Position:
        loaded_queue = start is not None and load(start, parts.state, parts.queue)
        if parts.fill_queue is not None and not loaded_queue:
            parts.fill_queue()
        return Position(0, 0, 0, 0) if start is None else start.record.position

    def _facts(self, parts: Parts, plan: Plan, first_plan: Plan) -> RunFacts:
        trial = parts.trial
        return RunFacts(
            identity=self.work.identity(),
            plan=plan,
            first_plan=first_plan,
            precision=self.recipe.run.precision,
            recipe=self.recipe.to_toml(),
            model_files=parts.model_files,
            also_keep=lambda: frozenset(() if trial is None or trial.best_step is None else (trial.best_step,)),
        )

    @contextmanager
    def _metrics(self, position: Position) -> Iterator[MetricsWriter | None]:
        """The run's metrics from `position` on; nothing on other ranks than 0."""
        files: list[FileIO] = []
        from_rank_0(lambda: files.append(start_metrics(self.run_folder, position.step, self._own_fence())))
        if not files:
            yield None
            return
        with MetricsWriter(
            files[0],
            self.run_folder,
            total_steps=self.recipe.schedule.total_steps,
            first_step=position.step,
            tensorboard=self.recipe.log.tensorboard,
            console=self.console,
        ) as writer:
            yield writer

    def _announce(self, parts: Parts, start: Start | None, plan: Plan, notes: list[str]) -> None:
        if self.console is None:
            return
        recipe = self.recipe
        facts = [
            "a new run" if start is None else f"continues after step {start.record.position.step}",
            f"{parameter_count(parts.engine.module) / 1e6:.1f} M parameters",
            f"world size {self.ranks.world_size} ({self.ranks.launcher})",
            f"ZeRO {parts.state.stage}",
            recipe.run.precision,
            f"{recipe.data.samples_per_step} samples a step",
        ]
        self.say(f"{self.run_folder}: {', '.join(facts)}")
        if start is not None:
            notes = notes + notes_on(start.record, plan=plan, zero_stage=parts.state.stage)
        for note in (*parts.notes, *notes):
            self.say(f"  {note}")

    def _end(self, outcome: Outcome, step: int) -> int:
        codes = {"finished": 0, "stopped": EXIT_SAVED, "diverged": EXIT_FAILED}
        reasons = {
            "finished": f"finished: {outcome.reason}" if outcome.reason else "finished",
            "stopped": f"stopped on request ({outcome.reason}); start the same command again to go on",
            "diverged": f"stopped because it diverges: {outcome.reason}",
        }
        code, reason = codes[outcome.kind], reasons[outcome.kind]
        self.write_exit(code, reason, step)
        self.say(f"{self.run_folder}: {reason} (step {step})")
        # Nobody leaves before the ending is written: a launcher ends the others as soon as one rank is gone.
        dist.barrier()
        return code

    def write_exit(self, code: int, reason: str, step: int | None) -> None:
        """Write exit.json on rank 0, since launchers such as torchrun hide the exit codes of ranks."""
        if self.ranks.rank != 0:
            return
        content = {"code": code, "reason": reason, "step": step}
        try:
            if self.fence is not None:
                self.fence.write(self.run_folder / EXIT_NAME, json_bytes(content))
            elif self.run_folder.is_dir():  # refused before it took the run over
                write_json(self.run_folder / EXIT_NAME, content)
        except OSError as error:  # a full disk, perhaps, which is what the run ends for
            self.say(f"{EXIT_NAME} cannot be written: {error}")

    def say(self, line: str) -> None:
        """Tell people, on rank 0."""
        if self.console is not None:
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _place(self, name: str, content: bytes) -> None:
        self._own_fence().write(self.run_folder / name, content)

    def _own_fence(self) -> Fence:
        assert self.fence is not None, "only rank 0 owns the run folder"
        return self.fence
