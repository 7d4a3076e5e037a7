"""How well a tokenizer fits each language: tokens a byte and a word, and what it had to spell.

In:  lines of text as bytes and their ids, chunk by chunk.
Out: `TokenCounts`, which add up over chunks and units; a table.

Counted over whole arrays: a chunk costs a few passes over its bytes and ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from data_prep.encoding.engine import Encoder

_ORDINARY, _UNKNOWN, _BYTE = 0, 1, 2
_SPACE = 0x20

_WITHOUT_SPACES = frozenset(
    ("bo", "cmn", "dz", "gan", "hak", "ja", "jpn", "khm", "km", "lao", "lo", "lzh", "my", "mya", "nan", "shn")
).union(("th", "tha", "wuu", "yue", "zh", "zho"))
"""Languages written without spaces between words: their characters are counted as words."""


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


class TokenCounter:
    """Counts chunks of text with their ids.

    Args:
        encoder: the one that makes the ids.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._kinds = np.full(encoder.vocab_size, _ORDINARY, np.uint8)
        self._kinds[encoder.special_ids["[UNK]"]] = _UNKNOWN
        self._kinds[encoder.byte_ids()] = _BYTE

    def count(self, text: bytes, ids: NDArray[Any], language: str) -> TokenCounts:
        """Count lines as `Encoder.encode_lines` took them, and the ids that it gave."""
        if not text:
            return TokenCounts()
        kinds = self._kinds[ids]
        array = np.frombuffer(text, np.uint8)
        line_feeds = text.count(b"\n")
        return TokenCounts(
            lines=line_feeds + 1,
            text_bytes=len(text) - line_feeds,
            words=_characters(array) if language_code(language) in _WITHOUT_SPACES else _words(array),
            tokens=len(ids),
            unknown_tokens=int(np.count_nonzero(kinds == _UNKNOWN)),
            byte_tokens=int(np.count_nonzero(kinds == _BYTE)),
        )


def language_code(language: str) -> str:
    """The language alone, without script or region: "zh" of "zh-Hant" and "zh_TW"."""
    return language.replace("_", "-").partition("-")[0].lower()


def table(counts: Mapping[str, TokenCounts]) -> list[str]:
    """Markdown, one line a language and one for all of them."""
    head = ["language", "lines", "MB of text", "tokens", "tokens/byte", "tokens/word", "unknown", "in bytes"]
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    every = sum(counts.values(), TokenCounts())
    for language, found in [*sorted(counts.items()), ("all", every)]:
        cells = [
            language,
            f"{found.lines:,}",
            f"{found.text_bytes / 1e6:,.2f}",
            f"{found.tokens:,}",
            f"{found.tokens_per_byte:.3f}",
            f"{found.tokens_per_word:.2f}" if language != "all" else "",  # words of one language, characters of another
            f"{found.unknown_share:.2%}",
            f"{found.byte_share:.2%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _words(array: NDArray[np.uint8]) -> int:
    """Runs of bytes above a space: in normalised text nothing else separates words."""
    inside = array > _SPACE
    return int(inside[0]) + int(np.count_nonzero(inside[1:] & ~inside[:-1]))


def _characters(array: NDArray[np.uint8]) -> int:
    """Bytes that begin a character, without spaces and line feeds."""
    return int(np.count_nonzero((array > _SPACE) & ((array & 0xC0) != 0x80)))


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
