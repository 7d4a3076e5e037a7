"""Characters that every version of Unicode puts into the same class, so that two libraries cut words alike at them.

In:  nothing.
Out: a table over all code points.

Patterns of byte-level tokenizers speak of letters, numbers and white space (\\p{L}, \\p{N}, \\s), and libraries carry
tables of different versions. What is a letter since Unicode 15 is nothing in a table of Unicode 14. Python carries two
tables, of Unicode 3.2 (2002) and of a recent version; what is in one class in both stays there, and what is not yet
assigned in the recent one may become anything.
"""

from __future__ import annotations

import sys
import unicodedata
from functools import cache

import numpy as np
from numpy.typing import NDArray


@cache
def stable_characters() -> NDArray[np.bool_]:
    """bool [code points]: whether its class is sure. The first call takes about a second."""
    every = range(sys.maxunicode + 1)
    recent = [unicodedata.category(chr(code)) for code in every]
    old = [unicodedata.ucd_3_2_0.category(chr(code)) for code in every]
    stable = [_class(now) == _class(then) and now != "Cn" for now, then in zip(recent, old, strict=True)]
    return np.array(stable, np.bool_)


def _class(category: str) -> str:
    """Letter, mark, number, separator, control; anything else is in none of them, assigned or not."""
    return category if category == "Cc" else category[0] if category[0] in "LMNZ" else ""
