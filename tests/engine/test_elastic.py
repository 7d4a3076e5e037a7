"""A run that goes on with other numbers of ranks and under another ZeRO stage trains on the same batches alike."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from faults_for_tests import Fault
from recipes_for_tests import ROOT
from training_processes import TrainingServer, final_checkpoint, write_recipe

from mlc.checkpoint.record import Record, step_name
from mlc.engine.metrics import read_metrics
from mlc.engine.sample_log import read_samples
from mlc.errors import EXIT_SAVED
from mlc.tensor_files import PieceReader, read_whole

TOTAL_STEPS = 20
SAMPLES_PER_STEP = 9
TOLERANCE = 1e-4
"""fp32 without dropout: only the order of sums differs, and Adam makes the most of the smallest differences."""
LEARNING_RATE, EMBEDDING_SCALE, WEIGHT_DECAY, BETAS, EPSILON = 1e-3, 8.0, 0.3, (0.9, 0.98), 1e-8
EMBEDDINGS = "backbone.embeddings.weight"

STARTS = ((2, 3, 5), (1, 3, 11), (4, 3, 16), (2, 2, TOTAL_STEPS))
"""Ranks, ZeRO stage, and the step after which the start is asked to stop."""
PLANS = ("continues after step 5", "1 ranks x 4 micro-batches, was 2 x 2", "4 ranks x 1 micro-batches, was 1 x 4")


@dataclass(frozen=True)
class Runs:
    """The same recipe twice."""

    unbroken: Path
    elastic: Path


@pytest.fixture(scope="module")
def runs(server: TrainingServer, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("elastic")
    recipe = write_recipe(
        folder,
        run={"precision": "fp32"},
        data={"samples_per_step": SAMPLES_PER_STEP, "micro_batches": 2},
        optimizer={
            "learning_rate": LEARNING_RATE,
            "embedding_learning_rate_scale": EMBEDDING_SCALE,
            "weight_decay": WEIGHT_DECAY,
            "betas": BETAS,
            "epsilon": EPSILON,
        },
        schedule={"kind": "constant", "total_steps": TOTAL_STEPS, "warmup_steps": 0},
        # Every step, so that consecutive states show what the optimizer has done.
        checkpoint={"every_steps": 1, "keep_last": TOTAL_STEPS},
        log={"samples": True},
    )
    runs = Runs(folder / "unbroken", folder / "elastic")
    training = server.start(recipe, runs.unbroken, world_size=2)
    assert training.wait() == [0, 0], training.text
    printed, done = "", 0
    for ranks, stage, stop_after in STARTS:
        # A signal is obeyed at the boundary after the step in which it comes.
        stop = Fault(0, "mlc.engine.step:TrainingStep.take", number=stop_after - done, signal=signal.SIGTERM)
        training = server.start(
            recipe,
            runs.elastic,
            f"deepspeed.config={ROOT}/ds_configs/zero{stage}.json",
            world_size=ranks,
            faults=[stop] if stop_after < TOTAL_STEPS else [],
        )
        assert training.wait() == [EXIT_SAVED if stop_after < TOTAL_STEPS else 0] * ranks, training.text
        printed, done = printed + training.text, stop_after
    assert "ZeRO 2, was 3" in printed
    for plan in PLANS:
        assert plan in printed
    return runs


def test_every_global_batch_has_the_same_samples(runs: Runs) -> None:
    """As noted where they were consumed."""
    samples = read_samples(runs.elastic)
    assert samples == read_samples(runs.unbroken)
    assert [(step, len(numbers)) for step, (_, numbers) in samples.items()] == [
        (step, SAMPLES_PER_STEP) for step in range(1, TOTAL_STEPS + 1)
    ]
    assert len({number for _, numbers in samples.values() for number in numbers}) > TOTAL_STEPS


def test_losses_and_weights_are_those_of_the_unbroken_run(runs: Runs) -> None:
    lines = [read_metrics(folder) for folder in (runs.elastic, runs.unbroken)]
    assert [len(both) for both in lines] == [TOTAL_STEPS, TOTAL_STEPS]
    for one, other in zip(*lines, strict=True):
        assert (one["step"], one["samples"], one["tokens"]) == (other["step"], other["samples"], other["tokens"])
        for key in (key for key in one if key.startswith("loss")):
            assert math.isclose(one[key], other[key], rel_tol=TOLERANCE), (one["step"], key, one[key], other[key])
    with weights_of(final_checkpoint(runs.elastic)) as one, weights_of(final_checkpoint(runs.unbroken)) as other:
        for name in one.names:
            difference = (one.weight(name) - other.weight(name)).norm() / other.weight(name).norm()
            assert difference < TOLERANCE, (name, float(difference))


@pytest.mark.parametrize("step", [13, 19], ids=["four ranks, ZeRO 3", "two ranks, ZeRO 2"])
def test_parameter_groups_keep_their_settings(runs: Runs, step: int) -> None:
    """Learning rate and weight decay that the optimizer has really used, from two consecutive states.

    AdamW (Loshchilov & Hutter 2019, algorithm 2) does w' - w = -rate * u - rate * decay * w, with u the ratio of the
    corrected moments, which are saved. Both unknowns follow by least squares.
    """
    folders = [runs.elastic / "checkpoints" / step_name(number) for number in (step, step + 1)]
    with weights_of(folders[0]) as before, weights_of(folders[1]) as after:
        for name in after.names:
            shape = after.record.parameters[name]
            rate, decay = used_settings(before, after, name)
            scale = EMBEDDING_SCALE if name == EMBEDDINGS else 1.0
            assert math.isclose(rate, LEARNING_RATE * scale, rel_tol=1e-4), (name, rate)
            assert math.isclose(decay, WEIGHT_DECAY if len(shape) > 1 else 0.0, abs_tol=1e-3), (name, decay)
        assert EMBEDDINGS in after.names


class Weights:
    """Whole tensors of a checkpoint."""

    def __init__(self, record: Record, weights: PieceReader, moments: PieceReader) -> None:
        self.record, self._weights, self._moments = record, weights, moments
        keys = moments.keys()
        self.names = sorted(key.removeprefix("exp_avg/") for key in keys if key.startswith("exp_avg/"))

    def weight(self, name: str) -> torch.Tensor:
        return read_whole(self._weights, name, self.record.parameters[name]).double()

    def moment(self, name: str, which: str) -> torch.Tensor:
        return read_whole(self._moments, f"{which}/{name}", self.record.parameters[name]).double()


@contextmanager
def weights_of(folder: Path) -> Iterator[Weights]:
    with ExitStack() as stack:
        readers = [
            stack.enter_context(PieceReader(sorted(folder.glob(files))))
            for files in ("model/weights-*.safetensors", "optimizer/state-*.safetensors")
        ]
        yield Weights(Record.read(folder), *readers)


def used_settings(before: Weights, after: Weights, name: str) -> tuple[float, float]:
    count = after.record.optimizer_steps
    mean = after.moment(name, "exp_avg") / (1 - BETAS[0] ** count)
    square = after.moment(name, "exp_avg_sq") / (1 - BETAS[1] ** count)
    direction, weight = mean / (square.sqrt() + EPSILON), before.weight(name)
    columns = torch.stack([direction.flatten(), weight.flatten()], dim=1)
    change = (after.weight(name) - weight).flatten()
    rate, rate_times_decay = (-torch.linalg.lstsq(columns, change[:, None]).solution[:, 0]).tolist()
    return rate, rate_times_decay / rate
