"""Lines and JSON records of evaluation data, each with its place for error messages.

In:  *.jsonl, *.tsv or *.txt, as they are or with .gz or .zst behind the name (see mlc.data.text_lines).
Out: (line number from 1, content) pairs; UTF-8 is required.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlc.data import text_lines
from mlc.errors import DataError


def plain_name(path: Path) -> str:
    """The file's name without its compression: "de.jsonl.zst" -> "de.jsonl"."""
    return path.stem if path.suffix in text_lines.COMPRESSED else path.name


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number, line without its end); blank lines are left out.

    Raises:
        DataError: the file cannot be read, decompressed or decoded; it names the file and the line.
    """
    for number, content in text_lines.read_lines(path):
        try:
            line = content.decode()
        except UnicodeDecodeError as error:
            raise DataError("this is not UTF-8", found=str(error), where=f"{path}:{number}") from None
        if line.strip():
            yield number, line.rstrip("\r")


def read_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) of a JSON-lines file; errors as in `read_lines`, and for a line that is no object."""
    for number, line in read_lines(path):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError("this line is not JSON", found=str(error), where=f"{path}:{number}") from None
        if not isinstance(record, dict):
            raise DataError(
                "this line is not a JSON object", found=type(record).__name__, needed="{...}", where=f"{path}:{number}"
            )
        yield number, record
