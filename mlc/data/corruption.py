"""Corruption of one text for the token objectives: GLM blanks and MLM masks.

In:  the tokens of a text, a random generator of its own, and the recipe's settings.
Out: Part A (what the encoder sees, [CLS] ... [SEP]), Part B (the blanked spans to be generated), and MLM targets.

Part A is the text with one [MASK], [sMASK] or [gMASK] for each blanked span; Part B holds the spans in shuffled order,
each entered through [sop] and left through [eop]. Position 1 is the place in Part A (every Part B token carries its
blank's place); position 2 is 0 in Part A and 1, 2, ... within a span of Part B (Du et al. 2022, "GLM", section 2.1 and
figure 2). Two views joined into one text are [CLS] first [SEP] second [SEP]; position 1 runs on through both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlc.data.blanks import choose_blanks
from mlc.data.randomness import stochastic_round
from mlc.data.words import number_words
from mlc.recipe_objectives import BlankKind, BlankSection, MaskSection

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Ids of the special tokens, and which ids are ordinary."""

    cls: int
    sep: int
    pad: int
    blank: int
    sentence_blank: int
    document_blank: int
    start: int
    end: int
    mlm: int
    vocab_size: int
    every: tuple[int, ...]
    """All special ids in ascending order: they never stand in for a token in MLM's random replacement."""

    @classmethod
    def from_ids(cls, special_ids: Mapping[str, int], vocab_size: int) -> SpecialTokens:
        """Look the ids up by their names, as the manifest lists them."""
        return cls(
            cls=special_ids["[CLS]"],
            sep=special_ids["[SEP]"],
            pad=special_ids["[PAD]"],
            blank=special_ids["[MASK]"],
            sentence_blank=special_ids["[sMASK]"],
            document_blank=special_ids["[gMASK]"],
            start=special_ids["[sop]"],
            end=special_ids["[eop]"],
            mlm=special_ids["[MLM]"],
            vocab_size=vocab_size,
            every=tuple(sorted(set(special_ids.values()))),
        )

    def blank_of(self, kind: BlankKind) -> int:
        """The token that stands where a blank of that kind was cut out."""
        return {"token": self.blank, "sentence": self.sentence_blank, "document": self.document_blank}[kind]

    def ordinary(self, random: np.random.Generator, count: int) -> Int64Array:
        """`count` random ordinary ids."""
        ids = random.integers(0, self.vocab_size - len(self.every), size=count)
        for special in self.every:  # ascending: each shifts what lies at or above it
            ids += ids >= special
        return ids


@dataclass(frozen=True, slots=True)
class Text:
    """One text before corruption: one view, or two that are joined.

    Attributes:
        tokens: of all sides, without [CLS] and [SEP], (n,).
        ends: where its sentences end, ascending; every end of a side is among them.
        side_ends: where its sides end, (1,) or (2,); the last one is n.
    """

    tokens: Int64Array
    ends: Int64Array
    side_ends: Int64Array

    @classmethod
    def of(cls, views: Sequence[tuple[npt.NDArray[np.integer], Int64Array]]) -> Text:
        """Join views, each its tokens and the ends of its sentences."""
        if len(views) == 1:
            tokens, ends = views[0]
            return cls(np.asarray(tokens, dtype=np.int64), ends, np.array([len(tokens)], dtype=np.int64))
        side_ends = np.cumsum([len(tokens) for tokens, _ in views], dtype=np.int64)
        before = [0, *side_ends[:-1]]
        return cls(
            tokens=np.concatenate([tokens for tokens, _ in views]).astype(np.int64, copy=False),
            ends=np.concatenate([ends + shift for (_, ends), shift in zip(views, before, strict=True)]),
            side_ends=side_ends,
        )


@dataclass(frozen=True, slots=True)
class CorruptedText:
    """One row of a batch before padding; all arrays int64.

    `tokens` is Part A followed by Part B; the `*_index` arrays point into it.
    """

    tokens: Int64Array
    part_a_length: int
    positions: Int64Array
    block_positions: Int64Array
    glm_index: Int64Array
    glm_targets: Int64Array
    mlm_index: Int64Array
    mlm_targets: Int64Array


