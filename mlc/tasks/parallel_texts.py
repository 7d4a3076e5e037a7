"""Texts with their translations, for retrieval.

In:  files, or folders of them (see `read_parallel_texts`): sentence pairs, or documents that share ids.
Out: `ParallelTexts`, one for every pair of languages: line k of one side translates line k of the other.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from mlc.errors import DataError, UsageError
from mlc.languages import short_code
from mlc.tasks.text_files import plain_name, read_lines, read_records

PIVOT = "en"
_DOCUMENT_FIELDS = {"id", "lang", "text"}
_SUFFIXES = (".jsonl", ".tsv")
_CODES = re.compile("[a-z]{2,3}(-[a-z]{2,3})?")


@dataclass(frozen=True)
class ParallelTexts:
    """Two sides of equal length: `first[k]` and `second[k]` mean the same.

    Attributes:
        languages: of the first and of the second side, as `short_code` gives them.
        origin: file or folder they were read from.
        repeated_ids: documents set aside because their id had been seen in the same language.
    """

    languages: tuple[str, str]
    first: tuple[str, ...]
    second: tuple[str, ...]
    origin: str
    repeated_ids: int = 0

    def __len__(self) -> int:
        return len(self.first)


def read_parallel_texts(
    paths: Sequence[str | Path], *, languages: Collection[str] = (), limit: int | None = None
) -> list[ParallelTexts]:
    """Read every pair of languages under `paths`, in the order of the paths and then of their names.

    Three forms are known, each plain, .gz or .zst:
      * sentence pairs, `<a>-<b>.jsonl` with the two codes as keys: {"deu": "...", "eng": "..."}, other keys ignored;
      * sentence pairs, `<a>-<b>.tsv` with two columns;
      * documents, `<lang>.jsonl` with {"id", "lang", "text"}, in one folder: an id that two languages share is the same
        document. Every pair of languages with at least two shared documents is returned.

    Args:
        paths: files and folders; a folder stands for the .jsonl and .tsv files in it.
        languages: keep only these (two- or three-letter codes); empty = all. A file whose name is that of other
            languages is not read. English need not be listed to keep files
            of English-X pairs, but must be listed to keep English documents.
        limit: keep only the first so many of each pair.

    Raises:
        UsageError: a path does not exist, or nothing is left to score.
        DataError: a record that does not fit its form, with file and line.
    """
    wanted = {short_code(language) for language in languages}
    found: list[ParallelTexts] = []
    documents: dict[Path, list[Path]] = {}
    for path in _files(paths):
        if wanted and not _may_hold(path, wanted):
            continue
        if plain_name(path).endswith(".tsv"):
            _append(found, _read_tsv(path, limit), wanted)
        elif _holds_documents(path):
            documents.setdefault(path.parent, []).append(path)
        else:
            _append(found, _read_pairs(path, limit), wanted)
    for folder, files in documents.items():
        found += _read_documents(folder, files, wanted, limit)
    have = {language for texts in found for language in texts.languages}
    if found and not wanted <= have:
        raise UsageError(
            "there are no pairs in a language that was asked for",
            found=", ".join(sorted(wanted - have)),
            needed=f"some of {', '.join(sorted(have))}, or data in it",
            where="--languages",
        )
    if not found:
        raise UsageError(
            "there is nothing to score",
            found=f"{', '.join(map(str, paths))}" + (f" with languages {', '.join(sorted(wanted))}" if wanted else ""),
            needed="at least one pair of languages with two or more translated texts",
        )
    return found


def _files(paths: Iterable[str | Path]) -> list[Path]:
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(f for f in path.iterdir() if f.is_file() and plain_name(f).endswith(_SUFFIXES))
            if not inside:
                raise UsageError("the folder has no .jsonl or .tsv files", where=str(path))
            files += inside
        elif path.is_file():
            if not plain_name(path).endswith(_SUFFIXES):
                raise UsageError("the file's form is not known", needed=".jsonl or .tsv (.gz, .zst)", where=str(path))
            files.append(path)
        else:
            raise UsageError("no such file or folder", where=str(path))
    return files


def _append(found: list[ParallelTexts], texts: ParallelTexts, wanted: set[str]) -> None:
    if wanted and not _is_wanted(texts.languages, wanted):
        return
    if len(texts) < 2:  # a single candidate is always right
        raise DataError(
            "retrieval needs candidates", found=f"{len(texts)} pair", needed="2 or more", where=texts.origin
        )
    found.append(texts)


def _is_wanted(languages: Iterable[str], wanted: set[str]) -> bool:
    return set(languages) - {PIVOT} <= wanted


def _may_hold(path: Path, wanted: set[str]) -> bool:
    """False where the name alone tells that nothing in the file was asked for, so that it need not be read."""
    name = plain_name(path).rsplit(".", 1)[0]
    if not _CODES.fullmatch(name):
        return True
    codes = [short_code(code) for code in name.split("-")]
    if not any(len(code) == 2 for code in codes):  # "dev", "all-set"
        return True
    return codes[0] in wanted if len(codes) == 1 else _is_wanted(codes, wanted)


def _holds_documents(path: Path) -> bool:
    for _, record in read_records(path):
        return record.keys() >= _DOCUMENT_FIELDS
    raise DataError("the file is empty", where=str(path))


def _codes_of_name(path: Path) -> tuple[str, str] | None:
    parts = plain_name(path).rsplit(".", 1)[0].split("-")
    return (parts[0], parts[1]) if len(parts) == 2 and all(parts) else None


def _text(record: dict[str, Any], key: str, where: str) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f'"{key}" has no text', found=value, needed="a string that is not empty", where=where)
    return value


def _read_pairs(path: Path, limit: int | None) -> ParallelTexts:
    keys = _codes_of_name(path)
    first: list[str] = []
    second: list[str] = []
    for number, record in read_records(path):
        if limit is not None and len(first) >= limit:
            break
        if keys is None:
            keys = _only_two_keys(record, f"{path}:{number}")
        first.append(_text(record, keys[0], f"{path}:{number}"))
        second.append(_text(record, keys[1], f"{path}:{number}"))
    assert keys is not None  # _holds_documents has read a first record
    return ParallelTexts((short_code(keys[0]), short_code(keys[1])), tuple(first), tuple(second), str(path))


def _only_two_keys(record: dict[str, Any], where: str) -> tuple[str, str]:
    if len(record) != 2:
        raise DataError(
            "which two fields hold the texts is unclear",
            found=sorted(record),
            needed='two fields, or a file name such as "de-en.jsonl"; documents have "id", "lang" and "text"',
            where=where,
        )
    first, second = record
    return first, second


def _read_tsv(path: Path, limit: int | None) -> ParallelTexts:
    codes = _codes_of_name(path)
    if codes is None:
        raise UsageError('the languages are read off the name, as in "de-en.tsv"', found=path.name, where=str(path))
    first: list[str] = []
    second: list[str] = []
    for number, line in read_lines(path):
        if limit is not None and len(first) >= limit:
            break
        columns = line.split("\t")
        if len(columns) != 2 or not all(column.strip() for column in columns):
            raise DataError(
                "this line is not a pair",
                found=f"{len(columns)} columns: {line[:60]!r}",
                needed="two texts with a tab between",
                where=f"{path}:{number}",
            )
        first.append(columns[0])
        second.append(columns[1])
    if not first:
        raise DataError("the file is empty", where=str(path))
    return ParallelTexts((short_code(codes[0]), short_code(codes[1])), tuple(first), tuple(second), str(path))


def _read_documents(folder: Path, files: list[Path], wanted: set[str], limit: int | None) -> list[ParallelTexts]:
    by_language: dict[str, dict[str, str]] = {}
    repeated: dict[str, int] = {}
    for path in files:
        for number, record in read_records(path):
            where = f"{path}:{number}"
            language = short_code(_text(record, "lang", where))
            if wanted and language not in wanted:
                continue
            identity, text = _text(record, "id", where), _text(record, "text", where)
            texts = by_language.setdefault(language, {})
            if identity in texts:
                repeated[language] = repeated.get(language, 0) + 1
            else:
                texts[identity] = text
    found = []
    for a, b in combinations(sorted(by_language), 2):
        shared = [identity for identity in by_language[a] if identity in by_language[b]][:limit]
        if len(shared) > 1:
            first, second = (tuple(by_language[x][identity] for identity in shared) for x in (a, b))
            found.append(ParallelTexts((a, b), first, second, str(folder), repeated.get(a, 0) + repeated.get(b, 0)))
    return found
