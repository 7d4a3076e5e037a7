"""Texts in a pattern with a blank, and the words that may fill it, as rows of a GLM.

In:  examples, patterns and verbalizers, a `PieceEncoder`.
Out: `ClozeRows`, which make the batches of `MlcGlmForCloze`.

Where all words of a language are one token each, an example is one row that ends with [sop], and a word's score is the
log probability of its token there (Du et al. 2022, section 2.3). Else an example is a row for every word: Part A, then
[sop] and the word; the score is the log probability of all its tokens and of [eop]. All words of a language are scored
alike. What [sop] predicts is computed once an example: it sees nothing of the word.

Texts are cut, the longer one first; a pattern never is. Pieces of a tokenizer begin with the space before a word, so a
space before the blank belongs to the word, as in training.
Letters: R examples, S rows of the model, L columns, N scored places, K words of an example, T tokens of a word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from mlc.data.text import clean_text
from mlc.errors import RecipeError
from mlc.tasks.examples import ClassificationExample
from mlc.tasks.features_batch import Array, TaskBatch, filled, padded, row_count, row_weights
from mlc.tasks.features_pieces import Ints, PieceEncoder, Progress, Ragged, SmallInts, kept_of_pair
from mlc.tasks.learned.cloze_settings import FIELDS, ClozeSection, ClozeTokens, PatternPart
from mlc.tasks.learned.cloze_words import WordScores, pieces_of, scored_words


@dataclass(frozen=True)
class ClozeRows:
    """Examples with a blank each; `tokenize_cloze` makes them.

    Attributes:
        part_a: ids of Part A, special tokens included.
        blanks: (n,) column of the blank.
        scored: words of each language.
        languages: (n,) which of `scored` an example has.
        tokens: ids with a role.
        pad_id: fills the end of a row.
        cut: examples of which something was cut off.
        labels: (n,) int64; None where they are not known.
    """

    part_a: Ragged
    blanks: Ints
    scored: tuple[WordScores, ...]
    languages: Ints
    tokens: ClozeTokens
    pad_id: int
    cut: int
    labels: Array | None = None

    def __len__(self) -> int:
        return len(self.part_a)

    @property
    def lengths(self) -> Ints:
        """Tokens of each example, over all its rows, (n,) int64."""
        found = np.zeros(len(self), np.int64)
        for number, words in enumerate(self.scored):
            own = self.languages == number
            found[own] = words.tokens(self.part_a.lengths[own])
        return found

    def with_labels(self, labels: Array) -> ClozeRows:
        """The same rows with classes, (n,)."""
        assert labels.shape == (len(self),), "one class an example"
        return replace(self, labels=labels)

    def batch(self, places: Sequence[int], *, rows: int | None = None) -> TaskBatch:
        """Examples as arrays.

        Args:
            places: of the examples.
            rows: R; examples of weight 0, without words, fill up. None = as many as `places`.

        Returns:
            inputs: arguments of `MlcGlmForCloze.forward`; targets: `weights` (R,), and `labels` (R,) where known.
        """
        count = row_count(len(places), rows)
        layout = _Layout(self)
        for example, place in enumerate(places):
            layout.add(example, place)
        targets: dict[str, Array] = {"weights": row_weights(len(places), count)}
        if self.labels is not None:
            targets["labels"] = filled(self.labels[list(places)], count)
        return TaskBatch(layout.inputs(count), targets)


class _Layout:
    """A batch that grows by an example at a time."""

    def __init__(self, rows: ClozeRows) -> None:
        self._rows = rows
        self._ids: list[Ints] = []
        self._part_a_lengths: list[int] = []
        self._positions: list[Ints] = []
        self._counts: list[Ints] = []
        self._places: list[tuple[int, int]] = []  # row and column of what is scored
        self._words: list[tuple[int, int, list[int], SmallInts, float, int]] = []

    def add(self, example: int, place: int) -> None:
        """Lay one example out."""
        rows = self._rows
        scored = rows.scored[int(rows.languages[place])]
        first = len(self._places)
        if not scored.has_end:
            self._row(place, rows.part_a[place][:0])
            self._places.append((len(self._ids) - 1, self._part_a_lengths[-1]))
        for number, (word, label) in enumerate(zip(scored.words, scored.labels, strict=True)):
            if not scored.has_end:
                self._words.append((example, number, [first], word, 1.0, label))
                continue
            self._row(place, word)
            start = self._part_a_lengths[-1]
            if number == 0:
                self._places.append((len(self._ids) - 1, start))  # [sop], the same for all words
            own = range(len(self._places), len(self._places) + len(word))
            self._places += [(len(self._ids) - 1, start + 1 + column) for column in range(len(word))]
            targets = np.append(word, np.int32(rows.tokens.end))
            weight = 1 / len(targets) if scored.length_normalised else 1.0
            self._words.append((example, number, [first, *own], targets, weight, label))

    def inputs(self, count: int) -> dict[str, Array]:
        """The model's arguments for `count` examples; there is always a row, and a scored place."""
        if not self._ids:
            self._ids, self._part_a_lengths, self._places = [np.array([self._rows.pad_id])], [1], [(0, 0)]
            self._positions = self._counts = [np.zeros(1, np.int64)]
        size = len(self._ids)
        input_ids = padded(self._ids, self._rows.pad_id, count=size)
        width = input_ids.shape[1]
        shape = (count, 1 + max((word[1] for word in self._words), default=0))
        tokens = (*shape, max((len(word[2]) for word in self._words), default=1))
        found = {
            "token_places": np.zeros(tokens, np.int64),
            "token_ids": np.zeros(tokens, np.int64),
            "token_weights": np.zeros(tokens, np.float64),
            "word_labels": np.full(shape, -1, np.int64),
        }
        for example, number, places, ids, weight, label in self._words:
            at = (example, number, slice(len(places)))
            found["token_places"][at], found["token_ids"][at], found["token_weights"][at] = places, ids, weight
            found["word_labels"][example, number] = label
        return {
            "input_ids": input_ids,
            "attention_mask": padded([np.ones(len(row), np.int64) for row in self._ids], 0, count=size),
            "part_a_lengths": np.array(self._part_a_lengths, np.int64),
            "position_ids": padded(self._positions, 0, count=size),
            "block_position_ids": padded(self._counts, 0, count=size),
            "logits_index": np.array([row * width + column for row, column in self._places], np.int64),
            **found,
        }

    def _row(self, place: int, word: SmallInts) -> None:
        rows = self._rows
        part_a, blank = rows.part_a[place].astype(np.int64), int(rows.blanks[place])
        size = 1 + len(word)
        self._ids.append(np.concatenate([part_a, [rows.tokens.start], word]).astype(np.int64))
        self._part_a_lengths.append(len(part_a))
        self._positions.append(np.append(np.arange(len(part_a)), np.full(size, blank)))
        self._counts.append(np.append(np.zeros(len(part_a), np.int64), np.arange(1, size + 1)))


