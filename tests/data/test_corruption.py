"""Blanks and masks: nothing lost, spans never adjacent, positions as published, the right share of tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlc.config import BlankSection, MaskSection
from mlc.data.corruption import CorruptedText, SpecialTokens, corrupt
from mlc.data.randomness import generator

SPECIAL = SpecialTokens(cls=2, sep=3, pad=0, blank=4, start=7, end=8, mlm=9, vocab_size=1000, every=tuple(range(10)))
BLANKS = BlankSection(weight=1.0)
MASKS = MaskSection(weight=1.0)
TEXTS = st.lists(st.integers(10, 999), min_size=1, max_size=120).map(np.array)
SEEDS = st.integers(0, 2**32)


def _spans(text: CorruptedText) -> list[tuple[int, list[int]]]:
    """(place of the blank in Part A, tokens) of every span of Part B, in Part B's order."""
    a = text.part_a_length
    inputs = text.tokens[a:]
    starts = np.flatnonzero(text.block_positions[a:] == 1)
    spans = []
    for start, stop in zip(starts, np.append(starts, len(inputs))[1:], strict=True):
        assert inputs[start] == SPECIAL.start
        content = inputs[start + 1 : stop].tolist()
        assert text.glm_targets[start:stop].tolist() == [*content, SPECIAL.end]
        places = set(text.positions[a + start : a + stop].tolist())
        assert len(places) == 1, "all tokens of a span carry their blank's place"
        assert text.block_positions[a + start : a + stop].tolist() == list(range(1, stop - start + 1))
        spans.append((places.pop(), content))
    return spans


@given(tokens=TEXTS, seed=SEEDS)
def test_filling_the_blanks_gives_the_text_back(tokens: np.ndarray, seed: int) -> None:
    text = corrupt(tokens, generator(seed, "test", 0), SPECIAL, blanks=BLANKS, masks=None)
    part_a = text.tokens[: text.part_a_length]
    content = dict(_spans(text))
    restored: list[int] = []
    for place, token in enumerate(part_a.tolist()):
        restored += content.pop(place) if token == SPECIAL.blank else [token]
    assert not content, "every span has its blank"
    assert restored == [SPECIAL.cls, *tokens.tolist(), SPECIAL.sep]
    assert text.positions[: text.part_a_length].tolist() == list(range(text.part_a_length))
    assert not text.block_positions[: text.part_a_length].any()
    blanks = part_a == SPECIAL.blank
    assert not (blanks[1:] & blanks[:-1]).any(), "spans are never adjacent"


@given(tokens=TEXTS, seed=SEEDS, with_blanks=st.booleans())
def test_masks_leave_targets_that_restore_the_text(tokens: np.ndarray, seed: int, with_blanks: bool) -> None:
    text = corrupt(tokens, generator(seed, "test", 0), SPECIAL, blanks=BLANKS if with_blanks else None, masks=MASKS)
    part_a = text.tokens[: text.part_a_length].copy()
    assert len(set(text.mlm_index.tolist())) == len(text.mlm_index)
    assert not np.isin(part_a[text.mlm_index], [SPECIAL.cls, SPECIAL.sep, SPECIAL.blank]).any()
    part_a[text.mlm_index] = text.mlm_targets
    assert SPECIAL.mlm not in part_a
    if not with_blanks:
        assert part_a.tolist() == [SPECIAL.cls, *tokens.tolist(), SPECIAL.sep]
        assert len(text.tokens) == text.part_a_length


def test_shares_are_the_published_ones() -> None:
    """Over 3000 texts of 40 tokens: standard errors of the shares are below 0.003, tolerances four times that."""
    blanked = masked = by_mask = kept = total = left = 0
    lengths = []
    for index in range(3000):
        tokens = np.arange(10, 50)
        text = corrupt(tokens, generator(1, "test", index), SPECIAL, blanks=BLANKS, masks=MASKS)
        spans = _spans(text)
        lengths += [len(content) for _, content in spans]
        blanked += sum(len(content) for _, content in spans)
        masked += len(text.mlm_index)
        by_mask += int((text.tokens[text.mlm_index] == SPECIAL.mlm).sum())
        kept += int((text.tokens[text.mlm_index] == text.mlm_targets).sum())
        total += len(tokens)
        left += text.part_a_length - 2 - len(spans)
    assert blanked / total == pytest.approx(0.15, abs=0.004)
    assert masked / left == pytest.approx(0.15, abs=0.004)
    assert by_mask / masked == pytest.approx(0.8, abs=0.012)
    assert kept / masked == pytest.approx(0.1, abs=0.012)
    # Poisson(3) without 0, its last span cut to the budget of 6 tokens: means around 2.6; 1 or 6 would be a fault.
    assert 2.0 < np.mean(lengths) < 3.2


def test_random_replacements_are_ordinary_wherever_the_specials_are() -> None:
    special = SpecialTokens(
        cls=0, sep=2, pad=1, blank=17, start=18, end=19, mlm=16, vocab_size=20, every=(0, 1, 2, 16, 17, 18, 19)
    )
    drawn = special.ordinary(generator(1, "t", 0), 5000)
    assert set(drawn.tolist()) == set(range(3, 16))


def test_many_short_blanks_reach_the_whole_text() -> None:
    """Half of the tokens can stand at least; blanks must not crowd at the front."""
    blanks = BlankSection(weight=1.0, mask_fraction=0.8, mean_span_tokens=1.0)
    texts = [corrupt(np.arange(10, 20), generator(1, "t", i), SPECIAL, blanks=blanks, masks=None) for i in range(300)]
    last = [max(t for _, content in _spans(text) for t in content) for text in texts]
    assert max(last) == 19


def test_short_texts_are_corrupted_in_proportion() -> None:
    """5 tokens x 15 % = 0.75 tokens: rounding down would never corrupt them."""
    counts = [
        len(corrupt(np.arange(10, 15), generator(1, "t", i), SPECIAL, blanks=None, masks=MASKS).mlm_index)
        for i in range(2000)
    ]
    assert set(counts) <= {0, 1}
    assert np.mean(counts) == pytest.approx(0.75, abs=0.04)


def test_without_objectives_the_text_stays_clean() -> None:
    text = corrupt(np.array([11, 12]), generator(1, "t", 0), SPECIAL, blanks=None, masks=None)
    assert text.tokens.tolist() == [SPECIAL.cls, 11, 12, SPECIAL.sep]
    assert not len(text.glm_index)
    assert not len(text.mlm_index)
