"""Global batches: who holds which sample, and the arrays a rank feeds to its model.

In:  a `Corpus`, the step, the rank.
Out: a `RankBatch` of K `MicroBatch`es, numpy only, a pure function of (recipe, step, rank, world size).

Letters: N = samples of the global batch, n = samples of this micro-batch, R = rows (texts), L = longest row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlc.config import ObjectivesSection
from mlc.data.corpus import Corpus, Sample, text_hash
from mlc.data.corruption import CorruptedText, SpecialTokens, corrupt
from mlc.data.randomness import generator
from mlc.errors import RecipeError

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One forward of one rank. All arrays int64 but for the weights (float32) and `valid` (bool).

    Attributes:
        input_ids, positions, block_positions: (R, L), Part A then Part B then padding.
        lengths, part_a_lengths: (R,).
        glm_index, mlm_index: flat places r * L + c whose states predict `glm_targets`, `mlm_targets`; never empty:
            without targets they hold one dummy of weight 0, so that every rank runs the same modules.
        first_row, second_row: (n,) rows of the two views; a single text points at itself twice.
        valid: (n,) the sample is real and has two views that are not empty.
        group, first_text, second_text: (n,) identities, see `mlc.objectives.info_nce.PairIdentity`.
        samples: (n,) indices of the samples; -1 = added for evenness.
    """

    input_ids: Int64Array
    lengths: Int64Array
    part_a_lengths: Int64Array
    positions: Int64Array
    block_positions: Int64Array
    glm_index: Int64Array
    glm_targets: Int64Array
    glm_weights: npt.NDArray[np.float32]
    mlm_index: Int64Array
    mlm_targets: Int64Array
    mlm_weights: npt.NDArray[np.float32]
    first_row: Int64Array
    second_row: Int64Array
    valid: npt.NDArray[np.bool_]
    group: Int64Array
    first_text: Int64Array
    second_text: Int64Array
    samples: Int64Array

    @property
    def tokens(self) -> int:
        """Real tokens, Part A and Part B."""
        return int(self.lengths.sum())


@dataclass(frozen=True)
class RankBatch:
    """What one rank does for one optimizer step."""

    step: int
    micro_batches: list[MicroBatch]


