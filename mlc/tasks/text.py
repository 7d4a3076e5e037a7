"""Text as the shards had it before it was tokenised.

In:  any string. Out: NFC, single spaces, no control characters.

A run's tokenizer saw nothing else (see data_prep.normalise with its defaults; the lines of a document are tokenised one
by one with a space before each, which is what one line with spaces in place of the line ends gives), so a line feed or
an accent of its own would be pieces the model never met.
"""

from __future__ import annotations

import re
import unicodedata

SPACE_RANGES = ((0x09, 0x0D), (0x1C, 0x1E), (0x20, 0x20), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680),
                (0x2000, 0x200A), (0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000))  # fmt: skip
"""What one space stands for, in runs: white space and line ends of Unicode."""

REMOVED_RANGES = ((0x00, 0x08), (0x0E, 0x1B), (0x1F, 0x1F), (0x7F, 0x84), (0x86, 0x9F), (0xFDD0, 0xFDEF),
                  (0xFEFF, 0xFEFF), (0xFFFE, 0xFFFF))  # fmt: skip
"""Control characters, the byte-order mark, noncharacters of the basic plane."""

_SURROGATES = ((0xD800, 0xDFFF),)  # halves of a pair: no UTF-8


def _character_class(ranges: tuple[tuple[int, int], ...]) -> str:
    return "[" + "".join(f"\\u{first:04x}-\\u{last:04x}" for first, last in ranges) + "]"


_REMOVED = re.compile(_character_class(REMOVED_RANGES + _SURROGATES))
_SPACES = re.compile(_character_class(SPACE_RANGES) + "+")


def clean_text(text: str) -> str:
    """One line of normalised text; empty where nothing is left. Cleaning twice changes nothing."""
    if text.isascii() and text.isprintable() and "  " not in text:
        return text.strip(" ")  # the common case
    return unicodedata.normalize("NFC", _SPACES.sub(" ", _REMOVED.sub("", text)).strip(" "))
