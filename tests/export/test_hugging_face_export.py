"""Exports open in transformers with the checkpoint's embeddings, also where this package does not exist."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exports_for_tests import BLOCK, CASES, CONFIGS, FAST_CASES, INT8, TEXTS, Exported
from small_models import make_checkpoint
from transformers import AutoModel, AutoTokenizer

from mlc.errors import CheckpointError, MlcError, UsageError
from mlc.export import hugging_face
from mlc.export.command import run_export
from mlc.export.hugging_face import export_model
from mlc.model import register_auto_classes
from mlc.tasks.encoder import Representation, TextEncoder

TOLERANCE = 1e-5  # fp32 sums in another order


SLOW_CASES = [name for name in CASES if name not in FAST_CASES]


@pytest.mark.parametrize("case", FAST_CASES)
def test_the_cards_examples_give_the_checkpoints_embeddings_without_this_package(
    exported: dict[str, Exported], case: str
) -> None:
    check_card(exported[case], case)


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW_CASES)
def test_more_cards_examples(exported_slowly: dict[str, Exported], case: str) -> None:
    check_card(exported_slowly[case], case)
    check_encoder(exported_slowly[case])


def check_card(it: Exported, case: str) -> None:
    section, contrastive = CASES[case]
    needed = TextEncoder.load(it.run, device="cpu").encode(TEXTS)
    assert len(it.card_vectors) == 2
    for vectors in it.card_vectors:
        np.testing.assert_allclose(vectors, needed, atol=TOLERANCE)
    assert it.report.step == 7
    assert it.report.max_difference <= TOLERANCE
    assert (it.out / "projection.safetensors").exists() == (contrastive and section.projection_size > 0)
    assert (it.out / "attention_pooling.safetensors").exists() == (contrastive and section.pooling == "attention")
    code = {file.name for file in it.out.glob("*.py")}
    assert ("modeling_glm.py" in code) == (section.architecture == "glm")
    assert ("attention_pooling.py" in code) == (contrastive and section.pooling == "attention")
    card = (it.out / "README.md").read_text()
    assert ("SentenceTransformer(folder, trust_remote_code=True)" in card) == bool(code)
    modes = {file.stat().st_mode for file in it.out.rglob("*") if file.is_file()}
    assert len(modes) == 1  # whoever can read one file can read all


@pytest.mark.parametrize("case", FAST_CASES)
def test_the_encoder_reads_exports_as_it_reads_checkpoints(exported: dict[str, Exported], case: str) -> None:
    check_encoder(exported[case])


def check_encoder(it: Exported) -> None:
    again = TextEncoder.load(it.out, device="cpu")
    needed = TextEncoder.load(it.run, device="cpu").encode(TEXTS)
    np.testing.assert_allclose(again.encode(TEXTS), needed, atol=TOLERANCE)
    assert again.representation == it.report.representation
    assert again.step == 7


def test_the_cards_example_of_int8_needs_no_package_either(exported: dict[str, Exported]) -> None:
    it = exported[INT8]
    (vectors,) = it.card_vectors
    np.testing.assert_allclose(vectors, TextEncoder.load(it.out, device="cpu").encode(TEXTS), atol=TOLERANCE)


def test_the_guard_of_the_fresh_process_works() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"{BLOCK}\nimport mlc"], capture_output=True, text=True, check=False
    )
    assert "must not need" in done.stderr


def test_auto_model_without_remote_code_where_the_package_is_installed(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "run", 1)
    export_model(tmp_path / "run", tmp_path / "out")
    register_auto_classes()
    model = AutoModel.from_pretrained(tmp_path / "out", trust_remote_code=False)
    assert type(model).__module__ == "mlc.model.modeling_glm"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    batch = tokenizer(["one", "two and more"], padding=True, return_tensors="pt")
    with torch.inference_mode():
        states = model(**batch).last_hidden_state
    assert states.shape == (*batch["input_ids"].shape, 32)


def test_the_card_and_description_say_where_the_model_comes_from(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "run", 12)
    export_model(tmp_path / "run", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    for fact in ("Training step: 12", "de, en, no", '- "no"', "5" * 64, "24 tokens"):
        assert fact in card
    description = json.loads((tmp_path / "out" / "mlc.json").read_text())
    assert description["contrast"] == {"layer": -1, "pooling": "mean", "projection": False}
    assert description["format"] == "mlc-export"


def test_an_existing_folder_is_replaced_only_when_asked_and_only_an_export(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "run", 1)
    out = tmp_path / "out"
    export_model(tmp_path / "run", out)
    make_checkpoint(tmp_path / "run", 2, seed=9)
    with pytest.raises(UsageError, match="the folder exists"):
        export_model(tmp_path / "run", out)
    assert export_model(tmp_path / "run", out, overwrite=True).step == 2
    assert json.loads((out / "mlc.json").read_text())["step"] == 2
    with pytest.raises(UsageError, match="exports only"):
        export_model(tmp_path / "run", tmp_path / "run", overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "run"]


def test_a_wrong_export_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison can fail: weights changed on the way are noticed, and the folder never gets its name."""
    make_checkpoint(tmp_path / "run", 1)
    write = hugging_face._write_model

    def change_a_weight(loaded: hugging_face.LoadedModel, folder: Path, dtype: str, **options: bool) -> Any:
        weight = loaded.backbone.final_norm.weight
        weight.data[0] += 0.01
        written = write(loaded, folder, dtype, **options)
        weight.data[0] -= 0.01
        return written

    monkeypatch.setattr(hugging_face, "_write_model", change_a_weight)
    with pytest.raises(MlcError, match="does not give the embeddings"):
        export_model(tmp_path / "run", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_only_models_of_this_project_with_their_own_tokenizer_are_exported(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "run", 1)
    CONFIGS["xlm-r"].save_pretrained(tmp_path / "other")
    with pytest.raises(UsageError, match="only checkpoints and exports"):
        export_model(tmp_path / "other", tmp_path / "again")
    tokenizer = folder / "model" / "tokenizer.model"
    tokenizer.write_bytes(tokenizer.read_bytes() + b"\x22\x00")  # an empty field: a readable model of other bytes
    with pytest.raises(CheckpointError, match="not the one of the training data"):
        export_model(folder / "model", tmp_path / "again")


def test_command_says_what_was_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_checkpoint(tmp_path / "run", 4)
    make_checkpoint(tmp_path / "run", 5, complete=False)
    run_export(str(tmp_path / "run"), tmp_path / "out", json_file=tmp_path / "out.json")
    shown = capsys.readouterr().out
    assert "token ids equal" in shown
    assert "step-00000005" in shown
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["step"] == 4
    assert content["representation"] == {"layer": -1, "pooling": "mean", "projection": False}
    assert Representation(**content["representation"]) == Representation()
