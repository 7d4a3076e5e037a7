"""Look into shards: a few documents as text, and how long they are.

In:  a folder of shards.
Out: decoded samples; histograms of lengths in tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.encoding.reference import ReferenceTokenizer
from mlc.data.manifest import Manifest, ShardEntry

SHOWN_CHARACTERS = 160
_SHOWN_TOKENS = 256


def sample_texts(manifest: Manifest, entry: ShardEntry, tokenizer: ReferenceTokenizer, count: int) -> list[list[str]]:
    """[count][languages]: the beginnings of documents spread evenly over a shard."""
    shards = manifest.open(entry)
    chosen = np.linspace(0, entry.documents - 1, min(count, entry.documents)).astype(int)
    found = []
    for d in chosen.tolist():
        texts = [tokenizer.decode(shard.document(d)[:_SHOWN_TOKENS]) for shard in shards]
        found.append([text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + " …" for text in texts])
    return found


def length_histogram(lengths: NDArray[Any]) -> list[tuple[str, int]]:
    """Counts of lengths in powers of two: [("1", n), ("2-3", n), ("4-7", n), ...] up to the longest."""
    if not len(lengths):
        return []
    bins = np.bincount(np.frexp(lengths.astype(float))[1])
    rows = [("0", int(bins[0]))] if bins[0] else []
    for power in range(1, len(bins)):
        low, high = 2 ** (power - 1), 2**power - 1
        rows.append((str(low) if low == high else f"{low}-{high}", int(bins[power])))
    return rows
