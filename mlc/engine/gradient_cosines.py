"""How the terms of J pull at the weights: norms and cosines of their gradients, over all parameters and ranks.

In:  a DeepSpeed engine under ZeRO-3 whose step backpropagates one term after the other.
Out: norms and cosines (Yu et al. 2020, "Gradient surgery for multi-task learning", definition 1: negative = conflict).

The terms' gradients add up in the engine to that of J, so the step is the one that would have been taken anyway, up to
rounding; after each term the sum so far is read from this rank's shards, and nothing is gathered.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from mlc.distributed.gather import sum_over_ranks
from mlc.engine.shards import own_part


class TermGradients:
    """Collects gradients of one step, term by term.

    Args:
        engine: under ZeRO-3, one backward pass a step.
        terms: in the order in which they are backpropagated.
    """

    def __init__(self, engine: Any, terms: Sequence[str]) -> None:
        self._engine, self._terms = engine, list(terms)
        self._sums: list[list[Tensor]] = []

    def before_term(self) -> None:
        """Call before each term's forward pass: only the last one of a step ends it."""
        self._engine.set_gradient_accumulation_boundary(len(self._sums) == len(self._terms) - 1)

    def after_backward(self) -> None:
        """Call after each term's backward pass, before the optimizer's step."""
        from deepspeed.utils import safe_get_local_grad

        scale = float(self._engine.optimizer.loss_scale)
        trained = [p for p in self._engine.module.parameters() if p.requires_grad]
        self._sums.append([own_part(p, safe_get_local_grad(p)).double() / scale for p in trained])

    def metrics(self) -> dict[str, float]:
        """Norm of each term's weighted gradient, and the cosine of every two; a collective."""
        gradients = [self._sums[0]]
        gradients += [
            [now - before for now, before in zip(later, earlier, strict=True)]
            for earlier, later in zip(self._sums, self._sums[1:], strict=False)
        ]
        products = [[_dot(one, other) for other in gradients] for one in gradients]
        gram = sum_over_ranks(torch.stack([torch.stack(row) for row in products])).cpu()
        norms = gram.diagonal().sqrt()
        metrics = {f"gradient_norm/{name}": float(norm) for name, norm in zip(self._terms, norms, strict=True)}
        for one, other in combinations(range(len(self._terms)), 2):
            size = float(norms[one] * norms[other])
            cosine = float(gram[one, other]) / size if size else 0.0
            metrics[f"gradient_cosine/{self._terms[one]}/{self._terms[other]}"] = cosine
        return metrics


def _dot(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    return torch.stack([(a * b).sum() for a, b in zip(one, other, strict=True)]).sum()
