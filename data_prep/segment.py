"""A document's text as its sequences: lines or sentences.

In:  normalised text.
Out: non-empty sequences in order, without the white space between them.
"""

from __future__ import annotations

import re
from typing import Literal

# A sentence ends at a full stop, question or exclamation mark that is followed by white space, with closing quotes and
# brackets in between; or at an end mark of a script that writes no space there, or needs none to be clear: ideographic,
# Devanagari, Urdu and Arabic, Armenian, Ethiopic, Khmer, Myanmar, Tibetan.
_SENTENCE_END = re.compile(
    r"""[.!?…]+["'”’»)\]]*(?=\s) | [。！？｡]+[」』”’）】]* | [।॥۔؟։።፧។៕။།]+["'”’»)]*""", re.VERBOSE
)


Split = Literal["line", "sentence", "whole"]
"""How a text becomes sequences."""


def split_sequences(text: str, how: Split) -> list[str]:
    """Sequences of a text.

    Args:
        text: normalised.
        how: "line", "sentence" (which never crosses a line), or "whole" (one sequence, line ends become spaces).
    """
    lines = list(filter(None, map(str.strip, text.split("\n"))))
    if how == "whole":
        return [" ".join(lines)] if lines else []
    if how == "line":
        return lines
    return [sentence for line in lines for sentence in _sentences(line)]


def _sentences(line: str) -> list[str]:
    found, start = [], 0
    for end in _SENTENCE_END.finditer(line):
        following = line[end.end() : end.end() + 8].lstrip()[:1] if end[0][0] in ".!?…" else ""
        if following.islower():  # an abbreviation, or a quotation inside a sentence
            continue
        found.append(line[start : end.end()].strip())
        start = end.end()
    found.append(line[start:].strip())
    return [sentence for sentence in found if sentence]
