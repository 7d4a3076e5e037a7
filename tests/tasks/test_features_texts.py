"""Rows of texts are what the tokenizer itself makes of them; batches hold them, padded and weighted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from feature_tokenizers import KINDS, fast_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import TRAINING_TEXTS

from mlc.errors import DataError, UsageError
from mlc.tasks.examples import ClassificationExample, Place, RankingExample, RegressionExample, TranslationExample
from mlc.tasks.features import (
    TextRows,
    class_labels,
    ranking_pairs,
    score_labels,
    tokenize_examples,
    tokenize_texts,
)
from mlc.tasks.features_pieces import PieceEncoder, encodable, kept_of_pair
from mlc.tasks.features_translation import tokenize_translations

PLACE = Place("x.jsonl", 7)
TEXT = st.one_of(
    st.sampled_from(TRAINING_TEXTS),
    st.text(max_size=30).map(encodable),
    st.lists(st.sampled_from(" ".join(TRAINING_TEXTS).split()), max_size=12).map(" ".join),
)


@pytest.fixture(scope="module", params=KINDS)
def encoder(request: pytest.FixtureRequest) -> PieceEncoder:
    return PieceEncoder(fast_tokenizer(request.param))


def reference(encoder: PieceEncoder, *texts: str, **settings: Any) -> dict[str, list[int]]:
    """Of the tokenizer itself. It takes an empty second text for none, but not in a list."""
    batch = encoder.tokenizer(*([text] for text in texts), verbose=False, **settings)
    return {name: rows[0] for name, rows in batch.items()}


@settings(max_examples=25)
@given(texts=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5), max_tokens=st.integers(6, 40))
def test_rows_are_those_of_the_tokenizer(encoder: PieceEncoder, texts: list[tuple[str, str]], max_tokens: int) -> None:
    firsts, seconds = map(list, zip(*texts, strict=True))
    for pairs, strategy in ((None, True), (seconds, "longest_first")):
        rows = tokenize_texts(encoder, firsts, pairs, max_tokens=max_tokens)
        cut = 0
        for number, row in enumerate(texts):
            chosen = row if pairs else row[:1]
            needed = reference(encoder, *chosen, truncation=strategy, max_length=max_tokens)
            assert rows[number].ids.tolist() == needed["input_ids"]
            if "token_type_ids" in needed:
                assert rows[number].type_ids.tolist() == needed["token_type_ids"]
            else:
                assert rows[number].type_ids is None
            assert rows.lengths[number] == len(needed["input_ids"])
            cut += len(reference(encoder, *chosen, truncation=False)["input_ids"]) > max_tokens
        assert rows.cut == cut


@given(first=st.integers(0, 30), second=st.integers(0, 30), room=st.integers(1, 40))
def test_the_longer_text_is_cut_first(first: int, second: int, room: int) -> None:
    """One token after the other, which leaves the two at most one apart."""
    kept = [int(count) for count in kept_of_pair(np.array(first), np.array(second), room)]
    a, b = first, second
    while a + b > room:
        a, b = (a, b - 1) if b >= a else (a - 1, b)
    assert sum(kept) == a + b
    assert sorted(kept) == sorted((a, b))
    assert kept[0] <= first
    assert kept[1] <= second


def test_batches_are_padded_and_weighted(encoder: PieceEncoder) -> None:
    rows = tokenize_texts(encoder, TRAINING_TEXTS, TRAINING_TEXTS[::-1], max_tokens=40)
    labels = np.arange(len(rows))
    batch = rows.with_labels(labels).batch([3, 0, 5], rows=5)
    width = int(rows.lengths[[3, 0, 5]].max())
    assert set(batch.inputs) == set(encoder.tokenizer.model_input_names)
    for array in batch.inputs.values():
        assert array.shape == (5, width)
        assert array.dtype == np.int64
    for number, place in enumerate([3, 0, 5]):
        length = rows.lengths[place]
        assert batch.inputs["input_ids"][number, :length].tolist() == rows[place].ids.tolist()
        assert (batch.inputs["input_ids"][number, length:] == encoder.pad_id).all()
        assert batch.inputs["attention_mask"][number].tolist() == [1] * length + [0] * (width - length)
    assert batch.inputs["attention_mask"][3:].sum(1).tolist() == [1, 1]
    assert batch.targets["weights"].tolist() == [1, 1, 1, 0, 0]
    assert batch.targets["labels"].tolist() == [3, 0, 5, 0, 0]
    assert (batch.rows, batch.tokens) == (5, rows.lengths[[3, 0, 5]].sum() + 2)
    assert set(rows.batch([1]).targets) == {"weights"}
    only_filling = rows.batch([], rows=2)  # a rank that has nothing to do still runs the model
    assert only_filling.inputs["input_ids"].shape == (2, 1)
    assert only_filling.targets["weights"].tolist() == [0, 0]


def test_each_text_is_tokenised_once(encoder: PieceEncoder) -> None:
    told: list[int] = []
    premises = [TRAINING_TEXTS[0]] * 1000 + [TRAINING_TEXTS[1]] * 1000
    rows = tokenize_texts(encoder, premises, [TRAINING_TEXTS[2]] * 2000, max_tokens=64, progress=told.append)
    assert (len(rows), len(rows.pieces), told) == (2000, 3, [3])


def test_halves_of_surrogate_pairs_are_left_out() -> None:
    encoder = PieceEncoder(fast_tokenizer("sentencepiece"))
    broken, whole = tokenize_texts(encoder, ["The \ud83dcommittee\udc00", "The committee"], max_tokens=40)
    assert broken.ids.tolist() == whole.ids.tolist()


def example(text: str, pair: str | None, label: str | None = "a") -> ClassificationExample:
    return ClassificationExample(text, pair, label, PLACE)


def test_examples_and_their_labels() -> None:
    encoder = PieceEncoder(fast_tokenizer("xlmr"))
    examples = [example("one", "two"), example("three", "four", "b")]
    rows = tokenize_examples(encoder, examples, max_tokens=30)
    assert rows[1].ids.tolist() == reference(encoder, "three", "four")["input_ids"]
    assert class_labels(examples, ["b", "a"]).tolist() == [1, 0]
    assert score_labels([RegressionExample("a", None, 2.5, PLACE)]).tolist() == [2.5]
    with pytest.raises(DataError, match=r"x\.jsonl:7: unknown class; found b; needed a, c"):
        class_labels(examples, ["a", "c"])
    with pytest.raises(DataError, match=r"x\.jsonl:7: unknown class; found none"):
        class_labels([example("one", None, None)], ["a"])
    for score in (None, float("nan")):
        with pytest.raises(DataError, match=r"x\.jsonl:7: no number"):
            score_labels([RegressionExample("a", None, score, PLACE)])
    with pytest.raises(DataError, match=r"some examples have one text and others two; found one text"):
        tokenize_examples(encoder, [*examples, example("five", None)], max_tokens=30)
    with pytest.raises(DataError, match=r"found two texts"):
        tokenize_examples(encoder, [example("five", None), *examples], max_tokens=30)
    with pytest.raises(UsageError, match="labels do not fit"):
        rows.with_labels(np.arange(3))


def test_what_cannot_be_rows_is_refused(encoder: PieceEncoder) -> None:
    with pytest.raises(UsageError, match="texts are a list"):
        tokenize_texts(encoder, "text", max_tokens=40)
    with pytest.raises(UsageError, match="each text needs its second one"):
        tokenize_texts(encoder, ["a"], ["b", "c"], max_tokens=40)
    with pytest.raises(UsageError, match="states no longest input"):
        tokenize_texts(encoder, ["a"])
    with pytest.raises(UsageError, match="leaves no room"):
        tokenize_texts(encoder, ["a"], ["b"], max_tokens=encoder.pair.size + 1)
    nothing: TextRows = tokenize_texts(encoder, [], max_tokens=40)
    assert (len(nothing), nothing.lengths.shape) == (0, (0,))


def test_ranking_pairs_keep_the_order() -> None:
    examples = [
        RankingExample("q", ("right", "also"), ("wrong",), PLACE),
        RankingExample("r", ("yes",), (), PLACE),
    ]
    pairs = ranking_pairs(examples)
    assert pairs.queries == ["q", "q", "q", "r"]
    assert pairs.passages == ["right", "also", "wrong", "yes"]
    assert pairs.relevant.tolist() == [1, 1, 0, 1]
    assert pairs.query_numbers.tolist() == [0, 0, 0, 1]
    assert ranking_pairs([]).relevant.shape == (0,)


def test_translations_are_shifted() -> None:
    encoder = PieceEncoder(fast_tokenizer("sentencepiece"))
    texts = TRAINING_TEXTS[:3]
    examples = [TranslationExample(text, text[::-1], "de", PLACE) for text in texts]
    whole = [encoder.encode([text[::-1]])[0].tolist() for text in texts]
    room = sorted(map(len, whole))[1]
    rows = tokenize_translations(
        encoder, encoder, examples, start_id=7, end_id=8, max_tokens=20, max_target_tokens=room + 1
    )
    assert rows.cut_targets == 1
    batch = rows.batch([0, 1, 2], rows=4)
    for number, pieces in enumerate(whole):
        needed = [*pieces, 8] if len(pieces) <= room else pieces[:room]
        target = rows[number].target_ids
        assert target is not None
        assert target.tolist() == needed
        assert rows.lengths[number] == len(rows[number].source.ids) + len(needed)
        weights, width = batch.targets["weights"][number], len(needed)
        assert weights.tolist() == [1] * width + [0] * (len(weights) - width)
        assert batch.targets["labels"][number, :width].tolist() == needed
        assert batch.targets["decoder_input_ids"][number, :width].tolist() == [7, *needed[:-1]]
    assert batch.targets["weights"][3].sum() == 0
    assert batch.inputs["input_ids"].shape[0] == 4
    unknown = [TranslationExample(text, None, "de", PLACE) for text in texts]
    plain = tokenize_translations(encoder, encoder, unknown, start_id=7, end_id=8, max_tokens=20, max_target_tokens=9)
    assert set(plain.batch([0]).targets) == {"weights"}
    assert plain[0].target_ids is None
    with pytest.raises(DataError, match=r"x\.jsonl:7: some examples have no translation"):
        tokenize_translations(
            encoder, encoder, [*examples, *unknown], start_id=7, end_id=8, max_tokens=20, max_target_tokens=9
        )
