"""Which files, or data sets of the hub, the sources of a task stand for, and in which form each is.

In:  paths, folders, globs, "{language}" places, "{de,en}" pairs of files, "hub:NAME[:CONFIG][:SPLIT]".
Out: `Source`, one a file (or two files line by line, or a data set), in the order of the sources, then of names.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from mlc.errors import UsageError
from mlc.languages import language_code, language_in_name, languages_in_pair
from mlc.tasks.examples import TaskKind
from mlc.tasks.task_readers.rows import Form
from mlc.tasks.text_files import plain_name

HUB = "hub:"
_PLACE = "{language}"
_TWO_FILES = re.compile(r"(.*)\{([^{},/]+),([^{},/]+)\}(.*)", re.DOTALL)
_FORMS: dict[str, Form] = {
    ".jsonl": "json_lines", ".ndjson": "json_lines", ".json": "json", ".tsv": "tsv", ".csv": "csv",
    ".parquet": "parquet", ".conll": "conll", ".iob": "conll", ".iob2": "conll", ".bio": "conll",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class HubName:
    """What follows "hub:"; "" = not given."""

    name: str
    config: str
    split: str


@dataclass(frozen=True, slots=True)
class Source:
    """One thing to open.

    Attributes:
        name: as messages call it; a path, or what follows "hub:" with it.
        form: how it is read.
        files: one file; two for "moses" (line k of both is one pair); none for "hub".
        hub: of a data set.
        language: as "{language}" or the name states it; "" = neither does.
        pair: the two codes in the name, as they stand there ("de-en.tsv"); None = there are none.
    """

    name: str
    form: Form
    files: tuple[Path, ...]
    hub: HubName | None
    language: str
    pair: tuple[str, str] | None


def find_sources(
    kind: TaskKind, sources: Sequence[str | Path], languages: Sequence[str], form: Form | None
) -> list[Source]:
    """Every source, none twice.

    Args:
        kind: of the task: .tsv and .txt are CoNLL for token classification.
        sources: see the header.
        languages: what "{language}" stands for, one after the other, as they are written in the names.
        form: how to read files whatever their names say; None = by name.

    Raises:
        UsageError: nothing is there, a form is not known, or a file is named twice.
    """
    if form is not None and form not in get_args(Form):
        raise UsageError("no such form of files", found=form, needed=", ".join(get_args(Form)))
    if not sources:
        raise UsageError("there are no sources", needed="a file, a folder, a glob or hub:NAME")
    if languages and not any(_PLACE in str(source) for source in sources):
        raise UsageError(
            "no source says where a language goes",
            found=", ".join(map(str, sources)),
            needed=f'{_PLACE} in a source, as in "xnli/{_PLACE}.dev.jsonl"',
        )
    found: list[Source] = []
    for source in map(str, sources):
        if _PLACE not in source:
            found += _expand(kind, source, "", form)
            continue
        if not languages:
            raise UsageError("which languages are meant is not said", found=source, needed='languages = ["de", ...]')
        for language in languages:
            found += _expand(kind, source.replace(_PLACE, language), language_code(language), form)
    names = [source.name for source in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError("the sources name a file twice: its examples would count twice", found=twice)
    return found


def _expand(kind: TaskKind, source: str, language: str, form: Form | None) -> Iterator[Source]:
    if source.startswith(HUB):
        yield _hub(source, language)
        return
    two = _TWO_FILES.fullmatch(source)
    if two and not Path(source).exists():
        yield _two_files(kind, source, language, (f"{two[1]}{two[2]}{two[4]}", f"{two[1]}{two[3]}{two[4]}"))
        return
    for path in _files(kind, source, form):
        yield _file(kind, path, language, form)


def _hub(source: str, language: str) -> Source:
    # at most three parts: a split may hold a colon itself ("train[:100]")
    name, config, split = (*source.removeprefix(HUB).split(":", 2), "", "")[:3]
    if not name:
        raise UsageError("the data set has no name", found=source, needed="hub:NAME[:CONFIG][:SPLIT]")
    return Source(
        source,
        "hub",
        (),
        HubName(name, config, split),
        language or language_in_name(config),
        languages_in_pair(config),
    )


def _two_files(kind: TaskKind, source: str, language: str, names: tuple[str, str]) -> Source:
    if kind != "translation":
        raise UsageError("only translation reads two files line by line", found=source, needed="one file, or a glob")
    files = (Path(names[0]), Path(names[1]))
    for path in files:
        if not path.is_file():
            raise UsageError("no such file", where=str(path))
    codes = [language_in_name(plain_name(path).rsplit(".", 1)[-1]) for path in files]
    pair = (codes[0], codes[1]) if all(codes) else None
    return Source(source, "moses", files, None, language, pair)


def _files(kind: TaskKind, source: str, form: Form | None) -> list[Path]:
    path = Path(source)
    if path.is_file():
        return [path]
    if path.is_dir():
        inside = sorted(f for f in path.iterdir() if f.is_file() and not f.name.startswith("."))
        files = [file for file in inside if form is not None or _form(kind, file) is not None]
        if not files:
            raise UsageError(
                "the folder has no files of a known form",
                found=", ".join(file.name for file in inside[:5]) or "no files",
                needed=f"{', '.join(_FORMS)} (.gz, .zst)",
                where=source,
            )
        return files
    if glob.has_magic(source):
        files = sorted(file for file in map(Path, glob.glob(source, recursive=True)) if file.is_file())
        if files:
            return files
        raise UsageError("no file fits the pattern", found=source)
    raise UsageError(
        "no such file or folder", where=source, hint=f'a data set of the Hugging Face hub is named "{HUB}NAME"'
    )


def _file(kind: TaskKind, path: Path, language: str, form: Form | None) -> Source:
    known = form or _form(kind, path)
    if known is None:
        raise UsageError(
            "the file's form is not known by its name",
            needed=f"{', '.join(_FORMS)} (.gz, .zst)",
            where=str(path),
            hint=f"say how to read it: form = one of {', '.join(get_args(Form))}",
        )
    if known in ("moses", "hub"):
        raise UsageError(f'"{known}" is no form of one file', needed='"train.{de,en}", or "hub:NAME"', where=str(path))
    name = plain_name(path).rsplit(".", 1)[0] if "." in plain_name(path) else plain_name(path)
    return Source(str(path), known, (path,), None, language or language_in_name(name), languages_in_pair(name))


def _form(kind: TaskKind, path: Path) -> Form | None:
    suffix = Path(plain_name(path)).suffix.lower()
    if kind == "token_classification" and suffix in (".tsv", ".txt"):
        return "conll"
    return _FORMS.get(suffix)
