"""Global batches: who holds which sample, and the arrays a rank feeds to its model.

In:  a `Corpus`, the step, the rank.
Out: a `RankBatch` of K `MicroBatch`es, numpy only, a pure function of (recipe, step, rank, world size).

Letters: N = samples of the global batch, n = samples of this micro-batch, R = rows (texts), L = longest row, H = hard
negatives of a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mlc.data.corpus import Corpus, Sample, text_hash
from mlc.data.corruption import SpecialTokens
from mlc.data.rows import RowBuilder, pad_rows
from mlc.data.words import word_starts
from mlc.errors import RecipeError
from mlc.recipe import DataSection, TrainRecipe
from mlc.recipe_objectives import ObjectivesSection

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One forward of one rank. All arrays int64 but for the weights (float32) and the flags (bool).

    Attributes:
        input_ids, positions, block_positions: (R, L), Part A then Part B then padding.
        lengths, part_a_lengths: (R,).
        glm_index, mlm_index: flat places r * L + c whose states predict `glm_targets`, `mlm_targets`; never empty:
            without targets they hold one dummy of weight 0, so that every rank runs the same modules.
        first_row, second_row: (n,) rows of the two views that the contrast reads: clean rows where it has some of its
            own, else the corrupted ones; a single text points at the same row twice.
        pooled: (n,) these rows hold the sample's text: it is real and not empty, and neither sentence nor document
            blanks were cut out of it.
        valid: (n,) pooled, and there are two views that are not empty: the sample takes part in the contrast.
        group, first_text, second_text: (n,) identities, see `mlc.objectives.info_nce.PairIdentity`.
        first_language, second_language: (n,) places in `Corpus.languages`; a single text's are the same, -1 = added
            for evenness.
        hard_row, hard_valid, hard_text: (n, H) rows of the hard negatives, whether there is one, hash of its text
            (-1 = there is none). Samples that are not valid have none.
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
    pooled: npt.NDArray[np.bool_]
    valid: npt.NDArray[np.bool_]
    group: Int64Array
    first_text: Int64Array
    second_text: Int64Array
    first_language: Int64Array
    second_language: Int64Array
    hard_row: Int64Array
    hard_valid: npt.NDArray[np.bool_]
    hard_text: Int64Array
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


class SampleSource(Protocol):
    """Where samples come from: a `Corpus`, or another one."""

    @property
    def languages(self) -> Sequence[str]:
        """Codes of all samples' languages."""
        ...

    def step_indices(self, step: int) -> Int64Array:
        """Indices of global batch `step`, counted from 0, (N,)."""
        ...

    def planned_tokens(
        self, index: Int64Array, *, rows_per_pair: int, rows_per_text: int, hard_negatives: int
    ) -> Int64Array:
        """About how many tokens the rows of each sample have, (n,); see `Corpus.planned_tokens`."""
        ...

    def samples(self, index: Int64Array) -> list[Sample]:
        """The samples at `index`, (n,)."""
        ...


