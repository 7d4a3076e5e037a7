"""Vectors on disk: .npy or Parquet, one file for each unit of the work, joined into one.

In:  the rows of a unit and their vectors.
Out: a part file and, written after it, what it holds (`PartRecord`, JSON): a unit is done when both are there and
     agree.

The bytes are a function of rows and vectors. Parquet columns: row (int64, from 0), id and language (strings, null where
the input has none), text (where asked for; null where a line could not be used), vector (list of fixed size).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mlc.embed.inputs import Row
from mlc.errors import DataError
from mlc.files import hash_file, new_file, write_json

FileForm = Literal["npy", "parquet"]
Vectors = NDArray[np.float32] | NDArray[np.float16]
COPY_BYTES = 1 << 22


@dataclass(frozen=True)
class PartRecord:
    """What a part file holds.

    Attributes:
        file: its name.
        bytes, xxh3: of its content.
        rows: all of them, those without a text too.
        cut: texts longer than the model's longest input.
        empty: texts without a character that the model sees; their vector is that of "[CLS] [SEP]".
        bad: rows of lines that could not be used; their vector is 0.
        bad_places: file and line of the first of them.
        tokens: after cutting, special tokens included.
        threads: of torch, in the process that made it.
    """

    file: str
    bytes: int
    xxh3: str
    rows: int
    cut: int
    empty: int
    bad: int
    bad_places: tuple[str, ...]
    tokens: int
    threads: int


def part_name(unit: int, form: FileForm) -> str:
    """Name of a unit's file."""
    return f"part-{unit:08d}.{form}"


def record_path(folder: Path, unit: int) -> Path:
    """Where a unit's record lies."""
    return folder / f"part-{unit:08d}.json"


def write_part(path: Path, first_row: int, rows: Sequence[Row], vectors: Vectors, *, with_text: bool) -> None:
    """Write a part file, whole or not at all; its form is that of its name.

    Args:
        first_row: number of `rows[0]` in the input.
        vectors: (len(rows), E).
        with_text: keep the texts, in Parquet.
    """
    with new_file(path) as file:
        if path.suffix == ".npy":
            np.lib.format.write_array(file, vectors, allow_pickle=False)
            return
        table = _table(first_row, rows, vectors, with_text)
        pq.write_table(table, file, **_parquet_options(table.schema))


def read_record(folder: Path, unit: int) -> PartRecord | None:
    """A unit's record, if its file is there in the size that the record says."""
    try:
        content = json.loads(record_path(folder, unit).read_text(encoding="utf-8"))
        record = PartRecord(**{**content, "bad_places": tuple(content["bad_places"])})
        return record if (folder / record.file).stat().st_size == record.bytes else None
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError("a part's record is damaged", found=str(error), where=str(record_path(folder, unit))) from None


def write_record(folder: Path, unit: int, record: PartRecord) -> None:
    """Say that a unit is done."""
    write_json(record_path(folder, unit), asdict(record))


def join_parts(folder: Path, records: Sequence[PartRecord], out: Path, progress: Callable[[int], object]) -> None:
    """Write all parts as one file, whole or not at all.

    Args:
        folder: of the parts.
        records: of all units, in order.
        out: .npy or .parquet, as the parts.
        progress: told the rows of each part.

    Raises:
        DataError: a part is not what its record says.
        FileNotFoundError: a part is gone.
    """
    with new_file(out) as file:
        if out.suffix == ".npy":
            _join_npy(folder, records, file, progress)
        else:
            _join_parquet(folder, records, file, progress)


def checked_parts(folder: Path, records: Sequence[PartRecord]) -> Iterator[tuple[PartRecord, Path]]:
    """Parts whose content is what their records say.

    Raises:
        DataError: one is not.
    """
    for record in records:
        path = folder / record.file
        found = hash_file(path)
        if found != record.xxh3:
            raise DataError(
                "a part is damaged",
                found=f"xxh3 {found}",
                needed=record.xxh3,
                where=str(path),
                hint="delete it and start the same command again: only what is missing is done",
            )
        yield record, path


def _join_npy(folder: Path, records: Sequence[PartRecord], file: Any, progress: Callable[[int], object]) -> None:
    rows = sum(record.rows for record in records)
    for number, (record, path) in enumerate(checked_parts(folder, records)):
        vectors = np.load(path, mmap_mode="r")
        if number == 0:
            header = {"descr": np.lib.format.dtype_to_descr(vectors.dtype), "fortran_order": False}
            np.lib.format.write_array_header_1_0(file, {**header, "shape": (rows, vectors.shape[1])})
        step = max(1, COPY_BYTES // max(1, vectors.strides[0]))
        for start in range(0, len(vectors), step):
            file.write(vectors[start : start + step].tobytes())
        progress(record.rows)


def _join_parquet(folder: Path, records: Sequence[PartRecord], file: Any, progress: Callable[[int], object]) -> None:
    writer: Any = None
    try:
        for record, path in checked_parts(folder, records):
            table = pq.read_table(path)
            writer = writer or pq.ParquetWriter(file, table.schema, **_parquet_options(table.schema))
            writer.write_table(table, row_group_size=max(1, len(table)))
            progress(record.rows)
    finally:
        if writer is not None:
            writer.close()


def _table(first_row: int, rows: Sequence[Row], vectors: Vectors, with_text: bool) -> Any:
    columns = {
        "row": pa.array(range(first_row, first_row + len(rows)), pa.int64()),
        "id": pa.array([row.id for row in rows], pa.string()),
        "language": pa.array([row.language for row in rows], pa.string()),
    }
    if with_text:
        columns["text"] = pa.array([row.text for row in rows], pa.string())
    columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    return pa.table(columns)


def _parquet_options(schema: Any) -> dict[str, Any]:
    """Vectors have nothing that a dictionary or a least value would help."""
    dictionary = [name for name in schema.names if name == "language"]
    return {"compression": "zstd", "use_dictionary": dictionary, "write_statistics": ["row"]}
