"""Frozen features with a linear probe: what of a task can be read off embeddings, also across languages?

In:  labelled texts, or pairs of texts, to train on, and others to test (mlc.evaluate.task_data.read_classification).
Out: accuracy and macro F1 of every test language; a table over few training examples.
Letters: N examples, F features.

A text's features are its unit vector u; those of a pair are [u, v, |u - v|, u * v] (InferSent, Conneau et al. 2017).
The probe is a logistic regression on standardised features; its strength is chosen by cross-validation on the training
data alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlc.errors import DataError, UsageError
from mlc.evaluate.intervals import Bootstrap, Score, mean_over_sets, scores_of
from mlc.evaluate.options import Evaluation, TextVectors, progress_bar
from mlc.evaluate.results import Scores, TaskResult
from mlc.tasks.examples import ClassificationExample
from mlc.tasks.scores_classes import score_classes

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Of C, the inverse of the penalty."""
FOLDS = 5
METRICS = ("accuracy", "macro_f1")
Features = NDArray[np.float64]
Labels = NDArray[np.str_]


def evaluate_probe(
    evaluation: Evaluation,
    train: Sequence[ClassificationExample],
    test: Sequence[ClassificationExample],
    *,
    shots: Sequence[int] = (),
    seeds: int = 5,
) -> TaskResult:
    """Train a probe on `train`, score it on every language of `test`; again on few examples of each label.

    Args:
        shots: examples of each label; 8, 32 and 128 are customary.
        seeds: draws of such examples.

    Raises:
        DataError: one label only, single texts beside pairs, or labels in `test` that `train` has not.
        UsageError: a label has fewer examples than folds or shots.
    """
    check_labels(train, test, shots)
    vectors = evaluation.encode(text for example in [*train, *test] for text in _texts_of(example))
    train_NF, test_NF = features_of(train, vectors), features_of(test, vectors)
    train_N, test_N = labels_of(train), labels_of(test)
    language_N = np.array([example.place.language for example in test])
    names = sorted(set(train_N.tolist()))
    seed = evaluation.options.seed
    with progress_bar("probes", 1 + len(shots) * seeds, "probes") as advance:
        probe, strength = train_probe(train_NF, train_N, seed)
        guess_N = probe.predict(test_NF)
        advance(1)
        few: dict[str, NDArray[np.bool_]] = {}
        for shot in shots:
            right = []
            for place in range(seeds):
                chosen = few_examples(train_N, shot, seed + place)
                right.append(train_probe(train_NF[chosen], train_N[chosen], seed)[0].predict(test_NF) == test_N)
                advance(1)
            few[f"accuracy_{shot}_shots"] = np.stack(right)
    scores, rows = probe_scores(guess_N, test_N, language_N, names, few, evaluation.options.bootstrap)
    commonest = Counter(train_N.tolist()).most_common(1)[0][0]
    trained = sorted({example.place.language for example in train})
    return TaskResult(
        task="probe",
        facts=evaluation.facts(vectors),
        data=evaluation.data,
        scores=scores,
        by={"language": rows},
        details={
            "train_languages": trained,
            "train_examples": len(train),
            "labels": names,
            "strength": strength,
            "majority_accuracy": float((test_N == commonest).mean()),
            "shots": list(shots),
            "seeds": seeds,
        },
        notes=(
            f"trained on {len(train)} examples in {', '.join(trained)}; C = {strength:g} by cross-validation; the "
            f"commonest training label would get {(test_N == commonest).mean():.3f}; means over languages",
            *([f"few shots: mean ± sd over {seeds} draws of so many examples of each label"] if shots else []),
        ),
    )


