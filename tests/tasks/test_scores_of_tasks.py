"""Scores are those of scikit-learn, SciPy, seqeval and sacrebleu, for a set and for every draw of it."""

from __future__ import annotations

import json
import math
import warnings
from typing import Any

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from seqeval import metrics as seqeval_metrics
from seqeval.scheme import IOB2
from sklearn import metrics

from mlc.errors import DataError
from mlc.tasks.scores import Scores, draw_counts
from mlc.tasks.scores_answers import normalise_answer, score_answers, token_f1
from mlc.tasks.scores_classes import score_classes, score_numbers
from mlc.tasks.scores_rankings import score_rankings
from mlc.tasks.scores_translation import bleu_tokenizer, score_translations
from mlc.tasks.scores_words import score_entities, score_words

CLASSES = ["anger", "joy", "none", "unused"]
FEW = 12
"""Draws that are computed again by a library."""


def drawn(found: Scores) -> list[np.ndarray]:
    """Numbers of the examples of each draw."""
    (draws,) = draw_counts(found.examples, found.resamples, found.seed)
    return [np.repeat(np.arange(found.examples), row.astype(int)) for row in draws]


def assert_draws_are(found: Scores, name: str, score: Any) -> None:
    """`score` of the examples' numbers gives the set's value, and that of each draw. 1e-9: sums in another order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert found.scores[name].value == pytest.approx(score(np.arange(found.examples)), abs=1e-9)
        needed = [score(places) for places in drawn(found)]
    np.testing.assert_allclose(found.draws[name], needed, rtol=0, atol=1e-9)
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["scores"][name]["value"] == (
        found.scores[name].value
    )


@settings(max_examples=8)
@given(rows=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30))
def test_classes_are_scored_as_by_scikit_learn(rows: list[tuple[int, int]]) -> None:
    gold, predicted = np.array(rows).T
    found = score_classes(gold, predicted, CLASSES, resamples=FEW)
    for name, score in {
        "accuracy": metrics.accuracy_score,
        "macro_f1": lambda a, b: metrics.f1_score(a, b, average="macro", zero_division=0),
        "micro_f1": lambda a, b: metrics.f1_score(a, b, average="micro", zero_division=0),
        "matthews": metrics.matthews_corrcoef,
    }.items():
        assert_draws_are(found, name, lambda places, score=score: score(gold[places], predicted[places]))


def test_details_of_classes() -> None:
    found = score_classes([0, 0, 1, 1, 2], [0, 1, 1, 1, 0], CLASSES)
    assert found.details["confusion"]["counts"] == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert found.details["classes"]["joy"] == {"precision": 2 / 3, "recall": 1.0, "f1": 0.8, "examples": 2}
    assert found.details["classes"]["unused"]["examples"] == 0
    assert found.per_example["accuracy"].tolist() == [1, 0, 1, 1, 0]
    for gold, predicted, problem in (
        ([0], [0, 1], "examples and answers differ"),
        ([], [], "nothing to score"),
        ([0], [4], "a class has no name; found 4"),
        ([0], [-1], "a class has no name"),
    ):
        with pytest.raises(DataError, match=problem):
            score_classes(gold, predicted, CLASSES)


@settings(max_examples=8)
@given(
    rows=st.lists(st.tuples(st.integers(-3, 3), st.integers(-9, 9)), min_size=2, max_size=25),
    offset=st.sampled_from([0.0, 1e4]),
)
def test_numbers_are_scored_as_by_scipy(rows: list[tuple[int, int]], offset: float) -> None:
    gold, predicted = np.array(rows, float).T
    gold = gold + offset
    found = score_numbers(gold, predicted, resamples=FEW)

    def correlation(score: Any, places: np.ndarray) -> float:
        value = score(gold[places], predicted[places]).statistic
        return 0.0 if math.isnan(value) else value

    assert_draws_are(found, "pearson", lambda places: correlation(stats.pearsonr, places))
    assert_draws_are(found, "spearman", lambda places: correlation(stats.spearmanr, places))
    if not offset:
        assert_draws_are(found, "mean_squared_error", lambda p: metrics.mean_squared_error(gold[p], predicted[p]))


def test_numbers_that_cannot_be_scored_are_refused() -> None:
    for gold, predicted, problem in (
        ([1.0], [2.0], "one number has no correlation"),
        ([1.0, 2.0], [1.0], "examples and answers differ"),
        ([1.0, 2.0], [1.0, math.nan], "a number is not finite"),
    ):
        with pytest.raises(DataError, match=problem):
            score_numbers(gold, predicted)


LABEL = st.sampled_from(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"])
SENTENCE = st.lists(st.tuples(LABEL, LABEL), min_size=1, max_size=7)


@settings(max_examples=8)
@given(sentences=st.lists(SENTENCE, min_size=1, max_size=6))
def test_entities_are_scored_as_by_seqeval(sentences: list[list[tuple[str, str]]]) -> None:
    gold, predicted = ([[pair[side] for pair in sentence] for sentence in sentences] for side in (0, 1))
    found = score_entities(gold, predicted, resamples=15)
    strict = {"mode": "strict", "scheme": IOB2, "zero_division": 0}
    for name, score in {
        "f1": seqeval_metrics.f1_score,
        "precision": seqeval_metrics.precision_score,
        "recall": seqeval_metrics.recall_score,
        "word_accuracy": lambda a, b, **_: seqeval_metrics.accuracy_score(a, b),
    }.items():
        assert_draws_are(
            found,
            name,
            lambda places, score=score: score([gold[i] for i in places], [predicted[i] for i in places], **strict),
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = seqeval_metrics.classification_report(gold, predicted, output_dict=True, **strict)
    for name, scores in found.details["types"].items():
        keys = {"precision": "precision", "recall": "recall", "f1": "f1-score", "entities": "support"}
        assert scores == pytest.approx({key: report[name][other] for key, other in keys.items()})
    if found.details["types"]:
        assert found.scores["macro_f1"].value == pytest.approx(report["macro avg"]["f1-score"])


def test_entities_are_strict_iob2() -> None:
    gold = [["B-PER", "I-PER", "O"]]
    assert score_entities(gold, [["I-PER", "I-PER", "O"]]).scores["f1"].value == 0  # nothing begins
    assert score_entities(gold, [["B-PER", "O", "O"]]).scores["f1"].value == 0  # it ends too early
    assert score_entities(gold, [["B-PER", "I-PER", "I-LOC"]]).scores["f1"].value == 1  # a stray I- is no entity
    assert score_words([["NOUN", "VERB"]], [["NOUN", "NOUN"]]).scores["word_accuracy"].value == 0.5
    for predicted, problem in (
        ([["O", "O"]], "every word needs one label; found 2 labels of sentence 0; needed 3"),
        ([], "examples and answers differ"),
        ([["O", "O", "NOUN"]], "a label is not of IOB2; found NOUN"),
        ([["O", "O", "B-"]], "a label is not of IOB2; found B-"),
    ):
        with pytest.raises(DataError, match=problem):
            score_entities(gold, predicted)
    with pytest.raises(DataError, match="no words"):
        score_words([[]], [[]])


TEXTS = ["The committee met on Tuesday .", "it agreed on the budget", "a dog, a cat", "北京 is big", "", "yes"]


@settings(max_examples=6)
@given(pairs=st.lists(st.tuples(st.sampled_from(TEXTS[:4]), st.sampled_from(TEXTS)), min_size=2, max_size=5))
def test_translations_are_scored_as_by_sacrebleu(pairs: list[tuple[str, str]]) -> None:
    references, translations = map(list, zip(*pairs, strict=True))
    found = score_translations(references, translations, "en", resamples=15)
    for name, score in {
        "bleu": lambda a, b: sacrebleu.corpus_bleu(a, [b], force=True).score,
        "chrf": lambda a, b: sacrebleu.corpus_chrf(a, [b]).score,
    }.items():
        assert_draws_are(
            found,
            name,
            lambda places, score=score: score([translations[i] for i in places], [references[i] for i in places]),
        )
    signatures = found.details["signatures"]
    assert "tok:13a" in signatures["bleu"]
    assert "nc:6" in signatures["chrf"]
    assert f"version:{sacrebleu.__version__}" in signatures["bleu"]


def test_bleu_parts_words_by_language() -> None:
    assert [bleu_tokenizer(code) for code in ("de", "zh-Hant", "ja", "th", "ko")] == [
        "13a",
        "zh",
        "char",
        "char",
        "13a",
    ]
    found = score_translations(["委員会は開かれた"], ["委員会が開かれた"], "ja")
    assert found.scores["bleu"].value > 20  # by words it would be 0: there is one, and it is wrong
    with pytest.raises(DataError, match="examples and answers differ"):
        score_translations(["a"], [], "en")


RANKING = st.lists(st.tuples(st.integers(0, 2), st.integers(-2, 2)), min_size=2, max_size=12).filter(
    lambda row: any(grade for grade, _ in row)
)


@settings(max_examples=60)
@given(rankings=st.lists(RANKING, min_size=1, max_size=4))
def test_rankings_are_scored_as_by_scikit_learn_and_loops(rankings: list[list[tuple[int, int]]]) -> None:
    relevance, scores = ([[pair[side] for pair in row] for row in rankings] for side in (0, 1))
    found = score_rankings(relevance, scores, cutoffs=(1, 3, 20), resamples=2)
    for query, row in enumerate(rankings):
        ranked = [grade for grade, score in sorted(row, key=lambda pair: (-pair[1], pair[0]))]
        # Scores without ties, in this order: libraries agree on those.
        order = np.empty(len(row))
        order[sorted(range(len(row)), key=lambda place: (-row[place][1], row[place][0]))] = -np.arange(len(row))
        right = [int(grade > 0) for grade, _ in row]
        needed = {
            "mrr": 1 / (1 + next(rank for rank, grade in enumerate(ranked) if grade)),
            "map": metrics.label_ranking_average_precision_score([right], [order]),
        }
        for k in (1, 3, 20):
            needed[f"mrr@{k}"] = needed["mrr"] if any(ranked[:k]) else 0
            needed[f"ndcg@{k}"] = metrics.ndcg_score([[grade for grade, _ in row]], [order], k=k)
            needed[f"recall@{k}"] = sum(grade > 0 for grade in ranked[:k]) / sum(right)
        assert {name: values[query] for name, values in found.per_example.items()} == pytest.approx(needed)
    for name, values in found.per_example.items():
        assert found.scores[name].value == pytest.approx(values.mean())


def test_ties_count_against_the_model() -> None:
    found = score_rankings([[1, 0, 0, 0]], [[0.5, 0.5, 0.5, 0.5]], cutoffs=(1, 4))
    assert {name: score.value for name, score in found.scores.items()} == pytest.approx(
        {
            **{"mrr": 0.25, "map": 0.25, "mrr@1": 0, "mrr@4": 0.25},
            **{"ndcg@1": 0, "ndcg@4": 1 / math.log2(5), "recall@1": 0, "recall@4": 1},
        }
    )
    assert score_rankings([[1]], [[0.1]]).scores["mrr"].value == 1
    for relevance, scores, problem in (
        ([[0, 0]], [[1, 2]], "query 0: a query has no right candidate"),
        ([[1, 0]], [[1]], "query 0: candidates and scores differ"),
        ([[1, 0]], [[1, math.nan]], "query 0: a score is not finite"),
        ([[1, 0]], [], "examples and answers differ"),
    ):
        with pytest.raises(DataError, match=problem):
            score_rankings(relevance, scores)


@pytest.mark.parametrize(
    ("text", "language", "rules", "needed"),
    [
        ("The U.S. and a «dog»", "en", "squad", "us and «dog»"),
        ("The U.S. and a «dog»", "en", "mlqa", "us and dog"),
        ("Der Hund, das Tier", "de", "mlqa", "hund tier"),
        ("Der Hund, das Tier", "de", "squad", "der hund das tier"),
        ("las casas", "es", "mlqa", "casas"),
        ("cái nhà", "vi", "mlqa", "nhà"),
        ("الكتاب", "ar", "mlqa", "كتاب"),
        ("हिंदी। भाषा", "hi", "mlqa", "हिंदी भाषा"),
        ("北京市 ABC", "zh", "mlqa", "北 京 市 abc"),
        ("北京 ABC", "de", "mlqa", "北京 abc"),
        ("東京タワー", "ja", "mlqa", "東 京 タ ワ ー"),
        ("la maison", "fr", "mlqa", "la maison"),
    ],
)
def test_answers_are_normalised(text: str, language: str, rules: Any, needed: str) -> None:
    assert normalise_answer(text, language, rules) == needed


def test_answers_are_scored() -> None:
    gold = [["the budget", "budget for next year"], ["Tuesday"], [], [], ["the"]]
    predicted = ["a budget for the year", "on Monday", "", "something", "an"]
    found = score_answers(gold, predicted, rules="squad")
    # Of "budget for year", the second answer has 3 of its 4 words.
    assert found.per_example["f1"].tolist() == pytest.approx([6 / 7, 0, 1, 0, 1])
    assert found.per_example["exact_match"].tolist() == [0, 0, 1, 0, 1]
    assert found.scores["f1"].value == pytest.approx((6 / 7 + 2) / 5)
    assert found.details["f1_without_answer"] == 0.5
    assert found.details["without_answer"] == 2
    with pytest.raises(DataError, match="examples and answers differ"):
        score_answers(gold, predicted[:2])


BAG = st.lists(st.sampled_from("abcd"), max_size=6)


@given(gold=BAG, predicted=BAG)
def test_f1_of_words_is_that_of_a_loop(gold: list[str], predicted: list[str]) -> None:
    left, common = list(gold), 0
    for word in predicted:
        if word in left:
            left.remove(word)
            common += 1
    if not gold or not predicted:
        needed = float(gold == predicted)
    else:
        precision, recall = common / len(predicted), common / len(gold)
        needed = 2 * precision * recall / (precision + recall) if common else 0.0
    assert token_f1(gold, predicted) == pytest.approx(needed)
