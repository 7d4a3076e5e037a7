"""Answers survive the way to tokens and back: windows, targets, and places in the original context."""

from __future__ import annotations

import numpy as np
import pytest
from feature_tokenizers import KINDS, fast_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import TRAINING_TEXTS

from mlc.errors import DataError, UsageError
from mlc.tasks.examples import Answer, Place, QuestionExample
from mlc.tasks.features_answers import QuestionRows, tokenize_questions
from mlc.tasks.features_pieces import PieceEncoder
from mlc.tasks.features_spans import Answered, Span, best_null_threshold, read_answers

PLACE = Place("qa.jsonl", 9)
WORDS = " ".join(TRAINING_TEXTS).split()
ODD_WORDS = ["e\u0301te\u0301", "a\u0323\u0301", "\u1112\u1161\u11ab", "com\x07mittee"]
GAPS = [" ", " ", "  ", "\n\n", "\t", " \x07 ", "\u3000", "\x00 ", " \ufeff", "\u00a0 "]


@pytest.fixture(scope="module", params=KINDS[:-1])  # a piece across words has no place inside it
def encoder(request: pytest.FixtureRequest) -> PieceEncoder:
    return PieceEncoder(fast_tokenizer(request.param))


def question(context: str, *answers: Answer, text: str = "Who met?", known: bool = True) -> QuestionExample:
    return QuestionExample("q1", text, context, answers if known else None, PLACE)


@st.composite
def marked_contexts(draw: st.DrawFn) -> QuestionExample:
    """Words with gaps of any kind, of which the tokenizer drops or joins much, and an answer of whole words."""
    word = st.one_of(st.sampled_from(WORDS), st.sampled_from(ODD_WORDS))
    words = draw(st.lists(word, min_size=1, max_size=25))
    gaps = draw(st.lists(st.sampled_from(GAPS), min_size=len(words) + 1, max_size=len(words) + 1))
    first = draw(st.integers(0, len(words) - 1))
    last = draw(st.integers(first, min(first + 2, len(words) - 1)))
    starts, context = [], gaps[0]
    for word, gap in zip(words, gaps[1:], strict=True):
        starts.append(len(context))
        context += word + gap
    start, end = starts[first], starts[last] + len(words[last])
    return question(context, Answer(context[start:end], start))


def scores_of_targets(rows: QuestionRows) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """What a model gives that knows where the answer is: more where the row has all of it than for [CLS]."""
    batch = rows.batch(range(len(rows)))
    width = batch.inputs["input_ids"].shape[1]
    starts, ends = (3.0 * np.eye(width)[batch.targets[name]] for name in ("starts", "ends"))
    for scores in (starts, ends):
        scores[:, 0] /= 3
    return list(starts), list(ends)


@settings(max_examples=30)
@given(example=marked_contexts(), max_tokens=st.integers(30, 80), overlap=st.integers(0, 20))
def test_answers_come_back_from_their_tokens(
    encoder: PieceEncoder, example: QuestionExample, max_tokens: int, overlap: int
) -> None:
    rows = tokenize_questions(encoder, [example], max_tokens=max_tokens, overlap_tokens=overlap, max_question_tokens=5)
    (answer,) = example.answers or ()
    assert rows.spans is not None
    first, last = rows.spans[0].tolist()
    assert rows.without_tokens == 0
    whole = [place for place, (_, start, end) in enumerate(rows.windows.tolist()) if start <= first and last < end]
    targets = rows.batch(range(len(rows))).targets
    assert np.flatnonzero(targets["ends"]).tolist() == whole
    if whole:
        (found,) = read_answers(rows, [example], *scores_of_targets(rows), max_answer_tokens=80)
        assert found.spans[0].text == answer.text
        assert found.spans[0].start == answer.start
        assert found.text(null_threshold=0.0) == answer.text
    else:
        assert last - first >= min(overlap, 10), "an answer shorter than the overlap is whole in some window"


def test_places_are_those_of_the_original_text(encoder: PieceEncoder) -> None:
    answers = [*ODD_WORDS, "met e\u0301te\u0301", "a  b", "a \x07 e\u0301"]
    behind = ["", " ", " it", "\x07", "\n\nit", "\ufeff it"]
    examples = [question(f" \x07 On  it {answer}{end}", Answer(answer, 10)) for answer in answers for end in behind]
    rows = tokenize_questions(encoder, examples, max_tokens=80)
    for example, found in zip(
        examples, read_answers(rows, examples, *scores_of_targets(rows), max_answer_tokens=80), strict=True
    ):
        assert (Answer(found.spans[0].text, found.spans[0].start),) == example.answers


