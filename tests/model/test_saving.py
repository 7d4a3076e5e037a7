"""The model folder: what is written is what is read, and what is wrong is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import MT5Config

from mlc.errors import CheckpointError
from mlc.model import TrainingModel, build_training_model
from mlc.model.saving import load_training_model, save_model_folder
from mlc.recipe import ModelSection
from mlc.recipe_objectives import ObjectivesSection

GLM = ModelSection(layers=2, hidden_size=16, heads=2, feed_forward_size=24, projection_size=6, pooling="cls", layer=1)


def build(section: ModelSection = GLM) -> TrainingModel:
    return build_training_model(section, 50, {"[PAD]": 0}, 32, seed=1)


def info_of(section: ModelSection) -> dict[str, Any]:
    return {
        "model": section.model_dump(mode="json"),
        "vocab_size": 50,
        "special_ids": {"[PAD]": 0},
        "max_tokens": 32,
        "tokenizer_sha256": "0" * 64,
        "languages": ["de", "en"],
        "contrastive": True,
    }


def saved(folder: Path, section: ModelSection = GLM) -> TrainingModel:
    model = build(section)
    save_model_folder(folder, model.state_dict(), model.backbone_config, info_of(section))
    return model


def outputs(model: TrainingModel) -> dict[str, Tensor]:
    column = torch.arange(6).expand(2, 6)
    ids = torch.tensor([[4, 5, 6, 7, 0, 0], [8, 9, 10, 11, 12, 13]])
    lengths, one = torch.tensor([4, 6]), torch.tensor([1])
    return model.eval()(ids, lengths, lengths - 1, column, column // 5, one, one)


def test_glm_round_trip(tmp_path: Path) -> None:
    model = saved(tmp_path)
    loaded, info = load_training_model(tmp_path)
    assert (loaded.pooling, loaded.layer, loaded.training) == ("cls", 1, False)
    assert info["languages"] == ["de", "en"]
    assert (info["format"], info["version"]) == ("mlc-model", 1)
    expected = outputs(model)
    for name, value in outputs(loaded).items():
        assert torch.equal(value, expected[name]), name
    assert loaded.lm_head.weight is loaded.backbone.embeddings.weight  # type: ignore[union-attr]


def test_encoder_decoder_round_trip(tmp_path: Path) -> None:
    MT5Config(
        vocab_size=50, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, num_decoder_layers=1
    ).save_pretrained(tmp_path / "start")
    section = ModelSection(architecture="huggingface", config=str(tmp_path / "start"))
    model = saved(tmp_path / "model", section)
    (tmp_path / "start" / "config.json").unlink()  # a saved model must not need what it was made from
    loaded, _ = load_training_model(tmp_path / "model")
    expected = outputs(model)
    for name, value in outputs(loaded).items():
        assert torch.equal(value, expected[name]), name


def test_heads_for_training_alone_stay_behind_and_the_pooling_query_does_not(tmp_path: Path) -> None:
    section = GLM.model_copy(update={"pooling": "attention"})
    objectives = ObjectivesSection.model_validate(
        {"contrastive": {"weight": 1.0, "learn_temperature": True}, "language_adversary": {"weight": 1.0}}
    )
    model = build_training_model(section, 50, {"[PAD]": 0}, 32, seed=1, objectives=objectives, num_languages=2)
    assert model.attention_pooling is not None
    torch.nn.init.normal_(model.attention_pooling.query)
    save_model_folder(tmp_path, model.state_dict(), model.backbone_config, info_of(section))
    left = set(model.state_dict()) - set(load_file(tmp_path / "model.safetensors"))
    assert {name.partition(".")[0] for name in left} == {"temperature", "language_adversary"}
    loaded, _ = load_training_model(tmp_path)
    assert (loaded.temperature, loaded.language_adversary) == (None, None)
    expected, found = outputs(model), outputs(loaded)
    assert set(expected) - set(found) == {"temperature", "language_logits"}
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


def test_weights_are_stored_once_and_in_fp32(tmp_path: Path) -> None:
    model = build().to(torch.bfloat16)
    # ZeRO-3 collects the tied head under its own name.
    state = {**model.state_dict(), "lm_head.weight": model.lm_head.weight}
    save_model_folder(tmp_path, state, model.backbone_config, info_of(GLM))
    weights = load_file(tmp_path / "model.safetensors")
    assert "lm_head.weight" not in weights
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert next(load_training_model(tmp_path)[0].parameters()).dtype == torch.float32
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "mlc.json", "model.safetensors"]


def test_a_partitioned_state_dict_is_refused(tmp_path: Path) -> None:
    model = build()
    state = {name: value[:0] for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match="gathered"):
        save_model_folder(tmp_path, state, model.backbone_config, info_of(GLM))


def test_an_incomplete_description_is_refused(tmp_path: Path) -> None:
    model, info = build(), info_of(GLM)
    del info["special_ids"]
    with pytest.raises(CheckpointError, match="special_ids"):
        save_model_folder(tmp_path, model.state_dict(), model.backbone_config, info)


def test_pickles_are_refused(tmp_path: Path) -> None:
    model = saved(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickles are never read"):
        load_training_model(tmp_path)


def test_truncated_weights_are_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="damaged"):
        load_training_model(tmp_path)


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_weights_of_another_model_are_refused(tmp_path: Path, change: str) -> None:
    saved(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    name = "backbone.blocks.1.feed_forward.down.weight"
    if change == "missing":
        del weights[name]
    elif change == "unexpected":
        weights["extra"] = torch.zeros(1)
    else:
        weights[name] = torch.zeros(3, 3)
    save_file(weights, file)
    with pytest.raises(CheckpointError, match="don't fit the model"):
        load_training_model(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("version", 2, "another version"),
        ("format", "other", "mlc-model"),
        ("max_tokens", None, "keys are missing"),
        ("contrastive", None, "keys are missing"),  # the default representation depends on it
        ("model", {"layers": -1}, "refused"),
    ],
)
def test_a_wrong_description_is_refused(tmp_path: Path, key: str, value: object, message: str) -> None:
    saved(tmp_path)
    file = tmp_path / "mlc.json"
    info = json.loads(file.read_text())
    if value is None:
        del info[key]
    else:
        info[key] = value
    file.write_text(json.dumps(info))
    with pytest.raises(CheckpointError, match=message):
        load_training_model(tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"mlc\.json"):
        load_training_model(tmp_path)
