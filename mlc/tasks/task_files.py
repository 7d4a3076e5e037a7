"""Data of downstream tasks as checked examples, from local files or from the hub by name: docs/task_data.md.

In:  what kind of task it is, and sources: files, folders, globs, "{language}" places, "hub:NAME[:CONFIG][:SPLIT]".
Out: `TaskData`: the examples, the records set aside with the reason for each, and what was read how.

Nothing is dropped in silence: a record becomes an example, or stops the reading, or is set aside and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, TypeVar, get_args

from mlc.errors import DataError, UsageError
from mlc.languages import language_code
from mlc.tasks.examples import Place, TaskExample, TaskKind, TokenExample
from mlc.tasks.task_readers.columns import ColumnError, Columns, check_roles, choose_columns, kind_like
from mlc.tasks.task_readers.conll import read_conll
from mlc.tasks.task_readers.documents import read_json
from mlc.tasks.task_readers.moses import read_two_files
from mlc.tasks.task_readers.records import make_example
from mlc.tasks.task_readers.rows import Form, Reading, RecordError, Row
from mlc.tasks.task_readers.sources import Source, find_sources
from mlc.tasks.task_readers.tables import read_json_lines, read_separated

Example = TypeVar("Example", bound=TaskExample)

_WITHOUT_NAMES: tuple[Form, ...] = ("conll", "moses")
_WITH_NUMBERS: tuple[Form, ...] = ("tsv", "csv", "conll")


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that was set aside.

    Attributes:
        place: the line that is wrong.
        problem: the same words for the same mistake.
        message: the whole of what an error would have said.
    """

    place: Place
    problem: str
    message: str


@dataclass(frozen=True, slots=True)
class TaskFile:
    """How one source was read.

    Attributes:
        name: path, or hub:NAME:CONFIG:SPLIT as it was given.
        form: in which form.
        columns: role -> column, by the first record that could be used.
        ignored: its other columns.
        examples, set_aside: numbers of records.
        languages: examples by language; "" = not known.
        iob2_violations: I-TYPE labels that continue no entity of their type (token classification only).
    """

    name: str
    form: Form
    columns: Mapping[str, str]
    ignored: tuple[str, ...]
    examples: int
    set_aside: int
    languages: Mapping[str, int]
    iob2_violations: int


@dataclass(frozen=True, slots=True)
class TaskData:
    """Examples in the order of the sources and of their lines."""

    examples: tuple[TaskExample, ...]
    set_aside: tuple[BadRecord, ...]
    files: tuple[TaskFile, ...]

    def of(self, example_type: type[Example]) -> tuple[Example, ...]:
        """The examples, as those of their one type; TypeError for another type than the kind's."""
        examples = tuple(example for example in self.examples if isinstance(example, example_type))
        if len(examples) != len(self.examples):
            raise TypeError(f"these examples are {type(self.examples[0]).__name__}")
        return examples

    def problems(self) -> Counter[str]:
        """How often each problem was the reason to set a record aside."""
        return Counter(record.problem for record in self.set_aside)


