"""Which column of a file is what: by the caller's word, else by the names in use, never by a guess.

In:  the keys of a record, the kind of task, and the columns the caller named.
Out: `Columns`; ColumnError where a needed column is missing or two could be meant.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from mlc.errors import UsageError
from mlc.languages import is_language, language_code, languages_in_pair
from mlc.tasks.examples import TaskKind
from mlc.tasks.task_readers.rows import Reading

TEXT_COLUMNS: tuple[tuple[str, ...], ...] = (
    ("text", "text_pair"), ("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"),
    ("question", "sentence"), ("text1", "text2"), ("text_a", "text_b"),
    ("text",), ("sentence",), ("content",), ("tweet",), ("review",),
)  # fmt: skip
"""One text, or two. A pair hides its first text alone."""

TRANSLATION_COLUMNS = (("source", "target"), ("src", "tgt"), ("source_text", "target_text"))

_LABELS = ("label", "labels", "gold_label", "class", "category", "topic", "sentiment")
_SCORES = ("score", "similarity_score", "similarity", "label", "labels")
_NEGATIVE_NUMBER = re.compile(r"negative_\d+")

_ONE_OF: dict[TaskKind, dict[str, tuple[str, ...]]] = {
    "classification": {"label": _LABELS},
    "regression": {"score": _SCORES},
    "token_classification": {
        "tokens": ("tokens", "words"), "labels": ("labels", "label", "ner_tags", "tags", "ner"),
    },
    "question_answering": {
        "identity": ("id", "qid", "example_id"), "question": ("question", "query"), "context": ("context", "passage"),
        "answers": ("answers", "answer", "answer_text"), "answer_start": ("answer_start",),
        "is_impossible": ("is_impossible",),
    },
    "ranking": {
        "query": ("query", "anchor", "question", "sent0"), "positives": ("positives", "positive", "pos", "sent1"),
        "negatives": ("negatives", "negative", "neg", "hard_neg"),
    },
    "translation": {},
}  # fmt: skip
"""The names by which a column of each role is known; exactly one may be there."""

_GOLD = {"label", "score", "labels", "answers", "positives", "target"}
_OPTIONAL = {"identity", "answer_start", "is_impossible", "negatives", "language", "text_pair"}
_TEXT_KINDS = ("classification", "regression")


class ColumnError(Exception):
    """Why a record's columns cannot be told apart: the parts of a message."""

    def __init__(self, problem: str, needed: str) -> None:
        super().__init__(problem)
        self.problem, self.needed = problem, needed


@dataclass(frozen=True, slots=True)
class Columns:
    """Attributes:

    of_role: role -> column, as examples call the roles.
    numbered_negatives: columns negative_1, negative_2, ... in this order.
    languages: source and target of a translation whose columns are named by language; None for others.
    """

    of_role: Mapping[str, str]
    numbered_negatives: tuple[str, ...] = ()
    languages: tuple[str, str] | None = None


def columns_in_use(kind: TaskKind) -> Mapping[str, tuple[str, ...]]:
    """Role -> the names by which its column is known, without texts and their translations."""
    return _ONE_OF[kind]


def check_roles(kind: TaskKind, columns: Mapping[str, str | int]) -> None:
    """Refuse columns that the kind of task does not have, and numbers beside names.

    Raises:
        UsageError: there are such.
    """
    roles = _roles(kind)
    unknown = sorted(set(columns) - set(roles))
    if unknown:
        raise UsageError(
            f"{kind} has no such columns", found=", ".join(unknown), needed=", ".join(roles), where="columns"
        )
    if len({type(column) for column in columns.values()}) > 1:
        raise UsageError("columns go by name or by number from 1, not both", found=str(dict(columns)), where="columns")


def choose_columns(
    reading: Reading, keys: Collection[str], pair: tuple[str, str] | None, is_by_number: bool = False
) -> Columns:
    """The columns of a record.

    Args:
        reading: kind, the columns the caller named, and whether gold answers are needed.
        keys: of the record.
        pair: the two languages in the file's name, as they stand there.
        is_by_number: the record's keys are roles already.

    Raises:
        ColumnError: a needed column is missing, or more than one could be meant.
    """
    named = {role: role if is_by_number else str(column) for role, column in reading.columns.items()}
    absent = [role for role in named if named[role] not in keys]
    if absent:
        raise ColumnError(f"there is no column {named[absent[0]]!r} for {absent[0]}", repr(named[absent[0]]))

    def is_optional(role: str) -> bool:
        return role in _OPTIONAL or (role in _GOLD and not reading.gold_is_needed)

    found = dict(named)
    languages = None
    if reading.kind in _TEXT_KINDS:
        found |= _texts(named, keys)
    elif reading.kind == "translation":
        texts, languages = _translation(named, keys, pair, reading.gold_is_needed)
        found |= texts
    if is_by_number:
        missing = [role for role in _ONE_OF[reading.kind] if role not in found and not is_optional(role)]
        if missing:
            raise ColumnError(f"no number is given for {missing[0]}", f"a number for {missing[0]}")
        return Columns(found, languages=languages)
    for role, names in (_ONE_OF[reading.kind] | {"language": ("lang", "language")}).items():
        if role not in named:
            column = _one_of(role, names, keys, found.values(), is_optional(role))
            found |= {role: column} if column else {}
    if reading.kind != "ranking" or "negatives" in found:
        return Columns(found, languages=languages)
    numbered = sorted(filter(_NEGATIVE_NUMBER.fullmatch, keys), key=lambda key: int(key.removeprefix("negative_")))
    return Columns(found, tuple(numbered))


