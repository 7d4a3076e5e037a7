"""What a kind of task is to fine-tuning, prediction and evaluation.

In:  nothing. Out: the interface `LearnedTask`, which mlc.tasks.learned.{sequences,words,spans} have, and the settings
that a fine-tuned model carries along.
Letters: R rows, L columns, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar, runtime_checkable

import pydantic
import torch
from torch import Tensor

from mlc.errors import CheckpointError
from mlc.tasks.examples import TaskKind
from mlc.tasks.features_batch import Array, TaskRows
from mlc.tasks.features_pieces import PieceEncoder, Progress
from mlc.tasks.learned.cloze_settings import ClozeSettings
from mlc.tasks.learned.translation_settings import TranslationSettings
from mlc.tasks.scores import RESAMPLES, Scores

E_contra = TypeVar("E_contra", contravariant=True)
R = TypeVar("R", bound=TaskRows)


@dataclass(frozen=True)
class TaskSettings:
    """What a fine-tuned model has to know of its task.

    Attributes:
        kind: see mlc.tasks.examples.
        labels: classes in the order of the model's outputs; none for regression and question answering.
        max_tokens: longest row, special tokens included.
        has_pairs: rows have two texts; question answering always has.
        translation: of a translation model; None for others.
        cloze: of a classification by words in a blank; None for others.
    """

    __pydantic_config__ = pydantic.ConfigDict(extra="forbid")

    kind: TaskKind
    labels: tuple[str, ...]
    max_tokens: pydantic.PositiveInt
    has_pairs: bool = False
    translation: TranslationSettings | None = None
    cloze: ClozeSettings | None = None

    def to_json(self) -> dict[str, Any]:
        """For mlc.json."""
        content: dict[str, Any] = pydantic.TypeAdapter(type(self)).dump_python(self, mode="json")
        return content

    @classmethod
    def from_json(cls, content: object, where: str) -> Self:
        """From mlc.json.

        Raises:
            CheckpointError: it does not describe a task.
        """
        try:
            return pydantic.TypeAdapter(cls).validate_json(json.dumps(content))
        except pydantic.ValidationError as error:
            raise CheckpointError('"task" is refused', found=str(error), where=where) from None


@dataclass(frozen=True)
class LossSums:
    """Over the rows (words, ...) of a batch that count.

    Attributes:
        loss: fp32 or wider, with gradient.
        correct: right predictions, where that has a meaning; else 0.
    """

    loss: Tensor
    correct: Tensor


class LearnedTask(Protocol[E_contra, R]):
    """A kind of task, for examples of one type whose rows are of another."""

    @property
    def settings(self) -> TaskSettings:
        """Of this task."""
        ...

    @property
    def auto_class(self) -> Any:
        """The Auto class of transformers whose models have the task's head."""
        ...

    def configure(self, config: Any) -> None:
        """Say in a model's configuration what its head is for."""
        ...

    def rows(self, encoder: PieceEncoder, examples: Sequence[E_contra], progress: Progress | None = None) -> R:
        """Tokenise; with targets where all examples have gold answers."""
        ...

    def loss(self, outputs: Any, inputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> LossSums:
        """Sum over what counts in a batch; `targets["weights"].sum()` is its denominator."""
        ...

    def predictions(self, outputs: Any) -> Array:
        """What is kept of a forward pass, at least fp32: (R,) or (R, n); (R, L, n) where it is of columns."""
        ...

    def answers(self, rows: R, examples: Sequence[E_contra], predictions: Sequence[Array]) -> list[Any]:
        """The answer to each example from the predictions of its rows, each without the padding of its batch."""
        ...

    def gold(self, examples: Sequence[E_contra]) -> list[Any]:
        """The right answers, which all examples have, in the form of `answers`."""
        ...

    def score(self, examples: Sequence[E_contra], answers: Sequence[Any], *, resamples: int = RESAMPLES) -> Scores:
        """Compare with the gold answers, which all examples have."""
        ...


@runtime_checkable
class WritingTask(Protocol):
    """A kind of task whose answers are written token by token instead of read off one forward pass."""

    def write(self, model: Any, rows: Any, inputs: Mapping[str, Tensor]) -> Array:
        """What a model, in evaluation mode and whole on this rank, writes for a batch of rows: int64 (R, T)."""
        ...


def weighted_sum(values: Tensor, weights: Tensor) -> Tensor:
    """Sum of what counts; what does not may be anything, not a number too."""
    return torch.where(weights > 0, values, 0.0).sum()
