"""Training a SentencePiece model, BPE or unigram.

In:  sequences of text, in an order that is always the same.
Out: the model's bytes, the same for the same sequences on any machine with the same version of SentencePiece.

Both kinds spell in bytes what has no piece, keep text as it is, and put a space before every sequence: see
`data_prep.tokenizer`, which reads both.

BPE (Sennrich et al. 2016) joins the most frequent pair again and again. Unigram (Kudo 2018) starts from many candidate
pieces and drops those that the likelihood of the text misses least; it takes more time and memory, and gigatoken cannot
encode with it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import sentencepiece

from mlc.data.manifest import SPECIAL_TOKENS
from mlc.errors import DataError

LARGEST_VOCABULARY = 1 << 18
_LONGEST_LINE_BYTES = 1 << 20  # SentencePiece drops longer ones
_LONGEST_PART_CHARACTERS = {"bpe": _LONGEST_LINE_BYTES // 4, "unigram": 1 << 12}
"""Unigram walks every part once for each of its many rounds, with a table of all pieces that begin at each place."""


@dataclass(frozen=True)
class ModelSettings:
    """What a new model should be.

    Attributes:
        kind: how pieces are learned.
        vocab_size: ids, special tokens and 256 bytes included; up to `LARGEST_VOCABULARY`.
        character_coverage: share of the text's characters that get a piece of their own.
        split_digits: every digit is a piece of its own.
        max_piece_characters: of the longest piece.
    """

    kind: Literal["bpe", "unigram"]
    vocab_size: int
    character_coverage: float
    split_digits: bool
    max_piece_characters: int


def train_model(sequences: Iterable[str], settings: ModelSettings) -> bytes:
    """Train a model; ids 0-9 are `SPECIAL_TOKENS`, 10-265 the bytes, the rest is learned.

    Args:
        sequences: training text; all of it is used and held in memory by SentencePiece.
        settings: of the model.

    Raises:
        DataError: the text is too little for that many pieces.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_parts(sequences, _LONGEST_PART_CHARACTERS[settings.kind]),
            model_writer=model,
            model_type=settings.kind,
            vocab_size=settings.vocab_size,
            character_coverage=settings.character_coverage,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=True,
            split_digits=settings.split_digits,
            max_sentencepiece_length=settings.max_piece_characters,
            pad_id=0,
            unk_id=1,
            bos_id=-1,
            eos_id=-1,
            pad_piece=SPECIAL_TOKENS[0],
            unk_piece=SPECIAL_TOKENS[1],
            control_symbols=list(SPECIAL_TOKENS[2:]),
            input_sentence_size=0,
            shuffle_input_sentence=False,
            max_sentence_length=_LONGEST_LINE_BYTES,
            train_extremely_large_corpus=settings.kind == "unigram",  # 64-bit places in its suffix array
            num_threads=1,  # written into the model file, and unigram adds its counts up in the order of threads
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _too_little_text(str(error), settings) from None
    return model.getvalue()


def _too_little_text(problem: str, settings: ModelSettings) -> DataError:
    most = re.search(r"value <= (\d+)", problem)  # how SentencePiece says that it ran out of pieces
    return DataError(
        "the tokenizer cannot be trained on this sample",
        found=f"vocab_size = {settings.vocab_size}" if most else problem.splitlines()[0],
        needed=f"vocab_size <= {most[1]}, or more text" if most else None,
        where="tokenizer",
        hint="lower tokenizer.vocab_size, or raise tokenizer.sample_bytes",
    )


def _parts(sequences: Iterable[str], longest: int) -> Iterator[str]:
    for sequence in sequences:
        for start in range(0, len(sequence), longest):
            yield sequence[start : start + longest]
