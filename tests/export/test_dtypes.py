"""Weights in bf16, fp16 and int8: what is stored, how far the embeddings move, and what reads it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from exports_for_tests import CONFIGS
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from small_models import GLM, TRAINING_TEXTS, make_checkpoint

from mlc.errors import CheckpointError, MlcError
from mlc.export.compare import DTYPE_LIMITS, compare_tensors
from mlc.export.hugging_face import ExportReport, export_model
from mlc.model.int8_weights import INT8_FILE, quantise_rows, read_int8, write_int8
from mlc.recipe import ModelSection
from mlc.tasks.encoder import TextEncoder


def make_run(kind: str, folder: Path) -> Path:
    section = GLM.model_copy(update={"projection_size": 12})
    if kind != "glm":
        CONFIGS[kind].save_pretrained(folder / "config")
        section = ModelSection(architecture="huggingface", config=str(folder / "config"))
    make_checkpoint(folder / "run", 3, section=section)
    return folder / "run"


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)


def weights_of(report: ExportReport) -> dict[str, torch.Tensor]:
    name = INT8_FILE if report.dtype == "int8" else "model.safetensors"
    return load_file(report.folder / name)


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "int8"])
@pytest.mark.parametrize("kind", ["glm", "xlm-r", "mt5"])
def test_embeddings_stay_near_those_of_fp32(kind: str, dtype: str, tmp_path: Path) -> None:
    run = make_run(kind, tmp_path)
    report = export_model(run, tmp_path / "out", dtype=dtype)  # type: ignore[arg-type]
    needed = TextEncoder.load(run, device="cpu").encode(TRAINING_TEXTS)
    found = TextEncoder.load(report.folder, device="cpu").encode(TRAINING_TEXTS)
    assert 0 < report.max_difference <= DTYPE_LIMITS[dtype].max_difference
    assert cosines(found, needed).mean() >= DTYPE_LIMITS[dtype].mean_cosine
    stored = {tensor.dtype for tensor in weights_of(report).values() if tensor.ndim == 2}
    assert stored == {{"bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.int8}[dtype]}


def test_an_export_becomes_another_export(tmp_path: Path) -> None:
    """What was rounded stays rounded, and the card says so; everything else is carried over."""
    run = make_run("glm", tmp_path)
    small = export_model(run, tmp_path / "int8", dtype="int8").folder
    again = export_model(small, tmp_path / "again", formats=["sentence-transformers"])
    assert again.max_difference <= 1e-5
    assert again.step == 3
    first, second = (json.loads((folder / "mlc.json").read_text()) for folder in (small, again.folder))
    changed = {"formats", "dtype"}
    assert {key: value for key, value in first.items() if key not in changed} == {
        key: value for key, value in second.items() if key not in changed
    }
    assert second["rounded"] == ["int8"]
    assert "rounded to int8 before" in (again.folder / "README.md").read_text()
    needed = TextEncoder.load(small, device="cpu").encode(TRAINING_TEXTS)
    np.testing.assert_array_equal(TextEncoder.load(again.folder, device="cpu").encode(TRAINING_TEXTS), needed)


@settings(max_examples=50)
@given(rows=st.integers(1, 5), columns=st.integers(1, 9), exponent=st.integers(-20, 20), seed=st.integers(0, 10**6))
def test_no_weight_is_off_by_more_than_half_a_scale(rows: int, columns: int, exponent: int, seed: int) -> None:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 2.0**exponent
    weight[0] *= seed % 2  # sometimes a row of zeros
    integers, scale = quantise_rows(weight)
    assert integers.dtype == torch.int8
    assert integers.abs().max() <= 127
    error = (weight - integers.float() * scale[:, None]).abs()
    assert (error <= scale[:, None] * 0.5 * (1 + 1e-5)).all()  # fp32 rounds the quotient


def test_int8_files_that_are_not_whole_are_refused(tmp_path: Path) -> None:
    file = tmp_path / INT8_FILE
    weights = {"a": torch.randn(3, 4), "b": torch.randn(5), "c.scale": torch.randn(2)}
    write_int8(file, {**weights, "tied": weights["a"]})
    found = read_int8(file)
    assert set(found) == set(weights)  # the copy of a tied weight is stored once
    torch.testing.assert_close(found["b"], weights["b"], rtol=0, atol=0)
    stored = load_file(file)
    save_file(stored, file)
    with pytest.raises(CheckpointError, match="another format"):
        read_int8(file)
    del stored["a.scale"]
    save_file(stored, file, metadata={"format": "mlc-int8", "version": "1"})
    with pytest.raises(CheckpointError, match="a matrix has no scales"):
        read_int8(file)
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_int8(file)
    with pytest.raises(CheckpointError, match="not finite"):
        write_int8(file, {"a": torch.tensor([[float("nan")]])})


@pytest.mark.parametrize("dtype", list(DTYPE_LIMITS))
def test_the_limits_notice_a_wrong_matrix(dtype: str) -> None:
    """Vectors that have little to do with one another, and nan, are over every limit."""
    vectors = torch.nn.functional.normalize(torch.randn(6, 32, generator=torch.Generator().manual_seed(1)), dim=1)
    compare_tensors("embeddings", "a test", list(zip(vectors, vectors, strict=True)), DTYPE_LIMITS[dtype])
    for wrong in (vectors.flip(0), torch.full_like(vectors, torch.nan), vectors + 0.1 * vectors.flip(1)):
        with pytest.raises(MlcError, match="does not give the embeddings"):
            compare_tensors("embeddings", "a test", list(zip(vectors, wrong, strict=True)), DTYPE_LIMITS[dtype])
