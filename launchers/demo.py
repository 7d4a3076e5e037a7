"""`make demo`: the whole path on this machine, from generated text to a scored and exported model.

In:  nothing but an installed project.
Out: runs/demo/: corpus, shards, runs, an export, and summary.json with what was measured.

Every step is a command that users type themselves; this file only strings them together and prints them. The joint run
is stopped by a signal half-way and started again; an unbroken twin of it shows that nothing was lost.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mlc.config import read_recipe
from mlc.errors import EXIT_SAVED, MlcError
from mlc.recipe import TrainRecipe
from mlc.run_names import EXIT_NAME, METRICS_NAME

ROOT = Path("runs/demo")
JOINT_RECIPE, MLM_RECIPE, PREP_RECIPE = "recipes/demo_joint.toml", "recipes/demo_mlm.toml", "recipes/demo_prep.toml"
HELD_OUT, DEV = 620, 100
STOP_AFTER_FRACTION = 0.5
POLL_SECONDS = 0.1


class Demo:
    """The steps, in order, and what each took."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.seconds: dict[str, float] = {}

    def step(self, name: str, *commands: Sequence[str]) -> None:
        """Run commands one after the other, showing each.

        Raises:
            MlcError: one of them failed.
        """
        started = time.monotonic()
        self.console.rule(f"[bold]{name}", align="left")
        for command in commands:
            self._show(command)
            done = subprocess.run(self._arguments(command), check=False)
            if done.returncode:
                raise MlcError(
                    "a step of the demo failed", found=f"exit code {done.returncode}", where=" ".join(command)
                )
        self.seconds[name] = round(time.monotonic() - started, 1)

    def train_and_stop(self, name: str, command: Sequence[str], run_folder: Path, stop_after: int) -> int:
        """Start a training command, stop it by SIGTERM after `stop_after` steps; returns the step it saved at.

        Raises:
            MlcError: the run did not save and leave as it should.
        """
        started = time.monotonic()
        self.console.rule(f"[bold]{name}", align="left")
        self._show(command)
        process = subprocess.Popen(self._arguments(command))
        while process.poll() is None and _logged_steps(run_folder) < stop_after:
            time.sleep(POLL_SECONDS)
        self.console.print(f"[yellow]stopping it after step {_logged_steps(run_folder)}: kill -TERM {process.pid}")
        process.send_signal(signal.SIGTERM)
        process.wait()
        ending_file = run_folder / EXIT_NAME
        ending: dict[str, Any] = json.loads(ending_file.read_text()) if ending_file.exists() else {"code": None}
        if ending["code"] != EXIT_SAVED:
            raise MlcError(
                "the stopped run did not save", found=ending, needed=f"code {EXIT_SAVED}", where=str(run_folder)
            )
        self.seconds[name] = round(time.monotonic() - started, 1)
        return int(ending["step"])

    def _show(self, command: Sequence[str]) -> None:
        self.console.print(f"[dim]$ {' '.join(command)}", highlight=False, soft_wrap=True)

    def _arguments(self, command: Sequence[str]) -> list[str]:
        """The command with programs taken from this Python's environment."""
        programs = Path(sys.executable).parent
        if command[0] == "python":
            return [sys.executable, *command[1:]]
        return [str(programs / command[0]), *command[1:]]


def main() -> None:
    """Run the demo."""
    console = Console(soft_wrap=True)
    try:
        run_demo(console)
    except MlcError as error:
        console.print(f"[red]demo: {error}", highlight=False)
        sys.exit(error.exit_code)


