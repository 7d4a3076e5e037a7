"""The work of a study's queue in processes of its own: `mlc train` under torchrun, `mlc evaluate` and the token losses.

In:  a run whose recipe.toml lies in its folder.
Out: its run folder, log.txt, and its scores.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from study_plan import Budget, Run, Study, count_steps
from study_queue import LOG, RECIPE, Ending, Tick, last_lines, note_holders, read_json
from study_score import split_parallel_texts

from mlc.checkpoint.record import complete_checkpoints
from mlc.engine.metrics import read_metrics
from mlc.errors import EXIT_SAVED, MlcError

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_BETWEEN_LINES = 60.0
SECONDS_TO_END = 90.0
"""torchrun gives its ranks 30 s to save; a torchrun that takes three times as long hangs."""


class Stop:
    """Whether the queue shall go on: not after SIGINT, SIGTERM or SIGHUP, nor when the minutes are used up."""

    def __init__(self, minutes: float | None, say: Callable[[str], None]) -> None:
        self._end = None if minutes is None else time.monotonic() + 60 * minutes
        self._signalled = False
        self._say = say
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def keep_going(self) -> bool:
        """True until somebody or the clock wants to stop."""
        return not self._signalled and (self._end is None or time.monotonic() < self._end)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self._signalled:
            self._say("stopping: the training saves at its next step, which takes half a minute at most")
        self._signalled = True


class ConsoleWatcher:
    """A status line on a terminal; in a log file a line a minute."""

    def __init__(self, stack: ExitStack) -> None:
        self._console = Console(stderr=True)
        self._status = stack.enter_context(self._console.status("")) if self._console.is_terminal else None
        self._next_line = 0.0

    def say(self, line: str) -> None:
        """Print a line."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def show(self, line: str) -> None:
        """Show where things stand."""
        if self._status is not None:
            self._status.update(line)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + SECONDS_BETWEEN_LINES
            self.say(line)


class ProcessWorkers:
    """`Workers` that start processes.

    Args:
        study: says how to score.
        lock: descriptor of the study's lock, which a training inherits.
    """

    def __init__(self, study: Study, lock: int) -> None:
        self._study, self._lock = study, lock

    def count(self, run: Run) -> Budget:
        """Read all samples of the run until its text tokens are used up."""
        return count_steps(run.recipe, self._study.study.text_tokens_per_run)

    def train(self, run: Run, ranks: int, tick: Tick) -> Ending:
        """torchrun in a session of its own: Ctrl-C reaches the queue alone, which asks for the save."""
        run_folder = run.folder / "run"
        (run_folder / "exit.json").unlink(missing_ok=True)
        # --standalone takes a free port, so that studies can run beside other trainings.
        command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        command += ["-m", "mlc", "train", str(run.folder / RECIPE)]
        stopped = self._run(run, command, lambda: tick(_step(run_folder))) is None
        ending = read_json(run_folder / "exit.json")
        if ending is not None and ending["code"] == 0:
            return Ending("done")
        if stopped or (ending is not None and ending["code"] == EXIT_SAVED):
            return Ending("stopped")
        said = [line for line in last_lines(run.folder / LOG) if line.startswith("mlc: ")]
        return Ending("failed", ending["reason"] if ending else "".join(said[-1:]) or "it ended without saying why")

    def score(self, run: Run, tick: Tick) -> dict[str, Any] | None:
        """Retrieval by `mlc evaluate`, token losses by study_score.py."""
        with tempfile.TemporaryDirectory() as temporary:
            results = [Path(temporary) / name for name in ("retrieval.json", "tokens.json")]
            commands = [self._retrieval(run, results[0]), self._tokens(run, results[1])]
            for command in commands:
                code = self._run(run, command, lambda: tick(None))
                if code is None:
                    return None
                if code != 0:
                    raise MlcError("scoring failed", found=f"exit code {code}", where=" ".join(command))
            retrieval, tokens = (json.loads(result.read_text(encoding="utf-8")) for result in results)
        metrics = read_metrics(run.folder / "run")
        return {
            "retrieval": {
                "top1": retrieval["mean_top1"],
                "by_language": by_language(retrieval["pairs"]),
                "layer": retrieval["representation"]["layer"],
                "dev_top1": retrieval["dev_top1"],
                "candidates": retrieval["candidates"],
            },
            **tokens,
            "processed_tokens": metrics[-1]["tokens"],
            "training_seconds": sum(line["seconds/step"] for line in metrics) / len(metrics) * metrics[-1]["step"],
        }

    def _retrieval(self, run: Run, result: Path) -> list[str]:
        score = self._study.score
        folder = Path(self._study.study.folder) / self._study.study.name / "parallel_texts"
        dev, test = split_parallel_texts(Path(score.retrieval), folder, score.languages, score.dev_every)
        command = ["-m", "mlc", "evaluate", "retrieval", "--model", str(run.folder / "run"), "--data", str(test)]
        command += ["--languages", ",".join(score.languages), "--json", str(result)]
        if run.recipe.objectives.info_nce is None:
            # Nothing was trained to be the embedding: it is scored where it is best, without the projection.
            command += ["--layer", "best", "--dev", str(dev)]
        return command

    def _tokens(self, run: Run, result: Path) -> list[str]:
        score = self._study.score
        model = complete_checkpoints(run.folder / "run")[-1] / "model"
        command = [str(Path(__file__).with_name("study_score.py")), str(model), score.heldout, str(result)]
        return [*command, "--texts", str(score.heldout_texts), "--mask-fraction", str(score.mask_fraction)]

    def _run(self, run: Run, command: Sequence[str], goes_on: Callable[[], bool]) -> int | None:
        """Run Python with `command`, its output at the end of log.txt; its exit code, None = stopped on request."""
        with (run.folder / LOG).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(self._lock,),
            )
            note_holders(self._lock, os.getpid(), process.pid)
            while True:
                try:
                    return process.wait(SECONDS_BETWEEN_LOOKS)
                except subprocess.TimeoutExpired:
                    if goes_on():
                        continue
                process.terminate()
                try:
                    process.wait(SECONDS_TO_END)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                return None


def by_language(pairs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Top-1, mean of both directions, by the language that is not English."""
    return {({pair["first"], pair["second"]} - {"en"}).pop(): pair["top1"] for pair in pairs}


def _step(run_folder: Path) -> int:
    lines = read_metrics(run_folder)
    return int(lines[-1]["step"]) if lines else 0
