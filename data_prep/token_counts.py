"""Counts that say how well a tokenizer fits a language.

In:  numbers, which data_prep.encoding.report counts.
Out: `TokenCounts`, which add up over chunks, units and shards.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Self


@dataclass(frozen=True)
class TokenCounts:
    """Of one language. Counts of several chunks add up by `+`.

    Attributes:
        text_bytes: UTF-8, without the ends of lines.
        words: runs of characters between spaces; in languages that do not write spaces, characters.
        tokens: of these, `unknown_tokens` stand for characters that the tokenizer cannot spell, and `byte_tokens` are
            one byte of a character that has no piece of its own.
    """

    lines: int = 0
    text_bytes: int = 0
    words: int = 0
    tokens: int = 0
    unknown_tokens: int = 0
    byte_tokens: int = 0

    def __add__(self, other: Self) -> Self:
        return type(self)(*(getattr(self, item.name) + getattr(other, item.name) for item in fields(self)))

    @property
    def tokens_per_byte(self) -> float:
        """0 without text, as all ratios."""
        return _ratio(self.tokens, self.text_bytes)

    @property
    def tokens_per_word(self) -> float:
        """Fertility."""
        return _ratio(self.tokens, self.words)

    @property
    def unknown_share(self) -> float:
        """Of the tokens."""
        return _ratio(self.unknown_tokens, self.tokens)

    @property
    def byte_share(self) -> float:
        """Of the tokens."""
        return _ratio(self.byte_tokens, self.tokens)

    def as_table(self) -> dict[str, float]:
        """Counts and ratios, for a file of JSON."""
        ratios = ("tokens_per_byte", "tokens_per_word", "unknown_share", "byte_share")
        return {**asdict(self), **{name: round(getattr(self, name), 6) for name in ratios}}


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
