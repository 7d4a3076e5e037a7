"""The joint objective: J = sum over terms k of weight_k * (global sum of term k) / (its global denominator).

In:  this rank's sum of every term, and denominators that were counted over all ranks and micro-batches beforehand.
Out: the number this rank backpropagates: W * its share of J, so that the mean over W ranks is J and its gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Term:
    """One term of the objective, as far as one rank (and one micro-batch) sees it."""

    sum: Tensor
    """Shape (): the sum over this rank's rows or tokens, carrying gradient."""
    global_denominator: float
    """Valid rows or predicted tokens of the global batch; the same on every rank. 0 = the term is empty."""
    weight: float
    """The recipe's weight of the term."""


def joint_loss(terms: Mapping[str, Term], world_size: int) -> Tensor:
    """This rank's part of J times the world size, shape ().

    An empty denominator makes its term 0, but keeps it in the graph: every rank runs the same backward, which sharded
    parameters need. The sum of such a term must be finite.

    Raises:
        ValueError: no terms, a denominator that is negative or not finite, or a world size below 1.
    """
    if not terms:
        raise ValueError("joint_loss needs at least one term")
    if world_size < 1:
        raise ValueError(f"world_size is {world_size}, must be at least 1")
    parts: list[Tensor] = []
    for name, term in terms.items():
        if not (math.isfinite(term.global_denominator) and term.global_denominator >= 0):
            raise ValueError(f"term {name}: global_denominator is {term.global_denominator}, must be finite and >= 0")
        factor = world_size * term.weight / term.global_denominator if term.global_denominator else 0.0
        parts.append(factor * term.sum)
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
