"""A question and windows over its context: extractive question answering (SQuAD, Rajpurkar et al. 2016 and 2018).

In:  examples (mlc.tasks.examples.QuestionExample) and a `PieceEncoder`.
Out: `QuestionRows`: windows and their targets. Answers are read off a model's outputs by mlc.tasks.features_spans.

A row is the question and a part of the context. Parts overlap, so that an answer at the end of one is in the middle of
another. A row without the whole answer points to its first token ([CLS]), as does one whose question has no answer
(Devlin et al. 2019). Places in the text are characters of the context as it was given, not as the tokenizer cleans it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mlc.errors import DataError, UsageError
from mlc.tasks.examples import QuestionExample
from mlc.tasks.features import TextFeatures
from mlc.tasks.features_batch import Array, TaskBatch, filled, padded_inputs, row_count, row_weights
from mlc.tasks.features_pieces import Ints, PieceEncoder, Progress, Ragged, SmallInts, Template, distinct

MAX_QUESTION_TOKENS = 64
"""As in BERT's run_squad.py."""


@dataclass(frozen=True, slots=True)
class QuestionFeatures:
    """A window as the model takes it.

    Attributes:
        text: ids and type ids.
        example: number of its example.
        context_start: column of the first context token.
        token_starts, token_ends: (C,) first character and end of each context token in the original context.
    """

    text: TextFeatures
    example: int
    context_start: int
    token_starts: SmallInts
    token_ends: SmallInts


@dataclass(frozen=True)
class QuestionRows:
    """Windows over contexts; `tokenize_questions` makes them.

    Attributes:
        questions, contexts: ids of every different question and context.
        token_starts, token_ends: characters of the contexts' tokens, flat like `contexts.values`.
        texts: (examples, 2) int32: which question and context an example has.
        question_kept: (examples,) tokens of the question that stay.
        windows: (n, 3) int64: example, first context token and end.
        template: special tokens around both.
        pad_id: fills the end of a row.
        has_type_ids: whether the model takes token_type_ids.
        cut: examples whose question was cut.
        spans: (examples, 2) int64: first and last token of the answer in the context, -1 where there is no answer;
            None where answers are not known.
        without_tokens: answers of which the tokenizer leaves nothing: to the model they are no answer.
    """

    questions: Ragged
    contexts: Ragged
    token_starts: SmallInts
    token_ends: SmallInts
    texts: SmallInts
    question_kept: Ints
    windows: Ints
    template: Template
    pad_id: int
    has_type_ids: bool
    cut: int
    spans: Ints | None
    without_tokens: int

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def lengths(self) -> Ints:
        """Tokens of each row, (n,) int64."""
        example, first, end = self.windows.T
        lengths: Ints = self.question_kept[example] + end - first + self.template.size
        return lengths

    def __getitem__(self, row: int) -> QuestionFeatures:
        example, first, end = self.windows[row].tolist()
        question = self.questions[self.texts[example, 0]][: self.question_kept[example]]
        context = int(self.texts[example, 1])
        where = slice(self.contexts.starts[context] + first, self.contexts.starts[context] + end)
        type_ids = self.template.type_ids(len(question), end - first) if self.has_type_ids else None
        return QuestionFeatures(
            text=TextFeatures(self.template.ids(question, self.contexts.values[where]), type_ids),
            example=example,
            context_start=self.template.text_start(len(question)),
            token_starts=self.token_starts[where],
            token_ends=self.token_ends[where],
        )

    def batch(self, places: Sequence[int], *, rows: int | None = None) -> TaskBatch:
        """Rows as arrays.

        Args:
            places: of the rows.
            rows: R; rows of weight 0 fill up. None = as many as `places`.

        Returns:
            targets: `weights` (R,), and where answers are known `starts` and `ends` (R,) int64: columns of the answer's
            first and last token, 0 where the row does not have all of it.
        """
        features, count = [self[place] for place in places], row_count(len(places), rows)
        types = [row.text.type_ids for row in features if row.text.type_ids is not None] if self.has_type_ids else None
        inputs = padded_inputs([row.text.ids for row in features], types, pad_id=self.pad_id, count=count)
        targets: dict[str, Array] = {"weights": row_weights(len(features), count)}
        if self.spans is not None:
            columns = np.array([self._columns(place, row) for place, row in zip(places, features, strict=True)])
            columns = columns.reshape(-1, 2)
            targets |= {"starts": filled(columns[:, 0], count), "ends": filled(columns[:, 1], count)}
        return TaskBatch(inputs, targets)

    def _columns(self, place: int, row: QuestionFeatures) -> tuple[int, int]:
        assert self.spans is not None
        (first, last), (_, start, end) = self.spans[row.example].tolist(), self.windows[place].tolist()
        if first < start or last >= end:  # an absent answer's -1 too
            return 0, 0
        return row.context_start + first - start, row.context_start + last - start


