"""`mlc check identical`: whether two runs are the same to the last bit, clocks aside.

In:  two run folders.
Out: what differs: the first metric, and whether the final weights agree.

The runs may have had different numbers of ranks and ZeRO stages: whole weights are compared, name by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlc.checkpoint.record import complete_checkpoints
from mlc.engine.metrics import is_clock, read_metrics
from mlc.errors import UsageError
from mlc.model.saving import WeightReader, read_info


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
        CheckpointError: a newest checkpoint cannot be read.
    """
    lines = [_metrics(folder) for folder in (first, second)]
    for number, (one, other) in enumerate(zip(*lines, strict=False)):
        for key in sorted({*one, *other}):
            if repr(one.get(key)) != repr(other.get(key)):  # repr: a NaN equals a NaN here
                where = f"step {one.get('step')}: {key}"
                return Comparison(number, f"{where} is {one.get(key)!r} in {first}, {other.get(key)!r} in {second}")
    if len(lines[0]) != len(lines[1]):
        return Comparison(min(map(len, lines)), f"{len(lines[0])} logged steps in {first}, {len(lines[1])} in {second}")
    checkpoints = [complete_checkpoints(folder) for folder in (first, second)]
    if not all(checkpoints):
        return Comparison(len(lines[0]), "there is no complete checkpoint to compare weights of")
    return Comparison(len(lines[0]), _weights_difference(checkpoints[0][-1], checkpoints[1][-1]))


def _metrics(folder: Path) -> list[dict[str, Any]]:
    lines = [{key: value for key, value in line.items() if not is_clock(key)} for line in read_metrics(folder)]
    if not lines:
        raise UsageError("this run folder has no metrics", found=str(folder), needed="a folder that mlc train wrote")
    return lines


def _weights_difference(first: Path, second: Path) -> str | None:
    """The first weight of two checkpoints that differs, in words; two are in memory at a time."""
    folders = [checkpoint / "model" for checkpoint in (first, second)]
    with (
        WeightReader(folders[0], read_info(folders[0])) as one,
        WeightReader(folders[1], read_info(folders[1])) as other,
    ):
        for name in sorted({*one.shapes, *other.shapes}):
            if name not in one.shapes or name not in other.shapes:
                return f"{name} is a weight of one newest checkpoint only"
            if one.shapes[name] != other.shapes[name] or not _same_bits(one.read(name), other.read(name)):
                return f"the weights of the newest checkpoints differ, first {name}"
    return None


def _same_bits(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(_bits(one), _bits(other))


def _bits(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)