class BatchBuilder:
    """Builds any step's batch for one rank.

    Args:
        corpus: where samples come from.
        special: special tokens.
        objectives: which rows they need.
        seed: run seed.
        samples_per_step: global batch N.
        micro_batches: K.
        rank, world_size: who asks.
        word_starts: for whole-word masks, from `mlc.data.words.word_starts`.

    Raises:
        RecipeError: N < world_size x K.
    """

    def __init__(
        self,
        corpus: SampleSource,
        special: SpecialTokens,
        objectives: ObjectivesSection,
        *,
        seed: int,
        samples_per_step: int,
        micro_batches: int,
        rank: int,
        world_size: int,
        word_starts: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        check_batch_size(samples_per_step, micro_batches, world_size)
        self._corpus, self._pad = corpus, special.pad
        self._rows = RowBuilder(special, objectives, seed=seed, word_starts=word_starts)
        self._language_place = {code: place for place, code in enumerate(corpus.languages)}
        self._rank, self._world_size, self._micro_batches = rank, world_size, micro_batches

    @classmethod
    def of(cls, recipe: TrainRecipe, corpus: Corpus, *, rank: int, world_size: int) -> BatchBuilder:
        """The builder of a recipe's run, on one of its ranks.

        Raises:
            RecipeError: see the class.
            ShardError: whole-word masks, and the shards' tokenizer is no SentencePiece model.
        """
        tokenizer, mlm = corpus.manifest.tokenizer, recipe.objectives.mlm
        return cls(
            corpus,
            SpecialTokens.from_ids(tokenizer.special_ids, tokenizer.vocab_size),
            recipe.objectives,
            seed=recipe.run.seed,
            samples_per_step=recipe.data.samples_per_step,
            micro_batches=recipe.data.micro_batches,
            rank=rank,
            world_size=world_size,
            word_starts=word_starts(corpus.manifest) if mlm.weight and mlm.whole_word else None,
        )

    def build(self, step: int) -> RankBatch:
        """The rank's part of global batch `step`, counted from 0."""
        index = self._corpus.step_indices(step)
        planned = self._corpus.planned_tokens(
            index,
            rows_per_pair=self._rows.rows_per_pair,
            rows_per_text=self._rows.rows_per_text,
            hard_negatives=self._rows.hard_negatives,
        )
        parts = assign(planned, self._world_size, self._rank, self._micro_batches)
        # Every rank pads to the same number of samples: the gather of embeddings needs equal shapes.
        size = -(-len(index) // (self._world_size * self._micro_batches))
        return RankBatch(step, [self._collate(self._corpus.samples(index[part]), size) for part in parts])

    def _collate(self, samples: Sequence[Sample], size: int) -> MicroBatch:
        made = [self._rows.make(sample) for sample in samples]
        rows = [row for sample_rows in made for row in sample_rows.rows]
        order = np.argsort([-len(row.tokens) for row in rows], kind="stable")
        place_of_row = np.empty(len(rows), dtype=np.int64)
        place_of_row[order] = np.arange(len(rows))
        first_row, second_row = np.zeros((2, size), dtype=np.int64)
        hard_row = np.zeros((size, self._rows.hard_negatives), dtype=np.int64)
        hard_text = np.full_like(hard_row, -1)
        identity = np.full((6, size), -1, dtype=np.int64)
        pooled, valid = np.zeros((2, size), dtype=bool)
        before = 0
        for place, (sample, sample_rows) in enumerate(zip(samples, made, strict=True)):
            first_row[place], second_row[place] = before + sample_rows.first, before + sample_rows.second
            pooled[place], valid[place] = sample_rows.pooled, sample_rows.valid
            identity[:, place] = self._identity(sample)
            count = len(sample_rows.hard)
            hard_row[place, :count] = before + np.array(sample_rows.hard, dtype=np.int64)
            hard_text[place, :count] = [text_hash(text) for text in sample_rows.hard_texts]
            before += len(sample_rows.rows)
        group, first_text, second_text, first_language, second_language, numbers = identity
        return MicroBatch(
            **pad_rows([rows[place] for place in order], self._pad),
            first_row=place_of_row[first_row],
            second_row=place_of_row[second_row],
            pooled=pooled,
            valid=valid,
            group=group,
            first_text=first_text,
            second_text=second_text,
            first_language=first_language,
            second_language=second_language,
            hard_row=place_of_row[hard_row],
            hard_valid=hard_text >= 0,
            hard_text=hard_text,
            samples=numbers,
        )

    def _identity(self, sample: Sample) -> tuple[int, int, int, int, int, int]:
        """Group, hashes of both clean texts, places of both languages, index."""
        texts = [text_hash(tokens) for tokens, _ in sample.views]
        languages = [self._language_place[code] for code in (sample.first_language, sample.second_language)]
        return sample.group, texts[0], texts[-1], languages[0], languages[1], sample.index


def check_batch_size(samples_per_step: int, micro_batches: int, world_size: int) -> None:
    """Refuse a global batch that leaves a rank, or one of its micro-batches, without a sample."""
    if samples_per_step < world_size * micro_batches:
        raise RecipeError(
            "the global batch is smaller than ranks x micro-batches: some rank would have nothing to do",
            found=f"data.samples_per_step = {samples_per_step} on {world_size} ranks x {micro_batches} micro-batches",
            needed=f"data.samples_per_step >= {world_size * micro_batches}",
            hint=f"--set data.samples_per_step={world_size * micro_batches}, or start fewer ranks",
        )


def longest_row(data: DataSection, objectives: ObjectivesSection) -> int:
    """Longest Part A in tokens, and so the positions that a model must have.

    Part B needs none of its own: each of its tokens carries its blank's place.
    """
    joined = objectives.join_views and any(source.view != "text" for source in data.sources)
    return 2 * data.max_tokens - 1 if joined else data.max_tokens


def assign(planned_tokens: Int64Array, world_size: int, rank: int, micro_batches: int) -> list[Int64Array]:
    """Places in the global batch that each micro-batch of `rank` holds.

    Samples are sorted by length and dealt out in turns that go back and forth, so that ranks get equally many samples
    (to within one) and nearly equally many tokens; a micro-batch then holds neighbours in length.
    """
    order = np.argsort(-planned_tokens, kind="stable")
    turn, seat = np.divmod(np.arange(len(order)), world_size)
    seat = np.where(turn % 2 == 1, world_size - 1 - seat, seat)
    return [part.astype(np.int64) for part in np.array_split(order[seat == rank], micro_batches)]
