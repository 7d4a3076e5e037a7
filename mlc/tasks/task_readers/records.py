"""From a row to the example it says, or why it says none.

In:  `Row`, `Columns`, and what the caller asked for.
Out: one of mlc.tasks.examples; RecordError with the record's place, what was found and what is needed.
"""

from __future__ import annotations

import math
import re
from typing import Any

from mlc.languages import language_code
from mlc.tasks.examples import (
    ClassificationExample,
    Place,
    RankingExample,
    RegressionExample,
    TaskExample,
    TokenExample,
    TranslationExample,
)
from mlc.tasks.task_readers.columns import Columns
from mlc.tasks.task_readers.questions import make_question
from mlc.tasks.task_readers.rows import Reading, RecordError, Row, text_of

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_CHUNK = re.compile(r"[BI]-.+", re.DOTALL)


def make_example(row: Row, columns: Columns, reading: Reading, languages: tuple[str, str]) -> TaskExample:
    """The example of a row.

    Args:
        row: a record.
        columns: which column is what.
        reading: kind, labels, and whether a gold answer is needed.
        languages: of the whole file, and of its translations: for records that name none; "" = not known.

    Raises:
        RecordError: the record cannot be used.
    """
    values = {role: row.fields.get(column) for role, column in columns.of_role.items()}
    language = _language(values, row.place, languages[0])
    place = Place(row.place.file, row.place.line, language, row.place.record)
    match reading.kind:
        case "classification":
            text, pair = _texts(values, columns, place)
            return ClassificationExample(text, pair, _label(values.get("label"), columns, reading, place), place)
        case "regression":
            text, pair = _texts(values, columns, place)
            return RegressionExample(text, pair, _score(values.get("score"), columns, reading, place), place)
        case "token_classification":
            return _tokens(values, columns, reading, place)
        case "question_answering":
            return make_question(values, columns, reading, place)
        case "ranking":
            return _ranking(row.fields, values, columns, reading, place)
        case "translation":
            return _translation(values, columns, reading, languages[1], place)


def _language(values: dict[str, Any], place: Place, otherwise: str) -> str:
    """The record's own word first, then that of its form, then the file's."""
    stated = values.get("language")
    if stated is None or stated == "":
        return place.language or otherwise
    if not isinstance(stated, str):
        raise RecordError("the language is no code", place, found=stated, needed='a string such as "de"')
    return language_code(text_of(stated, "language", place))


def _texts(values: dict[str, Any], columns: Columns, place: Place) -> tuple[str, str | None]:
    text = text_of(values["text"], columns.of_role["text"], place)
    if "text_pair" not in columns.of_role:
        return text, None
    return text, text_of(values["text_pair"], columns.of_role["text_pair"], place)


def _is_hidden(value: Any, role: str, columns: Columns, reading: Reading, place: Place) -> bool:
    """Whether there is no gold answer, and none is needed."""
    if value is not None:
        return False
    if reading.gold_is_needed:
        column = columns.of_role.get(role, role)
        raise RecordError(
            f'there is no gold answer in "{column}"',
            place,
            found=value,
            needed="an answer; the test sets of some data sets hide theirs",
            hint='take another split, or read without answers: gold = "optional"',
        )
    return True


def label_of(value: Any, column: str, labels: frozenset[str] | None, place: Place) -> str:
    """A label as a string: integers in decimal, true and false as JSON has them.

    Raises:
        RecordError: it is none, empty, or not among `labels`.
    """
    if isinstance(value, bool):
        value = "true" if value else "false"
    elif isinstance(value, int):
        value = str(value)
    if not isinstance(value, str):
        raise RecordError(f'"{column}" is no label', place, found=value, needed="one string or integer")
    text_of(value, column, place)
    if labels is not None and value not in labels:
        raise RecordError(
            "the label is outside the set", place, found=value, needed=f"one of {', '.join(sorted(labels))}"
        )
    return value


