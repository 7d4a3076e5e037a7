"""Blanks and masks: nothing lost, spans as published, the right share of tokens, special tokens left alone."""

from __future__ import annotations

import math
from collections import Counter
from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlc.data.blanks import choose_blanks, draw_kind
from mlc.data.corruption import CorruptedText, SpecialTokens, Text, clean_row, corrupt
from mlc.data.randomness import generator
from mlc.data.words import LONGEST_WORD
from mlc.recipe_objectives import BlankKind, BlankSection, MaskSection

SPECIAL = SpecialTokens(
    cls=2,
    sep=3,
    pad=0,
    blank=4,
    sentence_blank=5,
    document_blank=6,
    start=7,
    end=8,
    mlm=9,
    vocab_size=1000,
    every=tuple(range(10)),
)
BLANKS = BlankSection(weight=1.0)
MASKS = MaskSection(weight=1.0)
STARTS = np.random.default_rng(0).random(1000) < 0.5  # whether a word starts at an id
KINDS: tuple[BlankKind, ...] = ("token", "sentence", "document")
SEEDS = st.integers(0, 2**32)
VIEW = st.lists(st.lists(st.integers(10, 999), min_size=1, max_size=25), min_size=1, max_size=6)
VIEWS = st.lists(VIEW, min_size=1, max_size=2)
"""One view or two, each a list of sentences."""


def text_of(views: list[list[list[int]]]) -> Text:
    return Text.of(
        [
            (
                np.array([*chain(*view)], dtype=np.uint16),
                np.cumsum([len(sentence) for sentence in view], dtype=np.int64),
            )
            for view in views
        ]
    )


def plain(tokens: np.ndarray) -> Text:
    return text_of([[tokens.tolist()]])


def clean_tokens(views: list[list[list[int]]]) -> list[int]:
    """[CLS] first [SEP], or [CLS] first [SEP] second [SEP]."""
    return [SPECIAL.cls, *(token for view in views for token in chain(*view, [SPECIAL.sep]))]


def spans_of(text: CorruptedText) -> list[tuple[int, list[int]]]:
    """(place of the blank in Part A, tokens) of every span of Part B, in Part B's order."""
    a = text.part_a_length
    inputs = text.tokens[a:]
    starts = np.flatnonzero(text.block_positions[a:] == 1)
    assert text.glm_index.tolist() == list(range(a, len(text.tokens)))
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


def restored(text: CorruptedText, kind: BlankKind) -> list[int]:
    """Part A with every mask and every blank filled again."""
    part_a = text.tokens[: text.part_a_length].copy()
    part_a[text.mlm_index] = text.mlm_targets
    content = dict(spans_of(text))
    filled: list[int] = []
    for place, token in enumerate(part_a.tolist()):
        filled += content.pop(place) if token == SPECIAL.blank_of(kind) else [token]
    assert not content, "every span has its blank"
    return filled


@given(views=VIEWS, seed=SEEDS, kind=st.sampled_from(KINDS), masks=st.booleans(), fraction=st.floats(0.05, 0.9))
def test_filling_blanks_and_masks_gives_the_text_back(
    views: list[list[list[int]]], seed: int, kind: BlankKind, masks: bool, fraction: float
) -> None:
    blanks = BLANKS.model_copy(update={"mask_fraction": fraction})
    text = corrupt(
        text_of(views),
        generator(seed, "test", 0),
        SPECIAL,
        blanks=blanks,
        masks=MASKS if masks else None,
        kind=kind,
        word_starts=STARTS if seed % 2 else None,
    )
    assert restored(text, kind) == clean_tokens(views)
    assert text.positions[: text.part_a_length].tolist() == list(range(text.part_a_length))
    assert not text.block_positions[: text.part_a_length].any()
    part_a = text.tokens[: text.part_a_length]
    # [CLS] and every [SEP] stand where they stood, and nowhere else.
    assert part_a[0] == SPECIAL.cls
    assert part_a[-1] == SPECIAL.sep
    assert (part_a == SPECIAL.cls).sum() == 1
    assert (part_a == SPECIAL.sep).sum() == len(views)
    assert not np.isin(text.tokens[text.part_a_length :], [SPECIAL.cls, SPECIAL.sep]).any()
    assert not np.isin(text.mlm_targets, SPECIAL.every).any()
    if kind != "token":
        assert not len(text.mlm_index)


