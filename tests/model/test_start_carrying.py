"""Weights of other encoders in a GLM: what is called exact is exact, and functions that should stay stay."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from start_models import VOCABULARY, ids_of, saved, started
from torch import Tensor

from mlc.errors import RecipeError
from mlc.model.start_carried import centred, query_key_weight, rotary_order
from mlc.recipe import ModelSection, StartSection

FUNCTION_TOLERANCE = 2e-5
"""fp32, other orders of sums, states of order 1 to 5."""
SECTION = ModelSection(layers=2, hidden_size=32, heads=2, feed_forward_size=48)


def states(model: Any, ids: Tensor, **inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return model(ids, **inputs).last_hidden_state


def test_a_eurobert_at_equal_positions_is_the_same_function(tmp_path: Path) -> None:
    start = saved("eurobert", tmp_path)
    model, plan = started(tmp_path, SECTION)
    ids, places = ids_of(3, 9), torch.zeros(3, 9, dtype=torch.long)
    difference = states(model.backbone, ids, position_ids=places) - states(start, ids, position_ids=places)
    assert difference.abs().max() < FUNCTION_TOLERANCE
    encoder = {name: facts["how"] for name, facts in plan.report.parameters.items() if name.startswith("backbone.")}
    assert set(encoder.values()) == {"exact"}
    assert plan.report.left_behind == ()
    # Elsewhere half of the rotations are missing, and the report does not claim otherwise.
    assert (states(model.backbone, ids) - states(start, ids)).abs().max() > 0.1


def test_a_eurobert_whose_other_pairs_are_silent_is_the_same_function_at_any_position(tmp_path: Path) -> None:
    start = saved("eurobert", tmp_path)
    kept = rotary_order(16, 10_000.0, 10_000.0)[:4]  # of 8 pairs, those that a GLM turns
    silent = [feature for feature in range(16) if feature % 8 not in kept.tolist()]
    with torch.no_grad():
        for block in start.layers:
            block.self_attn.q_proj.weight.view(2, 16, 32)[:, silent] = 0.0
    start.save_pretrained(tmp_path)
    model, _ = started(tmp_path, SECTION)
    ids = ids_of(3, 9)
    assert (states(model.backbone, ids) - states(start, ids)).abs().max() < FUNCTION_TOLERANCE


def test_a_modernbert_with_silu_at_equal_positions_is_the_same_function(tmp_path: Path) -> None:
    start = saved("modernbert", tmp_path)
    model, _ = started(tmp_path, SECTION)
    ids, places = ids_of(3, 9), torch.zeros(3, 9, dtype=torch.long)
    difference = states(model.backbone, ids, position_ids=places) - states(start.model, ids, position_ids=places)
    assert difference.abs().max() < 1e-3  # the epsilon of its norms acts on a variance, the GLM's on a mean square


def test_a_modernbert_gate_is_off_by_two_hundredths_at_most(tmp_path: Path) -> None:
    start = saved("modernbert", tmp_path, hidden_activation="gelu")
    model, plan = started(tmp_path, SECTION)
    inputs = torch.randn(50, 32)
    ours, theirs = model.backbone.blocks[0].feed_forward, start.model.layers[0].mlp
    gate, up = (inputs @ ours.gate_up.weight.T).chunk(2, dim=-1)
    their_gate, their_up = (inputs @ theirs.Wi.weight.T).chunk(2, dim=-1)
    assert torch.allclose(up, their_up / 1.702, atol=1e-5)
    error = F.silu(gate) * up - F.gelu(their_gate) * their_up
    assert (error.abs() <= 0.0204 * their_up.abs() + 1e-5).all()
    assert "1.702" in plan.report.parameters["backbone.blocks.0.feed_forward.gate_up.weight"]["note"]


def test_what_is_carried_of_an_xlm_r(tmp_path: Path) -> None:
    start = saved("xlm-roberta", tmp_path)
    model, plan = started(tmp_path, SECTION)
    theirs, ours = dict(start.named_parameters()), dict(model.backbone.named_parameters())
    for number in range(2):
        layer, block = f"encoder.layer.{number}.", f"blocks.{number}."
        pairs = {
            "attention.value.weight": "attention.self.value.weight",
            "attention.output.weight": "attention.output.dense.weight",
            "feed_forward.down.weight": "output.dense.weight",
            "feed_forward_norm.weight": "attention.output.LayerNorm.weight",
        }
        for name, source in pairs.items():
            assert torch.equal(ours[block + name], theirs[layer + source]), name
            assert plan.report.parameters[f"backbone.{block}{name}"]["how"] == "exact"
    assert torch.equal(ours["blocks.1.attention_norm.weight"], theirs["encoder.layer.0.output.LayerNorm.weight"])
    assert torch.equal(ours["final_norm.weight"], theirs["encoder.layer.1.output.LayerNorm.weight"])
    # A row is what their first block reads, for a token at a mean place.
    parts = [theirs[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")]
    read = start.embeddings.LayerNorm(parts[0] + parts[1][2:].mean(0) + parts[2][0])
    assert torch.allclose(ours["embeddings.weight"] * math.sqrt(32), read, atol=1e-6)
    left = set(plan.report.left_behind)
    assert "backbone.encoder.layer.0.attention.self.query.bias" in left
    assert not {name for name in left if name.endswith(("query.weight", "dense.weight"))}


def test_attention_of_an_xlm_r_without_biases_is_that_of_the_glm_at_equal_positions(tmp_path: Path) -> None:
    start = saved("xlm-roberta", tmp_path)
    model, _ = started(tmp_path, SECTION)
    states_in = torch.randn(1, 7, 32)
    theirs, ours = start.encoder.layer[1].attention, model.backbone.blocks[1].attention
    for part in (theirs.self.query, theirs.self.key, theirs.self.value):
        torch.nn.init.zeros_(part.bias)
    with torch.no_grad():
        expected = theirs.self(states_in)[0] @ theirs.output.dense.weight.T
        found = glm_attention(ours, states_in[0])
    assert (found - expected[0]).abs().max() < FUNCTION_TOLERANCE


def glm_attention(attention: Any, states_TD: Tensor) -> Tensor:
    """The GLM's formula for tokens that all see each other at one place, written out."""
    tokens, width = states_TD.shape
    features = (states_TD @ attention.query_key.weight.T).view(tokens, 2, 2, attention.heads, -1)
    query, key = (features[:, :, kind].permute(2, 0, 1, 3).flatten(2) for kind in (0, 1))
    value = (states_TD @ attention.value.weight.T).view(tokens, attention.heads, -1).transpose(0, 1)
    attended = F.scaled_dot_product_attention(query, key, value)
    return attended.transpose(0, 1).reshape(tokens, width) @ attention.output.weight.T


