"""Text as it should be tokenised: one form for equal characters, one kind of space, no control characters.

In:  a text of a record.
Out: the normalised text; or `Unusable` with the reason to set the record aside. Normalising twice changes nothing.
"""

from __future__ import annotations

import re
import unicodedata

from data_prep.recipe import NormaliseSection

_LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_SPACES = re.compile(r"[^\S\n ][^\S\n]*| [^\S\n]+")  # a single space is left alone: it is the common case
_AROUND_LINE_ENDS = re.compile(r" +\n *|\n +")
# Controls except tab, line feed and carriage return; byte-order mark and noncharacters of the basic plane.
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff\ufdd0-\ufdef\ufffe\uffff]")


class Unusable(Exception):
    """A text that cannot be used: `reason` counts it, `detail` explains it."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def normalise(text: str, section: NormaliseSection) -> str:
    """Apply the recipe's [normalise] table.

    Raises:
        Unusable: empty, half of a surrogate pair, or a control character where the recipe rejects them.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Unusable("surrogate", f"character {error.start} is half of a surrogate pair") from None
    if section.whitespace:
        text = _LINE_ENDS.sub("\n", text)
    if section.control_characters != "keep":
        found = _CONTROLS.search(text)
        if found and section.control_characters == "reject":
            raise Unusable("control_character", f"U+{ord(found[0]):04X} at character {found.start()}")
        if found:
            text = _CONTROLS.sub("", text)
    if section.whitespace:
        text = _AROUND_LINE_ENDS.sub("\n", _SPACES.sub(" ", text)).strip()
    if section.nfc and not text.isascii():  # last: what was removed may have stood between a letter and its accent
        text = unicodedata.normalize("NFC", text)
    if not text or text.isspace():
        raise Unusable("empty", "no text is left")
    return text
