"""Texts to token ids, the way the model was trained on them: [CLS] text [SEP].

In:  strings.
Out: `TokenizedTexts`: ids, cut to the model's longest input, and how many texts were cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mlc.data.manifest import TokenizerKind
from mlc.data.text import clean_text
from mlc.data.tokenizer_json import open_tokenizer_json
from mlc.errors import CheckpointError, MlcError
from mlc.model.build import POSITIONS_BEFORE_FIRST

_NO_LIMIT = 10**6  # transformers writes 1e30 where a tokenizer states no limit
_GUESSED_LIMIT = 512  # where nothing is stated; more may be asked for


PlainEncoder = Callable[[Sequence[str]], list[list[int]]]
"""Ids of each text, without special tokens."""


@dataclass(frozen=True)
class TokenizedTexts:
    """Token ids of each text, special tokens included; `cut`: texts that were longer than the limit."""

    ids: list[list[int]]
    cut: int


class TextTokenizer(Protocol):
    """What `TextEncoder` needs of a tokenizer."""

    @property
    def max_tokens(self) -> int:
        """Longest input in tokens, special tokens included."""
        ...

    @property
    def pad_id(self) -> int:
        """Fills the end of a row."""
        ...

    def tokenize(self, texts: Sequence[str]) -> TokenizedTexts:
        """Encode and cut."""
        ...


class RunTokenizer:
    """The tokenizer of a run's shards, between [CLS] and [SEP].

    Args:
        file: what makes the ids: tokenizer.model or tokenizer.json.
        kind: as in the shards' manifest.
        special_ids: as there.
        max_tokens: longest input, [CLS] and [SEP] included.

    Raises:
        CheckpointError: the file is missing or cannot be read.
    """

    def __init__(self, file: Path, kind: TokenizerKind, special_ids: Mapping[str, int], max_tokens: int) -> None:
        self._encode = plain_encoder(file, kind)
        self.max_tokens = max_tokens
        self.pad_id = special_ids["[PAD]"]
        self._begin, self._end = special_ids["[CLS]"], special_ids["[SEP]"]

    def tokenize(self, texts: Sequence[str]) -> TokenizedTexts:
        """Clean as the shards were, encode, keep the first `max_tokens - 2` pieces, add [CLS] and [SEP]."""
        room = self.max_tokens - 2
        pieces = self._encode([clean_text(text) for text in texts])
        ids = [[self._begin, *plain[:room], self._end] for plain in pieces]
        return TokenizedTexts(ids, sum(len(plain) > room for plain in pieces))


class HuggingFaceTokenizer:
    """The tokenizer of a Hugging Face model, with the special tokens and the truncation it defines itself.

    Args:
        name: folder or hub name.
        config: the model's configuration; it may bound the positions more tightly than the tokenizer says.
        max_tokens: a lower limit than the model's, or None.

    Raises:
        MlcError: there is no tokenizer.
    """

    def __init__(self, name: str, config: Any, max_tokens: int | None) -> None:
        from transformers import AutoTokenizer

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise MlcError("the model's tokenizer cannot be loaded", found=_first_line(error), where=name) from None
        stated = min(position_limit(config), self._tokenizer.model_max_length)
        check_length(max_tokens, stated, name)
        self.max_tokens = max_tokens or (stated if stated < _NO_LIMIT else _GUESSED_LIMIT)
        self.pad_id = self._tokenizer.pad_token_id or 0

    def tokenize(self, texts: Sequence[str]) -> TokenizedTexts:
        """Encode with the model's special tokens; what is too long is encoded again with its truncation."""
        whole = self._tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        long = [place for place, ids in enumerate(whole) if len(ids) > self.max_tokens]
        ids = [list(row) for row in whole]
        if long:
            cut = self._tokenizer([texts[i] for i in long], truncation=True, max_length=self.max_tokens)["input_ids"]
            for place, row in zip(long, cut, strict=True):
                ids[place] = list(row)
        return TokenizedTexts(ids, len(long))


def plain_encoder(file: Path, kind: TokenizerKind) -> PlainEncoder:
    """How the shards were encoded: text that spells a special token is text.

    Args:
        file: tokenizer.model or tokenizer.json.
        kind: which of them.

    Raises:
        CheckpointError: the file is missing or cannot be read.
    """
    if not file.is_file():
        raise CheckpointError("the tokenizer is missing", needed=f"the run's {file.name}", where=str(file))
    return _tokenizer_json(file) if kind == "hugging_face" else _sentencepiece(file)


def _sentencepiece(file: Path) -> PlainEncoder:
    from sentencepiece import SentencePieceProcessor

    try:
        pieces: Any = SentencePieceProcessor(model_file=str(file))
    except (OSError, RuntimeError) as error:
        raise CheckpointError("this is no SentencePiece model", found=str(error), where=str(file)) from None
    return lambda texts: pieces.encode(list(texts))  # type: ignore[no-any-return]


def _tokenizer_json(file: Path) -> PlainEncoder:
    try:
        tokenizer: Any = open_tokenizer_json(file.read_text(encoding="utf-8"))
    except Exception as error:  # tokenizers raises Exception itself
        raise CheckpointError("this is no tokenizer.json", found=str(error), where=str(file)) from None
    return lambda texts: [found.ids for found in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]


def check_length(max_tokens: int | None, stated: int, where: str) -> None:
    """Refuse a longest input above what the model states that it takes.

    Raises:
        MlcError: it is.
    """
    if max_tokens is not None and max_tokens > stated:
        raise MlcError("max_tokens is more than the model takes", found=max_tokens, needed=f"<= {stated}", where=where)


def position_limit(config: Any) -> int:
    """Tokens that the encoder's table of positions holds, by its configuration; a million where it states none."""
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return _NO_LIMIT
    # RoBERTa's family counts positions from pad_token_id + 1, so its table of 514 holds 512 tokens.
    offset = (config.pad_token_id or 0) + 1 if config.model_type in POSITIONS_BEFORE_FIRST else 0
    return positions - offset


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
