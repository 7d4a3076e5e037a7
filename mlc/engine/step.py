"""One optimizer step: the joint objective over a global batch, exactly, on any number of ranks.

In:  the DeepSpeed engine, this rank's share of the batch.
Out: the step's sums over all ranks.

J = sum over terms of weight x (sum over the global batch) / (global denominator). The denominators are counted over
all ranks before the first backward; each rank backpropagates W x its share, and the mean over ranks that DeepSpeed
takes of gradients is then the gradient of J (mlc.objectives.joint).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlc.config import ObjectivesSection
from mlc.data.batches import MicroBatch, RankBatch
from mlc.distributed.gather import gather_rows, gather_rows_detached, sum_over_ranks
from mlc.objectives.info_nce import PairIdentity, info_nce_sum
from mlc.objectives.joint import Term, joint_loss
from mlc.objectives.token_losses import token_cross_entropy_sum

TERMS = ("contrastive", "glm", "mlm")


@dataclass(frozen=True)
class Totals:
    """Counts of one global batch over all ranks, known before its first backward.

    Attributes:
        denominators: valid pairs, predicted Part B tokens, masked tokens.
        tokens: real tokens fed, Part A and Part B.
        slots: the same with padding (what a backbone that pads computes on).
        squared_lengths: sum over texts of length squared.
        signals: number of ranks that were asked to stop.
    """

    denominators: Mapping[str, float]
    tokens: int
    slots: int
    squared_lengths: int
    signals: int


@dataclass
class StepSums:
    """Sums over all ranks and micro-batches of one step; what the metrics are made of."""

    loss: dict[str, float] = field(default_factory=dict)
    correct: dict[str, float] = field(default_factory=dict)
    masked_negatives: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)


def count_totals(batch: RankBatch, *, stop: bool, device: torch.device) -> Totals:
    """Count a global batch with one collective, which also carries each rank's wish to stop."""
    parts = batch.micro_batches
    local = [
        float(sum(part.valid.sum() for part in parts)),
        float(sum(part.glm_weights.sum() for part in parts)),
        float(sum(part.mlm_weights.sum() for part in parts)),
        float(sum(part.tokens for part in parts)),
        float(sum(part.input_ids.size for part in parts)),
        float(sum((part.lengths**2).sum() for part in parts)),
        float(stop),
    ]
    counts = sum_over_ranks(torch.tensor(local, dtype=torch.float64, device=device)).tolist()
    return Totals(dict(zip(TERMS, counts[:3], strict=True)), *map(int, counts[3:]))


def training_step(
    engine: Any,
    batch: RankBatch,
    totals: Totals,
    objectives: ObjectivesSection,
    *,
    world_size: int,
    device: torch.device,
) -> StepSums:
    """Forward, backward and update for one global batch.

    Args:
        engine: DeepSpeed engine whose accumulation steps equal the number of micro-batches.
        batch: this rank's share.
        totals: from `count_totals` for the same batch.
        objectives: weights and settings.
        world_size: W.
        device: where the model is.
    """
    seconds = dict.fromkeys(("forward", "backward", "optimizer"), 0.0)
    local = torch.zeros(2 * len(TERMS) + 1, dtype=torch.float64, device=device)
    for micro_batch in batch.micro_batches:
        started = time.perf_counter()
        terms, counted = local_terms(engine, micro_batch, totals, objectives, device)
        loss = joint_loss(terms, world_size)
        local += counted
        forwarded = time.perf_counter()
        # Exactly one backward a forward: under ZeRO-3 a second one would silently lose gradients.
        engine.backward(loss, scale_wrt_gas=False)
        backwarded = time.perf_counter()
        engine.step()
        seconds["forward"] += forwarded - started
        seconds["backward"] += backwarded - forwarded
        seconds["optimizer"] += time.perf_counter() - backwarded
    summed = sum_over_ranks(local).tolist()
    return StepSums(
        loss=dict(zip(TERMS, summed[:3], strict=True)),
        correct=dict(zip(TERMS, summed[3:6], strict=True)),
        masked_negatives=summed[6],
        seconds=seconds,
    )


def local_terms(
    model: Any, batch: MicroBatch, totals: Totals, objectives: ObjectivesSection, device: torch.device
) -> tuple[dict[str, Term], Tensor]:
    """Forward one micro-batch: its terms of J, and their detached sums.

    Returns:
        The terms, and float64 [7]: the terms' sums, their correct predictions, and left-out false negatives.
    """
    tensors = to_tensors(batch, device)
    outputs = model(
        input_ids=tensors["input_ids"],
        lengths=tensors["lengths"],
        part_a_lengths=tensors["part_a_lengths"],
        positions=tensors["positions"],
        block_positions=tensors["block_positions"],
        glm_index=tensors["glm_index"],
        mlm_index=tensors["mlm_index"],
    )
    terms: dict[str, Term] = {}
    counted = torch.zeros(2 * len(TERMS) + 1, dtype=torch.float64, device=device)
    for number, name in enumerate(TERMS):
        section = getattr(objectives, name)
        if not section.weight:
            continue
        if name == "contrastive":
            sums = contrastive_sums(outputs["embeddings"], tensors, objectives)
            counted[6] = sums.masked
        else:
            sums = token_cross_entropy_sum(
                outputs[f"{name}_logits"], tensors[f"{name}_targets"], tensors[f"{name}_weights"]
            )
        terms[name] = Term(sums.loss, totals.denominators[name], section.weight)
        counted[number] = sums.loss.detach()
        counted[len(TERMS) + number] = sums.correct
    return terms, counted


def contrastive_sums(embeddings_RE: Tensor, tensors: Mapping[str, Tensor], objectives: ObjectivesSection) -> Any:
    """InfoNCE of this rank's pairs against the pairs of every rank."""
    first_NE = embeddings_RE[tensors["first_row"]]
    second_NE = embeddings_RE[tensors["second_row"]]
    # One gather for both views: half the collectives, forward and backward.
    both_GE = gather_rows(torch.cat([first_NE, second_NE], dim=1))
    all_first_GE, all_second_GE = both_GE.split(first_NE.shape[1], dim=1)
    identity_G4 = gather_rows_detached(
        torch.stack(
            [tensors["group"], tensors["first_text"], tensors["second_text"], tensors["valid"].to(torch.int64)], dim=1
        )
    )
    pairs_per_rank = len(first_NE)
    own_index_N = torch.arange(pairs_per_rank, device=first_NE.device) + pairs_per_rank * _rank()
    group, first_text, second_text, valid = identity_G4.unbind(1)
    return info_nce_sum(
        first_NE,
        second_NE,
        all_first_GE,
        all_second_GE,
        own_index_N=own_index_N,
        identity=PairIdentity(group, first_text, second_text, valid.bool()),
        temperature=objectives.contrastive.temperature,
        symmetric=objectives.contrastive.symmetric,
    )


def to_tensors(batch: MicroBatch, device: torch.device) -> dict[str, Tensor]:
    """What the model and the losses need of a batch, as tensors on `device`, by field name."""
    arrays = {name: getattr(batch, name) for name in batch.__slots__ if name != "samples"}
    return {
        name: torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)
        for name, array in arrays.items()
    }


def _rank() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
