"""Cross-lingual question answering as passage retrieval: a question of one language, passages of another.

In:  SQuAD's JSON (XQuAD: Artetxe et al. 2020; MLQA: Lewis et al. 2020), or JSON lines of {"id", "lang", "question",
     "context"}; the same id in two languages is the same question.
Out: top-1, top-5 and top-10 accuracy and MRR of every pair (language of the question, language of the passages).
Letters: Q questions, M different passages of a language, D = embedding size.

A file's languages are the "lang" of a record, "context-<a>-question-<b>" in its name (MLQA), or the one
language that its name states (xquad.de.json).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlc.data import text_lines
from mlc.errors import DataError, UsageError
from mlc.evaluate.options import Evaluation
from mlc.evaluate.plots import draw_heat_map
from mlc.evaluate.results import Scores, TaskResult
from mlc.evaluate.similarity import BLOCK_ELEMENTS, TIE_TOLERANCE, Floats, row_blocks
from mlc.evaluate.task_data import check_languages, files_of, text_of
from mlc.languages import language_code, language_in_name
from mlc.tasks.examples import Place
from mlc.tasks.text_files import plain_name, read_records

TOPS = (1, 5, 10)
_MLQA_NAME = re.compile(r"context-(\w+)-question-(\w+)")


@dataclass
class Questions:
    """What was read.

    Attributes:
        questions: {language: {id: question}}.
        passages: {language: {passage: its place}}.
        gold: {language: {id: place of the passage with the answer}}.
        repeated: questions set aside because their id had been seen in the same languages.
    """

    questions: dict[str, dict[str, str]] = field(default_factory=dict)
    passages: dict[str, dict[str, int]] = field(default_factory=dict)
    gold: dict[str, dict[str, int]] = field(default_factory=dict)
    repeated: int = 0

    def add(self, identity: str, question: str, language: str, passage: str, passage_language: str) -> None:
        """Take one question with its passage."""
        known = self.questions.setdefault(language, {})
        gold = self.gold.setdefault(passage_language, {})
        places = self.passages.setdefault(passage_language, {})
        place = places.setdefault(passage, len(places))
        self.repeated += identity in known and identity in gold
        known.setdefault(identity, question)
        gold.setdefault(identity, place)


def evaluate_passages(evaluation: Evaluation, data: Questions, *, plot: Path | None = None) -> TaskResult:
    """Score every pair of languages that has questions with a gold passage.

    Raises:
        UsageError: there is none with two passages or more.
    """
    asked = {
        (a, b): [identity for identity in data.questions[a] if identity in data.gold[b]]
        for a in sorted(data.questions)
        for b in sorted(data.passages)
        if len(data.passages[b]) > 1
    }
    asked = {pair: ids for pair, ids in asked.items() if ids}
    if not asked:
        raise UsageError("there is nothing to score", needed="questions, and two different passages or more")
    vectors = evaluation.encode(
        [text for a, _ in asked for text in data.questions[a].values()]
        + [text for _, b in asked for text in data.passages[b]]
    )
    bootstrap = evaluation.options.bootstrap
    rows: dict[str, Scores] = {}
    values: list[NDArray[np.float64]] = []
    for (a, b), ids in asked.items():
        rank_Q = passage_ranks(
            vectors.of(data.questions[a][i] for i in ids),
            vectors.of(data.passages[b]),
            np.array([data.gold[b][i] for i in ids]),
        )
        values.append(np.stack([*(rank_Q <= top for top in TOPS), 1.0 / rank_Q], axis=1).astype(np.float64))
        rows[f"{a}-{b}"] = {n: bootstrap.mean(values[-1][:, k]) for k, n in enumerate(_names())}
    if plot is not None:
        cells = {pair: rows["-".join(pair)]["top1"].value for pair in asked}
        draw_heat_map(cells, plot, "passages, top-1 in %: question down, passage across")
    repeated = (
        [f"questions whose id occurs twice: the first one was taken ({data.repeated} others)"] if data.repeated else []
    )
    return TaskResult(
        task="passages",
        facts=evaluation.facts(vectors),
        data=evaluation.data,
        scores={n: bootstrap.mean_of_means([value[:, k] for value in values]) for k, n in enumerate(_names())},
        by={"pair": rows},
        details={"passages": {language: len(places) for language, places in data.passages.items()}},
        notes=("pairs are question-passage; means over pairs", *repeated),
    )


def passage_ranks(question_QD: Floats, passage_MD: Floats, gold_Q: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rank from 1 of each question's passage by cosine; a passage that scores as high counts as ranked before it."""
    rank_Q = np.ones(len(question_QD), dtype=np.int64)
    for rows in row_blocks(len(question_QD), len(passage_MD), BLOCK_ELEMENTS):
        cosine_BM = question_QD[rows] @ passage_MD.T
        every, gold = np.arange(len(cosine_BM)), gold_Q[rows]
        bound_B = cosine_BM[every, gold] - np.float32(TIE_TOLERANCE)
        cosine_BM[every, gold] = -np.inf
        rank_Q[rows] += np.count_nonzero(cosine_BM >= bound_B[:, None], axis=1)
    return rank_Q


def read_questions(paths: Sequence[Path], *, languages: Sequence[str] = (), limit: int | None = None) -> Questions:
    """Read .json (SQuAD) and .jsonl files.

    Args:
        languages: keep questions and passages of these; none = all.
        limit: questions of each file.

    Raises:
        UsageError: no such file, or a file whose language is not known.
        DataError: a file or record of another form.
    """
    data = Questions()
    seen: set[str] = set()
    wanted = {language_code(code) for code in languages}
    for path in files_of(paths, (".json", ".jsonl")):
        for record, place in islice(_records(path), limit):
            language, passage_language = _languages(record, path)
            seen |= {language, passage_language}
            if not wanted or {language, passage_language} <= wanted:
                question, passage = text_of(record, "question", place), text_of(record, "context", place)
                data.add(text_of(record, "id", place), question, language, passage, passage_language)
    check_languages(seen, languages)
    return data


def _names() -> list[str]:
    return [*(f"top{top}" for top in TOPS), "mrr"]


def _languages(record: dict[str, Any], path: Path) -> tuple[str, str]:
    mlqa = _MLQA_NAME.search(plain_name(path))
    if mlqa:
        return language_code(mlqa[2]), language_code(mlqa[1])
    code = record.get("lang")
    language = language_code(code) if isinstance(code, str) else language_in_name(plain_name(path))
    if not language:
        raise UsageError(
            "the language of the questions is not known",
            found=path.name,
            needed='a "lang" in each record, or a name such as xquad.de.json',
            where=str(path),
        )
    return language, language


def _records(path: Path) -> Iterator[tuple[dict[str, Any], Place]]:
    if plain_name(path).endswith(".jsonl"):
        for number, record in read_records(path):
            yield record, Place(str(path), number)
        return
    try:
        content = json.loads(b"\n".join(line for _, line in text_lines.read_lines(path)))
        for article in content["data"]:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    yield {**question, "context": paragraph["context"]}, Place(str(path), 1)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            "this is not SQuAD's JSON",
            found=f"{type(error).__name__}: {error}",
            needed='{"data": [{"paragraphs": [{"context", "qas": [{"id", "question"}]}]}]}',
            where=str(path),
        ) from None
