"""The texts of evaluation sets, for the index of contamination.

In:  files of JSON lines or plain text, also compressed.
Out: every text in them.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from mlc.data.text_lines import COMPRESSED, read_lines
from mlc.errors import DataError, RecipeError

_JSON_LINES = (".jsonl", ".ndjson", ".json")


def find_files(patterns: Sequence[str]) -> tuple[Path, ...]:
    """Files that `cleaning.contamination.paths` names, each once, by name.

    Raises:
        RecipeError: a path or glob matches no file.
    """
    found: set[Path] = set()
    for pattern in patterns:
        matches = {path for path in map(Path, [pattern, *glob.glob(pattern, recursive=True)]) if path.is_file()}
        if not matches:
            raise RecipeError(
                "no file matches", found=pattern, needed="at least one file", where="cleaning.contamination.paths"
            )
        found |= matches
    return tuple(sorted(found))


def read_texts(path: Path) -> Iterator[str]:
    """Every text of a file: each line, or each string in a line's JSON, where a list of strings is one text.

    Raises:
        DataError: the file cannot be read to its end, or a line is not UTF-8 or no JSON: an evaluation set that is
            read in part would be reported as clean in part.
    """
    as_json = path.name.removesuffix(path.suffix if path.suffix in COMPRESSED else "").endswith(_JSON_LINES)
    for number, line in read_lines(path):
        if not line.strip():
            continue
        try:
            text = line.decode("utf-8")
            yield from _strings(json.loads(text)) if as_json else (text,)
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise DataError(
                "an evaluation set cannot be read", found=str(error), where=f"{path}:{number}", hint="mend the file"
            ) from None


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        if all(isinstance(part, str) for part in value):
            yield " ".join(value)
        else:
            for part in value:
                yield from _strings(part)
    elif isinstance(value, dict):
        for part in value.values():
            yield from _strings(part)
