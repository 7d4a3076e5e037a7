"""How the pieces of a tokenizer.json tell where a word starts.

In:  the content of such a file.
Out: its ordinary pieces; for each, whether it is marked as the start of a word, and its text.

Three ways are known: a space becomes U+2581 (Metaspace, or a normalizer that writes it) or "Ġ" (ByteLevel, whose pieces
are bytes in disguise), so a piece that begins with it starts a word; or pieces inside a word begin with a prefix ("##"
of WordPiece), so one without it starts a word. A suffix at the end of words (</w>) says nothing of their start.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

SPACE_MARK = "\u2581"
_BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")


class NoMarks(Exception):
    """Pieces do not tell where words start; the message says what was found."""


@dataclass(frozen=True)
class Marks:
    """How pieces are marked.

    Attributes:
        kind: space = by U+2581; bytes = by the byte of a space; prefix = those inside words are.
        prefix: of pieces inside words.
    """

    kind: Literal["space", "bytes", "prefix"]
    prefix: str = ""

    def read(self, piece: str) -> tuple[bool, str]:
        """Whether an ordinary piece is marked as a word's start, and its text, of which only the beginning counts."""
        if self.kind == "prefix":
            return not piece.startswith(self.prefix), piece.removeprefix(self.prefix)
        if self.kind == "space":
            return piece.startswith(SPACE_MARK), "" if _BYTE_PIECE.fullmatch(piece) else piece
        content = bytes(_BYTES.get(letter, 0) for letter in piece[:4])
        return content.startswith(b" "), _first_character(content)


def find_marks(content: Mapping[str, Any]) -> Marks:
    """Which way a tokenizer.json marks words.

    Raises:
        NoMarks: none of them.
        KeyError, TypeError, AttributeError: this is no tokenizer.json.
    """
    model = content["model"]
    if prefix := model.get("continuing_subword_prefix"):
        return Marks("prefix", prefix)
    steps = [*_steps(content.get("pre_tokenizer")), *_steps(content.get("normalizer"))]
    if any(step["type"] == "ByteLevel" for step in steps):
        return Marks("bytes")
    # Metaspace's replacement, Replace's content and Prepend's prefix all are the mark.
    if any(SPACE_MARK in step.values() for step in steps):
        return Marks("space")
    kinds = ", ".join(step["type"] for step in steps)
    raise NoMarks(f"model {model['type']}, steps before it: {kinds or 'none'}")


def ordinary_pieces(content: Mapping[str, Any]) -> dict[str, int]:
    """{piece: id} of the model, without the tokens that were added to it, which are words of their own.

    Raises:
        KeyError, TypeError: this is no tokenizer.json.
    """
    vocabulary = content["model"]["vocab"]
    pieces = vocabulary if isinstance(vocabulary, dict) else {piece: i for i, (piece, _) in enumerate(vocabulary)}
    added = {token["content"] for token in content["added_tokens"]}
    return {piece: number for piece, number in pieces.items() if piece not in added}


def bytes_of_letters(piece: str) -> bytes:
    """The bytes that a piece of ByteLevel stands for.

    Raises:
        KeyError: a letter stands for none.
    """
    return bytes(_BYTES[letter] for letter in piece)


def _steps(step: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """A normalizer or pre-tokenizer, or the parts of a sequence of them."""
    if step is None:
        return
    yield step
    for part in step.get("pretokenizers", step.get("normalizers", ())):
        yield from _steps(part)


def _first_character(content: bytes) -> str:
    """The first character that bytes in UTF-8 begin, by its first place in the code where its end is cut off.

    Empty where they begin in the middle of one.
    """
    first = content[0] if content else 0x80
    length = 1 if first < 0x80 else 0 if first < 0xC2 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4
    if not length or first > 0xF4:
        return ""
    code = first & (0x7F if length == 1 else 0x7F >> length)
    for place in range(1, length):
        code = code << 6 | (content[place] & 0x3F if place < len(content) else 0)
    return chr(code) if code <= 0x10FFFF else ""


def _disguises() -> dict[str, int]:
    """{letter: byte} of ByteLevel: printable bytes of Latin-1 stand for themselves, others from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(0x100 + place): byte for place, byte in enumerate(others)}


_BYTES = _disguises()