@settings(max_examples=30)
@given(
    context=st.lists(st.sampled_from(WORDS), min_size=1, max_size=60).map(" ".join),
    max_tokens=st.integers(40, 90),
    overlap=st.integers(0, 12),
)
def test_windows_are_those_of_the_tokenizer(encoder: PieceEncoder, context: str, max_tokens: int, overlap: int) -> None:
    text = "Who met on Tuesday?"
    rows = tokenize_questions(
        encoder, [question(context, text=text, known=False)], max_tokens=max_tokens, overlap_tokens=overlap
    )
    if rows.question_kept[0] < len(encoder.encode([text])[0]) or overlap > (max_tokens - 30) // 2:
        return
    needed = encoder.tokenizer(
        [text],
        [context],
        truncation="only_second",
        max_length=max_tokens,
        stride=overlap,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    assert [rows[place].text.ids.tolist() for place in range(len(rows))] == needed["input_ids"]
    for place, offsets in enumerate(needed["offset_mapping"]):
        row = rows[place]
        own = offsets[row.context_start : row.context_start + len(row.token_starts)]
        assert row.token_starts.tolist() == [start for start, _ in own]
    assert [len(ids) for ids in needed["input_ids"]] == rows.lengths.tolist()
    assert rows.spans is None
    assert set(rows.batch([0], rows=2).targets) == {"weights"}


def test_contexts_are_tokenised_once(encoder: PieceEncoder) -> None:
    context = " ".join(TRAINING_TEXTS)
    examples = [question(context, text=f"question {number % 3}") for number in range(300)]
    rows = tokenize_questions(encoder, examples, max_tokens=60, overlap_tokens=8)
    assert (len(rows.contexts), len(rows.questions)) == (1, 3)
    assert rows.spans is not None
    assert (rows.spans == -1).all()
    assert rows.batch([0]).targets["starts"].tolist() == [0]


def test_the_best_span_is_the_best_of_all(encoder: PieceEncoder) -> None:
    """Against every pair of tokens, one by one, over three windows of drawn scores."""
    context = " ".join(TRAINING_TEXTS[:2])
    rows = tokenize_questions(encoder, [question(context)], max_tokens=50, overlap_tokens=10)
    assert len(rows) > 1
    generator = np.random.default_rng(5)
    starts, ends = ([generator.normal(size=60).astype(np.float32) for _ in range(len(rows))] for _ in range(2))
    (found,) = read_answers(rows, [question(context)], starts, ends, max_answer_tokens=4, spans_kept=3)
    pairs = {}
    for place in range(len(rows)):
        row = rows[place]
        for first in range(len(row.token_starts)):
            for last in range(first, min(first + 4, len(row.token_starts))):
                text = context[row.token_starts[first] : row.token_ends[last]].strip()
                score = float(starts[place][row.context_start + first]) + float(ends[place][row.context_start + last])
                pairs[text] = max(score, pairs.get(text, -np.inf)) if text else -np.inf
    best = sorted(pairs, key=lambda text: -pairs[text])[:3]
    assert [span.text for span in found.spans[:1]] == best[:1]
    assert found.spans[0].score == pytest.approx(pairs[best[0]])
    assert found.null_score == pytest.approx(min(float(a[0]) + float(b[0]) for a, b in zip(starts, ends, strict=True)))
    assert context[found.spans[0].start :].startswith(found.spans[0].text)


def test_no_answer_wins_by_the_threshold() -> None:
    answered = Answered((Span("yes", 3, 2.0), Span("no", 9, 1.0)), null_score=2.5)
    assert answered.null_difference == 0.5
    assert [answered.text(threshold) for threshold in (None, 0.6, 0.5, 0.4)] == ["yes", "yes", "yes", ""]
    assert Answered((), 0.0).text() == ""
    assert Answered((), 0.0).text(1.0) == ""


@given(
    rows=st.lists(
        st.tuples(st.integers(-3, 3), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 1.0])), min_size=1
    )
)
def test_the_best_threshold_is_the_best_of_all(rows: list[tuple[int, float, float]]) -> None:
    differences, with_span, without = map(list, zip(*rows, strict=True))

    def total(threshold: float) -> float:
        return sum(b if difference > threshold else a for difference, a, b in rows)

    found = best_null_threshold(differences, with_span, without)
    assert total(found) == max(map(total, [-9, *differences]))


def test_what_cannot_be_learned_is_refused_or_counted() -> None:
    encoder = PieceEncoder(fast_tokenizer("sentencepiece"))

    def tokenize(*examples: QuestionExample, **settings: int) -> QuestionRows:
        return tokenize_questions(encoder, examples, **{"max_tokens": 60, **settings})

    for answer in (Answer("met", 4), Answer("", 3), Answer("he", -2)):
        with pytest.raises(DataError, match=r"qa\.jsonl:9: the answer does not stand in the context"):
            tokenize(question("They met", answer))
    with pytest.raises(DataError, match="answers are missing"):
        tokenize(question("They met"), question("They met", known=False))
    with pytest.raises(UsageError, match="impossible windows"):
        tokenize(question("They met"), overlap_tokens=-1)
    with pytest.raises(UsageError, match="leaves no room"):
        tokenize(question("They met"), max_tokens=4)
    # Neither has an answer to learn: of one the tokenizer leaves nothing.
    rows = tokenize(question("They\x07 met", Answer("\x07", 4)), question(""))
    assert rows.without_tokens <= 1
    assert rows.batch([1]).targets["starts"].tolist() == [0]
    assert len(rows) == 2
    (_, empty) = read_answers(rows, [question("They\x07 met"), question("")], [np.zeros(20)] * 2, [np.zeros(20)] * 2)
    assert empty.spans == ()
    rows = tokenize(question("They met", text="word " * 50), max_question_tokens=10)
    assert (rows.cut, rows.question_kept.tolist()) == (1, [10])
