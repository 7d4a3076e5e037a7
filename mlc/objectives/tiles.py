"""Positives, and log-sum-exps over the negatives, of the rows and columns of a similarity matrix that is never stored.

In:  two sets of embeddings, a temperature, and `Negatives`, which says tile by tile what is left out.
Out: for rows and columns the log-sum-exp of the kept logits and the positive (differentiable), the largest kept logit,
     and counts.
Letters: N rows, C columns, D embedding size, r x c one tile.

The matrix of logits rows columns^T / temperature is made tile by tile, in the forward pass under a running maximum and
sum, and once more in the backward pass. One matrix serves both directions of a symmetric loss. Memory beyond
embeddings and gradients is a few tiles and vectors, whatever N and C (Cheng et al. 2024, "Breaking the memory barrier:
near infinite batch size scaling for contrastive loss", section 3.2, without its ring between ranks).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mlc.objectives.negatives import Negatives

NO_NEGATIVE = -1e30
"""Log-sum-exp of nothing: finite, so that no gradient becomes nan, and below every real one."""


@dataclass(frozen=True)
class TileSize:
    """Rows and columns of a tile; two of them in fp32 should fit into a core's cache."""

    rows: int = 512
    columns: int = 1024


@dataclass(frozen=True)
class Aggregates:
    """What one pass over the tiles gives; the first three carry gradient, the others do not."""

    positive_N: Tensor
    """Logit of each row and its own column; 0 where rows have none."""
    row_N: Tensor
    """Log-sum-exp over the kept logits of each row; NO_NEGATIVE where none is kept."""
    column_C: Tensor
    """The same for each column."""
    row_max_N: Tensor
    column_max_C: Tensor
    false_negatives: Tensor
    """Pairs (row, column) left out as copies of a right answer, shape ()."""


def log_sum_exps(
    row_ND: Tensor,
    column_CD: Tensor,
    temperature: Tensor,
    negatives: Negatives,
    *,
    rows: bool = True,
    columns: bool = False,
    tile: TileSize,
) -> Aggregates:
    """Positives, and log-sum-exps over what `negatives` keeps, of row_ND column_CD^T / temperature.

    Args:
        row_ND, column_CD: fp32 or fp64, the same of both; finite also where invalid.
        temperature: one element, > 0, of the same dtype; may carry gradient.
        negatives: what is left out.
        rows, columns: which of the two are wanted; the other comes back as NO_NEGATIVE.
        tile: size of a tile.
    """
    parts = _LogSumExps.apply(row_ND, column_CD, temperature, negatives, rows, columns, tile)
    return Aggregates(*cast(tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], parts))


