"""The joint loss: its formula, its scale over ranks, and empty terms."""

from __future__ import annotations

import pytest
import torch

from mlc.objectives.joint import Term, joint_loss


def test_value_by_hand_and_mean_over_ranks() -> None:
    """Two ranks with sums 6 and 2 (of 4 rows), 9 and 0 (of 3 tokens): J = 0.5 * 8 / 4 + 2 * 9 / 3 = 7."""
    ranks = [
        joint_loss({"contrastive": Term(torch.tensor(a), 4, 0.5), "glm": Term(torch.tensor(b), 3, 2.0)}, world_size=2)
        for a, b in ((6.0, 9.0), (2.0, 0.0))
    ]
    assert [loss.item() for loss in ranks] == [13.5, 0.5]
    assert sum(loss.item() for loss in ranks) / 2 == 7.0


def test_empty_and_weightless_terms_are_zero_but_connected() -> None:
    leaves = [torch.ones(2, requires_grad=True) for _ in range(3)]
    terms = {
        "full": Term(leaves[0].sum(), 2, 1.0),
        "empty": Term(leaves[1].sum(), 0, 1.0),
        "weightless": Term(leaves[2].sum(), 2, 0.0),
    }
    loss = joint_loss(terms, world_size=1)
    loss.backward()
    assert loss.item() == 1.0
    assert [leaf.grad.tolist() for leaf in leaves] == [[0.5, 0.5], [0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("denominator", [-1.0, float("nan"), float("inf")])
def test_nonsense_denominators_are_refused(denominator: float) -> None:
    with pytest.raises(ValueError, match="term mlm: global_denominator"):
        joint_loss({"mlm": Term(torch.tensor(1.0), denominator, 1.0)}, world_size=1)


def test_no_terms_and_no_ranks_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one term"):
        joint_loss({}, world_size=1)
    with pytest.raises(ValueError, match="world_size"):
        joint_loss({"mlm": Term(torch.tensor(1.0), 1, 1.0)}, world_size=0)
