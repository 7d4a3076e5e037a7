"""Vectors that `mlc embed` has written, read again: .npy, Parquet, or a folder of either.

In:  the file or folder; its manifest is needed, since it says which model made the vectors.
Out: blocks of rows in the order of the input, each file compared with its hash before it is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from mlc.embed.parts import Vectors
from mlc.embed.work import FORMAT, VERSION, place_of
from mlc.errors import DataError, UsageError
from mlc.files import hash_file

BLOCK_ROWS = 16384
Texts = list[str | None]


@dataclass(frozen=True)
class Block:
    """Rows one after the other; `ids`, `languages` and `texts` are None where the file has no such column."""

    first_row: int
    vectors: Vectors
    ids: Texts | None = None
    languages: Texts | None = None
    texts: Texts | None = None


@dataclass(frozen=True)
class StoredVectors:
    """Finished work of `mlc embed`.

    Attributes:
        paths: of the files, in order.
    """

    manifest: dict[str, Any]
    paths: tuple[Path, ...]

    @property
    def rows(self) -> int:
        """All of them, also those whose vector is 0."""
        return int(self.manifest["rows"])

    @property
    def width(self) -> int:
        """Size of a vector."""
        return int(self.manifest["model"]["width"])

    def blocks(self, block_rows: int = BLOCK_ROWS) -> Iterator[Block]:
        """All rows in order.

        Raises:
            DataError: a file is not what the manifest says.
        """
        first_row = 0
        for path, entry in zip(self.paths, self.manifest["files"], strict=True):
            _check_file(path, entry)
            for block in _read_npy(path, block_rows) if path.suffix == ".npy" else _read_parquet(path, block_rows):
                yield Block(first_row, block.vectors, block.ids, block.languages, block.texts)
                first_row += len(block.vectors)
        if first_row != self.rows:
            raise DataError("rows are missing", found=first_row, needed=str(self.rows), where=str(self.paths[0]))


def open_vectors(path: Path) -> StoredVectors:
    """Find the manifest of finished work.

    Raises:
        UsageError: there is nothing, or work that is not finished.
        DataError: the manifest is damaged.
    """
    hint = "let mlc embed finish: start it again with the same arguments"
    if not path.exists():
        raise UsageError("no such vectors", found=str(path), needed="the --out of mlc embed", hint=hint)
    place = place_of(path)
    if not place.manifest.is_file():
        raise UsageError("these vectors have no manifest", needed=str(place.manifest), where=str(path), hint=hint)
    try:
        manifest = json.loads(place.manifest.read_text(encoding="utf-8"))
        if (manifest["format"], manifest["version"]) != (FORMAT, VERSION):
            raise ValueError(f"{manifest['format']} {manifest['version']}")
        names = [entry["file"] for entry in manifest["files"]]
    except (ValueError, KeyError, TypeError) as error:
        needed = f"{FORMAT} {VERSION}"
        raise DataError("the manifest is damaged", found=str(error), needed=needed, where=str(place.manifest)) from None
    return StoredVectors(manifest, (path,) if place.is_one_file else tuple(path / name for name in names))


def _check_file(path: Path, entry: dict[str, Any]) -> None:
    if not path.is_file() or path.stat().st_size != entry["bytes"] or hash_file(path) != entry["xxh3"]:
        found = "another content" if path.is_file() else "no file"
        raise DataError("the vectors are not what was written", found=found, where=str(path))


def _read_npy(path: Path, block_rows: int) -> Iterator[Block]:
    vectors = np.load(path, mmap_mode="r")
    for start in range(0, len(vectors), block_rows):
        yield Block(start, np.array(vectors[start : start + block_rows]))


def _read_parquet(path: Path, block_rows: int) -> Iterator[Block]:
    file = pq.ParquetFile(path)
    for batch in file.iter_batches(batch_size=block_rows):
        vectors = batch.column("vector")
        flat = vectors.flatten().to_numpy(zero_copy_only=False)
        yield Block(
            0,
            flat.reshape(len(batch), vectors.type.list_size),
            batch.column("id").to_pylist(),
            batch.column("language").to_pylist(),
            batch.column("text").to_pylist() if "text" in file.schema_arrow.names else None,
        )