@given(views=VIEWS, seed=SEEDS, fraction=st.floats(0.05, 0.95))
def test_short_spans_are_never_adjacent(views: list[list[list[int]]], seed: int, fraction: float) -> None:
    blanks = BLANKS.model_copy(update={"mask_fraction": fraction})
    text = corrupt(text_of(views), generator(seed, "test", 0), SPECIAL, blanks=blanks, masks=None)
    blank = text.tokens[: text.part_a_length] == SPECIAL.blank
    assert not (blank[1:] & blank[:-1]).any()


@given(views=VIEWS, seed=SEEDS, fraction=st.floats(0.05, 0.95))
def test_sentence_blanks_are_whole_sentences(views: list[list[list[int]]], seed: int, fraction: float) -> None:
    blanks = BLANKS.model_copy(update={"mask_fraction": fraction})
    text = text_of(views)
    starts, lengths = choose_blanks("sentence", text.ends, text.side_ends, generator(seed, "test", 0), blanks)
    bounds = [0, *text.ends.tolist()]
    sentences = set(pairwise(bounds))
    blanked = list(zip(starts.tolist(), (starts + lengths).tolist(), strict=True))
    assert blanked == sorted(set(blanked)), "each once, in text order; neighbours stay two blanks"
    assert set(blanked) <= sentences
    assert blanked
    # Before the last one was taken, whichever it was, the goal was not reached.
    assert sum(lengths) - max(lengths) < fraction * len(text.tokens) or len(blanked) == 1


@given(views=VIEWS, seed=SEEDS, shortest=st.floats(0, 1))
@example(views=[[[10] * 100]], seed=0, shortest=0.07)  # 0.07 * 100 is a hair above 7 in floating point
def test_a_document_blank_is_the_end_of_a_side(views: list[list[list[int]]], seed: int, shortest: float) -> None:
    blanks = BLANKS.model_copy(update={"shortest_document_blank": shortest})
    text = text_of(views)
    (start,), (length,) = choose_blanks("document", text.ends, text.side_ends, generator(seed, "t", 0), blanks)
    sides = dict(zip(text.side_ends.tolist(), np.diff(text.side_ends, prepend=0).tolist(), strict=True))
    assert max(1, shortest * sides[start + length] - 1e-6) <= length <= sides[start + length]


def test_every_length_of_a_document_blank_is_equally_likely() -> None:
    text = plain(np.arange(10, 50))
    counts = Counter(
        int(choose_blanks("document", text.ends, text.side_ends, generator(1, "t", i), BLANKS)[1][0])
        for i in range(6200)
    )
    assert sorted(counts) == list(range(10, 41))
    # 31 lengths, 200 each on average, standard deviation 14: five of them.
    assert max(abs(count - 200) for count in counts.values()) < 70


def test_both_sides_of_a_joined_text_lose_their_end_alike() -> None:
    text = text_of([[[10] * 20], [[11] * 5]])
    ends = Counter(
        sum(x[0] for x in choose_blanks("document", text.ends, text.side_ends, generator(1, "t", i), BLANKS))
        for i in range(2000)
    )
    assert set(ends) == {20, 25}
    assert ends[20] == pytest.approx(1000, abs=110)  # standard deviation 22


def test_sentence_blanks_cover_the_fraction_in_the_mean() -> None:
    """Sentences of 1 to 9 tokens, all shorter than 15 % of the text: the mean is exact, not at least the goal."""
    lengths = np.random.default_rng(1).integers(1, 10, size=20)
    ends = np.cumsum(lengths)
    assert lengths.max() <= 0.15 * ends[-1]
    covered = [
        int(choose_blanks("sentence", ends, ends[-1:], generator(1, "t", i), BLANKS)[1].sum()) for i in range(4000)
    ]
    # Standard deviation of one text is below 3 tokens, of the mean below 0.05; always taking the sentence that crosses
    # the goal would cover 2 to 3 tokens more.
    assert np.mean(covered) == pytest.approx(0.15 * ends[-1], abs=0.2)
    firsts = Counter(
        int(s) for i in range(4000) for s in choose_blanks("sentence", ends, ends[-1:], generator(1, "t", i), BLANKS)[0]
    )
    assert len(firsts) == 20, "every sentence is blanked now and then"


