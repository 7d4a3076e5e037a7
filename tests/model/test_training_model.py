"""Pooling, heads and layers of the training model; initial weights; gradients under ZeRO-3."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlc.errors import RecipeError
from mlc.model import MlcGlmConfig, MlcGlmModel, TrainingModel, build_training_model, initialise
from mlc.model.initialise import start_from_frequencies
from mlc.recipe import ModelSection

SPECIAL_IDS = {"[PAD]": 0}
SECTION = ModelSection(layers=3, hidden_size=32, heads=2, feed_forward_size=48, projection_size=12)
LENGTHS, PART_A = torch.tensor([5, 9, 3, 6]), torch.tensor([4, 9, 1, 3])


def build(seed: int = 1, **changes: object) -> TrainingModel:
    return build_training_model(SECTION.model_copy(update=changes), 60, SPECIAL_IDS, 32, seed)


def batch(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    column = torch.arange(9).expand(4, 9)
    return {
        "input_ids": torch.randint(0, 60, (4, 9), generator=generator),
        "lengths": LENGTHS,
        "part_a_lengths": PART_A,
        "positions": column,
        "block_positions": (column - PART_A[:, None] + 1).clamp(min=0),
        "glm_index": torch.tensor([4, 2 * 9 + 1, 3 * 9 + 5]),
        "mlm_index": torch.tensor([1, 9 + 8]),
    }


def padded_layers(model: TrainingModel, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """Hidden states (R, L, D) of all layers by the other door, that of transformers."""
    output = model.backbone(
        input_ids=inputs["input_ids"],
        attention_mask=(torch.arange(9) < LENGTHS[:, None]).long(),
        part_a_lengths=PART_A,
        position_ids=inputs["positions"],
        block_position_ids=inputs["block_positions"],
        output_hidden_states=True,
    )
    assert torch.equal(output.last_hidden_state, output.hidden_states[-1])
    return output.hidden_states


@pytest.mark.parametrize("layer", [-1, 0, 2, 3])
@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_embeddings_are_pooled_projected_and_normed(pooling: str, layer: int) -> None:
    model, inputs = build(pooling=pooling, layer=layer).double(), batch()
    states = padded_layers(model, inputs)[layer]
    pooled = {
        "mean": torch.stack([states[row, :length].mean(0) for row, length in enumerate(PART_A.tolist())]),
        "cls": states[:, 0],
        "last": torch.stack([states[row, length - 1] for row, length in enumerate(PART_A.tolist())]),
    }[pooling]
    expected = F.normalize(pooled @ model.projection.weight.T, dim=-1)  # type: ignore[union-attr]
    found = model(**inputs)["embeddings"]
    assert found.shape == (4, 12)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)  # fp64


def test_without_projection_the_embedding_is_as_wide_as_the_states() -> None:
    model = build(projection_size=0)
    assert model.projection is None
    embeddings = model(**batch())["embeddings"]
    assert embeddings.shape == (4, 32)
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(4))


def test_logits_belong_to_the_indexed_places() -> None:
    model, inputs = build().double(), batch()
    states = padded_layers(model, inputs)[-1].flatten(0, 1)
    table = model.backbone.embeddings.weight  # type: ignore[union-attr]
    with torch.no_grad():
        model.glm_bias.bias.normal_()
        model.mlm_bias.bias.normal_()
    outputs = model(**inputs)
    for name, transform, bias in (
        ("glm", model.glm_transform, model.glm_bias.bias),
        ("mlm", model.mlm_transform, model.mlm_bias.bias),
    ):
        hidden = F.gelu(transform.dense(states[inputs[f"{name}_index"]]))
        hidden = F.rms_norm(hidden, (32,), transform.norm.weight, 1e-6)
        torch.testing.assert_close(outputs[f"{name}_logits"], hidden @ table.T + bias, rtol=1e-10, atol=1e-12)


def test_heads_start_at_the_frequencies_of_tokens() -> None:
    """Padded rows count nothing; every blank of mean length 3 ends once, so a quarter of GLM's targets are [eop]."""
    model = build()
    rows = model.backbone.get_input_embeddings().num_embeddings  # type: ignore[operator]
    counts = torch.zeros(rows - 5, dtype=torch.int64)
    counts[11], counts[12] = 3_000_000, 1_000_000
    start_from_frequencies(model, counts, blank_end=8, mean_blank_tokens=3.0)
    for bias, expected in ((model.mlm_bias.bias, (0.75, 0.25, 0.0)), (model.glm_bias.bias, (0.5625, 0.1875, 0.25))):
        probability = bias.detach().softmax(0)
        for token, share in zip((11, 12, 8), expected, strict=True):
            assert float(probability[token]) == pytest.approx(share, abs=1e-3)
        assert torch.isfinite(bias).all()