def read_task(
    kind: TaskKind,
    sources: str | Path | Sequence[str | Path],
    *,
    columns: Mapping[str, str | int] | None = None,
    languages: Sequence[str] = (),
    language: str = "",
    target_language: str = "",
    labels: Sequence[str] | None = None,
    gold: Literal["needed", "optional"] = "needed",
    form: Form | None = None,
    limit: int | None = None,
    bad_records: Literal["refuse", "set_aside"] = "refuse",
    largest_bad_share: float = 0.01,
) -> TaskData:
    """Read and check the data of a task.

    Args:
        kind: what is read out of a record (mlc.tasks.examples).
        sources: one or more of: a file; a folder (the files of known forms in it); a glob; either with "{language}" in
            it; "train.{de,en}" = two files line by line (translation); "hub:NAME[:CONFIG][:SPLIT]".
        columns: role -> column, by name, or for TSV, CSV and CoNLL without a header by number from 1. None = by the
            names in use.
        languages: what "{language}" stands for.
        language: of records that name none, in files whose names state none or another.
        target_language: of translations.
        labels: the labels there are; None = any.
        gold: "optional" = records may lack their answer, which is then None (() for `positives`).
        form: how to read files, whatever their names say.
        limit: only the first so many examples of each source; records behind them are not looked at.
        bad_records: "refuse" = the first bad record is an error; "set_aside" = all are collected in the result.
        largest_bad_share: the share of each source's records that may be set aside.

    Raises:
        UsageError: a source is missing or unknown, an argument does not fit.
        DataError: a file cannot be read, a record is bad (refuse), more are than allowed (set_aside), or no record is
            left in a source.
    """
    if kind not in get_args(TaskKind):
        raise UsageError("no such kind of task", found=kind, needed=", ".join(get_args(TaskKind)))
    if languages and language:
        raise UsageError("both language and languages are given", needed="languages where sources have {language}")
    if limit is not None and limit < 1:
        raise UsageError("a limit keeps at least one example", found=limit, needed=">= 1")
    check_roles(kind, columns or {})
    reading = Reading(
        kind,
        columns or {},
        language_code(language),
        language_code(target_language),
        None if labels is None else frozenset(labels),
        gold == "needed",
        limit,
    )
    listed = [sources] if isinstance(sources, (str, Path)) else list(sources)
    examples: list[TaskExample] = []
    set_aside: list[BadRecord] = []
    files: list[TaskFile] = []
    for source in find_sources(kind, listed, languages, form):
        reader = _SourceReader(source, reading, bad_records == "set_aside")
        reader.read()
        reader.check(largest_bad_share)
        examples += reader.examples
        set_aside += reader.set_aside
        files.append(reader.report())
    return TaskData(tuple(examples), tuple(set_aside), tuple(files))


class _SourceReader:
    """Reads one source; the columns of its first usable record hold for all others."""

    def __init__(self, source: Source, reading: Reading, sets_aside: bool) -> None:
        self.examples: list[TaskExample] = []
        self.set_aside: list[BadRecord] = []
        self._source, self._reading, self._sets_aside = source, reading, sets_aside
        self._columns: Columns | None = None
        self._last_columns: Columns | None = None
        self._keys: frozenset[str] = frozenset()
        self._ignored: tuple[str, ...] = ()
        self._identities: set[str] = set()

    def read(self) -> None:
        for row in _rows(self._source, self._reading):
            try:
                if isinstance(row, RecordError):
                    raise row
                self.examples.append(self._example(row))
            except RecordError as error:
                if not self._sets_aside:
                    raise
                self.set_aside.append(BadRecord(error.place, error.problem, str(error)))
            if len(self.examples) == self._reading.limit:
                break

    def check(self, largest_bad_share: float) -> None:
        """Refuse a source without examples, or with too many bad records."""
        records = len(self.examples) + len(self.set_aside)
        if not records:
            raise DataError("there are no records", where=self._source.name, needed="at least one")
        if len(self.set_aside) > largest_bad_share * records or not self.examples:
            counts = Counter(record.problem for record in self.set_aside).most_common(3)
            raise DataError(
                "too many records cannot be used",
                found=f"{len(self.set_aside)} of {records}: " + ", ".join(f"{n} x {problem}" for problem, n in counts),
                needed=f"at most the share {largest_bad_share} (largest_bad_share), and one that can",
                where=self._source.name,
                hint=f"the first of them: {self.set_aside[0].message}",
            )

    def report(self) -> TaskFile:
        violations = sum(iob2_violations(e.labels or ()) for e in self.examples if isinstance(e, TokenExample))
        return TaskFile(
            self._source.name,
            self._source.form,
            dict(self._columns.of_role) if self._columns else {},
            self._ignored,
            len(self.examples),
            len(self.set_aside),
            dict(Counter(example.place.language for example in self.examples)),
            violations,
        )

    def _example(self, row: Row) -> TaskExample:
        fields = row.fields
        if self._reading.kind == "translation" and isinstance(fields.get("translation"), dict):  # the hub's form
            fields = {**{key: value for key, value in fields.items() if key != "translation"}, **fields["translation"]}
            row = Row(row.place, fields)
        columns = self._columns_of(row)
        example = make_example(row, columns, self._reading, self._languages(columns))
        if self._columns is None:
            used = {*columns.of_role.values(), *columns.numbered_negatives}
            self._columns, self._ignored = columns, tuple(sorted(map(str, fields.keys() - used)))
        identity = getattr(example, "identity", None)
        if identity in self._identities:
            needed = "an id of its own for every question: scores go by it"
            raise RecordError("the id was there before", row.place, found=identity, needed=needed)
        if identity is not None:
            self._identities.add(identity)
        return example

    def _columns_of(self, row: Row) -> Columns:
        """The columns of a record; the same as the first's, but for what may be missing."""
        keys = frozenset(row.fields)
        if self._last_columns is not None and keys == self._keys:
            return self._last_columns
        reading, source = self._reading, self._source
        try:
            chosen = choose_columns(reading, keys, source.pair, reading.numbered_columns is not None)
        except ColumnError as error:
            found = ", ".join(map(str, row.fields)) or "no keys"
            needed, hint = error.needed, _hint(reading, source.form, keys)
            raise RecordError(error.problem, row.place, found=f"columns {found}", needed=needed, hint=hint) from None
        if self._columns is not None:
            _check_same(self._columns, chosen, row)
        self._keys, self._last_columns = keys, chosen
        return chosen

    def _languages(self, columns: Columns) -> tuple[str, str]:
        """Of texts, and of their translations: as asked for, else by the columns, else by the name."""
        reading, named = self._reading, columns.languages or ("", "")
        in_name = ("", "")
        if reading.kind == "translation" and self._source.pair and not reading.columns:
            in_name = (language_code(self._source.pair[0]), language_code(self._source.pair[1]))
        first = reading.language or named[0] or in_name[0] or self._source.language
        return first, reading.target_language or named[1] or in_name[1]


