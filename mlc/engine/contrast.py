"""The contrast of a step: this rank's views against those of every rank, with hard negatives and the queue.

In:  embeddings of the views, who they are, the recipe's settings.
Out: sums over this rank's pairs, which carry gradient to the embeddings of every rank.
Letters: n = samples of this rank (all its micro-batches in the global contrast), G = samples of all ranks with padding,
H = hard negatives a sample, E = embedding size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from mlc.distributed.gather import gather_rows, gather_rows_detached, log_sum_exp_over_ranks, max_over_ranks
from mlc.distributed.queue import QueuedPairs
from mlc.objectives.info_nce import (
    AcrossRanks,
    Candidates,
    ContrastiveSums,
    InfoNceSettings,
    PairIdentity,
    info_nce_sum,
)
from mlc.objectives.negatives import TextIds
from mlc.recipe_objectives import InfoNceSection

OVER_RANKS = AcrossRanks(log_sum_exp_over_ranks, max_over_ranks)


@dataclass(frozen=True)
class Views:
    """Embeddings that take part in the contrast."""

    first_nE: Tensor
    second_nE: Tensor
    hard_nHE: Tensor
    """H may be 0."""

    @classmethod
    def of(cls, embeddings_RE: Tensor, tensors: Mapping[str, Tensor]) -> Views:
        """Pick them from the rows of a forward pass."""
        hard_row = tensors["hard_row"]
        return cls(
            embeddings_RE[tensors["first_row"]],
            embeddings_RE[tensors["second_row"]],
            embeddings_RE[hard_row.flatten()].unflatten(0, hard_row.shape),
        )

    @classmethod
    def join(cls, parts: Sequence[Views]) -> Views:
        """Those of several micro-batches, one after the other."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """First, second, hard."""
        return self.first_nE, self.second_nE, self.hard_nHE


@dataclass(frozen=True)
class ViewIds:
    """Who the views are; int64 but for the flags."""

    group: Tensor
    first_text: Tensor
    second_text: Tensor
    first_language: Tensor
    second_language: Tensor
    valid: Tensor
    hard_text: Tensor
    """(n, H)."""
    hard_valid: Tensor

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> ViewIds:
        """Those of a micro-batch."""
        return cls(**{field.name: tensors[field.name] for field in fields(cls)})

    @classmethod
    def join(cls, parts: Sequence[ViewIds]) -> ViewIds:
        """Those of several micro-batches, one after the other."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))


def contrast_over_ranks(
    views: Views,
    ids: ViewIds,
    *,
    temperature: float | Tensor,
    section: InfoNceSection,
    queue: QueuedPairs | None,
    rank: int,
) -> ContrastiveSums:
    """InfoNCE of this rank's pairs against the pairs of every rank; a collective, forward and backward.

    Args:
        views: of this rank, equally many on every rank.
        ids: of the views.
        temperature: fixed or learned.
        section: which InfoNCE.
        queue: further negatives without gradient, the same on every rank; None = no queue.
        rank: of this process.
    """
    samples = len(views.first_nE)
    names = [field.name for field in fields(PairIdentity) if field.name != "valid"]
    table_G = gather_rows_detached(
        torch.stack([*(getattr(ids, name) for name in names), ids.valid.to(torch.int64)], dim=1)
    )
    *columns, valid_G = table_G.unbind(1)
    identity = PairIdentity(**dict(zip(names, columns, strict=True)), valid=valid_G.bool())
    # Second views and hard negatives travel together: half the collectives, forward and backward.
    hard_negatives = views.hard_nHE.shape[1]
    answers_GE = gather_rows(torch.cat([views.second_nE[:, None], views.hard_nHE], dim=1))
    more_second = _hard_negatives(answers_GE[:, 1:], ids, identity) if hard_negatives else None
    more_first = None
    if queue is not None:
        more_first = _queued(queue, "first", "second")
        queued_second = _queued(queue, "second", "first")
        more_second = queued_second if more_second is None else _both(more_second, queued_second)
    return info_nce_sum(
        views.first_nE,
        views.second_nE,
        answers_GE[:, 0],
        own_index_N=torch.arange(samples, device=views.first_nE.device) + samples * rank,
        identity=identity,
        temperature=temperature,
        settings=InfoNceSettings(section.symmetric, section.decoupled, section.margin, section.negatives),
        more_second=more_second,
        more_first=more_first,
        across_ranks=OVER_RANKS,
    )


def by_language(sums: ContrastiveSums, ids: ViewIds, languages: int) -> Tensor:
    """Loss, right first guesses and count by the language of the anchor: float64 (3, languages)."""
    table = torch.zeros(3, languages, dtype=torch.float64, device=ids.valid.device)
    anchors = (ids.first_language, ids.second_language)
    for direction, language_n in zip(sums.directions, anchors, strict=False):  # one-way: first views alone
        values = torch.stack([direction.loss.double(), direction.correct.double(), ids.valid.double()])
        table.index_add_(1, language_n.clamp(min=0), values * ids.valid)
    return table


def _hard_negatives(hard_GHE: Tensor, ids: ViewIds, identity: PairIdentity) -> Candidates:
    text_GH, valid_GH = gather_rows_detached(torch.stack([ids.hard_text, ids.hard_valid.long()], 1)).unbind(1)
    none = torch.full_like(text_GH, -1).flatten()
    return Candidates(
        hard_GHE.flatten(0, 1),
        # No group: of the document they came with they are negatives by choice. Their partner is no one.
        TextIds(group=none, text=text_GH.flatten(), partner=none, valid=valid_GH.flatten().bool()),
        identity.second_language[:, None].expand_as(text_GH).flatten(),
    )


def _queued(queue: QueuedPairs, side: str, other: str) -> Candidates:
    return Candidates(
        getattr(queue, f"{side}_QE"),
        TextIds(queue.group, getattr(queue, f"{side}_text"), getattr(queue, f"{other}_text"), queue.valid),
        getattr(queue, f"{side}_language"),
    )


def _both(one: Candidates, other: Candidates) -> Candidates:
    ids = [torch.cat([getattr(one.ids, f.name), getattr(other.ids, f.name)]) for f in fields(TextIds)]
    embedding = torch.cat([one.embedding_XD, other.embedding_XD.to(one.embedding_XD.dtype)])
    return Candidates(embedding, TextIds(*ids), torch.cat([one.language, other.language]))
