"""Which pieces of a vocabulary start a word, and which pieces of a text are one word.

In:  the tokenizer that the shards' manifest names; the pieces of a text.
Out: a flag for each id; the number of the word that each piece belongs to.

A word starts at a piece that begins with U+2581, SentencePiece's mark of a space before it, and reaches to the next
one; punctuation therefore belongs to the word it is written to, and the bytes of a character that has no piece to the
word around it. Scripts that write no spaces would make a word of a whole sentence: there, each piece is a word. Any
other run is cut after `LONGEST_WORD` pieces. Of a tokenizer.json: see `mlc.data.piece_marks`.
"""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mlc.data.manifest import Manifest
from mlc.data.piece_marks import SPACE_MARK, NoMarks, find_marks, ordinary_pieces
from mlc.data.spacing import FULL_WIDTH_RANGE, UNSPACED_RANGES
from mlc.errors import ShardError

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

LONGEST_WORD = 10  # pieces; addresses and long numbers, not words, are longer

_SCRIPTS_WITHOUT_SPACES = (*UNSPACED_RANGES, FULL_WIDTH_RANGE)


def word_starts(manifest: Manifest) -> BoolArray:
    """For each id of the shards' tokenizer, whether a word starts there: bool (vocab_size,).

    Control pieces, and ids beyond the model's own pieces, which are special tokens, are words of their own.

    Raises:
        ShardError: the tokenizer cannot be read, or its pieces do not tell where words start.
    """
    path = manifest.folder / manifest.tokenizer.file
    if manifest.tokenizer.kind == "hugging_face":
        return _starts_in_tokenizer_json(path, manifest)
    from sentencepiece import SentencePieceProcessor

    try:
        pieces = SentencePieceProcessor(model_proto=path.read_bytes())
    except (OSError, RuntimeError) as error:
        raise ShardError(
            "whole words need the shards' SentencePiece model",
            found=str(error).splitlines()[0],
            where=str(path),
            hint="--set objectives.mlm.whole_word=false",
        ) from None
    starts = np.ones(manifest.tokenizer.vocab_size, dtype=bool)
    for number in range(min(len(starts), pieces.get_piece_size())):
        if not pieces.is_control(number):
            within = pieces.is_byte(number) or pieces.is_unknown(number)
            starts[number] = not within and starts_word(pieces.id_to_piece(number))
    return starts


def _starts_in_tokenizer_json(path: Path, manifest: Manifest) -> BoolArray:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        marks = find_marks(content)
        pieces = ordinary_pieces(content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, NoMarks) as error:
        raise ShardError(
            "whole words need a tokenizer whose pieces tell where words start",
            found=str(error) if isinstance(error, NoMarks) else repr(error),
            needed=f"pieces marked with {SPACE_MARK}, those of ByteLevel, or a prefix of pieces inside words (##)",
            where=str(path),
            hint="--set objectives.mlm.whole_word=false",
        ) from None
    starts = np.ones(manifest.tokenizer.vocab_size, dtype=bool)
    for piece, number in pieces.items():
        marked, text = marks.read(piece)
        starts[number] = marked or starts_word(text)
    unknown = manifest.tokenizer.special_ids["[UNK]"]
    starts[unknown] = marks.kind == "prefix"  # else it stands for a character or a byte inside a word
    return starts


def starts_word(piece: str) -> bool:
    """Whether a word starts with an ordinary piece."""
    if piece.startswith(SPACE_MARK):
        return True
    first = ord(piece[0]) if piece else 0
    spaced = not any(low <= first <= high for low, high in _SCRIPTS_WITHOUT_SPACES)
    # A vowel sign or tone mark goes with the letter before it.
    return not spaced and not unicodedata.category(piece[0]).startswith("M")


def number_words(tokens: Int64Array, places: Int64Array, starts: BoolArray) -> Int64Array:
    """The word that the token at each place belongs to, counted from 0, shape (places,).

    Args:
        tokens: of a row.
        places: in ascending order, of the tokens that can belong to a word; a gap between them ends a word.
        starts: from `word_starts`.
    """
    begins = starts[tokens[places]] | (np.diff(places, prepend=-2) > 1)
    run = np.cumsum(begins) - 1
    in_run = np.arange(len(places)) - np.flatnonzero(begins)[run]
    return np.cumsum(begins | (in_run % LONGEST_WORD == 0)) - 1
