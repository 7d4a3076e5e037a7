"""`mlc check identical`: whether two runs are the same to the last bit, clocks aside.

In:  two run folders.
Out: what differs: the first metric, and whether the final weights agree.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlc.engine.checkpoint import complete_checkpoints
from mlc.engine.metrics import is_clock, read_metrics
from mlc.errors import UsageError


@dataclass(frozen=True)
class Comparison:
    """How two runs compare.

    Attributes:
        steps: logged steps both have, all equal.
        difference: the first thing that differs, in words; None = nothing does.
    """

    steps: int
    difference: str | None


def compare_runs(first: Path, second: Path) -> Comparison:
    """Compare all metrics but clocks, then the newest checkpoints' weights, bit by bit.

    Raises:
        UsageError: one of them has no metrics.
    """
    lines = [_metrics(folder) for folder in (first, second)]
    for number, (one, other) in enumerate(zip(*lines, strict=False)):
        for key in sorted({*one, *other}):
            if repr(one.get(key)) != repr(other.get(key)):  # repr: a NaN equals a NaN here
                where = f"step {one.get('step')}: {key}"
                return Comparison(number, f"{where} is {one.get(key)!r} in {first}, {other.get(key)!r} in {second}")
    if len(lines[0]) != len(lines[1]):
        return Comparison(min(map(len, lines)), f"{len(lines[0])} logged steps in {first}, {len(lines[1])} in {second}")
    weights = [_weights(folder) for folder in (first, second)]
    if None in weights:
        return Comparison(len(lines[0]), "there is no complete checkpoint to compare weights of")
    if weights[0] != weights[1]:
        return Comparison(len(lines[0]), "the weights of the newest checkpoints differ")
    return Comparison(len(lines[0]), None)


def _metrics(folder: Path) -> list[dict[str, Any]]:
    lines = [{key: value for key, value in line.items() if not is_clock(key)} for line in read_metrics(folder)]
    if not lines:
        raise UsageError("this run folder has no metrics", found=str(folder), needed="a folder that mlc train wrote")
    return lines


def _weights(folder: Path) -> str | None:
    checkpoints = complete_checkpoints(folder)
    if not checkpoints:
        return None
    with (checkpoints[-1] / "model" / "model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
