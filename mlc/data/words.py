"""Which pieces of a vocabulary start a word, and which pieces of a text are one word.

In:  the SentencePiece model that the shards' manifest names; the pieces of a text.
Out: a flag for each id; the number of the word that each piece belongs to.

A word starts at a piece that begins with U+2581, SentencePiece's mark of a space before it, and reaches to the next
one; punctuation therefore belongs to the word it is written to, and the bytes of a character that has no piece to the
word around it. Scripts that write no spaces would make a word of a whole sentence: there, each piece is a word. Any
other run is cut after `LONGEST_WORD` pieces.
"""

from __future__ import annotations

import unicodedata

import numpy as np
import numpy.typing as npt

from mlc.data.manifest import Manifest
from mlc.errors import ShardError

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

SPACE_MARK = "\u2581"
LONGEST_WORD = 10  # pieces; addresses and long numbers, not words, are longer

SCRIPTS_WITHOUT_SPACES = ((0x0E00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x2E80, 0x31FF), (0x3400, 0x4DBF),
                          (0x4E00, 0x9FFF), (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F), (0xF900, 0xFAFF), (0xFF00, 0xFF9F),
                          (0x1AFF0, 0x1B16F), (0x20000, 0x3FFFF))  # fmt: skip
"""Thai, Lao and Tibetan; Myanmar; Khmer; Han, Kana and their punctuation. Hangul is written with spaces."""
_HANGUL = (0x3130, 0x318F)


def word_starts(manifest: Manifest) -> BoolArray:
    """For each id of the shards' tokenizer, whether a word starts there: bool (vocab_size,).

    Control pieces, and ids beyond the model's own pieces, which are special tokens, are words of their own.

    Raises:
        ShardError: the tokenizer is no SentencePiece model, or cannot be read.
    """
    from sentencepiece import SentencePieceProcessor

    path = manifest.folder / manifest.tokenizer.file
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


def starts_word(piece: str) -> bool:
    """Whether a word starts with an ordinary piece."""
    if piece.startswith(SPACE_MARK):
        return True
    first = ord(piece[0]) if piece else 0
    spaced = _HANGUL[0] <= first <= _HANGUL[1] or not any(low <= first <= high for low, high in SCRIPTS_WITHOUT_SPACES)
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
