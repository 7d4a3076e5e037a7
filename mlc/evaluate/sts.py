"""Semantic textual similarity: does the cosine order pairs of texts as people do?

In:  two texts and a score each (mlc.evaluate.task_data.read_scored_pairs).
Out: Spearman's and Pearson's correlation of the cosine with the score, for each language and as a mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlc.errors import DataError
from mlc.evaluate.intervals import mean_over_sets, scores_of
from mlc.evaluate.options import Evaluation
from mlc.evaluate.results import TaskResult
from mlc.tasks.examples import RegressionExample
from mlc.tasks.scores_classes import score_numbers

CORRELATIONS = ("spearman", "pearson")


def evaluate_sts(evaluation: Evaluation, examples: Sequence[RegressionExample]) -> TaskResult:
    """Score pairs of texts; pairs are resampled within their language.

    Raises:
        DataError: a language has fewer than three pairs, or scores that are all equal.
    """
    by_language: dict[str, list[RegressionExample]] = {}
    for example in examples:
        by_language.setdefault(example.place.language, []).append(example)
    for language, group in by_language.items():
        if len(group) < 3 or len({example.score for example in group}) < 2:
            raise DataError(
                "a correlation needs different scores",
                found=f"{len(group)} pairs of language {language!r}",
                needed="three pairs or more, with different scores",
                where=group[0].place.file,
            )
    vectors = evaluation.encode(text for x in examples for text in (x.text, x.text_pair or ""))
    options, sets = evaluation.options, {}
    for language, group in by_language.items():
        first, second = vectors.of(x.text for x in group), vectors.of(x.text_pair or "" for x in group)
        cosine = np.einsum("nd,nd->n", first, second)
        gold = np.array([x.score for x in group], dtype=np.float64)
        sets[language] = score_numbers(gold, cosine, resamples=options.resamples, seed=options.seed)
    return TaskResult(
        task="sts",
        facts=evaluation.facts(vectors),
        data=evaluation.data,
        scores={name: mean_over_sets(sets, name) for name in CORRELATIONS},
        by={"language": {language: scores_of(found, CORRELATIONS) for language, found in sets.items()}},
        notes=("means over languages",) if len(sets) > 1 else (),
    )
