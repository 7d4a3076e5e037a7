"""Attention pooling, the learned temperature and the language adversary: values and gradients, exactly."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mlc.model import TrainingModel, build_training_model
from mlc.model.heads import AttentionPooling, BoundedTemperature, GradientReversal, LanguageAdversary
from mlc.recipe import ModelSection
from mlc.recipe_objectives import ObjectivesSection

SECTION = ModelSection(layers=2, hidden_size=16, heads=2, feed_forward_size=24, projection_size=6)
OBJECTIVES = {
    "contrastive": {"weight": 1.0, "learn_temperature": True, "temperature": 0.05},
    "language_adversary": {"weight": 0.1, "reversal": 0.3, "hidden_size": 10},
}
LANGUAGES = 3

PINNED_WEIGHTS = {
    "backbone.embeddings.weight": -1.3291313,
    "backbone.blocks.0.attention_norm.weight": 8.0,
    "backbone.blocks.0.attention.query_key.weight": -0.0740025,
    "backbone.blocks.0.attention.value.weight": -1.0834562,
    "backbone.blocks.0.attention.output.weight": 0.9723644,
    "backbone.blocks.0.feed_forward_norm.weight": 8.0,
    "backbone.blocks.0.feed_forward.gate_up.weight": -5.1429532,
    "backbone.blocks.0.feed_forward.down.weight": -0.3185325,
    "backbone.final_norm.weight": 8.0,
    "projection.weight": -1.4517066,
    "glm_transform.dense.weight": -8.516127,
    "glm_transform.dense.bias": 0.0,
    "glm_transform.norm.weight": 8.0,
    "mlm_transform.dense.weight": 2.5109118,
    "mlm_transform.dense.bias": 0.0,
    "mlm_transform.norm.weight": 8.0,
    "glm_bias.bias": 0.0,
    "mlm_bias.bias": 0.0,
}
PINNED_OUTPUTS = {
    "embeddings": [0.73871, -1.534796, 0.378993, 0.929798],
    "glm_logits": [2.356737, 0.044863, 0.659085, -0.060224],
    "mlm_logits": [3.578435, -0.370435, -0.291443, 2.814163],
}


def build(objectives: dict[str, Any] | None = None, languages: int = LANGUAGES, **changes: object) -> TrainingModel:
    return build_training_model(
        SECTION.model_copy(update=changes),
        50,
        {"[PAD]": 0},
        32,
        seed=1,
        objectives=ObjectivesSection.model_validate(OBJECTIVES if objectives is None else objectives),
        num_languages=languages,
    )


def inputs() -> dict[str, Tensor]:
    lengths, columns = torch.tensor([4, 6, 1]), torch.arange(6).expand(3, 6)
    ids = torch.randint(0, 50, (3, 6), generator=torch.Generator().manual_seed(2))
    return {
        "input_ids": ids,
        "lengths": lengths,
        "part_a_lengths": torch.tensor([3, 6, 0]),
        "positions": columns,
        "block_positions": columns * 0,
    }


def softmax_of_each_row(scores: list[float]) -> list[float]:
    shares = [math.exp(score - max(scores)) for score in scores]
    return [share / sum(shares) for share in shares]


@settings(max_examples=40)
@given(
    lengths=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=5), seed=st.integers(0, 99)
)
def test_attention_weights_are_a_softmax_over_the_tokens_of_a_row_that_take_part(
    lengths: list[tuple[int, int]], seed: int
) -> None:
    """`lengths`: tokens of each row that take part, and others behind them; both may be none."""
    generator = torch.Generator().manual_seed(seed)
    tokens = [(row, place < ours) for row, (ours, others) in enumerate(lengths) for place in range(ours + others)]
    states = torch.randn(len(tokens), 4, generator=generator, dtype=torch.float64, requires_grad=True)
    pooling = AttentionPooling(4).double()
    nn.init.normal_(pooling.query, std=300.0, generator=generator)  # exp of such scores overflows
    found = pooling(
        states,
        torch.tensor([row for row, _ in tokens], dtype=torch.int64),
        torch.tensor([ours for _, ours in tokens], dtype=torch.bool),
        len(lengths),
    )
    expected = [0.0] * len(tokens)
    for row in range(len(lengths)):
        places = [place for place, token in enumerate(tokens) if token == (row, True)]
        if places:
            weights = softmax_of_each_row([(states[place] @ pooling.query).item() for place in places])
            for place, weight in zip(places, weights, strict=True):
                expected[place] = weight
    # Scores of some hundreds carry rounding errors of some 1e-14 of their size into the exponent.
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)
    found.square().sum().backward()
    assert states.grad is None or states.grad.isfinite().all()
    assert pooling.query.grad is not None
    assert pooling.query.grad.isfinite().all()


def test_gradients_of_attention_pooling_are_those_of_a_softmax() -> None:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(2, 5, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    pooling = AttentionPooling(4).double()
    nn.init.normal_(pooling.query, generator=generator)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    reference = (states @ pooling.query).masked_fill(~mask, -torch.inf).softmax(1)
    expected = torch.autograd.grad(reference.pow(3).sum(), [states, pooling.query])
    row = torch.arange(2).repeat_interleave(5)
    found = torch.autograd.grad(
        pooling(states.flatten(0, 1), row, mask.flatten(), 2).pow(3).sum(), [states, pooling.query]
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)  # fp64


def test_attention_weights_are_at_least_fp32() -> None:
    pooling = AttentionPooling(4).to(torch.bfloat16)
    weights = pooling(torch.ones(3, 4, dtype=torch.bfloat16), torch.zeros(3, dtype=torch.int64), torch.ones(3) > 0, 1)
    assert torch.equal(weights, torch.full((3,), 1.0) / 3)


def test_attention_pooling_starts_as_mean_pooling() -> None:
    mean, attention = build(pooling="mean")(**inputs()), build(pooling="attention")(**inputs())
    # The last row has no Part A; fp32.
    torch.testing.assert_close(attention["embeddings"][:2], mean["embeddings"][:2], rtol=1e-5, atol=1e-6)
    assert attention["embeddings"].isfinite().all()


@pytest.mark.parametrize("layer", [-1, 1])
def test_the_query_weighs_the_tokens_of_part_a(layer: int) -> None:
    model, batch = build(pooling="attention", layer=layer).double(), inputs()
    assert model.attention_pooling is not None
    nn.init.normal_(model.attention_pooling.query, generator=torch.Generator().manual_seed(1))
    states = model.backbone(
        input_ids=batch["input_ids"],
        attention_mask=(torch.arange(6) < batch["lengths"][:, None]).long(),
        part_a_lengths=batch["part_a_lengths"],
        output_hidden_states=True,
    ).hidden_states[layer]
    found = model(**batch)["embeddings"]
    for row, length in ((0, 3), (1, 6)):
        weights = (states[row, :length] @ model.attention_pooling.query).softmax(0)
        pooled = weights @ states[row, :length] @ model.projection.weight.T  # type: ignore[union-attr]
        torch.testing.assert_close(found[row], F.normalize(pooled, dim=0), rtol=1e-10, atol=1e-12)  # fp64


@given(
    low=st.floats(1e-4, 0.1),
    ratio=st.floats(1.5, 1e4),
    share=st.floats(0.01, 0.99),
    moved=st.floats(-20, 20),
    dtype=st.sampled_from([torch.bfloat16, torch.float32, torch.float64]),
)
def test_a_learned_temperature_starts_where_told_and_stays_in_its_bounds(
    low: float, ratio: float, share: float, moved: float, dtype: torch.dtype
) -> None:
    bounds = (low, low * ratio)
    start = low * ratio**share
    module = BoundedTemperature(start, bounds).to(dtype)
    assert module.moved.shape == (1,)
    temperature = module()
    assert temperature.dtype == torch.promote_types(dtype, torch.float32)
    assert temperature.item() == pytest.approx(start, rel=1e-6)  # fp32's 2^-24, also where the parameter is bf16

    with torch.no_grad():
        module.moved.fill_(moved)
    x = math.log(share / (1 - share)) + module.moved.item()
    sigmoid = 1 / (1 + math.exp(-x))
    temperature = module()
    assert temperature.item() == pytest.approx(low * ratio**sigmoid, rel=1e-5)
    # The bounds themselves are rounded to fp32 where the temperature is fp32.
    assert bounds[0] * (1 - 1e-7) <= temperature.item() <= bounds[1] * (1 + 1e-7)
    temperature.backward()
    assert module.moved.grad is not None
    slope = temperature.item() * math.log(ratio) * sigmoid * (1 - sigmoid)
    assert module.moved.grad.item() > 0, "a temperature at its bound could never come back"
    assert module.moved.grad.item() == pytest.approx(slope, rel=1e-2)  # the gradient of a bf16 parameter is bf16


@pytest.mark.parametrize("start", [0.01, 1.0, 2.0])
def test_a_temperature_that_starts_at_a_bound_is_refused(start: float) -> None:
    with pytest.raises(ValueError, match="strictly between"):
        BoundedTemperature(start, (0.01, 1.0))


def test_the_reversed_gradient_is_exact() -> None:
    values = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    forward = GradientReversal.apply(values, 0.3)
    assert torch.equal(forward, values)
    above = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    forward.backward(above)
    torch.testing.assert_close(values.grad, -0.3 * above, rtol=0, atol=0)


def test_the_adversary_trains_its_discriminator_and_turns_the_encoder_away() -> None:
    adversary = LanguageAdversary(6, 10, 3, reversal=0.3).double()
    embeddings = F.normalize(torch.randn(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64), dim=1)
    languages = torch.tensor([0, 2, 1, 1, 0])
    first, second = adversary.hidden, adversary.output

    plain = embeddings.clone().requires_grad_()
    hidden = F.gelu(plain * math.sqrt(6) @ first.weight.T + first.bias)
    F.cross_entropy(hidden @ second.weight.T + second.bias, languages).backward()
    expected = [parameter.grad.clone() for parameter in adversary.parameters()]  # type: ignore[union-attr]
    adversary.zero_grad()

    encoded = embeddings.clone().requires_grad_()
    F.cross_entropy(adversary(encoded), languages).backward()
    for parameter, gradient in zip(adversary.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-14)  # fp64; the sign as it is
    torch.testing.assert_close(encoded.grad, -0.3 * plain.grad, rtol=1e-10, atol=1e-14)  # type: ignore[operator]


def test_heads_for_training_are_there_where_the_objectives_ask_for_them() -> None:
    outputs = build()(**inputs())
    assert set(outputs) == {"embeddings", "temperature", "language_logits"}
    assert outputs["temperature"].dtype == torch.float32
    assert outputs["temperature"].tolist() == pytest.approx([0.05])
    assert outputs["language_logits"].shape == (3, LANGUAGES)
    (outputs["temperature"].sum() + outputs["language_logits"][:, 0].sum()).backward()

    micro = {"micro_batch_contrastive": {"weight": 1.0, "learn_temperature": True, "temperature": 0.2}}
    assert build(micro)(**inputs())["temperature"].tolist() == pytest.approx([0.2])
    # learn_temperature of the contrast that is off means nothing.
    off = {"contrastive": {"learn_temperature": True}, "micro_batch_contrastive": {"weight": 1.0}}
    assert set(build(off, languages=0)(**inputs())) == {"embeddings"}
    assert set(build({"mlm": {"weight": 1.0}}, languages=0)(**inputs())) == {"embeddings"}


def test_every_head_gets_a_gradient_and_a_start_of_its_own() -> None:
    model = build(pooling="attention")
    outputs = model(**inputs())
    assert not model.attention_pooling.query.any()  # type: ignore[union-attr]
    loss = outputs["embeddings"][:2, 0].sum() / outputs["temperature"] + outputs["language_logits"].pow(2).sum()
    loss.backward()
    new = [name for name, _ in model.named_parameters() if name.startswith(("attention", "temperature", "language"))]
    assert new == [
        "attention_pooling.query",
        "temperature.moved",
        "language_adversary.hidden.weight",
        "language_adversary.hidden.bias",
        "language_adversary.output.weight",
        "language_adversary.output.bias",
    ]
    for name in new:
        assert model.get_parameter(name).grad.any(), name  # type: ignore[union-attr]
    assert model.language_adversary is not None
    assert float(model.language_adversary.hidden.weight.detach().std()) == pytest.approx(6**-0.5, rel=0.3)


def test_a_model_without_new_settings_is_the_model_there_was() -> None:
    """Names and sums of weights and outputs before there were such heads; a weight is a function of (seed, name)."""
    section = ModelSection(layers=1, hidden_size=8, heads=2, feed_forward_size=12, projection_size=4)
    model = build_training_model(section, 20, {"[PAD]": 0}, 32, seed=1)
    sums = {name: float(value.double().sum()) for name, value in model.state_dict().items()}
    assert sums == pytest.approx(PINNED_WEIGHTS, abs=1e-5)  # other processors round the last bit otherwise
    batch = {name: value % 20 if name == "input_ids" else value for name, value in inputs().items()}
    batch["part_a_lengths"] = torch.tensor([3, 6, 1])
    outputs = model(**batch, glm_index=torch.tensor([3]), mlm_index=torch.tensor([1, 8]))
    assert set(outputs) == set(PINNED_OUTPUTS)
    for name, value in outputs.items():
        assert value.double().sum(0)[:4].tolist() == pytest.approx(PINNED_OUTPUTS[name], abs=1e-4)  # fp32