def test_one_sentence_is_blanked_whole() -> None:
    text = corrupt(
        plain(np.array([11, 12])), generator(1, "t", 0), SPECIAL, blanks=BLANKS, masks=MASKS, kind="sentence"
    )
    assert text.tokens.tolist() == [SPECIAL.cls, SPECIAL.sentence_blank, SPECIAL.sep, SPECIAL.start, 11, 12]
    assert text.positions.tolist() == [0, 1, 2, 1, 1, 1]
    assert text.glm_targets.tolist() == [11, 12, SPECIAL.end]


def test_a_side_can_be_blanked_whole_beside_its_translation() -> None:
    seen = set()
    for i in range(40):
        text = corrupt(
            text_of([[[11, 12]], [[21, 22, 23]]]),
            generator(1, "t", i),
            SPECIAL,
            blanks=BLANKS,
            masks=None,
            kind="sentence",
        )
        seen.add(tuple(text.tokens[: text.part_a_length].tolist()))
    first, second = (2, 5, 3, 21, 22, 23, 3), (2, 11, 12, 3, 5, 3)
    assert seen == {first, second}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("views", [[[]], [[], [[11]]], [[[11]], []]], ids=["nothing", "no first", "no second"])
def test_texts_without_tokens_do_not_fail(kind: BlankKind, views: list[list[list[int]]]) -> None:
    for i in range(20):
        text = corrupt(
            text_of(views), generator(1, "t", i), SPECIAL, blanks=BLANKS, masks=MASKS, kind=kind, word_starts=STARTS
        )
        assert restored(text, kind) == clean_tokens(views)


def test_kinds_come_in_their_shares() -> None:
    blanks = BlankSection(weight=1.0, token_share=2.0 / 4, sentence_share=1.0 / 4, document_share=1.0 / 4)
    counts = Counter(draw_kind(blanks, 1, index) for index in range(4000))
    assert counts["token"] == pytest.approx(2000, abs=160)  # standard deviation 32
    assert counts["sentence"] == pytest.approx(1000, abs=140)
    assert {draw_kind(BLANKS, 1, index) for index in range(100)} == {"token"}
    for share in ("sentence", "document"):
        alone = BlankSection(weight=1.0, token_share=0.0, **{f"{share}_share": 0.3})
        assert {draw_kind(alone, 1, index) for index in range(100)} == {share}


def test_shares_are_the_published_ones() -> None:
    """Over 3000 texts of 40 tokens: standard errors of the shares are below 0.003, tolerances four times that."""
    blanked = masked = by_mask = kept = total = left = 0
    lengths = []
    for index in range(3000):
        tokens = np.arange(10, 50)
        text = corrupt(plain(tokens), generator(1, "test", index), SPECIAL, blanks=BLANKS, masks=MASKS)
        spans = spans_of(text)
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


def test_joined_texts_have_the_same_share_of_short_blanks() -> None:
    text = text_of([[list(range(10, 30))], [list(range(30, 50))]])
    blanked = [
        int(choose_blanks("token", text.ends, text.side_ends, generator(1, "t", i), BLANKS)[1].sum())
        for i in range(500)
    ]
    assert set(blanked) == {6}


def words_in_part_a(part_a: list[int]) -> list[list[int]]:
    """Places of each word, by a plain walk: special tokens end a word, as does every id that starts one."""
    words: list[list[int]] = []
    open_word = False
    for place, token in enumerate(part_a):
        if token in SPECIAL.every:
            open_word = False
        elif open_word and not STARTS[token] and len(words[-1]) < LONGEST_WORD:
            words[-1].append(place)
        else:
            words.append([place])
            open_word = True
    return words