def kind_like(keys: Collection[str]) -> TaskKind | None:
    """The kind of task that a record's keys look like; None where they look like none."""
    has = set(keys)
    signs: Sequence[tuple[TaskKind, bool]] = (
        ("question_answering", has >= {"question", "context"}),
        ("token_classification", bool(has & {"tokens", "words", "ner_tags"})),
        ("ranking", bool(has & {"query", "anchor"}) and bool(has & {"positive", "positives", "pos"})),
        ("translation", any(has >= set(pair) for pair in TRANSLATION_COLUMNS) or "translation" in has),
        ("regression", bool(has & {"score", "similarity_score"}) and _holds_texts(has)),
        ("classification", bool(has & set(_LABELS)) and _holds_texts(has)),
    )
    return next((kind for kind, fits in signs if fits), None)


def _holds_texts(keys: set[str]) -> bool:
    return any(keys >= set(columns) for columns in TEXT_COLUMNS)


def _roles(kind: TaskKind) -> list[str]:
    if kind == "translation":
        return ["source", "target", "language"]
    texts = ["text", "text_pair"] if kind in _TEXT_KINDS else []
    return [*texts, *_ONE_OF[kind], "language"]


def _texts(named: Mapping[str, str], keys: Collection[str]) -> dict[str, str]:
    """The one text, or two; where the caller names one of them, those named are all."""
    if "text" in named or "text_pair" in named:
        if "text" not in named:
            raise ColumnError("text_pair is named and text is not", "columns = {text = ..., text_pair = ...}")
        return {}
    taken = set(named.values())
    there = [columns for columns in TEXT_COLUMNS if set(columns) <= set(keys) - taken]
    largest = [columns for columns in there if not any(set(columns) < set(other) for other in there)]
    if len(largest) != 1:
        known = ", ".join("+".join(columns) for columns in largest or TEXT_COLUMNS)
        problem = "which column holds the text is unclear" if largest else "no column holds a text"
        raise ColumnError(problem, f"columns = {{text = ...}} or exactly one of {known}")
    return dict(zip(("text", "text_pair"), largest[0], strict=False))


def _one_of(
    role: str, names: Sequence[str], keys: Collection[str], taken: Collection[str], is_optional: bool
) -> str | None:
    there = [name for name in names if name in keys and name not in taken]
    if len(there) > 1:
        raise ColumnError(
            f"which column holds the {role} is unclear", f"columns = {{{role} = ...}}: {', '.join(there)}"
        )
    if not there and not is_optional:
        raise ColumnError(f"no column holds the {role}", f"columns = {{{role} = ...}} or one of {', '.join(names)}")
    return there[0] if there else None


def _translation(
    named: Mapping[str, str], keys: Collection[str], pair: tuple[str, str] | None, gold_is_needed: bool
) -> tuple[dict[str, str], tuple[str, str] | None]:
    """Source and target: as named; else a known pair; else the languages in the file's name, source first."""
    if "source" in named:
        if "target" not in named and gold_is_needed:
            raise ColumnError("source is named and target is not", "columns = {source = ..., target = ...}")
        return {}, _languages_of(named["source"], named.get("target", ""))
    if "target" in named:
        raise ColumnError("target is named and source is not", "columns = {source = ..., target = ...}")
    there = [columns for columns in (*TRANSLATION_COLUMNS, *([pair] if pair else [])) if set(columns) <= set(keys)]
    if len(there) == 1:
        source, target = there[0]
        return {"source": source, "target": target}, _languages_of(source, target)
    alone = [columns[0] for columns in TRANSLATION_COLUMNS if columns[0] in keys]
    if not there and len(alone) == 1 and not gold_is_needed:
        return {"source": alone[0]}, None
    known = ", ".join("+".join(columns) for columns in TRANSLATION_COLUMNS)
    problem = "which columns hold source and target is unclear" if there else "no columns hold source and target"
    raise ColumnError(
        problem, f'columns = {{source = ..., target = ...}}, or {known}, or the keys in the name ("de-en.jsonl")'
    )


def _languages_of(source: str, target: str) -> tuple[str, str] | None:
    if not target:
        return (language_code(source), "") if is_language(source) else None
    pair = languages_in_pair(f"{source}-{target}") if "." not in source + target else None
    return (language_code(pair[0]), language_code(pair[1])) if pair else None
