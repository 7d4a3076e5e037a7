"""InfoNCE between the two views of a sample, against the candidates of the whole global batch and more.

In:  embeddings of the local rows and of all candidates (already gathered, so no ranks in here), and who is who.
Out: sums over the local rows; the caller divides by global denominators (mlc.objectives.joint).
Letters: N = local rows, G = pairs of the global batch with its padding, X = further candidates, D = embedding size.

One matrix of similarities, local first views x all second views, gives both directions: its rows are the denominators
of the first views, its columns, put together over ranks, those of the second views. It is made in tiles and never
stored (mlc.objectives.tiles); what is no negative is decided in each tile (mlc.objectives.negatives).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from mlc.objectives.negatives import ChosenLanguages, Negatives, TextIds
from mlc.objectives.tiles import NO_NEGATIVE, Aggregates, TileSize, log_sum_exps

# exp(-40) is below a rounding error of float64: from there on softplus(x) is x.
SOFTPLUS_THRESHOLD = 40.0


@dataclass(frozen=True)
class PairIdentity:
    """Who the G pairs of the global batch are, in the order of the candidates."""

    group: Tensor
    """int64 [G]: pairs with the same number >= 0 are never negatives of one another; -1 = no group."""
    first_text: Tensor
    """int64 [G], >= 0: hash of the text of the first view; equal = same text."""
    second_text: Tensor
    """int64 [G], >= 0: hash of the text of the second view, by the same hash function."""
    first_language: Tensor
    """int64 [G]: number of the first view's language; looked at only where negatives are chosen by language."""
    second_language: Tensor
    """int64 [G]."""
    valid: Tensor
    """bool [G]: False = padding: no loss, never a candidate of another row."""

    @property
    def first(self) -> TextIds:
        """The first views."""
        return TextIds(self.group, self.first_text, self.second_text, self.valid)

    @property
    def second(self) -> TextIds:
        """The second views."""
        return TextIds(self.group, self.second_text, self.first_text, self.valid)


@dataclass(frozen=True)
class Candidates:
    """More candidates than the batch's pairs, for one direction: hard negatives, or a queue."""

    embedding_XD: Tensor
    ids: TextIds
    """X of them."""
    language: Tensor
    """int64 [X]."""


@dataclass(frozen=True)
class InfoNceSettings:
    """Which InfoNCE."""

    symmetric: bool = True
    """Mean of both directions; False = first to second only."""
    decoupled: bool = False
    """The positive is left out of the denominator (Yeh et al. 2022, eq. 6)."""
    margin: float = 0.0
    """Taken off the positive's similarity before it is divided by the temperature (Yang et al. 2019, eq. 4)."""
    negatives: Literal["all", "same_language", "cross_language"] = "all"
    """same_language: only candidates in the right answer's language; cross_language: only those in another one."""
    tile: TileSize = field(default_factory=TileSize)


@dataclass(frozen=True)
class AcrossRanks:
    """How vectors of G numbers, one part from each rank, become whole; the defaults are those of one process."""

    log_sum_exp: Callable[[Tensor], Tensor] = lambda part_G: part_G
    """Elementwise log of the sum over ranks of exponentials, differentiable."""
    maximum: Callable[[Tensor], Tensor] = lambda part_G: part_G
    """Elementwise, without gradient."""


ONE_PROCESS = AcrossRanks()


@dataclass(frozen=True)
class Direction:
    """What one direction gave for the local rows, [N], without gradient; 0 where a row is invalid."""

    loss: Tensor
    correct: Tensor
    """1 = the own partner scores above every negative (a tie is a miss), without the margin."""


@dataclass(frozen=True)
class ContrastiveSums:
    """Sums over the local valid rows, each of shape (); the counts are float64, without gradient."""

    loss: Tensor
    """In nats, mean of the two directions if symmetric; fp32, or fp64 for fp64."""
    correct: Tensor
    """Right first guesses, mean of the directions."""
    rows: Tensor
    """Valid rows."""
    masked: Tensor
    """Candidates left out as copies of the right answer, mean of the directions; right in its sum over ranks."""
    directions: tuple[Direction, ...]
    """First to second and, if symmetric, second to first."""


