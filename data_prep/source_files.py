"""The files that paths and globs of a recipe name, and the state they are in.

In:  paths, globs, names of data sets.
Out: `find_files`: the files, or a `RecipeError`; `find_codes`: the languages in their names; `state_of`: size and time
     of change, by which a build sees that a file is another one by now.
"""

from __future__ import annotations

import fnmatch
import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlc.errors import RecipeError


@dataclass(frozen=True, slots=True)
class FileState:
    """Of a file; of a folder the sum of its files' sizes and the latest time of change among them."""

    size_bytes: int
    changed_ns: int


_BETWEEN_CODES = re.compile(r"[/.]")
ELSEWHERE = FileState(0, -1)
"""Of a data set on the hub: what it holds is settled by its name and revision."""


def find_files(patterns: Sequence[str], where: str) -> tuple[Path, ...]:
    """The files that paths and globs name, each once: in the order of the patterns, those of a glob by name.

    Args:
        patterns: a path of a file that is there is taken as it is, even with a glob's characters in it.
        where: the recipe's path and key, for errors.

    Raises:
        RecipeError: a path is no file, or a glob matches none.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        if glob.has_magic(pattern) and not Path(pattern).exists():
            matches = sorted(path for path in map(Path, glob.glob(pattern, recursive=True)) if path.is_file())
            if not matches:
                raise RecipeError("no file matches", found=pattern, needed="at least one file", where=where)
            found.update(dict.fromkeys(matches))
        elif not Path(pattern).is_file():
            raise RecipeError("no such file", found=pattern, where=where)
        else:
            found[Path(pattern)] = None
    return tuple(found)


def find_codes(patterns: Sequence[str], placeholder: str, code: re.Pattern[str], where: str) -> tuple[str, ...]:
    """The language codes that files have in the place of a placeholder, by name.

    Args:
        patterns: paths and globs with the placeholder in them. A slash or full stop ends a code; between the one before
            it and the code there may be letters, but no wildcards, as in "en-{second}.en".
        placeholder: such as "{language}".
        code: what a code looks like.
        where: the recipe's path and key, for errors.

    Raises:
        RecipeError: there is none.
    """
    found: set[str] = set()
    for pattern in patterns:
        before = _BETWEEN_CODES.split(pattern.partition(placeholder)[0])[-1]
        loosely = pattern.replace("**/", "*")
        likely: set[str] = set()
        for path in glob.glob(pattern.replace(placeholder, "*"), recursive=True):
            words = {word.removeprefix(before) for word in _BETWEEN_CODES.split(path) if word.startswith(before)}
            words = {word for word in words - likely if code.fullmatch(word)}
            likely |= {word for word in words if fnmatch.fnmatchcase(path, loosely.replace(placeholder, word))}
        found |= {word for word in likely if glob.glob(pattern.replace(placeholder, word), recursive=True)}
    if not found:
        raise RecipeError(
            f"no file has a language code in the place of {placeholder}",
            found=", ".join(patterns),
            needed=f"files such as {patterns[0].replace(placeholder, 'en')}; a code ends at / or .",
            where=where,
        )
    return tuple(sorted(found))


def state_of(path: Path, is_dataset: bool = False) -> FileState:
    """The state of a file, or of a data set: a folder, or a name on the hub.

    Raises:
        OSError: the file is gone.
    """
    if not is_dataset:
        status = path.stat()
        return FileState(status.st_size, status.st_mtime_ns)
    if not path.is_dir():
        return ELSEWHERE
    states = [state_of(file) for file in sorted(path.rglob("*")) if file.is_file()]
    return FileState(sum(state.size_bytes for state in states), max((state.changed_ns for state in states), default=0))
