"""What a model's answers are worth: scores with intervals, for one language and over many.

In:  measures of a test set (mlc.tasks.scores_classes, scores_words, scores_answers, scores_rankings,
     scores_translation).
Out: `Scores` of one set, JSON-ready; means over languages; the difference of two systems on one set.

Intervals are 95 % percentile bootstraps (Efron 1979): the examples of the set are drawn with replacement, as many as
there are, and the score is computed of each draw. Draws are a function of the seed and the number of examples alone, so
sets of one size share them: the rows of a set that is the same in every language are drawn together, as they must be
where means over languages are taken.
Letters: N examples, B draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlc.errors import DataError, UsageError

Doubles = NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 1000
SEED = 20_260
_CELLS_AT_ONCE = 1 << 22  # draws x examples held in memory: 32 MiB


@dataclass(frozen=True)
class Measure:
    """A score of one set, and how to compute it of a draw.

    Attributes:
        name: such as "accuracy".
        value: of the whole set.
        examples: N.
        of_draws: how often each example was drawn (B, N) float64 -> the score of each draw (B,).
    """

    name: str
    value: float
    examples: int
    of_draws: Callable[[Doubles], Doubles]


@dataclass(frozen=True, slots=True)
class Score:
    """A number and its 95 % interval. Shares are 0..1; BLEU and chrF 0..100."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """{"value", "low", "high"}."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Scores:
    """All scores of one set.

    Attributes:
        task: what was measured, such as "classification".
        main: name of the score that models are compared by.
        scores: by name.
        examples: N.
        resamples, seed: of the bootstrap.
        details: what explains the scores: a confusion matrix, scores of each class, a signature. JSON-ready.
        per_example: scores of each example (N,), where a score is the mean of such; not in the JSON.
        draws: scores of each draw (B,) by name; not in the JSON.
        measures: to compare systems by; not in the JSON.
    """

    task: str
    main: str
    scores: Mapping[str, Score]
    examples: int
    resamples: int
    seed: int
    details: Mapping[str, Any] = field(default_factory=dict)
    per_example: Mapping[str, Doubles] = field(default_factory=dict)
    draws: Mapping[str, Doubles] = field(default_factory=dict)
    measures: Mapping[str, Measure] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Everything that belongs into a results file."""
        return {
            "task": self.task,
            "main": self.main,
            "scores": {name: score.to_json() for name, score in self.scores.items()},
            "examples": self.examples,
            "interval": _interval_json(self.resamples, self.seed),
            "details": dict(self.details),
        }


@dataclass(frozen=True)
class Means:
    """Scores of many languages, and their means; every language counts the same.

    Attributes:
        score: name of the score.
        languages: score of each.
        macro: mean over all languages.
        zero_shot: mean over the languages that were not trained on; None where there are none.
        trained: languages trained on, among `languages`.
    """

    score: str
    languages: Mapping[str, Score]
    macro: Score
    zero_shot: Score | None
    trained: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Everything that belongs into a results file."""
        return {
            "score": self.score,
            "languages": {language: score.to_json() for language, score in self.languages.items()},
            "macro": self.macro.to_json(),
            "zero_shot": None if self.zero_shot is None else self.zero_shot.to_json(),
            "trained": list(self.trained),
        }


def additive_measure(name: str, value: float, statistics_NK: Doubles, finish: Callable[[Doubles], Doubles]) -> Measure:
    """A measure that is a function of sums over examples.

    Args:
        name, value: of the measure.
        statistics_NK: (N, K), what each example adds.
        finish: sums (B, K) -> scores (B,).
    """
    statistics = np.ascontiguousarray(statistics_NK, dtype=np.float64)
    return Measure(name, float(value), len(statistics), lambda draws: finish(draws @ statistics))


def mean_measure(name: str, per_example_N: Doubles) -> Measure:
    """The mean of the examples' own scores, (N,)."""
    values = np.asarray(per_example_N, dtype=np.float64)
    value = float(values.mean()) if len(values) else math.nan
    return additive_measure(name, value, values[:, None], lambda sums: sums[:, 0] / len(values))