class BatchBuilder:
    """Builds any step's batch for one rank.

    Args:
        corpus: where samples come from.
        special: special tokens.
        objectives: which corruptions to apply.
        seed: run seed.
        samples_per_step: global batch N.
        micro_batches: K.
        rank, world_size: who asks.

    Raises:
        RecipeError: N < world_size x K.
    """

    def __init__(
        self,
        corpus: Corpus,
        special: SpecialTokens,
        objectives: ObjectivesSection,
        *,
        seed: int,
        samples_per_step: int,
        micro_batches: int,
        rank: int,
        world_size: int,
    ) -> None:
        check_batch_size(samples_per_step, micro_batches, world_size)
        self._corpus, self._special, self._seed = corpus, special, seed
        self._blanks = objectives.glm if objectives.glm.weight else None
        self._masks = objectives.mlm if objectives.mlm.weight else None
        self._rank, self._world_size, self._micro_batches = rank, world_size, micro_batches

    def build(self, step: int) -> RankBatch:
        """The rank's part of global batch `step`, counted from 0."""
        index = self._corpus.step_indices(step)
        parts = assign(self._corpus.planned_tokens(index), self._world_size, self._rank, self._micro_batches)
        # Every rank pads to the same number of samples: the gather of embeddings needs equal shapes.
        size = -(-len(index) // (self._world_size * self._micro_batches))
        return RankBatch(step, [self._collate(self._corpus.samples(index[part]), size) for part in parts])

    def _collate(self, samples: Sequence[Sample], size: int) -> MicroBatch:
        texts: list[CorruptedText] = []
        first_row, second_row = np.zeros((2, size), dtype=np.int64)
        identity = np.full((3, size), -1, dtype=np.int64)
        valid = np.zeros(size, dtype=bool)
        numbers = np.full(size, -1, dtype=np.int64)
        for place, sample in enumerate(samples):
            views = [sample.first] if sample.second is None else [sample.first, sample.second]
            first_row[place], second_row[place] = len(texts), len(texts) + len(views) - 1
            for side, view in enumerate(views):
                random = generator(self._seed, f"corruption {side}", sample.index)
                texts.append(corrupt(view, random, self._special, blanks=self._blanks, masks=self._masks))
            identity[:, place] = sample.group, text_hash(views[0]), text_hash(views[-1])
            # A side without tokens, as foreign shards may have, has nothing to contrast.
            valid[place] = sample.second is not None and min(len(sample.first), len(sample.second)) > 0
            numbers[place] = sample.index
        rank_of_text = np.empty(len(texts), dtype=np.int64)
        order = np.argsort([-len(text.tokens) for text in texts], kind="stable")
        rank_of_text[order] = np.arange(len(texts))
        rows = [texts[place] for place in order]
        return MicroBatch(
            **_pad(rows, self._special.pad),
            first_row=rank_of_text[first_row],
            second_row=rank_of_text[second_row],
            valid=valid,
            group=identity[0],
            first_text=identity[1],
            second_text=identity[2],
            samples=numbers,
        )


def check_batch_size(samples_per_step: int, micro_batches: int, world_size: int) -> None:
    """Refuse a global batch that leaves a rank, or one of its micro-batches, without a sample."""
    if samples_per_step < world_size * micro_batches:
        raise RecipeError(
            "the global batch is smaller than ranks x micro-batches: some rank would have nothing to do",
            found=f"data.samples_per_step = {samples_per_step} on {world_size} ranks x {micro_batches} micro-batches",
            needed=f"data.samples_per_step >= {world_size * micro_batches}",
            hint=f"--set data.samples_per_step={world_size * micro_batches}, or start fewer ranks",
        )


def assign(planned_tokens: Int64Array, world_size: int, rank: int, micro_batches: int) -> list[Int64Array]:
    """Places in the global batch that each micro-batch of `rank` holds.

    Samples are sorted by length and dealt out in turns that go back and forth, so that ranks get equally many samples
    (to within one) and nearly equally many tokens; a micro-batch then holds neighbours in length.
    """
    order = np.argsort(-planned_tokens, kind="stable")
    turn, seat = np.divmod(np.arange(len(order)), world_size)
    seat = np.where(turn % 2 == 1, world_size - 1 - seat, seat)
    return [part.astype(np.int64) for part in np.array_split(order[seat == rank], micro_batches)]


def _pad(rows: Sequence[CorruptedText], pad: int) -> dict[str, Any]:
    """The fields of a `MicroBatch` that come from its rows."""
    lengths = np.array([len(row.tokens) for row in rows], dtype=np.int64)
    shape = (len(rows), int(lengths.max()))
    filled = np.arange(shape[1]) < lengths[:, None]
    arrays: dict[str, Any] = {
        "lengths": lengths,
        "part_a_lengths": np.array([row.part_a_length for row in rows], dtype=np.int64),
    }
    for name, source, fill in (
        ("input_ids", "tokens", pad),
        ("positions", "positions", 0),
        ("block_positions", "block_positions", 0),
    ):
        padded = np.full(shape, fill, dtype=np.int64)
        padded[filled] = np.concatenate([getattr(row, source) for row in rows])
        arrays[name] = padded
    for term in ("glm", "mlm"):
        index = np.concatenate([number * shape[1] + getattr(row, f"{term}_index") for number, row in enumerate(rows)])
        targets = np.concatenate([getattr(row, f"{term}_targets") for row in rows])
        empty = not len(index)
        arrays[f"{term}_index"] = np.zeros(1, dtype=np.int64) if empty else index
        arrays[f"{term}_targets"] = np.zeros(1, dtype=np.int64) if empty else targets
        arrays[f"{term}_weights"] = (np.zeros if empty else np.ones)(max(1, len(index)), dtype=np.float32)
    return arrays
