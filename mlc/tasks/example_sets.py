"""What is asked of examples together: their labels, a few of each class, the rows of a range.

In:  examples of one type.
Out: sorted labels; tuples of the same examples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

from mlc.data.randomness import hash_words
from mlc.errors import DataError, UsageError
from mlc.tasks.examples import (
    ClassificationExample,
    QuestionExample,
    RankingExample,
    RegressionExample,
    TaskExample,
    TokenExample,
    TranslationExample,
)

Example = TypeVar("Example", bound=TaskExample)
_OUTSIDE = "O"


def labels_of(examples: Sequence[TaskExample]) -> tuple[str, ...]:
    """The labels that occur, each once: by number where all are integers, else by code points.

    Raises:
        UsageError: examples of this type have no labels.
    """
    found: set[str] = set()
    for example in examples:
        found.update(_labels(example))
    return tuple(sorted(found, key=int if found and all(map(_is_integer, found)) else None))


def check_labels(examples: Sequence[TaskExample], labels: Sequence[str]) -> None:
    """Refuse examples with other labels than `labels`.

    Raises:
        DataError: there are such; it names the first of them by file and line, and how many there are.
    """
    known = frozenset(labels)
    outside = [example for example in examples if not known.issuperset(_labels(example))]
    if outside:
        wrong = Counter(label for example in outside for label in set(_labels(example)) - known)
        raise DataError(
            "the label is outside the set",
            found=f"{', '.join(map(repr, sorted(wrong)[:5]))} ({len(outside)} of {len(examples)} examples)",
            needed=f"one of {', '.join(labels)}",
            where=str(outside[0].place),
            hint="use the labels of the training data, or correct the file",
        )


def rows(examples: Sequence[Example], start: int, stop: int | None) -> tuple[Example, ...]:
    """The examples whose record has a number in [start, stop) in its file; stop None = to the end.

    Records that were set aside keep their numbers: in files with the same rows in every language the same range is the
    same rows.
    """
    return tuple(e for e in examples if start <= e.place.record and (stop is None or e.place.record < stop))


def few_shot(examples: Sequence[Example], per_class: int, seed: int) -> tuple[Example, ...]:
    """A few examples of each class, without repeats, as a pure function of seed and content.

    Every example has a place in an order by the hash of (seed, language, content): neither the order of the file nor
    its other examples move it. Classification takes the first `per_class` of every label in this order, so fewer shots
    of the same seed are a part of more. Token classification goes through the entity types (or labels, where they are
    no IOB2) from the rarest on and takes the first sentences with the type until `per_class` chosen ones have it;
    sentences hold several types, so frequent types may have more. Without classes (other kinds) all are one class.

    Args:
        examples: with gold answers. An example that repeats another's content counts once.
        per_class: examples of each class, at least 1.
        seed: another seed, other examples.

    Returns:
        The chosen examples in the order of their hashes.

    Raises:
        UsageError: `per_class` is below 1.
        DataError: a class has fewer examples.
    """
    if per_class < 1:
        raise UsageError("few-shot takes at least one example a class", found=per_class, needed=">= 1")
    ordered: dict[int, Example] = {}
    for example in examples:
        ordered.setdefault(hash_words(seed, "few_shot", *_content(example)), example)
    classes: dict[str, list[int]] = {}
    for key in sorted(ordered):
        for name in _classes(ordered[key]):
            classes.setdefault(name, []).append(key)
    few = {name: len(keys) for name, keys in classes.items() if len(keys) < per_class}
    if few or not classes:
        raise DataError(
            "a class has too few examples",
            found=", ".join(f"{name or 'all'}: {count}" for name, count in sorted(few.items())) or "no examples",
            needed=f"{per_class} different ones each",
            where=examples[0].place.file if examples else None,
        )
    chosen: set[int] = set()
    for name in sorted(classes, key=lambda name: (len(classes[name]), name)):
        missing = per_class - sum(key in chosen for key in classes[name])
        chosen.update([key for key in classes[name] if key not in chosen][: max(0, missing)])
    return tuple(ordered[key] for key in sorted(chosen))


def entity_type(label: str) -> str:
    """PER of B-PER and I-PER; any other label is its own."""
    return label[2:] if label[:2] in ("B-", "I-") and len(label) > 2 else label


def _is_integer(label: str) -> bool:
    return label.isascii() and label.removeprefix("-").isdigit() and len(label) < 19


def _labels(example: TaskExample) -> Sequence[str]:
    if isinstance(example, ClassificationExample):
        return () if example.label is None else (example.label,)
    if isinstance(example, TokenExample):
        return example.labels or ()
    raise UsageError("such examples have no labels", found=type(example).__name__, needed="classes, or labels of words")


def _classes(example: TaskExample) -> list[str]:
    if isinstance(example, ClassificationExample | TokenExample):
        if (example.label if isinstance(example, ClassificationExample) else example.labels) is None:
            raise DataError("few-shot needs gold answers", where=str(example.place), needed="a label")
        return (
            sorted({entity_type(label) for label in _labels(example)} - {_OUTSIDE})
            if isinstance(example, TokenExample)
            else list(_labels(example))
        )
    return [""]


def _content(example: TaskExample) -> list[str]:
    """What makes two examples the same one."""
    parts: list[str | None]
    match example:
        case ClassificationExample():
            parts = [example.text, example.text_pair, example.label]
        case RegressionExample():
            parts = [example.text, example.text_pair, str(example.score)]
        case TokenExample():
            parts = [*example.tokens, None, *(example.labels or ())]
        case QuestionExample():
            parts = [example.question, example.context, *(f"{a.start} {a.text}" for a in example.answers or ())]
        case RankingExample():
            parts = [example.query, *example.positives, None, *example.negatives]
        case TranslationExample():
            parts = [example.source, example.target, example.target_language]
    # the length before each part keeps ("ab", "c") from being ("a", "bc")
    return [example.place.language, *("-" if part is None else f"{len(part)}:{part}" for part in parts)]
