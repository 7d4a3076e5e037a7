"""The rows of a sample: which texts the model reads, corrupted or clean, and which of them the contrast compares.

In:  a `Sample`, the recipe's objectives.
Out: `SampleRows`; rows padded into the arrays of a micro-batch.

Token objectives read one row a text, or one for both views where they are joined. The contrast reads the same rows, or
clean ones of its own beside them. Hard negatives are clean rows that nothing but the contrast reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlc.data.blanks import draw_kind
from mlc.data.corpus import Sample
from mlc.data.corruption import CorruptedText, SpecialTokens, Text, clean_row, corrupt
from mlc.data.randomness import generator
from mlc.recipe_objectives import BlankKind, ObjectivesSection

View = tuple[npt.NDArray[np.integer], npt.NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class SampleRows:
    """What one sample feeds to the model.

    Attributes:
        rows: all of them; the numbers below point into it.
        first, second: the rows the contrast reads; a single text's are the same.
        pooled: those rows hold the sample's text.
        valid: pooled, and there are two views that are not empty.
        hard: rows of the hard negatives.
        hard_texts: tokens of each of them.
    """

    rows: list[CorruptedText]
    first: int
    second: int
    pooled: bool
    valid: bool
    hard: range
    hard_texts: list[npt.NDArray[np.integer]]


class RowBuilder:
    """Makes the rows of any sample.

    Args:
        special: special tokens.
        objectives: what the rows are for.
        seed: run seed.
        word_starts: for whole-word masks, from `mlc.data.words.word_starts`.

    Attributes:
        rows_per_pair, rows_per_text: how often each view of a sample with a partner, and a text without one, is read;
            hard negatives not counted.
        hard_negatives: of a sample, at most.
    """

    def __init__(
        self,
        special: SpecialTokens,
        objectives: ObjectivesSection,
        *,
        seed: int,
        word_starts: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        self._special, self._seed, self._word_starts = special, seed, word_starts
        self._blanks = objectives.glm if objectives.glm.weight else None
        self._masks = objectives.mlm if objectives.mlm.weight else None
        self._join = objectives.join_views
        adversary = objectives.language_adversary.weight > 0
        # A joined row has two languages, so the adversary too needs rows of its own beside it.
        apart = objectives.clean_contrast or (self._join and adversary)
        self._apart = apart and (self._blanks is not None or self._masks is not None)
        self.rows_per_pair = 2 if self._apart else 1
        self.rows_per_text = 2 if self._apart and adversary else 1
        self.hard_negatives = objectives.info_nce.hard_negatives if objectives.info_nce else 0

    def make(self, sample: Sample) -> SampleRows:
        """The rows of one sample: those of the token objectives, clean ones, hard negatives."""
        views, paired = sample.views, sample.second is not None
        kind = draw_kind(self._blanks, self._seed, sample.index) if self._blanks else "token"
        joined = self._join and paired
        texts = [views] if joined else [[view] for view in views]
        rows = [self._corrupted(text, f"corruption {side}", sample.index, kind) for side, text in enumerate(texts)]
        first, last, readable = 0, len(rows) - 1, kind == "token" and not joined
        if self._apart:
            readable = (self.rows_per_pair if paired else self.rows_per_text) == 2
            if readable:
                first, last = len(rows), len(rows) + len(views) - 1
                rows += [clean_row(tokens, self._special) for tokens, _ in views]
        pooled = readable and len(sample.first) > 0
        valid = pooled and sample.second is not None and len(sample.second) > 0
        hard_texts = self._choose_hard(sample) if valid else []
        hard = range(len(rows), len(rows) + len(hard_texts))
        rows += [clean_row(tokens, self._special) for tokens in hard_texts]
        return SampleRows(rows, first, last, pooled, valid, hard, hard_texts)

    def _choose_hard(self, sample: Sample) -> list[npt.NDArray[np.integer]]:
        """Some of the sample's hard negatives, others each time it comes, in the document's order."""
        given = [tokens for tokens in sample.hard if len(tokens)]
        if len(given) <= self.hard_negatives:
            return given
        order = generator(self._seed, "hard negatives", sample.index).permutation(len(given))
        return [given[place] for place in sorted(order[: self.hard_negatives])]

    def _corrupted(self, views: Sequence[View], purpose: str, index: int, kind: BlankKind) -> CorruptedText:
        return corrupt(
            Text.of(views),
            generator(self._seed, purpose, index),
            self._special,
            blanks=self._blanks,
            masks=self._masks,
            kind=kind,
            word_starts=self._word_starts,
        )


def pad_rows(rows: Sequence[CorruptedText], pad: int) -> dict[str, Any]:
    """The fields of a `MicroBatch` that come from its rows, in their order."""
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
