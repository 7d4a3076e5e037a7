"""A search index: a folder of vectors, what to show of each, and which model made them.

In:  vectors that `mlc embed` has written.
Out: index.json (model, kind, parameters, sizes and hashes), vectors.npy, rows.parquet (row of the input, id, language,
     text), and index.faiss for the approximate kinds. Made in a hidden folder beside its place and renamed.

Rows without a text have no vector and are left out; index.json counts them.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mlc.embed.identity import same_space
from mlc.embed.nearest import (
    Kind,
    Positions,
    Scores,
    build_faiss,
    default_parameters,
    import_faiss,
    read_faiss,
    search_exactly,
    search_faiss,
    write_faiss,
)
from mlc.embed.parts import Vectors
from mlc.embed.stored import StoredVectors
from mlc.errors import DataError, UsageError
from mlc.files import hash_file, sync_file, sync_folder, write_json

FORMAT, VERSION = "mlc-index", 1
MANIFEST, VECTORS, ROWS, FAISS = "index.json", "vectors.npy", "rows.parquet", "index.faiss"
KINDS: tuple[Kind, ...] = ("exact", "hnsw", "ivf")
TOLERANCE = 1e-3
"""How far a vector's norm may be from 1: float16 rounds each element by 5e-4 of it at most."""


@dataclass(frozen=True)
class Hit:
    """A row that was found: its number in the input, and what the input says of it."""

    score: float
    row: int
    id: str | None
    language: str | None
    text: str | None


@dataclass(frozen=True)
class SearchIndex:
    """An index on disk, as `open_index` returns it."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def kind(self) -> Kind:
        """exact, hnsw or ivf."""
        return cast(Kind, self.manifest["kind"])

    @cached_property
    def vectors(self) -> Vectors:
        """(N, E), mapped from its file."""
        return cast(Vectors, np.load(self.folder / VECTORS, mmap_mode="r"))

    @cached_property
    def faiss_index(self) -> Any:
        """Of the approximate kinds."""
        return read_faiss(self.folder / FAISS)

    @cached_property
    def rows(self) -> Any:
        """Table with columns row, id, language, text."""
        return pq.read_table(self.folder / ROWS, memory_map=True)

    def check_model(self, identity: dict[str, Any], model: str) -> None:
        """Refuse queries by a model whose vectors are of another space.

        Raises:
            UsageError: it is another model, or another part of its states.
        """
        own = self.manifest["model"]
        if not same_space(own, identity):
            raise UsageError(
                "the index is of another model",
                found=f"{model}, {_shown(identity)}",
                needed=f"{self.manifest['model_name']}, {_shown(own)}",
                where=str(self.folder),
            )

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[Scores, Positions]:
        """Scores and positions (Q, min(k, N)) by the index's own kind; position -1 = none found."""
        if self.kind == "exact":
            return search_exactly(queries, self.vectors, k)
        return search_faiss(self.faiss_index, queries, k, self.manifest["parameters"]["effort"])

    def hits(self, scores: Scores, positions: Positions) -> list[Hit]:
        """What one query has found."""
        found = positions >= 0
        table = self.rows.take(pa.array(positions[found])).to_pylist()
        return [Hit(float(score), **row) for score, row in zip(scores[found], table, strict=True)]


