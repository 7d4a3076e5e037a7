"""Rows of a JSON document: SQuAD's nesting, a list of objects, or JSON lines under the name .json.

In:  a file, plain, .gz or .zst, of one JSON value (or one a line).
Out: `Row` or `RecordError`, with the line where the object stands.

SQuAD (Rajpurkar et al. 2016, 2018): {"data": [{"paragraphs": [{"context", "qas": [{"id", "question", "answers":
[{"text", "answer_start"}], "is_impossible"}]}]}]}. XQuAD, MLQA and TyDi QA's gold passages have the same form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlc.data import text_lines
from mlc.errors import DataError
from mlc.tasks.examples import Place
from mlc.tasks.task_readers.rows import RecordError, Row, shorten
from mlc.tasks.task_readers.tables import read_json_lines

_SPACES = re.compile(r"[ \t\r\n]*")
_QUESTION_KEY = re.compile(r'"question"[ \t\r\n]*:')  # inside a string the second quote would have a backslash
_SQUAD = '{"data": [{"paragraphs": [{"context": "...", "qas": [...]}]}]}'


def read_json(path: Path) -> Iterator[Row | RecordError]:
    """Rows of a .json file.

    Raises:
        DataError: the file cannot be read, or is neither of the three.
    """
    text = _whole_text(path)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        if _is_object(text.split("\n", 1)[0]):
            yield from read_json_lines(path)
            return
        line = getattr(error, "lineno", 1)
        raise DataError("this is not JSON", found=shorten(str(error)), where=f"{path}:{line}") from None
    if isinstance(document, dict) and "data" in document:
        yield from _squad_rows(path, text, document["data"])
    elif isinstance(document, list):
        yield from _listed_rows(path, text)
    elif isinstance(document, dict):
        yield Row(Place(str(path), 1), document)
    else:
        raise DataError(
            "there are no records", found=shorten(document), needed=f"a list of objects, or {_SQUAD}", where=str(path)
        )


def _whole_text(path: Path) -> str:
    lines = []
    for number, content in text_lines.read_lines(path):
        try:
            lines.append(content.decode())
        except UnicodeDecodeError as error:
            raise DataError("this is not UTF-8", found=str(error), where=f"{path}:{number}") from None
    return "\n".join(lines)


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _listed_rows(path: Path, text: str) -> Iterator[Row | RecordError]:
    """Elements of a list that is known to be whole; parsed again one by one, for the line of each."""
    decoder = json.JSONDecoder()
    line, counted, record = 1, 0, 0
    position = _after_spaces(text, text.index("[") + 1)
    while text[position] != "]":
        line, counted = line + text.count("\n", counted, position), position
        element, end = decoder.raw_decode(text, position)
        place = Place(str(path), line, record=record)
        if isinstance(element, dict):
            yield Row(place, element)
        else:
            yield RecordError("this is not a JSON object", place, found=element, needed="{...}")
        record += 1
        position = _after_spaces(text, end)
        if text[position] == ",":
            position = _after_spaces(text, position + 1)


def _after_spaces(text: str, position: int) -> int:
    match = _SPACES.match(text, position)
    assert match is not None  # it matches nothing, too
    return match.end()


def _squad_rows(path: Path, text: str, data: Any) -> Iterator[Row | RecordError]:
    if not isinstance(data, list) or not all(isinstance(article, dict) and "paragraphs" in article for article in data):
        raise DataError('"data" holds no articles with paragraphs', needed=_SQUAD, where=str(path))
    lines = _question_lines(text)
    line = 1
    for record, (step, found) in enumerate(_questions(data)):
        if isinstance(found, dict) and "question" in found:
            line = next(lines, line)
        place = Place(str(path), line, record=record)
        if isinstance(found, dict):
            yield Row(place, found)
        else:
            yield RecordError("SQuAD's nesting is broken", place, found=f"{step}: {shorten(found)}", needed=_SQUAD)


def _question_lines(text: str) -> Iterator[int]:
    line, counted = 1, 0
    for match in _QUESTION_KEY.finditer(text):
        line, counted = line + text.count("\n", counted, match.start()), match.start()
        yield line


def _questions(data: list[Any]) -> Iterator[tuple[str, Any]]:
    """(where in the nesting, the question's fields with its context); what is no object comes back as it is."""
    for a, article in enumerate(data):
        paragraphs = article["paragraphs"]
        if not isinstance(paragraphs, list):
            yield f"data[{a}].paragraphs", paragraphs
            continue
        for p, paragraph in enumerate(paragraphs):
            step = f"data[{a}].paragraphs[{p}]"
            questions = paragraph.get("qas") if isinstance(paragraph, dict) else None
            if not isinstance(questions, list):
                yield f"{step}.qas", shorten(questions)
                continue
            for q, question in enumerate(questions):
                if isinstance(question, dict):
                    yield step, {**question, "context": paragraph.get("context")}
                else:
                    yield f"{step}.qas[{q}]", question
