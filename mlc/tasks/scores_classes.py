"""Scores of predicted classes and numbers.

In:  gold and predicted classes, or numbers.
Out: `Scores`: accuracy, macro and micro F1, Matthews correlation (scikit-learn), with precision, recall and F1 of each
     class and the confusion matrix as details; Pearson, Spearman (SciPy) and mean squared error.
Letters: N examples, C classes, B draws.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlc.errors import DataError
from mlc.tasks.scores import RESAMPLES, SEED, Doubles, Measure, Scores, additive_measure, mean_measure, summarise


def score_classes(
    gold: ArrayLike,
    predicted: ArrayLike,
    classes: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Scores:
    """Score predicted classes.

    Macro F1 is the mean over the classes that occur in `gold` or are predicted, as scikit-learn has it: a class
    that this set does not have takes no part. F1 of a class that is never predicted right is 0. With one prediction an
    example micro F1 is accuracy.

    Args:
        gold, predicted: (N,) numbers of classes.
        classes: their names.
        resamples, seed: of the intervals.

    Raises:
        DataError: nothing to score, numbers of answers differ, or a class has no name.
    """
    from sklearn import metrics

    right, found = (np.asarray(given, np.int64).reshape(-1) for given in (gold, predicted))
    check_same_length(len(right), len(found), "classification")
    largest = max(right.max(), found.max())
    if min(right.min(), found.min()) < 0 or largest >= len(classes):
        raise DataError("a class has no name", found=int(largest), needed=f"0..{len(classes) - 1}")
    numbers = np.arange(len(classes))
    present = np.union1d(right, found)
    with warnings.catch_warnings():
        # About one class alone: the value is then 0 or 1, and so defined here.
        warnings.simplefilter("ignore")
        values = {
            "accuracy": metrics.accuracy_score(right, found),
            "macro_f1": metrics.f1_score(right, found, labels=present, average="macro", zero_division=0),
            "micro_f1": metrics.f1_score(right, found, labels=present, average="micro", zero_division=0),
            "matthews": metrics.matthews_corrcoef(right, found),
        }
        table = metrics.precision_recall_fscore_support(right, found, labels=numbers, zero_division=0)
        confusion = metrics.confusion_matrix(right, found, labels=numbers)
    statistics = _class_statistics(right, found, len(classes))
    finish = {"accuracy": _accuracy, "macro_f1": _macro_f1, "micro_f1": _accuracy, "matthews": _matthews}
    measures = [additive_measure(name, values[name], statistics, finish[name]) for name in values]
    columns = ("precision", "recall", "f1", "examples")
    details = {
        "classes": {
            name: {key: column[number].item() for key, column in zip(columns, table, strict=True)}
            for number, name in enumerate(classes)
        },
        "confusion": {"classes": list(classes), "rows_are_gold": True, "counts": confusion.tolist()},
    }
    per_example = {"accuracy": (right == found).astype(np.float64)}
    return summarise(
        "classification", "accuracy", measures,
        resamples=resamples, seed=seed, details=details, per_example=per_example,
    )  # fmt: skip


def score_numbers(gold: ArrayLike, predicted: ArrayLike, *, resamples: int = RESAMPLES, seed: int = SEED) -> Scores:
    """Score predicted numbers: Pearson's and Spearman's correlation and the mean squared error.

    A correlation with numbers that are all the same is undefined; it is 0 here.

    Args:
        gold, predicted: (N,).
        resamples, seed: of the intervals.

    Raises:
        DataError: fewer than two examples, numbers of answers differ, or a number is not finite.
    """
    from sklearn import metrics

    right, found = (np.asarray(given, np.float64).reshape(-1) for given in (gold, predicted))
    check_same_length(len(right), len(found), "regression")
    if len(right) < 2:
        raise DataError("one number has no correlation", found="1 example", needed="2 or more")
    if not (np.isfinite(right).all() and np.isfinite(found).all()):
        raise DataError("a number is not finite", found="nan or infinity", needed="finite numbers")
    # Centred first: sums of squares of large numbers would swallow small differences.
    x, y = right - right.mean(), found - found.mean()
    statistics = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)
    squares = np.square(right - found)
    measures = [
        additive_measure("pearson", _correlation(right, found, ranked=False), statistics, _pearson),
        Measure("spearman", _correlation(right, found, ranked=True), len(x), _spearman_of_draws(right, found)),
        additive_measure(
            "mean_squared_error",
            metrics.mean_squared_error(right, found),
            squares[:, None],
            lambda sums: sums[:, 0] / len(squares),
        ),
    ]
    return summarise(
        "regression", "spearman", measures,
        resamples=resamples, seed=seed, per_example={"mean_squared_error": squares},
    )  # fmt: skip


def score_shares(task: str, name: str, right: ArrayLike, *, resamples: int = RESAMPLES, seed: int = SEED) -> Scores:
    """Score what is the mean of the examples' own scores, such as the share of translations found.

    Args:
        task, name: of the task and of its score.
        right: (N,) score of each example; booleans count as 0 and 1.
        resamples, seed: of the interval.

    Raises:
        DataError: nothing to score.
    """
    values = np.asarray(right, np.float64).reshape(-1)
    return summarise(
        task, name, [mean_measure(name, values)], resamples=resamples, seed=seed, per_example={name: values}
    )


def check_same_length(gold: int, predicted: int, task: str) -> None:
    """Refuse an empty set, and answers that are not one for each example.

    Raises:
        DataError: it is so.
    """
    if gold != predicted:
        raise DataError("examples and answers differ", found=f"{predicted} answers", needed=str(gold), where=task)
    if not gold:
        raise DataError("nothing to score", found="no examples", needed="one or more", where=task)


def _class_statistics(gold: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> Doubles:
    """(N, 3C): of each class whether it is the gold one, the predicted one, and both."""
    one_hot = np.eye(classes)
    is_gold, is_predicted = one_hot[gold], one_hot[predicted]
    return np.concatenate([is_gold, is_predicted, is_gold * is_predicted], axis=1)


def _thirds(sums: Doubles) -> list[Doubles]:
    return np.split(sums, 3, axis=1)


def _accuracy(sums: Doubles) -> Doubles:
    gold, _, both = _thirds(sums)
    result: Doubles = both.sum(1) / gold.sum(1)
    return result


def _macro_f1(sums: Doubles) -> Doubles:
    gold, predicted, both = _thirds(sums)
    any_of = gold + predicted
    f1 = 2 * both / np.maximum(any_of, 1)
    result: Doubles = f1.sum(1) / (any_of > 0).sum(1)
    return result


def _matthews(sums: Doubles) -> Doubles:
    """Of several classes (Gorodkin 2004); 0 where one class is all there is."""
    gold, predicted, both = _thirds(sums)
    count = gold.sum(1)
    above = both.sum(1) * count - (gold * predicted).sum(1)
    below = np.sqrt((count**2 - (gold**2).sum(1)) * (count**2 - (predicted**2).sum(1)))
    result: Doubles = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
    return result


def _pearson(sums: Doubles) -> Doubles:
    count, x, y, xx, yy, xy = sums.T
    of_x, of_y, of_both = xx - x * x / count, yy - y * y / count, xy - x * y / count
    # Rounding leaves a little where a draw's numbers are all the same.
    is_defined = (of_x > 1e-12 * xx) & (of_y > 1e-12 * yy)
    spread = np.sqrt(np.where(is_defined, of_x * of_y, 1))
    result: Doubles = np.where(is_defined, of_both / spread, 0)
    return result.clip(-1, 1)


def _correlation(x: Doubles, y: Doubles, *, ranked: bool) -> float:
    from scipy import stats

    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float((stats.spearmanr if ranked else stats.pearsonr)(x, y).statistic)


def _spearman_of_draws(x: Doubles, y: Doubles) -> Callable[[Doubles], Doubles]:
    def of_draws(draws: Doubles) -> Doubles:
        drawn = (np.repeat(np.arange(len(x)), counts.astype(np.int64)) for counts in draws)
        return np.array([_correlation(x[places], y[places], ranked=True) for places in drawn])

    return of_draws