def build_index(
    stored: StoredVectors, out: Path, kind: Kind, *, progress: Callable[[int], object] = lambda rows: None
) -> SearchIndex:
    """Make an index.

    Args:
        stored: of `open_vectors`.
        out: a new folder.
        progress: told the rows of each block.

    Raises:
        UsageError: `out` exists, FAISS is needed and missing, or there is nothing to search in.
        DataError: the vectors are damaged, or none of norm 1.
    """
    if out.exists():
        raise UsageError("the folder exists", found=str(out), where="--out", hint="choose another, or delete it")
    if kind != "exact":
        import_faiss()
    partial = out.with_name(f".{out.name}.partial-{uuid.uuid4().hex[:8]}")
    try:
        partial.mkdir(parents=True)
        count, left_out = _write_rows(stored, partial, progress)
        vectors = np.load(partial / VECTORS, mmap_mode="r")
        parameters = default_parameters(kind, count)
        if kind != "exact":
            write_faiss(build_faiss(vectors, kind, parameters), partial / FAISS)
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "kind": kind,
            "parameters": parameters,
            "vectors": count,
            "left_out": left_out,
            "dtype": str(vectors.dtype),
            "model": stored.manifest["model"],
            "model_name": stored.manifest["model_name"],
            "files": {path.name: _facts(path) for path in sorted(partial.iterdir())},
        }
        write_json(partial / MANIFEST, manifest)
        for path in partial.iterdir():
            sync_file(path)
        os.replace(partial, out)
        sync_folder(out.absolute().parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return SearchIndex(out, manifest)


def open_index(folder: Path) -> SearchIndex:
    """Open an index whose files have the sizes and hashes that index.json says.

    Raises:
        UsageError: there is none.
        DataError: it is damaged or of another version.
    """
    if not (folder / MANIFEST).is_file():
        raise UsageError("this is no index", found=str(folder), needed="the --out of mlc search build")
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if (manifest["format"], manifest["version"]) != (FORMAT, VERSION):
            raise ValueError(f"{manifest['format']} {manifest['version']}")
        files = manifest["files"].items()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError("index.json is damaged", found=str(error), where=str(folder)) from None
    for name, facts in files:
        path = folder / name
        if not path.is_file() or _facts(path) != facts:
            found = "another content" if path.is_file() else "no file"
            raise DataError("the index is damaged", found=found, where=str(path), hint="mlc search build makes it anew")
    return SearchIndex(folder, manifest)


def _write_rows(stored: StoredVectors, folder: Path, progress: Callable[[int], object]) -> tuple[int, int]:
    """vectors.npy and rows.parquet of all rows that have a vector; returns how many have one and how many have none."""
    writer: Any = None
    count, rows = 0, 0
    plain = folder / f"{VECTORS}.plain"
    with plain.open("wb") as file:
        for block in stored.blocks():
            norms = np.linalg.norm(block.vectors.astype(np.float32), axis=1)
            kept = np.flatnonzero(norms != 0)  # a NaN is kept, and refused below
            if not np.all(np.abs(norms[kept] - 1) < TOLERANCE):
                raise DataError("a vector is not of norm 1", where=f"row {block.first_row} and behind")
            file.write(np.ascontiguousarray(block.vectors[kept]).tobytes())
            table = _rows_table(block.first_row, kept, block.ids, block.languages, block.texts)
            writer = writer or pq.ParquetWriter(folder / ROWS, table.schema, compression="zstd")
            writer.write_table(table)
            count, rows, dtype = count + len(kept), rows + len(norms), block.vectors.dtype
            progress(len(norms))
    writer.close()
    if not count:
        raise UsageError("there is nothing to search in", found=f"{rows} rows, none with a text")
    with plain.open("rb") as file, (folder / VECTORS).open("wb") as target:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False}
        np.lib.format.write_array_header_1_0(target, {**header, "shape": (count, stored.width)})
        shutil.copyfileobj(file, target)
    plain.unlink()
    return count, rows - count


def _rows_table(first_row: int, kept: NDArray[np.int64], *columns: list[str | None] | None) -> Any:
    table = {"row": pa.array(kept + first_row, pa.int64())}
    for name, values in zip(("id", "language", "text"), columns, strict=True):
        table[name] = pa.array([None if values is None else values[place] for place in kept], pa.string())
    return pa.table(table)


def _facts(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "xxh3": hash_file(path)}


def _shown(identity: dict[str, Any]) -> str:
    representation = " ".join(f"{name} {value}" for name, value in identity["representation"].items())
    return f"step {identity['step']}, {representation}, digest {identity['digest'][:12]}"
