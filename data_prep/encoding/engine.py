"""Lines of text to token ids, at the speed of the fastest engine that gives exactly the tokenizer's own ids.

In:  a SentencePiece model, or a folder (or tokenizer.json) of Hugging Face's tokenizers; lines of text as bytes.
Out: ids in the shard's dtype and the number of them a line; no Python object is made for a line.

The tokenizer alone decides about ids; gigatoken (https://github.com/marcelroed/gigatoken) decides about time. It is
used where the model's joins can be written as a merge list that gives the same ids (`data_prep.encoding.merge_list`).
Lines on which it may differ go to the tokenizer's own library even then: with a SentencePiece model those that hold
U+2581, its own sign for a space; with a tokenizer.json those that hold a character whose class depends on the version
of Unicode (`data_prep.encoding.stable_characters`). `check_sample` compares a sample of real lines in every build.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from data_prep.encoding.hugging_face import HuggingFaceTokenizer
from data_prep.encoding.merge_list import MARK, NoMergeList, merge_list_json
from data_prep.encoding.ranked_engine import NoRankedEngine, RankedEngine
from data_prep.encoding.reference import kind_of, open_tokenizer
from data_prep.encoding.stable_characters import stable_characters
from mlc.errors import MlcError

_LINE_FEED = 0x0A
_COMPARED_AT_ONCE = 1024  # lines
_MARK_BYTES = MARK.encode()

FlatIds = tuple[NDArray[Any], NDArray[np.int32]]
"""Ids of all lines, one after the other, and how many each line has."""


class Encoder:
    """A tokenizer that encodes many lines at once.

    Args:
        tokenizer: a SentencePiece model; or a tokenizer.json of Hugging Face's tokenizers, or a folder with one.
        fast: use gigatoken where it is exact; false: the tokenizer's own library alone.

    Attributes:
        kind: "sentencepiece" or "hugging_face", as in `TokenizerInfo.kind`.
        reference: the tokenizer itself.
        special_ids, vocab_size, dtype: of the reference.
        engine: name and version of the library that encodes most lines.
        why_not_fast: why that is not gigatoken; empty where it is.

    Raises:
        RecipeError: there is no tokenizer.
    """

    def __init__(self, tokenizer: Path, *, fast: bool = True) -> None:
        self.kind = kind_of(tokenizer)
        self.reference = open_tokenizer(tokenizer)
        self._ranked: RankedEngine | None = None
        self._stable: NDArray[np.bool_] | None = None
        self.why_not_fast = "" if fast else "it was not asked for"
        library = "tokenizers" if self.kind == "hugging_face" else "sentencepiece"
        self.special_ids, self.vocab_size = self.reference.special_ids, self.reference.vocab_size
        self.dtype = self.reference.dtype
        self.engine = f"{library} {importlib.metadata.version(library)}"
        if fast:
            try:
                self._start_fast(tokenizer)
            except (NoMergeList, NoRankedEngine) as reason:
                self.why_not_fast = str(reason)

    def encode_lines(self, text: bytes) -> FlatIds:
        """Ids of lines, without special tokens.

        Args:
            text: lines between line feeds (none at the end), none of them empty; b"" is no line. A few megabytes are
                fastest. It must be valid UTF-8, as `str.encode` gives it: gigatoken does not look, and may crash.

        Returns:
            ids [tokens] in `dtype`; lengths int32 [lines].
        """
        if not text:
            return np.empty(0, self.dtype), np.empty(0, np.int32)
        if self._ranked is None:
            return _flatten(self.reference.encode(text.decode().split("\n")), self.dtype)
        raw_ids, raw_lengths = self._ranked.encode_lines(text)
        ids, lengths = raw_ids.astype(self.dtype), raw_lengths.astype(np.int32)
        others = self._lines_to_correct(text)
        return self._correct(text, others, ids, lengths) if len(others) else (ids, lengths)

    def decode(self, ids: NDArray[Any]) -> str:
        """Text of ids; special tokens have none."""
        return self.reference.decode(ids)

    def byte_ids(self) -> list[int]:
        """Ids that stand for one byte of a character that has no piece of its own; none where nothing is spelled so."""
        if isinstance(self.reference, HuggingFaceTokenizer):
            return self.reference.byte_ids()
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(self.reference.file))
        return [i for i in range(pieces.get_piece_size()) if pieces.is_byte(i)]

    def _start_fast(self, tokenizer: Path) -> None:
        if isinstance(self.reference, HuggingFaceTokenizer):
            content = self.reference.without_special_tokens()
        else:
            content = merge_list_json(tokenizer.read_bytes())
        self._ranked = RankedEngine(content)
        if self.kind == "hugging_face":
            self._stable = stable_characters()
        self.engine = self._ranked.name

    def _lines_to_correct(self, text: bytes) -> NDArray[np.int64]:
        """Numbers of the lines on which gigatoken may differ, ascending."""
        if self._stable is not None:
            codes = np.frombuffer(text.decode().encode("utf-32-le"), np.uint32)
            places = np.flatnonzero(~self._stable[codes])
            return np.unique(np.searchsorted(np.flatnonzero(codes == _LINE_FEED), places)) if len(places) else places
        if self.kind == "sentencepiece" and _MARK_BYTES in text:
            feeds = np.flatnonzero(np.frombuffer(text, np.uint8) == _LINE_FEED)
            return np.unique(np.searchsorted(feeds, _places(text, _MARK_BYTES)))
        return np.empty(0, np.int64)

    def _correct(
        self, text: bytes, others: NDArray[np.int64], ids: NDArray[Any], lengths: NDArray[np.int32]
    ) -> FlatIds:
        """Put the tokenizer's own ids in the place of those of some lines."""
        feeds = np.flatnonzero(np.frombuffer(text, np.uint8) == _LINE_FEED)
        starts = np.concatenate(([0], feeds + 1))
        ends = np.concatenate((feeds, [len(text)]))
        lines = [text[starts[i] : ends[i]].decode() for i in others]
        parts, taken = [], 0
        first_ids = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
        for place, found in zip(others, self.reference.encode(lines), strict=True):
            parts += [ids[taken : first_ids[place]], found]
            taken, lengths[place] = first_ids[place + 1], len(found)
        return np.concatenate([*parts, ids[taken:]]), lengths


