"""Document matching equals its definition; pieces of documents fit and lose nothing."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlc.errors import MlcError
from mlc.evaluate import documents
from mlc.evaluate.documents import (
    Pieces,
    document_vectors,
    greedy_matching,
    hungarian_matching,
    match_scores,
    split_documents,
    split_sentences,
)
from mlc.evaluate.options import TextVectors


def unit_rows(seed: int, count: int, width: int = 4) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31), first=st.integers(1, 12), second=st.integers(1, 12))
def test_greedy_takes_the_most_similar_free_pair_again_and_again(seed: int, first: int, second: int) -> None:
    a, b = unit_rows(seed, first), unit_rows(seed + 1, second)
    cosine, needed = (a @ b.T).astype(np.float64), []
    for _ in range(min(first, second)):
        row, column = np.unravel_index(cosine.argmax(), cosine.shape)
        needed.append((int(row), int(column)))
        cosine[row, :] = cosine[:, column] = -np.inf
    assert greedy_matching(a, b) == needed


def test_hungarian_has_the_largest_sum() -> None:
    a, b = unit_rows(5, 5), unit_rows(6, 5)
    cosine = a @ b.T
    best = max(itertools.permutations(range(5)), key=lambda order: sum(cosine[k, order[k]] for k in range(5)))
    assert hungarian_matching(a, b) == list(enumerate(best))


def test_hungarian_refuses_what_would_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "LARGEST_HUNGARIAN", 24)
    with pytest.raises(MlcError, match="greedy"):
        hungarian_matching(unit_rows(5, 5), unit_rows(6, 5))


def test_scores_count_documents_that_have_a_counterpart() -> None:
    """Two translations and one document alone on each side; the first text's nearest is not its translation."""
    x, y, z = np.eye(3, dtype=np.float32)
    first = np.stack([x, y, z])  # "1", "2", and "left" without a counterpart
    second = np.stack([0.8 * x + 0.6 * z, 0.98 * y + 0.2 * x, 0.9 * x + 0.435 * y]).astype(np.float32)
    found, top1 = match_scores((["1", "2", "left"], ["1", "2", "right"]), first, second, "greedy")
    assert found == [0.0, 1.0]  # "right" is nearer to 1 than its translation
    assert top1 == [0.5, 1.0]  # from the other side, 1 is the nearest of its translation
    assert match_scores((["1", "2", "left"], ["1", "2", "right"]), first, second, "hungarian")[0] == [0.0, 1.0]


@settings(max_examples=60)
@given(text=st.text(alphabet="ab .。\nक।", min_size=1, max_size=60).filter(str.strip), room=st.integers(1, 8))
@pytest.mark.parametrize("pieces", ["windows", "sentences"])
def test_pieces_fit_and_hold_every_character(pieces: Pieces, text: str, room: int) -> None:
    parts = split_documents([text], pieces, lambda texts: [len(piece) > room for piece in texts])[text]
    assert all(0 < len(piece) <= room for piece in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())


def test_sentences_of_several_scripts() -> None:
    assert split_sentences("One. Two? Three 3.5!\nFour") == ["One.", "Two?", "Three 3.5!", "Four"]
    assert split_sentences("一。二!三") == ["一。", "二!三"]
    assert split_sentences("एक। दो।") == ["एक।", "दो।"]


def test_a_document_is_the_mean_of_its_pieces() -> None:
    vectors = TextVectors({"a": 0, "b": 1}, np.eye(2, dtype=np.float32), 0)
    found = document_vectors({"a b": ["a", "b"], "a": ["a"]}, vectors)
    np.testing.assert_allclose(found["a b"], [0.5**0.5, 0.5**0.5], rtol=1e-6)
    np.testing.assert_allclose(found["a"], [1, 0])
