"""What `mlc train` leaves is what evaluation and export read: no stand-in for the checkpoint."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import tomli_w
from recipes_for_tests import recipe_table
from small_models import TRAINING_TEXTS, train_tokenizer
from small_shards import LANGUAGES, write_small_shards

from mlc.export.hugging_face import MAX_DIFFERENCE, export_model
from mlc.tasks.encoder import Representation, TextEncoder
from mlc.tasks.locate import find_model

RANK_VARIABLES = ("RANK", "WORLD_", "LOCAL_", "OMPI_", "PMI", "SLURM_", "MASTER_")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of two ranks, with a tokenizer that can read text."""
    folder = tmp_path_factory.mktemp("run")
    tokenizer = train_tokenizer(folder / "tokenizer.model")
    vocab_size = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer)).vocab_size()
    write_small_shards(folder / "shards", tokenizer=tokenizer.read_bytes(), vocab_size=vocab_size)
    table = recipe_table(
        run={"folder": str(folder / "run")},
        data={"shards": str(folder / "shards")},
        model={"projection_size": 12},
        schedule={"total_steps": 2, "warmup_steps": 1},
    )
    (folder / "recipe.toml").write_text(tomli_w.dumps(table))
    environment = {key: value for key, value in os.environ.items() if not key.startswith(RANK_VARIABLES)}
    done = subprocess.run(
        [*TORCHRUN, "-m", "mlc", "train", str(folder / "recipe.toml")],
        env={**environment, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return folder / "run"


def test_a_trained_checkpoint_is_found_and_encodes(run: Path) -> None:
    source = find_model(run)
    assert (source.kind, source.step, source.skipped) == ("checkpoint", 2, ())
    assert find_model(source.folder.parent) == source  # it has a recipe.toml too, but is no run
    encoder = TextEncoder.load(run, device="cpu")
    assert encoder.representation == Representation(-1, "mean", True)
    assert (encoder.step, encoder.max_tokens) == (2, 32)
    assert encoder.model.description["languages"] == list(LANGUAGES)
    vectors = encoder.encode(TRAINING_TEXTS)
    assert vectors.shape == (len(TRAINING_TEXTS), 12)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)  # fp32
    assert len(np.unique(vectors.round(4), axis=0)) == len(TRAINING_TEXTS)


def test_a_checkpoint_holds_no_pickles(run: Path) -> None:
    files = [path for path in (run / "checkpoints" / "step-00000002").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".safetensors", ".json", ".toml", ".model"}
    weights = {path.name for path in files if path.name.startswith("weights")}
    assert weights == {f"weights-0000{rank}-of-00002.safetensors" for rank in range(2)}


def test_a_trained_checkpoint_is_exported(run: Path, tmp_path: Path) -> None:
    report = export_model(run, tmp_path / "export")
    assert report.step == 2
    assert report.max_difference <= MAX_DIFFERENCE
    exported, trained = (TextEncoder.load(model, device="cpu") for model in (report.folder, run))
    assert exported.representation == trained.representation
    np.testing.assert_allclose(exported.encode(TRAINING_TEXTS), trained.encode(TRAINING_TEXTS), atol=MAX_DIFFERENCE)
