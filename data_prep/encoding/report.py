"""How well a tokenizer fits each language: tokens a byte and a word, and what it had to spell.

In:  lines of text as bytes and their ids, chunk by chunk.
Out: `TokenCounts`, which add up over chunks and units.

Counted over whole arrays: a chunk costs a few passes over its bytes and ids.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.encoding.engine import Encoder
from data_prep.token_counts import TokenCounts
from mlc.data.spacing import writes_spaces

_ORDINARY, _UNKNOWN, _BYTE = 0, 1, 2
_SPACE = 0x20


class TokenCounter:
    """Counts chunks of text with their ids.

    Args:
        encoder: the one that makes the ids.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._kinds = np.full(encoder.vocab_size, _ORDINARY, np.uint8)
        self._kinds[encoder.special_ids["[UNK]"]] = _UNKNOWN
        self._kinds[encoder.byte_ids()] = _BYTE
        self._ordinary_from = int(np.flatnonzero(self._kinds)[-1]) + 1

    def count(self, text: bytes, ids: NDArray[Any], lines: int, language: str) -> TokenCounts:
        """Count lines as `Encoder.encode_lines` took them, and the ids that it gave."""
        if not text:
            return TokenCounts()
        kinds = self._kinds[ids[ids < self._ordinary_from]]  # few: most tokenizers have these ids at the beginning
        array = np.frombuffer(text, np.uint8)
        return TokenCounts(
            lines=lines,
            text_bytes=len(text) - (lines - 1),
            words=_words(array) if writes_spaces(language) else _characters(array),
            tokens=len(ids),
            unknown_tokens=int(np.count_nonzero(kinds == _UNKNOWN)),
            byte_tokens=int(np.count_nonzero(kinds == _BYTE)),
        )


def _words(array: NDArray[np.uint8]) -> int:
    """Runs of bytes above a space: in normalised text nothing else separates words."""
    inside = array > _SPACE
    return int(inside[0]) + int(np.count_nonzero(inside[1:] > inside[:-1]))


def _characters(array: NDArray[np.uint8]) -> int:
    """Bytes that begin a character, without spaces and line feeds."""
    return int(np.count_nonzero((array > _SPACE) & ((array & 0xC0) != 0x80)))
