"""The examples of a fine-tuning run, read and checked before a model is built.

In:  a `FinetuneRecipe`.
Out: `FinetuneData`: examples of each part, what was set aside, the labels, a digest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mlc.config import digest
from mlc.errors import DataError
from mlc.finetune.recipe import FinetuneRecipe, Rows
from mlc.finetune.translation_data import group_of, languages_of, with_directions
from mlc.tasks.example_sets import check_labels, few_shot, labels_of, rows
from mlc.tasks.examples import TaskExample
from mlc.tasks.task_files import BadRecord, TaskFile, read_task

LABELLED = ("classification", "token_classification", "cloze")


@dataclass(frozen=True)
class FinetuneData:
    """What a run learns from and is scored on.

    Attributes:
        train, dev, test: examples; dev and test may be empty.
        labels: classes; none where the task has none.
        set_aside: bad records that were left out.
        files: what was read.
        digest: of the training examples and labels, in order.
    """

    train: Sequence[TaskExample]
    dev: Sequence[TaskExample]
    test: Sequence[TaskExample]
    labels: tuple[str, ...]
    set_aside: tuple[BadRecord, ...]
    files: tuple[TaskFile, ...]
    digest: str

    @property
    def trained_languages(self) -> tuple[str, ...]:
        """Languages of the training examples, sorted."""
        return tuple(sorted({language for example in self.train for language in languages_of(example)}))

    @property
    def trained_groups(self) -> tuple[str, ...]:
        """Those of `group_of` that were trained on, sorted."""
        return tuple(sorted({group_of(example) for example in self.train}))

    def notes(self) -> list[str]:
        """Lines for people."""
        notes = []
        for name, examples in (("train", self.train), ("dev", self.dev), ("test", self.test)):
            if examples:
                languages = sorted({group_of(example) or "?" for example in examples})
                notes.append(f"{name}: {len(examples):,} examples in {', '.join(languages)}")
        if self.labels:
            notes.append(f"{len(self.labels)} labels: {', '.join(self.labels)}")
        if self.set_aside:
            reasons = Counter(record.problem for record in self.set_aside)
            shown = ", ".join(f"{problem} ({count})" for problem, count in reasons.most_common())
            notes.append(f"{len(self.set_aside)} records were set aside: {shown}; first: {self.set_aside[0].message}")
        return notes


def read_data(recipe: FinetuneRecipe) -> FinetuneData:
    """Read all parts.

    Raises:
        UsageError, DataError: see `mlc.tasks.task_files.read_task`; or a label of the dev or test data is not among
            those of the training data.
    """
    data, task = recipe.data, recipe.task
    set_aside: list[BadRecord] = []
    files: list[TaskFile] = []

    def read(sources: tuple[str, ...], languages: tuple[str, ...], part: Rows, key: str) -> tuple[TaskExample, ...]:
        if not sources:
            return ()
        found = read_task(
            task.data_kind,
            sources,
            columns=task.columns,
            languages=languages,
            labels=task.labels or None,
            bad_records=task.bad_records,
        )
        set_aside.extend(found.set_aside)
        files.extend(found.files)
        return with_directions(_part(found.examples, part, key), both=recipe.translation.both_directions)

    train = read(data.train, data.train_languages, data.train_rows, "data.train_rows")
    dev = read(data.dev, data.dev_languages, data.dev_rows, "data.dev_rows")
    test = read(data.test, data.test_languages, data.test_rows, "data.test_rows")
    labels: tuple[str, ...] = ()
    if task.kind in LABELLED:
        words = recipe.cloze.labels if recipe.cloze else ()
        labels = task.labels or words or labels_of(train)
        for examples in (dev, test):
            check_labels(examples, labels)
    if data.shots:
        train = few_shot(train, data.shots, recipe.run.seed)
    content = [list(labels), *[_content(example) for example in train]]
    return FinetuneData(train, dev, test, labels, tuple(set_aside), tuple(files), digest(content))


def _part(examples: Sequence[TaskExample], part: Rows, key: str) -> tuple[TaskExample, ...]:
    """These rows of every file."""
    if part == (0, 0):
        return tuple(examples)
    by_file: dict[str, list[TaskExample]] = {}
    for example in examples:
        by_file.setdefault(example.place.file, []).append(example)
    chosen = tuple(example for found in by_file.values() for example in rows(found, part[0], part[1] or None))
    if not chosen:
        raise DataError("no rows are left", found=f"{key} = {list(part)}", where=key)
    return chosen


def _content(example: TaskExample) -> list[Any]:
    """What is learned from an example; not where it lies."""
    content = asdict(example)
    del content["place"]
    return list(content.values())
