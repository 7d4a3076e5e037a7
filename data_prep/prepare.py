"""The steps between a record and a shard: read, normalise, split; what cannot be used is set aside with its reason.

In:  a `ShardPlan`.
Out: `Prepared` documents in the order of the files, and a file of rejected records. Both the tokenizer's sample and the
     shards go through here, so they see the same text. Filters that drop documents belong here, each one a function.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from data_prep.plan import ShardPlan, Source
from data_prep.recipe import PrepRecipe
from data_prep.records import KEPT_CHARACTERS, Record, Rejected, read_records
from data_prep.segment import split_sequences
from mlc.data.text import Unusable, normalise
from mlc.errors import DataError

_TRIED_RECORDS = 1000
"""A source whose first so many records are all set aside is read the wrong way; the rest of it would only take time."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A document (one list of sequences) or a pair (two lists of one sequence each), its group number and its place."""

    sequences: tuple[list[str], ...]
    group: int
    file: Path
    line: int

    def rejected(self, reason: str, detail: str) -> Rejected:
        """This document as one to set aside."""
        beginning = " | ".join((side[0] if side else "")[:KEPT_CHARACTERS] for side in self.sequences)
        return Rejected(self.file, self.line, reason, detail, beginning)


class Rejects:
    """Records set aside: counted by reason, and written to `<output>/rejected/<shard name>.jsonl`.

    The file gets its name when the context is left, also by an exception: it is what a person looks at then. Without a
    rejected record there is no file.
    """

    def __init__(self, output: Path, name: str) -> None:
        self.path = output / "rejected" / f"{name}.jsonl"
        self.counts: Counter[str] = Counter()
        self.records = 0
        self._name = name
        self._temporary = self.path.with_name(self.path.name + ".tmp")
        self._file: IO[str] | None = None

    def add(self, rejected: Rejected) -> None:
        """Set one record aside."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._temporary.open("w", encoding="utf-8", errors="backslashreplace")
        self.counts[rejected.reason] += 1
        row = {
            "file": str(rejected.file),
            "line": rejected.line,
            "reason": rejected.reason,
            "detail": rejected.detail,
            "record": rejected.beginning,
        }
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def check(self, largest_fraction: float) -> None:
        """Stop a build whose input is not what the recipe's author thinks it is.

        Raises:
            DataError: no record could be used, or more than `largest_fraction` of them could not.
        """
        rejected = sum(self.counts.values())
        if rejected > largest_fraction * self.records:
            raise DataError(
                f"too many records of {self._name} had to be set aside",
                found=f"{rejected} of {self.records} ({rejected / self.records:.2%}): {_listed(self.counts)}",
                needed=f"at most {largest_fraction:.2%}",
                where="build.max_rejected_fraction",
                hint=f"look at {self.path}, then mend the files or raise build.max_rejected_fraction",
            )
        if rejected == self.records:
            raise DataError(
                f"{self._name} has no usable record",
                found=f"{self.records} records, {rejected} rejected",
                hint="take it out of the recipe, or give it other files",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is None:
            self.path.unlink(missing_ok=True)
            return
        self._file.close()
        os.replace(self._temporary, self.path)


def prepare(
    plan: ShardPlan, recipe: PrepRecipe, rejects: Rejects, on_bytes: Callable[[int], None]
) -> Iterator[Prepared]:
    """Every usable document (or pair) of a shard.

    Args:
        plan: where its records are.
        recipe: how to normalise them, and how many may be rejected.
        rejects: gets the others.
        on_bytes: see `read_lines`.

    Raises:
        DataError: a file is cut short, or too many records had to be set aside.
    """
    for source in plan.sources:
        yield from _prepare_source(source, recipe, rejects, on_bytes)
    rejects.check(recipe.build.max_rejected_fraction)


def _prepare_source(
    source: Source, recipe: PrepRecipe, rejects: Rejects, on_bytes: Callable[[int], None]
) -> Iterator[Prepared]:
    taken = 0
    reasons: Counter[str] = Counter()
    for record in read_records(source, on_bytes):
        rejects.records += 1
        found = record if isinstance(record, Rejected) else _prepared(record, source, recipe)
        if isinstance(found, Rejected):
            rejects.add(found)
            if not taken:
                reasons[found.reason] += 1
                _refuse_hopeless(source, reasons, rejects)
            continue
        yield found
        taken += 1
        if taken == source.max_documents:
            return


def _refuse_hopeless(source: Source, reasons: Counter[str], rejects: Rejects) -> None:
    if sum(reasons.values()) < _TRIED_RECORDS:
        return
    fields = ", ".join(source.text_fields)
    raise DataError(
        f"none of the first {_TRIED_RECORDS} records could be used",
        found=_listed(reasons),
        needed=f"records with text under {fields}, or plain text",
        where=str(source.files[0]),
        hint=f"look at {rejects.path}, then set the table's text_field (of pairs: fields) and format",
    )


def _listed(reasons: Counter[str]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))


def _prepared(record: Record, source: Source, recipe: PrepRecipe) -> Prepared | Rejected:
    rules = recipe.normalise
    try:
        texts = [
            normalise(text, nfc=rules.nfc, whitespace=rules.whitespace, control_characters=rules.control_characters)
            for text in record.texts
        ]
    except Unusable as unusable:
        beginning = " | ".join(text[:KEPT_CHARACTERS] for text in record.texts)
        return Rejected(record.file, record.line, unusable.reason, unusable.detail, beginning)
    sequences = tuple(split_sequences(text, source.sequences) for text in texts)
    return Prepared(sequences, record.group, record.file, record.line)
