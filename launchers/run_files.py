"""Run folders, and small facts out of files that others are writing: what is torn or no JSON counts as not there.

In:  paths, and values as they come out of JSON.
Out: run folders and their submissions; JSON objects, the last ones of a long file; values of the type that is needed,
     or None.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlc.run_names import EXIT_NAME, METRICS_NAME, OWNER_NAME

MAX_DEPTH = 4
OWN_FOLDERS = frozenset({"attempts", "checkpoints", "logs", "samples", "slurm", "tensorboard"})
"""Of a run folder; nothing to look for in them."""

BESIDE = ".slurm"
"""Shards are a folder that holds nothing else: what belongs to their jobs lies in `SHARDS.slurm`."""

_MARKS = (OWNER_NAME, METRICS_NAME, EXIT_NAME)
_BLOCK_BYTES = 1 << 16
_MOST_TAIL_BYTES = 1 << 26
_NUMBERED = re.compile(r"(?:step|submit)-([0-9]+)")


def find_runs(folders: Iterable[Path]) -> list[Path]:
    """Run folders among and below `folders`, by name, each once, at most `MAX_DEPTH` levels down; links are followed.

    A run folder is one with a submission, an owner.json, a metrics.jsonl or an exit.json. Checkpoints and other parts
    of a run folder are not walked into.
    """
    seen: set[tuple[int, int]] = set()
    given = [place for folder in folders for place in dict.fromkeys((folder, folder_of_jobs(folder)))]
    return [run for folder in given for run in sorted(_walk(folder, MAX_DEPTH, seen))]


def _walk(folder: Path, depth: int, seen: set[tuple[int, int]]) -> Iterator[Path]:
    try:
        facts = folder.stat()
        if (facts.st_dev, facts.st_ino) in seen:
            return
        seen.add((facts.st_dev, facts.st_ino))
        with os.scandir(folder) as found:
            entries = list(found)
    except OSError:
        return
    names = {entry.name for entry in entries}
    may_have_jobs = "slurm" in names or folder.name.endswith(BESIDE)
    if names.intersection(_MARKS) or (may_have_jobs and submission_folders(folder)):
        yield folder
    for entry in entries if depth else ():
        if entry.name not in OWN_FOLDERS and not entry.name.startswith(".") and _is_folder(entry):
            yield from _walk(folder / entry.name, depth - 1, seen)


def submission_folders(folder: Path) -> list[Path]:
    """`RUN/slurm/submit-*`, or `SHARDS.slurm/submit-*`, oldest first."""
    return numbered(folder if folder.name.endswith(BESIDE) else folder / "slurm", "submit-")


def folder_of_jobs(folder: Path) -> Path:
    """Where the files of a folder's jobs lie: beside it for shards, in it otherwise."""
    beside = folder.with_name(f"{folder.name}{BESIDE}") if folder.name else folder
    return beside if beside.is_dir() else folder


def last_objects(path: Path, count: int) -> list[dict[str, Any]]:
    """The last `count` JSON objects of a file with one a line, in order; fewer where there are fewer.

    Read from the end, in blocks; a line without its newline, or that is no JSON object, is left out. Gives up after
    64 MiB that hold none.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            tail_bytes = min(_BLOCK_BYTES, size)
            while True:
                file.seek(size - tail_bytes)
                whole = file.read(tail_bytes).split(b"\n")[:-1]
                lines = whole if tail_bytes == size else whole[1:]
                found = _objects_from_end(lines, count)
                if len(found) == count or tail_bytes in (size, _MOST_TAIL_BYTES):
                    return found
                tail_bytes = min(4 * tail_bytes, size, _MOST_TAIL_BYTES)
    except OSError:
        return []


def _objects_from_end(lines: list[bytes], count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for line in reversed(lines):
        if len(found) == count:
            break
        if (content := parse_object(line)) is not None:
            found.append(content)
    return found[::-1]


def numbered(folder: Path, prefix: str) -> list[Path]:
    """Entries "step-0001", "submit-00001" of a folder, by their number; none where there is no folder."""
    try:
        names = [name for name in os.listdir(folder) if name.startswith(prefix) and _NUMBERED.fullmatch(name)]
    except OSError:
        return []
    return [folder / name for name in sorted(names, key=number_in)]


def number_in(name: str) -> int:
    """17 of "step-00000017"."""
    return int(name.rpartition("-")[2])


def read_object(path: Path) -> dict[str, Any] | None:
    """A file's JSON object."""
    try:
        return parse_object(path.read_bytes())
    except OSError:
        return None


def parse_object(content: bytes) -> dict[str, Any] | None:
    """A JSON object in UTF-8."""
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def as_text(value: object) -> str:
    """Text; "" for null."""
    return "" if value is None else str(value)


def as_whole(value: object) -> int | None:
    """A whole number."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def as_number(value: object) -> float | None:
    """A finite number."""
    try:
        return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
    except OverflowError:
        return None


def as_seconds(value: object) -> float | None:
    """Seconds since 1970 from ISO 8601; UTC where no zone is given."""
    try:
        time = datetime.fromisoformat(as_text(value))
        return (time if time.tzinfo is not None else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def first_line(text: str) -> str:
    """Of a reason, which can go on with the next command to type."""
    return text.strip().partition("\n")[0]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
