"""Languages that write no spaces between words.

In:  a language code.
Out: whether it writes them.
"""

from __future__ import annotations

_WITHOUT = frozenset(("zh", "yue", "wuu", "ja", "th", "lo", "km", "my", "cmn", "jpn", "tha", "lao", "khm", "mya"))


def writes_spaces(language: str) -> bool:
    """Whether words of this language stand between spaces; "zh-TW" is read as "zh"."""
    return language.replace("_", "-").partition("-")[0].lower() not in _WITHOUT
