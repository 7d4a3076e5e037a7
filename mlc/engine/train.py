"""`mlc train`: from a recipe to checkpoints.

In:  a validated recipe; the ranks of this process.
Out: a run folder, and an exit code (0 finished, 75 saved on request).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console

from mlc.data.batches import BatchBuilder, RankBatch
from mlc.data.corpus import Corpus
from mlc.data.manifest import Manifest
from mlc.distributed.agree import from_rank_0
from mlc.distributed.ranks import RankInfo
from mlc.engine.checkpoint import Position, load_checkpoint, newest_checkpoint, save_checkpoint
from mlc.engine.construct import build_engine, parameter_count, prepare_process, set_learning_rate, start_process_group
from mlc.engine.metrics import MetricsWriter, discard_after
from mlc.engine.momentum import MomentumQueue, build_momentum_queue
from mlc.engine.preflight import check_identity, check_run, run_identity, write_exit, write_run_files
from mlc.engine.schedule import learning_rate_factor
from mlc.engine.step import StepSums, Totals, TrainingStep, count_totals
from mlc.engine.step_metrics import objective_metrics, speed_metrics
from mlc.engine.stop import StopRequest
from mlc.errors import EXIT_SAVED, MlcError, RecipeError
from mlc.recipe import TrainRecipe


def train(recipe: TrainRecipe, ranks: RankInfo) -> int:
    """Run a recipe to its end, or to the first request to stop.

    Returns:
        0 when all steps are done, 75 when saved on request: start the same command again to go on.

    Raises:
        MlcError: refused before a model was built, or failed.
    """
    run_folder = Path(recipe.run.folder)
    if ranks.rank == 0:  # how an earlier start ended says nothing about this one
        (run_folder / "exit.json").unlink(missing_ok=True)
    try:
        return _train(recipe, ranks, run_folder)
    except MlcError as error:
        if ranks.rank == 0 and run_folder.is_dir():
            write_exit(run_folder, error.exit_code, str(error), step=None)
        raise


def _train(recipe: TrainRecipe, ranks: RankInfo, run_folder: Path) -> int:
    manifest = check_run(recipe, ranks.world_size)
    identity = run_identity(recipe, manifest)
    device = prepare_process(recipe, ranks)
    corpus = Corpus(recipe.data, manifest, seed=recipe.run.seed)
    builder = BatchBuilder.of(recipe, corpus, rank=ranks.rank, world_size=ranks.world_size)
    start_process_group()
    try:
        checkpoint, position = from_rank_0(lambda: _look_for_start(recipe, run_folder, identity, ranks.world_size))
        engine = build_engine(
            recipe,
            ranks,
            vocab_size=manifest.tokenizer.vocab_size,
            special_ids=manifest.tokenizer.special_ids,
            token_counts=corpus.token_counts(manifest.tokenizer.vocab_size),
            num_languages=len(corpus.languages),
            device=device,
        )
        queue = build_momentum_queue(
            recipe,
            engine,
            vocab_size=manifest.tokenizer.vocab_size,
            special_ids=manifest.tokenizer.special_ids,
            device=device,
        )
        if checkpoint is not None:
            load_checkpoint(engine, checkpoint, queue=queue)
        elif queue is not None:
            queue.fill(builder, recipe.schedule.total_steps)
        if ranks.rank == 0:
            write_run_files(recipe, run_folder, ranks)
        return _Run(recipe, ranks, manifest, identity, corpus, builder, engine, queue, device, position).to_the_end()
    finally:
        dist.destroy_process_group()


class _Run:
    """The loop and what it needs; all state that outlives a step is in the engine and in `position`."""

    def __init__(
        self,
        recipe: TrainRecipe,
        ranks: RankInfo,
        manifest: Manifest,
        identity: dict[str, str],
        corpus: Corpus,
        builder: BatchBuilder,
        engine: Any,
        queue: MomentumQueue | None,
        device: torch.device,
        position: Position,
    ) -> None:
        self.recipe, self.ranks, self.manifest, self.corpus = recipe, ranks, manifest, corpus
        self.builder, self.engine, self.queue, self.device, self.position = builder, engine, queue, device, position
        self.identity = identity
        self.run_folder = Path(recipe.run.folder)
        self.saved_step = position.step if position.step else None
        self.checkpoint_seconds = 0.0

    def to_the_end(self) -> int:
        """Train from `position` on; returns the exit code."""
        recipe, total_steps = self.recipe, self.recipe.schedule.total_steps
        console = Console() if self.ranks.rank == 0 else None
        training_step = TrainingStep(
            self.engine,
            recipe.objectives,
            languages=len(self.corpus.languages),
            seed=recipe.run.seed,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
            device=self.device,
        )
        if console is not None:
            discard_after(self.run_folder, self.position.step)
            self._announce(console)
        with StopRequest() as stop, self._metrics_writer(console) as writer:
            if recipe.checkpoint.at_start and self.position.step == 0:
                self._save(writer)
            for batch, data_seconds in _ahead(self.builder, self.position.step, total_steps):
                started = time.perf_counter()
                totals = count_totals(batch, stop=stop.requested, device=self.device)
                if totals.signals:
                    self._save(writer)
                    return self._end(EXIT_SAVED, "stopped on request; start the same command again to go on")
                learning_rate = recipe.optimizer.learning_rate * learning_rate_factor(recipe.schedule, batch.step)
                set_learning_rate(self.engine, learning_rate)
                queued = self.queue.pairs() if self.queue else None
                cosines: dict[str, float] = {}
                every = recipe.log.gradient_cosine_every
                if every and (batch.step + 1) % every == 0:
                    sums, cosines = training_step.take_by_terms(batch, totals, queued)
                else:
                    sums = training_step.take(batch, totals, queued)
                if self.queue is not None:
                    self.queue.advance(batch)
                seconds = sums.seconds | {"data": data_seconds, "step": time.perf_counter() - started + data_seconds}
                self._advance(totals)
                step = self.position.step
                if writer is not None:
                    writer.advance(step)
                    if step % recipe.log.every_steps == 0 or step == total_steps or cosines:
                        writer.write(self._metrics(totals, sums, seconds, learning_rate) | cosines)
                if step % recipe.checkpoint.every_steps == 0 and step < total_steps:
                    self._save(writer)
            self._save(writer)
        return self._end(0, "finished")

    def _advance(self, totals: Totals) -> None:
        self.position = Position(
            step=self.position.step + 1,
            samples=self.position.samples + self.recipe.data.samples_per_step,
            tokens=self.position.tokens + totals.tokens,
        )

    def _metrics(
        self, totals: Totals, sums: StepSums, seconds: dict[str, float], learning_rate: float
    ) -> dict[str, Any]:
        norm = self.engine.get_global_grad_norm()
        return {
            **asdict(self.position),
            **objective_metrics(self.recipe, totals, sums, self.corpus.languages),
            "lr": learning_rate,
            "grad_norm": None if norm is None else float(norm),
            **speed_metrics(
                self.recipe,
                totals,
                seconds["step"],
                vocab_size=self.manifest.tokenizer.vocab_size,
                world_size=self.ranks.world_size,
                device=self.device,
            ),
            **{f"seconds/{name}": value for name, value in seconds.items()},
            "seconds/checkpoint": self.checkpoint_seconds,
            "time": time.time(),
        }

    def _save(self, writer: MetricsWriter | None) -> None:
        if self.saved_step == self.position.step:
            return
        started = time.perf_counter()
        if writer is not None:
            writer.sync()
        recipe = self.recipe
        info = {
            "model": recipe.model.model_dump(mode="json"),
            "vocab_size": self.manifest.tokenizer.vocab_size,
            "special_ids": self.manifest.tokenizer.special_ids,
            "max_tokens": recipe.data.max_tokens,
            "tokenizer_sha256": self.manifest.tokenizer.sha256,
            "shards_sha256": self.manifest.sha256,
            "languages": self.corpus.languages,
            "contrastive": recipe.objectives.info_nce is not None,
            "objectives": recipe.objectives.model_dump(mode="json"),
            "step": self.position.step,
            "samples": self.position.samples,
            "tokens": self.position.tokens,
        }
        save_checkpoint(
            self.engine,
            self.run_folder,
            self.position,
            self.identity,
            info,
            tokenizer=self.manifest.folder / self.manifest.tokenizer.file,
            keep_last=recipe.checkpoint.keep_last,
            queue=self.queue,
        )
        self.saved_step = self.position.step
        self.checkpoint_seconds = time.perf_counter() - started

    def _metrics_writer(self, console: Console | None) -> Any:
        if console is None:
            return _Nobody()
        return MetricsWriter(
            self.run_folder,
            total_steps=self.recipe.schedule.total_steps,
            first_step=self.position.step,
            tensorboard=self.recipe.log.tensorboard,
            console=console,
        )

    def _announce(self, console: Console) -> None:
        recipe, engine = self.recipe, self.engine
        facts = [
            f"continues after step {self.position.step}" if self.position.step else "starts from scratch",
            f"{parameter_count(engine.module) / 1e6:.1f} M parameters",
            f"world size {self.ranks.world_size} ({self.ranks.launcher})",
            f"ZeRO {engine.zero_optimization_stage()}",
            recipe.run.precision,
            f"{len(self.corpus.languages)} languages",
            f"{recipe.data.samples_per_step} samples a step",
        ]
        console.print(f"{self.run_folder}: {', '.join(facts)}", highlight=False, soft_wrap=True)

    def _end(self, code: int, reason: str) -> int:
        if self.ranks.rank == 0:
            write_exit(self.run_folder, code, reason, self.position.step)
            Console().print(f"{self.run_folder}: {reason} (step {self.position.step})", highlight=False, soft_wrap=True)
        # Nobody leaves before the ending is written: a launcher ends the others as soon as one rank is gone.
        dist.barrier()
        return code


class _Nobody:
    """Stands where rank 0 has its writer."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: object) -> None:
        return None


