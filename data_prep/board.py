"""How far all processes of a build are: each writes its own counts where the others can read them.

In:  counts of this process.
Out: `<folder>/<name>.json`, renewed now and then; the sum over all of them, for whoever shows it.

Counts are for people. What a build has really finished stands in the records of its units (data_prep.unit_files).
"""

from __future__ import annotations

import json
import os
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

SECONDS_BETWEEN_NOTES = 1.0


@dataclass
class Counts:
    """Bytes of source files read; documents and tokens written."""

    bytes: int = 0
    documents: int = 0
    tokens: int = 0

    def add(self, other: Counts) -> None:
        """Count what another has counted."""
        self.bytes += other.bytes
        self.documents += other.documents
        self.tokens += other.tokens


class Board:
    """This process's place on the board.

    Args:
        folder: exists; a folder for every stage of a build.
        seconds_between_notes: a note costs a rename.
    """

    def __init__(self, folder: Path, seconds_between_notes: float = SECONDS_BETWEEN_NOTES) -> None:
        self._folder, self._seconds = folder, seconds_between_notes
        self._path = folder / f"{uuid.uuid4().hex}.json"
        self._own = Counts()
        self._next = 0.0

    def add(self, *, bytes: int = 0, documents: int = 0, tokens: int = 0) -> None:
        """Count more, and note it where it is time to."""
        self._own.add(Counts(bytes, documents, tokens))
        if time.monotonic() >= self._next:
            self.note()

    def note(self) -> None:
        """Write the counts now; a disk that does not take them matters to nobody here."""
        self._next = time.monotonic() + self._seconds
        temporary = self._path.with_suffix(".tmp")
        try:
            temporary.write_text(json.dumps(asdict(self._own)), encoding="utf-8")
            os.replace(temporary, self._path)
        except OSError:
            temporary.unlink(missing_ok=True)

    def totals(self) -> Counts:
        """Of all processes, as they were when each last noted them."""
        total = Counts()
        for path in notes_in(self._folder):
            if path != self._path:
                total.add(_read(path))
        total.add(self._own)
        return total


def notes_in(folder: Path) -> list[Path]:
    """The notes of all processes; none where the folder was cleared away by one that has finished the build."""
    try:
        return list(folder.glob("*.json"))
    except FileNotFoundError:
        return []


def _read(path: Path) -> Counts:
    try:
        return Counts(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # of another version, or taken away
        return Counts()