def tokenize_cloze(
    encoder: PieceEncoder,
    examples: Sequence[ClassificationExample],
    section: ClozeSection,
    tokens: ClozeTokens,
    *,
    max_tokens: int,
    labels: Sequence[str],
    progress: Progress | None = None,
) -> ClozeRows:
    """Put examples into the patterns of their languages.

    Args:
        max_tokens: longest row, Part B and special tokens included.
        labels: classes in the order of the outputs; those of the verbalizer.
        progress: told how many examples are finished.

    Raises:
        RecipeError: see `scored_words`; or a pattern leaves no room for a text.
    """
    part_a: list[SmallInts] = [np.empty(0, np.int32)] * len(examples)
    blanks, numbers = np.zeros(len(examples), np.int64), np.zeros(len(examples), np.int64)
    scored: list[WordScores] = []
    cut = 0
    for number, language in enumerate(sorted({example.place.language for example in examples})):
        own = [place for place, example in enumerate(examples) if example.place.language == language]
        form = TokenisedPattern.of(encoder, section, language, labels, max_tokens)
        for place, (ids, blank, is_cut) in zip(
            own, form.fill(encoder, [examples[place] for place in own], tokens.blank), strict=True
        ):
            part_a[place], blanks[place], numbers[place] = ids, blank, number
            cut += is_cut
        scored.append(form.words)
        if progress is not None:
            progress(len(own))
    return ClozeRows(Ragged.of(part_a), blanks, tuple(scored), numbers, tokens, encoder.pad_id, cut)


