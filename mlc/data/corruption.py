"""Corruption of one text for the token objectives: GLM blanks and MLM masks.

In:  the tokens of a text, a random generator of its own, and the recipe's settings.
Out: Part A (what the encoder sees, [CLS] ... [SEP]), Part B (the blanked spans to be generated), and MLM targets.

Part A is the text with one [MASK] for each blanked span; Part B holds the spans in shuffled order, each entered
through [sop] and left through [eop]. Position 1 is the place in Part A (every Part B token carries its blank's place);
position 2 is 0 in Part A and 1, 2, ... within a span of Part B (Du et al. 2022, "GLM", section 2.1 and figure 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlc.config import BlankSection, MaskSection

Int64Array = npt.NDArray[np.int64]

LONGEST_BLANK = 39  # tokens; the bound of GLM's published sampling


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Ids of the special tokens, and which ids are ordinary."""

    cls: int
    sep: int
    pad: int
    blank: int
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
            start=special_ids["[sop]"],
            end=special_ids["[eop]"],
            mlm=special_ids["[MLM]"],
            vocab_size=vocab_size,
            every=tuple(sorted(set(special_ids.values()))),
        )

    def ordinary(self, random: np.random.Generator, count: int) -> Int64Array:
        """`count` random ordinary ids."""
        ids = random.integers(0, self.vocab_size - len(self.every), size=count)
        for special in self.every:  # ascending: each shifts what lies at or above it
            ids += ids >= special
        return ids


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
    text: npt.NDArray[np.integer],
    random: np.random.Generator,
    special: SpecialTokens,
    *,
    blanks: BlankSection | None,
    masks: MaskSection | None,
) -> CorruptedText:
    """Corrupt one text for the objectives that are on.

    Args:
        text: its tokens without [CLS] and [SEP], shape (n,), n >= 1.
        random: generator of this text alone.
        special: ids.
        blanks: settings of GLM infilling; None = off.
        masks: settings of MLM; None = off. MLM masks only what the blanks left standing.
    """
    tokens = np.asarray(text, dtype=np.int64)
    starts, lengths = _choose_blanks(len(tokens), random, blanks) if blanks else (_EMPTY, _EMPTY)
    part_a, blank_places = _cut_blanks(tokens, starts, lengths, special)
    mlm_index, mlm_targets = _EMPTY, _EMPTY
    if masks:
        mlm_index, mlm_targets = _apply_masks(part_a, blank_places, random, masks, special)
    part_b = _fill_blanks(tokens, starts, lengths, blank_places, random, special) if len(starts) else None
    a_length = len(part_a)
    positions = np.arange(a_length, dtype=np.int64)
    if part_b is None:
        return CorruptedText(
            part_a, a_length, positions, np.zeros_like(positions), _EMPTY, _EMPTY, mlm_index, mlm_targets
        )
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


@dataclass(frozen=True, slots=True)
class _PartB:
    inputs: Int64Array
    targets: Int64Array
    positions: Int64Array
    block_positions: Int64Array


_EMPTY: Int64Array = np.empty(0, dtype=np.int64)


def _choose_blanks(size: int, random: np.random.Generator, blanks: BlankSection) -> tuple[Int64Array, Int64Array]:
    """Starts and lengths of the blanked spans in text order; never adjacent, at least one token left standing."""
    budget = _stochastic_round(size * blanks.mask_fraction, random)
    lengths: list[int] = []
    while budget > 0:
        length = min(max(1, int(random.poisson(blanks.mean_span_tokens))), LONGEST_BLANK, budget)
        lengths.append(length)
        budget -= length
    standing = size - sum(lengths)
    # Spans go into different gaps of the standing tokens, so there can be one more span than standing tokens.
    lengths = lengths[: standing + 1]
    standing = size - sum(lengths)
    if not lengths or standing < 1:
        return _EMPTY, _EMPTY
    gaps = np.sort(random.permutation(standing + 1)[: len(lengths)])
    span_lengths = np.asarray(lengths, dtype=np.int64)
    before = np.concatenate([[0], np.cumsum(span_lengths)[:-1]])
    return gaps + before, span_lengths


def _cut_blanks(
    tokens: Int64Array, starts: Int64Array, lengths: Int64Array, special: SpecialTokens
) -> tuple[Int64Array, Int64Array]:
    """Part A with [CLS] and [SEP], and the place of each [MASK] in it."""
    keep = np.ones(len(tokens), dtype=bool)
    for start, length in zip(starts, lengths, strict=True):
        keep[start + 1 : start + length] = False
    with_blanks = tokens.copy()
    with_blanks[starts] = special.blank
    places = np.cumsum(keep)[starts]  # the kept tokens before it, plus one for [CLS]
    part_a = np.concatenate([[special.cls], with_blanks[keep], [special.sep]])
    return part_a, places


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
    blank_places: Int64Array,
    random: np.random.Generator,
    masks: MaskSection,
    special: SpecialTokens,
) -> tuple[Int64Array, Int64Array]:
    """Mask tokens of Part A in place; returns their places and the tokens that stood there."""
    free = np.ones(len(part_a), dtype=bool)
    free[[0, -1]] = False
    free[blank_places] = False
    candidates = np.flatnonzero(free)
    count = min(_stochastic_round(len(candidates) * masks.mask_fraction, random), len(candidates))
    index = np.sort(random.permutation(candidates)[:count]).astype(np.int64)
    targets = part_a[index].copy()
    action = random.random(count)
    replaced = np.where(
        action < masks.replace_by_mask + masks.replace_by_random, special.ordinary(random, count), targets
    )
    part_a[index] = np.where(action < masks.replace_by_mask, special.mlm, replaced)
    return index, targets


def _stochastic_round(value: float, random: np.random.Generator) -> int:
    """Round so that the mean is exact: short texts would otherwise never, or always, be corrupted."""
    return int(value + random.random())
