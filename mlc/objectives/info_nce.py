"""InfoNCE between the two views of a sample, against the candidates of the whole global batch.

In:  embeddings of the local rows and of all candidates (already gathered, so no ranks in here), and who is who.
Out: sums over the local rows; the caller divides by global denominators (mlc.objectives.joint).
Letters: N = local rows, G = candidates = rows of the global batch with its padding, D = embedding size.

A candidate that is another copy of the right answer is no negative: it is left out of that row's denominator when it
belongs to the same group (one document, or its translations) or repeats a text. Sums run over valid rows only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PairIdentity:
    """Who the G pairs of the global batch are, in the order of the candidates."""

    group: Tensor
    """int64 [G]: pairs with the same number >= 0 are never negatives of one another; -1 = no group."""
    first_text: Tensor
    """int64 [G]: hash of the text of the first view; equal = same text."""
    second_text: Tensor
    """int64 [G]: hash of the text of the second view, by the same hash function."""
    valid: Tensor
    """bool [G]: False = padding: no loss, never a candidate of another row."""

    def swapped(self) -> PairIdentity:
        """The same pairs with first and second view exchanged."""
        return PairIdentity(self.group, self.second_text, self.first_text, self.valid)


@dataclass(frozen=True)
class ContrastiveSums:
    """Sums over the local valid rows, each of shape (); the counts are float64, without gradient."""

    loss: Tensor
    """-log softmax at the own partner in nats, mean of the two directions if symmetric; fp32, or fp64 for fp64."""
    correct: Tensor
    """Rows whose own partner scores above every other kept candidate (a tie is a miss), mean of the directions."""
    rows: Tensor
    """Valid rows."""
    masked: Tensor
    """Candidates left out as false negatives (padding not counted), mean of the directions."""


def info_nce_sum(
    first_ND: Tensor,
    second_ND: Tensor,
    all_first_GD: Tensor,
    all_second_GD: Tensor,
    *,
    own_index_N: Tensor,
    identity: PairIdentity,
    temperature: float | Tensor,
    symmetric: bool,
) -> ContrastiveSums:
    """InfoNCE of the local rows, summed, with the positive inside the denominator.

    Row i of the first view looks for its partner among the second views of all candidates (and, if symmetric, its
    second view among all first views). Candidate j != i counts in i's denominator unless it is padding, has i's group,
    has i's first or second text on the same side, or is itself the anchor's own text. A row with no negative left has
    loss 0. With candidates from an autograd gather, the gradients of the ranks' sums add up to that of the full batch:
    tests/distributed/test_gradient_exactness.py.

    Args:
        first_ND, second_ND: the local rows, usually of unit norm; finite even where invalid. Computed in fp32 (fp64
            stays fp64) whatever their dtype.
        all_first_GD, all_second_GD: all candidates, carrying gradient to the rank that owns them.
        own_index_N: int64, the place of local row n among the G candidates.
        identity: groups, text hashes and validity of the G candidates.
        temperature: divides the similarities, > 0; a tensor of one element may carry gradient.
        symmetric: mean of both directions; False = first to second only.

    Raises:
        ValueError: shapes that do not fit together.

    Source: van den Oord et al. 2018, eq. 4; both directions as in Radford et al. 2021, figure 3.
    """
    _check_shapes((first_ND, second_ND), (all_first_GD, all_second_GD), own_index_N, identity)
    forward = _one_direction(first_ND, all_second_GD, own_index_N, identity, temperature)
    if not symmetric:
        return forward
    backward = _one_direction(second_ND, all_first_GD, own_index_N, identity.swapped(), temperature)
    return ContrastiveSums(
        loss=(forward.loss + backward.loss) / 2,
        correct=(forward.correct + backward.correct) / 2,
        rows=forward.rows,
        masked=(forward.masked + backward.masked) / 2,
    )


def _one_direction(
    anchor_ND: Tensor, answer_GD: Tensor, own_index_N: Tensor, identity: PairIdentity, temperature: float | Tensor
) -> ContrastiveSums:
    """First views as anchors, second views as answers."""
    valid_N = identity.valid[own_index_N]
    own_N1 = own_index_N[:, None]
    false_negative_NG = _false_negatives(own_index_N, identity)
    left_out_NG = (false_negative_NG | ~identity.valid).scatter(1, own_N1, False)
    # Autocast would run the product in bf16, which keeps under three digits of a cosine.
    with torch.autocast(anchor_ND.device.type, enabled=False):
        logit_NG = _at_least_fp32(anchor_ND) @ _at_least_fp32(answer_GD).T / temperature
        kept_logit_NG = logit_NG.masked_fill(left_out_NG, -torch.inf)
        own_logit_N1 = kept_logit_NG.gather(1, own_N1)
        loss_N = kept_logit_NG.logsumexp(1) - own_logit_N1.squeeze(1)
    with torch.no_grad():
        is_best_N = (kept_logit_NG >= own_logit_N1).sum(1) == 1  # only itself
        masked_N = (false_negative_NG & identity.valid).sum(1)
    return ContrastiveSums(
        loss=(loss_N * valid_N).sum(),
        correct=(is_best_N & valid_N).sum(dtype=torch.float64),
        rows=valid_N.sum(dtype=torch.float64),
        masked=(masked_N * valid_N).sum(dtype=torch.float64),
    )


def _false_negatives(own_index_N: Tensor, identity: PairIdentity) -> Tensor:
    """Candidates that are other copies of a row's own answer, never itself: bool (N, G)."""
    group_N1 = identity.group[own_index_N, None]
    first_N1, second_N1 = identity.first_text[own_index_N, None], identity.second_text[own_index_N, None]
    same_NG = (group_N1 == identity.group) & (group_N1 >= 0)
    same_NG |= first_N1 == identity.first_text
    same_NG |= second_N1 == identity.second_text
    same_NG |= first_N1 == identity.second_text  # the anchor's own text, on the answering side
    return same_NG.scatter(1, own_index_N[:, None], False)


def _at_least_fp32(x: Tensor) -> Tensor:
    return x if x.dtype is torch.float64 else x.float()


def _check_shapes(
    rows: tuple[Tensor, Tensor], candidates: tuple[Tensor, Tensor], own_index_N: Tensor, identity: PairIdentity
) -> None:
    num_rows, num_candidates = rows[0].shape[0], candidates[0].shape[0]
    if rows[1].shape[0] != num_rows or own_index_N.shape != (num_rows,):
        raise ValueError(f"{num_rows} first rows, {rows[1].shape[0]} second, own_index {tuple(own_index_N.shape)}")
    columns = (identity.group, identity.first_text, identity.second_text, identity.valid)
    if candidates[1].shape[0] != num_candidates or any(column.shape != (num_candidates,) for column in columns):
        raise ValueError(
            f"{num_candidates} first candidates, {candidates[1].shape[0]} second, "
            f"identity {[tuple(column.shape) for column in columns]}"
        )
    if identity.valid.dtype is not torch.bool:
        raise ValueError(f"identity.valid has dtype {identity.valid.dtype}, must be bool")
