"""Test data of the tasks on embeddings: labelled texts, scored pairs of texts, documents, plain texts.

In:  files and folders: examples by mlc.tasks.task_files; documents as JSON lines, plain, .gz or .zst.
Out: examples with their file and line, in the order of the paths and of the lines.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from mlc.errors import DataError, UsageError
from mlc.languages import language_code, language_in_name
from mlc.tasks.examples import ClassificationExample, Place, RegressionExample
from mlc.tasks.task_files import read_task
from mlc.tasks.text_files import plain_name, read_lines, read_records

Example = TypeVar("Example", ClassificationExample, RegressionExample)
ALL_ROWS = slice(None)


def read_classification(
    paths: Sequence[Path], *, languages: Sequence[str] = (), rows: slice = ALL_ROWS
) -> list[ClassificationExample]:
    """Labelled texts, or pairs of texts; labels are strings.

    Args:
        languages: keep only these; none = all.
        rows: of each file.

    Raises:
        UsageError: no such file, or nothing is left in a language that was asked for.
        DataError: a record that does not fit, with file and line; pairs of texts beside single ones.
    """
    data = read_task("classification", list(paths), limit=rows.stop)
    found = _select(data.of(ClassificationExample), languages, rows)
    if len({example.text_pair is None for example in found}) > 1:
        single = next(example for example in found if example.text_pair is None)
        raise DataError("some records are pairs of texts and others are not", where=str(single.place))
    return found


def read_scored_pairs(
    paths: Sequence[Path], *, languages: Sequence[str] = (), rows: slice = ALL_ROWS
) -> list[RegressionExample]:
    """Pairs of texts with a number each; arguments and errors as above, and for a record without a second text."""
    found = _select(read_task("regression", list(paths), limit=rows.stop).of(RegressionExample), languages, rows)
    single = next((example for example in found if example.text_pair is None), None)
    if single is not None:
        raise DataError("there is no second text", needed='"text" and "text_pair"', where=str(single.place))
    return found


def read_documents(
    paths: Sequence[Path], *, languages: Sequence[str] = (), limit: int | None = None
) -> tuple[dict[str, dict[str, str]], int]:
    """Read {"id", "lang"?, "text"}: the same id in two languages is the same document.

    Args:
        languages: keep only these; none = all.
        limit: documents of each file.

    Returns:
        ({language: {id: text}}, how many were set aside because their id had been seen in the same language).
    """
    documents: dict[str, dict[str, str]] = {}
    repeated = 0
    wanted = {language_code(code) for code in languages}
    seen: set[str] = set()
    for path in files_of(paths, (".jsonl",)):
        for number, record in islice(read_records(path), limit):
            place = Place(str(path), number, _language_of(record, path))
            seen.add(place.language)
            if wanted and place.language not in wanted:
                continue
            texts = documents.setdefault(place.language, {})
            identity, text = text_of(record, "id", place), text_of(record, "text", place)
            repeated += identity in texts
            texts.setdefault(identity, text)
    check_languages(seen, languages)
    return documents, repeated


def read_texts(paths: Sequence[Path], *, languages: Sequence[str] = (), limit: int | None = None) -> list[str]:
    """Read texts alone: lines of .txt files, or "text" of JSON lines; `limit` is of each file."""
    wanted = {language_code(code) for code in languages}
    texts: list[str] = []
    seen: set[str] = set()
    for path in files_of(paths, (".jsonl", ".txt")):
        if plain_name(path).endswith(".txt"):
            texts += [line for _, line in islice(read_lines(path), limit)]
            seen.add(language_in_name(plain_name(path)))
            continue
        for number, record in islice(read_records(path), limit):
            place = Place(str(path), number, _language_of(record, path))
            seen.add(place.language)
            if not wanted or place.language in wanted:
                texts.append(text_of(record, "text", place))
    check_languages(seen, languages)
    if not texts:
        raise UsageError("there are no texts", found=", ".join(map(str, paths)))
    return texts


def text_of(record: dict[str, Any], key: str, place: Place) -> str:
    """A text of a record; ids may be whole numbers.

    Raises:
        DataError: it is missing or empty.
    """
    value = record.get(key)
    if key == "id" and isinstance(value, int):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f'"{key}" has no text', found=value, needed="a string that is not empty", where=str(place))
    return value


def files_of(paths: Sequence[Path], suffixes: tuple[str, ...]) -> list[Path]:
    """Files, in the place of each folder those in it that end so (before .gz, .zst).

    Raises:
        UsageError: no such file or folder, none in the folder, or another form.
    """
    needed = " or ".join(suffixes) + " (.gz, .zst)"
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(f for f in path.iterdir() if f.is_file() and plain_name(f).endswith(suffixes))
            if not inside:
                raise UsageError("the folder has no data", needed=needed, where=str(path))
            files += inside
        elif not path.is_file():
            raise UsageError("no such file or folder", where=str(path))
        elif not plain_name(path).endswith(suffixes):
            raise UsageError("the file's form is not known", needed=needed, where=str(path))
        else:
            files.append(path)
    return files


def check_languages(found: Collection[str], wanted: Sequence[str]) -> None:
    """Refuse a language that was asked for and of which there is nothing.

    Raises:
        UsageError: there is one.
    """
    missing = [code for code in wanted if language_code(code) not in found]
    if missing:
        raise UsageError(
            "there is nothing in a language that was asked for",
            found=", ".join(missing),
            needed=f"some of {', '.join(sorted(found))}",
            where="--languages",
        )


def _language_of(record: dict[str, Any], path: Path) -> str:
    code = record.get("lang")
    return language_code(code) if isinstance(code, str) else language_in_name(plain_name(path))


def _select(examples: Sequence[Example], languages: Sequence[str], rows: slice) -> list[Example]:
    wanted = {language_code(code) for code in languages}
    check_languages({example.place.language for example in examples}, languages)
    by_file: dict[str, list[Example]] = {}
    for example in examples:
        by_file.setdefault(example.place.file, []).append(example)
    found = [
        example for own in by_file.values() for example in own[rows] if not wanted or example.place.language in wanted
    ]
    if not found:
        raise UsageError(
            "there is nothing to score", found=f"rows {rows.start or 0}:{rows.stop or ''} of {len(examples)} examples"
        )
    return found
