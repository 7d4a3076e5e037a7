"""Which tokens of one tokenizer are those of another: what a change of vocabulary can carry over.

In:  two tokenizers: SentencePiece models or tokenizer.json files, each with the ids of its special tokens.
Out: for every id of the new one, the ids of the old one that it starts from.

1. **Same**: a token with the same surface form. A form is bytes: what marks a space (U+2581, "Ġ", or the lack of "##")
   becomes a space, byte pieces (<0xE2>, or ByteLevel's letters) their bytes. Of two old pieces with one form, a byte
   piece stands for a byte piece, and an ordinary piece for an ordinary one, where there is one.
2. **Mean**: otherwise the pieces into which the old tokenizer cuts the token's text (Gee et al. 2022, "Fast vocabulary
   transfer for language model compression", eq. 1).
3. **None**: text that the old tokenizer does not know whole, or bytes that are no text and no old pieces either.

Special tokens are carried by what they are for, never by their text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mlc.data.manifest import TokenizerKind
from mlc.data.piece_marks import SPACE_MARK, Marks, NoMarks, bytes_of_letters, find_marks, ordinary_pieces
from mlc.data.tokenizer_json import open_tokenizer_json
from mlc.errors import ShardError

How = Literal["special", "same", "mean", "none"]
HOW: tuple[How, ...] = ("special", "same", "mean", "none")

STANDS_FOR = {"[MASK]": "[MLM]", "[sMASK]": "[MLM]", "[gMASK]": "[MLM]", "[MLM]": "[MASK]"}
"""Of special tokens that the old tokenizer lacks: all of these are a hole in a text."""

Form = tuple[bool, bytes]
"""Whether it is a byte piece, and its bytes with spaces for the marks of words."""


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer's pieces, in a form that another's can be compared with.

    Attributes:
        size: ids are 0 .. size - 1.
        forms: of ordinary pieces, by id.
        special_ids: by the names of `mlc.data.manifest.SPECIAL_TOKENS`; those it has.
        encode: texts to ids, without special tokens.
        keeps_first_space: a space at the beginning of a text is part of its first piece.
        unknown_id: of what it has no piece for; None = it has pieces for everything.
    """

    size: int
    forms: Mapping[int, Form]
    special_ids: Mapping[str, int]
    encode: Callable[[Sequence[str]], list[list[int]]]
    keeps_first_space: bool
    unknown_id: int | None


@dataclass(frozen=True)
class TokenMatch:
    """What each new token starts from.

    Attributes:
        how: (V,) place in `HOW`.
        starts: (V + 1,) token i starts from `old_ids[starts[i] : starts[i + 1]]`: one id where it is the same, several
            whose mean it is, or none.
        old_ids: of all tokens, one after the other.
    """

    how: NDArray[np.int8]
    starts: NDArray[np.int64]
    old_ids: NDArray[np.int64]

    def counts(self) -> dict[str, int]:
        """Tokens by how they start."""
        return {name: int((self.how == place).sum()) for place, name in enumerate(HOW)}


def open_vocabulary(file: Path, kind: TokenizerKind, special_ids: Mapping[str, int], size: int) -> Vocabulary:
    """Open a tokenizer.

    Args:
        file: tokenizer.model or tokenizer.json.
        kind: which of them.
        special_ids: see `Vocabulary`.
        size: see `Vocabulary`.

    Raises:
        ShardError: it cannot be read, or its pieces do not tell where words start.
    """
    try:
        if kind == "hugging_face":
            return _of_tokenizer_json(file.read_text(encoding="utf-8"), special_ids, size)
        return _of_sentencepiece(file, special_ids, size)
    except NoMarks as error:
        raise ShardError(
            "the tokenizer's pieces do not tell where words start", found=str(error), where=str(file)
        ) from None
    except Exception as error:  # tokenizers raises Exception itself
        raise ShardError("the tokenizer cannot be read", found=str(error), where=str(file)) from None


