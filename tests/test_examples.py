"""Every script of docs/examples, on a small model: with made-up data, and with files of which the answer is known."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from small_models import GLM, TRAINING_TEXTS, make_checkpoint

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "examples"
TEXTS = [text.replace("\t", " ") for text in TRAINING_TEXTS]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights: what the tests ask for follows from equal texts, or is learned on the way."""
    run = tmp_path_factory.mktemp("examples") / "run"
    make_checkpoint(run, 3, section=GLM, max_tokens=96)
    return run


@dataclass(frozen=True)
class Case:
    """A call of a script.

    Attributes:
        script: its name.
        arguments: given a folder to write to; they come after MODEL.
        check: of what was printed.
    """

    script: str
    arguments: Callable[[Path], list[str]]
    check: Callable[[str], None]


def write(file: Path, lines: list[str]) -> str:
    file.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return str(file)


def number(pattern: str, printed: str) -> float:
    found = re.search(pattern, printed)
    assert found, printed
    return float(found[1])


def printed_all(*needed: str) -> Callable[[str], None]:
    def check(printed: str) -> None:
        assert [part for part in needed if part not in printed] == [], printed

    return check


def same_twice(folder: Path) -> list[str]:
    texts = write(folder / "texts.txt", TEXTS)
    return ["--first", texts, "--second", texts]


def judged(folder: Path) -> list[str]:
    """Equal texts were judged 1, others 0."""
    rows = [f"{text}\t{other}\t{float(text == other)}" for text in TEXTS[:6] for other in TEXTS[:6]]
    return ["--data", write(folder / "sts.tsv", rows)]


def judgements_are_met(printed: str) -> None:
    # 6 of 36 cosines are 1 and the others below: the rank correlation of that is 0.65 with ties on one side.
    assert number(r"Spearman's rho ([\d.-]+)", printed) > 0.6


def repeated(folder: Path) -> list[str]:
    rows = [{"text": TEXTS[place % 3], "lang": "en", "topic": str(place % 3)} for place in range(12)]
    return ["--data", write(folder / "topics.jsonl", [json.dumps(row) for row in rows])]


def nothing_to_look_for(folder: Path) -> list[str]:
    return [write(folder / "texts.jsonl", [json.dumps({"text": text}) for text in TEXTS]), TEXTS[3], str(folder)]


def first_hit_is_the_query(printed: str) -> None:
    hits = [line for line in printed.splitlines() if re.search(r"\b[01]\.\d{3}", line)]
    assert hits, printed
    assert TEXTS[3][:20] in hits[0], printed


def english_is_learned(printed: str) -> None:
    assert number(r"en: \w+ ([\d.]+) .*trained on", printed) > 0.8
    assert re.search(r"de: \w+ [\d.]+ .*zero-shot", printed), printed


def reader_answers(printed: str) -> None:
    assert 0 <= number(r"en: f1 ([\d.]+) .*trained on", printed) <= 1
    assert "Wo wohnt Hugo? -> " in printed


def passages_are_ordered(printed: str) -> None:
    assert 0 <= number(r"mrr\W+([\d.]+)", printed) <= 1
    scores = [float(score) for score in re.findall(r"^  (-?[\d.]+)  \w", printed, re.MULTILINE)]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)


def sentences_are_translated(printed: str) -> None:
    for direction in ("de>en", "en>de"):
        assert 0 <= number(rf"{direction}: chrf ([\d.]+) ", printed) <= 100
    assert len(re.findall(r"^\S.* -> ", printed, re.MULTILINE)) == 3


def both_ways_are_scored(printed: str) -> None:
    for way in ("cloze", "classification"):
        assert 0.3 <= number(rf"{way}, 8 shots: accuracy ([\d.]+), mean of 2 seeds", printed) <= 1


def two_samples(folder: Path) -> list[str]:
    del folder
    return ["--text", "The [MASK].", "--samples", "2", "--max-new-tokens", "3"]


def two_fillings(printed: str) -> None:
    assert printed.count("  -> The") == 2, printed


def exported(folder: Path) -> list[str]:
    return [str(folder / "exported")]


def out(*more: str) -> Callable[[Path], list[str]]:
    return lambda folder: ["--out", str(folder / "out"), *more]


def none(folder: Path) -> list[str]:
    del folder
    return []


FAST = (
    Case("tatoeba_retrieval.py", none, printed_all("made-up", "200 pairs")),
    Case("tatoeba_retrieval.py", same_twice, printed_all("9 pairs", "100.0% forward, 100.0% backward")),
    Case("sentence_similarity.py", none, printed_all("made-up", "60 pairs: Spearman's rho")),
    Case("sentence_similarity.py", judged, judgements_are_met),
    Case("topic_clusters.py", none, printed_all("made-up", "agreement with lang")),
    Case("topic_clusters.py", repeated, printed_all("agreement with topic: V-measure 1.000")),
    Case("mine_parallel_sentences.py", none, printed_all("made-up", "pairs above 1.1")),
    Case("mine_parallel_sentences.py", same_twice, printed_all("9 pairs above")),
    Case("fill_blanks.py", none, printed_all("In the morning the [MASK] went", "-> In the morning the")),
    Case("fill_blanks.py", two_samples, two_fillings),
    Case("use_with_sentence_transformers.py", exported, printed_all("differs from the model by", "Der Prinz putzte")),
    Case("sentiment.py", out("--steps", "60", "--learning-rate", "3e-3"), english_is_learned),
)
SLOW = (
    Case("named_entities.py", out("--steps", "100", "--learning-rate", "3e-3"), english_is_learned),
    Case("question_answering.py", out("--steps", "20"), reader_answers),
    Case("retrieve_and_rerank.py", out("--steps", "20"), passages_are_ordered),
    Case("translate.py", out("--steps", "20"), sentences_are_translated),
    Case("few_shots.py", out("--steps", "20"), both_ways_are_scored),
    Case("embed_and_search.sh", none, printed_all("4 vectors")),
    Case("embed_and_search.sh", nothing_to_look_for, first_hit_is_the_query),
)


def name_of(case: Case) -> str:
    return case.script


def test_every_script_is_run_and_listed() -> None:
    scripts = {path.name for path in FOLDER.iterdir() if path.suffix in (".py", ".sh")}
    assert scripts == {case.script for case in FAST + SLOW}
    listed = (FOLDER / "README.md").read_text()
    assert [script for script in scripts if f"]({script})" not in listed] == []


@pytest.mark.parametrize("case", FAST, ids=name_of)
def test_example(
    case: Case, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_case(case, model, tmp_path, capfd, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW, ids=name_of)
def test_slow_example(
    case: Case, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_case(case, model, tmp_path, capfd, monkeypatch)


def run_case(
    case: Case, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    for key, value in {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path)}.items():
        monkeypatch.setenv(key, value)
    arguments = [str(model), *case.arguments(tmp_path)]
    file = FOLDER / case.script
    if file.suffix == ".sh":
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        monkeypatch.setenv("PATH", programs)
        assert subprocess.run(["sh", str(file), *arguments], check=False).returncode == 0
    else:  # in this process, which has imported torch already; `main` is all that running the file calls
        spec = importlib.util.spec_from_file_location(f"example_{file.stem}", file)
        assert spec is not None
        assert spec.loader is not None
        script = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(script)
        script.main(arguments)
    case.check(capfd.readouterr().out)
