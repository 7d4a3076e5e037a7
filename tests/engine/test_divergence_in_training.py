"""Runs that diverge: a batch whose loss or gradient is not fit for an update, in real processes.

Which batches are bad is a fault that every start of a run has alike, as a poisoned document would be.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from faults_for_tests import Fault
from recipes_for_tests import ROOT
from training_processes import TrainingServer, assert_same_end, final_checkpoint, without_clocks, write_recipe

from mlc.checkpoint.record import Record, step_name
from mlc.engine.metrics import read_metrics
from mlc.engine.sample_log import read_samples
from mlc.errors import EXIT_FAILED, EXIT_SAVED

TOTAL_STEPS = 14
EVERY_STEPS = 4
NOT_A_NUMBER = Fault(rank=1, batches=(5, 6, 7))
"""Of one rank alone: all of them have to hear of it."""
RETURNED_TO = 4


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(
        tmp_path_factory.mktemp("diverging"),
        run={"precision": "fp32"},
        model={"dropout": 0.1},
        schedule={"total_steps": TOTAL_STEPS, "warmup_steps": 2},
        checkpoint={"every_steps": EVERY_STEPS},
        divergence={"skip_updates": 2, "roll_backs": 1},
        log={"samples": True},
    )


@pytest.fixture(scope="module")
def returned(server: TrainingServer, recipe: Path) -> Path:
    """A run that left two updates out, returned to a checkpoint, stepped over three batches, and finished."""
    run_folder = recipe.parent / "returned"
    training = server.start(recipe, run_folder, faults=[NOT_A_NUMBER])
    assert training.wait() == [0, 0], training.text
    return run_folder


def test_bad_batches_are_stepped_over(returned: Path) -> None:
    skipped = json.loads((returned / "skipped.json").read_text())
    assert skipped["batches"] == list(NOT_A_NUMBER.batches)
    (entry,) = skipped["returns"]
    assert entry["to_step"] == RETURNED_TO
    assert "step 8, batch 7: the loss is nan (3 bad steps in a row)" in entry["reason"]
    lines = read_metrics(returned)
    assert [line["step"] for line in lines] == list(range(1, TOTAL_STEPS + 1))
    assert [line["batch"] for line in lines] == [1, 2, 3, 4, 5, *range(9, TOTAL_STEPS + 4)]
    assert all(line["loss"] is not None and not line["update_left_out"] for line in lines)
    (discarded,) = returned.glob("metrics.discarded-*.jsonl")
    lost = [json.loads(line) for line in discarded.read_text().splitlines()]
    assert [(line["step"], line["loss"] is None, line["update_left_out"]) for line in lost] == [
        (5, False, 0), (6, True, 1), (7, True, 1),
    ]  # fmt: skip
    record = Record.read(final_checkpoint(returned))
    assert (record.position.step, record.position.batch) == (TOTAL_STEPS, TOTAL_STEPS + 3)
    assert record.optimizer_steps == TOTAL_STEPS
    assert record.skipped_batches == NOT_A_NUMBER.batches


def test_the_log_of_samples_tells_what_was_trained_on_in_the_end(returned: Path) -> None:
    samples = read_samples(returned)
    assert [batch for batch, _ in samples.values()] == [*range(5), *range(8, TOTAL_STEPS + 3)]
    assert {len(numbers) for _, numbers in samples.values()} == {8}


@pytest.mark.parametrize("number", [8, pytest.param(11, marks=pytest.mark.slow)], ids=["before a save", "after a save"])
def test_killed_after_the_return_is_bit_identical(
    number: int, server: TrainingServer, recipe: Path, returned: Path, tmp_path: Path
) -> None:
    """Steps are taken eight times until the return, so this is the first step after it, or one after the next save."""
    run_folder = tmp_path / "killed"
    kill = Fault(rank=0, call="mlc.engine.step:TrainingStep.take", number=number + 1)
    training = server.start(recipe, run_folder, faults=[NOT_A_NUMBER, kill])
    assert training[0].wait() == -signal.SIGKILL, training.text
    assert training.wait() == [-signal.SIGKILL, EXIT_FAILED]
    assert (run_folder / "skipped.json").read_bytes() == (returned / "skipped.json").read_bytes()
    training = server.start(recipe, run_folder, faults=[NOT_A_NUMBER])
    assert training.wait() == [0, 0], training.text
    assert_same_end(run_folder, returned)
    assert (run_folder / "skipped.json").read_bytes() == (returned / "skipped.json").read_bytes()


def test_a_run_that_keeps_diverging_stops(server: TrainingServer, recipe: Path, tmp_path: Path) -> None:
    run_folder = tmp_path / "hopeless"
    training = server.start(recipe, run_folder, faults=[Fault(rank=0, batches=tuple(range(5, 40)))])
    assert training.wait() == [EXIT_FAILED, EXIT_FAILED], training.text
    ending = json.loads((run_folder / "exit.json").read_text())
    assert ending["code"] == EXIT_FAILED
    assert "it diverges" in ending["reason"]
    assert "the loss is nan" in ending["reason"]
    assert json.loads((run_folder / "skipped.json").read_text())["batches"] == [5, 6, 7]
    assert final_checkpoint(run_folder).name == step_name(RETURNED_TO)


def test_every_checkpoint_has_returns_of_its_own(server: TrainingServer, recipe: Path, tmp_path: Path) -> None:
    """One return to step 4 and one to step 8, whose save is still being written when the bad step comes."""
    run_folder = tmp_path / "twice"
    bad = Fault(rank=1, batches=(5, 9))
    training = server.start(recipe, run_folder, "divergence.skip_updates=0", faults=[bad])
    assert training.wait() == [0, 0], training.text
    returns = json.loads((run_folder / "skipped.json").read_text())["returns"]
    assert [(entry["to_step"], entry["batches"]) for entry in returns] == [(4, [5]), (8, [9])]


def test_stopped_amid_bad_steps_is_bit_identical(
    server: TrainingServer, recipe: Path, returned: Path, tmp_path: Path
) -> None:
    """The state after a bad step is one that an undisturbed run returns from."""
    run_folder = tmp_path / "stopped"
    stop = Fault(rank=0, call="mlc.engine.step:TrainingStep.take", number=7, signal=signal.SIGTERM)
    training = server.start(recipe, run_folder, faults=[NOT_A_NUMBER, stop])
    assert training.wait() == [EXIT_SAVED, EXIT_SAVED], training.text
    training = server.start(recipe, run_folder, faults=[NOT_A_NUMBER])
    assert training.wait() == [0, 0], training.text
    assert_same_end(run_folder, returned)


CASES = ((1, "bf16"), (3, "bf16"), (2, "fp32"), (1, "fp32"), (2, "bf16"), (3, "fp32"))
TOO_LONG = Fault(batches=(5,), factor=1e4, of_loss=False)
INFINITE = Fault(rank=1, batches=(5,), factor=float("inf"), of_loss=False)


@pytest.mark.parametrize(
    ("stage", "precision", "fault"),
    [
        (*CASES[0], TOO_LONG),
        *(pytest.param(*case, TOO_LONG, marks=pytest.mark.slow) for case in CASES[1:]),
        *(pytest.param(*case, INFINITE, marks=pytest.mark.slow) for case in CASES),
    ],
)
def test_a_bad_gradient_changes_neither_weights_nor_moments(
    stage: int, precision: str, fault: Fault, server: TrainingServer, recipe: Path, tmp_path: Path
) -> None:
    """The last step is bad: what is saved after it is what was saved before it. The loss is that of a good step."""
    run_folder = tmp_path / "run"
    training = server.start(
        recipe,
        run_folder,
        f"run.precision={precision}",
        f"deepspeed.config={ROOT}/ds_configs/zero{stage}.json",
        "divergence.gradient_norm_limit=100.0",
        "checkpoint.every_steps=1",
        "schedule.total_steps=6",
        faults=[fault],
    )
    assert training.wait() == [0, 0], training.text
    before, after = (run_folder / "checkpoints" / step_name(step) for step in (5, 6))
    assert tensors_of(before) == tensors_of(after)
    record = Record.read(after)
    assert (record.position.batch, record.optimizer_steps, record.bad_row) == (6, 5, (5,))
    *good, line = without_clocks(run_folder)
    assert [line["update_left_out"] for line in good] == [0] * 5
    assert (line["step"], line["update_left_out"]) == (6, 1)
    assert line["loss"] < 2 * good[-1]["loss"]
    assert line["grad_norm"] is None or not 0 <= line["grad_norm"] <= 100.0


def tensors_of(folder: Path) -> dict[str, bytes]:
    """Every file of tensors, by name."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors"))
    assert names
    return {name: (folder / name).read_bytes() for name in names}
