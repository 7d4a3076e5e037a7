"""Intervals, differences and means: deterministic, and those of SciPy's bootstrap and of plain loops."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from mlc.errors import DataError, UsageError
from mlc.tasks.scores import Measure, Scores, difference, draw_counts, mean_over_languages, summarise
from mlc.tasks.scores_classes import score_classes, score_shares


def values(count: int, seed: int = 1, share: float = 0.7) -> np.ndarray:
    return (np.random.default_rng(seed).random(count) < share).astype(float)


def shares(given: np.ndarray, **settings: int) -> Scores:
    return score_shares("retrieval", "top1", given, **settings)


def test_draws_are_as_many_as_examples_and_depend_on_seed_and_number_alone() -> None:
    (draws,) = draw_counts(50, 200, seed=3)
    assert draws.shape == (200, 50)
    assert (draws.sum(1) == 50).all()
    # Each example is drawn once on average; 10,000 draws of variance 1 have a mean within 5 of their deviations.
    assert abs(draws - 1).mean() > 0.5
    assert np.abs(draws.mean(0) - 1).max() < 5 / np.sqrt(200)
    assert np.array_equal(draws, next(draw_counts(50, 200, seed=3)))
    assert not np.array_equal(draws, next(draw_counts(50, 200, seed=4)))


def test_draws_in_parts_are_the_draws_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    (whole,) = draw_counts(40, 30, seed=3)
    monkeypatch.setattr("mlc.tasks.scores._CELLS_AT_ONCE", 7 * 40)
    parts = list(draw_counts(40, 30, seed=3))
    assert [len(part) for part in parts] == [7, 7, 7, 7, 2]
    assert np.array_equal(np.concatenate(parts), whole)
    assert shares(values(40)).scores == shares(values(40)).scores


def test_intervals_are_those_of_scipy() -> None:
    """Both draw at random: bounds of 4,000 draws are known to about a twentieth of the standard error."""
    given = values(300)
    found = shares(given, resamples=4000).scores["top1"]
    needed = stats.bootstrap(
        (given,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    error = given.std() / np.sqrt(300)
    assert found.value == given.mean()
    assert abs(found.low - needed.low) < 0.25 * error
    assert abs(found.high - needed.high) < 0.25 * error


def test_intervals_cover() -> None:
    """Of 150 sets of 200 examples 95 % should hold the truth; fewer than 86 % would be 5 deviations off."""
    covered = [
        score.low <= 0.7 <= score.high
        for score in (shares(values(200, seed), resamples=200).scores["top1"] for seed in range(150))
    ]
    assert 0.86 < np.mean(covered) < 1


def test_one_example_has_no_width_and_none_is_refused() -> None:
    assert shares(np.array([0.5])).scores["top1"].to_json() == {"value": 0.5, "low": 0.5, "high": 0.5}
    with pytest.raises(DataError, match="nothing to score"):
        shares(np.array([]))
    with pytest.raises(UsageError, match="too few draws"):
        shares(values(5), resamples=1)


def test_json_says_how_the_interval_was_made() -> None:
    found = json.loads(json.dumps(shares(values(20), seed=5, resamples=100).to_json(), allow_nan=False))
    assert found["interval"] == {"method": "percentile bootstrap", "confidence": 0.95, "resamples": 100, "seed": 5}
    assert (found["task"], found["main"], found["examples"]) == ("retrieval", "top1", 20)
    assert set(found["scores"]["top1"]) == {"value", "low", "high"}


def test_a_difference_is_paired() -> None:
    """A system that is right on a few examples more: paired, it is better for sure; the intervals alone overlap."""
    worse = values(400)
    better = worse.copy()
    better[np.flatnonzero(worse == 0)[:12]] = 1
    one, other = shares(better), shares(worse)
    found = difference(one, other, "top1")
    assert found.value == pytest.approx(12 / 400)
    assert found.low > 0
    assert one.scores["top1"].low < other.scores["top1"].high
    (draws,) = draw_counts(400, one.resamples, one.seed)
    by_hand = sorted(float(row @ (better - worse)) / 400 for row in draws)
    assert found.low == pytest.approx(np.quantile(by_hand, 0.025))
    assert difference(one, one, "top1").to_json() == {"value": 0, "low": 0, "high": 0}
    for wrong in (shares(values(399)), shares(values(400), seed=7), shares(values(400), resamples=10)):
        with pytest.raises(UsageError, match="only scores of the same examples"):
            difference(one, wrong, "top1")
    with pytest.raises(UsageError, match="mrr"):
        difference(one, other, "mrr")


def test_means_over_languages() -> None:
    given = {"en": values(300, 1, 0.9), "de": values(300, 2), "tr": values(200, 3, 0.5)}
    found = mean_over_languages({code: shares(row) for code, row in given.items()}, trained=["en", "fr"])
    assert found.macro.value == pytest.approx(np.mean([row.mean() for row in given.values()]))
    assert found.zero_shot is not None
    assert found.zero_shot.value == pytest.approx((given["de"].mean() + given["tr"].mean()) / 2)
    assert found.trained == ("en",)
    # Two independent sets: the variances add up. A tenth: 1,000 draws know a deviation to 2 %, in two places.
    error = np.sqrt(sum(given[code].var() / len(given[code]) for code in ("de", "tr"))) / 2
    assert found.zero_shot.high - found.zero_shot.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert json.loads(json.dumps(found.to_json()))["languages"]["tr"]["value"] == given["tr"].mean()
    assert mean_over_languages({"en": shares(given["en"])}, trained=["en"]).zero_shot is None


def test_the_same_rows_in_two_languages_are_drawn_together() -> None:
    """Two languages that are right on the same rows say no more than one: their mean's interval is as wide."""
    given = values(300)
    one = shares(given)
    mean = mean_over_languages({"de": one, "fr": shares(given)}).macro
    assert mean == one.scores["top1"]
    opposite = mean_over_languages({"de": one, "fr": shares(1 - given)}).macro
    assert opposite.high - opposite.low < 1e-9


def test_what_cannot_be_averaged_is_refused() -> None:
    with pytest.raises(UsageError, match="only scores of one task"):
        mean_over_languages({})
    with pytest.raises(UsageError, match="only scores of one task"):
        mean_over_languages({"de": shares(values(9)), "fr": shares(values(9), seed=4)})
    with pytest.raises(UsageError, match="no such score; found f1; needed top1"):
        mean_over_languages({"de": shares(values(9))}, name="f1")


def test_all_scores_of_a_set_see_the_same_draws() -> None:
    gold = values(100).astype(int)
    found = score_classes(gold, np.roll(gold, 1), ["a", "b"])
    assert np.array_equal(found.draws["accuracy"], found.draws["micro_f1"])
    seen: list[np.ndarray] = []
    watched = Measure("watched", 0.0, 100, lambda draws: (seen.append(draws), draws[:, 0])[1])
    summarise("t", "watched", [watched, watched])
    assert seen[0] is seen[1]