@given(head_width=st.sampled_from([4, 8, 16, 64]), base=st.floats(1e2, 1e6), glm_base=st.sampled_from([1e4, 1.6e5]))
@settings(max_examples=50)
def test_rotary_order_names_every_feature_once_and_keeps_pairs(head_width: int, base: float, glm_base: float) -> None:
    order = rotary_order(head_width, base, glm_base)
    assert sorted(order.tolist()) == list(range(head_width))
    first, second = order.chunk(2)
    assert torch.equal(second - first, torch.full_like(first, head_width // 2))
    turned = first[: head_width // 4]
    assert torch.equal(turned, turned.sort().values)
    if base == glm_base:
        assert torch.equal(turned, torch.arange(0, head_width // 2, 2))


def test_scores_of_queries_and_keys_survive_any_order() -> None:
    query, key, states_in = torch.randn(8, 8), torch.randn(8, 8), torch.randn(5, 8)
    joined = query_key_weight(query, key, 2, torch.tensor([2, 0, 3, 1]))
    features = (states_in @ joined.T).view(5, 2, 2, 2, 2)  # token, member, query or key, head, half
    ours = torch.einsum("tmhd,smhd->hts", features[:, :, 0], features[:, :, 1])
    theirs = torch.einsum("thd,shd->hts", (states_in @ query.T).view(5, 2, 4), (states_in @ key.T).view(5, 2, 4))
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_centred_matrices_write_nothing_along_the_mean() -> None:
    assert (centred(torch.randn(6, 4)) @ torch.randn(4)).mean().abs() < 1e-6


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"hidden_size": 64}, "hidden_size 32 in the start; needed model.hidden_size = 64"),
        ({"heads": 4}, "heads 2 in the start; needed model.heads = 4"),
        ({"feed_forward_size": 64}, "feed_forward_size 48 in the start; needed model.feed_forward_size = 64"),
        ({"layers": 4}, "found model.layers = 4, the start has 2; needed model.layers = 2"),
    ],
    ids=str,
)
def test_sizes_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    saved("xlm-roberta", tmp_path)
    with pytest.raises(RecipeError, match=complaint):
        started(tmp_path, SECTION.model_copy(update=changes))


def test_encoders_that_no_glm_can_be_made_of_are_refused(tmp_path: Path) -> None:
    saved("mt5", tmp_path / "mt5")
    with pytest.raises(RecipeError, match="no GLM can be made from an encoder of this type; found mt5"):
        started(tmp_path / "mt5", SECTION)
    saved("xlm-roberta", tmp_path / "relu", hidden_act="relu")
    with pytest.raises(RecipeError, match="cannot stand for this activation; found relu"):
        started(tmp_path / "relu", SECTION)


def test_the_tokens_that_the_start_lacks_look_like_its_own(tmp_path: Path) -> None:
    start = saved("eurobert", tmp_path)
    model, plan = started(tmp_path, SECTION, vocab_size=VOCABULARY + 400)
    table = model.backbone.embeddings.weight.detach() * math.sqrt(32)
    assert torch.allclose(table[:VOCABULARY], start.embed_tokens.weight, atol=1e-6)
    assert plan.report.tokens == {"same": VOCABULARY, "none": 400}
    old, new = start.embed_tokens.weight.detach(), table[VOCABULARY:]
    # 400 draws: means to 4 standard errors, deviations to 4 / sqrt(2 x 400) of themselves.
    assert ((new.mean(0) - old.mean(0)).abs() < 4 * old.std(0) / 20).all()
    assert ((new.std(0) / old.std(0) - 1).abs() < 0.2).all()
    again, _ = started(tmp_path, SECTION, vocab_size=VOCABULARY + 400)
    assert torch.equal(again.backbone.embeddings.weight, model.backbone.embeddings.weight)


def test_heads_start_anew_where_the_start_has_none(tmp_path: Path) -> None:
    saved("eurobert", tmp_path)
    _, plan = started(tmp_path, SECTION, start=StartSection(model="x"))
    heads = {name: facts["how"] for name, facts in plan.report.parameters.items() if not name.startswith("backbone.")}
    assert set(heads.values()) == {"new"}
    assert {"glm_bias.bias", "mlm_transform.dense.weight"} <= set(heads)
