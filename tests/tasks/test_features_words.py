"""Every word is scored once, on its first piece, whatever the tokenizer makes of it and in sentences of any length."""

from __future__ import annotations

import numpy as np
import pytest
from feature_tokenizers import KINDS, fast_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import TRAINING_TEXTS

from mlc.errors import DataError, UsageError
from mlc.tasks.examples import Place, TokenExample
from mlc.tasks.features_pieces import PieceEncoder, Ragged
from mlc.tasks.features_words import split_into_windows, tokenize_words, word_labels

WORDS = " ".join(TRAINING_TEXTS).split()
ODD = [
    "\x07",
    "",
    " ",
    "\u3000",
    "\ufeff",
    "New York",
    "e\u0301te\u0301",
    "\u0301x",
    "\ud800",
    "😀",
    "▁",
    "ᄒ\u1161",
    "-",
]
SENTENCES = st.lists(
    st.lists(st.one_of(st.sampled_from(WORDS), st.sampled_from(ODD)), min_size=1, max_size=40), min_size=1, max_size=4
)


@pytest.fixture(scope="module", params=KINDS)
def encoder(request: pytest.FixtureRequest) -> PieceEncoder:
    return PieceEncoder(fast_tokenizer(request.param))


@settings(max_examples=25)
@given(sentences=SENTENCES, max_tokens=st.integers(5, 60))
def test_every_word_is_scored_once_and_comes_back(
    encoder: PieceEncoder, sentences: list[list[str]], max_tokens: int
) -> None:
    rows = tokenize_words(encoder, sentences, max_tokens=max_tokens)
    labels = [[100 * number + word for word in range(len(words))] for number, words in enumerate(sentences)]
    labelled = rows.with_labels(Ragged.of(labels))
    batch = labelled.batch(range(len(rows)), rows=len(rows) + 1)
    scored: list[tuple[int, int]] = []
    for number in range(len(rows)):
        row = rows[number]
        ids = batch.inputs["input_ids"][number, : rows.lengths[number]]
        assert ids.tolist() == row.text.ids.tolist()
        assert len(ids) <= max_tokens
        assert np.flatnonzero(batch.targets["weights"][number]).tolist() == row.places.tolist()
        assert (row.places < len(ids)).all()
        scored += [(row.sentence, word) for word in row.words.tolist()]
    assert scored == [(number, word) for number, words in enumerate(sentences) for word in range(len(words))]
    assert batch.targets["weights"][-1].sum() == 0
    # A model that reads the label off each place gives the sentences' labels back.
    assert [row.tolist() for row in rows.by_sentence(batch.targets["labels"][:-1])] == labels
    logits = np.eye(500)[batch.targets["labels"][:-1]]
    assert [row.argmax(-1).tolist() for row in rows.by_sentence(logits)] == labels


@pytest.mark.parametrize("text", TRAINING_TEXTS)
def test_ids_are_those_of_the_sentence_as_text(encoder: PieceEncoder, text: str) -> None:
    """Not where pieces reach across spaces: there, each word is encoded alone."""
    words = text.split()
    rows = tokenize_words(encoder, [words], max_tokens=500)
    (whole,) = (rows[number].text.ids.tolist() for number in range(len(rows)))
    plain = encoder.tokenizer(" ".join(words))["input_ids"]
    separate = [piece for word in words for piece in encoder.encode([word])[0]]
    if encoder.tokenizer is fast_tokenizer("across words"):
        assert len(whole) == len(separate) + 2
    else:
        assert whole == plain
    assert (rows.split, rows.cut, rows.unknown) == (0, 0, 0)
    for place, word in zip(rows[0].places.tolist(), words, strict=True):
        first = encoder.tokenizer.decode([whole[place]]).strip("# ")
        assert word.lower().startswith(first.lower()) or "\ufffd" in first or first == encoder.tokenizer.unk_token


def test_words_that_leave_nothing_are_the_unknown_token() -> None:
    encoder = PieceEncoder(fast_tokenizer("sentencepiece"))
    rows = tokenize_words(encoder, [["\x07", "committee", "\u3000", ""]], max_tokens=60)
    row = rows[0]
    assert rows.unknown == 3
    assert [int(row.text.ids[place]) == encoder.unknown_id for place in row.places] == [True, False, True, True]


def test_words_longer_than_the_model_takes_lose_their_end() -> None:
    encoder = PieceEncoder(fast_tokenizer("bert"))
    rows = tokenize_words(encoder, [["met", "x" * 90, "on"]], max_tokens=12)
    assert rows.cut == 0  # one unknown token
    rows = tokenize_words(encoder, [["met", "met" * 20, "on"]], max_tokens=12)
    assert (rows.cut, rows.split) == (1, 1)
    assert [rows[number].words.tolist() for number in range(len(rows))] == [[0], [1], [2]]


@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=60), room=st.integers(12, 40))
def test_windows_hold_every_word_once(sizes: list[int], room: int) -> None:
    windows = split_into_windows(np.array(sizes), room)
    assert [word for *_, first, end in windows for word in range(first, end)] == list(range(len(sizes)))
    for first, end, first_scored, end_scored in windows:
        assert first <= first_scored < end_scored <= end
        assert sum(sizes[first:end]) <= room
    assert (len(windows) == 1) == (sum(sizes) <= room)


def test_words_at_an_edge_have_context() -> None:
    """With words of one piece a window shares a quarter; each word scored has an eighth of it at both sides."""
    room = 40
    windows = split_into_windows(np.ones(200, np.int64), room)
    for number, (first, end, first_scored, end_scored) in enumerate(windows):
        assert number == 0 or first_scored - first == room // 8
        assert end == 200 or end - end_scored == room // 8


def test_labels() -> None:
    place = Place("ner.jsonl", 3)
    right = TokenExample(("a", "b"), ("O", "B-PER"), place)
    assert word_labels([right, right], ["O", "B-PER"]).values.tolist() == [0, 1, 0, 1]
    for tokens, labels, problem in (
        (("a",), ("O", "O"), "words and labels differ; found 2 labels; needed 1 labels"),
        (("a",), None, "words and labels differ; found none"),
        (("a",), ("B-LOC",), "unknown label of a word; found B-LOC; needed O, B-PER"),
    ):
        with pytest.raises(DataError, match=f"ner.jsonl:3: {problem}"):
            word_labels([TokenExample(tokens, labels, place)], ["O", "B-PER"])
    encoder = PieceEncoder(fast_tokenizer("xlmr"))
    rows = tokenize_words(encoder, [["a", "b"]], max_tokens=20)
    with pytest.raises(UsageError, match="labels do not fit"):
        rows.with_labels(Ragged.of([[1]]))
    with pytest.raises(DataError, match="no words"):
        tokenize_words(encoder, [["a"], []], max_tokens=20)
    assert len(tokenize_words(encoder, [], max_tokens=20)) == 0
