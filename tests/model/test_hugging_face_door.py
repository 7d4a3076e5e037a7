"""Encoders of transformers through the same door as the GLM, and the GLM through the door of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModel, MBartConfig, MT5Config, PretrainedConfig, XLMRobertaConfig

from mlc.errors import RecipeError
from mlc.model import MlcGlmConfig, MlcGlmModel, build_training_model, register_auto_classes
from mlc.model.build import encoder_of
from mlc.recipe import ModelSection

SPECIAL_IDS = {"[PAD]": 0}
WIDTH, VOCABULARY = 32, 70


def tiny_config(kind: str, vocab_size: int = VOCABULARY) -> PretrainedConfig:
    if kind == "xlm-roberta":
        return XLMRobertaConfig(
            vocab_size=vocab_size, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=48, max_position_embeddings=40,
        )  # fmt: skip
    if kind == "mt5":
        return MT5Config(
            vocab_size=vocab_size, d_model=WIDTH, d_kv=8, d_ff=48, num_layers=2, num_heads=4, num_decoder_layers=1
        )
    return MBartConfig(
        vocab_size=vocab_size, d_model=WIDTH, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=40,
    )  # fmt: skip


KINDS = ["xlm-roberta", "mt5", "mbart"]


def section(**changes: Any) -> ModelSection:
    return ModelSection(architecture="huggingface", projection_size=6, **changes)


def batch() -> dict[str, Tensor]:
    lengths = torch.tensor([5, 9, 3])
    columns = torch.arange(9).expand(3, 9)
    ids = torch.randint(10, VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(0))
    return {
        "input_ids": torch.where(columns < lengths[:, None], ids, 0),
        "lengths": lengths,
        "part_a_lengths": lengths,
        "positions": columns,
        "block_positions": columns * 0,
        "glm_index": torch.tensor([0]),
        "mlm_index": torch.tensor([1, 9 + 8]),
    }


def saved_config(kind: str, folder: Path) -> Path:
    tiny_config(kind).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_from_a_configuration(kind: str, tmp_path: Path) -> None:
    folder = saved_config(kind, tmp_path)
    for source in (folder, folder / "config.json"):
        model = build_training_model(section(config=str(source)), VOCABULARY, SPECIAL_IDS, 32, seed=1).eval()
    inputs = batch()
    outputs = model(**inputs)
    mask = (torch.arange(9) < inputs["lengths"][:, None]).long()
    states = model.backbone(input_ids=inputs["input_ids"], attention_mask=mask).last_hidden_state

    mean = torch.stack([states[row, :length].mean(0) for row, length in enumerate([5, 9, 3])])
    expected = F.normalize(model.projection(mean), dim=-1)
    torch.testing.assert_close(outputs["embeddings"], expected, rtol=1e-5, atol=1e-6)  # fp32
    table = model.backbone.get_input_embeddings().weight
    assert model.lm_head.weight is table
    hidden = model.mlm_transform(states.flatten(0, 1)[inputs["mlm_index"]])
    torch.testing.assert_close(outputs["mlm_logits"], hidden @ table.T, rtol=1e-5, atol=1e-6)

    (outputs["embeddings"][:, 0].sum() + outputs["mlm_logits"][:, :9].sum() + outputs["glm_logits"].sum()).backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not without, "parameters that are never used would be trained by weight decay alone"


@pytest.mark.parametrize("kind", KINDS)
def test_padding_is_not_seen(kind: str, tmp_path: Path) -> None:
    model = build_training_model(section(config=str(saved_config(kind, tmp_path))), 70, SPECIAL_IDS, 32, seed=1).eval()
    inputs = batch()
    alone = {key: value[2:] if value.ndim == 2 or key.endswith("lengths") else value for key, value in inputs.items()}
    alone = {key: value[:, :3] if value.ndim == 2 else value for key, value in alone.items()}
    alone["mlm_index"] = torch.tensor([0])
    torch.testing.assert_close(model(**inputs)["embeddings"][2:], model(**alone)["embeddings"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_attention_pooling_weighs_the_tokens(kind: str, tmp_path: Path) -> None:
    chosen = section(config=str(saved_config(kind, tmp_path)), pooling="attention", layer=1)
    model = build_training_model(chosen, VOCABULARY, SPECIAL_IDS, 32, seed=1).eval()
    query = torch.nn.init.normal_(model.attention_pooling.query, generator=torch.Generator().manual_seed(1))
    inputs = batch()
    mask = (torch.arange(9) < inputs["lengths"][:, None]).long()
    states = model.backbone(
        input_ids=inputs["input_ids"], attention_mask=mask, output_hidden_states=True
    ).hidden_states[1]
    pooled = [(states[row, :length] @ query).softmax(0) @ states[row, :length] for row, length in enumerate([5, 9, 3])]
    expected = F.normalize(model.projection(torch.stack(pooled)), dim=-1)
    torch.testing.assert_close(model(**inputs)["embeddings"], expected, rtol=1e-5, atol=1e-6)  # fp32


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_layers_are_counted_as_in_the_glm(kind: str, layer: int, tmp_path: Path) -> None:
    folder = saved_config(kind, tmp_path)
    model = build_training_model(section(config=str(folder), layer=layer), VOCABULARY, SPECIAL_IDS, 32, seed=1).eval()
    last = build_training_model(section(config=str(folder)), VOCABULARY, SPECIAL_IDS, 32, seed=1).eval()
    same = torch.allclose(model(**batch())["embeddings"], last(**batch())["embeddings"], atol=1e-6)
    assert same == (layer == 2)


@pytest.mark.parametrize("kind", KINDS)
def test_from_saved_weights(kind: str, tmp_path: Path) -> None:
    original = AutoModel.from_config(tiny_config(kind))
    original.save_pretrained(tmp_path)
    model = build_training_model(section(path=str(tmp_path)), VOCABULARY, SPECIAL_IDS, 32, seed=1)
    expected = encoder_of(original).state_dict()
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, expected[name]), name
    again = build_training_model(section(path=str(tmp_path)), VOCABULARY, SPECIAL_IDS, 32, seed=1)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), f"{name} is not a function of the seed"


def test_a_larger_tokenizer_gets_new_embeddings(tmp_path: Path) -> None:
    original = AutoModel.from_config(tiny_config("xlm-roberta"))
    original.save_pretrained(tmp_path)
    models = [build_training_model(section(path=str(tmp_path)), 75, SPECIAL_IDS, 32, seed=1) for _ in range(2)]
    tables = [model.backbone.get_input_embeddings().weight for model in models]
    assert tables[0].shape[0] == 75
    assert torch.equal(tables[0], tables[1])
    assert torch.equal(tables[0][:VOCABULARY], original.get_input_embeddings().weight)
    assert models[0].lm_head.weight is tables[0]
    assert models[0].backbone_config.vocab_size == 75, "the saved configuration would not fit the saved weights"


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    AutoModel.from_config(tiny_config("xlm-roberta")).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = {name: value for name, value in load_file(file).items() if "layer.1.attention" not in name}
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(RecipeError, match=r"layer\.1\.attention"):
        build_training_model(section(path=str(tmp_path)), VOCABULARY, SPECIAL_IDS, 32, seed=1)


def test_weights_in_a_pickle_are_refused(tmp_path: Path) -> None:
    model = AutoModel.from_config(tiny_config("xlm-roberta"))
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(RecipeError, match="safetensors"):
        build_training_model(section(path=str(tmp_path)), VOCABULARY, SPECIAL_IDS, 32, seed=1)


def test_too_few_positions_are_refused(tmp_path: Path) -> None:
    folder = saved_config("xlm-roberta", tmp_path)
    # XLM-R numbers positions from the padding id + 1: with [PAD] = 0, 40 positions hold 39 tokens.
    build_training_model(section(config=str(folder)), VOCABULARY, SPECIAL_IDS, 39, seed=1)
    with pytest.raises(RecipeError, match="for 39 tokens"):
        build_training_model(section(config=str(folder)), VOCABULARY, SPECIAL_IDS, 40, seed=1)


def test_a_layer_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"-1 or 0\.\.2"):
        build_training_model(
            section(config=str(saved_config("mt5", tmp_path)), layer=3), VOCABULARY, SPECIAL_IDS, 32, seed=1
        )


def test_the_glm_passes_through_transformers(tmp_path: Path) -> None:
    register_auto_classes()
    register_auto_classes()
    config = MlcGlmConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
    )
    model = MlcGlmModel(config).eval()
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "mlc_glm"
    for loaded in (MlcGlmModel.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)):
        assert type(loaded) is MlcGlmModel
        ids = torch.tensor([[3, 4, 5, 0], [6, 7, 8, 9]])
        mask = (ids != 0).long()
        output = loaded(input_ids=ids, attention_mask=mask, token_type_ids=ids * 0)
        expected = model(input_ids=ids, attention_mask=mask)
        assert torch.equal(output.last_hidden_state, expected.last_hidden_state)
        assert not output.last_hidden_state[0, 3].any(), "states in the padding are 0"
        assert output.hidden_states is None
    assert AutoConfig.from_pretrained(tmp_path).to_dict()["rotary_base"] == 10000.0
    assert len(model(input_ids=ids, return_dict=False, output_hidden_states=True)[1]) == 3


def test_a_saved_glm_is_a_start_too(tmp_path: Path) -> None:
    config = MlcGlmConfig(
        vocab_size=70, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
    )
    original = MlcGlmModel(config)
    original.save_pretrained(tmp_path)
    model = build_training_model(section(path=str(tmp_path)), VOCABULARY, SPECIAL_IDS, 32, seed=1)
    assert isinstance(model.backbone, MlcGlmModel)
    assert torch.equal(model.backbone.embeddings.weight, original.embeddings.weight)
