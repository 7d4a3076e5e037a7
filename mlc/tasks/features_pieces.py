"""Texts to token ids without special tokens, many at a time and compact; and where special tokens stand around them.

In:  a fast tokenizer (mlc.tasks.fast_tokenizer_of) and strings.
Out: `Ragged` arrays of ids; `Template`s that put them together as the tokenizer does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mlc.errors import MlcError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Ints = NDArray[np.int64]
SmallInts = NDArray[np.int32]
Progress = Callable[[int], object]
"""Called with the number of texts finished since the last call."""

TEXTS_PER_CALL = 4096
_NO_LIMIT = 10**6  # transformers writes 1e30 where a tokenizer states no limit
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths, one behind another.

    Attributes:
        values: (all lengths,) int32.
        starts: (rows + 1,) int64; row k is values[starts[k]:starts[k + 1]].
    """

    values: SmallInts
    starts: Ints

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> SmallInts:
        return self.values[self.starts[row] : self.starts[row + 1]]

    @property
    def lengths(self) -> Ints:
        """(rows,) int64."""
        return np.diff(self.starts)

    @classmethod
    def of(cls, rows: Iterable[Sequence[int] | SmallInts]) -> Ragged:
        """Put rows one behind another."""
        parts = [np.asarray(row, dtype=np.int32) for row in rows]
        values = np.concatenate(parts) if parts else np.empty(0, np.int32)
        return cls(values, _starts([len(part) for part in parts]))


@dataclass(frozen=True)
class Template:
    """Special tokens around one text, or around and between two; and the type ids of each part.

    Attributes:
        parts: ids before, between and after the texts: 2 parts for one text, 3 for two.
        part_types: type id of every id of `parts`.
        text_types: type id of the first text, and of the second.
    """

    parts: tuple[SmallInts, ...]
    part_types: tuple[SmallInts, ...]
    text_types: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of special tokens."""
        return sum(map(len, self.parts))

    def ids(self, *texts: SmallInts) -> Ints:
        """All ids of a row."""
        return _interleaved(self.parts, texts)

    def type_ids(self, *lengths: int) -> Ints:
        """All type ids of a row whose texts have these lengths."""
        types = [np.full(length, kind, np.int32) for length, kind in zip(lengths, self.text_types, strict=True)]
        return _interleaved(self.part_types, types)

    def text_start(self, *lengths_before: int) -> int:
        """Place in the row at which a text begins, after texts of these lengths."""
        return sum(map(len, self.parts[: len(lengths_before) + 1])) + sum(lengths_before)


class PieceEncoder:
    """A fast tokenizer, seen as pieces of plain text and templates.

    Attributes:
        tokenizer: of transformers.
        pad_id: fills the end of a row; 0 where the tokenizer has no such token (the attention mask hides it).
        unknown_id: stands for a word of which the tokenizer leaves nothing.
        has_type_ids: whether the model takes token_type_ids.
        single, pair: templates of one and two texts.

    Raises:
        MlcError: the tokenizer puts special tokens elsewhere than before, between and after texts.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.pad_id = int(_first_known(tokenizer.pad_token_id, 0))
        self.unknown_id = int(_first_known(tokenizer.unk_token_id, self.pad_id))
        self.has_type_ids = "token_type_ids" in tokenizer.model_input_names
        backend = self._backend()
        self.single = _template(backend, "a")
        self.pair = _template(backend, "a", "b")

    def room(self, template: Template, max_tokens: int | None) -> int:
        """Tokens that text may have beside special ones, in the longest input.

        Args:
            template: of one text or two.
            max_tokens: longest input; None = the tokenizer's own.

        Raises:
            UsageError: there is no room for a token of each text, or the tokenizer states no longest input.
        """
        limit = max_tokens or self.tokenizer.model_max_length
        if limit > _NO_LIMIT:
            raise UsageError("the tokenizer states no longest input", needed="max_tokens", where="max_tokens")
        fewest = template.size + len(template.text_types)
        if limit < fewest:
            needed = f"{fewest} or more: {template.size} tokens are special ones"
            raise UsageError("max_tokens leaves no room for text", found=limit, needed=needed, where="max_tokens")
        return int(limit) - template.size

    def encode(self, texts: Sequence[str], progress: Progress | None = None) -> Ragged:
        """Ids of texts, without special tokens, whole.

        Args:
            texts: any; halves of surrogate pairs are left out.
            progress: called after every 4,096 texts.
        """
        backend, values, lengths = self._backend(), [], list[int]()
        for chunk in _chunks(texts):
            found = backend.encode_batch_fast(list(map(encodable, chunk)), add_special_tokens=False)
            rows = [encoding.ids for encoding in found]
            lengths += map(len, rows)
            values.append(_flat(rows, sum(map(len, rows))))
            if progress is not None:
                progress(len(chunk))
        return Ragged(np.concatenate(values) if values else np.empty(0, np.int32), _starts(lengths))

    def encode_with_places(
        self, texts: Sequence[str], progress: Progress | None = None
    ) -> tuple[Ragged, SmallInts, SmallInts]:
        """Ids of texts, and which characters of the original text each stands for.

        Returns:
            Ids; first characters and ends, flat like `Ragged.values`. What the tokenizer drops or composes (an accent
            of its own, a control character) belongs to the token before it: a token ends where the next one begins.
        """
        backend, values, places, lengths = self._backend(), [], [], list[int]()
        for chunk in _chunks(texts):
            encodings = backend.encode_batch(list(map(encodable, chunk)), add_special_tokens=False)
            for text, found in zip(chunk, encodings, strict=True):
                values.append(np.asarray(found.ids, dtype=np.int32))
                places.append(_places(found.offsets, len(text)))
                lengths.append(len(found.ids))
            if progress is not None:
                progress(len(chunk))
        both = np.concatenate(places) if places else np.empty((0, 2), np.int32)
        ids = Ragged(np.concatenate(values) if values else np.empty(0, np.int32), _starts(lengths))
        return ids, np.ascontiguousarray(both[:, 0]), np.ascontiguousarray(both[:, 1])

    def _backend(self) -> Any:
        """The tokenizer of `tokenizers`, with nothing cut or padded; transformers sets it anew at each call."""
        backend = self.tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = self.tokenizer.split_special_tokens
        return backend