def probe_scores(
    guess_N: Labels,
    test_N: Labels,
    language_N: NDArray[np.str_],
    names: Sequence[str],
    few: Mapping[str, NDArray[np.bool_]],
    bootstrap: Bootstrap,
) -> tuple[Scores, dict[str, Scores]]:
    """(means over languages, scores of each language).

    Args:
        guess_N, test_N: labels guessed and right, all among `names`, which are sorted.
        few: {name of a score: (seeds, N) whether each guess of a probe trained on few examples is right}.
    """
    sets, by_seed = {}, []
    rows: dict[str, Scores] = {}
    for language in np.unique(language_N).tolist():
        own_N = language_N == language
        gold, guess = (np.searchsorted(names, labels[own_N]) for labels in (test_N, guess_N))
        sets[language] = score_classes(gold, guess, names, resamples=bootstrap.resamples, seed=bootstrap.seed)
        by_seed.append({name: right_SN[:, own_N].mean(axis=1) for name, right_SN in few.items()})
        rows[language] = {
            **scores_of(sets[language], METRICS),
            **{name: over_seeds(value_S) for name, value_S in by_seed[-1].items()},
        }
    means = {name: mean_over_sets(sets, name) for name in METRICS}
    return means | {name: over_seeds(np.mean([own[name] for own in by_seed], axis=0)) for name in few}, rows


def features_of(examples: Sequence[ClassificationExample], vectors: TextVectors) -> Features:
    """(N, D) of single texts, (N, 4 D) of pairs."""
    first_ND = vectors.of(example.text for example in examples)
    if examples[0].text_pair is None:
        return first_ND.astype(np.float64)
    second_ND = vectors.of(example.text_pair or "" for example in examples)
    parts = [first_ND, second_ND, np.abs(first_ND - second_ND), first_ND * second_ND]
    return np.concatenate(parts, axis=1).astype(np.float64)


def labels_of(examples: Sequence[ClassificationExample]) -> Labels:
    """(N,) labels."""
    return np.array([str(example.label) for example in examples])


def train_probe(train_NF: Features, train_N: Labels, seed: int) -> tuple[Any, float]:
    """(the fitted classifier, C of the best mean accuracy over folds of the training data)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = min(FOLDS, *Counter(train_N.tolist()).values())
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        {"logisticregression__C": STRENGTHS},
        cv=StratifiedKFold(folds, shuffle=True, random_state=seed),
    ).fit(train_NF, train_N)
    return search.best_estimator_, float(search.best_params_["logisticregression__C"])


def few_examples(train_N: Labels, shot: int, seed: int) -> NDArray[np.int64]:
    """Places of `shot` examples of each label, drawn without replacement."""
    random = np.random.default_rng(seed)
    drawn = [random.permutation(np.flatnonzero(train_N == label))[:shot] for label in np.unique(train_N)]
    return np.concatenate(drawn)


def over_seeds(value_S: NDArray[np.float64]) -> Score:
    """Mean and standard deviation (of a sample) over seeds."""
    return Score(float(value_S.mean()), n=len(value_S), sd=float(value_S.std(ddof=1)) if len(value_S) > 1 else None)


def check_labels(
    train: Sequence[ClassificationExample], test: Sequence[ClassificationExample], shots: Sequence[int]
) -> None:
    """Refuse what no probe could be trained on, before anything is encoded; errors as in `evaluate_probe`."""
    counts = Counter(str(example.label) for example in train)
    if len(counts) < 2:
        raise DataError("there is one label only", found=next(iter(counts)), where=train[0].place.file)
    if (train[0].text_pair is None) != (test[0].text_pair is None):
        raise DataError("one has pairs of texts, the other single texts", where=f"{train[0].place}, {test[0].place}")
    strange = next((example for example in test if str(example.label) not in counts), None)
    if strange is not None:
        raise DataError(
            "the training data have no such label",
            found=strange.label,
            needed=", ".join(sorted(counts)),
            where=str(strange.place),
        )
    rarest, count = min(counts.items(), key=lambda item: item[1])
    if count < max(2, *shots, 0):
        raise UsageError(
            "a label has too few training examples",
            found=f"{count} of {rarest!r}",
            needed=f"{max(2, *shots, 0)} or more",
            where="--shots" if shots else train[0].place.file,
        )


def _texts_of(example: ClassificationExample) -> tuple[str, ...]:
    return (example.text,) if example.text_pair is None else (example.text, example.text_pair)
