"""Token classification: a label for every word.

In:  sentences as words. Out: labels of all words, however long the sentence.
Letters: R rows (windows), L columns, C labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mlc.tasks.examples import TokenExample
from mlc.tasks.features_batch import Array
from mlc.tasks.features_pieces import PieceEncoder, Progress
from mlc.tasks.features_words import WordRows, tokenize_words, word_labels
from mlc.tasks.learned.sequences import as_array, cross_entropy_sums, name_labels
from mlc.tasks.learned.task import LossSums, TaskSettings
from mlc.tasks.scores import RESAMPLES, Scores
from mlc.tasks.scores_words import score_entities, score_words


@dataclass(frozen=True)
class TokenClassification:
    """One class a word, read from its first piece; cross entropy."""

    settings: TaskSettings

    @property
    def auto_class(self) -> Any:
        """AutoModelForTokenClassification."""
        from transformers import AutoModelForTokenClassification

        return AutoModelForTokenClassification

    def configure(self, config: Any) -> None:
        """Names of the labels."""
        name_labels(config, self.settings.labels)

    def rows(
        self, encoder: PieceEncoder, examples: Sequence[TokenExample], progress: Progress | None = None
    ) -> WordRows:
        """A row an example; more of them where it is longer than the model takes."""
        words = [example.tokens for example in examples]
        rows = tokenize_words(encoder, words, max_tokens=self.settings.max_tokens, progress=progress)
        if any(example.labels is None for example in examples):
            return rows
        return rows.with_labels(word_labels(examples, self.settings.labels))

    def loss(self, outputs: Any, inputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> LossSums:
        """Cross entropy of words."""
        del inputs
        return cross_entropy_sums(outputs.logits, targets["labels"], targets["weights"])

    def predictions(self, outputs: Any) -> Array:
        """Log probabilities at every column, (R, L, C)."""
        return as_array(torch.log_softmax(outputs.logits.float(), -1))

    def answers(
        self, rows: WordRows, examples: Sequence[TokenExample], predictions: Sequence[Array]
    ) -> list[tuple[str, ...]]:
        """The most probable label of every word."""
        del examples
        labels = self.settings.labels
        return [
            tuple(labels[int(place)] for place in sentence.argmax(-1)) for sentence in rows.by_sentence(predictions)
        ]

    def gold(self, examples: Sequence[TokenExample]) -> list[tuple[str, ...]]:
        """Labels of all words."""
        return [example.labels or () for example in examples]

    def score(
        self, examples: Sequence[TokenExample], answers: Sequence[Sequence[str]], *, resamples: int = RESAMPLES
    ) -> Scores:
        """Of entities where the labels are IOB2's, else of words."""
        is_iob2 = all(label == "O" or label[:2] in ("B-", "I-") for label in self.settings.labels)
        return (score_entities if is_iob2 else score_words)(self.gold(examples), answers, resamples=resamples)
