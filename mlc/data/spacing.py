"""Scripts and languages that are written without spaces between words.

In:  code points; language codes.
Out: which of them have no spaces: there, a word is not what stands between spaces.
"""

from __future__ import annotations

UNSPACED_RANGES = ((0x0E00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x1950, 0x19DF), (0x1A20, 0x1AAF),
                   (0x2E80, 0x312F), (0x3190, 0x4DBF), (0x4E00, 0x9FFF), (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F),
                   (0xF900, 0xFAFF), (0xFF66, 0xFF9F), (0x1AFF0, 0x1B16F), (0x20000, 0x323AF))  # fmt: skip
"""First and last code points: Thai, Lao and Tibetan; Myanmar; Khmer; Tai scripts; Han, Kana and Bopomofo with their
punctuation. Hangul is written with spaces. The last range ends with the last letter of all."""

FULL_WIDTH_RANGE = (0xFF00, 0xFF65)
"""Punctuation, digits and Latin letters in the width of Han characters, which stand among them."""

UNSPACED_LANGUAGES = frozenset(
    ("bo", "cmn", "dz", "gan", "hak", "ja", "jpn", "khm", "km", "lao", "lo", "lzh", "my", "mya", "nan", "shn")
).union(("th", "tha", "wuu", "yue", "zh", "zho"))


def language_code(language: str) -> str:
    """The language alone, without script or region: "zh" of "zh-Hant" and "zh_TW"."""
    return language.replace("_", "-").partition("-")[0].lower()


def writes_spaces(language: str) -> bool:
    """Whether words of this language stand between spaces; "zh-TW" is read as "zh"."""
    return language_code(language) not in UNSPACED_LANGUAGES