def corrupt(
    text: Text,
    random: np.random.Generator,
    special: SpecialTokens,
    *,
    blanks: BlankSection | None,
    masks: MaskSection | None,
    kind: BlankKind = "token",
    word_starts: BoolArray | None = None,
) -> CorruptedText:
    """Corrupt one text for the objectives that are on.

    Args:
        text: what to corrupt.
        random: generator of this text alone.
        special: ids.
        blanks: settings of GLM infilling; None = off.
        masks: settings of MLM; None = off. MLM masks only what short blanks left standing, and nothing of a text with
            sentence or document blanks: too little of it may be left to guess from.
        kind: of the blanks.
        word_starts: for each id, whether a word starts there; None = every token is chosen for itself.
    """
    starts, lengths = choose_blanks(kind, text.ends, text.side_ends, random, blanks) if blanks else (_EMPTY, _EMPTY)
    part_a, blank_places, separators = _cut_blanks(text, starts, lengths, special, special.blank_of(kind))
    mlm_index, mlm_targets = _EMPTY, _EMPTY
    if masks and not (blanks and kind != "token"):
        free = np.ones(len(part_a), dtype=bool)
        free[0] = False
        free[separators] = False
        free[blank_places] = False
        mlm_index, mlm_targets = _apply_masks(part_a, np.flatnonzero(free), random, masks, special, word_starts)
    part_b = _fill_blanks(text.tokens, starts, lengths, blank_places, random, special) if len(starts) else None
    if part_b is None:
        return _without_blanks(part_a, mlm_index, mlm_targets)
    a_length = len(part_a)
    positions = np.arange(a_length, dtype=np.int64)
    return CorruptedText(
        tokens=np.concatenate([part_a, part_b.inputs]),
        part_a_length=a_length,
        positions=np.concatenate([positions, part_b.positions]),
        block_positions=np.concatenate([np.zeros(a_length, dtype=np.int64), part_b.block_positions]),
        glm_index=a_length + np.arange(len(part_b.inputs), dtype=np.int64),
        glm_targets=part_b.targets,
        mlm_index=mlm_index,
        mlm_targets=mlm_targets,
    )


def clean_row(tokens: npt.NDArray[np.integer], special: SpecialTokens) -> CorruptedText:
    """[CLS] tokens [SEP], with nothing to predict; `tokens` has shape (n,)."""
    return _without_blanks(np.concatenate([[special.cls], tokens, [special.sep]]).astype(np.int64), _EMPTY, _EMPTY)


def _without_blanks(part_a: Int64Array, mlm_index: Int64Array, mlm_targets: Int64Array) -> CorruptedText:
    positions = np.arange(len(part_a), dtype=np.int64)
    return CorruptedText(
        part_a, len(part_a), positions, np.zeros_like(positions), _EMPTY, _EMPTY, mlm_index, mlm_targets
    )


@dataclass(frozen=True, slots=True)
class _PartB:
    inputs: Int64Array
    targets: Int64Array
    positions: Int64Array
    block_positions: Int64Array


_EMPTY: Int64Array = np.empty(0, dtype=np.int64)


def _cut_blanks(
    text: Text, starts: Int64Array, lengths: Int64Array, special: SpecialTokens, blank: int
) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Part A with [CLS] and [SEP], and in it the places of the blanks and of the [SEP]s."""
    keep = np.ones(len(text.tokens), dtype=bool)
    for start, length in zip(starts, lengths, strict=True):
        keep[start + 1 : start + length] = False
    with_blanks = text.tokens.copy()
    with_blanks[starts] = blank
    kept_before = np.concatenate([[0], np.cumsum(keep)])
    side_ends = kept_before[text.side_ends]  # in what is kept
    # [CLS], and one [SEP] for each side that ended before.
    places = kept_before[starts] + 1 + text.side_ends.searchsorted(starts, side="right")
    separators = side_ends + 1 + np.arange(len(side_ends))
    sides = np.split(with_blanks[keep], side_ends[:-1]) if len(side_ends) > 1 else [with_blanks[keep]]
    part_a = np.concatenate([[special.cls], *(part for side in sides for part in (side, [special.sep]))])
    return part_a, places, separators


def _fill_blanks(
    tokens: Int64Array,
    starts: Int64Array,
    lengths: Int64Array,
    places: Int64Array,
    random: np.random.Generator,
    special: SpecialTokens,
) -> _PartB:
    inputs, targets, positions, block_positions = [], [], [], []
    for span in random.permutation(len(starts)):
        start, length = int(starts[span]), int(lengths[span])
        content = tokens[start : start + length]
        inputs.append(np.concatenate([[special.start], content]))
        targets.append(np.concatenate([content, [special.end]]))
        positions.append(np.full(length + 1, places[span]))
        block_positions.append(np.arange(1, length + 2))
    return _PartB(*(np.concatenate(part).astype(np.int64) for part in (inputs, targets, positions, block_positions)))


def _apply_masks(
    part_a: Int64Array,
    candidates: Int64Array,
    random: np.random.Generator,
    masks: MaskSection,
    special: SpecialTokens,
    word_starts: BoolArray | None,
) -> tuple[Int64Array, Int64Array]:
    """Mask tokens of Part A in place; returns their places and the tokens that stood there.

    Words (without `word_starts`, tokens) are chosen with equal chances, whatever their length, so that every token is
    chosen with probability `mask_fraction`. Each token of a chosen word then gets an action of its own.
    """
    words = np.arange(len(candidates)) if word_starts is None else number_words(part_a, candidates, word_starts)
    total = int(words[-1]) + 1 if len(words) else 0
    count = stochastic_round(total * masks.mask_fraction, random)
    chosen = np.zeros(total, dtype=bool)
    chosen[random.permutation(total)[:count]] = True
    index = candidates[chosen[words]].astype(np.int64, copy=False)
    targets = part_a[index].copy()
    action = random.random(len(index))
    replaced = np.where(
        action < masks.replace_by_mask + masks.replace_by_random, special.ordinary(random, len(index)), targets
    )
    part_a[index] = np.where(action < masks.replace_by_mask, special.mlm, replaced)
    return index, targets
