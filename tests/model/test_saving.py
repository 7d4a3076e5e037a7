"""The model folder: what is written is what is read, and what is wrong is refused."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import MT5Config

from mlc.errors import CheckpointError
from mlc.model import TrainingModel, build_training_model
from mlc.model.saving import (
    WeightReader,
    load_training_model,
    read_info,
    save_model_folder,
    write_description,
)
from mlc.recipe import ModelSection
from mlc.recipe_objectives import ObjectivesSection
from mlc.tensor_files import Piece, write_pieces

GLM = ModelSection(layers=2, hidden_size=16, heads=2, feed_forward_size=24, projection_size=6, pooling="cls", layer=1)

FOR_TRAINING = ObjectivesSection.model_validate(
    {"contrastive": {"weight": 1.0, "learn_temperature": True}, "language_adversary": {"weight": 1.0}}
)


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


def saved_in_pieces(folder: Path, model: TrainingModel, cuts: list[float], section: ModelSection = GLM) -> None:
    """As ranks write it: every parameter, heads for training alone too, cut at the same shares of its length."""
    weights = {name: value.detach() for name, value in model.named_parameters()}
    info = info_of(section) | {"parameters": {name: tuple(value.shape) for name, value in weights.items()}}
    folder.mkdir(parents=True, exist_ok=True)
    write_description(folder, model.backbone_config, info)
    for rank, (first, last) in enumerate(zip([0, *cuts], [*cuts, 1], strict=True)):
        pieces = [
            Piece(name, start := int(first * value.numel()), value.flatten()[start : int(last * value.numel())])
            for name, value in weights.items()
        ]
        write_pieces(folder / f"weights-{rank:05d}-of-{len(cuts) + 1:05d}.safetensors", pieces)


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
    model = build_training_model(section, 50, {"[PAD]": 0}, 32, seed=1, objectives=FOR_TRAINING, num_languages=2)
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
    model.backbone_config.dtype = torch.bfloat16
    for _ in range(2):  # what is there is replaced
        save_model_folder(tmp_path, state, model.backbone_config, info_of(GLM))
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float32"
    weights = load_file(tmp_path / "model.safetensors")
    assert "lm_head.weight" not in weights
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert next(load_training_model(tmp_path)[0].parameters()).dtype == torch.float32
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "mlc.json", "model.safetensors"]


@settings(max_examples=20)
@given(st.lists(st.floats(0, 1), max_size=3).map(sorted))
def test_pieces_of_any_number_of_ranks_are_the_same_model(cuts: list[float]) -> None:
    model = build_training_model(GLM, 50, {"[PAD]": 0}, 32, seed=1, objectives=FOR_TRAINING, num_languages=2)
    with TemporaryDirectory() as name:
        folder = Path(name)
        saved_in_pieces(folder, model, cuts)
        loaded, info = load_training_model(folder)
        assert loaded.temperature is None
        needed = {key: value for key, value in model.state_dict().items() if key in loaded.state_dict()}
        assert needed.keys() == loaded.state_dict().keys()
        for key, value in loaded.state_dict().items():
            assert torch.equal(value, needed[key]), key
        with WeightReader(folder, info) as reader:
            for key, parameter in model.named_parameters():
                assert torch.equal(reader.read(key), parameter.detach()), key
                assert reader.shapes[key] == parameter.shape
            assert len(reader.shapes) == len(list(model.parameters()))


def test_a_description_alone_is_that_of_the_whole_folder(tmp_path: Path) -> None:
    model = saved(tmp_path / "whole")
    (tmp_path / "alone").mkdir()
    write_description(tmp_path / "alone", model.backbone_config, info_of(GLM))
    assert sorted(path.name for path in (tmp_path / "alone").iterdir()) == ["config.json", "mlc.json"]
    for name in ("config.json", "mlc.json"):
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    loaded, _ = load_training_model(tmp_path / "whole")
    loaded.backbone_config.save_pretrained(tmp_path / "transformers")
    assert (tmp_path / "transformers" / "config.json").read_bytes() == (tmp_path / "alone" / "config.json").read_bytes()


def test_a_description_does_not_bring_back_a_folder_that_was_taken_away(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_description(tmp_path / "gone", build().backbone_config, info_of(GLM))
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("lost file", r"are missing.*2 files, weights-00001-of-00003"),
        ("file of another save", r"are missing.*4 files, weights-00000-of-00003"),
        ("no file", "there are no weights"),
        ("truncated", "cannot be read"),
        ("no shapes", '"parameters" is refused'),
        ("negative shape", '"parameters" is refused'),
        ("unlisted", r"does not list all weights.*mlm_bias\.bias"),
        ("smaller shape", r"more of mlm_bias\.bias"),
        ("larger shape", r"part of mlm_bias\.bias"),
        ("other shape", "don't fit the model"),
        ("unknown weight", "unexpected.*extra"),
    ],
)
def test_pieces_that_are_no_model_are_refused(tmp_path: Path, change: str, message: str) -> None:
    saved_in_pieces(tmp_path, build(), [0.3, 0.6])
    shapes = read_info(tmp_path)["parameters"]
    files = sorted(tmp_path.glob("weights-*"))
    if change in ("lost file", "no file"):
        for path in files[:: 3 if change == "lost file" else 1]:
            path.rename(tmp_path / f"lost-{path.name}")
    elif change == "file of another save":
        (tmp_path / "weights-00001-of-00002.safetensors").write_bytes(files[0].read_bytes())
    elif change == "truncated":
        files[1].write_bytes(files[1].read_bytes()[:-1])
    elif change == "unknown weight":
        shapes["extra"] = [0]
    elif change == "unlisted":
        del shapes["mlm_bias.bias"]
    elif change != "no shapes":
        new = {"negative shape": [-1], "smaller shape": [49], "larger shape": [51], "other shape": [5, 10]}
        shapes["mlm_bias.bias"] = new[change]
    info = read_info(tmp_path) | {"parameters": None if change == "no shapes" else shapes}
    (tmp_path / "mlc.json").write_text(json.dumps(info))
    with pytest.raises(CheckpointError, match=message):
        load_training_model(tmp_path)


def test_whole_weights_are_read_one_by_one(tmp_path: Path) -> None:
    model = saved(tmp_path)
    weights = {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}
    with WeightReader(tmp_path, read_info(tmp_path)) as reader:
        assert reader.shapes == {name: tuple(value.shape) for name, value in weights.items()}
        assert all(torch.equal(reader.read(name), value) for name, value in weights.items())


def test_heads_for_training_alone_in_a_whole_file_are_passed_over(tmp_path: Path) -> None:
    """A conversion of a checkpoint does not know them from others."""
    saved(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({**weights, "temperature.raw": torch.zeros(1)}, tmp_path / "model.safetensors")
    loaded, _ = load_training_model(tmp_path)
    assert loaded.temperature is None


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
