"""Lines and JSON records of text files, plain or compressed, each with its place for error messages.

In:  *.jsonl, *.tsv or *.txt, as they are or with .gz or .zst behind the name.
Out: (line number from 1, content) pairs; UTF-8 is required.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import zstandard

from mlc.errors import DataError

COMPRESSIONS = (".zst", ".gz")


def plain_name(path: Path) -> str:
    """The file's name without its compression: "de.jsonl.zst" -> "de.jsonl"."""
    return path.stem if path.suffix in COMPRESSIONS else path.name


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number, line without its end); blank lines are left out.

    Raises:
        DataError: the file cannot be read, decompressed or decoded; it names the file, and the line where it has one.
    """
    number = 0
    try:
        with _open(path) as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError("this is not UTF-8", found=str(error), where=f"{path}:{number + 1}") from None
    except (OSError, EOFError, zstandard.ZstdError) as error:
        raise DataError("the file cannot be read", found=str(error), where=str(path)) from None


def read_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) of a JSON-lines file; errors as in `read_lines`, and for a line that is no object."""
    for number, line in read_lines(path):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError("this line is not JSON", found=str(error), where=f"{path}:{number}") from None
        if not isinstance(record, dict):
            raise DataError(
                "this line is not a JSON object", found=type(record).__name__, needed="{...}", where=f"{path}:{number}"
            )
        yield number, record


def _open(path: Path) -> IO[str]:
    # newline="\n": a lone carriage return or U+2028 inside a text must not shift the line numbers.
    if path.suffix == ".zst":
        return io.TextIOWrapper(
            zstandard.ZstdDecompressor().stream_reader(path.open("rb"), read_across_frames=True, closefd=True),
            encoding="utf-8",
            newline="\n",
        )
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="\n")
    return path.open(encoding="utf-8", newline="\n")
