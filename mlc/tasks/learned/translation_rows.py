"""Rows of translation: for an encoder with a decoder beside it, and for Part A and Part B of the GLM.

In:  examples, a `PieceEncoder`.
Out: rows as the models take them, while they learn (the decoder reads the gold translation) and while they write.
Letters: R rows, L columns, T columns of targets, N places to predict.

Every source begins with the tag of the language to write. Encoder and decoder:

    encoder   [CLS] <2en> source [SEP]          decoder   start, target    ->    target, end

Part A and Part B, laid out as pre-training lays out a text whose end is blank (mlc.data.corruption; with joined views
it is [CLS] text [SEP] [gMASK] [SEP] where the whole second view is the blank):

    [CLS] <2en> source [SEP] [gMASK] [SEP]      [sop] target             ->    target, [eop]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from mlc.errors import DataError, UsageError
from mlc.tasks.examples import TranslationExample
from mlc.tasks.features import TextFeatures
from mlc.tasks.features_batch import Array, TaskBatch, padded, padded_inputs, row_count
from mlc.tasks.features_pieces import Ints, PieceEncoder, Progress
from mlc.tasks.features_translation import TranslationRows, tokenize_translations
from mlc.tasks.learned.translation_settings import TranslationSettings, tag

BLANK, START, END = "[gMASK]", "[sop]", "[eop]"
_BEHIND_SOURCE = 2
"""[gMASK] and [SEP]."""


@dataclass(frozen=True)
class Boundaries:
    """Ids with a role in what is written.

    Attributes:
        start, end: before and behind a translation.
        blank: [gMASK]; -1 where there is none.
        separator: [SEP] or its like.
        pad: fills rows.
    """

    start: int
    end: int
    blank: int
    separator: int
    pad: int


class WritableRows(Protocol):
    """Rows whose translations a model can write; both kinds below."""

    @property
    def inner(self) -> TranslationRows:
        """Sources and targets."""
        ...

    @property
    def encoder(self) -> PieceEncoder:
        """The tokenizer."""
        ...

    @property
    def ids(self) -> Boundaries:
        """Ids with a role."""
        ...

    def begun(self, places: Sequence[int], written: Sequence[Ints]) -> tuple[dict[str, Array], Ints]:
        """Inputs of rows whose translations were begun, and the place of the next token in the flat logits."""
        ...


@dataclass(frozen=True)
class _Rows:
    """What both kinds of rows share.

    Attributes:
        inner: sources with their tags, and targets.
        encoder: the tokenizer.
        ids: with a role.
    """

    inner: TranslationRows
    encoder: PieceEncoder
    ids: Boundaries

    def __len__(self) -> int:
        return len(self.inner)

    @property
    def lengths(self) -> Ints:
        """Tokens of each row, source and target together, (n,) int64."""
        return self.inner.lengths

    @property
    def cut(self) -> int:
        """Sources that lost their end."""
        return self.inner.sources.cut

    def targets(self, places: Sequence[int]) -> list[Ints]:
        """What is to be written, the end token included; nothing where it is not known."""
        found = [self.inner[place].target_ids for place in places]
        return [np.empty(0, np.int64) if row is None else row for row in found]


@dataclass(frozen=True)
class EncoderDecoderRows(_Rows):
    """Sources for the encoder; targets, shifted by one, for the decoder."""

    def batch(self, places: Sequence[int], *, rows: int | None = None) -> TaskBatch:
        """Rows as arrays.

        Returns:
            inputs with `decoder_input_ids` (R, T); targets `labels` and `weights` (R, T).
        """
        count, targets = row_count(len(places), rows), self.targets(places)
        inputs = dict(self.inner.sources.batch(places, rows=rows).inputs)
        inputs["decoder_input_ids"] = padded(
            [np.concatenate([[self.ids.start], row[:-1]]) for row in targets], self.ids.pad, count=count
        )
        return TaskBatch(
            inputs,
            {
                "labels": padded(targets, self.ids.pad, count=count),
                "weights": padded([np.ones(len(row)) for row in targets], 0, count=count, dtype=np.float32),
            },
        )

    def begun(self, places: Sequence[int], written: Sequence[Ints]) -> tuple[dict[str, Array], Ints]:
        """Inputs of rows whose translations were begun, and the place of the next token in the flat (R * T) logits."""
        inputs = dict(self.inner.sources.batch(places).inputs)
        ids = padded([np.concatenate([[self.ids.start], row]) for row in written], self.ids.pad, count=len(places))
        inputs["decoder_input_ids"] = ids
        last = np.array([len(row) for row in written], dtype=np.int64)
        return inputs, np.arange(len(places)) * ids.shape[1] + last


@dataclass(frozen=True)
class PartBRows(_Rows):
    """Part A and Part B in one row."""

    @property
    def lengths(self) -> Ints:
        """Tokens of each row, Part A and Part B together, (n,) int64."""
        lengths: Ints = self.inner.lengths + _BEHIND_SOURCE
        return lengths

    def part_a(self, features: TextFeatures) -> Ints:
        """A source with the blank behind it."""
        return np.concatenate([features.ids, [self.ids.blank, self.ids.separator]])

    def batch(self, places: Sequence[int], *, rows: int | None = None) -> TaskBatch:
        """Rows as arrays.

        Returns:
            inputs of `MlcGlmForBlankInfilling`, with `logits_index` (N,), the places of Part B; targets `labels` and
            `weights` (N,). N is never 0: a place of weight 0 stands where there is none.
        """
        count, targets = row_count(len(places), rows), self.targets(places)
        inputs = self._inputs(places, [row[:-1] for row in targets], count, known=self.inner.targets is not None)
        labels = np.concatenate(targets) if targets else np.empty(0, np.int64)
        if not len(labels):
            return TaskBatch(inputs, {"labels": np.zeros(1, np.int64), "weights": np.zeros(1, np.float32)})
        return TaskBatch(inputs, {"labels": labels, "weights": np.ones(len(labels), np.float32)})

    def begun(self, places: Sequence[int], written: Sequence[Ints]) -> tuple[dict[str, Array], Ints]:
        """Inputs of rows whose translations were begun, and which of the logits is that of the next token."""
        inputs = self._inputs(places, written, len(places), known=True)
        ends: Ints = np.cumsum([len(row) + 1 for row in written]) - 1
        return {**inputs, "logits_index": inputs["logits_index"][ends]}, np.arange(len(places))

    def _inputs(self, places: Sequence[int], written: Sequence[Ints], count: int, *, known: bool) -> dict[str, Array]:
        firsts = [self.part_a(self.inner[place].source) for place in places]
        seconds = [np.concatenate([[self.ids.start], row]) if known else np.empty(0, np.int64) for row in written]
        pairs = list(zip(firsts, seconds, strict=True))
        inputs: dict[str, Array] = padded_inputs(
            [np.concatenate(pair).astype(np.int64) for pair in pairs], None, pad_id=self.ids.pad, count=count
        )
        width = inputs["input_ids"].shape[1]
        lengths = np.ones(count, np.int64)
        lengths[: len(firsts)] = [len(first) for first in firsts]
        position = [np.concatenate([np.arange(len(a)), np.full(len(b), len(a) - _BEHIND_SOURCE)]) for a, b in pairs]
        block = [np.concatenate([np.zeros(len(a), np.int64), np.arange(1, len(b) + 1)]) for a, b in pairs]
        index = [row * width + len(a) + np.arange(len(b)) for row, (a, b) in enumerate(pairs)]
        flat = np.concatenate([*index, np.empty(0, np.int64)]).astype(np.int64)
        return {
            **inputs,
            "part_a_lengths": lengths,
            "position_ids": padded(position, 0, count=count),
            "block_position_ids": padded(block, 0, count=count),
            "logits_index": flat if len(flat) else np.zeros(1, np.int64),
        }


def encoder_decoder_rows(
    encoder: PieceEncoder,
    examples: Sequence[TranslationExample],
    settings: TranslationSettings,
    *,
    max_tokens: int,
    progress: Progress | None = None,
) -> EncoderDecoderRows:
    """Tokenise for an encoder with a decoder beside it; see `_tokenised` for errors."""
    return EncoderDecoderRows(*_tokenised(encoder, examples, settings, max_tokens, progress, boundaries(encoder)))


def part_b_rows(
    encoder: PieceEncoder,
    examples: Sequence[TranslationExample],
    settings: TranslationSettings,
    *,
    max_tokens: int,
    progress: Progress | None = None,
) -> PartBRows:
    """Tokenise for the GLM; see `_tokenised` for errors."""
    ids = boundaries(encoder)
    if ids.blank < 0:
        raise UsageError(
            "the tokenizer has no tokens of Part B", needed=f"{BLANK}, {START}, {END}", where="translation.decoder",
            hint='translation.decoder = "encoder_decoder" works with any encoder',
        )  # fmt: skip
    return PartBRows(*_tokenised(encoder, examples, settings, max_tokens - _BEHIND_SOURCE, progress, ids))


def boundaries(encoder: PieceEncoder) -> Boundaries:
    """[sop] and [eop] of a GLM's tokenizer; else the tokens that begin and end a text.

    Raises:
        UsageError: the tokenizer has none of them.
    """
    tokenizer = encoder.tokenizer
    known = {token: tokenizer.backend_tokenizer.token_to_id(token) for token in (BLANK, START, END)}
    separator = _first(tokenizer.sep_token_id, tokenizer.eos_token_id)
    start, end, blank = known[START], known[END], known[BLANK]
    if start is None or end is None or blank is None:
        start, end, blank = _first(tokenizer.bos_token_id, tokenizer.cls_token_id), separator, -1
    if start is None or end is None or separator is None:
        raise UsageError(
            "the tokenizer has no tokens that begin and end a text", found=f"start {start}, end {end}",
            needed="[CLS] and [SEP], or <s> and </s>",
        )  # fmt: skip
    return Boundaries(start, end, blank, separator, encoder.pad_id)


def _tokenised(
    encoder: PieceEncoder,
    examples: Sequence[TranslationExample],
    settings: TranslationSettings,
    max_source_tokens: int,
    progress: Progress | None,
    ids: Boundaries,
) -> tuple[TranslationRows, PieceEncoder, Boundaries]:
    """Sources with their tags, and targets.

    Raises:
        UsageError: two languages have the same tag in this tokenizer, or a length leaves no room.
        DataError: some examples have a target and others none.
    """
    languages = sorted({*settings.targets, *(example.target_language for example in examples)})
    tags = encoder.encode([tag(language) for language in languages])
    seen: dict[tuple[int, ...], str] = {}
    for number, language in enumerate(languages):
        other = seen.setdefault(tuple(tags[number].tolist()), language)
        if other != language:
            raise UsageError(
                "the tokenizer cannot tell two languages apart", found=f"{tag(other)} and {tag(language)} have one id",
                needed="a tokenizer that knows these letters",
            )  # fmt: skip
    longest = max((len(tags[number]) for number in range(len(languages))), default=0)
    if max_source_tokens <= longest + encoder.single.size:
        raise UsageError(
            "max_tokens leaves no room for text", found=max_source_tokens,
            needed=f"more than {longest + encoder.single.size}, with the tag of the language", where="data.max_tokens",
        )  # fmt: skip
    tagged = [replace(example, source=f"{tag(example.target_language)} {example.source}") for example in examples]
    inner = tokenize_translations(
        encoder,
        encoder,
        tagged,
        start_id=ids.start,
        end_id=ids.end,
        max_tokens=max_source_tokens,
        max_target_tokens=settings.max_target_tokens,
        progress=progress,
    )
    if inner.targets is not None:
        empty = np.flatnonzero(inner.targets.lengths[inner.target_of] == 0)
        if len(empty):
            raise DataError("a translation has no tokens", where=str(examples[int(empty[0])].place))
    return inner, encoder, ids


def _first(*found: int | None) -> int | None:
    return next((number for number in found if number is not None), None)