def summarise(
    task: str,
    main: str,
    measures: Sequence[Measure],
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
    details: Mapping[str, Any] | None = None,
    per_example: Mapping[str, Doubles] | None = None,
) -> Scores:
    """Scores with intervals; all measures see the same draws.

    Args:
        task, main, details, per_example: see `Scores`.
        measures: of one set.
        resamples: B.
        seed: of the draws.

    Raises:
        DataError: the set is empty.
        UsageError: fewer than 2 draws.
    """
    examples = measures[0].examples
    if examples == 0:
        raise DataError("nothing to score", found="no examples", needed="one or more", where=task)
    draws = _scores_of_draws(measures, resamples, seed)
    return Scores(
        task=task,
        main=main,
        scores={m.name: Score(m.value, *interval(draws[m.name])) for m in measures},
        examples=examples,
        resamples=resamples,
        seed=seed,
        details=details or {},
        per_example=per_example or {},
        draws=draws,
        measures={measure.name: measure for measure in measures},
    )


def difference(one: Scores, other: Scores, name: str) -> Score:
    """How much better `one` is than `other` on the same examples: paired bootstrap (Koehn 2004).

    Args:
        one, other: of the same examples in the same order, with the same seed and number of draws.
        name: of the score.

    Returns:
        one - other. Where the interval leaves out 0 the difference is significant at the 5 % level.

    Raises:
        UsageError: the two cannot be compared.
    """
    facts = [(scores.task, scores.examples, scores.resamples, scores.seed) for scores in (one, other)]
    if facts[0] != facts[1] or name not in one.draws or name not in other.draws:
        raise UsageError(
            "only scores of the same examples and draws are compared",
            found=f"{name}: {facts[0]} and {facts[1]}",
            needed="the same task, examples, resamples and seed",
        )
    return Score(one.scores[name].value - other.scores[name].value, *interval(one.draws[name] - other.draws[name]))


def mean_over_languages(scores: Mapping[str, Scores], *, trained: Sequence[str] = (), name: str | None = None) -> Means:
    """Means of one score over languages.

    The interval says what other examples in the same languages would change, not other languages.

    Args:
        scores: by language, with the same seed and number of draws.
        trained: languages that were trained on; zero-shot is the mean over all others.
        name: of the score; None = the main one.

    Raises:
        UsageError: there are no languages, or their scores cannot be averaged.
    """
    facts = {(found.task, found.main, found.resamples, found.seed) for found in scores.values()}
    if len(facts) != 1:
        raise UsageError("only scores of one task and the same draws are averaged", found=sorted(facts))
    chosen = name or next(iter(scores.values())).main
    if any(chosen not in found.scores for found in scores.values()):
        raise UsageError("no such score", found=chosen, needed=", ".join(next(iter(scores.values())).scores))
    others = [language for language in scores if language not in set(trained)]
    return Means(
        score=chosen,
        languages={language: found.scores[chosen] for language, found in scores.items()},
        macro=_mean([scores[language] for language in scores], chosen),
        zero_shot=_mean([scores[language] for language in others], chosen) if others else None,
        trained=tuple(language for language in scores if language in set(trained)),
    )


def interval(draws_B: Doubles) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of the draws' scores."""
    low, high = np.quantile(draws_B, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def draw_counts(examples: int, resamples: int, seed: int) -> Iterator[Doubles]:
    """How often each example is drawn: (B', N) float64 at a time, B in all.

    Raises:
        UsageError: fewer than 2 draws.
    """
    if resamples < 2:
        raise UsageError("too few draws for an interval", found=resamples, needed="2 or more, commonly 1,000")
    generator = np.random.default_rng([seed, examples])
    at_once = max(1, _CELLS_AT_ONCE // max(1, examples))
    for start in range(0, resamples, at_once):
        counts = np.empty((min(at_once, resamples - start), examples))
        for row in counts:
            row[:] = np.bincount(generator.integers(examples, size=examples), minlength=examples)
        yield counts


def _scores_of_draws(measures: Sequence[Measure], resamples: int, seed: int) -> dict[str, Doubles]:
    parts: dict[str, list[Doubles]] = {measure.name: [] for measure in measures}
    for counts in draw_counts(measures[0].examples, resamples, seed):
        for measure in measures:
            parts[measure.name].append(measure.of_draws(counts))
    return {name: np.concatenate(found) for name, found in parts.items()}


def _mean(scores: Sequence[Scores], name: str) -> Score:
    value = float(np.mean([found.scores[name].value for found in scores]))
    return Score(value, *interval(np.mean([found.draws[name] for found in scores], axis=0)))


def _interval_json(resamples: int, seed: int) -> dict[str, Any]:
    return {"method": "percentile bootstrap", "confidence": CONFIDENCE, "resamples": resamples, "seed": seed}
