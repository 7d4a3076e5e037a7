"""Retrieval figures equal an independent computation; ties count against; the command's table and JSON agree."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rich.console import Console
from small_models import TRAINING_TEXTS, make_checkpoint
from typer.testing import CliRunner

from mlc.errors import MlcError, UsageError
from mlc.evaluate import retrieval
from mlc.evaluate.command import app, run_retrieval
from mlc.evaluate.report import RetrievalReport, print_report
from mlc.evaluate.retrieval import (
    best_layer,
    evaluate_retrieval,
    mean_mrr,
    mean_top1,
    retrieval_ranks,
    score_ranks,
)
from mlc.evaluate.similarity import TIE_TOLERANCE
from mlc.tasks.parallel_texts import ParallelTexts


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def naive_rank(query: np.ndarray, candidates: np.ndarray, gold: int) -> int:
    """One dot product at a time, exactly rounded, ties counted against."""
    scores = [math.fsum(float(a) * float(b) for a, b in zip(query, row, strict=True)) for row in candidates]
    edges = [score - (scores[gold] - TIE_TOLERANCE) for j, score in enumerate(scores) if j != gold]
    # float32 may fall on either side of a difference as small as its own rounding (some 1e-7).
    assume(all(abs(edge) > 5e-7 for edge in edges))
    return 1 + sum(edge >= 0 for edge in edges)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 30),
    width=st.integers(2, 9),
    copies=st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=6),
)
def test_ranks_equal_a_naive_count(seed: int, count: int, width: int, copies: list[tuple[int, int]]) -> None:
    random = np.random.default_rng(seed)
    first = random.normal(size=(count, width))
    second = first + random.normal(size=(count, width))
    for target, source in copies:
        second[target % count] = second[source % count]
        first[source % count] = first[target % count]
    first, second = unit(first), unit(second)
    forward, backward = retrieval_ranks(first, second)
    assert forward.tolist() == [naive_rank(first[k], second, k) for k in range(count)]
    assert backward.tolist() == [naive_rank(second[k], first, k) for k in range(count)]


def test_blocks_do_not_change_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    first, second = unit(random.normal(size=(50, 8))), unit(random.normal(size=(50, 8)))
    whole = retrieval_ranks(first, second)
    monkeypatch.setattr(retrieval, "_BLOCK_ELEMENTS", 7 * 50)
    for got, needed in zip(retrieval_ranks(first, second), whole, strict=True):
        np.testing.assert_array_equal(got, needed)


def test_ties_count_against_the_model() -> None:
    """A model that gives every text one vector has found nothing."""
    same = unit(np.ones((6, 4)))
    forward, backward = retrieval_ranks(same, same)
    assert forward.tolist() == backward.tolist() == [6] * 6
    score = score_ranks(forward)
    assert score.top1 == 0
    assert score.mrr == pytest.approx(1 / 6)


def test_mrr_is_the_mean_of_reciprocal_ranks() -> None:
    score = score_ranks(np.array([1, 2, 4, 1]))
    assert score.top1 == 0.5
    assert score.mrr == pytest.approx((1 + 1 / 2 + 1 / 4 + 1) / 4)


def test_vectors_that_are_not_finite_are_refused() -> None:
    broken = unit(np.eye(3))
    broken[1, 1] = np.nan
    with pytest.raises(MlcError, match="not finite"):
        retrieval_ranks(broken, unit(np.eye(3)))


def lookup(table: dict[str, np.ndarray], asked: list[list[str]]):
    def encode(texts: Sequence[str]) -> np.ndarray:
        asked.append(list(texts))
        return unit(np.stack([table[text] for text in texts]))

    return encode


def test_both_directions_repeated_texts_and_one_encoding_of_each_text() -> None:
    east, north, up = np.eye(3)
    table = {"a": east, "b": north, "A": east, "B": north, "c": up, "C": east + 0.1 * up}
    pairs = [
        ParallelTexts(("en", "de"), ("a", "b", "c"), ("A", "B", "C"), "x"),
        ParallelTexts(("en", "fr"), ("a", "b", "a"), ("A", "B", "A"), "y"),
    ]
    asked: list[list[str]] = []
    de, fr = evaluate_retrieval(pairs, lookup(table, asked))
    assert asked == [["a", "b", "c", "A", "B", "C"]]
    assert de.forward.top1 == 1.0  # C is the only candidate with some "up"
    assert de.backward.top1 == pytest.approx(2 / 3)  # C asks, and a is nearer to it than c
    assert de.top1 == pytest.approx(5 / 6)
    assert fr.repeated_texts == (1, 1)
    assert fr.forward.top1 == pytest.approx(1 / 3)  # the two equal candidates tie: neither is found
    assert mean_top1([de, fr]) == pytest.approx((de.top1 + fr.top1) / 2)
    assert mean_mrr([de, fr]) == pytest.approx((de.mrr + fr.mrr) / 2)


def test_best_layer_is_the_best_and_the_lowest_among_equals() -> None:
    pairs = [ParallelTexts(("en", "de"), ("a", "b"), ("A", "B"), "x")]
    good, bad = unit(np.eye(4)[[0, 1, 0, 1]]), unit(np.eye(4)[[0, 1, 1, 0]])
    layer, figures = best_layer(pairs, lambda texts: {0: bad, 1: good, 2: good})
    assert layer == 1
    assert figures == {0: 0.0, 1: 1.0, 2: 1.0}


def report_of(pairs: list[ParallelTexts], table: dict[str, np.ndarray]) -> RetrievalReport:
    return RetrievalReport(
        model="m",
        checkpoint="m/checkpoints/step-00000001/model",
        step=1,
        representation={"layer": 2, "pooling": "mean", "projection": False},
        data=("x",),
        limit=None,
        precision="fp32",
        max_tokens=16,
        texts=len(table),
        cut=1,
        pairs=tuple(evaluate_retrieval(pairs, lookup(table, []))),
    )


def test_report_holds_every_number_and_every_warning(capsys: pytest.CaptureFixture[str]) -> None:
    languages = ("de", "en", "fr", "sw")
    table = {f"{language}{k}": np.eye(3)[k] for language in languages for k in range(3)}
    pairs = [
        ParallelTexts((a, b), tuple(f"{a}{k}" for k in range(3)), tuple(f"{b}{k}" for k in range(3)), "x")
        for i, a in enumerate(languages)
        for b in languages[i + 1 :]
    ]
    report = report_of(pairs, table)
    print_report(report, Console(width=100))
    shown = capsys.readouterr().out
    assert "mean of 6" in shown
    assert "100.0" in shown
    assert "query language down" in shown  # the matrix
    assert "1 of 12 texts (8.3 %) are longer than 16 tokens" in shown
    content = json.loads(json.dumps(report.to_json()))
    assert content["task"] == "retrieval"
    assert len(content["pairs"]) == 6
    assert content["mean_top1"] == content["mean_mrr"] == 1.0
    assert content["candidates"] == 18


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "best"}, "dev"),
        ({"layer": "three"}, "no such layer"),
        ({"dev": [Path("x")]}, "only chooses"),
        ({"layer": "best", "dev": [Path("x")], "pooling": "cls"}, "mean-pooled"),
        ({"precision": "fp8"}, "no such precision"),
        ({"json_file": Path("no/such/folder/out.json")}, "folder does not exist"),
    ],
)
def test_bad_options_are_refused_before_any_work(options: dict[str, object], message: str) -> None:
    """Neither the model nor the data exist: the refusal must come first."""
    with pytest.raises(UsageError, match=message):
        run_retrieval("no/such/model", [Path("no/such/data")], **options)


def test_command_end_to_end(tmp_path: Path) -> None:
    """Every text with itself as its translation: found in full by any layer, which the lowest then wins."""
    make_checkpoint(tmp_path / "run", 3)
    rows = [{"de": text[:40], "en": text[:40]} for text in TRAINING_TEXTS]
    data = tmp_path / "de-en.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["--model", str(tmp_path / "run"), "--data", str(data), str(data), "--json", str(tmp_path / "out.json")]
    outcome = CliRunner().invoke(app, ["retrieval", *arguments, "--layer", "best", "--dev", str(data)])
    assert outcome.exit_code == 0, outcome.output
    assert "mean of 2" in outcome.output
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["mean_top1"] == content["mean_mrr"] == 1.0
    assert content["representation"] == {"layer": 0, "pooling": "mean", "projection": False}
    assert content["dev_top1"] == {"0": 1.0, "1": 1.0, "2": 1.0}
    assert (content["step"], content["candidates"], content["texts"]) == (3, 2 * len(rows), len(rows))


def test_help_has_examples() -> None:
    outcome = CliRunner().invoke(app, ["retrieval", "--help"])
    assert outcome.exit_code == 0
    assert "mlc evaluate retrieval --model runs/base" in outcome.output
