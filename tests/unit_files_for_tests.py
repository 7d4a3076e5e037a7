"""Units of random documents, and the shard that the format's own writer makes of the same documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.unit_files import Side, UnitCounts, UnitRecord, UnitWriter, place_of
from mlc.data.indexed import ShardWriter


@dataclass(frozen=True)
class Row:
    """A record: a document (for each side its sequences) or, without sides, one that is set aside."""

    line: int
    sides: tuple[tuple[tuple[int, ...], ...], ...] = ()
    group: int = -1
    text_bytes: int = 0
    reason: str = "empty"


def write_unit(
    folder: Path,
    name: str,
    parts: Sequence[tuple[Sequence[Row], int]],
    *,
    dtype: str = "uint16",
    sides: int = 1,
    chunk: int = 3,
) -> UnitRecord:
    """A unit of files or ranges, each its rows and its number of lines; `chunk` documents are added at a time."""
    with UnitWriter(folder, name, dtype, sides) as writer:
        held: list[tuple[int, Row]] = []
        for part, (rows, _) in enumerate(parts):
            for row in rows:
                if row.sides:
                    held.append((part, row))
                    continue
                writer.reject(part, row.line, row.reason, "a detail", f"ü{row.line}\ud800")
            if len(held) >= chunk:
                add(writer, held, dtype, sides)
                held = []
        add(writer, held, dtype, sides)
        return writer.finish(UnitCounts(tuple(lines for _, lines in parts), {"bytes_read": 7}))


def add(writer: UnitWriter, held: Sequence[tuple[int, Row]], dtype: str, sides: int) -> None:
    """The documents as one chunk."""
    chunk = []
    for side in range(sides):
        documents = [row.sides[side] for _, row in held]
        tokens = [token for document in documents for sequence in document for token in sequence]
        chunk.append(
            Side(
                np.array(tokens, dtype=dtype),
                np.array([len(sequence) for document in documents for sequence in document], dtype=np.int32),
                np.array([len(document) for document in documents], dtype=np.int32),
            )
        )
    groups, text_bytes = [row.group for _, row in held], [row.text_bytes for _, row in held]
    places = [place_of(part, row.line) for part, row in held]
    writer.add(chunk, *(np.array(values, dtype=np.int64) for values in (groups, text_bytes, places)))


def write_reference(folder: Path, name: str, prefixes: Sequence[str], rows: Sequence[Row], dtype: Any) -> None:
    """The documents of some rows, written by `ShardWriter` and `numpy.save`."""
    documents = [row for row in rows if row.sides]
    for side, prefix in enumerate(prefixes):
        with ShardWriter(folder / prefix, dtype) as writer:
            for row in documents:
                writer.add_document([np.array(sequence, dtype=np.int64) for sequence in row.sides[side]])
    np.save(folder / f"{name}.groups.npy", np.array([row.group for row in documents], dtype="<i8"))
