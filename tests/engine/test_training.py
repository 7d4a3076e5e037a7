"""`mlc train` as users start it: real launchers, real signals, real processes; two ranks under ZeRO-3."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from ranks import free_port
from recipes_for_tests import recipe_table
from small_shards import write_small_shards
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mlc.engine.metrics import is_clock, read_metrics
from mlc.errors import EXIT_SAVED, EXIT_USAGE

BIN = Path(sys.executable).parent
TOTAL_STEPS = 40
TIMEOUT_SECONDS = 150


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards and a recipe whose dropout is on, so that resuming has something to get wrong."""
    folder = tmp_path_factory.mktemp("training")
    write_small_shards(folder / "shards")
    table = recipe_table(
        run={"folder": str(folder / "unset"), "precision": "bf16"},
        data={"shards": str(folder / "shards"), "samples_per_step": 9},
        model={"dropout": 0.1},
        schedule={"total_steps": TOTAL_STEPS, "warmup_steps": 5},
        checkpoint={"every_steps": 1000},
        log={"tensorboard": True},
    )
    (folder / "recipe.toml").write_text(tomli_w.dumps(table))
    return folder


@pytest.fixture(scope="module")
def unbroken(workspace: Path) -> Path:
    """A run that nothing disturbed, started as srun would: two plain processes."""
    run_folder = workspace / "unbroken"
    outputs = _finish(_start_plain(workspace, run_folder))
    assert [code for code, _ in outputs] == [0, 0], outputs
    return run_folder


