"""Batch scripts: a template of bash with two gaps, filled with values that bash and sbatch read as they are.

In:  a template, the values of `#@directives` (options of sbatch) and `#@values` (variables of bash), code of the site.
Out: the text of a batch script that stands alone.

A template is a whole script that shellcheck can read. `#@include NAME` takes in another file of the templates' folder.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from mlc.errors import UsageError

DIRECTIVES, VALUES, SETUP, INCLUDE = "#@directives", "#@values", "#@setup", "#@include "
_PLAIN = re.compile(r"[A-Za-z0-9_./:,@+=\[\]-]+")
Value = str | int | Sequence[str]


def template_text(name: str, own: Path | None = None) -> str:
    """A template of ours ("train"), or the user's own, with what it includes.

    Raises:
        UsageError: it cannot be read, or lacks a gap.
    """
    folder = files("launchers") / "templates"
    try:
        text = own.read_text(encoding="utf-8") if own else (folder / f"{name}.sbatch").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("the template cannot be read", found=str(error), hint=f"mlc submit template {name}") from None
    lines: list[str] = []
    for line in text.splitlines():
        included = line.removeprefix(INCLUDE)
        if included == line:
            lines.append(line)
            continue
        source = folder / included.strip()
        if not source.is_file():
            raise UsageError("the template includes what is not there", found=included, where=str(own or name))
        lines += source.read_text(encoding="utf-8").splitlines()[1:]  # without the line that names its shell
    for gap in (DIRECTIVES, VALUES):
        if gap not in lines:
            raise UsageError(
                f"the template has no line {gap}", where=str(own or name), hint=f"mlc submit template {name}"
            )
    return "\n".join(lines) + "\n"


def render(
    template: str, *, directives: Iterable[tuple[str, str]], values: Mapping[str, Value], setup: str = ""
) -> str:
    """A batch script.

    Args:
        template: from `template_text`.
        directives: (option of sbatch, its value or "" where it has none), in order.
        values: variables of bash: strings, numbers, and sequences, which become arrays.
        setup: lines of bash, as they are.

    Raises:
        UsageError: a value that neither sbatch nor bash could read back as it is.
    """
    filled = {
        DIRECTIVES: [
            f"#SBATCH --{name}={sbatch_word(value)}" if value else f"#SBATCH --{name}" for name, value in directives
        ],
        VALUES: [f"{name}={_bash(value)}" for name, value in values.items()],
        SETUP: setup.splitlines(),
    }
    lines: list[str] = []
    for line in template.splitlines():
        lines += filled.get(line, [line])
    return "\n".join(lines) + "\n"


def sbatch_word(value: str) -> str:
    """A value behind `#SBATCH --option=`: sbatch expands nothing, knows quotes and backslashes, and ends at a line end.

    Raises:
        UsageError: a line end or another control character, which cannot be written there.
    """
    if any(not character.isprintable() for character in value):
        raise UsageError("a value for sbatch has to be one line of printable characters", found=repr(value))
    if _PLAIN.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def sbatch_path(path: Path) -> str:
    """A path of `--output`, in which sbatch and srun would replace patterns such as %j.

    Raises:
        UsageError: it has a backslash, which srun has no way to write (seen in 22.05).
    """
    if "\\" in str(path):
        raise UsageError("SLURM cannot write to a path with a backslash", found=str(path), hint="choose another folder")
    return str(path).replace("%", "%%")


def _bash(value: Value) -> str:
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return _bash_word(value)
    return f"({' '.join(_bash_word(word) for word in value)})"


def _bash_word(value: str) -> str:
    # A byte 0 ends words everywhere; surrogates stand for bytes of a path that are no UTF-8.
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise UsageError("a batch script cannot hold this word", found=repr(value), needed="UTF-8 without a byte 0")
    return shlex.quote(value)