def iob2_violations(labels: Sequence[str]) -> int:
    """How many I-TYPE labels continue no entity of their type.

    They are kept as the data has them: conlleval, and so seqeval, lets such a label begin an entity.
    """
    return sum(
        label.startswith("I-") and last not in (label, f"B-{label[2:]}") for last, label in pairwise(("O", *labels))
    )


def _rows(source: Source, reading: Reading) -> Iterator[Row | RecordError]:
    if reading.numbered_columns and source.form not in _WITH_NUMBERS:
        raise UsageError(
            "columns have numbers in TSV, CSV and CoNLL only", found=source.form, needed="names", where=source.name
        )
    if reading.columns and not reading.numbered_columns and source.form in _WITHOUT_NAMES:
        raise UsageError(
            f"the columns of {source.form} have no names",
            found=str(dict(reading.columns)),
            needed="numbers from 1, as in columns = {tokens = 1, labels = 4}" if source.form == "conll" else "none",
            where=source.name,
        )
    if source.form == "moses":
        return read_two_files(*source.files)
    if source.form == "hub":
        from mlc.tasks.task_readers.arrow_tables import read_hub

        assert source.hub is not None
        return read_hub(source.hub)
    return _rows_of_file(source.files[0], source.form, reading)


def _rows_of_file(file: Path, form: Form, reading: Reading) -> Iterator[Row | RecordError]:
    match form:
        case "json_lines":
            return read_json_lines(file)
        case "json":
            return read_json(file)
        case "conll":
            return read_conll(file, reading)
        case "parquet":
            from mlc.tasks.task_readers.arrow_tables import read_parquet

            return read_parquet(file)
        case _:
            return read_separated(file, form, reading)


def _hint(reading: Reading, form: Form, keys: frozenset[str]) -> str:
    like = kind_like(keys)
    if like is not None and like != reading.kind:
        return f"these look like records of another kind: {like}"
    if form in ("tsv", "csv") and not reading.columns:
        return "name the columns: columns = {text = ...}; where the first line is no header, by number: {text = 1}"
    return "name the columns: columns = {ROLE = COLUMN}"


def _check_same(first: Columns, columns: Columns, row: Row) -> None:
    """Refuse a record that says the same in another column, or has one text where the first has two."""
    differs = next(
        (role for role in columns.of_role if columns.of_role[role] != first.of_role.get(role, columns.of_role[role])),
        None,
    )
    if differs is None and ("text_pair" in columns.of_role) != ("text_pair" in first.of_role):
        differs = "text_pair"
    if differs is not None:
        raise RecordError(
            "the record has other columns than the file's first",
            row.place,
            found=f"{differs} in {columns.of_role.get(differs, 'none')}",
            needed=f"{differs} in {first.of_role.get(differs, 'none')}",
        )