def encodable(text: str) -> str:
    """The text with a control character for each half of a surrogate pair, which is no character: places stay."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return _SURROGATES.sub("\x01", text)
    return text


def distinct(texts: Iterable[str]) -> tuple[list[str], SmallInts]:
    """Texts without repetitions, in order of first appearance, and which of them stands at each place."""
    number: dict[str, int] = {}
    places = [number.setdefault(text, len(number)) for text in texts]
    return list(number), np.asarray(places, dtype=np.int32)


def kept_of_pair(first: Ints, second: Ints, room: int) -> tuple[Ints, Ints]:
    """How many tokens of two texts stay where the longer one is cut first, as tokenizers' "longest_first" does.

    Args:
        first, second: (n,) tokens of either text.
        room: tokens that both together may have.
    """
    shorter, longer = np.minimum(first, second), np.maximum(first, second)
    longer_kept = np.where(shorter > room, shorter, np.maximum(shorter, room - shorter))
    longer_kept = np.minimum(longer_kept, longer)
    both_cut = shorter + longer_kept > room
    shorter_kept = np.where(both_cut, room // 2, shorter)
    longer_kept = np.where(both_cut, room - room // 2, longer_kept)
    swapped = first > second
    return np.where(swapped, longer_kept, shorter_kept), np.where(swapped, shorter_kept, longer_kept)


def _template(backend: Any, *texts: str) -> Template:
    found = backend.encode(*texts, add_special_tokens=True)
    plain = [np.asarray(backend.encode(text, add_special_tokens=False).ids, dtype=np.int32) for text in texts]
    ids, types = np.asarray(found.ids, dtype=np.int32), np.asarray(found.type_ids, dtype=np.int32)
    own = np.asarray(found.sequence_ids, dtype=object)
    starts = [int(np.flatnonzero(own == number)[0]) for number in range(len(texts)) if (own == number).any()]
    if len(starts) == len(texts):
        ends = [start + len(pieces) for start, pieces in zip(starts, plain, strict=True)]
        edges = list(zip([0, *ends], [*starts, len(ids)], strict=True))
        template = Template(
            tuple(ids[start:end] for start, end in edges),
            tuple(types[start:end] for start, end in edges),
            tuple(int(types[start]) for start in starts),
        )
        if np.array_equal(template.ids(*plain), ids) and np.array_equal(template.type_ids(*map(len, plain)), types):
            return template
    raise MlcError(
        "the tokenizer puts special tokens where they cannot be told from text",
        found=f"{found.tokens} for {' and '.join(map(repr, texts))}",
        needed="special tokens before, between and after texts",
    )


def _interleaved(parts: Sequence[SmallInts], texts: Sequence[SmallInts]) -> Ints:
    row = [piece for pair in zip(parts, [*texts, parts[0][:0]], strict=True) for piece in pair]
    return np.concatenate(row).astype(np.int64)


def _places(offsets: Sequence[tuple[int, int]], length: int) -> SmallInts:
    places = np.asarray(offsets, dtype=np.int32).reshape(-1, 2)
    if len(places):
        places[:, 1] = np.maximum(places[:, 1], [*places[1:, 0], length])
    return places


def _starts(lengths: Sequence[int]) -> Ints:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)


def _flat(rows: Sequence[Sequence[int]], count: int) -> SmallInts:
    return np.fromiter(chain.from_iterable(rows), dtype=np.int32, count=count)


def _chunks(texts: Sequence[str]) -> Iterable[Sequence[str]]:
    return (texts[start : start + TEXTS_PER_CALL] for start in range(0, len(texts), TEXTS_PER_CALL))


def _first_known(found: int | None, otherwise: int) -> int:
    return otherwise if found is None else found
