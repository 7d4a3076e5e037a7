"""The small files of a shard, written from chunks: `.idx` and `.groups.npy`. What grows with the shard is on disk only.

In:  counts that are known beforehand, and lengths, document sizes and group numbers in chunks.
Out: the bytes that `mlc.data.indexed.ShardWriter` and `numpy.save` write.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.hashed_file import HashedFile
from mlc.data.indexed import CODE_OF_DTYPE, HEADER, MAGIC, VERSION


def write_index(
    file: HashedFile,
    dtype: np.dtype[Any],
    sequences: int,
    documents: int,
    lengths: Iterable[NDArray[Any]],
    sizes: Iterable[NDArray[Any]],
) -> None:
    """Write a shard's `.idx`.

    Args:
        file: to write to.
        dtype: of the tokens.
        sequences, documents: S and D.
        lengths: int [S] in chunks, tokens of each sequence; gone through twice, so no generator.
        sizes: int [D] in chunks, sequences of each document.
    """
    file.write(HEADER.pack(MAGIC, VERSION, CODE_OF_DTYPE[dtype], sequences, documents + 1))
    for chunk in lengths:
        file.write(np.ascontiguousarray(chunk, dtype="<i4"))
    offset = 0
    for chunk in lengths:
        ends = offset + np.cumsum(chunk, dtype="<i8") * dtype.itemsize
        file.write(np.concatenate([np.array([offset], "<i8"), ends])[: len(ends)])
        offset = int(ends[-1]) if len(ends) else offset
    bound = np.zeros(1, dtype="<i8")
    file.write(bound)
    for chunk in sizes:
        bounds = bound[-1:] + np.cumsum(chunk, dtype="<i8")
        file.write(bounds)
        bound = bounds if len(bounds) else bound
    needed = HEADER.size + 12 * sequences + 8 * (documents + 1)
    assert file.bytes == needed, f"{file.bytes} bytes of index, not {needed}: the chunks do not add up to the counts"


def write_groups(file: HashedFile, documents: int, groups: Iterable[NDArray[Any]]) -> None:
    """Write a shard's group numbers, int64 [documents] in chunks, as .npy."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i8", "fortran_order": False, "shape": (documents,)})
    file.write(header.getvalue())
    for chunk in groups:
        file.write(np.ascontiguousarray(chunk, dtype="<i8"))
    needed = len(header.getvalue()) + 8 * documents
    assert file.bytes == needed, f"{file.bytes} bytes of group numbers, not {needed}"