def match_tokens(old: Vocabulary, new: Vocabulary) -> TokenMatch:
    """Find what each token of `new` starts from."""
    by_form = _ids_by_form(old)
    found: list[tuple[How, list[int]]] = [("none", [])] * new.size
    waiting: list[int] = []
    for number, form in new.forms.items():
        same = by_form.get(form, by_form.get((not form[0], form[1])))
        if same is None:
            waiting.append(number)
        else:
            found[number] = ("same", [same])
    for number, pieces in zip(waiting, _pieces_of(old, [new.forms[number][1] for number in waiting]), strict=True):
        if pieces:
            found[number] = ("mean", pieces)
    for name, number in new.special_ids.items():
        source = old.special_ids.get(name, old.special_ids.get(STANDS_FOR.get(name, "")))
        found[number] = ("none", []) if source is None else ("special", [source])
    return TokenMatch(
        how=np.array([HOW.index(how) for how, _ in found], dtype=np.int8),
        starts=np.cumsum([0, *(len(ids) for _, ids in found)], dtype=np.int64),
        old_ids=np.array([number for _, ids in found for number in ids], dtype=np.int64),
    )


def _ids_by_form(vocabulary: Vocabulary) -> dict[Form, int]:
    """The lowest id where pieces share a form."""
    by_form: dict[Form, int] = {}
    for number in sorted(vocabulary.forms):
        by_form.setdefault(vocabulary.forms[number], number)
    return by_form


def _pieces_of(old: Vocabulary, contents: Sequence[bytes]) -> list[list[int]]:
    """The old pieces of each content; none where there are none."""
    texts = [_text(content) for content in contents]
    asked = [text if old.keeps_first_space else text.lstrip(" ") for text in texts if text is not None]
    answers = iter(old.encode(asked))
    by_form = _ids_by_form(old)
    found = []
    for content, text in zip(contents, texts, strict=True):
        if text is None:
            found.append(_byte_pieces(by_form, content))
            continue
        ids = next(answers)
        if old.unknown_id is not None and old.unknown_id in ids:
            ids = []
        # A tokenizer that puts a space before every text may give it a piece of its own, which the token has not.
        if not content.startswith(b" ") and len(ids) > 1 and old.forms.get(ids[0], (False, b""))[1] == b" ":
            ids = ids[1:]
        found.append(ids)
    return found


def _byte_pieces(by_form: Mapping[Form, int], content: bytes) -> list[int]:
    single = [bytes([byte]) for byte in content]
    pieces = [by_form.get((True, byte), by_form.get((False, byte))) for byte in single]
    return [piece for piece in pieces if piece is not None] if None not in pieces else []


def _text(content: bytes) -> str | None:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _of_tokenizer_json(content: str, special_ids: Mapping[str, int], size: int) -> Vocabulary:
    table = json.loads(content)
    marks = find_marks(table)
    special = set(special_ids.values())
    forms = {
        number: _form(piece, marks)
        for piece, number in ordinary_pieces(table).items()
        if number not in special and number < size
    }
    tokenizer = open_tokenizer_json(content)

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [found.ids for found in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    return Vocabulary(size, forms, special_ids, encode, marks.kind == "bytes", special_ids.get("[UNK]"))


def _of_sentencepiece(file: Path, special_ids: Mapping[str, int], size: int) -> Vocabulary:
    from sentencepiece import SentencePieceProcessor

    model: Any = SentencePieceProcessor(model_file=str(file))
    special = set(special_ids.values())
    forms: dict[int, Form] = {}
    for number in range(min(size, model.vocab_size())):
        if number in special or model.is_control(number) or model.is_unknown(number) or model.is_unused(number):
            continue
        forms[number] = _form(model.id_to_piece(number), Marks("space"), is_byte=model.is_byte(number))
    return Vocabulary(size, forms, special_ids, lambda texts: model.encode(list(texts)), False, model.unk_id())


def _form(piece: str, marks: Marks, *, is_byte: bool | None = None) -> Form:
    """Of an ordinary piece; `is_byte` None = to be seen from its text."""
    if marks.kind == "bytes":
        content = bytes_of_letters(piece)
        return (_text(content) is None, content)
    if marks.kind == "prefix":
        starts_word = not piece.startswith(marks.prefix)
        text = piece.removeprefix(marks.prefix)
        return False, (" " + text if starts_word else text).encode()
    looks_like_byte = len(piece) == len("<0x00>") and piece.startswith("<0x") and piece.endswith(">")
    if looks_like_byte if is_byte is None else is_byte:
        return True, bytes([int(piece[3:-1], 16)])
    return False, piece.replace(SPACE_MARK, " ").encode("utf-8", "surrogatepass")
