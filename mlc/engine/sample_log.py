"""Which samples a run has consumed, written where they are consumed (`log.samples`).

In:  every rank's batches, in the order in which they are trained on.
Out: `samples/attempt-00000003-rank-00001.jsonl`, one object a step: {"step", "batch", "samples"}.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mlc.data.batches import RankBatch

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
        self._file = (folder / f"attempt-{generation:08d}-rank-{rank:05d}.jsonl").open("x", encoding="utf-8")

    def write(self, step: int, batch: RankBatch) -> None:
        """Note a batch that is about to be trained on; samples added for evenness are none."""
        numbers = np.concatenate([part.samples for part in batch.micro_batches])
        line = {"step": step, "batch": batch.step, "samples": sorted(numbers[numbers >= 0].tolist())}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


def read_samples(run_folder: Path) -> dict[int, tuple[int, tuple[int, ...]]]:
    """By step: the number of its global batch and its samples, over all ranks; of the last start that took the step."""
    steps: dict[int, tuple[int, int, list[int]]] = {}
    for path in sorted((run_folder / FOLDER).glob("attempt-*-rank-*.jsonl")):
        generation = int(path.name.split("-")[1])
        for text in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if not text.endswith("\n"):  # torn by a kill
                continue
            line = json.loads(text)
            known = steps.get(line["step"])
            if known is None or known[0] < generation:
                steps[line["step"]] = known = (generation, line["batch"], [])
            known[2].extend(line["samples"])
    return {step: (batch, tuple(sorted(samples))) for step, (_, batch, samples) in sorted(steps.items())}
