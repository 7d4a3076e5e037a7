"""What a fine-tuned model's export is compared on: sample rows of its task, and the logits of two models on them.

In:  the task's settings and tokenizer, texts, a model.
Out: inputs of rows, and named logits.
Letters: R rows, L columns, T columns of targets, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from mlc.errors import MlcError, UsageError
from mlc.export.compare import Comparison, Limit, compare_tensors
from mlc.tasks.examples import (
    ClassificationExample,
    Place,
    QuestionExample,
    RankingExample,
    RegressionExample,
    TaskExample,
    TaskKind,
    TokenExample,
    TranslationExample,
)
from mlc.tasks.features_pieces import PieceEncoder
from mlc.tasks.learned.predict import to_device
from mlc.tasks.learned.task import LearnedTask, TaskSettings
from mlc.tasks.learned.translation import PartBTranslation

Inputs = Mapping[str, Tensor]
Forward = Callable[[Inputs], Mapping[str, Tensor]]
"""Inputs of rows -> their logits by name."""


@dataclass(frozen=True)
class HeadOutputs:
    """What a model with a head gives.

    Attributes:
        names: of the tensors of logits.
        columns: which tokens of a row they have: none, (R, C); those of the input, (R, L) or (R, L, C); those that are
            written, (R, T, C).
    """

    names: tuple[str, ...]
    columns: Literal["none", "input", "target"]


def head_outputs(kind: TaskKind) -> HeadOutputs:
    """The outputs of a task's head. A kind that can be exported has its case here, in `sample_examples`, and in
    mlc.export.task_examples.

    Raises:
        UsageError: models for this kind are not exported.
    """
    match kind:
        case "classification" | "regression" | "ranking":
            return HeadOutputs(("logits",), "none")
        case "token_classification":
            return HeadOutputs(("logits",), "input")
        case "question_answering":
            return HeadOutputs(("start_logits", "end_logits"), "input")
        case "translation":
            return HeadOutputs(("logits",), "target")
    raise UsageError("models for this kind of task are not exported yet", found=kind, where="MODEL")


def sample_examples(settings: TaskSettings, texts: Sequence[str]) -> list[TaskExample]:
    """Examples without gold answers; second texts, passages and questions are the texts one place on.

    Raises:
        UsageError: as in `head_outputs`.
    """
    seconds = _one_on(texts)
    places = [Place("sample", number + 1) for number in range(len(texts))]
    match settings.kind:
        case "classification" | "regression":
            make = ClassificationExample if settings.kind == "classification" else RegressionExample
            return [
                make(first, second if settings.has_pairs else None, None, place)
                for first, second, place in zip(texts, seconds, places, strict=True)
            ]
        case "token_classification":
            return [TokenExample(tuple(text.split()), None, place) for text, place in zip(texts, places, strict=True)]
        case "question_answering":
            return [
                QuestionExample(str(place.line), question, context, None, place)
                for question, context, place in zip(seconds, texts, places, strict=True)
            ]
        case "ranking":
            return [
                RankingExample(query, (passage,), (), place)
                for query, passage, place in zip(texts, seconds, places, strict=True)
            ]
        case "translation":
            assert settings.translation is not None
            return [
                TranslationExample(source, target, settings.translation.targets[0], place)
                for source, target, place in zip(texts, seconds, places, strict=True)
            ]
    raise UsageError("models for this kind of task are not exported yet", found=settings.kind, where="MODEL")


class SampleRows:
    """Rows of sample texts; each goes through models alone, or several padded to one length.

    Args:
        task: of the model.
        encoder: its tokenizer.
        texts: at least one; none is white space alone.

    Attributes:
        rows: of the task.
    """

    def __init__(self, task: LearnedTask, encoder: PieceEncoder, texts: Sequence[str]) -> None:
        self.settings, self.texts = task.settings, list(texts)
        self._outputs = head_outputs(task.settings.kind)
        translation = task.settings.translation
        self._is_flat = translation is not None and translation.decoder == "part_b"
        self.rows: Any = task.rows(encoder, sample_examples(task.settings, texts))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def seconds(self) -> list[str]:
        """The other text of each row of two."""
        return _one_on(self.texts)

    def batch(self, places: Sequence[int]) -> dict[str, Tensor]:
        """Inputs of some rows."""
        return to_device(self.rows.batch(places).inputs, torch.device("cpu"))

    def ids(self) -> list[list[int]]:
        """Token ids of every row."""
        lengths = self.rows.lengths.tolist()
        return [self.batch([row])["input_ids"][0, :length].tolist() for row, length in enumerate(lengths)]

    @torch.inference_mode()
    def logits(self, forward: Forward, rows_per_batch: int = 1) -> dict[str, Tensor]:
        """Logits of all rows by name, in fp32, one behind another without the padding.

        Those of Part B come without their row, so rows with it go one by one.
        """
        rows_per_batch = 1 if self._is_flat else rows_per_batch
        columns = self._columns()
        found: dict[str, list[Tensor]] = {name: [] for name in self._outputs.names}
        for start in range(0, len(self), rows_per_batch):
            places = range(start, min(start + rows_per_batch, len(self)))
            outputs = forward(self.batch(places))
            for name, parts in found.items():
                values = outputs[name][None] if self._is_flat else outputs[name]
                for place, row in zip(places, values, strict=True):
                    parts.append((row if columns is None else row[: columns[place]]).float().flatten())
        return {name: torch.cat(parts) for name, parts in found.items()}

    def _columns(self) -> list[int] | None:
        """How many columns each row's logits have without the padding; None where they have none."""
        if self._outputs.columns == "target":
            return [len(row) for row in self.rows.targets(range(len(self)))]
        return self.rows.lengths.tolist() if self._outputs.columns == "input" else None

    def compare(
        self, needed: Mapping[str, Tensor], forward: Forward, opened_by: str, limit: Limit, rows_per_batch: int = 1
    ) -> Comparison:
        """Compare the logits of the original, as `logits` gives them, with those of what a program opened.

        Differences are relative to the largest logit where that is above 1; the cosine is one over all rows.

        Raises:
            MlcError: they differ by more than the limit.
        """
        found = self.logits(forward, rows_per_batch)
        pairs = [(value, found[name]) for name, value in needed.items()]
        return replace(compare_tensors("logits", opened_by, pairs, limit), texts=len(self.texts))


