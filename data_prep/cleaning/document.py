"""What a cleaning step takes and gives.

In:  nothing.
Out: `Document` and `Dropped`, and the shape of a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Document:
    """A document (one text) or a pair (two texts, one in each language), already normalised.

    Attributes:
        texts: one for each side.
        languages: the code that the recipe gives to each text.
    """

    texts: tuple[str, ...]
    languages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Dropped:
    """A document that is left out: `reason` counts it, `detail` explains it."""

    reason: str
    detail: str


class Step(Protocol):
    """One step: the document as it came, a changed one, or the reason why it is left out. It never raises on a text."""

    def __call__(self, document: Document, /) -> Document | Dropped:
        """What becomes of a document."""
        ...


@runtime_checkable
class BatchStep(Protocol):
    """A step that is faster on many documents at once, and gives for each what it would give for it alone."""

    def __call__(self, document: Document, /) -> Document | Dropped:
        """What becomes of a document."""
        ...

    def many(self, documents: Sequence[Document], /) -> list[Document | Dropped]:
        """What becomes of each document, in order."""
        ...
