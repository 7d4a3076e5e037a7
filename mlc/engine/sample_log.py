"""Which samples a run has consumed, written where they are consumed (`log.samples`).

In:  every rank's batches, in the order in which they are trained on.
Out: `samples/attempt-00000003-rank-00001.jsonl`, one object a step: {"step", "batch", "samples"}.
"""

from __future__ import annotations

import json
import os
import threading
from contextlib import suppress
from io import FileIO
from pathlib import Path

import numpy as np

from mlc.engine.work import Batch

FOLDER = "samples"


class SampleLog:
    """Writes the log of one rank of one start; every start has files of its own.

    Args:
        run_folder: the run's folder.
        generation: of this start (mlc.checkpoint.fence).
        rank: of this process.
    """

    def __init__(self, run_folder: Path, generation: int, rank: int) -> None:
        folder = run_folder / FOLDER
        folder.mkdir(exist_ok=True)
        self._file = FileIO(folder / f"attempt-{generation:08d}-rank-{rank:05d}.jsonl", "x")
        self._unwritten = b""
        self._lock = threading.Lock()  # `sync` is called from the thread that writes checkpoints

    def write(self, step: int, batch: Batch) -> None:
        """Note a batch that is about to be trained on; samples added for evenness are none."""
        numbers = np.concatenate([part.samples for part in batch.micro_batches])
        line = {"step": step, "batch": batch.step, "samples": sorted(numbers[numbers >= 0].tolist())}
        with self._lock:
            self._unwritten += (json.dumps(line) + "\n").encode()
            with suppress(OSError):  # kept, and tried again with the next line; `sync` is where it matters
                self._drain()

    def sync(self) -> None:
        """Force everything to disk, so that a checkpoint never outlives the log of what made it.

        Raises:
            OSError: the disk does not take it. The lines are kept and tried again.
        """
        with self._lock:
            self._drain()
        os.fsync(self._file.fileno())

    def _drain(self) -> None:
        while self._unwritten:
            self._unwritten = self._unwritten[self._file.write(self._unwritten) :]


Consumed = dict[int, tuple[int, list[int]]]
"""By step: the number of its global batch, and samples."""


def read_samples(run_folder: Path) -> dict[int, tuple[int, tuple[int, ...]]]:
    """By step: the number of its global batch and its samples, over all ranks.

    Of a step that was taken more than once, because a run was started again or went back, the last time counts; steps
    that were not taken again after that are not there.
    """
    starts: dict[int, list[Consumed]] = {}
    for path in sorted((run_folder / FOLDER).glob("attempt-*-rank-*.jsonl")):
        starts.setdefault(int(path.name.split("-")[1]), []).append(_read_rank(path))
    steps: Consumed = {}
    for _, ranks in sorted(starts.items()):
        taken = sorted({step for rank in ranks for step in rank})
        if taken:
            _forget_from(steps, taken[0])
        for step in taken:
            found = [rank[step] for rank in ranks if step in rank]
            steps[step] = (found[0][0], sorted(number for _, numbers in found for number in numbers))
    return {step: (batch, tuple(numbers)) for step, (batch, numbers) in steps.items()}


def _read_rank(path: Path) -> Consumed:
    steps: Consumed = {}
    for text in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if not text.endswith("\n"):  # torn by a kill
            continue
        line = json.loads(text)
        _forget_from(steps, line["step"])  # the run went back
        steps[line["step"]] = (line["batch"], line["samples"])
    return steps


def _forget_from(steps: Consumed, first: int) -> None:
    """Steps are there in ascending order."""
    while steps and next(reversed(steps)) >= first:
        steps.popitem()
