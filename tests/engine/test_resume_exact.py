"""A run that was stopped, killed in the middle of a step and killed in the middle of a save, against one left alone.

Equal to the last bit: every metric that is not read off a clock, the final weights and the optimizer's state.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
from faults_for_tests import Fault
from recipes_for_tests import ROOT
from training_processes import TrainingServer, assert_same_end, write_recipe

from mlc.checkpoint.record import Record
from mlc.engine.metrics import read_metrics
from mlc.errors import EXIT_FAILED, EXIT_SAVED

TOTAL_STEPS = 16
STOP_BEFORE_STEP, LOST_STEP = 6, 11
SECONDS_TO_END = 60.0
"""After the death of a peer: a broken connection is noticed at once; the rest is the end of an interpreter."""


@dataclass(frozen=True)
class Case:
    """Settings of one pair of runs."""

    stage: int
    precision: str
    ranks: int
    asynchronous: bool
    queue: bool = False
    micro_batches: int = 1
    dropout: float = 0.1

    def __str__(self) -> str:
        parts = [f"zero{self.stage}", self.precision, f"{self.ranks}ranks"]
        parts.append("behind" if self.asynchronous else "waiting")
        return "-".join(parts + ["queue"] * self.queue + ["two_passes"] * (self.micro_batches > 1))


QUICK = (
    Case(3, "fp32", 2, asynchronous=True, queue=True, micro_batches=2),
    Case(1, "bf16", 1, asynchronous=False),
)
SLOW = (
    Case(3, "bf16", 2, asynchronous=True, queue=True, micro_batches=2),
    Case(1, "bf16", 2, asynchronous=True, micro_batches=2),
    Case(1, "fp32", 2, asynchronous=True),
    Case(2, "bf16", 2, asynchronous=False),
    Case(2, "fp32", 2, asynchronous=True, micro_batches=2),
    Case(2, "fp32", 1, asynchronous=True, micro_batches=2),
    Case(3, "fp32", 2, asynchronous=False, micro_batches=2),
    Case(3, "fp32", 2, asynchronous=True, queue=True, dropout=0.0),
    Case(3, "bf16", 1, asynchronous=False, queue=True),
)
"""A queue needs stage 3."""


@pytest.mark.parametrize("case", [*QUICK, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)], ids=str)
def test_a_broken_run_ends_as_an_unbroken_one(case: Case, server: TrainingServer, tmp_path: Path) -> None:
    recipe = write_recipe(
        tmp_path,
        run={"precision": case.precision},
        data={"samples_per_step": 7, "micro_batches": case.micro_batches},
        model={"dropout": case.dropout},
        objectives={"contrastive": {"weight": 1.0, "queue": {"size": 21 if case.queue else 0, "momentum": 0.9}}},
        schedule={"total_steps": TOTAL_STEPS, "warmup_steps": 3},
        checkpoint={"every_steps": 4, "asynchronous": case.asynchronous},
        deepspeed={"config": str(ROOT / "ds_configs" / f"zero{case.stage}.json")},
    )
    unbroken, broken, last = tmp_path / "unbroken", tmp_path / "broken", case.ranks - 1
    training = server.start(recipe, unbroken, world_size=case.ranks)
    assert training.wait() == [0] * case.ranks, training.text

    def start(fault: Fault) -> list[int | None]:
        training = server.start(recipe, broken, world_size=case.ranks, faults=[fault])
        if fault.signal == signal.SIGKILL:
            training[fault.rank or 0].wait()
        codes = training.wait(SECONDS_TO_END)
        assert None not in codes, training.text
        return codes

    stop = Fault(last, "mlc.engine.step:TrainingStep.take", number=STOP_BEFORE_STEP, signal=signal.SIGTERM)
    assert start(stop) == [EXIT_SAVED] * case.ranks
    assert newest_step(broken) == STOP_BEFORE_STEP

    # Between a backward pass and the update: gradients are there, weights are the old ones.
    passes = (LOST_STEP - STOP_BEFORE_STEP - 1) * case.micro_batches + 1
    killed = Fault(last, "deepspeed.runtime.engine:DeepSpeedEngine.step", number=passes)
    assert start(killed) == [EXIT_FAILED] * last + [-signal.SIGKILL]
    assert newest_step(broken) < LOST_STEP

    # Rank 0 while the others have written everything, or the last one in its second file.
    if case.asynchronous:
        in_a_save = Fault(0, "mlc.checkpoint.record:Record.write")
    else:
        in_a_save = Fault(last, "mlc.tensor_files:stream_tensors", number=2)
    begun_at = newest_step(broken)
    assert sorted(map(str, start(in_a_save))) == sorted(map(str, [EXIT_FAILED] * last + [-signal.SIGKILL]))
    assert list((broken / "attempts").glob("attempt-*/step-*")), "it was not killed in a save"
    assert newest_step(broken) == begun_at

    training = server.start(recipe, broken, world_size=case.ranks)
    assert training.wait() == [0] * case.ranks, training.text
    assert f"continues after step {begun_at}" in training.text
    assert [line["step"] for line in read_metrics(broken)] == list(range(1, TOTAL_STEPS + 1))
    assert list(broken.glob("metrics.discarded-*.jsonl"))
    assert_same_end(broken, unbroken)


def test_a_save_in_the_background_holds_the_step_it_was_begun_at(server: TrainingServer, tmp_path: Path) -> None:
    """However long it takes: here each of its files waits for two more updates of the weights."""
    recipe = write_recipe(
        tmp_path,
        objectives={"contrastive": {"weight": 1.0, "queue": {"size": 24, "momentum": 0.9}}},
        schedule={"total_steps": 22, "warmup_steps": 0},
        checkpoint={"every_steps": 10},  # a save must not wait for the one before
    )
    waiting, behind = tmp_path / "waiting", tmp_path / "behind"
    training = server.start(recipe, waiting, "checkpoint.asynchronous=false", "checkpoint.keep_last=9", world_size=1)
    assert training.wait() == [0], training.text
    held = Fault(call="mlc.tensor_files:stream_tensors", held_until="mlc.engine.step:TrainingStep.take")
    kill = Fault(call="mlc.tensor_files:stream_tensors", number=5)  # the first file of the second save
    training = server.start(recipe, behind, world_size=1, faults=[held, kill])
    assert training.wait() == [-signal.SIGKILL], training.text
    (checkpoint,) = (behind / "checkpoints").glob("step-*")
    names = sorted(path.relative_to(checkpoint) for path in checkpoint.rglob("*.safetensors"))
    assert len(names) == 4
    for name in names:
        assert (checkpoint / name).read_bytes() == (waiting / "checkpoints" / checkpoint.name / name).read_bytes(), name


def newest_step(run_folder: Path) -> int:
    return Record.read(max((run_folder / "checkpoints").glob("step-*"))).position.step
