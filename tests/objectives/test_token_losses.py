"""Token cross-entropy: values by hand, the naive formula, and dummies that must not count."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_objectives import naive_token_loss

from mlc.objectives.token_losses import token_cross_entropy_sum


def test_values_by_hand() -> None:
    logits = torch.log(torch.tensor([[1.0, 2.0, 1.0], [6.0, 1.0, 1.0], [1.0, 1.0, 8.0]], dtype=torch.float64))
    found = token_cross_entropy_sum(logits, torch.tensor([1, 1, 2]), torch.tensor([1.0, 1.0, 0.0]))
    assert found.loss.item() == pytest.approx(math.log(2) + math.log(8), rel=1e-14)
    assert (found.correct.item(), found.count.item()) == (1, 2)  # the third is right, but a dummy


@given(st.integers(0, 6), st.integers(1, 5), st.integers(0, 3), st.integers(0, 2**31))
@settings(max_examples=60)
def test_equals_the_formula_with_any_number_of_dummies(tokens: int, vocabulary: int, dummies: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    values = torch.randn(tokens + dummies, vocabulary, generator=random, dtype=torch.float64)
    targets = torch.randint(0, vocabulary, (tokens + dummies,), generator=random)
    logits, naive = values.clone().requires_grad_(), values.clone().requires_grad_()
    found = token_cross_entropy_sum(logits, targets, (torch.arange(tokens + dummies) < tokens).float())
    expected = naive_token_loss(list(naive[:tokens]), targets[:tokens].tolist())
    found.loss.backward()
    (expected + 0 * naive.sum()).backward()
    torch.testing.assert_close(found.loss, expected, rtol=1e-12, atol=1e-12)  # float64, order of sums
    torch.testing.assert_close(logits.grad, naive.grad, rtol=1e-12, atol=1e-12)
    assert found.count.item() == tokens


def test_dummies_alone_give_zero_that_is_still_connected() -> None:
    logits = torch.randn(2, 5, requires_grad=True)
    found = token_cross_entropy_sum(logits, torch.tensor([0, 1]), torch.zeros(2))
    found.loss.backward()
    assert (found.loss.item(), found.correct.item(), found.count.item()) == (0, 0, 0)
    assert torch.equal(logits.grad, torch.zeros(2, 5))


def test_bf16_logits_are_summed_in_fp32() -> None:
    logits = torch.randn(200, 50, generator=torch.Generator().manual_seed(0)).bfloat16()
    targets, weight = torch.arange(200) % 50, torch.ones(200, dtype=torch.bfloat16)
    found = token_cross_entropy_sum(logits, targets, weight)
    expected = token_cross_entropy_sum(logits.double(), targets, weight.double())
    assert found.loss.dtype is torch.float32
    assert found.loss.item() == pytest.approx(expected.loss.item(), rel=1e-5)  # bf16 sums would miss by 1e-2
    assert found.count.item() == 200


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="3 logits"):
        token_cross_entropy_sum(torch.zeros(3, 4), torch.zeros(2, dtype=torch.int64), torch.zeros(3))
