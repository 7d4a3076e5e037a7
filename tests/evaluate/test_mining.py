"""Mining finds planted pairs; the threshold is the best one; lists are made, read and halved as documented."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlc.errors import DataError, UsageError
from mlc.evaluate.intervals import Bootstrap
from mlc.evaluate.mining import (
    Candidates,
    Lists,
    best_threshold,
    comparable_lists,
    halves,
    mine,
    mining_scores,
    read_lists,
    write_mined,
)
from mlc.tasks.parallel_texts import ParallelTexts


def lists_of(first: int, second: int, gold: int) -> Lists:
    return Lists(
        "a-b",
        {f"a{k}": f"first {k}" for k in range(first)},
        {f"b{k}": f"second {k}" for k in range(second)},
        frozenset((f"a{k}", f"b{k}") for k in range(gold)),
    )


def test_planted_pairs_are_the_best_candidates_and_texts_take_part_once() -> None:
    random = np.random.default_rng(0)
    lists = lists_of(60, 80, 20)
    first, second = random.normal(size=(60, 32)), random.normal(size=(80, 32))
    second[:20] = first[:20] + 0.2 * random.normal(size=(20, 32))
    first, second = (
        (side / np.linalg.norm(side, axis=1, keepdims=True)).astype(np.float32) for side in (first, second)
    )
    found = mine(lists, first, second)
    assert set(found.ids[:20]) == lists.gold
    assert len({a for a, _ in found.ids}) == len({b for _, b in found.ids}) == len(found.ids)
    assert (np.diff(found.scores_C) <= 0).all()
    # The ratio margin of the best pair, by the formula.
    cosine = first.astype(np.float64) @ second.T
    a, b = (int(identity[1:]) for identity in found.ids[0])
    around = (np.sort(cosine[a])[-4:].mean() + np.sort(cosine[:, b])[-4:].mean()) / 2
    assert found.scores_C[0] == pytest.approx(cosine[a, b] / around, abs=1e-5)
    threshold, f1 = best_threshold(found, lists.gold)
    assert f1 == 1.0
    assert found.scores_C[19] > threshold > found.scores_C[20]


@settings(max_examples=60)
@given(
    scores=st.lists(st.sampled_from([0.5, 0.75, 1.0, 1.25]), min_size=1, max_size=12),
    right=st.lists(st.booleans(), min_size=12, max_size=12),
    missed=st.integers(0, 4),
)
def test_threshold_has_the_best_f1_of_all(scores: list[float], right: list[bool], missed: int) -> None:
    """Scores with ties: a threshold cannot take one of two equal candidates."""
    scores.sort(reverse=True)
    ids = [(str(k), str(k)) for k in range(len(scores))]
    gold = frozenset(pair for pair, is_right in zip(ids, right, strict=False) if is_right)
    gold |= {(f"m{k}", f"m{k}") for k in range(missed)}
    threshold, f1 = best_threshold(Candidates(ids, np.array(scores, dtype=np.float32)), gold)

    def f1_at(bound: float) -> float:
        taken = {pair for pair, score in zip(ids, scores, strict=True) if score > bound}
        return 2 * len(taken & gold) / (len(taken) + len(gold)) if taken or gold else 0.0

    assert f1 == pytest.approx(f1_at(threshold))
    assert f1 == pytest.approx(max(f1_at(bound) for bound in (0.4, 0.6, 0.9, 1.1) if bound < max(scores)))


def test_f1_precision_and_recall() -> None:
    gold = frozenset({("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")})
    scores = mining_scores([("a", "1"), ("b", "2"), ("x", "9")], gold, Bootstrap(200))
    assert scores["precision"].value == pytest.approx(2 / 3)
    assert scores["recall"].value == pytest.approx(1 / 2)
    assert scores["f1"].value == pytest.approx(4 / 7)
    low, high = scores["f1"].low, scores["f1"].high
    assert low is not None
    assert high is not None
    assert 0 <= low < 4 / 7 < high <= 1
    assert mining_scores([], gold, Bootstrap(50))["f1"].value == 0


@settings(max_examples=30)
@given(seed=st.integers(0, 1000), gold=st.integers(2, 9), alone=st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_halves_share_nothing_and_lose_nothing(seed: int, gold: int, alone: tuple[int, int]) -> None:
    lists = lists_of(gold + alone[0], gold + alone[1], gold)
    test, train = halves(lists, seed)
    for side in ("first", "second"):
        parts = getattr(test, side), getattr(train, side)
        assert not parts[0].keys() & parts[1].keys()
        assert parts[0] | parts[1] == getattr(lists, side)
        assert abs(len(parts[0]) - len(parts[1])) <= 2
    assert test.gold | train.gold == lists.gold
    assert abs(len(test.gold) - len(train.gold)) <= 1


def test_comparable_lists_keep_a_share_of_the_pairs() -> None:
    count = 50
    sides = tuple(f"eins {k}" for k in range(count)), tuple(f"one {k}" for k in range(count))
    repeated = ParallelTexts(("de", "en"), (*sides[0], "eins 0"), (*sides[1], "again"), "x")
    lists = comparable_lists(repeated, 0.2, seed=3)
    assert len(lists.gold) == 10
    assert (len(lists.first), len(lists.second)) == (30, 30)
    assert all(lists.first[a][5:] == lists.second[b][4:] for a, b in lists.gold)
    alone = lists.first.keys() & lists.second.keys()
    assert alone == {a for a, _ in lists.gold}  # every other line has lost one side
    assert str(count) not in lists.first.keys() | lists.second.keys()  # it repeats a text


def test_lists_are_read_and_refused_with_their_line(tmp_path: Path) -> None:
    first, second, gold = tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "gold.txt"
    first.write_text("a-1\tEin Satz\na-2\tNoch einer\n")
    second.write_text("b-1\tA sentence\n")
    gold.write_text("a-1\tb-1\n")
    lists = read_lists(first, second, gold)
    assert lists.first == {"a-1": "Ein Satz", "a-2": "Noch einer"}
    assert lists.gold == {("a-1", "b-1")}
    write_mined([(lists, ("a-1", "b-1"), 1.25)], tmp_path / "out.tsv")
    assert (tmp_path / "out.tsv").read_text() == "1.250000\ta-1\tb-1\tEin Satz\tA sentence\t1\n"
    gold.write_text("a-1\tb-9\n")
    with pytest.raises(DataError, match=r"gold\.txt:1.*in no list"):
        read_lists(first, second, gold)
    first.write_text("a-1\tx\na-1\ty\n")
    with pytest.raises(DataError, match=r"a\.txt:2.*twice"):
        read_lists(first, second, None)
    first.write_text("no tab\n")
    with pytest.raises(DataError, match=r"a\.txt:1.*two columns"):
        read_lists(first, second, None)
    with pytest.raises(UsageError, match="on a half"):
        halves(lists_of(3, 3, 1), 0)
