"""The set of planted near-copies is what it says, and its benchmark runs and scores."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import near_duplicates
import pytest
import zstandard
from near_duplicates import score
from near_duplicates_planted import UNRELATED, Amounts, Planted, write_set


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Random words and random Chinese characters, in sentences and lines."""
    drawn = random.Random(3)
    folder = tmp_path / "corpus"
    folder.mkdir()
    words = ["".join(drawn.choices("abcdefghijklmnoprstu", k=drawn.randint(2, 9))) for _ in range(2000)]
    characters = [chr(0x4E00 + i) for i in range(300)]
    for language, units, joint, end in (("en", words, " ", ". "), ("zh", characters, "", "。")):
        rows = []
        for number in range(40):
            sentences = [joint.join(drawn.choices(units, k=12)) + end for _ in range(200)]
            lines = ["".join(sentences[i : i + 4]).strip() for i in range(0, len(sentences), 4)]
            rows.append(json.dumps({"id": number, "text": "\n".join(lines)}, ensure_ascii=False))
        compressed = zstandard.ZstdCompressor().compress("\n".join(rows).encode())
        (folder / f"{language}.jsonl.zst").write_bytes(compressed)
    return folder


def words_in_a_row(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


def test_copies_are_as_similar_as_they_are_said_to_be(corpus: Path, tmp_path: Path) -> None:
    amounts = Amounts(families=30, unrelated=10, most_copies=2, lowest=0.3, highest=1.0)
    documents = write_set(corpus, ["en"], amounts, 1, tmp_path)
    lines = (tmp_path / "en.jsonl").read_text("utf-8").splitlines()
    shingles = [words_in_a_row(json.loads(line)["text"]) for line in lines]
    assert [document.line for document in documents] == list(range(1, len(lines) + 1))
    originals = {d.family: d for d in documents if d.family != UNRELATED and not d.kind}
    assert len(originals) == 30
    kinds = set()
    for document in documents:
        mine = shingles[document.line - 1]
        if document.kind:
            kinds.add(document.kind)
            other = shingles[originals[document.family].line - 1]
            assert len(mine & other) / len(mine | other) == pytest.approx(document.similarity)
            assert 0.3 <= document.similarity < 1
    assert len(kinds) == 4
    texts = [shingles[d.line - 1] for d in documents if not d.kind]
    assert max(len(a & b) / len(a | b) for i, a in enumerate(texts) for b in texts[:i]) < 0.12
    again = tmp_path / "again"
    again.mkdir()
    assert write_set(corpus, ["en"], amounts, 1, again) == documents


def test_scores_count_families() -> None:
    families = [0, 0, 0, 1, 1, UNRELATED]
    documents = [Planted("en", line, family, 1.0, "") for line, family in enumerate(families, 1)]
    assert score(documents, {("en", 2), ("en", 3), ("en", 5)}) == near_duplicates.Score(1.0, 1.0)
    assert score(documents, {("en", 1), ("en", 4), ("en", 5), ("en", 6)}) == near_duplicates.Score(2 / 3, 2 / 4)


@pytest.mark.slow
def test_the_benchmark_runs(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    near_duplicates.main([str(corpus), "--small", "--sets", "planted"])
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if line.startswith("| mlc prep build"))
    recall, precision = map(float, row.split("|")[2:4])
    assert recall >= 0.9
    assert precision == 1
    assert "first of every family stays: yes" in printed
    assert "in 2 languages" in printed


@pytest.mark.slow
def test_the_harder_set_runs(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    near_duplicates.main([str(corpus), "--small", "--sets", "harder"])
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| mlc prep build"))
    shares = list(map(float, row.split("|")[5:-1]))
    assert shares[0] == 0
    assert shares[-1] >= 0.9
