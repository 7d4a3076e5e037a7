"""What translation asks of examples, and by what scores are split.

In:  examples as they were read.
Out: checked examples, in both directions where the recipe says so; the group of each example.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from mlc.errors import DataError
from mlc.tasks.examples import TaskExample, TranslationExample
from mlc.tasks.learned.translation_settings import direction_of


def group_of(example: TaskExample) -> str:
    """What scores are split by: the language; of a translation the direction, "de>en"."""
    return direction_of(example) if isinstance(example, TranslationExample) else example.place.language


def languages_of(example: TaskExample) -> tuple[str, ...]:
    """All languages of an example."""
    both = (example.target_language,) if isinstance(example, TranslationExample) else ()
    return (example.place.language, *both)


def with_directions(examples: Sequence[TaskExample], *, both: bool) -> tuple[TaskExample, ...]:
    """The same examples, where `both` is asked for each followed by its reverse.

    Raises:
        DataError: a translation's languages are not known; it names the first by file and line.
    """
    return tuple(_with_reverses(examples, both))


def reversed_example(example: TranslationExample) -> TranslationExample:
    """The translation back; its target is known."""
    assert example.target is not None
    place = replace(example.place, language=example.target_language)
    return TranslationExample(example.target, example.source, example.place.language, place)


def _with_reverses(examples: Sequence[TaskExample], both: bool) -> Iterator[TaskExample]:
    for example in examples:
        if not isinstance(example, TranslationExample):
            yield example
            continue
        if not (example.place.language and example.target_language):
            raise DataError(
                "the data does not say from which language into which it translates",
                found=direction_of(example),
                needed="a file named de-en.jsonl with these keys, train.{de,en}, or columns named by language",
                where=str(example.place),
            )
        yield example
        if both:
            yield reversed_example(example)
