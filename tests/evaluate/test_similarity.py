"""CSLS, the ratio margin and their ranks equal an independent computation; blocks change nothing; plots are drawn."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mlc.errors import MlcError, UsageError
from mlc.evaluate.plots import check_plot, draw_heat_map
from mlc.evaluate.retrieval import retrieval_ranks
from mlc.evaluate.similarity import NEIGHBOURS, SMALLEST_MEAN, Scoring, nearest, neighbourhood


def unit_rows(random: np.random.Generator, count: int, width: int) -> np.ndarray:
    rows = random.normal(size=(count, width)) + 1.0  # most cosines are positive, as those of real embeddings
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def plain_scores(first: np.ndarray, second: np.ndarray, scoring: Scoring, k: int) -> np.ndarray:
    """The papers' formulas on the whole matrix in float64."""
    cosine = first.astype(np.float64) @ second.astype(np.float64).T
    means_first = np.sort(cosine, axis=1)[:, ::-1][:, :k].mean(axis=1)[:, None]
    means_second = np.sort(cosine, axis=0)[::-1][:k].mean(axis=0)[None, :]
    if scoring == "csls":
        return 2 * cosine - means_first - means_second
    if scoring == "margin":
        return cosine / np.maximum((means_first + means_second) / 2, SMALLEST_MEAN)
    return cosine


@pytest.mark.parametrize("scoring", ["csls", "margin"])
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(2, 40), width=st.integers(3, 12))
def test_ranks_equal_plain_numpy(scoring: Scoring, seed: int, count: int, width: int) -> None:
    random = np.random.default_rng(seed)
    first = unit_rows(random, count, width)
    second = first + 0.3 * unit_rows(random, count, width)
    second = (second / np.linalg.norm(second, axis=1, keepdims=True)).astype(np.float32)
    scores = plain_scores(first, second, scoring, min(NEIGHBOURS[scoring], count))
    gold = np.diag(scores)
    rivals = ~np.eye(count, dtype=bool)
    forward_gap, backward_gap = (scores - gold[:, None])[rivals], (scores - gold[None, :])[rivals]
    # Below the tolerance of ties the rule is another one, and float32 may fall on either side of its edge.
    smallest_gap = np.abs(np.concatenate([forward_gap, backward_gap])).min()
    assume(smallest_gap > (1e-3 if scoring == "margin" else 1e-5))
    forward, backward = retrieval_ranks(first, second, scoring)
    assert forward.tolist() == (1 + ((scores > gold[:, None]) & rivals).sum(axis=1)).tolist()
    assert backward.tolist() == (1 + ((scores > gold[None, :]) & rivals).sum(axis=0)).tolist()


@pytest.mark.parametrize("scoring", ["csls", "margin"])
def test_scores_of_blocks_and_pairs_equal_the_formula(scoring: Scoring) -> None:
    random = np.random.default_rng(1)
    first, second = unit_rows(random, 17, 6), unit_rows(random, 23, 6)
    around = neighbourhood(first, second, scoring)
    needed = plain_scores(first, second, scoring, NEIGHBOURS[scoring])
    rows = slice(5, 11)
    np.testing.assert_allclose(around.scores(first[rows] @ second.T, rows), needed[rows], atol=2e-6)
    a, b = np.array([0, 16, 3]), np.array([22, 0, 7])
    cosine = np.einsum("nd,nd->n", first[a], second[b])
    np.testing.assert_allclose(around.score_of_pairs(cosine, a, b), needed[a, b], atol=2e-6)


def test_a_hub_is_corrected() -> None:
    """A candidate near to all queries wins by cosine and not by CSLS or margin: what they were made for."""
    # Three directions 60 degrees from the hub; the translations are 62 degrees from their queries.
    queries = np.eye(4, dtype=np.float32)[:3]
    hub = np.array([1, 1, 1, 0]) / np.sqrt(3)
    answers = np.concatenate([0.56 * queries + np.sqrt(1 - 0.56**2) * np.eye(4, dtype=np.float32)[3], hub[None]])
    pairs = np.concatenate([queries, -np.eye(4, dtype=np.float32)[3:]])  # the fourth query is the hub's own
    by_cosine, _ = retrieval_ranks(pairs.astype(np.float32), answers.astype(np.float32))
    by_csls, _ = retrieval_ranks(pairs.astype(np.float32), answers.astype(np.float32), "csls")
    assert by_cosine[:3].tolist() == [2, 2, 2]
    assert by_csls[:3].tolist() == [1, 1, 1]


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    first=st.integers(1, 20),
    second=st.integers(1, 20),
    k=st.integers(1, 6),
    rows=st.integers(1, 7),
)
def test_nearest_equals_sorting_the_whole_matrix(seed: int, first: int, second: int, k: int, rows: int) -> None:
    random = np.random.default_rng(seed)
    a, b = unit_rows(random, first, 5), unit_rows(random, second, 5)
    (value_ab, place_ab), (value_ba, place_ba) = nearest(a, b, k, elements=rows * second)
    cosine = a @ b.T
    np.testing.assert_allclose(value_ab, np.sort(cosine, axis=1)[:, ::-1][:, :k], atol=1e-6)
    np.testing.assert_allclose(value_ba, np.sort(cosine.T, axis=1)[:, ::-1][:, :k], atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(cosine, place_ab, 1), value_ab, atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(cosine.T, place_ba, 1), value_ba, atol=1e-6)


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_heat_maps(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"map{suffix}"
    check_plot(file)
    every = {(a, b): 0.5 for a in ("de", "en", "fr") for b in ("de", "en", "fr") if a != b}
    draw_heat_map(every, file, "all pairs")
    whole = file.read_bytes()
    draw_heat_map({pair: share for pair, share in every.items() if "en" in pair}, file, "English pairs: two rows")
    rows = file.read_bytes()
    draw_heat_map({pair: share for pair, share in every.items() if "en" in pair}, file, "English pairs: two rows")
    assert rows == file.read_bytes() != whole
    assert whole.startswith(b"<?xml" if suffix == ".svg" else b"\x89PNG")


def test_plots_are_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="cannot be drawn"):
        check_plot(tmp_path / "map.pdf")
    with pytest.raises(UsageError, match="folder"):
        check_plot(tmp_path / "none" / "map.svg")
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as where it is not installed
    with pytest.raises(MlcError, match=r"mlc\[plots\]"):
        check_plot(tmp_path / "map.svg")
