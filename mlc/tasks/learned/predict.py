"""Answers of a fine-tuned model to examples.

In:  examples in any order, gold answers or none.
Out: one answer each, in the same order, as `LearnedTask.answers` makes them.

Rows of similar length share a batch. A row's prediction does not depend on its batch but for the order of
floating-point sums.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from mlc.errors import DataError
from mlc.tasks.encoder import Precision, batch_tokens_of, batches_by_length
from mlc.tasks.examples import ClassificationExample, RegressionExample, TaskExample
from mlc.tasks.features_batch import Array, TaskRows
from mlc.tasks.features_pieces import Progress
from mlc.tasks.learned.models import FinetunedModel, load_finetuned
from mlc.tasks.learned.task import LearnedTask, WritingTask
from mlc.tasks.locate import find_model


@dataclass(frozen=True)
class PredictionCounts:
    """What was read.

    Attributes:
        examples: of all.
        rows: they became; more than examples where long ones are read in windows.
        cut: rows (classification, regression), words (token classification) or questions (question answering) that
            lost their end.
    """

    examples: int
    rows: int
    cut: int


class Predictor:
    """A fine-tuned model that answers; `load` makes one.

    Args:
        model: from `load_finetuned`; in bf16 its parameters are converted in place.
        precision: bf16 = the model computes in bfloat16; what is read off its outputs is fp32 in both.
        device: torch device; None = a GPU where there is one.

    Attributes:
        counts: of the last `predict`.
    """

    def __init__(
        self, model: FinetunedModel, *, precision: Precision = "fp32", device: str | torch.device | None = None
    ) -> None:
        if precision == "bf16":
            for parameter in model.model.parameters():  # not the buffers: rotary frequencies must stay exact
                parameter.data = parameter.data.bfloat16()
        self.finetuned, self.precision = model, precision
        self.counts = PredictionCounts(0, 0, 0)
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._model = model.model.eval().to(self._device)

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        precision: Precision = "fp32",
        threads: int | None = None,
        device: str | torch.device | None = None,
    ) -> Self:
        """Open a fine-tuned model.

        Args:
            model: run folder, checkpoint or export.
            threads: torch's intra-op threads of this process; None = as they are.

        Raises:
            UsageError: it is no model, or not a fine-tuned one.
            CheckpointError: a file is missing or damaged.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        return cls(load_finetuned(find_model(model)), precision=precision, device=device)

    @property
    def task(self) -> LearnedTask:
        """What the model was fine-tuned for."""
        return self.finetuned.task

    @property
    def trained_languages(self) -> tuple[str, ...]:
        """Languages of the training examples."""
        return tuple(self.finetuned.description.get("languages", ()))

    def predict(
        self, examples: Sequence[TaskExample], *, batch_tokens: int | None = None, progress: Progress | None = None
    ) -> list[Any]:
        """Answer every example.

        Args:
            examples: of the task's kind.
            batch_tokens: longest row x rows of one batch; None = by device.
            progress: told how many rows were finished since the last call; there are as many as examples, or more.

        Raises:
            DataError: an example has one text and the model reads two, or the other way round; a gold answer is
                outside the model's set.
        """
        if not examples:
            self.counts = PredictionCounts(0, 0, 0)
            return []
        check_texts(examples, self.task)
        rows = self.task.rows(self.finetuned.encoder, examples)
        self.counts = PredictionCounts(len(examples), len(rows), rows.cut)
        largest = batch_tokens or batch_tokens_of(self._device)
        batches = batches_by_length(rows.lengths.tolist(), largest)
        by_row = dict(predict_rows(self.task, self._model, rows, batches, self._device, progress))
        return self.task.answers(rows, examples, [by_row[place] for place in range(len(rows))])


def check_texts(examples: Sequence[TaskExample], task: LearnedTask) -> None:
    """Refuse examples with another number of texts than the model was fine-tuned on.

    Raises:
        DataError: there is one; it names the first by file and line.
    """
    needed = task.settings.has_pairs
    for example in examples:
        if not isinstance(example, ClassificationExample | RegressionExample):
            return
        if (example.text_pair is not None) != needed:
            names = ("one text", "two texts")
            raise DataError(
                "the model was fine-tuned on another form of examples",
                found=names[not needed],
                needed=names[needed],
                where=str(example.place),
            )


@torch.no_grad()
def predict_rows(
    task: LearnedTask,
    model: Any,
    rows: TaskRows,
    batches: Iterable[Sequence[int]],
    device: torch.device,
    progress: Progress | None = None,
) -> list[tuple[int, Array]]:
    """(row, its prediction without the padding of its batch) of all rows of some batches.

    Args:
        model: in evaluation mode, on the device.
        batches: places of rows; an empty batch is one forward pass of padding, whose prediction is left out: ranks that
            gather parameters together take equally many passes.
    """
    found: list[tuple[int, Array]] = []
    lengths = rows.lengths
    for places in batches:
        batch = rows.batch(places, rows=max(1, len(places)))
        inputs = to_device(batch.inputs, device)
        if isinstance(task, WritingTask):
            predictions = task.write(model, rows, inputs)
        else:
            predictions = task.predictions(model(**inputs))
        of_columns = predictions.ndim == 3
        for place, prediction in zip(places, predictions, strict=False):
            found.append((place, prediction[: lengths[place]] if of_columns else prediction))
        if progress is not None:
            progress(len(places))
    return found


def to_device(arrays: Mapping[str, Array], device: torch.device) -> dict[str, Tensor]:
    """Arrays as tensors on a device."""
    return {
        name: torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)
        for name, array in arrays.items()
    }
