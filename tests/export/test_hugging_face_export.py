"""Exports open in transformers with the checkpoint's embeddings, also where this package does not exist."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import GLM, TRAINING_TEXTS, make_checkpoint
from transformers import AutoModel, AutoTokenizer, BertConfig, MT5Config

from mlc.errors import CheckpointError, MlcError, UsageError
from mlc.export import hugging_face
from mlc.export.command import run_export
from mlc.export.hugging_face import export_model
from mlc.model import register_auto_classes
from mlc.recipe import ModelSection
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


CASES = {
    "mean of the last layer, projected": (GLM.model_copy(update={"projection_size": 12}), True),
    "cls of layer 1": (GLM.model_copy(update={"layer": 1, "pooling": "cls"}), True),
    "attention over layer 1, projected": (
        GLM.model_copy(update={"layer": 1, "pooling": "attention", "projection_size": 12}),
        True,
    ),
    "attention, never contrasted": (GLM.model_copy(update={"pooling": "attention"}), False),
    "last token": (GLM.model_copy(update={"pooling": "last"}), True),
    "never contrasted": (GLM.model_copy(update={"projection_size": 12}), False),
    "bert": (ModelSection(architecture="huggingface", config="bert", projection_size=8), True),
    "mt5": (ModelSection(architecture="huggingface", config="mt5", pooling="attention"), True),
}
CONFIGS = {
    "bert": BertConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32),
    "mt5": MT5Config(d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2),
}


def run_cards(folders: list[Path], texts: list[str], home: Path) -> list[np.ndarray]:
    """Run the code examples of exports' README.md, each in its folder, in one fresh process; their embeddings."""
    script = [BLOCK, "import os", "import numpy"]
    for place, folder in enumerate(folders):
        (example,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
        example = re.sub(r"^texts = .*$", lambda _: f"texts = {texts!r}", example, flags=re.MULTILINE)
        assert repr(texts) in example
        script += [f"os.chdir({str(folder)!r})", example]
        script += [f"numpy.save({str(home / str(place))!r}, embeddings.numpy())", "del embeddings, model, tokenizer"]
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", "\n".join(script)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [np.load(home / f"{place}.npy") for place in range(len(folders))]


@dataclass(frozen=True)
class Exported:
    run: Path
    out: Path
    report: hugging_face.ExportReport
    card_vectors: np.ndarray


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    home = tmp_path_factory.mktemp("exports")
    reports = {}
    for name, (section, contrastive) in CASES.items():
        located = section
        if section.config:
            CONFIGS[section.config].save_pretrained(home / f"config-{name}")
            located = section.model_copy(update={"config": str(home / f"config-{name}")})
        make_checkpoint(home / f"run-{name}", 7, section=located, contrastive=contrastive)
        reports[name] = export_model(home / f"run-{name}", home / f"out-{name}")
    vectors = run_cards([home / f"out-{name}" for name in CASES], TEXTS, home)
    return {
        name: Exported(home / f"run-{name}", home / f"out-{name}", reports[name], found)
        for name, found in zip(CASES, vectors, strict=True)
    }


@pytest.mark.parametrize("case", list(CASES))
def test_the_cards_example_gives_the_checkpoints_embeddings_without_this_package(
    exported: dict[str, Exported], case: str
) -> None:
    section, contrastive = CASES[case]
    it = exported[case]
    needed = TextEncoder.load(it.run, device="cpu").encode(TEXTS)
    np.testing.assert_allclose(it.card_vectors, needed, atol=TOLERANCE)
    assert it.report.step == 7
    assert it.report.max_difference <= TOLERANCE
    assert (it.out / "projection.safetensors").exists() == (contrastive and section.projection_size > 0)
    assert (it.out / "attention_pooling.safetensors").exists() == (contrastive and section.pooling == "attention")
    assert bool(list(it.out.glob("*.py"))) == (section.architecture == "glm")
    modes = {file.stat().st_mode for file in it.out.iterdir()}
    assert len(modes) == 1  # whoever can read one file can read all


@pytest.mark.parametrize("case", list(CASES))
def test_the_encoder_reads_exports_as_it_reads_checkpoints(exported: dict[str, Exported], case: str) -> None:
    it = exported[case]
    again = TextEncoder.load(it.out, device="cpu")
    needed = TextEncoder.load(it.run, device="cpu").encode(TEXTS)
    np.testing.assert_allclose(again.encode(TEXTS), needed, atol=TOLERANCE)
    assert again.representation == it.report.representation
    assert again.step == 7


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