def _label(value: Any, columns: Columns, reading: Reading, place: Place) -> str | None:
    if _is_hidden(value, "label", columns, reading, place):
        return None
    return label_of(value, columns.of_role["label"], reading.labels, place)


def _score(value: Any, columns: Columns, reading: Reading, place: Place) -> float | None:
    if _is_hidden(value, "score", columns, reading, place):
        return None
    column = columns.of_role["score"]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number and not (isinstance(value, str) and _NUMBER.fullmatch(value.strip())):
        hint = "these look like records of another kind: classification" if isinstance(value, str) else None
        raise RecordError(f'"{column}" is no number', place, found=value, needed="a number", hint=hint)
    try:
        score = float(value)
    except OverflowError:
        score = math.inf
    if not math.isfinite(score):
        raise RecordError(f'"{column}" is not finite', place, found=value, needed="a finite number")
    return score


def _tokens(values: dict[str, Any], columns: Columns, reading: Reading, place: Place) -> TokenExample:
    column = columns.of_role["tokens"]
    tokens = values["tokens"]
    if not isinstance(tokens, list):
        raise RecordError(f'"{column}" is no list', place, found=tokens, needed="a list of words")
    if not tokens:
        raise RecordError(f'"{column}" is empty', place, found=tokens, needed="a word or more")
    words = tuple(text_of(token, column, place) for token in tokens)
    labels = values.get("labels")
    if _is_hidden(labels, "labels", columns, reading, place):
        return TokenExample(words, None, place)
    column = columns.of_role["labels"]
    if not isinstance(labels, list):
        raise RecordError(f'"{column}" is no list', place, found=labels, needed="a list of labels, one a word")
    if len(labels) != len(words):
        found = f"{len(words)} words, {len(labels)} labels"
        raise RecordError("words and labels are not equally many", place, found=found, needed="one label a word")
    names = tuple(label_of(label, column, reading.labels, place) for label in labels)
    if any(map(_CHUNK.fullmatch, names)):
        wrong = next((name for name in names if name != "O" and not _CHUNK.fullmatch(name)), None)
        if wrong is not None:
            raise RecordError("the labels are not IOB2", place, found=wrong, needed="O, B-TYPE or I-TYPE")
    return TokenExample(words, names, place)


def _passages(value: Any, column: str, place: Place) -> tuple[str, ...]:
    if isinstance(value, list):
        return tuple(text_of(passage, column, place) for passage in value)
    return (text_of(value, column, place),)


def _ranking(
    fields: dict[str, Any], values: dict[str, Any], columns: Columns, reading: Reading, place: Place
) -> RankingExample:
    query = text_of(values["query"], columns.of_role["query"], place)
    positives: tuple[str, ...] = ()
    if not _is_hidden(values.get("positives"), "positives", columns, reading, place):
        positives = _passages(values["positives"], columns.of_role["positives"], place)
    if not positives and reading.gold_is_needed:
        raise RecordError("the query has no positive", place, found=query, needed="a passage that answers it")
    negatives: list[str] = []
    if "negatives" in columns.of_role and values["negatives"] is not None:
        negatives += _passages(values["negatives"], columns.of_role["negatives"], place)
    for column in columns.numbered_negatives:
        if fields.get(column) is not None:
            negatives.append(text_of(fields[column], column, place))
    both = next((passage for passage in negatives if passage in positives), None)
    if both is not None:
        raise RecordError("a passage is positive and negative", place, found=both, needed="one of the two")
    return RankingExample(query, positives, tuple(negatives), place)


def _translation(
    values: dict[str, Any], columns: Columns, reading: Reading, target_language: str, place: Place
) -> TranslationExample:
    source = text_of(values["source"], columns.of_role["source"], place)
    target = None
    if not _is_hidden(values.get("target"), "target", columns, reading, place):
        target = text_of(values["target"], columns.of_role["target"], place)
    return TranslationExample(source, target, target_language, place)
