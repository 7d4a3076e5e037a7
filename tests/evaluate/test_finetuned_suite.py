"""Suites of tasks go on where they stopped; results of several runs become one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from saved_finetuned import save_finetuned
from small_models import TRAINING_TEXTS, make_checkpoint
from typer.testing import CliRunner

from mlc.errors import DataError, RecipeError, UsageError
from mlc.evaluate.command import app
from mlc.evaluate.commands_of_results import run_suite
from mlc.evaluate.suite import read_suite

LABELS = ("a", "b", "c")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pre-trained model, two fine-tuned ones, parallel texts, labelled texts."""
    folder = tmp_path_factory.mktemp("suite")
    make_checkpoint(folder / "base", 3)
    for name, seed in (("first", 1), ("second", 2)):
        save_finetuned(folder / f"topics-{name}", "classification", LABELS, seed=seed)
    write(folder / "de-en.jsonl", [{"de": text, "en": text[3:]} for text in TRAINING_TEXTS])
    for language in ("en", "de"):
        rows = [{"text": f"{language} {text}", "label": LABELS[k % 3]} for k, text in enumerate(TRAINING_TEXTS)]
        write(folder / f"{language}.jsonl", rows)
    return folder


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return file


def suite_table(folder: Path, **tasks: dict[str, Any]) -> dict[str, Any]:
    return {
        "results": str(folder / "results.jsonl"),
        "models": {"first": str(folder / "base"), "second": str(folder / "base")},
        "options": {"resamples": 20, "threads": 1},
        "tasks": {
            "pairs": {
                "task": "retrieval",
                "models": ["first"],
                "data": [str(folder / "de-en.jsonl")],
                "languages": ["de", "en"],
            },
            "topics": {
                "model": f"{folder}/topics-{{model}}",
                "data": [f"{folder}/{{language}}.jsonl"],
                "languages": ["de", "en"],
            },
            **tasks,
        },
    }


def write_suite(file: Path, table: dict[str, Any]) -> Path:
    file.write_text(tomli_w.dumps(table))
    return file


