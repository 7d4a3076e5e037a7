"""The recipe's [duplicates] table: what counts as a duplicate, and where duplicates are looked for.

In:  keys of a recipe.
Out: a frozen `DuplicatesSection`, and the numbers that follow from it.

Two documents share a band of a MinHash sketch with probability J^rows where J is the Jaccard similarity of their
shingle sets, so they become candidates with probability 1 - (1 - J^rows)^bands (Leskovec, Rajaraman, Ullman, Mining of
Massive Datasets, 3.4.2). With the defaults, 20 bands of 8 rows:

    J           0.5    0.6    0.7    0.75   0.8    0.85   0.9    0.95
    candidate   0.08   0.29   0.70   0.88   0.97   1.00   1.00   1.00
"""

from __future__ import annotations

import unicodedata
from typing import Annotated, Literal, Self

import pydantic
import xxhash

from mlc.config import Fraction, Section

FORMAT = 2  # of fingerprint files, and of how a fingerprint is computed: raised when either changes
MOST_BINS = 1024


class DuplicatesSection(Section):
    """Which documents go because an earlier one says the same."""

    exact: bool = False
    """Documents whose normalised text is that of an earlier one go."""
    near: bool = False
    """Documents whose shingles are mostly those of an earlier one go (MinHash-LSH)."""
    within: Literal["shard", "corpus"] = "shard"
    """Documents are compared with those of their own shard, or of the whole corpus."""
    threshold: Fraction = 0.8
    """Jaccard similarity of shingle sets from which on two documents are near-duplicates."""
    bands: Annotated[int, pydantic.Field(ge=1, le=256)] = 20
    """Bands of a sketch; more find more pairs below the threshold's curve."""
    rows: Annotated[int, pydantic.Field(ge=1, le=64)] = 8
    """Positions of the sketch in a band; more find fewer."""
    words: Annotated[int, pydantic.Field(ge=1, le=32)] = 5
    """Words in a shingle."""
    characters: Annotated[int, pydantic.Field(ge=1, le=32)] = 8
    """Characters in a shingle, in scripts that write no spaces between words."""

    @pydantic.model_validator(mode="after")
    def _check_bins(self) -> Self:
        if self.bins > MOST_BINS:
            raise ValueError(f"bands x rows = {self.bins}: needed at most {MOST_BINS}")
        return self

    @property
    def is_on(self) -> bool:
        """Whether duplicates are looked for at all."""
        return self.exact or self.near

    @property
    def bins(self) -> int:
        """Positions of the sketch that bands are cut from."""
        return self.bands * self.rows

    @property
    def fingerprint_key(self) -> int:
        """64 bits that differ where fingerprints cannot be compared: other settings, format or Unicode tables."""
        near = (self.bands, self.rows, self.words, self.characters) if self.near else None
        parts = (FORMAT, unicodedata.unidata_version, self.exact, near)
        return xxhash.xxh3_64_intdigest(repr(parts).encode())
