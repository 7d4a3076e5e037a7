"""Two runs compared: what a clock says and how the weights lie in files does not matter, every bit of them does."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_checkpoints import random_tensors, write_checkpoint
from torch import Tensor

from mlc.engine.compare import compare_runs
from mlc.errors import CheckpointError, UsageError
from mlc.model.saving import REQUIRED_INFO
from mlc.tensor_files import write_tensors

INFO = {"format": "mlc-model", "version": 1, **dict.fromkeys(REQUIRED_INFO)}
SHAPES = {"embeddings.weight": (7, 3), "bias": (5,), "temperature.raw": ()}
METRICS = [{"step": 1, "loss/total": 2.5, "seconds/step": 0.1}, {"step": 2, "loss/total": float("nan"), "time": 3.0}]


def make_run(
    folder: Path, weights: dict[str, Tensor], *, world_size: int = 2, metrics: list[dict[str, float]] = METRICS
) -> Path:
    write_checkpoint(folder, 2, weights, world_size=world_size, model_files={"mlc.json": json.dumps(INFO).encode()})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    return folder


@settings(max_examples=20)
@given(world_sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)), data=st.data())
def test_runs_on_any_numbers_of_ranks_are_the_same_until_one_bit_differs(
    world_sizes: tuple[int, int], data: st.DataObject
) -> None:
    weights = random_tensors(SHAPES)
    weights["bias"][0], weights["bias"][1] = float("nan"), 0.0
    with TemporaryDirectory() as name:
        root = Path(name)
        one, other = (make_run(root / str(i), weights, world_size=size) for i, size in enumerate(world_sizes))
        result = compare_runs(one, other)
        assert (result.steps, result.difference) == (2, None)
        changed = data.draw(st.sampled_from(sorted(SHAPES)))
        bits = weights[changed].reshape(-1).view(torch.int32)
        place = data.draw(st.integers(0, len(bits) - 1))
        bits[place] ^= -(2**31) if data.draw(st.booleans()) else 1  # the sign (also of a zero), or the last bit
        result = compare_runs(one, make_run(root / "changed", weights, world_size=world_sizes[1]))
        assert result.difference == f"the weights of the newest checkpoints differ, first {changed}"


def test_the_first_metric_that_differs_is_named(tmp_path: Path) -> None:
    weights = random_tensors(SHAPES)
    one = make_run(tmp_path / "one", weights)
    clocks = [{**line, "seconds/step": 9.0, "time": 9.0} for line in METRICS]
    assert compare_runs(one, make_run(tmp_path / "clocks", weights, metrics=clocks)).difference is None
    lost = make_run(tmp_path / "lost", weights, metrics=METRICS[:1])
    assert str(compare_runs(one, lost).difference).startswith("2 logged steps")
    other = make_run(tmp_path / "other", weights, metrics=[METRICS[0], {**METRICS[1], "loss/total": 2.0}])
    result = compare_runs(one, other)
    assert result.steps == 1
    assert str(result.difference).startswith("step 2: loss/total is nan in ")


def test_other_weights_and_none_at_all(tmp_path: Path) -> None:
    weights = random_tensors(SHAPES)
    one = make_run(tmp_path / "one", weights)
    more = make_run(tmp_path / "more", weights | {"extra": torch.zeros(1)})
    for pair in ((one, more), (more, one)):
        assert compare_runs(*pair).difference == "extra is a weight of one newest checkpoint only"
    turned = make_run(tmp_path / "turned", weights | {"embeddings.weight": weights["embeddings.weight"].reshape(3, 7)})
    assert "first embeddings.weight" in str(compare_runs(one, turned).difference)
    (turned / "checkpoints" / "step-00000002" / "complete.json").unlink()
    assert "no complete checkpoint" in str(compare_runs(one, turned).difference)
    with pytest.raises(UsageError, match="no metrics"):
        compare_runs(one, tmp_path / "absent")


def test_whole_and_divided_weights_are_the_same(tmp_path: Path) -> None:
    weights = random_tensors(SHAPES)
    one, other = (make_run(tmp_path / name, weights) for name in ("one", "other"))
    model = other / "checkpoints" / "step-00000002" / "model"
    for path in model.glob("weights-*"):
        path.unlink()
    with pytest.raises(CheckpointError, match="no weights"):
        compare_runs(one, other)
    write_tensors(model / "model.safetensors", weights)
    assert compare_runs(one, other).difference is None
