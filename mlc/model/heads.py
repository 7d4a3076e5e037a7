"""Heads around the contrast: attention pooling, a learned temperature, and a language discriminator.

In:  states or embeddings of a batch.
Out: weights of a mean over tokens, a number, and logits over languages. Each is a module, so that calling it gathers
     its parameters under ZeRO-3.

Shape letters: R rows, T tokens without padding, D width, E width of the embeddings, C languages.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable


class AttentionPooling(nn.Module):
    """Weights of a mean over the tokens of each row: softmax of the product with one learned query (Yang et al. 2016,
    "Hierarchical attention networks for document classification", eq. 5 to 7, without their hidden layer).

    A query of 0, the start (`mlc.model.initialise`), weighs all tokens alike: mean pooling.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(width))

    def forward(self, states_TD: Tensor, row_T: Tensor, pooled_T: Tensor, rows: int) -> Tensor:
        """Weigh the tokens.

        Args:
            states_TD: of the tokens of all rows, in any order.
            row_T: int64, the row of each token.
            pooled_T: bool, the token takes part.
            rows: R.

        Returns:
            (T,) in at least fp32: sum 1 over the tokens of a row that take part, 0 for the others.
        """
        wide = torch.promote_types(states_TD.dtype, torch.float32)
        score_T = (states_TD.to(wide) @ self.query.to(wide)).masked_fill(~pooled_T, -torch.inf)
        # The highest score of a row only keeps exp from overflowing; it cancels out, so it needs no gradient. A row
        # without tokens has a finite one all the same, and a sum of 0, which must divide nothing.
        lowest_R = score_T.new_full((rows,), torch.finfo(wide).min)
        highest_R = lowest_R.scatter_reduce(0, row_T, score_T.detach(), "amax")
        share_T = torch.exp(score_T - highest_R[row_T])
        total_R = torch.zeros_like(highest_R).index_add(0, row_T, share_T)
        return share_T / torch.where(total_R > 0, total_R, 1.0)[row_T]


class BoundedTemperature(nn.Module):
    """A learned temperature that never leaves its bounds and never gets stuck at them:
    exp(log low + (log high - log low) * sigmoid(x)).

    Clamping, as in CLIP (Radford et al. 2021, section 2.5), has no gradient at the bound. The parameter is x without
    its start, so it starts at 0 and is exact there in any precision; and it has shape (1,), as DeepSpeed fails on
    shape ().

    Args:
        start: the temperature at first, strictly between the bounds.
        bounds: lowest and highest temperature.
    """

    def __init__(self, start: float, bounds: tuple[float, float]) -> None:
        super().__init__()
        low, high = bounds
        if not 0 < low < start < high:
            raise ValueError(f"found a start of {start}, it must lie strictly between {low} and {high}")
        self.log_low, self.log_range = math.log(low), math.log(high / low)
        share = math.log(start / low) / self.log_range
        self.start = math.log(share / (1 - share))
        self.moved = nn.Parameter(torch.zeros(1))

    def forward(self) -> Tensor:
        """The temperature (1,), in at least fp32."""
        # In fp32 the sigmoid is 1, and its gradient 0, from 17 on; in fp64 from 37 on.
        share = torch.sigmoid(self.start + self.moved.double())
        temperature = torch.exp(self.log_low + self.log_range * share)
        return temperature.to(torch.promote_types(self.moved.dtype, torch.float32))


class GradientReversal(Function):
    """The identity, whose backward multiplies by -reversal (Ganin & Lempitsky 2015, eq. 7 and 8)."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, reversal: float) -> Tensor:
        """`values` as they are."""
        ctx.reversal = reversal
        return values.view_as(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The gradient of the layers above, turned round."""
        return -ctx.reversal * gradient, None


class LanguageAdversary(nn.Module):
    """Guesses the language of embeddings behind a gradient reversal (Ganin & Lempitsky 2015): one loss trains the
    discriminator to tell languages apart and the encoder to leave it guessing.

    The discriminator is dense, GELU, dense. Unit vectors are scaled by sqrt(E) on the way in: elements of order 1 are
    what the dense layer's initial weights are made for.

    Args:
        width: E.
        hidden_size: between the two dense layers.
        languages: C.
        reversal: the encoder gets -reversal times the gradient.
    """

    def __init__(self, width: int, hidden_size: int, languages: int, reversal: float) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, hidden_size)
        self.output = nn.Linear(hidden_size, languages)
        self.reversal = reversal

    def forward(self, embeddings_RE: Tensor) -> Tensor:
        """Unit vectors (R, E) -> logits (R, C)."""
        reversed_RE = cast(Tensor, GradientReversal.apply(embeddings_RE, self.reversal))
        scaled_RE = reversed_RE * reversed_RE.shape[1] ** 0.5
        return cast(Tensor, self.output(F.gelu(self.hidden(scaled_RE.to(self.hidden.weight.dtype)))))