def run_demo(console: Console) -> None:
    """All steps, the table, and summary.json."""
    started = time.monotonic()
    shutil.rmtree(ROOT, ignore_errors=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    demo = Demo(console)
    joint = read_recipe(JOINT_RECIPE, TrainRecipe)
    run_folder, unbroken, mlm = Path(joint.run.folder), ROOT / "unbroken", ROOT / "mlm_only"
    demo.step(
        "Corpus",
        f"python -m data_prep.demo_corpus --output {ROOT}/corpus --held-out {HELD_OUT} --formats mixed".split(),
    )
    _split_held_out(ROOT / "corpus" / "heldout")
    demo.step("Shards", ["mlc", "prep", "build", PREP_RECIPE], ["mlc", "prep", "verify", str(ROOT / "shards")])
    train = ["torchrun", "--nproc-per-node", "2", "-m", "mlc", "train"]
    stop_after = int(joint.schedule.total_steps * STOP_AFTER_FRACTION)
    stopped_at = demo.train_and_stop("Joint training, stopped", [*train, JOINT_RECIPE], run_folder, stop_after)
    demo.step("Joint training, resumed", [*train, JOINT_RECIPE])
    demo.step("Joint training, unbroken twin", [*train, JOINT_RECIPE, "--set", f"run.folder={unbroken}"])
    demo.step("MLM only, same budget", [*train, MLM_RECIPE])
    demo.step(
        "Comparison of the resumed run with its twin",
        ["mlc", "check", "identical", str(run_folder), str(unbroken), "--json", str(ROOT / "identical.json")],
    )
    test, dev = str(ROOT / "corpus" / "test"), str(ROOT / "corpus" / "dev")
    score = ["mlc", "evaluate", "retrieval", "--data", test, "--max-tokens", "128", "--threads", "2", "--json"]
    untrained = run_folder / "checkpoints" / "step-00000000"
    demo.step("Score before training", [*score, str(ROOT / "before.json"), "--model", str(untrained)])
    demo.step(
        "Score of MLM only, at its best layer",
        [*score, str(ROOT / "mlm_only.json"), "--model", str(mlm), "--layer", "best", "--dev", dev],
    )
    demo.step("Score after joint training", [*score, str(ROOT / "after.json"), "--model", str(run_folder)])
    demo.step("Export", ["mlc", "export", str(run_folder), str(ROOT / "export")])
    summary = _summarise(joint, run_folder, stopped_at, demo.seconds, time.monotonic() - started)
    (ROOT / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    _print_table(console, summary)


def _summarise(
    joint: TrainRecipe, run_folder: Path, stopped_at: int, seconds: dict[str, float], total_seconds: float
) -> dict[str, Any]:
    scores = {name: json.loads((ROOT / f"{name}.json").read_text()) for name in ("before", "mlm_only", "after")}
    environment = json.loads((run_folder / "environment.json").read_text())
    ds_config = json.loads(Path(joint.deepspeed.config).read_text())
    return {
        "retrieval_top1_before": scores["before"]["mean_top1"],
        "retrieval_top1_after": scores["after"]["mean_top1"],
        "mlm_only_top1_after": scores["mlm_only"]["mean_top1"],
        "mlm_only_representation": scores["mlm_only"]["representation"],
        "candidates": HELD_OUT - DEV,
        "language_pairs": len(scores["after"]["pairs"]),
        "world_size": environment["world_size"],
        "zero_stage": ds_config["zero_optimization"]["stage"],
        "steps": joint.schedule.total_steps,
        "stopped_at_step": stopped_at,
        "resumed_bit_identical": json.loads((ROOT / "identical.json").read_text())["identical"],
        "seconds": {**seconds, "total": round(total_seconds, 1)},
    }


def _print_table(console: Console, summary: dict[str, Any]) -> None:
    table = Table(title="Retrieval of translations, mean top-1 over all language pairs and both directions")
    table.add_column("model")
    table.add_column("top-1", justify="right")
    for label, key in (
        ("before training", "retrieval_top1_before"),
        ("MLM only, same budget, best layer", "mlm_only_top1_after"),
        ("joint: InfoNCE + GLM + MLM", "retrieval_top1_after"),
    ):
        table.add_row(label, f"{summary[key]:.3f}")
    console.print(table)
    console.print(
        f"{summary['candidates']} held-out documents a language, {summary['language_pairs']} language pairs; "
        f"{summary['world_size']} ranks, ZeRO {summary['zero_stage']}; stopped at step {summary['stopped_at_step']} of "
        f"{summary['steps']} and resumed, bit-identical to the unbroken twin: {summary['resumed_bit_identical']}; "
        f"{summary['seconds']['total']:.0f} s in all; written to {ROOT / 'summary.json'}",
        highlight=False,
    )


def _split_held_out(folder: Path) -> None:
    """The first documents choose MLM-only's layer (dev); the others are scored (test)."""
    for name, part in (("dev", slice(0, DEV)), ("test", slice(DEV, None))):
        target = folder.with_name(name)
        target.mkdir()
        for path in sorted(folder.glob("*.jsonl")):
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            (target / path.name).write_text("".join(lines[part]), encoding="utf-8")


def _logged_steps(run_folder: Path) -> int:
    path = run_folder / METRICS_NAME
    return path.read_bytes().count(b"\n") if path.exists() else 0


if __name__ == "__main__":
    main()