def tokenize_questions(
    encoder: PieceEncoder,
    examples: Sequence[QuestionExample],
    *,
    max_tokens: int | None = None,
    overlap_tokens: int = 128,
    max_question_tokens: int = MAX_QUESTION_TOKENS,
    progress: Progress | None = None,
) -> QuestionRows:
    """Make windows; every different question and context is tokenised once.

    Args:
        examples: with answers in all of them, or in none. The first answer of each is learned.
        max_tokens: longest row, special tokens included; None = the tokenizer's.
        overlap_tokens: context tokens that a window shares with the one before; at most half of a window's are.
        max_question_tokens: longer questions are cut at their end; at most half of a row's room is theirs.
        progress: told how many different texts were tokenised.

    Raises:
        DataError: an answer does not stand where the example says, or some examples have answers and others none.
        UsageError: `max_tokens` leaves no room.
    """
    if overlap_tokens < 0 or max_question_tokens < 1:
        raise UsageError("impossible windows", found=f"overlap {overlap_tokens}, question {max_question_tokens}")
    room = encoder.room(encoder.pair, max_tokens)
    known = [example.answers is not None for example in examples]
    if any(known) and not all(known):
        raise DataError("answers are missing", needed="answers", where=str(examples[known.index(False)].place))
    different_questions, question_of = distinct(example.question for example in examples)
    different_contexts, context_of = distinct(example.context for example in examples)
    questions = encoder.encode(different_questions, progress)
    contexts, starts, ends = encoder.encode_with_places(different_contexts, progress)
    whole = questions.lengths[question_of]
    kept = np.minimum(whole, min(max_question_tokens, room // 2))
    sizes = contexts.lengths[context_of]
    windows = [
        (number, *window)
        for number, (size, question) in enumerate(zip(sizes.tolist(), kept.tolist(), strict=True))
        for window in _windows(size, room - question, overlap_tokens)
    ]
    rows = QuestionRows(
        questions=questions,
        contexts=contexts,
        token_starts=starts,
        token_ends=ends,
        texts=np.stack([question_of, context_of], axis=1),
        question_kept=kept,
        windows=np.array(windows, np.int64).reshape(-1, 3),
        template=encoder.pair,
        pad_id=encoder.pad_id,
        has_type_ids=encoder.has_type_ids,
        cut=int((kept < whole).sum()),
        spans=None,
        without_tokens=0,
    )
    return _with_spans(rows, examples) if all(known) else rows


def _windows(size: int, room: int, overlap: int) -> Iterator[tuple[int, int]]:
    step = max(room - overlap, room - room // 2)
    first = 0
    while first + room < size:
        yield first, first + room
        first += step
    yield first, size


def _with_spans(rows: QuestionRows, examples: Sequence[QuestionExample]) -> QuestionRows:
    spans = np.full((len(examples), 2), -1, np.int64)
    lost = 0
    for number, example in enumerate(examples):
        if not example.answers:
            continue
        answer = example.answers[0]
        end = answer.start + len(answer.text)
        found = example.context[max(answer.start, 0) : end]
        if found != answer.text or not answer.text:
            raise DataError(
                "the answer does not stand in the context where the example says",
                found=f"{found!r} at character {answer.start}",
                needed=repr(answer.text),
                where=str(example.place),
            )
        context = rows.texts[number, 1]
        where = slice(rows.contexts.starts[context], rows.contexts.starts[context + 1])
        first = int(np.searchsorted(rows.token_ends[where], answer.start, side="right"))
        last = int(np.searchsorted(rows.token_starts[where], end, side="left")) - 1
        if first <= last:
            spans[number] = first, last
        lost += first > last
    return replace(rows, spans=spans, without_tokens=lost)
