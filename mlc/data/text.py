"""Text as it should be tokenised: one form for equal characters, one kind of space, no control characters.

In:  any text.
Out: `normalise`: the text a shard's sequences are cut from, line ends kept, or `Unusable` with the reason why there is
     none. `clean_text`: the same on one line, for a model's input. Doing either twice changes nothing.

Shards, evaluation and export share these rules: a line feed or an accent of its own would be pieces that a model which
was trained on shards never met.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

SPACE_RANGES = ((0x09, 0x0D), (0x1C, 0x1E), (0x20, 0x20), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680),
                (0x2000, 0x200A), (0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000))  # fmt: skip
"""What one space of `clean_text` stands for, in runs: white space and line ends of Unicode."""

REMOVED_RANGES = ((0x00, 0x08), (0x0E, 0x1B), (0x1F, 0x1F), (0x7F, 0x84), (0x86, 0x9F), (0xFDD0, 0xFDEF),
                  (0xFEFF, 0xFEFF), (0xFFFE, 0xFFFF))  # fmt: skip
"""Control characters, the byte-order mark, noncharacters of the basic plane."""

_CONTROL_LINE_ENDS = ((0x0B, 0x0C), (0x1C, 0x1E), (0x85, 0x85))  # controls too, where white space is left alone


def _character_class(ranges: tuple[tuple[int, int], ...]) -> str:
    return "[" + "".join(f"\\u{first:04x}-\\u{last:04x}" for first, last in ranges) + "]"


_LINE_ENDS = ("\r\n", *"\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")
_OTHER_SPACES = "\t\x1f\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
_SPACES = re.compile("  +")
_CONTROLS = re.compile(_character_class(REMOVED_RANGES + _CONTROL_LINE_ENDS))
_SURROGATES = re.compile("[\ud800-\udfff]")


class Unusable(Exception):
    """A text that cannot be used: `reason` counts it, `detail` explains it."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def normalise(
    text: str,
    *,
    nfc: bool = True,
    whitespace: bool = True,
    control_characters: Literal["remove", "reject", "keep"] = "remove",
) -> str:
    """Apply the rules of a recipe's [normalise] table, whose keys the arguments are.

    Raises:
        Unusable: empty, half of a surrogate pair, or a control character where they are to be rejected.
    """
    # Of a printable text half of the rules change nothing: no white space but spaces, no control, no surrogate.
    is_printable = text.replace("\n", "").isprintable()
    if not is_printable:
        text = _without_odd_characters(text, whitespace, control_characters)
    if whitespace:
        if "  " in text:
            text = _SPACES.sub(" ", text)
        if " \n" in text or "\n " in text:
            text = "\n".join([line.strip(" ") for line in text.split("\n")])
        text = text.strip()
    if nfc and not text.isascii():  # last: what was removed may have stood between a letter and its accent
        text = unicodedata.normalize("NFC", text)
    if not text or text.isspace():
        raise Unusable("empty", "no text is left")
    return text


def _without_odd_characters(
    text: str, whitespace: bool, control_characters: Literal["remove", "reject", "keep"]
) -> str:
    """Line ends, controls and white space as `normalise` has them, but for runs of spaces."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Unusable("surrogate", f"character {error.start} is half of a surrogate pair") from None
    if whitespace:
        for end in _LINE_ENDS:  # one by one: many times as fast as a pattern, since most texts have none of them
            text = text.replace(end, "\n")
    if control_characters != "keep":
        found = _CONTROLS.search(text)
        if found and control_characters == "reject":
            raise Unusable("control_character", f"U+{ord(found[0]):04X} at character {found.start()}")
        if found:
            text = _CONTROLS.sub("", text)
    if whitespace:
        for space in _OTHER_SPACES:
            text = text.replace(space, " ")
    return text


def clean_text(text: str) -> str:
    """Normalised text on one line; empty where nothing is left.

    The lines of a document are tokenised one by one with a space before each, which is what one line with spaces in
    place of the line ends gives.
    """
    if text.isascii() and text.isprintable() and "  " not in text:
        return text.strip(" ")  # the common case
    try:
        return " ".join(filter(None, normalise(_SURROGATES.sub("", text)).split("\n")))
    except Unusable:
        return ""
