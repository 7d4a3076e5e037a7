"""Cross-entropy of predicted tokens, for blank infilling and masked language modelling.

In:  logits at the predicted places only, their targets and weights.
Out: sums over them; the caller divides by global denominators (mlc.objectives.joint).
Letters: M = predicted places on this rank, V = vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class TokenSums:
    """Sums over the predicted places, each of shape (); the counts are float64, without gradient."""

    loss: Tensor
    """Weighted -log softmax at the target, in nats; fp32, or fp64 for fp64."""
    correct: Tensor
    """Weight of the places whose target has the highest logit."""
    count: Tensor
    """Sum of the weights."""


def token_cross_entropy_sum(logits_MV: Tensor, targets_M: Tensor, weight_M: Tensor) -> TokenSums:
    """Weighted cross-entropy, summed over places, in fp32 whatever the dtype of the logits (fp64 stays fp64).

    Args:
        logits_MV: finite, also at places of weight 0.
        targets_M: int64 in [0, V), also at places of weight 0.
        weight_M: 1 = counts, 0 = a dummy that keeps the graph the same on every rank; other weights >= 0 work too.

    Raises:
        ValueError: shapes that do not fit together.
    """
    places = logits_MV.shape[0]
    if targets_M.shape != (places,) or weight_M.shape != (places,):
        raise ValueError(f"{places} logits, targets {tuple(targets_M.shape)}, weights {tuple(weight_M.shape)}")
    logits_MV = logits_MV if logits_MV.dtype is torch.float64 else logits_MV.float()
    loss_M = functional.cross_entropy(logits_MV, targets_M, reduction="none")
    with torch.no_grad():
        is_best_M = logits_MV.argmax(1) == targets_M
        correct = (is_best_M * weight_M).sum(dtype=torch.float64)
        count = weight_M.sum(dtype=torch.float64)
    return TokenSums(loss=(loss_M * weight_M.to(loss_M.dtype)).sum(), correct=correct, count=count)
