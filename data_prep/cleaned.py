"""Documents as they were cleaned, kept from the first stage that reads a unit to the others.

In:  a unit's chunks, as they pass by.
Out: `cleaned/<key>`, a spill (data_prep.spills), and `cleaned/<key>.json`, its counts, written last; a `CleanedReader`
     that gives the same documents and records set aside as the unit's own reader gave.

Cleaning takes several times as long as encoding, and a build that trains a tokenizer and looks for near-duplicates goes
through its text three times. What is kept takes about a third of the text's bytes on disk, and is only there to save
time: where it is missing, the unit is read and cleaned again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import xxhash

from data_prep.cleaning.document import Document
from data_prep.hashed_file import FileSet
from data_prep.readers.record import Rejected
from data_prep.set_aside import Example
from data_prep.spills import Entry, SpillWriter, damaged_spill, read_spill
from data_prep.unit_files import place_of, split_place
from data_prep.work import CHUNK_CHARACTERS, TRIED_RECORDS, Chunk, ChunkReader, Kept
from mlc.files import write_atomically


def is_kept(path: Path) -> bool:
    """Whether a unit's documents lie at `path`."""
    return _counts_file(path).exists()


def keep(reader: ChunkReader, path: Path) -> Iterator[Chunk]:
    """The reader's chunks, which are kept at `path` once all of them have been gone through."""
    with FileSet() as files:
        writer, count = SpillWriter(files.open(path, xxhash.xxh3_64)), 0
        for chunk in reader:
            entries = [_entry_of(kept) for kept in chunk.kept]
            entries += [Entry.of_rejected(place_of(part, dropped.line), dropped) for part, dropped in chunk.dropped]
            for entry in sorted(entries, key=lambda entry: entry.place):
                writer.add(entry)
            count += len(entries)
            yield chunk
        writer.flush()
        files.finish()
        files.commit()
    example = reader.example
    counts = {
        "entries": count,
        "lines": reader.lines,
        "records": reader.records,
        "unusable": dict(reader.unusable),
        "example": None if example is None else {**asdict(example), "file": str(example.file)},
    }
    write_atomically(_counts_file(path), json.dumps(counts).encode())


def remove(path: Path) -> None:
    """Take away what is kept of a unit; its counts first, so that nobody takes the rest for whole."""
    for each in (_counts_file(path), path):
        each.unlink(missing_ok=True)


class CleanedReader:
    """The documents of a unit that are kept; to be gone through once. See `data_prep.work.ChunkReader`.

    Args:
        path: where they are.
        languages: of the sides.
        on_end: called when all have been read.

    Raises:
        ShardError: a file is missing or damaged; also while it is gone through.
    """

    def __init__(self, path: Path, languages: tuple[str, ...], on_end: Callable[[], None]) -> None:
        self._path, self._languages, self._on_end = path, languages, on_end
        try:
            counts = json.loads(_counts_file(path).read_bytes())
            example = counts["example"]
            self._entries, self.records = int(counts["entries"]), int(counts["records"])
            self.lines = [int(lines) for lines in counts["lines"]]
            self.unusable = Counter[str](counts["unusable"])
            self.example = example and Example(**{**example, "file": Path(example["file"])})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise damaged_spill(_counts_file(path), str(error)) from None

    def __iter__(self) -> Iterator[Chunk]:
        chunk, characters = Chunk(), 0
        for entry in read_spill(self._path, self._entries):
            part, line = split_place(entry.place)
            if entry.is_set_aside:
                chunk.dropped.append((part, Rejected(line, *entry.strings)))
            else:
                chunk.kept.append(Kept(Document(tuple(entry.strings), self._languages), part, line, entry.group))
                characters += sum(map(len, entry.strings))
            if characters >= CHUNK_CHARACTERS or len(chunk.dropped) >= TRIED_RECORDS:
                yield chunk
                chunk, characters = Chunk(), 0
        if chunk.kept or chunk.dropped:
            yield chunk
        self._on_end()


def _entry_of(kept: Kept) -> Entry:
    return Entry(place_of(kept.part, kept.line), kept.group, kept.document.texts)


def _counts_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")
