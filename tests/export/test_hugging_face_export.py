"""Exports open in transformers with the checkpoint's embeddings, also where this package does not exist."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import GLM, TRAINING_TEXTS, make_checkpoint
from transformers import AutoModel, AutoTokenizer, BertConfig, MT5Config

from mlc.config import ModelSection
from mlc.errors import CheckpointError, MlcError, UsageError
from mlc.export import hugging_face
from mlc.export.command import run_export
from mlc.export.hugging_face import export_model
from mlc.model import register_auto_classes
from mlc.tasks.encoder import Representation, TextEncoder

TOLERANCE = 1e-5  # fp32 sums in another order
TEXTS = [*TRAINING_TEXTS, "", "[MASK] is text here", TRAINING_TEXTS[0] * 3]

# Stands before the card's example: neither this package nor data_prep may be imported, and nothing may be fetched.
BLOCK = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("mlc", "data_prep"):
            raise ModuleNotFoundError(f"{name} was imported, which an export must not need")

sys.meta_path.insert(0, Refuse())
"""


def run_card(folder: Path, texts: list[str], cache: Path) -> np.ndarray:
    """Run the code example of an export's README.md in a fresh process; returns its embeddings."""
    card = (folder / "README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    example = re.sub(r"^texts = .*$", f"texts = {texts!r}", example, flags=re.MULTILINE)
    assert repr(texts) in example
    out = cache / "embeddings.npy"
    script = f"{BLOCK}\n{example}\nimport numpy\nnumpy.save({str(out)!r}, embeddings.numpy())\n"
    environment = {**os.environ, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    result: np.ndarray = np.load(out)
    return result


@pytest.mark.parametrize(
    ("section", "contrastive"),
    [
        (GLM.model_copy(update={"projection_size": 12}), True),
        (GLM.model_copy(update={"layer": 1, "pooling": "cls"}), True),
        (GLM.model_copy(update={"pooling": "last"}), True),
        (GLM.model_copy(update={"projection_size": 12}), False),
    ],
    ids=["mean of the last layer, projected", "cls of layer 1", "last token", "never contrasted"],
)
def test_the_cards_example_gives_the_checkpoints_embeddings_without_this_package(
    tmp_path: Path, section: ModelSection, contrastive: bool
) -> None:
    make_checkpoint(tmp_path / "run", 7, section=section, contrastive=contrastive)
    report = export_model(tmp_path / "run", tmp_path / "out")
    assert report.step == 7
    assert report.max_difference <= TOLERANCE
    assert (tmp_path / "out" / "projection.safetensors").exists() == (contrastive and section.projection_size > 0)
    needed = TextEncoder.load(tmp_path / "run", device="cpu").encode(TEXTS)
    np.testing.assert_allclose(run_card(tmp_path / "out", TEXTS, tmp_path), needed, atol=TOLERANCE)
    again = TextEncoder.load(tmp_path / "out", device="cpu")
    np.testing.assert_allclose(again.encode(TEXTS), needed, atol=TOLERANCE)
    assert again.representation == report.representation


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


@pytest.mark.parametrize("family", ["bert", "mt5"])
def test_hugging_face_backbones(tmp_path: Path, family: str) -> None:
    if family == "bert":
        config = BertConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    else:
        config = MT5Config(d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    config.save_pretrained(tmp_path / "config")
    section = ModelSection(architecture="huggingface", config=str(tmp_path / "config"), projection_size=8)
    make_checkpoint(tmp_path / "run", 3, section=section)
    export_model(tmp_path / "run", tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.py"))
    needed = TextEncoder.load(tmp_path / "run", device="cpu").encode(TEXTS)
    np.testing.assert_allclose(run_card(tmp_path / "out", TEXTS, tmp_path), needed, atol=TOLERANCE)


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

    def change_a_weight(loaded: hugging_face.LoadedModel, folder: Path) -> None:
        weight = loaded.backbone.final_norm.weight
        weight.data[0] += 0.01
        write(loaded, folder)
        weight.data[0] -= 0.01

    monkeypatch.setattr(hugging_face, "_write_model", change_a_weight)
    with pytest.raises(MlcError, match="does not give the checkpoint's embeddings"):
        export_model(tmp_path / "run", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_only_checkpoints_with_their_own_tokenizer_are_exported(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "run", 1)
    export_model(folder, tmp_path / "out")
    with pytest.raises(UsageError, match="only checkpoints"):
        export_model(tmp_path / "out", tmp_path / "again")
    (folder / "complete.json").write_text('{"version": 1, "files": {}}')
    tokenizer = folder / "model" / "tokenizer.model"
    tokenizer.write_bytes(tokenizer.read_bytes() + b"\x22\x00")  # an empty field: a readable model of other bytes
    with pytest.raises(CheckpointError, match="not the one of the training data"):
        export_model(folder, tmp_path / "again")


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
