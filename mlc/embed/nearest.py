"""Nearest vectors by inner product, which is the cosine of unit vectors: exactly, or by an index of FAISS.

In:  queries (Q, E) and the vectors of an index.
Out: scores and positions (Q, k), best first; of equal scores the lower position is first where the search is exact.
Letters: Q queries, N vectors, E their size.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mlc.embed.parts import Vectors
from mlc.errors import DataError, UsageError

Kind = Literal["exact", "hnsw", "ivf"]
Scores = NDArray[np.float32]
Positions = NDArray[np.int64]

BLOCK_ROWS = 16384
TRAINING_ROWS_PER_LIST = 64
"""FAISS asks for 39 or more of them to place a list's centre."""
SEED = 1


def search_exactly(
    queries: NDArray[np.float32], vectors: Vectors, k: int, block_rows: int = BLOCK_ROWS
) -> tuple[Scores, Positions]:
    """The k best of all vectors for every query; all of them where there are fewer.

    Args:
        queries: (Q, E).
        vectors: (N, E), in memory or mapped from a file; read block by block, once.
        k: 1 or more.
        block_rows: vectors at a time.
    """
    k = min(k, len(vectors))
    best_scores = np.empty((len(queries), 0), dtype=np.float32)
    best_places = np.empty((len(queries), 0), dtype=np.int64)
    for start in range(0, len(vectors), block_rows):
        block = np.asarray(vectors[start : start + block_rows], dtype=np.float32)
        places = np.arange(start, start + len(block))
        scores = np.concatenate([best_scores, queries @ block.T], axis=1)
        # What was found before comes first, so that places ascend and of equal scores the lower place wins.
        candidates = np.concatenate([best_places, np.broadcast_to(places, (len(queries), len(places)))], axis=1)
        chosen = [_best(row, found, k) for row, found in zip(scores, candidates, strict=True)]
        best_scores = np.stack([row[pick] for row, pick in zip(scores, chosen, strict=True)])
        best_places = np.stack([row[pick] for row, pick in zip(candidates, chosen, strict=True)])
    return best_scores, best_places


def _best(scores: Scores, places: Positions, k: int) -> NDArray[np.int64]:
    """Indexes of the k largest, by score and then by place."""
    if len(scores) > k:
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        among = np.flatnonzero(scores >= least)  # with all that tie with the last
    else:
        among = np.arange(len(scores))
    order = np.lexsort((places[among], -scores[among]))
    picked: NDArray[np.int64] = among[order[:k]]
    return picked


def import_faiss() -> Any:
    """The library.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise UsageError(
            "this kind of index needs FAISS",
            found=str(error),
            needed="the extra search",
            hint="pip install 'mlc[search]', or mlc search build ... --kind exact",
        ) from None
    return faiss


def build_faiss(vectors: Vectors, kind: Kind, parameters: dict[str, int]) -> Any:
    """An index over all vectors, in their order.

    Args:
        vectors: (N, E).
        kind: hnsw (Malkov & Yashunin 2018) or ivf (inverted lists around centres of k-means).
        parameters: of `default_parameters`.
    """
    faiss = import_faiss()
    width = vectors.shape[1]
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(width, parameters["neighbours"], faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = parameters["construction"]
    else:
        centres = faiss.IndexFlatIP(width)
        index = faiss.IndexIVFFlat(centres, width, parameters["lists"], faiss.METRIC_INNER_PRODUCT)
        index.own_fields = True
        centres.this.disown()
        index.cp.seed = SEED
        index.train(_training_sample(vectors, parameters["lists"]))
    for start in range(0, len(vectors), BLOCK_ROWS):
        index.add(np.ascontiguousarray(vectors[start : start + BLOCK_ROWS], dtype=np.float32))
    return index


def search_faiss(index: Any, queries: NDArray[np.float32], k: int, effort: int) -> tuple[Scores, Positions]:
    """The k best that the index finds; position -1 where it finds fewer.

    Args:
        effort: candidates kept (hnsw, at least k), or lists looked into (ivf).
    """
    if hasattr(index, "hnsw"):
        index.hnsw.efSearch = max(effort, k)
    else:
        index.nprobe = min(effort, index.nlist)
    scores, places = index.search(np.ascontiguousarray(queries, dtype=np.float32), min(k, index.ntotal))
    return scores, places


def default_parameters(kind: Kind, rows: int) -> dict[str, int]:
    """What an index of so many vectors is built with; `effort` is that of a search."""
    if kind == "hnsw":
        return {"neighbours": 32, "construction": 200, "effort": 128}
    if kind == "ivf":
        lists = max(1, min(round(4 * math.sqrt(rows)), rows // TRAINING_ROWS_PER_LIST))
        return {"lists": lists, "effort": max(1, math.ceil(lists / 8))}
    return {}


def write_faiss(index: Any, path: Path) -> None:
    """Write an index."""
    import_faiss().write_index(index, str(path))


def read_faiss(path: Path) -> Any:
    """Read an index.

    Raises:
        DataError: it is damaged.
    """
    try:
        return import_faiss().read_index(str(path))
    except RuntimeError as error:
        raise DataError("the index cannot be read", found=str(error).splitlines()[0], where=str(path)) from None


def _training_sample(vectors: Vectors, lists: int) -> NDArray[np.float32]:
    count = min(len(vectors), max(1, lists * TRAINING_ROWS_PER_LIST))
    places = np.sort(np.random.default_rng(SEED).choice(len(vectors), count, replace=False))
    return np.ascontiguousarray(vectors[places], dtype=np.float32)
