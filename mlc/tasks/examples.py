"""What one line of a task's data says, once it is read and checked; gold answers are None where the data has none.

In:  nothing. Out: the types that readers make (mlc.tasks.task_files), features are made of (mlc.tasks.features) and
scores compare with (mlc.tasks.scores).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TaskKind = Literal[
    "classification", "regression", "token_classification", "question_answering", "ranking", "translation"
]


@dataclass(frozen=True, slots=True)
class Place:
    """Where an example comes from.

    Attributes:
        file, line: as people look it up; lines count from 1.
        language: code of mlc.languages; "" = the data does not say.
        record: number of the record in its file, from 0; records set aside are counted too.
    """

    file: str
    line: int
    language: str = ""
    record: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class ClassificationExample:
    """A text, or two, of a class."""

    text: str
    text_pair: str | None
    label: str | None
    place: Place


@dataclass(frozen=True, slots=True)
class RegressionExample:
    """A text, or two, with a number."""

    text: str
    text_pair: str | None
    score: float | None
    place: Place


@dataclass(frozen=True, slots=True)
class TokenExample:
    """Words, each with a label (IOB2 for named entities, Ratnaparkhi 1998)."""

    tokens: tuple[str, ...]
    labels: tuple[str, ...] | None
    place: Place


@dataclass(frozen=True, slots=True)
class Answer:
    """A span of a context, `start` in characters."""

    text: str
    start: int


@dataclass(frozen=True, slots=True)
class QuestionExample:
    """A question on a context. Every one of `answers` is right; none = the context has no answer (SQuAD 2.0)."""

    identity: str
    question: str
    context: str
    answers: tuple[Answer, ...] | None
    place: Place


@dataclass(frozen=True, slots=True)
class RankingExample:
    """A query with passages that answer it, and others that do not."""

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class TranslationExample:
    """A text and its translation. `place.language` is the source's."""

    source: str
    target: str | None
    target_language: str
    place: Place


TaskExample = (
    ClassificationExample | RegressionExample | TokenExample | QuestionExample | RankingExample | TranslationExample
)
