"""How alike two texts are among all others: cosine, CSLS, ratio margin; in blocks, never the whole matrix.

In:  unit vectors of two sets of texts.
Out: blocks of scores, nearest neighbours.
Letters: N first and M second texts, D = embedding size, B = rows of a block, K = neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Scoring = Literal["cosine", "csls", "margin"]
SCORINGS: tuple[Scoring, ...] = ("cosine", "csls", "margin")
NEIGHBOURS: dict[Scoring, int] = {"cosine": 0, "csls": 10, "margin": 4}
"""K of the papers: Conneau et al. 2018 (section 2.3), Artetxe & Schwenk 2019 (section 3.1)."""
TIE_TOLERANCE = 1e-6
"""Cosines that differ by less are equal: float32 rounding of a dot product of unit vectors, which depends on where in
a matrix product it is computed, is some 1e-7."""
SMALLEST_MEAN = 0.01
"""A ratio to a smaller mean cosine would be noise: it counts as this."""
BLOCK_ELEMENTS = 2**24  # 64 MiB of float32 scores at a time

Floats = NDArray[np.float32]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Neighbourhood:
    """What CSLS and the ratio margin compare a cosine with.

    Attributes:
        first_N: mean cosine of each first text with its K nearest second ones; second_M: the other way round.
    """

    scoring: Scoring
    first_N: Floats
    second_M: Floats

    def scores(self, cosine_BM: Floats, rows: slice) -> Floats:
        """Scores of a block of cosines; overwrites the block.

        cosine: cos. csls: 2 cos - r_first - r_second. margin: cos / ((r_first + r_second) / 2).
        """
        if self.scoring == "csls":
            cosine_BM *= 2
            cosine_BM -= self.first_N[rows, None]
            cosine_BM -= self.second_M[None, :]
        elif self.scoring == "margin":
            mean_BM = self.first_N[rows, None] + self.second_M[None, :]
            cosine_BM /= np.maximum(mean_BM / np.float32(2), np.float32(SMALLEST_MEAN))
        return cosine_BM

    def score_of_pairs(self, cosine_P: Floats, first_P: Places, second_P: Places) -> Floats:
        """Scores of single pairs, given their cosines and places."""
        if self.scoring == "csls":
            return 2 * cosine_P - self.first_N[first_P] - self.second_M[second_P]
        score_P: Floats = cosine_P / self._means(first_P, second_P) if self.scoring == "margin" else cosine_P
        return score_P

    def tolerances(self, first_P: Places, second_P: Places) -> Floats:
        """Scores that differ from those of the pairs by less are equal: `TIE_TOLERANCE`, as rounding grows on the way.

        CSLS adds up four cosines; the ratio divides an error of that order by its mean.
        """
        if self.scoring == "margin":
            return 4 * TIE_TOLERANCE / self._means(first_P, second_P)
        return np.full(len(first_P), TIE_TOLERANCE * (4 if self.scoring == "csls" else 1), np.float32)

    def _means(self, first_P: Places, second_P: Places) -> Floats:
        mean_P: Floats = (self.first_N[first_P] + self.second_M[second_P]) / np.float32(2)
        return np.maximum(mean_P, np.float32(SMALLEST_MEAN))


def row_blocks(first: int, second: int, elements: int) -> Iterator[slice]:
    """Rows of an (N, M) matrix in blocks of at most `elements` (or one row)."""
    rows = max(1, elements // max(second, 1))
    for start in range(0, first, rows):
        yield slice(start, min(start + rows, first))


def neighbourhood(first_ND: Floats, second_MD: Floats, scoring: Scoring, k: int | None = None) -> Neighbourhood:
    """Mean cosines with the `k` nearest (default: the paper's; all of them where there are fewer)."""
    k = NEIGHBOURS[scoring] if k is None else k
    if scoring == "cosine":
        return Neighbourhood(scoring, np.zeros(len(first_ND), np.float32), np.zeros(len(second_MD), np.float32))
    (forward_NK, _), (backward_MK, _) = nearest(first_ND, second_MD, k)
    return Neighbourhood(scoring, forward_NK.mean(axis=1), backward_MK.mean(axis=1))


def nearest(
    first_ND: Floats, second_MD: Floats, k: int, elements: int = BLOCK_ELEMENTS
) -> tuple[tuple[Floats, Places], tuple[Floats, Places]]:
    """The `k` nearest of the other side, nearest first, in both directions and one pass.

    Returns:
        ((cosines (N, K), places (N, K) of second texts), (cosines (M, K), places (M, K) of first texts)).
    """
    import torch

    first, second = torch.from_numpy(first_ND), torch.from_numpy(second_MD)
    forward_k, backward_k = min(k, len(second)), min(k, len(first))
    forward: list[tuple[torch.Tensor, torch.Tensor]] = []
    best_KM = torch.empty(0, len(second))
    place_KM = torch.empty(0, len(second), dtype=torch.long)
    for rows in row_blocks(len(first), len(second), elements):
        cosine_BM = first[rows] @ second.T
        value_BK, column_BK = torch.topk(cosine_BM, forward_k, dim=1)
        forward.append((value_BK, column_BK))
        value_KM, row_KM = torch.topk(cosine_BM, min(backward_k, len(cosine_BM)), dim=0)
        merged, merged_place = torch.cat([best_KM, value_KM]), torch.cat([place_KM, row_KM + rows.start])
        best_KM, chosen_KM = torch.topk(merged, min(backward_k, len(merged)), dim=0)
        place_KM = torch.gather(merged_place, 0, chosen_KM)
    cosine_NK, place_NK = (torch.cat(parts).numpy() for parts in zip(*forward, strict=True))
    return (cosine_NK, place_NK), (best_KM.T.contiguous().numpy(), place_KM.T.contiguous().numpy())