@given(views=VIEWS, seed=SEEDS, with_blanks=st.booleans(), fraction=st.floats(0.05, 0.9))
@example(views=[[[int(np.flatnonzero(~STARTS)[-1])] * 25]], seed=0, with_blanks=False, fraction=0.5)
def test_whole_words_are_masked_whole(
    views: list[list[list[int]]], seed: int, with_blanks: bool, fraction: float
) -> None:
    masks = MASKS.model_copy(update={"mask_fraction": fraction})
    text = corrupt(
        text_of(views),
        generator(seed, "test", 0),
        SPECIAL,
        blanks=BLANKS if with_blanks else None,
        masks=masks,
        word_starts=STARTS,
    )
    part_a = text.tokens[: text.part_a_length].copy()
    part_a[text.mlm_index] = text.mlm_targets
    words = words_in_part_a(part_a.tolist())
    chosen = set(text.mlm_index.tolist())
    masked = [word for word in words if chosen & set(word)]
    assert sorted(place for word in masked for place in word) == text.mlm_index.tolist()
    assert math.floor(len(words) * fraction) <= len(masked) <= math.ceil(len(words) * fraction)


def test_every_piece_is_masked_alike_and_acts_for_itself() -> None:
    start, inside = int(np.flatnonzero(STARTS)[-1]), int(np.flatnonzero(~STARTS)[-1])
    tokens = np.array([start, *[inside] * 6, start, start, inside, start])  # words of 7, 1, 2 and 1 pieces
    chosen, actions = np.zeros(len(tokens)), []
    for i in range(8000):
        text = corrupt(plain(tokens), generator(1, "t", i), SPECIAL, blanks=None, masks=MASKS, word_starts=STARTS)
        chosen[text.mlm_index - 1] += 1
        if 1 in text.mlm_index:
            actions.append(text.tokens[1:8] == SPECIAL.mlm)
    # Four words, 0.6 chosen on average: 15 % for every piece of any word; standard error 0.004.
    assert chosen / 8000 == pytest.approx(np.full(len(tokens), 0.15), abs=0.016)
    # A word of 7 is [MLM] throughout with probability 0.8 ** 7 = 0.21; with one action a word it would be 0.8.
    assert np.mean(np.all(actions, axis=1)) == pytest.approx(0.8**7, abs=0.05)


def test_random_replacements_are_ordinary_wherever_the_specials_are() -> None:
    special = SpecialTokens(
        cls=0,
        sep=2,
        pad=1,
        blank=17,
        sentence_blank=14,
        document_blank=15,
        start=18,
        end=19,
        mlm=16,
        vocab_size=20,
        every=(0, 1, 2, 14, 15, 16, 17, 18, 19),
    )
    drawn = special.ordinary(generator(1, "t", 0), 5000)
    assert set(drawn.tolist()) == set(range(3, 14))


def test_many_short_blanks_reach_the_whole_text() -> None:
    """Half of the tokens can stand at least; blanks must not crowd at the front."""
    blanks = BlankSection(weight=1.0, mask_fraction=0.8, mean_span_tokens=1.0)
    texts = [
        corrupt(plain(np.arange(10, 20)), generator(1, "t", i), SPECIAL, blanks=blanks, masks=None) for i in range(300)
    ]
    last = [max(t for _, content in spans_of(text) for t in content) for text in texts]
    assert max(last) == 19


def test_short_texts_are_corrupted_in_proportion() -> None:
    """5 tokens x 15 % = 0.75 tokens: rounding down would never corrupt them."""
    counts = [
        len(corrupt(plain(np.arange(10, 15)), generator(1, "t", i), SPECIAL, blanks=None, masks=MASKS).mlm_index)
        for i in range(2000)
    ]
    assert set(counts) <= {0, 1}
    assert np.mean(counts) == pytest.approx(0.75, abs=0.04)


def test_without_objectives_the_text_stays_clean() -> None:
    tokens = np.array([11, 12])
    for text in (
        corrupt(plain(tokens), generator(1, "t", 0), SPECIAL, blanks=None, masks=None),
        clean_row(tokens.astype(np.uint16), SPECIAL),
    ):
        assert text.tokens.tolist() == [SPECIAL.cls, 11, 12, SPECIAL.sep]
        assert text.tokens.dtype == np.int64
        assert text.positions.tolist() == [0, 1, 2, 3]
        assert text.part_a_length == 4
        assert not len(text.glm_index)
        assert not len(text.mlm_index)