def test_a_stopped_suite_goes_on_where_it_was(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, file = tmp_path / "results.jsonl", write_suite(tmp_path / "suite.toml", suite_table(folder))
    assert run_suite(file, results, json_file=tmp_path / "table.json") == {}
    first, content = capsys.readouterr(), results.read_bytes()
    lines = [json.loads(line) for line in content.splitlines()]
    assert [(line["item"], line["model_name"]) for line in lines] == [
        ("pairs", "first"), ("topics", "first"), ("topics", "second"),
    ]  # fmt: skip
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["first", "second"]
    assert list(rows[0]["cells"]) == ["pairs: top1", "topics: accuracy", "topics: accuracy, zero-shot"]
    assert list(rows[1]["cells"]) == ["topics: accuracy", "topics: accuracy, zero-shot"]
    for row, line in zip(rows, lines[1:], strict=True):
        assert row["cells"]["topics: accuracy"]["value"] == line["result"]["scores"]["accuracy"]["value"]
        assert row["cells"]["topics: accuracy"]["value"] == pytest.approx(
            sum(line["result"]["by_language"][language]["accuracy"]["value"] for language in ("de", "en")) / 2
        )
    assert "done before" not in first.err

    # Killed in the middle of writing the last line: only that task runs again.
    results.write_bytes(content[:-20])
    run_suite(file, results)
    assert capsys.readouterr().err.count("done before") == 2
    again = [json.loads(line) for line in results.read_bytes().splitlines()]
    assert again == lines

    # Another option of one task: its results no longer count.
    table = suite_table(folder)
    table["tasks"]["topics"]["metric"] = "macro_f1"
    run_suite(write_suite(file, table), results)
    assert capsys.readouterr().err.count("done before") == 1


def test_a_task_that_fails_is_named_and_the_others_go_on(folder: Path, tmp_path: Path) -> None:
    xnli = {"models": ["first"], "model": str(folder / "topics-first"), "data": [str(folder / "de.jsonl")]}
    table = suite_table(folder)
    table["tasks"] = {"xnli": xnli, "topics": table["tasks"]["topics"]}
    file = write_suite(tmp_path / "suite.toml", table)
    command = ["suite", str(file), "--results", str(tmp_path / "r.jsonl"), "--markdown"]
    outcome = CliRunner().invoke(app, command, catch_exceptions=False)
    assert outcome.exit_code == 1
    assert "failed: xnli of first" in outcome.stderr
    assert "other labels than xnli" in outcome.stderr
    assert "| second | 0." in outcome.stdout
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"task": "nothing"}, r"tasks\.bad\.task: no such task; found nothing; needed retrieval, mining"),
        (
            {"task": "sts", "data": ["x"], "seeds": 3},
            r"tasks\.bad: sts has no such option; found seeds; needed .*layer",
        ),
        ({"task": "topics"}, r"tasks\.bad: topics needs this option; found nothing; needed data"),
        ({"task": "clusters", "data": ["x"], "seeds": "3"}, r"tasks\.bad\.seeds: the value is refused; found '3'"),
        (
            {"task": "clusters", "data": ["x"], "seeds": 0},
            r"tasks\.bad\.seeds: the value is refused; found 0; needed >= 1",
        ),
        ({"task": "sts", "data": ["x"], "models": ["third"]}, r"tasks\.bad\.models: no such model; found third"),
    ],
    ids=lambda value: str(value.get("task")) if isinstance(value, dict) else "",
)
def test_a_suite_is_checked_before_anything_runs(
    folder: Path, tmp_path: Path, task: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        read_suite(write_suite(tmp_path / "suite.toml", suite_table(folder, bad=task)))


def test_keys_are_the_names_of_options_and_reach_the_task(folder: Path, tmp_path: Path) -> None:
    task = {"task": "clusters", "data": ["{model}/x"], "clusters": 4, "batch_tokens": 99, "languages": ["de", "en"]}
    _, items = read_suite(write_suite(tmp_path / "suite.toml", suite_table(folder, own=task)))
    [first, second] = [item for item in items if item.name == "own"]
    assert (first.own, first.options.batch_tokens, first.options.languages) == ({"number": 4}, 99, "de,en")
    assert [list(map(str, item.options.data)) for item in (first, second)] == [["first/x"], ["second/x"]]
    assert first.options.model == str(folder / "base")


def test_options_of_a_suite_that_no_task_takes_are_refused(folder: Path, tmp_path: Path) -> None:
    table = suite_table(folder)
    table["options"]["treads"] = 1
    with pytest.raises(RecipeError, match=r"options: no task has this option; found treads"):
        read_suite(write_suite(tmp_path / "suite.toml", table))
    table = suite_table(folder)
    table["models"]["first"] = str(tmp_path / "missing")
    with pytest.raises(UsageError, match="no such model"):
        run_suite(write_suite(tmp_path / "suite.toml", table))


def figure(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def test_results_of_several_runs_become_one_table(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "sent"
    run.mkdir(parents=True)
    scores = {
        language: {"accuracy": figure(a), "f1": figure(f)} for language, a, f in (("de", 0.5, 0.25), ("en", 1.0, 0.75))
    }
    test = {
        "step": 5,
        "score": "accuracy",
        "languages": {language: found["accuracy"] for language, found in scores.items()},
        "macro": figure(0.75),
        "zero_shot": figure(0.5),
        "trained": ["en"],
        "sets": {language: {"scores": found} for language, found in scores.items()},
    }
    (run / "test.json").write_text(json.dumps(test))
    seeds = {
        "score": "accuracy",
        "series": [
            {
                "name": "8 shots",
                "languages": {"de": {"value": 0.5, "sd": 0.125, "n": 2}},
                "macro": {"value": 0.5, "sd": 0.125, "n": 2},
                "zero_shot": None,
            }
        ],
    }
    (tmp_path / "seeds.json").write_text(json.dumps(seeds))
    command = ["classification", "--model", str(folder / "topics-first"), "--data", str(folder / "de.jsonl")]
    CliRunner().invoke(app, [*command, "--json", str(tmp_path / "one.json")], catch_exceptions=False)
    own = json.loads((tmp_path / "one.json").read_text())["scores"]["accuracy"]["value"]

    def table(*arguments: object) -> str:
        outcome = CliRunner().invoke(app, ["table", "--markdown", *map(str, arguments)], catch_exceptions=False)
        assert outcome.exit_code == 0
        return outcome.stdout

    found = table(run, f"few={tmp_path / 'seeds.json'}", f"own={tmp_path / 'one.json'}")
    assert found.splitlines() == [
        "| run (accuracy, classification accuracy) | de | en | mean | zero-shot |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| sent | 0.500 | 1.000 | 0.750 | 0.500 |",
        "| few 8 shots | 0.500 ± 0.125 |  | 0.500 ± 0.125 |  |",
        f"| own | {own:.3f} |  | {own:.3f} | {own:.3f} |",
    ]
    assert "| sent | 0.500 [0.400, 0.600] | 1.000 [0.900, 1.100] |" in table(run, "--intervals")
    assert "| sent | 0.250 | 0.750 | 0.500 | 0.250 |" in table(run / "test.json", "--score", "f1")
    with pytest.raises(UsageError, match="no such score"):
        table(run, "--score", "bleu")
    with pytest.raises(UsageError, match="there are no results"):
        table(tmp_path / "runs")
    (tmp_path / "other.json").write_text('{"x": 1}')
    with pytest.raises(DataError, match="this is no results file"):
        table(tmp_path / "other.json")
