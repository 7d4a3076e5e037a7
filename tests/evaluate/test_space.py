"""Alignment, uniformity, clusters and probes on spaces whose figures are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import v_measure_score

from mlc.errors import DataError, UsageError
from mlc.evaluate.alignment import (
    balanced_texts,
    guess_languages,
    mean_kernels,
    same_language_neighbours,
    squared_distances,
    uniformity,
)
from mlc.evaluate.clusters import k_means, nmi, purity, topic_scores
from mlc.evaluate.intervals import Bootstrap
from mlc.evaluate.options import TextVectors
from mlc.evaluate.probe import check_labels, features_of, few_examples, over_seeds, train_probe
from mlc.tasks.examples import ClassificationExample, Place
from mlc.tasks.parallel_texts import ParallelTexts

FEW = Bootstrap(resamples=20)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_alignment_and_uniformity_equal_the_formulas() -> None:
    random = np.random.default_rng(0)
    a, b = unit(random.normal(size=(30, 6))), unit(random.normal(size=(30, 6)))
    needed = [sum((float(x) - float(y)) ** 2 for x, y in zip(p, q, strict=True)) for p, q in zip(a, b, strict=True)]
    np.testing.assert_allclose(squared_distances(a, b), needed, rtol=1e-5)
    kernel = [
        [math.exp(-2 * float(np.sum((p.astype(np.float64) - q) ** 2))) for j, q in enumerate(a) if j != i]
        for i, p in enumerate(a)
    ]
    np.testing.assert_allclose(mean_kernels(a), np.mean(kernel, axis=1), rtol=1e-5)
    score = uniformity(a, FEW)
    assert score.value == pytest.approx(math.log(np.mean(kernel)), rel=1e-5)
    assert score.low is not None
    assert score.high is not None
    assert score.low < score.value < score.high
    assert uniformity(unit(np.ones((5, 3))), FEW).value == pytest.approx(0, abs=1e-5)  # all equal: the worst


def test_languages_are_guessed_where_the_space_has_them_and_not_where_it_has_not() -> None:
    random = np.random.default_rng(1)
    languages = np.array(["de", "en", "fr"] * 40)
    meaning = random.normal(size=(120, 8))
    mark = np.eye(8)[[0, 1, 2] * 40] * 20
    told, silent = unit(meaning + mark), unit(meaning)
    assert guess_languages(told, languages, 0).mean() == 1.0
    assert same_language_neighbours(told, languages).mean() == 1.0
    # By chance a third; 0.55 is five standard deviations of 120 guesses above it.
    assert guess_languages(silent, languages, 0).mean() < 0.55
    assert same_language_neighbours(silent, languages).mean() < 0.55


def test_the_language_sample_is_balanced_and_leaves_out_texts_of_two_languages() -> None:
    numbers = [str(k) for k in range(12)]
    pair = ParallelTexts(
        ("de", "en"),
        (*(f"d{k}" for k in numbers), "Hotel", "d0"),
        (*(f"e{k}" for k in numbers), "Hotel", "e0"),
        "x",
    )
    sample = balanced_texts([pair], 11, seed=0)
    assert np.unique(sample.languages, return_counts=True)[1].tolist() == [11, 11]
    assert len(set(sample.texts)) == 22
    assert "Hotel" not in sample.texts
    assert sample.dropped == 1
    with pytest.raises(UsageError, match="too few texts"):
        balanced_texts([ParallelTexts(("de", "en"), pair.first[:4], pair.second[:4], "x")], 11, seed=0)


def test_clusters_by_topic_and_by_language() -> None:
    random = np.random.default_rng(2)
    topic, language = np.array([0, 1] * 30), np.array([0, 0, 1, 1] * 15)
    by_topic = unit(np.eye(4)[topic] + 0.05 * random.normal(size=(60, 4)))
    by_language = unit(np.eye(4)[language + 2] + 0.05 * random.normal(size=(60, 4)))
    good, bad = k_means(by_topic, 2, seeds=3), k_means(by_language, 2, seeds=3)
    assert {name: score.value for name, score in topic_scores(topic, good, FEW).items()} == pytest.approx(
        {"v_measure": 1, "adjusted_rand": 1, "purity": 1}
    )
    assert nmi(language, good, FEW).value == pytest.approx(0, abs=1e-9)
    assert nmi(language, bad, FEW).value == pytest.approx(1)
    assert topic_scores(topic, bad, FEW)["v_measure"].value == pytest.approx(0, abs=1e-9)


def test_cluster_scores_are_means_over_seeds_within_their_interval() -> None:
    random = np.random.default_rng(3)
    label, cluster = random.integers(3, size=90), random.integers(3, size=(2, 90))
    score = topic_scores(label, cluster, FEW)["v_measure"]
    assert score.value == pytest.approx(np.mean([v_measure_score(label, each) for each in cluster]))
    assert score.low is not None
    assert score.high is not None
    assert score.low <= score.value <= score.high
    assert purity(np.array([0, 0, 1, 1]), np.array([5, 5, 5, 7])) == pytest.approx(3 / 4)


def labelled(text: str, label: str, pair: str | None = None) -> ClassificationExample:
    return ClassificationExample(text, pair, label, Place("x.jsonl", 1, "en"))


def test_features_of_pairs_are_those_of_infersent() -> None:
    vectors = TextVectors({"a": 0, "b": 1}, np.array([[0.6, 0.8], [1.0, 0.0]], dtype=np.float32), 0)
    pair = features_of([labelled("a", "x", "b")], vectors)
    np.testing.assert_allclose(pair, [[0.6, 0.8, 1, 0, 0.4, 0.8, 0.6, 0]], rtol=1e-6)
    np.testing.assert_allclose(features_of([labelled("b", "x")], vectors), [[1, 0]])


def test_a_probe_learns_what_is_linear_and_chooses_its_strength_on_training_data() -> None:
    random = np.random.default_rng(4)
    features = random.normal(size=(200, 5))
    labels = np.where(features[:, 2] > 0, "up", "down")
    probe, strength = train_probe(features[:150], labels[:150], seed=0)
    assert (probe.predict(features[150:]) == labels[150:]).mean() > 0.9
    assert strength >= 0.01
    # Labels without a pattern: weak weights are best, and nothing is learned.
    noise = np.array(["up", "down"] * 100)
    assert train_probe(random.normal(size=(200, 60)), noise, seed=0)[1] <= 0.01


def test_few_examples_are_so_many_of_each_label() -> None:
    labels = np.array(["a"] * 9 + ["b"] * 5 + ["c"] * 30)
    chosen = few_examples(labels, 4, seed=1)
    assert np.unique(labels[chosen], return_counts=True)[1].tolist() == [4, 4, 4]
    assert len(set(chosen.tolist())) == 12
    assert set(chosen.tolist()) != set(few_examples(labels, 4, seed=2).tolist())
    score = over_seeds(np.array([0.5, 0.7]))
    assert (score.value, score.sd, score.n) == (pytest.approx(0.6), pytest.approx(0.02**0.5), 2)


def test_a_probe_that_cannot_be_trained_is_refused() -> None:
    train = [labelled("x", "a"), labelled("y", "a"), labelled("z", "b"), labelled("w", "b")]
    check_labels(train, train, [2])
    with pytest.raises(DataError, match="no such label"):
        check_labels(train, [labelled("v", "c")], [])
    with pytest.raises(UsageError, match="too few training examples"):
        check_labels(train, train, [3])
    with pytest.raises(DataError, match="one label"):
        check_labels(train[:2], train[:2], [])
    with pytest.raises(DataError, match="pairs of texts"):
        check_labels(train, [labelled("v", "a", "u")], [])
