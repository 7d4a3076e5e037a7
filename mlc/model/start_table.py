"""Rows of a new table of token embeddings from those of an old one.

In:  the old table; for each new row, the old rows that it starts from.
Out: the new table.

Shape letters: V old rows, N new rows, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mlc.model.initialise import draw


@dataclass(frozen=True)
class TableRows:
    """What the rows of a new table start from.

    Attributes:
        starts: int64 (N + 1,): row i is the mean of the old rows `old[starts[i] : starts[i + 1]]`; of one it is a copy.
            A row of none is drawn.
        old: int64, old rows, one new row after another.
        counts: rows by how they start, for people.
    """

    starts: Tensor
    old: Tensor
    counts: dict[str, int]


def same_rows(new_rows: int, old_rows: int) -> TableRows:
    """One vocabulary: row i from row i, as far as there are any."""
    kept = min(new_rows, old_rows)
    starts = torch.arange(new_rows + 1).clamp(max=kept)
    return TableRows(starts, torch.arange(kept), {"same": kept, "none": new_rows - kept})


def rows_of(
    starts: Sequence[int] | Tensor, old: Sequence[int] | Tensor, counts: dict[str, int], rows: int
) -> TableRows:
    """`TableRows` of a vocabulary, with rows of nothing behind it up to `rows`, which the model may have more."""
    known = torch.as_tensor(starts, dtype=torch.int64)
    more = known[-1:].expand(rows + 1 - len(known))
    filled = {**counts, "none": counts.get("none", 0) + len(more)}
    return TableRows(torch.cat([known, more]), torch.as_tensor(old, dtype=torch.int64), filled)


@torch.no_grad()
def carry_rows(old_VD: Tensor, rows: TableRows, seed: int, name: str) -> Tensor:
    """The new table (N, D), fp32.

    Copies are bit for bit. Rows of nothing are normal, with the mean and the deviation of the old table in every
    feature, as a function of (seed, name): a new token is then no outlier to the tied head (Hewitt 2021, "Initializing
    new word embeddings for pretrained language models").

    Args:
        old_VD: fp32.
        rows: which old rows.
        seed: of the run.
        name: of the parameter.
    """
    counts = rows.starts.diff()
    new_ND = F.embedding_bag(rows.old, old_VD, rows.starts[:-1], mode="mean")
    single = counts == 1
    new_ND[single] = old_VD[rows.old[rows.starts[:-1][single]]]
    empty = counts == 0
    if empty.any():
        deviation_D, mean_D = torch.std_mean(old_VD.double(), dim=0, correction=0)
        drawn = draw((int(empty.sum()), old_VD.shape[1]), 1.0, seed, f"rows of nothing in {name}")
        new_ND[empty] = (drawn * deviation_D + mean_D).float()
    return new_ND
