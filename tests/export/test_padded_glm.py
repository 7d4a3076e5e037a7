"""The GLM on padded rows, which graphs are made from, is the GLM."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlc.export.padded_glm import PaddedGlm
from mlc.model import MlcGlmConfig, MlcGlmModel

VOCABULARY = 50


def random_model(dtype: torch.dtype, seed: int) -> MlcGlmModel:
    """Weights far from their start, where blocks hardly change the residual stream and norms have weight 1."""
    config = MlcGlmConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24
    )
    model = MlcGlmModel(config).to(dtype).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(dtype)
            parameter.copy_(0.3 * values if parameter.ndim == 2 else 1 + 0.3 * values)
    return model


def batch(lengths: list[int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    columns = max(lengths)
    mask = (torch.arange(columns) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(1, VOCABULARY, mask.shape, generator=torch.Generator().manual_seed(seed))
    return ids * mask, mask


@settings(max_examples=25)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6), seed=st.integers(0, 1000))
@torch.inference_mode()
def test_every_layer_is_the_models(lengths: list[int], seed: int) -> None:
    model = random_model(torch.float64, seed)
    ids, mask = batch(lengths, seed)
    needed = model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
    found = PaddedGlm(model)(ids, mask)
    assert len(found) == len(needed)
    for ours, theirs in zip(found, needed, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)  # fp64: only the order of sums differs


@torch.inference_mode()
def test_embeddings_in_fp32() -> None:
    model = random_model(torch.float32, 1)
    ids, mask = batch([40, 3, 17, 1], 2)

    def embed(states: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(states.sum(1), dim=-1)

    needed = embed(model(input_ids=ids, attention_mask=mask).last_hidden_state)
    torch.testing.assert_close(embed(PaddedGlm(model)(ids, mask)[-1]), needed, rtol=0, atol=1e-6)


@torch.inference_mode()
@pytest.mark.parametrize("changed", ["positions", "padding"])
def test_the_comparison_would_notice(changed: str) -> None:
    """Other positions, or padding that is seen, change the states by much more than the tolerance."""
    model = random_model(torch.float64, 3)
    ids, mask = batch([12, 5], 3)
    needed = PaddedGlm(model)(ids, mask)[-1][1, :5]
    if changed == "padding":
        wrong = PaddedGlm(model)(ids, torch.ones_like(mask))[-1][1, :5]
    else:
        wrong = PaddedGlm(model)(ids[1:, :5].flip(1), mask[1:, :5])[-1][0].flip(0)
    assert (wrong - needed).abs().max() > 1e-3
