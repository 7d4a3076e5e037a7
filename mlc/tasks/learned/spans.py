"""Extractive question answering: the span of a context that answers a question.

In:  questions with contexts. Out: spans of the original text.
Letters: R rows (windows), L columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mlc.tasks.examples import QuestionExample
from mlc.tasks.features_answers import QuestionRows, tokenize_questions
from mlc.tasks.features_batch import Array
from mlc.tasks.features_pieces import PieceEncoder, Progress
from mlc.tasks.features_spans import Answered, Span, read_answers
from mlc.tasks.learned.sequences import as_array
from mlc.tasks.learned.task import LossSums, TaskSettings, weighted_sum
from mlc.tasks.scores import RESAMPLES, Scores
from mlc.tasks.scores_answers import score_answers


@dataclass(frozen=True)
class QuestionAnswering:
    """First and last token of the answer, [CLS] where there is none; mean of both cross entropies."""

    settings: TaskSettings

    @property
    def auto_class(self) -> Any:
        """AutoModelForQuestionAnswering."""
        from transformers import AutoModelForQuestionAnswering

        return AutoModelForQuestionAnswering

    def configure(self, config: Any) -> None:
        """Two outputs, whose names transformers does not ask for."""
        config.num_labels = 2

    def rows(
        self, encoder: PieceEncoder, examples: Sequence[QuestionExample], progress: Progress | None = None
    ) -> QuestionRows:
        """Windows over contexts."""
        return tokenize_questions(encoder, examples, max_tokens=self.settings.max_tokens, progress=progress)

    def loss(self, outputs: Any, inputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> LossSums:
        """Of rows. Padding takes no part in the softmax, so a row's loss does not depend on its batch."""
        losses, correct = [], torch.ones_like(targets["weights"], dtype=torch.bool)
        for name in ("start", "end"):
            logits = getattr(outputs, f"{name}_logits")
            wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
            wide = wide.masked_fill(~inputs["attention_mask"].bool(), torch.finfo(wide.dtype).min)
            losses.append(F.cross_entropy(wide, targets[f"{name}s"], reduction="none"))
            correct &= wide.argmax(-1) == targets[f"{name}s"]
        loss_R = (losses[0] + losses[1]) / 2
        return LossSums(
            weighted_sum(loss_R, targets["weights"]), weighted_sum(correct.to(loss_R.dtype), targets["weights"])
        )

    def predictions(self, outputs: Any) -> Array:
        """Scores of every column as the first and as the last of the answer, (R, L, 2)."""
        return as_array(torch.stack([outputs.start_logits.float(), outputs.end_logits.float()], -1))

    def answers(
        self, rows: QuestionRows, examples: Sequence[QuestionExample], predictions: Sequence[Array]
    ) -> list[Answered]:
        """The best spans of every question."""
        return read_answers(rows, examples, [row[:, 0] for row in predictions], [row[:, 1] for row in predictions])

    def gold(self, examples: Sequence[QuestionExample]) -> list[Answered]:
        """The first answer of each, or none."""
        return [
            Answered(tuple(Span(a.text, a.start, 1.0) for a in (example.answers or ())[:1]), 0.0)
            for example in examples
        ]

    def score(
        self, examples: Sequence[QuestionExample], answers: Sequence[Answered], *, resamples: int = RESAMPLES
    ) -> Scores:
        """Exact match and F1 of the answers; "no answer" is possible where some examples have none."""
        may_be_none = any(not example.answers for example in examples)
        texts = [answer.text(0.0 if may_be_none else None) for answer in answers]
        gold = [[answer.text for answer in example.answers or ()] for example in examples]
        return score_answers(gold, texts, language=examples[0].place.language or "en", resamples=resamples)
