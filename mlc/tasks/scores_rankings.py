"""Scores of rankings: retrieval, and re-ranking of candidates.

In:  of each query, how well its candidates fit by the model, and which of them are right.
Out: `Scores`: MRR, MAP, MRR@k, nDCG@k and recall@k, with their values for each query.

A tie counts against the model: wrong candidates of the same score are ranked before right ones, so that a model that
scores all alike finds nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlc.errors import DataError
from mlc.tasks.scores import RESAMPLES, SEED, Doubles, Scores, mean_measure, summarise
from mlc.tasks.scores_classes import check_same_length

CUTOFFS = (1, 10, 100)


def score_rankings(
    relevance: Sequence[ArrayLike],
    scores: Sequence[ArrayLike],
    *,
    cutoffs: Sequence[int] = CUTOFFS,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Scores:
    """Score rankings of lists of any lengths.

    Args:
        relevance: of each query (candidates,): 0 = wrong, 1 = right; higher grades count for nDCG alone.
        scores: of each query (candidates,): higher = fits better.
        cutoffs: k of MRR@k, nDCG@k and recall@k.
        resamples, seed: of the intervals.

    Returns:
        mrr: mean of 1 / rank of the first right candidate; mrr@k: 0 where that rank is beyond k. map: mean over a
        query's right candidates of the precision at their ranks. ndcg@k: Järvelin and Kekäläinen 2002, gain =
        grade, as trec_eval and scikit-learn have it. recall@k: share of a query's right candidates in the first k.

    Raises:
        DataError: nothing to score, a query without right candidates, or scores that do not fit or are not finite.
    """
    check_same_length(len(relevance), len(scores), "ranking")
    names = ["mrr", "map", *(f"{name}@{k}" for name in ("mrr", "ndcg", "recall") for k in cutoffs)]
    table = np.empty((len(scores), len(names)))
    for query, (grades, found) in enumerate(zip(relevance, scores, strict=True)):
        table[query] = _of_query(_ranked_grades(query, np.asarray(grades), np.asarray(found)), cutoffs)
    per_example: dict[str, Doubles] = {name: table[:, place] for place, name in enumerate(names)}
    measures = [mean_measure(name, values) for name, values in per_example.items()]
    details = {"candidates": int(sum(map(len, map(np.asarray, relevance))))}
    return summarise(
        "ranking", "mrr", measures, resamples=resamples, seed=seed, details=details, per_example=per_example
    )


def _ranked_grades(query: int, grades: NDArray, scores: NDArray) -> Doubles:
    """Grades of the candidates, best score first."""
    where = f"query {query}"
    if grades.shape != scores.shape or grades.ndim != 1:
        found = f"{grades.shape} and {scores.shape}"
        raise DataError("candidates and scores differ", found=found, needed="one score each", where=where)
    if not (grades > 0).any():
        raise DataError("a query has no right candidate", needed="one or more: it cannot be found", where=where)
    if not np.isfinite(scores).all():
        raise DataError("a score is not finite", found="nan or infinity", needed="finite numbers", where=where)
    return grades[np.lexsort((grades, -scores))].astype(np.float64)


def _of_query(grades: Doubles, cutoffs: Sequence[int]) -> list[float]:
    """By the definitions: scikit-learn's functions, which tests compare with, check their input for 7 ms a query."""
    is_right = grades > 0
    found, ranks = np.cumsum(is_right), np.arange(1, len(grades) + 1)
    first = float(ranks[is_right][0])
    gains, best_gains = (np.cumsum(order / np.log2(ranks + 1)) for order in (grades, -np.sort(-grades)))
    lasts = [min(k, len(grades)) - 1 for k in cutoffs]
    return [
        1 / first,
        float((found / ranks)[is_right].mean()),
        *(1 / first if first <= k else 0.0 for k in cutoffs),
        *(float(gains[last] / best_gains[last]) for last in lasts),
        *(float(found[last] / found[-1]) for last in lasts),
    ]