@pytest.mark.slow
def test_four_launchers_give_bit_identical_runs(workspace: Path, unbroken: Path) -> None:
    port = str(free_port())
    starts: dict[str, Sequence[str | Path]] = {
        "torchrun": [BIN / "torchrun", "--nproc-per-node", "2", "--master-port", port, "-m", "mlc"],
        "deepspeed": [BIN / "deepspeed", "--num_gpus", "2", "--master_port", port, "--module", "mlc"],
        "mpirun": [BIN / "mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "2", sys.executable, "-m", "mlc"],
    }
    for name, start in starts.items():
        run_folder = workspace / name
        arguments = ["train", workspace / "recipe.toml", "--set", f"run.folder={run_folder}"]
        done = subprocess.run(
            [*map(str, start), *map(str, arguments)],
            env=_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{name}:\n{done.stdout}"
        assert _without_clocks(run_folder) == _without_clocks(unbroken), name
        assert json.loads((run_folder / "environment.json").read_text())["world_size"] == 2


def test_the_run_folder_holds_what_the_design_promises(unbroken: Path) -> None:
    lines = read_metrics(unbroken)
    assert [line["step"] for line in lines] == list(range(1, TOTAL_STEPS + 1))
    last = lines[-1]
    expected = {
        "step", "samples", "tokens", "loss", "loss/contrastive", "loss/glm", "loss/mlm", "weight/contrastive",
        "accuracy/contrastive", "lr", "grad_norm", "temperature", "tokens_per_second", "mfu", "padding_fraction",
        "seconds/data", "seconds/forward", "seconds/backward", "seconds/optimizer", "seconds/checkpoint",
    }  # fmt: skip
    assert expected <= last.keys()
    weighted = sum(last[f"weight/{name}"] * last[f"loss/{name}"] for name in ("contrastive", "glm", "mlm"))
    assert last["loss"] == pytest.approx(weighted, rel=1e-12)
    assert last["samples"] == 9 * TOTAL_STEPS
    (checkpoint,) = (unbroken / "checkpoints").glob("step-*")
    assert (unbroken / "checkpoints" / "latest").read_text() == f"{checkpoint.name}\n"
    assert {path.name for path in checkpoint.iterdir()} == {"complete.json", "model", "optimizer", "recipe.toml"}
    assert json.loads((unbroken / "owner.json").read_text())["generation"] == 1
    assert (checkpoint / "model" / "tokenizer.model").read_bytes() == b"a tokenizer"
    assert json.loads((unbroken / "exit.json").read_text()) == {"code": 0, "reason": "finished", "step": TOTAL_STEPS}
    assert (unbroken / "recipe.toml").exists()
    board = EventAccumulator(str(unbroken / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("loss")] == list(range(1, TOTAL_STEPS + 1))
    # event files keep 32 bits
    assert board.Scalars("loss")[-1].value == pytest.approx(last["loss"], rel=1e-6)


def test_training_lowers_the_loss(unbroken: Path) -> None:
    """Random tokens: the masked tokens' own frequencies can be learned, and pairs can be memorised."""
    losses = [line["loss"] for line in read_metrics(unbroken)]
    assert sum(losses[-5:]) < 0.97 * sum(losses[:5])


def test_stopped_and_resumed_is_bit_identical(workspace: Path, unbroken: Path) -> None:
    """One rank gets the signal; both save at the same step and leave with 75; the rest equals the unbroken run."""
    run_folder = workspace / "stopped"
    processes = _start_plain(workspace, run_folder, "checkpoint.at_start=true")
    _wait_for_lines(run_folder, 5, processes)
    processes[1].send_signal(signal.SIGTERM)
    outputs = _finish(processes)
    assert [code for code, _ in outputs] == [EXIT_SAVED, EXIT_SAVED], outputs
    stopped_at = json.loads((run_folder / "exit.json").read_text())["step"]
    assert 5 <= stopped_at < TOTAL_STEPS
    names = sorted(path.name for path in (run_folder / "checkpoints").glob("step-*"))
    assert names == ["step-00000000", f"step-{stopped_at:08d}"]

    outputs = _finish(_start_plain(workspace, run_folder))
    assert [code for code, _ in outputs] == [0, 0], outputs
    assert f"continues after step {stopped_at}" in outputs[0][1]
    _assert_same_end(run_folder, unbroken)


@pytest.mark.slow
def test_killed_in_the_middle_and_damaged_is_bit_identical(workspace: Path, unbroken: Path) -> None:
    """SIGKILL between checkpoints; the newest checkpoint is then damaged: the one before it takes over."""
    run_folder = workspace / "killed"
    processes = _start_plain(workspace, run_folder, "checkpoint.every_steps=6", "checkpoint.keep_last=3")
    _wait_for_lines(run_folder, 20, processes)
    for process in processes:
        process.kill()
    _finish(processes)
    newest = max((run_folder / "checkpoints").glob("step-*"))
    victim = newest / "model" / "weights-00001-of-00002.safetensors"
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(content)

    outputs = _finish(_start_plain(workspace, run_folder, "checkpoint.every_steps=6"))
    assert [code for code, _ in outputs] == [0, 0], outputs
    assert f"{newest.name} is not used, and set aside" in outputs[0][1]
    assert (run_folder / "checkpoints" / f"damaged-{newest.name}").exists()
    assert list(run_folder.glob("metrics.discarded-*.jsonl"))
    _assert_same_end(run_folder, unbroken)


@pytest.mark.slow
def test_a_changed_run_is_refused(workspace: Path, unbroken: Path) -> None:
    cases = {
        "optimizer.learning_rate=1.0": """--set 'run.allow_changes=["optimizer.learning_rate"]'""",
        "model.layers=1": "the run cannot go on with another model.layers",
        "data.samples_per_step=8": "the run cannot go on with another data.samples_per_step",
        "run.allow_changes=['optimiser']": "no such key or table",
        "run.resume=never": "the run folder already holds a checkpoint",
        f"data.shards={_other_tokenizer(workspace)}": "this run was trained on another tokenizer",
    }
    for change, message in cases.items():
        ((code, output),) = _finish(_start_plain(workspace, unbroken, change, world_size=1))
        assert code == EXIT_USAGE, output
        assert message in output
        assert json.loads((unbroken / "exit.json").read_text())["code"] == EXIT_USAGE


def _other_tokenizer(workspace: Path) -> Path:
    folder = workspace / "other_shards"
    write_small_shards(folder, tokenizer=b"another tokenizer")
    return folder


def _environment(**changes: str) -> dict[str, str]:
    keep = {
        key: value for key, value in os.environ.items() if not key.startswith(("RANK", "WORLD_", "OMPI_", "SLURM_"))
    }
    # Four threads on purpose: the recipe, not the environment, has to decide.
    return {**keep, "OMP_NUM_THREADS": "4", "DS_ACCELERATOR": "cpu", "COLUMNS": "200", **changes}


def _start_plain(
    workspace: Path, run_folder: Path, *overrides: str, world_size: int = 2
) -> list[subprocess.Popen[str]]:
    port = str(free_port())
    settings = [f"run.folder={run_folder}", *overrides]
    command = [sys.executable, "-m", "mlc", "train", str(workspace / "recipe.toml")]
    for setting in settings:
        command += ["--set", setting]
    return [
        subprocess.Popen(
            command,
            env=_environment(
                RANK=str(rank),
                WORLD_SIZE=str(world_size),
                LOCAL_RANK=str(rank),
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=port,
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world_size)
    ]


def _finish(processes: Sequence[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    try:
        outputs = [process.communicate(timeout=TIMEOUT_SECONDS)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]


def _wait_for_lines(run_folder: Path, count: int, processes: Sequence[subprocess.Popen[str]]) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while len(read_metrics(run_folder)) < count:
        assert all(process.poll() is None for process in processes), _finish(processes)
        assert time.monotonic() < deadline
        time.sleep(0.005)  # polling for an event, not waiting out a time


def _without_clocks(run_folder: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if not is_clock(key)} for line in read_metrics(run_folder)]


def _assert_same_end(run_folder: Path, unbroken: Path) -> None:
    assert _without_clocks(run_folder) == _without_clocks(unbroken)
    one, other = (folder / "checkpoints" / f"step-{TOTAL_STEPS:08d}" for folder in (run_folder, unbroken))
    files = sorted(path.relative_to(one) for path in one.rglob("*.safetensors"))
    assert len(files) == 4
    for name in files:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
