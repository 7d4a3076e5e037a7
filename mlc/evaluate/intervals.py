"""Scores with bootstrap confidence intervals: mlc.tasks.scores on values of items that are already there.

In:  values of items (texts, pairs of texts), or a statistic of a set of items.
Out: `Score`: the value on the data, and the interval that holds 95 % of its values on resampled data.
Letters: N items, G resamples.

An interval says how much a score depends on which items are in the test set, not on the seed of a training run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlc.tasks.scores import Scores, draw_counts, interval

Values = NDArray[np.float64]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Score:
    """A figure and how sure it is.

    Attributes:
        value: on all items.
        low, high: bounds of the 95 % interval; None = none was made.
        n: number of items, or of seeds where there is an sd.
        sd: standard deviation over seeds, where the value is a mean over them.
    """

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    sd: float | None = None

    def __str__(self) -> str:
        digits = 3 if abs(self.value) < 10 else 1  # shares and cosines; milliseconds and texts a second
        if self.sd is not None:
            return f"{self.value:.{digits}f} ± {self.sd:.{digits}f}"
        if self.low is None or self.high is None:
            return f"{self.value:.{digits}f}"
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


@dataclass(frozen=True)
class Bootstrap:
    """How items are resampled. Sets of one size share their draws (see mlc.tasks.scores).

    Attributes:
        resamples: G.
        seed: of the draws; equal seeds give equal intervals.
    """

    resamples: int = 1000
    seed: int = 0

    def means(self, values: NDArray) -> Values:
        """Means of resampled items: (N,) -> (G,), or (N, M) -> (G, M) with the M values of an item drawn together."""
        blocks = draw_counts(len(values), self.resamples, self.seed)
        return np.concatenate([counts @ values / len(values) for counts in blocks])

    def score(self, value: float, draws: Values, n: int) -> Score:
        """A value with the interval of its draws. Draws on which the statistic is not defined (nan) are left out."""
        known = draws[np.isfinite(draws)]
        return Score(value, *interval(known), n) if len(known) else Score(value, n=n)

    def mean(self, values: Sequence[float] | NDArray) -> Score:
        """The mean of the items' values."""
        array = np.asarray(values, dtype=np.float64)
        return self.score(float(array.mean()), self.means(array), len(array))

    def mean_of_means(self, groups: Sequence[Sequence[float] | NDArray]) -> Score:
        """The mean over groups of each group's mean; items are resampled within their group."""
        arrays = [np.asarray(group, dtype=np.float64) for group in groups]
        value = float(np.mean([array.mean() for array in arrays]))
        return self.score(value, np.mean([self.means(array) for array in arrays], axis=0), sum(map(len, arrays)))

    def statistic(self, statistic: Callable[[Places], float], count: int, *, centred: bool = False) -> Score:
        """Any statistic: a function of the places (N,) of the items that it is computed on.

        Args:
            centred: shift the draws so that their mean is the value, for a statistic that repeated items make larger.
        """
        every = np.arange(count)
        draws = [
            statistic(np.repeat(every, row.astype(np.int64)))
            for counts in draw_counts(count, self.resamples, self.seed)
            for row in counts
        ]
        value, draws_G = statistic(every), np.array(draws, dtype=np.float64)
        return self.score(value, draws_G + (value - draws_G.mean()) if centred else draws_G, count)


def scores_of(found: Scores, names: Sequence[str]) -> dict[str, Score]:
    """Some of the scores of one set."""
    return {
        name: Score(found.scores[name].value, found.scores[name].low, found.scores[name].high, found.examples)
        for name in names
    }


def mean_over_sets(sets: Mapping[str, Scores], name: str) -> Score:
    """The mean of a score over sets, each counted the same, with the interval of the means of their draws."""
    value = float(np.mean([found.scores[name].value for found in sets.values()]))
    bounds = interval(np.mean([found.draws[name] for found in sets.values()], axis=0))
    return Score(value, *bounds, sum(found.examples for found in sets.values()))


def mean_of_scores(scores: Sequence[Score]) -> Score:
    """The mean of scores of different data; the interval of one is kept, several have none in common."""
    if len(scores) == 1:
        return scores[0]
    return Score(float(np.mean([score.value for score in scores])), n=sum(score.n or 0 for score in scores))
