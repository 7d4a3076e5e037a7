"""Passage retrieval: SQuAD's JSON, MLQA's names and JSON lines are read; ranks equal a plain count."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlc.errors import DataError, UsageError
from mlc.evaluate.passages import passage_ranks, read_questions


def squad(paragraphs: list[tuple[str, list[tuple[str, str]]]]) -> str:
    return json.dumps(
        {
            "data": [
                {
                    "title": "t",
                    "paragraphs": [
                        {"context": context, "qas": [{"id": i, "question": q, "answers": []} for i, q in asked]}
                        for context, asked in paragraphs
                    ],
                }
            ]
        }
    )


def test_xquad_and_mlqa_and_lines(tmp_path: Path) -> None:
    (tmp_path / "xquad.de.json").write_text(
        squad([("Absatz", [("1", "Was?"), ("2", "Wer?")]), ("Noch", [("3", "Wo?")])])
    )
    (tmp_path / "test-context-en-question-de.json").write_text(squad([("Passage", [("1", "Was?"), ("9", "Wann?")])]))
    (tmp_path / "flat.jsonl").write_text(
        json.dumps({"lang": "eng_Latn", "id": 3, "question": "Where?", "context": "Another"}) + "\n"
    )
    data = read_questions([tmp_path])
    assert data.questions == {"de": {"1": "Was?", "2": "Wer?", "3": "Wo?", "9": "Wann?"}, "en": {"3": "Where?"}}
    assert data.passages == {"en": {"Another": 0, "Passage": 1}, "de": {"Absatz": 0, "Noch": 1}}
    assert data.gold == {"en": {"3": 0, "1": 1, "9": 1}, "de": {"1": 0, "2": 0, "3": 1}}
    assert data.repeated == 0  # question 1 is known in both, but with passages of different languages
    only = read_questions([tmp_path], languages=["de"])
    assert only.passages.keys() == {"de"}
    assert read_questions([tmp_path / "xquad.de.json"], limit=1).questions == {"de": {"1": "Was?"}}


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "xquad.de.json"
    file.write_text('{"data": [{"paragraphs": [{"qas": []}, 3]}]}')
    with pytest.raises(DataError, match=r"not SQuAD's JSON.*xquad|xquad.*not SQuAD's JSON"):
        read_questions([file])
    file.write_text(squad([("", [("1", "Was?")])]))
    with pytest.raises(DataError, match='"context" has no text'):
        read_questions([file])
    unnamed = tmp_path / "questions.json"
    unnamed.write_text(squad([("x", [("1", "Was?")])]))
    with pytest.raises(UsageError, match="language of the questions"):
        read_questions([unnamed])
    with pytest.raises(UsageError, match="language that was asked for"):
        read_questions([write(tmp_path, [("1", "a", "b")])], languages=["tr"])


def write(folder: Path, rows: list[tuple[str, str, str]]) -> Path:
    file = folder / "en.jsonl"
    file.write_text("".join(json.dumps({"id": i, "question": q, "context": c}) + "\n" for i, q, c in rows))
    return file


def test_a_question_that_occurs_twice_is_counted(tmp_path: Path) -> None:
    data = read_questions([write(tmp_path, [("1", "a", "b"), ("1", "c", "d")])])
    assert data.repeated == 1
    assert data.questions["en"]["1"] == "a"
    assert data.gold["en"]["1"] == 0


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), questions=st.integers(1, 12), passages=st.integers(1, 9))
def test_ranks_equal_a_plain_count(seed: int, questions: int, passages: int) -> None:
    random = np.random.default_rng(seed)
    asked, given_ = (
        (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        for rows in (random.normal(size=(questions, 5)), random.normal(size=(passages, 5)))
    )
    gold = random.integers(passages, size=questions)
    cosine = asked.astype(np.float64) @ given_.T.astype(np.float64)
    needed = [1 + sum(cosine[q, m] > cosine[q, gold[q]] for m in range(passages)) for q in range(questions)]
    assert passage_ranks(asked, given_, gold).tolist() == needed


def test_ties_count_against_the_model() -> None:
    same = np.ones((3, 1), dtype=np.float32)
    assert passage_ranks(same, same, np.array([0, 1, 2])).tolist() == [3, 3, 3]
