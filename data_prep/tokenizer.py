"""The SentencePiece tokenizer: text to token ids and back. data_prep.encoding trains it, and encodes faster with it.

In:  a model file; sequences of text.
Out: arrays of ids.

BPE with byte fallback and identity normalisation, so decode(encode(x)) == x for every text: what has no piece of its
own is spelled in bytes. A space is put before every sequence, so that a word is the same token at its beginning as
inside it, and sequences read one after the other do not run together.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from mlc.data.indexed import token_dtype
from mlc.data.manifest import SPECIAL_TOKENS
from mlc.errors import RecipeError

_MARK = "\u2581"  # SentencePiece writes a space as this character, so the character itself would come back as a space


class Tokenizer:
    """A SentencePiece model, ours or someone else's.

    Special tokens that a model lacks (every foreign one lacks some) get ids after its own pieces.

    Attributes:
        file: the model.
        vocab_size: its pieces and the special tokens; ids are below it.
        special_ids: {name: id} of `SPECIAL_TOKENS`.
        dtype: that the ids are stored in.

    Raises:
        RecipeError: the file is no SentencePiece model.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            self._processor: Any = sentencepiece.SentencePieceProcessor(model_proto=file.read_bytes())
        except (OSError, RuntimeError) as error:
            raise RecipeError("no SentencePiece model can be read", found=str(error), where=str(file)) from None
        self.special_ids, self.vocab_size = self._find_specials()
        self.dtype = token_dtype(self.vocab_size)
        self._stand_ins = self._find_stand_ins()

    def encode(self, texts: Sequence[str]) -> list[NDArray[Any]]:
        """Ids of each text, without [CLS] or [SEP]."""
        # One thread: under MPI each rank has its core, and the order of results never depends on threads.
        ids = self._processor.encode(list(texts), num_threads=1)
        for i, text in enumerate(texts):
            if _MARK in text and self._stand_ins:
                ids[i] = self._encode_with_mark(text)
        ends = np.cumsum([len(found) for found in ids])
        flat = np.fromiter(chain.from_iterable(ids), dtype=self.dtype, count=int(ends[-1]) if len(ends) else 0)
        return np.split(flat, ends[:-1]) if len(ends) else []

    def decode(self, ids: NDArray[Any]) -> str:
        """Text of ids; special tokens have none."""
        pieces = self._processor.get_piece_size()
        text: str = self._processor.decode([token for token in ids.tolist() if token < pieces])
        return text

    def _encode_with_mark(self, text: str) -> list[int]:
        """Encode with a character in the mark's stead that is one byte piece, then put the mark's bytes there."""
        stand_in = next((found for found in self._stand_ins if found not in text), None)
        if stand_in is None:
            return list(self._processor.encode(text))
        mark = [self._byte_id(byte) for byte in _MARK.encode()]
        ids = self._processor.encode(text.replace(_MARK, stand_in))
        return list(chain.from_iterable(mark if token == self._byte_id(ord(stand_in)) else [token] for token in ids))

    def _find_specials(self) -> tuple[dict[str, int], int]:
        pieces = self._processor.get_piece_size()
        known = {
            name: self._processor.piece_to_id(name)
            for name in SPECIAL_TOKENS
            if self._processor.id_to_piece(self._processor.piece_to_id(name)) == name
        }
        known = {name: i for name, i in known.items() if self._processor.is_control(i) or self._processor.is_unknown(i)}
        known.setdefault("[UNK]", self._processor.unk_id())
        if self._processor.pad_id() >= 0:
            known.setdefault("[PAD]", self._processor.pad_id())
        missing = [name for name in SPECIAL_TOKENS if name not in known]
        known.update({name: pieces + i for i, name in enumerate(missing)})
        return {name: known[name] for name in SPECIAL_TOKENS}, pieces + len(missing)

    def _find_stand_ins(self) -> list[str]:
        """Control characters that the model spells as one byte piece and nothing else does."""
        if not self._processor.is_byte(self._byte_id(0)):
            return []
        controls = [chr(code) for code in range(32)]
        return [c for c in controls if not self._has_piece_with(c)]

    def _has_piece_with(self, character: str) -> bool:
        return bool(self._processor.encode(f"a{character}a")[-2:-1] != [self._byte_id(ord(character))])

    def _byte_id(self, byte: int) -> int:
        return int(self._processor.piece_to_id(f"<0x{byte:02X}>"))