def compare_ids(rows: SampleRows, encoder: PieceEncoder, reopened: Any, where: str) -> Comparison:
    """Compare the ids of an exported tokenizer with those of the model's own, one text and two.

    Where a row is one text or two, its ids are compared as well: what a user of transformers gives the model is then
    what it was fine-tuned on. (Rows of words and of long contexts are windows, which no single call makes.)

    Raises:
        MlcError: they differ.
    """
    calls: list[tuple[list[str], ...]] = [(rows.texts,), (rows.texts, rows.seconds)]
    for call in calls:
        needed = encoder.tokenizer(*call, truncation=True)["input_ids"]
        if reopened(*call, truncation=True)["input_ids"] != needed:
            raise MlcError("the exported tokenizer gives other ids", where=where)
    if rows.settings.kind in ("classification", "regression", "ranking"):
        call = calls[rows.settings.has_pairs]
        if reopened(*call, truncation=True)["input_ids"] != rows.ids():
            raise MlcError("the exported tokenizer gives other ids than rows had in fine-tuning", where=where)
    return Comparison("token ids", "transformers", len(rows.texts), 0.0, None, 0.0)


def compare_written(rows: SampleRows, model: Any, opened: Any) -> Comparison:
    """Compare what `generate` writes for the sample texts.

    Args:
        model: the original, with the generation settings of its task.
        opened: the export, with its own.

    Raises:
        MlcError: a translation differs.
    """
    sources = {name: value for name, value in rows.batch(range(len(rows))).items() if name != "decoder_input_ids"}
    needed, found = (one.generate(**sources).tolist() for one in (model, opened))
    return _same_translations(needed, found)


def compare_filled(rows: SampleRows, task: PartBTranslation, model: Any, opened: Any) -> Comparison:
    """Compare what two GLMs write into the blank behind each sample text; errors as in `compare_written`."""
    inputs = rows.batch(range(len(rows)))
    needed, found = (task.write(one, rows.rows, inputs).tolist() for one in (model, opened))
    return _same_translations(needed, found)


def _same_translations(needed: list[list[int]], found: list[list[int]]) -> Comparison:
    for row, other in zip(needed, found, strict=True):
        if row != other:
            raise MlcError("the export translates otherwise", found=str(other[:10]), needed=str(row[:10]))
    return Comparison("translations", "transformers", len(needed), 0.0, None, 0.0)


def _one_on(texts: Sequence[str]) -> list[str]:
    return [*texts[1:], texts[0]]


def forward_of(model: Any) -> Forward:
    """A model of transformers as a `Forward`."""

    def run(inputs: Inputs) -> Mapping[str, Tensor]:
        outputs: Mapping[str, Tensor] = model(**inputs)
        return outputs

    return run
