"""How far an export is from what it was made from.

In:  vectors of both.
Out: a `Comparison`, or an MlcError where they differ by more than the limit of the dtype.

Limits, and where they come from. An element is one of a vector of norm 1.

* fp32: the same numbers, so only the order of sums differs (some 1e-7): 1e-5. onnxruntime fuses operations and has
  other kernels: 1e-4.
* bf16, fp16, int8: every weight is off by a relative 2^-9, a relative 2^-12, or up to 1/254 of the largest of its row.
  What that makes of an embedding depends on the model. The limits are several times what trained and random models
  showed (docs/export.md), and far below what a wrong weight makes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlc.errors import MlcError

MAX_DIFFERENCE = 1e-5
ONNX_MAX_DIFFERENCE = 1e-4


@dataclass(frozen=True)
class Limit:
    """What a comparison may show: the largest difference of an element, and the least mean cosine."""

    max_difference: float
    mean_cosine: float


DTYPE_LIMITS = {
    "fp32": Limit(MAX_DIFFERENCE, 1 - 1e-6),
    "fp16": Limit(5e-3, 0.99999),
    "bf16": Limit(3e-2, 0.9995),
    "int8": Limit(5e-2, 0.999),
}


LOGIT_LIMITS = {
    "fp32": DTYPE_LIMITS["fp32"],
    "fp16": Limit(1e-2, 0.9999),
    "bf16": Limit(1e-1, 0.998),
    "int8": Limit(1e-1, 0.998),
}
"""Of a head's outputs, which no norm brings back to 1; relative to the largest."""


EQUAL = ("token ids", "translations", "fillings")
"""What has to be the same, not near."""


@dataclass(frozen=True)
class Comparison:
    """What was compared, and how near it was.

    Attributes:
        what: token ids, embeddings, last hidden states, logits, translations, fillings of blanks.
        opened_by: the program that read the export.
        texts: how many.
        max_difference: largest difference between two elements.
        mean_cosine: mean over the texts of the cosine of both vectors; None for ids, states and translations.
        limit: of `max_difference`.
    """

    what: str
    opened_by: str
    texts: int
    max_difference: float
    mean_cosine: float | None
    limit: float

    def __str__(self) -> str:
        if self.what in EQUAL:
            return f"{self.opened_by}: {self.what} equal on {self.texts} texts"
        cosine = "" if self.mean_cosine is None else f", mean cosine {self.mean_cosine:.6f}"
        return (
            f"{self.opened_by}: {self.what} of {self.texts} texts differ by at most {self.max_difference:.1g} "
            f"(limit {self.limit:g}){cosine}"
        )


def limit_of(dtype: str, opened_by: str) -> Limit:
    """The limit of an export in `dtype` when `opened_by` reads it."""
    if opened_by == "onnxruntime":
        return Limit(ONNX_MAX_DIFFERENCE, DTYPE_LIMITS["fp32"].mean_cosine)
    return DTYPE_LIMITS[dtype]


def compare_vectors(
    what: str, opened_by: str, needed: NDArray[np.float32], found: NDArray[np.float32], limit: Limit
) -> Comparison:
    """Compare rows (n, E) of norm 1; errors as in `compare_tensors`."""
    pairs = [(torch.from_numpy(a), torch.from_numpy(b)) for a, b in zip(needed, found, strict=True)]
    return compare_tensors(what, opened_by, pairs, limit)


def compare_tensors(what: str, opened_by: str, pairs: Sequence[tuple[Tensor, Tensor]], limit: Limit) -> Comparison:
    """Compare (needed, found) pairs of tensors, one pair a text.

    Where the elements are larger than 1 (logits, states), differences are relative to the largest.

    Raises:
        MlcError: they differ by more than `limit`, or something is not finite.
    """
    largest, cosines = 0.0, []
    for needed, found in pairs:
        if needed.shape != found.shape:
            raise MlcError(
                f"the export's {what} have another shape", found=str(tuple(found.shape)), needed=str(needed.shape)
            )
        scale = max(1.0, float(needed.abs().max()))
        difference = float((needed - found).abs().max()) / scale
        largest = difference if math.isnan(difference) else max(largest, difference)
        cosines.append(float(torch.cosine_similarity(needed.double().flatten(), found.double().flatten(), dim=0)))
        if not (largest <= limit.max_difference):  # also true for nan
            break
    cosine = float(np.mean(cosines))
    if not (largest <= limit.max_difference and cosine >= limit.mean_cosine):
        raise MlcError(
            f"the export does not give the {what} of what it was made from",
            found=f"a difference of {largest:.2g}, mean cosine {cosine:.6f}",
            needed=f"<= {limit.max_difference:g}, mean cosine >= {limit.mean_cosine:g}",
            where=f"opened by {opened_by}",
        )
    return Comparison(what, opened_by, len(pairs), largest, cosine, limit.max_difference)