class _LogSumExps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        row_ND: Tensor,
        column_CD: Tensor,
        temperature: Tensor,
        negatives: Negatives,
        rows: bool,
        columns: bool,
        tile: TileSize,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        of_rows = _Running(row_ND, row_ND.shape[0])
        of_columns = _Running(row_ND, column_CD.shape[0])
        positive_N = row_ND.new_zeros(row_ND.shape[0])
        false_negatives = row_ND.new_zeros((), dtype=torch.float64)
        for r in _slices(row_ND.shape[0], tile.rows):
            scaled_rD = row_ND[r] / temperature
            if negatives.own_index_N is not None:
                positive_N[r] = (scaled_rD * column_CD[negatives.own_index_N[r]]).sum(1)
            for c in _slices(column_CD.shape[0], tile.columns):
                logits_rc = _product(scaled_rD, column_CD[c])
                false_negatives += negatives.leave_out_(logits_rc, r, c)
                scratch_rc = torch.empty_like(logits_rc)
                if rows:
                    of_rows.add(r, logits_rc, 1, scratch_rc)
                if columns:
                    of_columns.add(c, logits_rc, 0, scratch_rc)
        row_N, column_C = of_rows.log_sum_exp(), of_columns.log_sum_exp()
        ctx.save_for_backward(row_ND, column_CD, temperature, row_N, column_C)
        ctx.negatives, ctx.rows, ctx.columns, ctx.tile = negatives, rows, columns, tile
        ctx.mark_non_differentiable(of_rows.maximum, of_columns.maximum, false_negatives)
        return positive_N, row_N, column_C, of_rows.maximum, of_columns.maximum, false_negatives

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_positive_N: Tensor, grad_row_N: Tensor, grad_column_C: Tensor, *unused: Any
    ) -> tuple[Any, ...]:
        row_ND, column_CD, temperature, row_N, column_C = ctx.saved_tensors
        wants_row, wants_column, wants_temperature = ctx.needs_input_grad[:3]
        own_index_N = ctx.negatives.own_index_N
        grad_row_ND = torch.zeros_like(row_ND) if wants_row else None
        grad_column_CD = torch.zeros_like(column_CD) if wants_column else None
        grad_temperature = torch.zeros_like(temperature) if wants_temperature else None
        for r in _slices(row_ND.shape[0], ctx.tile.rows):
            scaled_rD = row_ND[r] / temperature
            grad_scaled_rD = torch.zeros_like(scaled_rD)
            if own_index_N is not None:
                grad_scaled_rD += grad_positive_N[r, None] * column_CD[own_index_N[r]]
                if grad_column_CD is not None:
                    grad_column_CD.index_add_(0, own_index_N[r], grad_positive_N[r, None] * scaled_rD)
            for c in _slices(column_CD.shape[0], ctx.tile.columns):
                logits_rc = _product(scaled_rD, column_CD[c])
                ctx.negatives.leave_out_(logits_rc, r, c)
                grad_rc = _gradient_of_logits(
                    logits_rc,
                    (row_N[r], grad_row_N[r]) if ctx.rows else None,
                    (column_C[c], grad_column_C[c]) if ctx.columns else None,
                )
                grad_scaled_rD.addmm_(grad_rc, column_CD[c])
                if grad_column_CD is not None:
                    grad_column_CD[c].addmm_(grad_rc.T, scaled_rD)
            if grad_temperature is not None:
                # The sum over the row's tiles of gradient x logit, without a pass of its own.
                grad_temperature -= (grad_scaled_rD * scaled_rD).sum() / temperature
            if grad_row_ND is not None:
                torch.div(grad_scaled_rD, temperature, out=grad_row_ND[r])
        return grad_row_ND, grad_column_CD, grad_temperature, None, None, None, None


class _Running:
    """Running maximum and sum of exponentials (Milakov & Gimelshein 2018) of `size` rows or columns."""

    def __init__(self, like: Tensor, size: int) -> None:
        self.maximum = like.new_full((size,), NO_NEGATIVE)
        self._sum = like.new_zeros(size)

    def add(self, part: slice, logits_rc: Tensor, dim: int, scratch_rc: Tensor) -> None:
        """Take in a tile along `dim`; `scratch_rc` is overwritten."""
        old = self.maximum[part]
        new = torch.maximum(old, logits_rc.amax(dim))
        torch.sub(logits_rc, new.unsqueeze(dim), out=scratch_rc).exp_()
        self._sum[part] = self._sum[part] * (old - new).exp_() + scratch_rc.sum(dim)
        self.maximum[part] = new

    def log_sum_exp(self) -> Tensor:
        """Of everything taken in; NO_NEGATIVE where there was nothing."""
        return torch.where(self._sum > 0, self.maximum + self._sum.log(), self.maximum)


def _slices(size: int, step: int) -> Iterator[slice]:
    return (slice(start, start + step) for start in range(0, size, step))


def _product(scaled_rD: Tensor, column_cD: Tensor) -> Tensor:
    # Autocast would run the product in bf16, which keeps under three digits of a cosine.
    with torch.autocast(scaled_rD.device.type, enabled=False):
        return scaled_rD @ column_cD.T


def _gradient_of_logits(
    logits_rc: Tensor, row: tuple[Tensor, Tensor] | None, column: tuple[Tensor, Tensor] | None
) -> Tensor:
    """Sum over both directions of (gradient of the log-sum-exp) x softmax; overwrites the logits."""
    parts = []
    if row is not None and column is not None:
        parts.append(torch.sub(logits_rc, row[0][:, None]).exp_().mul_(row[1][:, None]))
        parts.append(logits_rc.sub_(column[0]).exp_().mul_(column[1]))
        return parts[0].add_(parts[1])
    if row is not None:
        return logits_rc.sub_(row[0][:, None]).exp_().mul_(row[1][:, None])
    assert column is not None, "log_sum_exps of neither rows nor columns"
    return logits_rc.sub_(column[0]).exp_().mul_(column[1])
