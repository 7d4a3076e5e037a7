"""A text and its translation, for models with an encoder and a decoder.

In:  examples (mlc.tasks.examples.TranslationExample), a `PieceEncoder` of the source and one of the target.
Out: `TranslationRows`: sources as the encoder takes them; targets shifted by one, for teacher forcing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlc.errors import DataError, UsageError
from mlc.tasks.examples import TranslationExample
from mlc.tasks.features import TextFeatures, TextRows, tokenize_texts
from mlc.tasks.features_batch import Array, TaskBatch, padded, row_count
from mlc.tasks.features_pieces import Ints, PieceEncoder, Progress, Ragged, distinct


@dataclass(frozen=True, slots=True)
class TranslationFeatures:
    """A pair as the model takes it.

    Attributes:
        source: ids and type ids.
        target_ids: (T,) int64, the end token behind them; None where the translation is not known.
    """

    source: TextFeatures
    target_ids: Ints | None


@dataclass(frozen=True)
class TranslationRows:
    """Pairs of texts; `tokenize_translations` makes them.

    Attributes:
        sources: the source texts.
        targets: ids of every different target, whole, without special tokens; None where they are not known.
        target_of: (n,) int32: which of them a row has.
        target_room: tokens of a target that stay, the end token not counted.
        start_id, end_id: what the decoder begins with, and what it ends with.
        target_pad_id: fills the end of a target.
        cut_targets: targets that were cut; they have no end token, so that nothing is learned that is not so.
    """

    sources: TextRows
    targets: Ragged | None
    target_of: Ints
    target_room: int
    start_id: int
    end_id: int
    target_pad_id: int
    cut_targets: int

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def lengths(self) -> Ints:
        """Tokens of each row, source and target together, (n,) int64."""
        if self.targets is None:
            return self.sources.lengths
        whole = self.targets.lengths[self.target_of]
        lengths: Ints = self.sources.lengths + np.minimum(whole, self.target_room) + (whole <= self.target_room)
        return lengths

    def __getitem__(self, row: int) -> TranslationFeatures:
        if self.targets is None:
            return TranslationFeatures(self.sources[row], None)
        pieces = self.targets[int(self.target_of[row])].astype(np.int64)
        ended = np.append(pieces, self.end_id) if len(pieces) <= self.target_room else pieces[: self.target_room]
        return TranslationFeatures(self.sources[row], ended)

    def batch(self, places: Sequence[int], *, rows: int | None = None) -> TaskBatch:
        """Rows as arrays.

        Args:
            places: of the rows.
            rows: R; rows of weight 0 fill up. None = as many as `places`.

        Returns:
            targets, where translations are known: `decoder_input_ids` (R, T): the start token and the target but its
            last token; `labels` (R, T): the target; `weights` (R, T): 1 where there is one. Else `weights` (R,).
        """
        count = row_count(len(places), rows)
        source = self.sources.batch(places, rows=rows)
        if self.targets is None:
            return source
        found = [self[place].target_ids for place in places]
        ids = [row for row in found if row is not None]
        shifted = [np.concatenate([[self.start_id], row[:-1]]) for row in ids]
        targets: dict[str, Array] = {
            "decoder_input_ids": padded(shifted, self.target_pad_id, count=count),
            "labels": padded(ids, self.target_pad_id, count=count),
            "weights": padded([np.ones(len(row)) for row in ids], 0, count=count, dtype=np.float32),
        }
        return TaskBatch(source.inputs, targets)


def tokenize_translations(
    source_encoder: PieceEncoder,
    target_encoder: PieceEncoder,
    examples: Sequence[TranslationExample],
    *,
    start_id: int,
    end_id: int,
    max_tokens: int | None = None,
    max_target_tokens: int | None = None,
    progress: Progress | None = None,
) -> TranslationRows:
    """Make rows of pairs; every different text is tokenised once.

    Args:
        source_encoder, target_encoder: the same one for one vocabulary.
        examples: with targets in all of them, or in none.
        start_id, end_id: what the decoder begins and ends with: [sop] and [eop] of the GLM, else as the model states.
        max_tokens: longest source, special tokens included; None = the tokenizer's.
        max_target_tokens: longest target, start or end token included; None = the tokenizer's.
        progress: told how many different texts were tokenised.

    Raises:
        DataError: some examples have a target and others none.
        UsageError: a length leaves no room.
    """
    known = [example.target is not None for example in examples]
    if any(known) and not all(known):
        where = str(examples[known.index(False)].place)
        raise DataError("some examples have no translation", needed="a target on every line, or on none", where=where)
    if max_target_tokens is not None and max_target_tokens < 2:
        raise UsageError("max_target_tokens is too small", found=max_target_tokens, needed="2 or more")
    sources = tokenize_texts(
        source_encoder, [example.source for example in examples], max_tokens=max_tokens, progress=progress
    )
    different, places = distinct(example.target for example in examples if example.target is not None)
    targets = target_encoder.encode(different, progress) if any(known) else None
    single = target_encoder.single
    room = (max_target_tokens or target_encoder.room(single, None) + single.size) - 1
    return TranslationRows(
        sources=sources,
        targets=targets,
        target_of=places.astype(np.int64),
        target_room=room,
        start_id=start_id,
        end_id=end_id,
        target_pad_id=target_encoder.pad_id,
        cut_targets=0 if targets is None else int((targets.lengths[places] > room).sum()),
    )
