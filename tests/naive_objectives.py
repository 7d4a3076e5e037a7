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
    first_language: int = 0
    second_language: int = 0

    def turned(self) -> Pair:
        return Pair(
            self.second,
            self.first,
            self.group,
            self.second_text,
            self.first_text,
            self.second_language,
            self.first_language,
        )


@dataclass(frozen=True)
class Further:
    """A candidate that is no pair of the batch: a hard negative, or one side of a queued pair."""

    embedding: Tensor
    group: int
    text: int
    partner: int
    """Text it belongs with; -1 = none."""
    language: int


@dataclass(frozen=True)
class NaiveSums:
    loss: Tensor
    correct: float
    masked: float


def naive_info_nce(
    pairs: Sequence[Pair],
    temperature: Tensor | float,
    symmetric: bool,
    *,
    decoupled: bool = False,
    margin: float = 0.0,
    negatives: str = "all",
    more_second: Sequence[Further] = (),
    more_first: Sequence[Further] = (),
) -> NaiveSums:
    """Sum over pairs of -log(exp(own/t) / sum of exp(kept/t)), averaged over the directions asked for."""
    found = []
    for members, further in ((pairs, more_second), ([pair.turned() for pair in pairs], more_first)):
        candidates = [Further(p.second, p.group, p.second_text, p.first_text, p.second_language) for p in members]
        sums = [
            _of_pair(pair, [*candidates[:i], *candidates[i + 1 :], *further], temperature, decoupled, margin, negatives)
            for i, pair in enumerate(members)
        ]
        nothing = torch.zeros((), dtype=torch.float64)
        found.append([sum((s[k] for s in sums), nothing) for k in range(3)])
    if not symmetric:
        found = found[:1]
    loss, correct, masked = (sum(direction[k] for direction in found) / len(found) for k in range(3))
    return NaiveSums(loss, float(correct), float(masked))


def is_copy(anchor: Pair, candidate: Further) -> bool:
    """Whether the candidate is no negative for the anchor's first view."""
    if anchor.group >= 0 and anchor.group == candidate.group:
        return True
    return candidate.partner == anchor.first_text or candidate.text in {anchor.first_text, anchor.second_text}


def _of_pair(
    anchor: Pair,
    others: Sequence[Further],
    temperature: Tensor | float,
    decoupled: bool,
    margin: float,
    negatives: str,
) -> tuple[Tensor, int, int]:
    """Loss, whether the partner is the best answer, and copies left out, of one pair in one direction."""
    similarity = torch.dot(anchor.first, anchor.second)
    own = torch.exp((similarity - margin) / temperature)
    kept, masked, best = [], 0, True
    for other in others:
        if is_copy(anchor, other):
            masked += 1
            continue
        same_language = other.language == anchor.second_language
        if (negatives == "same_language" and not same_language) or (negatives == "cross_language" and same_language):
            continue
        score = torch.dot(anchor.first, other.embedding)
        kept.append(torch.exp(score / temperature))
        best = best and bool(score < similarity)
    if not kept:
        return torch.zeros((), dtype=torch.float64), int(best), masked
    denominator = torch.stack(kept if decoupled else [own, *kept]).sum()
    return -torch.log(own / denominator), int(best), masked


def naive_token_loss(logits: Sequence[Tensor], targets: Sequence[int]) -> Tensor:
    """Sum over tokens of -log softmax at the target."""
    loss = torch.zeros((), dtype=torch.float64)
    for row, target in zip(logits, targets, strict=True):
        loss = loss - torch.log(torch.exp(row[target]) / torch.exp(row).sum())
    return loss