def info_nce_sum(
    first_ND: Tensor,
    second_ND: Tensor,
    all_second_GD: Tensor,
    *,
    own_index_N: Tensor,
    identity: PairIdentity,
    temperature: float | Tensor,
    settings: InfoNceSettings,
    more_second: Candidates | None = None,
    more_first: Candidates | None = None,
    across_ranks: AcrossRanks = ONE_PROCESS,
) -> ContrastiveSums:
    """InfoNCE of the local rows, summed.

    Row i of the first view looks for its partner among the second views of the batch and `more_second`; if symmetric,
    its second view looks among the first views and `more_first`. With s the similarity, m the margin, t the temperature
    and K the kept negatives of i, the loss is -log(p / (p + sum over K of exp(s_ij / t))), p = exp((s_ii - m) / t);
    decoupled, p is missing from the sum. A row with no negative has loss 0. With candidates from an autograd gather,
    the gradients of the ranks' sums add up to that of the full batch:
    tests/distributed/test_gradient_exactness.py.

    Args:
        first_ND, second_ND: the local rows, usually of unit norm; finite even where invalid. Computed in fp32 (fp64
            stays fp64) whatever their dtype. Of `second_ND` use is made only against `more_first`.
        all_second_GD: second views of all pairs, carrying gradient to the rank that owns them.
        own_index_N: int64, the place of local row n among the G pairs.
        identity: who the G pairs are.
        temperature: > 0; a tensor of one element may carry gradient.
        settings: which InfoNCE.
        more_second, more_first: further candidates for the first and for the second views.
        across_ranks: how the ranks' columns are put together, where there are several.

    Raises:
        ValueError: shapes that do not fit together.

    Source: van den Oord et al. 2018, eq. 4; both directions as in Radford et al. 2021, figure 3.
    """
    _check_shapes(first_ND, second_ND, all_second_GD, own_index_N, identity)
    first_ND, second_ND, all_second_GD = (_at_least_fp32(x) for x in (first_ND, second_ND, all_second_GD))
    temperature = torch.as_tensor(temperature, dtype=first_ND.dtype, device=first_ND.device).reshape(())
    local = PairIdentity(**{name: column[own_index_N] for name, column in vars(identity).items()})

    logit_N, found = _within_batch(
        first_ND, all_second_GD, own_index_N, local, identity, temperature, settings, across_ranks
    )
    positive_N = logit_N - settings.margin / temperature
    if more_second is not None:
        found[0] += _further(first_ND, more_second, local.first, local.second_language, temperature, settings)
    if more_first is not None and settings.symmetric:
        found[1] += _further(second_ND, more_first, local.second, local.first_language, temperature, settings)
    losses_N = [_loss(positive_N, direction.log_sum_exp_N, settings.decoupled) * local.valid for direction in found]
    directions = tuple(
        Direction(loss_N.detach(), (direction.largest_N < logit_N.detach()) & local.valid)
        for loss_N, direction in zip(losses_N, found, strict=True)
    )
    return ContrastiveSums(
        loss=torch.stack([loss_N.sum() for loss_N in losses_N]).mean(),
        correct=torch.stack([d.correct.sum(dtype=torch.float64) for d in directions]).mean(),
        rows=local.valid.sum(dtype=torch.float64),
        masked=torch.stack([direction.copies for direction in found]).mean(),
        directions=directions,
    )


@dataclass(frozen=True)
class _Denominator:
    """What the local rows of one direction have beside their positives."""

    log_sum_exp_N: Tensor
    largest_N: Tensor
    copies: Tensor

    def __add__(self, other: _Denominator) -> _Denominator:
        """Over the negatives of both."""
        return _Denominator(
            torch.logaddexp(self.log_sum_exp_N, other.log_sum_exp_N),
            torch.maximum(self.largest_N, other.largest_N),
            self.copies + other.copies,
        )