def check_sample(encoder: Encoder, lines: Iterable[str]) -> int:
    """Compare an encoder with its tokenizer, line by line and id by id.

    Args:
        encoder: to be checked.
        lines: real ones, none empty, none with a line feed.

    Returns:
        Number of lines compared.

    Raises:
        MlcError: at the first line whose ids differ.
    """
    count, remaining = 0, iter(lines)
    while batch := list(islice(remaining, _COMPARED_AT_ONCE)):
        ids, lengths = encoder.encode_lines("\n".join(batch).encode())
        found = np.split(ids, np.cumsum(lengths)[:-1])
        if len(found) != len(batch):
            raise MlcError("the encoder lost lines", found=f"{len(found)} lines", needed=str(len(batch)))
        for line, got, needed in zip(batch, found, encoder.reference.encode(batch), strict=True):
            if not np.array_equal(got, needed):
                short = min(len(got), len(needed))
                place = next((i for i in range(short) if got[i] != needed[i]), short)
                raise MlcError(
                    f"{encoder.engine} parts from the tokenizer at token {place} of {line[:80]!r}",
                    found=str(got[place : place + 8].tolist()),
                    needed=str(needed[place : place + 8].tolist()),
                    where=f"line {count + 1} of the sample",
                    hint="please report this line and the tokenizer",
                )
            count += 1
    return count


def _flatten(found: Sequence[NDArray[Any]], dtype: np.dtype[Any]) -> FlatIds:
    lengths = np.fromiter(map(len, found), np.int32, len(found))
    return np.concatenate(found).astype(dtype, copy=False), lengths


def _places(text: bytes, wanted: bytes) -> NDArray[np.int64]:
    found, place = [], text.find(wanted)
    while place >= 0:
        found.append(place)
        place = text.find(wanted, place + 1)
    return np.array(found, np.int64)