@dataclass(frozen=True)
class TokenisedPattern:
    """A language's pattern and words as tokens.

    Attributes:
        parts: of the pattern.
        literals: ids of its literals, in their order.
        words: that may fill the blank.
        room: tokens that the texts may have together.
    """

    parts: tuple[PatternPart, ...]
    literals: tuple[SmallInts, ...]
    words: WordScores
    room: int

    @classmethod
    def of(
        cls, encoder: PieceEncoder, section: ClozeSection, language: str, labels: Sequence[str], max_tokens: int
    ) -> Self:
        """Tokenise; no example is needed.

        Raises:
            RecipeError: see `scored_words`; or there is no room for a token of each text.
        """
        parts, _ = section.wording(language)
        words = scored_words(encoder, section, language, labels)
        literals = tuple(pieces_of(encoder, [part.text], part.begin)[0] for part in parts if part.kind == "literal")
        taken = encoder.single.size + sum(map(len, literals)) + 1 + words.part_b_tokens
        fields = sum(part.kind in FIELDS for part in parts)
        if max_tokens < taken + fields:
            raise RecipeError(
                "the pattern leaves no room for text",
                found=f"{taken} tokens of pattern, blank, word and special ones; max_tokens = {max_tokens}",
                needed=f"max_tokens >= {taken + fields}",
                where=section.where(language, "pattern"),
            )
        return cls(parts, literals, words, max_tokens - taken)

    def fill(
        self, encoder: PieceEncoder, examples: Sequence[ClassificationExample], blank: int
    ) -> list[tuple[SmallInts, int, bool]]:
        """Part A of each example, the column of its blank, and whether a text was cut."""
        fields = [part for part in self.parts if part.kind in FIELDS]
        texts = [pieces_of(encoder, [_text(example, part) for example in examples], part.begin) for part in fields]
        whole = [np.array([len(ids) for ids in own], np.int64) for own in texts]
        if len(fields) == 1:
            kept = [np.minimum(whole[0], self.room)]
        else:
            kept = list(kept_of_pair(whole[0], whole[1], self.room))
        found = []
        for number in range(len(examples)):
            shown = {
                part.kind: own[number][: lengths[number]]
                for part, own, lengths in zip(fields, texts, kept, strict=True)
            }
            is_cut = any(lengths[number] < all_of[number] for lengths, all_of in zip(kept, whole, strict=True))
            found.append((*self._row(encoder, shown, blank), is_cut))
        return found

    def _row(self, encoder: PieceEncoder, shown: Mapping[str, SmallInts], blank: int) -> tuple[SmallInts, int]:
        literals = iter(self.literals)
        pieces: list[SmallInts] = []
        column = 0
        for part in self.parts:
            if part.kind == "blank":
                column = encoder.single.text_start() + sum(map(len, pieces))
                pieces.append(np.array([blank], np.int32))
            else:
                pieces.append(next(literals) if part.kind == "literal" else shown[part.kind])
        return encoder.single.ids(np.concatenate(pieces)).astype(np.int32), column


def _text(example: ClassificationExample, part: PatternPart) -> str:
    text = example.text if part.kind == "text" else example.text_pair
    assert text is not None, "checked against the pattern"
    return clean_text(text)
