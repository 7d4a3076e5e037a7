"""Answers read off a model's scores for starts and ends.

In:  `QuestionRows` (mlc.tasks.features_answers), the contexts, and scores (logits) of every column of every row.
Out: an `Answered` for each question: the best span over all its windows, and how much better "no answer" is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlc.data.text import REMOVED_RANGES, SPACE_RANGES
from mlc.errors import UsageError
from mlc.tasks.examples import QuestionExample
from mlc.tasks.features_answers import QuestionFeatures, QuestionRows
from mlc.tasks.features_batch import Array

MAX_ANSWER_TOKENS = 30
"""As in BERT's run_squad.py."""
_DROPPED = "".join(chr(code) for first, last in SPACE_RANGES + REMOVED_RANGES for code in range(first, last + 1))


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a context.

    Attributes:
        text: of the original context, without spaces and control characters at its ends.
        start: its first character.
        score: of its first and last token, added.
    """

    text: str
    start: int
    score: float


@dataclass(frozen=True, slots=True)
class Answered:
    """What a model answers to one question.

    Attributes:
        spans: best first, each another text; empty where the context has no tokens.
        null_score: of "no answer": the lowest over the question's windows, since a window without the answer says so
            rightly.
    """

    spans: tuple[Span, ...]
    null_score: float

    @property
    def null_difference(self) -> float:
        """How much better "no answer" is than the best span."""
        return self.null_score - self.spans[0].score if self.spans else np.inf

    def text(self, null_threshold: float | None = None) -> str:
        """The answer; "" where "no answer" is better than the best span by more than the threshold.

        Args:
            null_threshold: None = there always is an answer (SQuAD 1.1, XQuAD, MLQA); a number for SQuAD 2.0.
        """
        if not self.spans or (null_threshold is not None and self.null_difference > null_threshold):
            return ""
        return self.spans[0].text


def read_answers(
    rows: QuestionRows,
    examples: Sequence[QuestionExample],
    start_scores: Sequence[Array],
    end_scores: Sequence[Array],
    *,
    max_answer_tokens: int = MAX_ANSWER_TOKENS,
    spans_kept: int = 20,
) -> list[Answered]:
    """The best spans of every question, over all its windows.

    Every pair of a first and a last token is looked at, not only those of the best starts and ends.

    Args:
        rows, examples: as they were tokenised.
        start_scores, end_scores: of each row (L,), one for every column of the row, padding or not.
        max_answer_tokens: longest answer.
        spans_kept: how many spans of a question are kept.
    """
    if max_answer_tokens < 1 or spans_kept < 1:
        raise UsageError("no span is allowed", found=f"{max_answer_tokens} tokens, {spans_kept} spans")
    assert len(start_scores) == len(end_scores) == len(rows)
    found: list[dict[str, Span]] = [{} for _ in examples]
    null_scores = np.full(len(examples), np.inf)
    for place, (starts, ends) in enumerate(zip(start_scores, end_scores, strict=True)):
        row = rows[place]
        context, spans = examples[row.example].context, found[row.example]
        null_scores[row.example] = min(null_scores[row.example], float(starts[0]) + float(ends[0]))
        for first, last, score in _best_pairs(row, starts, ends, max_answer_tokens, spans_kept):
            text, start = _trimmed(context, int(row.token_starts[first]), int(row.token_ends[last]))
            if text and (text not in spans or spans[text].score < score):
                spans[text] = Span(text, start, score)
    ranked = (sorted(spans.values(), key=lambda span: (-span.score, span.start))[:spans_kept] for spans in found)
    return [Answered(tuple(spans), float(null)) for spans, null in zip(ranked, null_scores, strict=True)]


def best_null_threshold(
    null_differences: Sequence[float], with_span: Sequence[float], without: Sequence[float]
) -> float:
    """The threshold of `Answered.text` that scores best on these questions: choose it on others than the test's.

    As SQuAD 2.0's evaluation script finds it (Rajpurkar et al. 2018), with any score of a question in place of F1.

    Args:
        null_differences: of each question.
        with_span: what its best span scores.
        without: what "" scores.
    """
    order = np.argsort(null_differences, kind="stable")
    differences = np.asarray(null_differences, float)[order]
    gain = (np.asarray(with_span, float) - np.asarray(without, float))[order]
    totals = np.concatenate([[0.0], np.cumsum(gain)])
    # Of equal differences all or none are answered.
    totals[1:-1][differences[1:] == differences[:-1]] = -np.inf
    answered = int(np.argmax(totals))
    if answered == 0:
        return float(differences[0]) - 1.0 if len(differences) else 0.0
    return float(differences[answered - 1])


def _best_pairs(
    row: QuestionFeatures, starts: Array, ends: Array, max_answer_tokens: int, kept: int
) -> list[tuple[int, int, float]]:
    """First and last context token and score of the best spans of a window, best first."""
    size = len(row.token_starts)
    if not size:
        return []
    columns = slice(row.context_start, row.context_start + size)
    first_scores, last_scores = starts[columns].astype(np.float64), ends[columns].astype(np.float64)
    width = min(max_answer_tokens, size)
    beyond = np.concatenate([last_scores, np.full(width - 1, -np.inf)])
    scores = first_scores[:, None] + np.lib.stride_tricks.sliding_window_view(beyond, width)
    flat = scores.ravel()
    best = np.argpartition(-flat, min(kept, flat.size) - 1)[:kept]
    best = best[np.argsort(-flat[best], kind="stable")]
    return [
        (int(place) // width, int(place) // width + int(place) % width, float(flat[place]))
        for place in best
        if flat[place] > -np.inf
    ]


def _trimmed(context: str, start: int, end: int) -> tuple[str, int]:
    """A part of the context without what the tokenizer drops at its ends, and where it begins."""
    part = context[start:end]
    shorter = part.lstrip(_DROPPED)
    return shorter.rstrip(_DROPPED), start + len(part) - len(shorter)
