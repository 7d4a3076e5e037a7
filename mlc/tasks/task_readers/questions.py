"""Questions with their answers in a context, in the forms of SQuAD and its descendants.

In:  the values of a record by role.
Out: `QuestionExample`; RecordError where an answer does not stand where the record says it does.

Answers are one of: [{"text", "answer_start"}] (SQuAD); {"text": [...], "answer_start": [...]} (the hub's); a string,
with "answer_start" beside it. None of them, [], is a question without an answer (SQuAD 2.0).
"""

from __future__ import annotations

from typing import Any

from mlc.tasks.examples import Answer, Place, QuestionExample
from mlc.tasks.task_readers.columns import Columns
from mlc.tasks.task_readers.rows import Reading, RecordError, text_of

_FORMS = '[{"text", "answer_start"}], {"text": [], "answer_start": []}, or a string with "answer_start" beside it'


def make_question(values: dict[str, Any], columns: Columns, reading: Reading, place: Place) -> QuestionExample:
    """The question of a record; its identity is the record's number where it has no id.

    Raises:
        RecordError: a text is empty; an answer is not in the context at its start; the answers contradict
            "is_impossible".
    """
    question = text_of(values["question"], columns.of_role["question"], place)
    context = text_of(values["context"], columns.of_role["context"], place)
    identity = values.get("identity")
    if identity is None:
        identity = place.record
    if not isinstance(identity, int):
        text_of(identity, columns.of_role["identity"], place)
    found = values.get("answers")
    impossible = values.get("is_impossible") is True
    if found is None and impossible:
        found = []
    if found is None and reading.gold_is_needed:
        raise RecordError("the question has no answers", place, found=question, needed=f"{_FORMS}; [] = there is none")
    answers = None if found is None else _answers(found, values.get("answer_start"), place)
    if impossible and answers:
        raise RecordError("a question without an answer has one", place, found=answers[0].text, needed="[]")
    for answer in answers or ():
        _check(answer, context, place)
    return QuestionExample(str(identity), question, context, answers, place)


def _answers(found: Any, start: Any, place: Place) -> tuple[Answer, ...]:
    if isinstance(found, str):
        return (_answer(found, start, place),)
    if isinstance(found, dict):
        texts, starts = found.get("text"), found.get("answer_start")
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            raise RecordError("the answers have another form", place, found=found, needed=_FORMS)
        return tuple(_answer(text, start, place) for text, start in zip(texts, starts, strict=True))
    if not isinstance(found, list) or not all(isinstance(answer, dict) for answer in found):
        raise RecordError("the answers have another form", place, found=found, needed=_FORMS)
    return tuple(_answer(answer.get("text"), answer.get("answer_start"), place) for answer in found)


def _answer(text: Any, start: Any, place: Place) -> Answer:
    if isinstance(start, str) and start.isascii() and start.isdigit():  # TSV and CSV
        start = int(start[:18])  # more digits than any context is long; int() refuses thousands of them
    if not isinstance(start, int) or isinstance(start, bool) or start < 0:
        raise RecordError("the answer's start is no number", place, found=start, needed="characters from 0")
    return Answer(text_of(text, "the answer", place), start)


def _check(answer: Answer, context: str, place: Place) -> None:
    if context[answer.start : answer.start + len(answer.text)] == answer.text:
        return
    there = context[answer.start : answer.start + len(answer.text)]
    real = context.find(answer.text)
    where = f"it stands at {real}" if real >= 0 else "it stands nowhere in the context"
    if real >= 0 and answer.start in (
        len(context[:real].encode("utf-8")),
        len(context[:real].encode("utf-16")) // 2 - 1,
    ):
        where += "; the start counts bytes or UTF-16 units"
    raise RecordError(
        "the answer does not stand at its start",
        place,
        found=f"{answer.text!r} at {answer.start}, where the context has {there!r}; {where}",
        needed="its start in characters (code points)",
    )
