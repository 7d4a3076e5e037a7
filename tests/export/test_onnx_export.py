"""ONNX graphs give the encoder's embeddings in onnxruntime, for batches of any shape."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from exports_for_tests import CASES, CONFIGS, ONNX, TEXTS, Exported
from small_models import GLM, TRAINING_TEXTS, make_checkpoint
from transformers import AutoTokenizer

from mlc.errors import CheckpointError, MlcError, UsageError
from mlc.export import onnx_graph
from mlc.export.compare import ONNX_MAX_DIFFERENCE
from mlc.export.hugging_face import export_model
from mlc.recipe import ModelSection
from mlc.tasks.encoder import TextEncoder

OTHERS = {
    "glm, attention over layer 1, projected": CASES["attention over layer 1, projected"][0],
    "glm, last token": GLM.model_copy(update={"pooling": "last"}),
    "xlm-r, cls, projected": ModelSection(architecture="huggingface", config="xlm-r", pooling="cls", projection_size=8),
    "mt5": ModelSection(architecture="huggingface", config="mt5"),
}


def onnx_vectors(folder: Path, texts: list[str]) -> np.ndarray:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(texts, padding=True, truncation=True, return_tensors="np")
    session = onnxruntime.InferenceSession(str(folder / "onnx" / "model.onnx"))
    assert [put.name for put in session.get_inputs()] == ["input_ids", "attention_mask"]
    assert [put.shape for put in session.get_inputs()] == [["batch", "length"]] * 2
    inputs = {name: batch[name].astype("int64") for name in ("input_ids", "attention_mask")}
    states, embeddings = session.run(["last_hidden_state", "sentence_embedding"], inputs)
    assert states.shape[:2] == batch["input_ids"].shape
    return np.asarray(embeddings)


def check(run: Path, out: Path) -> None:
    needed = TextEncoder.load(run, device="cpu").encode(TRAINING_TEXTS)
    for first, last in ((0, 1), (0, 9), (3, 8), (5, 7)):
        found = onnx_vectors(out, list(TRAINING_TEXTS[first:last]))
        np.testing.assert_allclose(found, needed[first:last], atol=ONNX_MAX_DIFFERENCE)


def test_a_graph_of_the_glm_alone(exported: dict[str, Exported]) -> None:
    """Without safetensors; its card's example does not need this package."""
    it = exported[ONNX]
    programs = [(found.what, found.opened_by) for found in it.report.comparisons]
    assert programs == [
        ("token ids", "transformers"),
        ("embeddings", "onnxruntime"),
        ("last hidden states", "onnxruntime"),
    ]
    assert not list(it.out.glob("*.safetensors"))
    check(it.run, it.out)
    (vectors,) = it.card_vectors
    np.testing.assert_allclose(vectors, TextEncoder.load(it.run, device="cpu").encode(TEXTS), atol=ONNX_MAX_DIFFERENCE)
    with pytest.raises(MlcError, match="no safetensors"):
        TextEncoder.load(it.out)


def test_a_graph_of_another_model_gets_no_name(
    exported: dict[str, Exported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = (exported[ONNX].out / "onnx" / "model.onnx").read_bytes()

    def write_another(loaded: object, representation: object, folder: Path) -> None:
        (folder / "onnx").mkdir()
        (folder / "onnx" / "model.onnx").write_bytes(written)

    make_checkpoint(tmp_path / "other", 5, section=GLM.model_copy(update={"projection_size": 12}), seed=2)
    monkeypatch.setattr(onnx_graph, "write_onnx", write_another)
    with pytest.raises(MlcError, match="does not give the embeddings"):
        export_model(tmp_path / "other", tmp_path / "wrong", formats=["onnx"])
    assert not (tmp_path / "wrong").exists()


@pytest.mark.slow
@pytest.mark.parametrize("case", list(OTHERS))
def test_graphs_of_other_models_beside_their_safetensors(case: str, tmp_path: Path) -> None:
    section = OTHERS[case]
    if section.config:
        CONFIGS[section.config].save_pretrained(tmp_path / "config")
        section = section.model_copy(update={"config": str(tmp_path / "config")})
    make_checkpoint(tmp_path / "run", 5, section=section)
    export_model(tmp_path / "run", tmp_path / "out", formats=["onnx", "sentence-transformers"])
    check(tmp_path / "run", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "mlc.json").read_text())["formats"] == [
        "transformers",
        "sentence-transformers",
        "onnx",
    ]
    TextEncoder.load(tmp_path / "out", device="cpu")


REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "format": ({"formats": ["onnx", "tflite"]}, "no such format"),
    "dtype": ({"dtype": "int4"}, "no such dtype"),
    "int8 for sentence-transformers": (
        {"formats": ["sentence-transformers"], "dtype": "int8"},
        "does not open weights in int8",
    ),
    "a graph in bf16": ({"formats": ["onnx"], "dtype": "bf16"}, "written in fp32"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_does_not_go_together_is_refused_before_anything_is_read(case: str, tmp_path: Path) -> None:
    options, message = REFUSED[case]
    export: Callable[..., object] = export_model
    with pytest.raises(UsageError, match=message):
        export(tmp_path / "no-such-run", tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())
    with pytest.raises((UsageError, CheckpointError), match="no such model"):
        export(tmp_path / "no-such-run", tmp_path / "out")