def _ahead(builder: BatchBuilder, first_step: int, total_steps: int) -> Iterator[tuple[RankBatch, float]]:
    """Batches in step order with the seconds the loop waited for each; one is built while the last one trains."""
    with ThreadPoolExecutor(max_workers=1) as worker:
        coming = worker.submit(builder.build, first_step) if first_step < total_steps else None
        for step in range(first_step, total_steps):
            started = time.perf_counter()
            assert coming is not None
            batch = coming.result()
            coming = worker.submit(builder.build, step + 1) if step + 1 < total_steps else None
            yield batch, time.perf_counter() - started


def _look_for_start(
    recipe: TrainRecipe, run_folder: Path, identity: dict[str, str], world_size: int
) -> tuple[Path | None, Position]:
    """The checkpoint to continue from, and where it stands."""
    saved = newest_checkpoint(run_folder)
    if saved is None:
        return None, Position()
    if recipe.run.resume == "never":
        raise RecipeError(
            "the run folder already holds a checkpoint",
            found=str(saved.folder),
            needed='an empty run.folder, or run.resume = "auto"',
            hint="--set run.resume=auto to continue it",
        )
    check_identity(saved.identity, identity, run_folder, recipe)
    if saved.world_size != world_size:
        raise RecipeError(
            "the checkpoint was written by another number of ranks",
            found=f"a world size of {world_size}",
            needed=f"a world size of {saved.world_size}",
            where=str(saved.folder),
            hint=f"start as many ranks as before: {saved.world_size}",
        )
    return saved.folder, saved.position
