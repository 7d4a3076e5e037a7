"""What a run tells: metrics.jsonl, TensorBoard, and a progress line. Rank 0 only.

In:  one flat object a logged step.
Out: `metrics.jsonl` (one line a step, flushed), `tensorboard/`, a line on the terminal.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from mlc.checkpoint.fence import Fence
from mlc.errors import CheckpointError
from mlc.run_names import METRICS_NAME

SECONDS_BETWEEN_LINES = 5.0
"""A log file gets a line at most this often; metrics.jsonl has every logged step."""
CLOCK_KEYS = ("tokens_per_second", "tflops_per_second", "mfu", "time")
"""Metrics read off a clock, besides all under `seconds/` and `memory/`; every other one is equal in a resumed run."""


def is_clock(key: str) -> bool:
    """Whether a metric is read off a clock or a meter, and so differs between two runs of the same recipe."""
    return key in CLOCK_KEYS or key.startswith(("seconds/", "memory/"))


def read_metrics(run_folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl, in order; a torn last line is ignored."""
    return read_lines(run_folder / METRICS_NAME)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file, in order; none where there is no file; a torn last line is ignored."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def start_metrics(run_folder: Path, step: int, fence: Fence) -> FileIO:
    """Open a run's metrics.jsonl to go on after `step`; later lines move to metrics.discarded-N.jsonl.

    The file is written anew inside the attempt's folder and put in place while it is open: what an earlier start that
    is still alive appends afterwards goes to a file that has no name any more.

    Returns:
        The file, positioned at its end.

    Raises:
        FencedError: another start owns the run.
    """
    lines = read_metrics(run_folder)
    late = [line for line in lines if line["step"] > step]
    if late:
        number = len(list(run_folder.glob("metrics.discarded-*.jsonl"))) + 1
        fence.write(run_folder / f"metrics.discarded-{number}.jsonl", _as_lines(late).encode())
    temporary = fence.work / METRICS_NAME
    with fence.working():
        file = FileIO(temporary, "w")
        _write_all(file, _as_lines([line for line in lines if line["step"] <= step]).encode())
        os.fsync(file.fileno())
    fence.place(temporary, run_folder / METRICS_NAME)
    return file


class MetricsWriter:
    """Writes a run's metrics; a context manager.

    Args:
        file: from `start_metrics`.
        run_folder: the run's folder.
        total_steps: for the progress line.
        first_step: steps already taken.
        tensorboard: also write event files.
        console: where the progress line goes; None = nowhere.
    """

    def __init__(
        self,
        file: FileIO,
        run_folder: Path,
        *,
        total_steps: int,
        first_step: int,
        tensorboard: bool,
        console: Console | None,
    ) -> None:
        self._file, self._unwritten = file, b""
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
        with suppress(OSError):
            self._drain()
        self._file.close()
        if self._board is not None:
            with suppress(OSError):
                self._board.close()

    def write(self, metrics: Mapping[str, Any]) -> None:
        """One logged step; `metrics` must hold "step". A number that is not finite is written as null."""
        # JSON has no NaN, and a reader that stops at one would not see the lines after it.
        line = json.dumps({key: _finite(value) for key, value in metrics.items()}, allow_nan=False) + "\n"
        self._unwritten += line.encode()
        with suppress(OSError):  # kept, and tried again with the next line; `sync` is where it matters
            self._drain()
        self._write_board(metrics)
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
        """Force everything to disk, so that a checkpoint never outlives its metrics.

        Raises:
            CheckpointError: the disk does not take it. The lines are kept and tried again.
        """
        try:
            self._drain()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise CheckpointError(
                "metrics cannot be written",
                found=str(error),
                where=METRICS_NAME,
                hint="look at free space, quota and permissions of the run folder",
            ) from None

    def _drain(self) -> None:
        while self._unwritten:
            self._unwritten = self._unwritten[self._file.write(self._unwritten) :]

    def _write_board(self, metrics: Mapping[str, Any]) -> None:
        try:
            for key, value in metrics.items():
                if self._board is not None and isinstance(value, (int, float)):
                    self._board.add_scalar(key, value, metrics["step"])
        except OSError as error:  # metrics.jsonl has everything that TensorBoard shows
            self._board = None
            print(f"TensorBoard's files cannot be written and are left out from here on: {error}", flush=True)


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


def _write_all(file: FileIO, content: bytes) -> None:
    while content:
        content = content[file.write(content) :]


def _as_lines(objects: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(content) + "\n" for content in objects)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