def _within_batch(
    first_ND: Tensor,
    all_second_GD: Tensor,
    own_index_N: Tensor,
    local: PairIdentity,
    identity: PairIdentity,
    temperature: Tensor,
    settings: InfoNceSettings,
    across_ranks: AcrossRanks,
) -> tuple[Tensor, list[_Denominator]]:
    """Logits of the positives; negatives among the batch's pairs, of the first views and, if symmetric, the second."""

    def aggregates(local_language_N: Tensor, language_G: Tensor, *, rows: bool, columns: bool) -> Aggregates:
        languages = _chosen_languages(settings, local_language_N, language_G)
        negatives = Negatives(local.first, identity.second, own_index_N=own_index_N, languages=languages)
        return log_sum_exps(
            first_ND, all_second_GD, temperature, negatives, rows=rows, columns=columns, tile=settings.tile
        )

    at_once = settings.symmetric and settings.negatives == "all"
    found = aggregates(local.second_language, identity.second_language, rows=True, columns=at_once)
    forward = _Denominator(found.row_N, found.row_max_N, found.false_negatives)
    if not settings.symmetric:
        return found.positive_N, [forward]
    positive_N = found.positive_N
    if not at_once:  # seen from the second views, right answers are in other languages
        found = aggregates(local.first_language, identity.first_language, rows=False, columns=True)
    backward = _Denominator(
        across_ranks.log_sum_exp(found.column_C)[own_index_N],
        across_ranks.maximum(found.column_max_C)[own_index_N],
        # The rules are the same in both directions: over all ranks the columns leave out as many as the rows.
        found.false_negatives,
    )
    return positive_N, [forward, backward]


def _further(
    anchor_ND: Tensor,
    more: Candidates,
    anchors: TextIds,
    answer_language_N: Tensor,
    temperature: Tensor,
    settings: InfoNceSettings,
) -> _Denominator:
    """Negatives beside the batch's pairs."""
    negatives = Negatives(anchors, more.ids, languages=_chosen_languages(settings, answer_language_N, more.language))
    embedding_XD = _at_least_fp32(more.embedding_XD).to(anchor_ND.dtype)
    found = log_sum_exps(anchor_ND, embedding_XD, temperature, negatives, tile=settings.tile)
    return _Denominator(found.row_N, found.row_max_N, found.false_negatives)


def _chosen_languages(
    settings: InfoNceSettings, answer_language_N: Tensor, language_C: Tensor
) -> ChosenLanguages | None:
    if settings.negatives == "all":
        return None
    return ChosenLanguages(answer_language_N, language_C, same=settings.negatives == "same_language")


def _loss(positive_N: Tensor, negative_N: Tensor, decoupled: bool) -> Tensor:
    if not decoupled:
        return functional.softplus(negative_N - positive_N, threshold=SOFTPLUS_THRESHOLD)
    return torch.where(negative_N > NO_NEGATIVE / 2, negative_N - positive_N, 0.0)


def _at_least_fp32(x: Tensor) -> Tensor:
    return x if x.dtype is torch.float64 else x.float()


def _check_shapes(
    first_ND: Tensor, second_ND: Tensor, all_second_GD: Tensor, own_index_N: Tensor, identity: PairIdentity
) -> None:
    rows, pairs = first_ND.shape[0], all_second_GD.shape[0]
    if second_ND.shape != first_ND.shape or own_index_N.shape != (rows,):
        raise ValueError(
            f"first rows {tuple(first_ND.shape)}, second {tuple(second_ND.shape)}, own_index {tuple(own_index_N.shape)}"
        )
    columns = [getattr(identity, name) for name in identity.__dataclass_fields__]
    if any(column.shape != (pairs,) for column in columns):
        raise ValueError(f"{pairs} second candidates, identity {[tuple(column.shape) for column in columns]}")
    if identity.valid.dtype is not torch.bool:
        raise ValueError(f"identity.valid has dtype {identity.valid.dtype}, must be bool")
