"""Re-ranking: how well each passage answers a query, by a model that reads both at once (a cross-encoder).

In:  queries, each with right and wrong passages. Out: a score of every passage.
Letters: R rows (a query with one passage), Q queries of a batch, C passages of the longest group.

Scored are rows of single pairs, so that a query with many passages makes no large batch. Learned from are groups: a
query with one right passage and some of its wrong ones, drawn anew every epoch (`QueryGroups`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mlc.data.randomness import generator
from mlc.errors import DataError
from mlc.tasks.examples import RankingExample
from mlc.tasks.features import TextRows, ranking_pairs, tokenize_texts
from mlc.tasks.features_batch import Array, TaskBatch, padded, row_count, row_weights
from mlc.tasks.features_pieces import Ints, PieceEncoder, Progress
from mlc.tasks.learned.sequences import as_array, name_labels
from mlc.tasks.learned.task import LossSums, TaskSettings, weighted_sum
from mlc.tasks.scores import RESAMPLES, Scores
from mlc.tasks.scores_rankings import score_rankings

RankingLoss = Literal["softmax", "binary"]


@dataclass(frozen=True)
class RankingRows:
    """A row for every passage of every query; `Reranking.rows` makes them.

    Attributes:
        pairs: the rows; those of a query follow one another, right passages first.
        starts: (queries + 1,) int64; rows starts[q] .. starts[q + 1] - 1 are those of query q.
        positives: (queries,) int64: how many of them are right.
    """

    pairs: TextRows
    starts: Ints
    positives: Ints

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def lengths(self) -> Ints:
        """Tokens of each row, (n,) int64."""
        return self.pairs.lengths

    @property
    def cut(self) -> int:
        """Rows of which something was cut off."""
        return self.pairs.cut

    def batch(self, places: Sequence[int], *, rows: int | None = None) -> TaskBatch:
        """Rows of single pairs, for scoring."""
        return self.pairs.batch(places, rows=rows)


@dataclass(frozen=True)
class QueryGroups:
    """The queries of `RankingRows`, each with one right passage and some wrong ones.

    Attributes:
        rows: of all passages; every query has a right and a wrong one.
        negatives: wrong passages of a group, at most.
        seed: of the draw.
    """

    rows: RankingRows
    negatives: int
    seed: int

    def __len__(self) -> int:
        return len(self.rows.positives)

    @property
    def lengths(self) -> Ints:
        """About how many tokens each group has, (queries,) int64: its size x the mean of the query's rows."""
        totals = np.add.reduceat(self.rows.lengths, self.rows.starts[:-1])
        counts = np.diff(self.rows.starts)
        sizes = 1 + np.minimum(counts - self.rows.positives, self.negatives)
        lengths: Ints = (totals * sizes // counts).astype(np.int64)
        return lengths

    @property
    def cut(self) -> int:
        """Queries that have a row of which something was cut off."""
        pairs = self.rows.pairs
        is_cut = (pairs.kept < pairs.pieces.lengths[pairs.texts]).any(1)
        return int(np.logical_or.reduceat(is_cut, self.rows.starts[:-1]).sum())

    def group(self, place: int, epoch: int) -> Ints:
        """Rows of a query's group, the right one first: a function of (seed, epoch, query)."""
        random = generator(self.seed, f"passages of epoch {epoch}", place)
        start, end = self.rows.starts[place : place + 2].tolist()
        right = int(self.rows.positives[place])
        chosen = random.permutation(end - start - right)[: self.negatives]
        return np.concatenate([[start + int(random.integers(right))], start + right + np.sort(chosen)]).astype(np.int64)

    def batch(self, places: Sequence[int], *, rows: int | None = None) -> TaskBatch:
        """The groups of the first epoch."""
        return self.draw(places, [0] * len(places), rows=rows)

    def draw(self, places: Sequence[int], epochs: Sequence[int], *, rows: int | None = None) -> TaskBatch:
        """The groups of queries, each in its epoch.

        Args:
            places: of the queries.
            epochs: of each of them.
            rows: Q; queries of weight 0 fill up. None = as many as `places`.

        Returns:
            targets: `weights` (Q,); `candidates` (Q, C) int64, rows of the batch, the right one first;
            `is_candidate` (Q, C) float32, 0 where a group is smaller.
        """
        groups = [self.group(place, epoch) for place, epoch in zip(places, epochs, strict=True)]
        count = row_count(len(groups), rows)
        pairs = [int(row) for group in groups for row in group]
        inputs = self.rows.pairs.batch(pairs, rows=max(1, len(pairs))).inputs
        ends = np.cumsum([len(group) for group in groups], dtype=np.int64)
        numbers = [np.arange(end - len(group), end) for group, end in zip(groups, ends, strict=True)]
        is_candidate = padded([np.ones(len(group)) for group in groups], 0, count=count, dtype=np.float32)
        is_candidate[:, 0] = 1  # a softmax over nothing gives no number
        targets = {
            "weights": row_weights(len(groups), count),
            "candidates": padded(numbers, 0, count=count),
            "is_candidate": is_candidate,
        }
        return TaskBatch(inputs, targets)


@dataclass(frozen=True)
class Reranking:
    """One number a query and passage.

    Attributes:
        training_loss: softmax = cross entropy of the right passage among its group (Gao et al. 2021, "Rethink training
            of BERT rerankers in multi-stage retrieval pipeline", localized contrastive estimation); binary = mean over
            the group of the logistic loss of each passage by itself (Nogueira & Cho 2019, "Passage re-ranking with
            BERT").
    """

    settings: TaskSettings
    training_loss: RankingLoss = "softmax"

    @property
    def auto_class(self) -> Any:
        """AutoModelForSequenceClassification."""
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification

    def configure(self, config: Any) -> None:
        """One output."""
        name_labels(config, ("relevance",))

    def rows(
        self, encoder: PieceEncoder, examples: Sequence[RankingExample], progress: Progress | None = None
    ) -> RankingRows:
        """A row for every passage of every query."""
        pairs = ranking_pairs(examples)
        rows = tokenize_texts(
            encoder, pairs.queries, pairs.passages, max_tokens=self.settings.max_tokens, progress=progress
        )
        counts = [len(example.positives) + len(example.negatives) for example in examples]
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return RankingRows(rows, starts, np.array([len(example.positives) for example in examples], np.int64))

    def loss(self, outputs: Any, inputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> LossSums:
        """Of queries; correct = the right passage scores above the wrong ones of its group."""
        del inputs
        logits_R = outputs.logits.squeeze(-1)
        scores_QC = logits_R.to(torch.promote_types(logits_R.dtype, torch.float32))[targets["candidates"]]
        is_candidate = targets["is_candidate"] > 0
        hidden_QC = scores_QC.masked_fill(~is_candidate, -torch.inf)
        if self.training_loss == "softmax":
            loss_Q = hidden_QC.logsumexp(1) - scores_QC[:, 0]
        else:
            is_right = torch.zeros_like(scores_QC)
            is_right[:, 0] = 1
            loss_QC = F.binary_cross_entropy_with_logits(scores_QC, is_right, reduction="none")
            loss_Q = (loss_QC * is_candidate).sum(1) / is_candidate.sum(1)
        correct_Q = (hidden_QC[:, :1] > hidden_QC[:, 1:]).all(1).to(loss_Q.dtype)
        return LossSums(weighted_sum(loss_Q, targets["weights"]), weighted_sum(correct_Q, targets["weights"]))

    def predictions(self, outputs: Any) -> Array:
        """(R,)."""
        return as_array(outputs.logits.squeeze(-1).float())

    def answers(
        self, rows: RankingRows, examples: Sequence[RankingExample], predictions: Sequence[Array]
    ) -> list[list[float]]:
        """Scores of each query's passages: its positives in their order, then its negatives."""
        del examples
        bounds = rows.starts.tolist()
        return [[float(score) for score in predictions[start:end]] for start, end in pairwise(bounds)]

    def gold(self, examples: Sequence[RankingExample]) -> list[list[float]]:
        """1 for right passages, 0 for wrong ones."""
        return [[1.0] * len(example.positives) + [0.0] * len(example.negatives) for example in examples]

    def score(
        self, examples: Sequence[RankingExample], answers: Sequence[Sequence[float]], *, resamples: int = RESAMPLES
    ) -> Scores:
        """MRR, MAP, nDCG and recall of the order that the scores bring."""
        return score_rankings(self.gold(examples), answers, resamples=resamples)


def check_groups(examples: Sequence[RankingExample]) -> None:
    """Refuse queries without a right or a wrong passage: there is nothing to tell apart.

    Raises:
        DataError: there are such; it names the first of them, and how many there are.
    """
    bare = [example for example in examples if not (example.positives and example.negatives)]
    if bare:
        raise DataError(
            "a query has no wrong passage" if bare[0].positives else "a query has no right passage",
            found=f"{len(bare)} of {len(examples)} queries",
            needed="one or more: re-ranking tells right passages from wrong ones",
            where=str(bare[0].place),
            hint="mlc mine MODEL --data FILE --out MINED.jsonl finds wrong passages",
        )
