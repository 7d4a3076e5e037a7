"""The objectives once more, as their formulas read: scalar loops over samples, no padding, no masks, no ranks.

Tests compare mlc.objectives with this file, so it shares no code and no trick with it (not even a stable logsumexp).
Values are float64 tensors, for autograd's sake.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pair:
    """A real pair of the global batch; there is nothing like a padded one here."""

    first: Tensor
    second: Tensor
    group: int
    first_text: int
    second_text: int


@dataclass(frozen=True)
class NaiveSums:
    loss: Tensor
    correct: float
    masked: float


def naive_info_nce(pairs: Sequence[Pair], temperature: Tensor | float, symmetric: bool) -> NaiveSums:
    """Sum over pairs of -log(exp(own/t) / sum of exp(kept/t)), averaged over the directions asked for."""
    one_way = _one_direction(pairs, temperature)
    if not symmetric:
        return one_way
    turned = [Pair(p.second, p.first, p.group, p.second_text, p.first_text) for p in pairs]
    other_way = _one_direction(turned, temperature)
    return NaiveSums(
        loss=0.5 * one_way.loss + 0.5 * other_way.loss,
        correct=0.5 * one_way.correct + 0.5 * other_way.correct,
        masked=0.5 * one_way.masked + 0.5 * other_way.masked,
    )


def is_copy(anchor: Pair, candidate: Pair) -> bool:
    """Whether the candidate's second view is no negative for the anchor's first view."""
    if anchor.group >= 0 and anchor.group == candidate.group:
        return True
    return candidate.first_text == anchor.first_text or candidate.second_text in {anchor.first_text, anchor.second_text}


def _one_direction(pairs: Sequence[Pair], temperature: Tensor | float) -> NaiveSums:
    loss, correct, masked = torch.zeros((), dtype=torch.float64), 0, 0
    for i, anchor in enumerate(pairs):
        own = torch.exp(torch.dot(anchor.first, anchor.second) / temperature)
        denominator, best = own, True
        for j, candidate in enumerate(pairs):
            if i == j:
                continue
            if is_copy(anchor, candidate):
                masked += 1
                continue
            other = torch.exp(torch.dot(anchor.first, candidate.second) / temperature)
            denominator = denominator + other
            best = best and bool(other < own)
        loss = loss - torch.log(own / denominator)
        correct += best
    return NaiveSums(loss, correct, masked)


def naive_token_loss(logits: Sequence[Tensor], targets: Sequence[int]) -> Tensor:
    """Sum over tokens of -log softmax at the target."""
    loss = torch.zeros((), dtype=torch.float64)
    for row, target in zip(logits, targets, strict=True):
        loss = loss - torch.log(torch.exp(row[target]) / torch.exp(row).sum())
    return loss
