"""Commands on fine-tuned models: figures of the files are right, comparisons are paired, bad input is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from finetune_for_tests import write_questions, write_scores, write_words
from ranking_for_tests import write_rankings
from saved_finetuned import save_finetuned
from scipy.stats import spearmanr
from sklearn.metrics import f1_score
from small_corpus import text
from typer.testing import CliRunner

from mlc.errors import DataError, UsageError
from mlc.evaluate.command import app

NLI = ("contradiction", "entailment", "neutral")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classifiers of pairs, trained on English, and data in three languages with the same rows."""
    folder = tmp_path_factory.mktemp("finetuned")
    for name, seed in (("one", 1), ("other", 2)):
        save_finetuned(folder / name, "classification", NLI, pairs=True, seed=seed)
    for language in ("en", "de", "zh"):
        lines = [
            {
                "text": text(language, number, 5),
                "text_pair": text(language, number + 500, 3),
                "label": NLI[number * 7 % 3],
            }
            for number in range(30)
        ]
        write(folder / f"{language}.jsonl", lines)
    return folder


def write(file: Path, lines: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return file


def run(tmp_path: Path, task: str, model: Path, *arguments: object) -> tuple[Result, dict[str, Any]]:
    command = [task, "--model", str(model), "--resamples", "50", "--json", str(tmp_path / "out.json")]
    outcome = CliRunner().invoke(app, [*command, *map(str, arguments)], catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return outcome, json.loads((tmp_path / "out.json").read_text())


def read_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_scores_of_languages_and_their_means(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    source = f"{folder}/{{language}}.jsonl"
    outcome, found = run(
        tmp_path, "xnli", folder / "one", "--data", source, "--languages", "de,en,zh", "--rows", "10:",
        "--predictions", out,
    )  # fmt: skip
    answers = read_lines(out)
    assert len(answers) == found["texts"] == 60
    assert {line["line"] for line in answers} == set(range(11, 31))
    accuracy = {
        language: np.mean([line["answer"] == line["label"] for line in answers if line["language"] == language])
        for language in ("de", "en", "zh")
    }
    assert len(set(accuracy.values())) > 1
    for language, value in accuracy.items():
        assert found["by_language"][language]["accuracy"]["value"] == pytest.approx(value)
        own = [line for line in answers if line["language"] == language]
        gold, answered = ([line[key] for line in own] for key in ("label", "answer"))
        expected = f1_score(gold, answered, average="macro", labels=sorted({*gold, *answered}))
        assert found["by_language"][language]["macro_f1"]["value"] == pytest.approx(expected)
    assert found["scores"]["accuracy"]["value"] == pytest.approx(np.mean(list(accuracy.values())))
    assert found["scores"]["accuracy_zero_shot"]["value"] == pytest.approx((accuracy["de"] + accuracy["zh"]) / 2)
    assert found["trained"] == ["en"]
    assert (found["task"], found["cut_unit"], found["set_aside"]) == ("xnli", "texts", {})
    assert "zero-shot: de, zh" in outcome.output

    _, chosen = run(
        tmp_path, "xnli", folder / "one", "--data", source, "--languages", "de,en,zh", "--rows", "10:",
        "--metric", "macro_f1", "--trained", "zh",
    )  # fmt: skip
    assert next(iter(chosen["scores"])) == chosen["score"] == "macro_f1"
    macro_f1 = [found["by_language"][language]["macro_f1"]["value"] for language in ("de", "en")]
    assert chosen["scores"]["macro_f1_zero_shot"]["value"] == pytest.approx(np.mean(macro_f1))


def test_languages_select_where_sources_have_no_place_for_them(folder: Path, tmp_path: Path) -> None:
    files = [folder / f"{language}.jsonl" for language in ("en", "de", "zh")]
    _, found = run(tmp_path, "classification", folder / "one", "--data", *files, "--languages", "zh,de")
    assert list(found["by_language"]) == ["de", "zh"]
    with pytest.raises(UsageError, match="nothing in a language"):
        run(tmp_path, "classification", folder / "one", "--data", *files, "--languages", "fr")
    with pytest.raises(UsageError, match="no rows are left"):
        run(tmp_path, "classification", folder / "one", "--data", *files, "--rows", "30:")


def test_the_difference_of_two_models_is_paired(folder: Path, tmp_path: Path) -> None:
    data = ["--data", f"{folder}/{{language}}.jsonl", "--languages", "de,en"]
    outcome, found = run(tmp_path, "xnli", folder / "one", *data, "--against", folder / "other")
    _, alone = run(tmp_path, "xnli", folder / "other", *data)
    for language in ("de", "en"):
        row = found["by_language"][language]
        assert row["against"] == alone["by_language"][language]["accuracy"]
        assert row["difference"]["value"] == pytest.approx(row["accuracy"]["value"] - row["against"]["value"])
        assert row["difference"]["low"] < row["difference"]["high"]
    scores = found["scores"]
    assert scores["against"] == alone["scores"]["accuracy"]
    assert scores["difference"]["value"] == pytest.approx(scores["accuracy"]["value"] - scores["against"]["value"])
    assert "difference" in outcome.output
    # The same model: 0 on every draw, which only holds where both see the same draws.
    _, same = run(tmp_path, "xnli", folder / "one", *data, "--against", folder / "one")
    assert [same["scores"]["difference"][key] for key in ("value", "low", "high")] == [0.0, 0.0, 0.0]
    assert same["by_language"]["de"]["accuracy"]["low"] < same["by_language"]["de"]["accuracy"]["high"]


def test_regression_words_and_questions(tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    model = save_finetuned(tmp_path / "sts", "regression", pairs=True)
    _, found = run(tmp_path, "regression", model, "--data", write_scores(tmp_path / "sts.jsonl"), "--predictions", out)
    answers = read_lines(out)
    expected = spearmanr([line["score"] for line in answers], [line["answer"] for line in answers]).statistic
    assert found["scores"]["spearman"]["value"] == pytest.approx(expected)

    model = save_finetuned(tmp_path / "names", "token_classification", ("B-PER", "O"))
    words = write_words(tmp_path / "words.jsonl")
    _, found = run(tmp_path, "ner", model, "--data", words, "--predictions", out)
    answers = read_lines(out)
    assert all(len(line["answer"]) == len(line["tokens"]) for line in answers)
    gold = sum(line["labels"].count("B-PER") for line in answers)
    hits = sum(
        label == answer == "B-PER"
        for line in answers
        for label, answer in zip(line["labels"], line["answer"], strict=True)
    )
    given = sum(line["answer"].count("B-PER") for line in answers)  # every B- begins an entity of one word
    assert found["scores"]["f1"]["value"] == pytest.approx(2 * hits / (gold + given))
    assert found["cut_unit"] == "words"

    model = save_finetuned(tmp_path / "answers", "question_answering")
    questions = write_questions(tmp_path / "questions.jsonl")
    _, found = run(tmp_path, "qa", model, "--data", questions, "--predictions", out)
    answers = read_lines(out)
    assert all(line["answer"] in line["context"] for line in answers)
    exact = [line["answer"] == line["answers"][0]["text"] for line in answers]
    assert found["scores"]["exact_match"]["value"] == pytest.approx(np.mean(exact))


def test_passages_of_queries_are_ranked(tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    model = save_finetuned(tmp_path / "ranks", "ranking", pairs=True)
    data = write_rankings(tmp_path / "passages.jsonl", 8)
    _, found = run(tmp_path, "reranking", model, "--data", data, "--predictions", out)
    ranks = []
    for line in read_lines(out):
        right, wrong = line["answer"][: len(line["positives"])], line["answer"][len(line["positives"]) :]
        ranks.append(1 + sum(score >= max(right) for score in wrong))  # a tie counts against the model
    assert len(ranks) == 8
    assert len(set(ranks)) > 1
    assert found["scores"]["mrr"]["value"] == pytest.approx(np.mean(1 / np.array(ranks)))
    with data.open("a") as file:
        file.write('{"query": "q", "positives": ["p"], "negatives": []}\n')
    with pytest.raises(DataError, match=r"passages\.jsonl:9"):
        run(tmp_path, "reranking", model, "--data", data)
    with pytest.raises(UsageError, match=r"evaluate reranking"):
        run(tmp_path, "regression", model, "--data", write_scores(tmp_path / "sts.jsonl"))


def test_a_model_of_another_task_is_refused_with_the_right_command(folder: Path, tmp_path: Path) -> None:
    data = ["--data", folder / "de.jsonl"]
    with pytest.raises(UsageError, match=r"other labels than pawsx; found contradiction[\s\S]*evaluate classification"):
        run(tmp_path, "pawsx", folder / "one", *data)
    with pytest.raises(UsageError, match="another form than topics; found two texts"):
        run(tmp_path, "topics", folder / "one", *data)
    with pytest.raises(UsageError, match=r"another kind of task than ner; found classification"):
        run(tmp_path, "ner", folder / "one", "--data", write_words(tmp_path / "words.jsonl"))
    with pytest.raises(UsageError, match="no such score"):
        run(tmp_path, "xnli", folder / "one", *data, "--metric", "bleu")


def test_bad_records_stop_the_command_or_are_counted(folder: Path, tmp_path: Path) -> None:
    lines = read_lines(folder / "de.jsonl")
    lines[4]["label"] = "perhaps"
    with pytest.raises(DataError, match=r"bad\.jsonl:5: the label is outside the set; found 'perhaps' \(1 of 30"):
        run(tmp_path, "xnli", folder / "one", "--data", write(tmp_path / "bad.jsonl", lines))
    lines = [dict(line) for line in read_lines(folder / "de.jsonl") * 4]
    lines[4]["text"] = ""
    bad = write(tmp_path / "empty.jsonl", lines)
    with pytest.raises(DataError, match=r"empty\.jsonl:5"):
        run(tmp_path, "xnli", folder / "one", "--data", bad)
    outcome, found = run(tmp_path, "xnli", folder / "one", "--data", bad, "--set-aside")
    assert (found["texts"], sum(found["set_aside"].values())) == (119, 1)
    assert "set aside: 1 x " in outcome.output
    columns = [{"premise": line["text"], "claim": line["text_pair"], "gold": line["label"]} for line in lines[5:]]
    named = write(tmp_path / "named.jsonl", columns)
    _, found = run(
        tmp_path, "xnli", folder / "one", "--data", named, "--columns", "text=premise, text_pair=claim,label=gold"
    )
    assert found["texts"] == 115