def test_a_head_runs_only_where_its_index_is_given() -> None:
    inputs = batch()
    del inputs["glm_index"]
    assert set(build()(**inputs)) == {"embeddings", "mlm_logits"}


def test_a_dummy_index_in_the_padding_is_harmless() -> None:
    outputs = build()(**batch() | {"glm_index": torch.tensor([8, 35])})
    assert outputs["glm_logits"].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_embeddings_are_at_least_fp32(dtype: torch.dtype) -> None:
    embeddings = build().to(dtype)(**batch())["embeddings"]
    assert embeddings.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(4, dtype=embeddings.dtype))


def test_gradient_reaches_every_parameter() -> None:
    model = build()
    outputs = model(**batch())
    (
        outputs["embeddings"][:, 0].sum() + outputs["glm_logits"][:, 1].sum() + outputs["mlm_logits"][:, 2].sum()
    ).backward()
    without = [
        name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert not without


def test_dropout_acts_in_training_only() -> None:
    model, inputs = build(dropout=0.3), batch()
    model.train()
    assert not torch.equal(model(**inputs)["embeddings"], model(**inputs)["embeddings"])
    model.eval()
    assert torch.equal(model(**inputs)["embeddings"], model(**inputs)["embeddings"])


def test_the_head_is_the_embedding_table() -> None:
    model = build()
    assert model.lm_head.weight is model.backbone.embeddings.weight  # type: ignore[union-attr]
    assert "lm_head.weight" not in model.state_dict()
    assert len(list(model.parameters())) == len(model.state_dict())


def test_initial_weights_depend_on_seed_and_name_alone() -> None:
    torch.manual_seed(0)
    first = build(seed=5).state_dict()
    torch.manual_seed(1)
    deeper = build(seed=5, projection_size=0).state_dict()
    for name, value in deeper.items():
        assert torch.equal(value, first[name]), name
    other = build(seed=6).state_dict()
    same = [name for name, value in first.items() if torch.equal(value, other[name])]
    assert all("norm" in name or name.endswith("bias") for name in same)
    flat = [value.flatten()[:100] for name, value in first.items() if name not in same]
    assert len({tuple(values.tolist()) for values in flat}) == len(flat), "two parameters started equal"


def test_initial_weights_do_not_depend_on_the_order_of_construction() -> None:
    def pair(names: list[str]) -> nn.ModuleDict:
        return nn.ModuleDict({name: nn.Linear(3, 4) for name in names})

    one, two = pair(["a", "b"]), pair(["b", "a"])
    initialise(one, 3)
    initialise(two, 3)
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name]), name


def test_initialise_gathers_each_parameter_once_and_writes_inside() -> None:
    model, opened = build(seed=1), []

    @contextmanager
    def gathered(parameter: nn.Parameter) -> Iterator[None]:
        whole = parameter.data.clone()
        opened.append(parameter)
        yield
        assert parameter.numel() == 1 or not torch.equal(parameter.data, whole) or (whole == whole.flatten()[0]).all()

    initialise(model, 2, gathered=gathered)
    assert len(opened) == len({id(parameter) for parameter in opened}) == len(list(model.parameters()))


def test_the_residual_stream_starts_as_the_token_embeddings() -> None:
    model = build_training_model(ModelSection(), 1000, SPECIAL_IDS, 64, seed=1)
    ids = torch.randint(10, 1000, (8, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        layers = model.backbone(input_ids=ids, output_hidden_states=True).hidden_states
    # The layer before the last one is not normed yet. Half of the stream's energy must still be the embedding.
    added = layers[-2] - layers[0]
    assert added.square().mean() < 0.5 * layers[0].square().mean()


def test_a_glm_layer_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="layer = 4"):
        ModelSection(layers=3, layer=4)


@pytest.mark.parametrize("sizes", [{"hidden_size": 30}, {"num_hidden_layers": 0}])
def test_a_config_that_cannot_be_is_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"found|multiple"):
        MlcGlmConfig(**sizes)


def test_padding_on_the_left_is_refused() -> None:
    model = MlcGlmModel(MlcGlmConfig(vocab_size=9, hidden_size=8, num_attention_heads=2, num_hidden_layers=1))
    with pytest.raises(ValueError, match="pad on the right"):
        model(input_ids=torch.ones(1, 3, dtype=torch.long), attention_mask=torch.tensor([[0, 1, 1]]))


def test_a_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for key in ("path", "config"):
        with pytest.raises(RecipeError, match=f"model.{key}"):
            build(architecture="huggingface", **{key: str(tmp_path / "nowhere")})


@pytest.mark.slow
def test_zero_3_builds_and_differentiates_the_same_model() -> None:
    """In a process of its own: DeepSpeed changes torch for good."""
    script = Path(__file__).with_name("zero_3_script.py")
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=200, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.strip().endswith("equal"), result.stdout[-3000:]
