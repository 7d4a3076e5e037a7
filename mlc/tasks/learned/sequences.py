"""Rows that get one answer each: classification, and regression.

In:  examples of one text or two. Out: a class or a number for each.
Letters: R rows, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mlc.tasks.examples import ClassificationExample, RegressionExample
from mlc.tasks.features import TextRows, class_labels, score_labels, tokenize_examples
from mlc.tasks.features_batch import Array
from mlc.tasks.features_pieces import PieceEncoder, Progress
from mlc.tasks.learned.task import LossSums, TaskSettings, weighted_sum
from mlc.tasks.scores import RESAMPLES, Scores
from mlc.tasks.scores_classes import score_classes, score_numbers


@dataclass(frozen=True)
class Classification:
    """One class a row; cross entropy."""

    settings: TaskSettings

    @property
    def auto_class(self) -> Any:
        """AutoModelForSequenceClassification."""
        return _auto_class()

    def configure(self, config: Any) -> None:
        """Names of the classes."""
        name_labels(config, self.settings.labels)
        config.problem_type = "single_label_classification"

    def rows(
        self, encoder: PieceEncoder, examples: Sequence[ClassificationExample], progress: Progress | None = None
    ) -> TextRows:
        """A row an example."""
        rows = tokenize_examples(encoder, examples, max_tokens=self.settings.max_tokens, progress=progress)
        if any(example.label is None for example in examples):
            return rows
        return rows.with_labels(class_labels(examples, self.settings.labels))

    def loss(self, outputs: Any, inputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> LossSums:
        """Cross entropy of rows."""
        del inputs
        return cross_entropy_sums(outputs.logits, targets["labels"], targets["weights"])

    def predictions(self, outputs: Any) -> Array:
        """Log probabilities of the classes, (R, C)."""
        return as_array(torch.log_softmax(outputs.logits.float(), -1))

    def answers(
        self, rows: TextRows, examples: Sequence[ClassificationExample], predictions: Sequence[Array]
    ) -> list[str]:
        """The most probable class of each example."""
        del rows, examples
        return [self.settings.labels[int(np.argmax(row))] for row in predictions]

    def gold(self, examples: Sequence[ClassificationExample]) -> list[str | None]:
        """Classes."""
        return [example.label for example in examples]

    def score(
        self, examples: Sequence[ClassificationExample], answers: Sequence[str], *, resamples: int = RESAMPLES
    ) -> Scores:
        """Accuracy and its like."""
        number = {name: place for place, name in enumerate(self.settings.labels)}
        gold = class_labels(examples, self.settings.labels)
        return score_classes(gold, [number[answer] for answer in answers], self.settings.labels, resamples=resamples)


@dataclass(frozen=True)
class Regression:
    """One number a row; squared error."""

    settings: TaskSettings

    @property
    def auto_class(self) -> Any:
        """AutoModelForSequenceClassification."""
        return _auto_class()

    def configure(self, config: Any) -> None:
        """One output."""
        name_labels(config, ("score",))
        config.problem_type = "regression"

    def rows(
        self, encoder: PieceEncoder, examples: Sequence[RegressionExample], progress: Progress | None = None
    ) -> TextRows:
        """A row an example."""
        rows = tokenize_examples(encoder, examples, max_tokens=self.settings.max_tokens, progress=progress)
        return rows if any(example.score is None for example in examples) else rows.with_labels(score_labels(examples))

    def loss(self, outputs: Any, inputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> LossSums:
        """Squared error of rows."""
        del inputs
        error_R = (outputs.logits.squeeze(-1).float() - targets["labels"]).square()
        return LossSums(weighted_sum(error_R, targets["weights"]), error_R.new_zeros(()))

    def predictions(self, outputs: Any) -> Array:
        """(R,)."""
        return as_array(outputs.logits.squeeze(-1).float())

    def answers(
        self, rows: TextRows, examples: Sequence[RegressionExample], predictions: Sequence[Array]
    ) -> list[float]:
        """The number of each example."""
        del rows, examples
        return [float(row) for row in predictions]

    def gold(self, examples: Sequence[RegressionExample]) -> list[float | None]:
        """Numbers."""
        return [example.score for example in examples]

    def score(
        self, examples: Sequence[RegressionExample], answers: Sequence[float], *, resamples: int = RESAMPLES
    ) -> Scores:
        """Correlations and error."""
        return score_numbers(score_labels(examples), answers, resamples=resamples)


def cross_entropy_sums(logits: Tensor, labels: Tensor, weights: Tensor) -> LossSums:
    """Cross entropy and right guesses over what counts.

    Args:
        logits: (..., C); computed with in at least fp32.
        labels, weights: (...).
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(0, -2)
    losses = F.cross_entropy(wide, labels.flatten(), reduction="none")
    correct = (wide.argmax(-1) == labels.flatten()).to(wide.dtype)
    return LossSums(weighted_sum(losses, weights.flatten()), weighted_sum(correct, weights.flatten()))


def name_labels(config: Any, labels: Sequence[str]) -> None:
    """Write the names of a head's outputs into a configuration."""
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: place for place, label in enumerate(labels)}


def as_array(values: Tensor) -> Array:
    """On the host."""
    array: Array = values.detach().cpu().numpy()
    return array


def _auto_class() -> Any:
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification
