"""What a run tells: metrics.jsonl, TensorBoard, and a progress line. Rank 0 only.

In:  one flat object a logged step.
Out: `metrics.jsonl` (one line a step, flushed), `tensorboard/`, a line on the terminal.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from mlc.files import write_atomically

METRICS_NAME = "metrics.jsonl"
SECONDS_BETWEEN_LINES = 5.0
"""A log file gets a line at most this often; metrics.jsonl has every logged step."""
CLOCK_KEYS = ("tokens_per_second", "tflops_per_second", "mfu", "time")
"""Metrics read off a clock, besides all under `seconds/` and `memory/`; every other one is equal in a resumed run."""


def is_clock(key: str) -> bool:
    """Whether a metric is read off a clock or a meter, and so differs between two runs of the same recipe."""
    return key in CLOCK_KEYS or key.startswith(("seconds/", "memory/"))


def read_metrics(run_folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl, in order; a torn last line is ignored."""
    path = run_folder / METRICS_NAME
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def discard_after(run_folder: Path, step: int) -> int:
    """Move metric lines later than `step` into metrics.discarded-N.jsonl: those steps will be taken again.

    Returns:
        How many lines were moved.
    """
    path = run_folder / METRICS_NAME
    if not path.exists():
        return 0
    lines = read_metrics(run_folder)
    late = [line for line in lines if line["step"] > step]
    kept = [line for line in lines if line["step"] <= step]
    if late:
        number = len(list(run_folder.glob("metrics.discarded-*.jsonl"))) + 1
        _write_lines(run_folder / f"metrics.discarded-{number}.jsonl", late)
    _write_lines(path, kept)
    return len(late)


class MetricsWriter:
    """Writes a run's metrics; a context manager.

    Args:
        run_folder: the run's folder.
        total_steps: for the progress line.
        first_step: steps already taken.
        tensorboard: also write event files.
        console: where the progress line goes; None = nowhere.
    """

    def __init__(
        self, run_folder: Path, *, total_steps: int, first_step: int, tensorboard: bool, console: Console | None
    ) -> None:
        self._file = (run_folder / METRICS_NAME).open("a", encoding="utf-8")
        self._board: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(run_folder / "tensorboard"), purge_step=first_step + 1)
        self._progress: Progress | None = None
        if console is not None:
            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"),
                BarColumn(bar_width=24),
                _Fields(),
                TimeRemainingColumn(),
                console=console,
            )
            self._task = self._progress.add_task("train", total=total_steps, completed=first_step, line="starting")
        self._is_terminal = console is not None and console.is_terminal
        self._console = console
        self._next_line = 0.0

    def __enter__(self) -> Self:
        if self._progress is not None and self._is_terminal:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None and self._is_terminal:
            self._progress.stop()
        self._file.close()
        if self._board is not None:
            self._board.close()

    def write(self, metrics: Mapping[str, Any]) -> None:
        """One logged step; `metrics` must hold "step"."""
        self._file.write(json.dumps(metrics) + "\n")
        self._file.flush()
        if self._board is not None:
            for key, value in metrics.items():
                if isinstance(value, (int, float)):
                    self._board.add_scalar(key, value, metrics["step"])
        line = _line(metrics)
        if self._progress is not None and self._is_terminal:
            self._progress.update(self._task, line=line)
        elif self._console is not None and time.monotonic() >= self._next_line:  # a log file: plain lines
            self._next_line = time.monotonic() + SECONDS_BETWEEN_LINES
            self._console.print(f"step {metrics['step']} {line}", highlight=False, soft_wrap=True)

    def advance(self, step: int) -> None:
        """Move the progress line to `step`."""
        if self._progress is not None and self._is_terminal:
            self._progress.update(self._task, completed=step)

    def sync(self) -> None:
        """Force what was written to disk, so that a checkpoint never outlives its metrics."""
        os.fsync(self._file.fileno())


class _Fields(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(str(task.fields["line"]))


def _line(metrics: Mapping[str, Any]) -> str:
    parts = [f"loss {metrics['loss']:.4f}"]
    if "accuracy/contrastive" in metrics:
        parts.append(f"top-1 {metrics['accuracy/contrastive']:.3f}")
    parts.append(f"lr {metrics['lr']:.2e}")
    parts.append(f"{metrics['tokens_per_second']:,.0f} tokens/s")
    return "  ".join(parts)


def _write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    write_atomically(path, "".join(json.dumps(line) + "\n" for line in lines).encode())
