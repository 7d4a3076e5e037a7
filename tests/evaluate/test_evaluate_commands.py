"""Every task runs from its command on a small model and writes the one JSON shape; figures of the files are right."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from scipy.stats import pearsonr, spearmanr
from small_models import TRAINING_TEXTS, make_checkpoint
from typer.testing import CliRunner

from mlc.errors import DataError, UsageError
from mlc.evaluate.command import app
from mlc.evaluate.latency import buckets, quantised
from mlc.tasks.encoder import TextEncoder

# The number first: what is longer than 24 tokens is cut, and no two texts may be the same then.
TEXTS = [f"{k} {text[:28]}" for k, text in enumerate(TRAINING_TEXTS * 2)]
FIRST_KEYS = [
    "task", "model", "checkpoint", "step", "representation", "precision", "max_tokens", "texts", "cut",
    "skipped_checkpoints", "data", "scores",
]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("model") / "run"
    make_checkpoint(run, 3)
    return run


def write(file: Path, rows: Sequence[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return file


def run(task: str, model: Path, *arguments: object) -> tuple[Result, dict[str, Any]]:
    """The outcome of a command, and its JSON."""
    file = model.parent / f"{task}.json"
    command = [task, "--model", str(model), "--resamples", "20", "--json", str(file), *map(str, arguments)]
    outcome = CliRunner().invoke(app, command, catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    found = json.loads(file.read_text())
    assert list(found)[: len(FIRST_KEYS)] == FIRST_KEYS
    assert (found["task"], found["model"], found["step"]) == (task, str(model), 3)
    for name, score in found["scores"].items():
        assert {"value", "low", "high", "n"} <= score.keys(), name
        assert math.isfinite(score["value"])
    assert "model" in outcome.output
    return outcome, found


def test_sts_equals_scipy(model: Path, tmp_path: Path) -> None:
    rows = [
        {"lang": "de", "text": text, "text_pair": TEXTS[(3 * k + 1) % len(TEXTS)], "score": (7 * k) % 5}
        for k, text in enumerate(TEXTS)
    ]
    _, found = run("sts", model, "--data", write(tmp_path / "de.jsonl", rows))
    encoder = TextEncoder.load(str(model))
    first, second = (encoder.encode([row[key] for row in rows]) for key in ("text", "text_pair"))
    cosine, gold = (first * second).sum(1), [row["score"] for row in rows]
    # Cosines differ by rounding of float32 between batches, some 1e-6; ranks of close ones may change places.
    assert found["scores"]["spearman"]["value"] == pytest.approx(spearmanr(cosine, gold).statistic, abs=0.01)
    assert found["by_language"]["de"]["pearson"]["value"] == pytest.approx(pearsonr(cosine, gold).statistic, abs=1e-4)
    assert found["by_language"]["de"]["spearman"]["n"] == len(rows)


def test_sts_refuses_equal_scores(model: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "de.jsonl", [{"text": t, "text_pair": "x", "score": 1} for t in TEXTS[:4]])
    with pytest.raises(DataError, match="different scores"):
        run("sts", model, "--data", file)


def test_mining_writes_what_it_finds(model: Path, tmp_path: Path) -> None:
    """Texts with themselves as translations: every pair that is left in both lists is found."""
    file = write(tmp_path / "de-en.jsonl", [{"de": text, "en": text} for text in TEXTS])
    out = tmp_path / "mined.tsv"
    _, found = run("mining", model, "--data", file, "--out", out, "--parallel-share", "0.5")
    assert found["by_pair"]["de-en"]["recall"]["value"] == found["scores"]["recall"]["value"] > 0.9
    mined = [line.split("\t") for line in out.read_text().splitlines()]
    assert len(mined) == found["mining"]["de-en"]["mined"]
    right = sum(row[5] == "1" for row in mined)
    assert right / len(mined) == pytest.approx(found["scores"]["precision"]["value"])
    assert all(float(row[0]) >= found["mining"]["de-en"]["threshold"] for row in mined)


def test_mining_of_lists(model: Path, tmp_path: Path) -> None:
    for name in ("de", "en"):
        (tmp_path / f"list.{name}").write_text("".join(f"{name}{k}\t{text}\n" for k, text in enumerate(TEXTS)))
    gold = tmp_path / "gold"
    gold.write_text("".join(f"de{k}\ten{k}\n" for k in range(len(TEXTS))))
    lists = [tmp_path / "list.de", tmp_path / "list.en"]
    trained = ["--train-data", lists[0], "--train-data", lists[1], "--train-gold", gold]
    _, found = run("mining", model, "--data", *lists, "--gold", gold, *trained)
    assert found["scores"]["f1"]["value"] == 1.0
    out = tmp_path / "out.tsv"
    _, found = run("mining", model, "--data", *lists, "--threshold", "0.5", "--out", out)
    assert found["scores"] == {}
    assert len(out.read_text().splitlines()) == len(TEXTS)
    with pytest.raises(UsageError, match="need a threshold"):
        run("mining", model, "--data", *lists)
    with pytest.raises(UsageError, match="nothing to score"):
        run("mining", model, "--data", *lists, "--threshold", "0.5")
    with pytest.raises(UsageError, match="two whole files"):
        run("mining", model, "--data", *lists, "--gold", gold, "--limit", "5")


def test_documents_in_pieces(model: Path, tmp_path: Path) -> None:
    """Documents of several sentences, far longer than 24 tokens; two of each language have no counterpart."""
    long = [" ".join(TEXTS[k : k + 3]) for k in range(0, 18, 3)]
    for language, skipped in (("de", 0), ("en", 1)):
        rows = [{"id": k, "lang": language, "text": text} for k, text in enumerate(long) if k != skipped]
        write(tmp_path / f"{language}.jsonl", rows)
    for pieces in ("windows", "sentences"):
        _, found = run("documents", model, "--data", tmp_path, "--pieces", pieces, "--matching", "hungarian")
        assert found["by_pair"]["de-en"]["top1"]["value"] == 1.0
        assert found["by_pair"]["de-en"]["recall"]["n"] == 4
        assert found["cut"] == 0
        assert found["texts"] > len(long)
    _, found = run("documents", model, "--data", tmp_path, "--pieces", "whole")
    assert found["cut"] == found["texts"] == len(long)
    with pytest.raises(UsageError, match="no such value"):
        run("documents", model, "--data", tmp_path, "--pieces", "half")


def test_clusters_and_probe(model: Path, tmp_path: Path) -> None:
    for language in ("de", "en"):
        rows = [
            {"lang": language, "text": f"{('sea', 'hill')[k % 2] * 4} {language} {k}", "label": ("x", "y")[k % 2]}
            for k in range(24)
        ]
        write(tmp_path / f"{language}.jsonl", rows)
    _, found = run("clusters", model, "--data", tmp_path, "--seeds", "2")
    assert found["clusters"] == 2
    assert set(found["by_language"]) == {"de", "en"}
    assert set(found["scores"]) == {"v_measure", "adjusted_rand", "purity", "nmi_language"}
    train = ["--train", tmp_path / "en.jsonl", "--train-rows", ":16", "--test-rows", "16:"]
    _, found = run("probe", model, *train, "--data", tmp_path, "--shots", "2,4", "--seeds", "2")
    assert found["scores"]["accuracy"]["value"] == 1.0  # the words are different
    assert found["scores"]["accuracy"]["n"] == 16
    assert set(found["by_language"]["de"]) == {"accuracy", "macro_f1", "accuracy_2_shots", "accuracy_4_shots"}
    assert found["by_language"]["de"]["accuracy_4_shots"]["n"] == 2
    assert found["train_examples"] == 16
    assert found["majority_accuracy"] == 0.5
    for option, value in (("--train-rows", "5"), ("--test-rows", "9:3"), ("--shots", "2,x"), ("--limit", "5")):
        with pytest.raises(UsageError):
            run("probe", model, "--train", tmp_path / "en.jsonl", "--data", tmp_path, option, value)
    with pytest.raises(UsageError, match="language that was asked for"):
        run("clusters", model, "--data", tmp_path, "--languages", "fr")


def test_probe_of_pairs(model: Path, tmp_path: Path) -> None:
    """Whether two texts are the same: [u, v, |u - v|, u * v] shows it, a text alone does not."""
    rows = [
        {"lang": "en", "text": TEXTS[k], "text_pair": TEXTS[k if k % 2 else k + 5], "label": k % 2}
        for k in range(len(TEXTS) - 5)
    ]
    file = write(tmp_path / "en.jsonl", rows)
    _, found = run("probe", model, "--train", file, "--data", file)
    assert found["scores"]["accuracy"]["value"] > 0.9
    assert found["labels"] == ["0", "1"]


def test_alignment(model: Path, tmp_path: Path) -> None:
    rows = [{"de": f"{text} ja", "en": f"{text} no"} for text in TEXTS]
    outcome, found = run("alignment", model, "--data", write(tmp_path / "de-en.jsonl", rows))
    encoder = TextEncoder.load(str(model))
    first, second = (encoder.encode([row[key] for row in rows]) for key in ("de", "en"))
    needed = ((first.astype(np.float64) - second) ** 2).sum(1).mean()
    assert found["by_pair"]["de-en"]["alignment"]["value"] == pytest.approx(needed, abs=1e-5)
    assert found["scores"]["alignment"] == found["by_pair"]["de-en"]["alignment"]
    assert found["chance_language_probe"] == 0.5
    assert set(found["by_language"]) == {"de", "en"}
    assert "by chance 0.500" in outcome.output


def test_passages_of_all_combinations(model: Path, tmp_path: Path) -> None:
    for language in ("de", "en"):
        rows = [{"id": k, "question": text, "context": text} for k, text in enumerate(TEXTS)]
        write(tmp_path / f"{language}.jsonl", rows)
    plot = tmp_path / "map.png"
    _, found = run("passages", model, "--data", tmp_path, "--plot", plot)
    assert set(found["by_pair"]) == {"de-de", "de-en", "en-de", "en-en"}
    assert found["scores"]["top1"]["value"] == found["scores"]["mrr"]["value"] == 1.0
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_latency_of_every_precision(model: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("".join(f"{text}\n" for text in TEXTS[:12]))
    _, found = run("latency", model, "--data", tmp_path / "texts.txt", "--repeats", "2")
    assert found["scores"]["fp32_cosine_with_fp32"]["value"] == pytest.approx(1, abs=1e-6)
    # Rounding to 8 and 7 bits changes vectors, and little.
    for precision, least in (("bf16", 0.999), ("int8", 0.99)):
        assert least < found["scores"][f"{precision}_cosine_with_fp32"]["value"] < 1 - 1e-9
    for precision in ("fp32", "bf16", "int8"):
        row = found["by_length"][f"{precision}, all"]
        assert 0 < row["p50_ms"]["value"] <= row["p99_ms"]["value"]
        assert row["texts_per_second"]["value"] > 0
    with pytest.raises(UsageError, match="no such precision"):
        run("latency", model, "--data", tmp_path / "texts.txt", "--precisions", "fp8")


def test_every_linear_layer_is_quantised(model: Path) -> None:
    """Subclasses of nn.Linear too, which torch itself passes over; the encoder that was given stays as it was."""
    encoder = TextEncoder.load(str(model), device="cpu")
    before = encoder.encode(TEXTS[:3])
    linears = sum(isinstance(module, torch.nn.Linear) for module in encoder.model.backbone.modules())
    small = quantised(encoder)
    kinds = [type(module) for module in small.model.backbone.modules()]
    assert kinds.count(torch.ao.nn.quantized.dynamic.Linear) == linears > 0
    assert not any(issubclass(kind, torch.nn.Linear) for kind in kinds)
    np.testing.assert_array_equal(encoder.encode(TEXTS[:3]), before)


def test_buckets_hold_every_text_once() -> None:
    lengths = np.array([3, 16, 17, 512, 513, 4000])
    found = {name: places.tolist() for name, places in buckets(lengths).items()}
    assert found == {"1-16": [0, 1], "17-32": [2], "257-512": [3], "over 512": [4, 5]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sts", "--precision", "fp8"], "no such precision"),
        (["alignment", "--json", "no/such/folder/x.json"], "folder does not exist"),
        (["mining", "--scoring", "dot"], "no such value"),
        (["passages", "--plot", "x.pdf"], "cannot be drawn"),
    ],
)
def test_bad_options_are_refused_before_any_work(arguments: list[str], message: str) -> None:
    """Neither the model nor the data exist: the refusal must come first."""
    command = [*arguments, "--model", "no/such/model", "--data", "no/such/data"]
    with pytest.raises(UsageError, match=message):
        CliRunner().invoke(app, command, catch_exceptions=False)


@pytest.mark.parametrize(
    "task", ["mining", "sts", "documents", "clusters", "alignment", "probe", "passages", "latency"]
)
def test_help_has_examples_and_the_shared_options(task: str) -> None:
    outcome = CliRunner().invoke(app, [task, "--help"], env={"COLUMNS": "200"})
    assert outcome.exit_code == 0
    assert f"mlc evaluate {task} --model runs/base" in outcome.output
    for option in ("--model", "--data", "--languages", "--pooling", "--json", "--resamples"):
        assert option in outcome.output
