"""Shingles and sketches against plain Python: the same sets, and the Jaccard similarity they stand for."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from data_prep.duplicates import sketch
from data_prep.duplicates.shingles import BLOCK_CHARACTERS, Shingler, Shingles
from data_prep.duplicates.sketch import (
    EMPTY,
    NOTHING,
    SIGNATURE_BINS,
    SIGNATURE_BYTES,
    lowest_of,
    minima_of,
    signatures_of,
    similarities,
)

SHINGLER = Shingler(words=3, characters=4)
SMALL_BLOCKS = Shingler(words=3, characters=4, block_characters=64)
WITHOUT_SPACES = ("CJK", "THAI", "LAO", "HIRAGANA", "KATAKANA", "KHMER", "MYANMAR")
CHARACTERS = "ab cD.- 1é\u0301ẞİ\n\x00\u200c😀 яЖ 한국 नमस्ते በመ עב 中文字漢 𠀀かナไทย ລາວ ខ្មែ မြန် \ud800\U0010ffff"
TEXT = st.text(st.sampled_from(CHARACTERS), max_size=60)


def plain_tokens(text: str) -> list[tuple[str, bool]]:
    """Tokens, and whether each is a character of a script without spaces; by the text of the module's header."""
    tokens: list[tuple[str, bool]] = []
    word = ""
    for character in text + " ":
        category = unicodedata.category(character)
        letter = category[0] in "LMN"
        single = letter and unicodedata.name(character).startswith(WITHOUT_SPACES)
        if letter and not single:
            word += character.lower()[0]
            continue
        if word:
            tokens.append((word, False))
            word = ""
        if single:
            tokens.append((character.lower()[0], True))
    return tokens


def plain_shingles(text: str, words: int = 3, characters: int = 4) -> list[tuple[str, ...]]:
    tokens = plain_tokens(text)
    found = []
    for i, (_, single) in enumerate(tokens):
        shingle = tuple(token for token, _ in tokens[i : i + (characters if single else words)])
        if len(shingle) == (characters if single else words):
            found.append(shingle)
    return found or [tuple(token for token, _ in tokens) or (text,)]


@settings(max_examples=150)
@given(texts=st.lists(TEXT, min_size=1, max_size=6))
def test_equal_hashes_are_equal_shingles(texts: list[str]) -> None:
    made = SHINGLER.shingles(texts)
    plain = [plain_shingles(text) for text in texts]
    assert made.counts_N.tolist() == [len(shingles) for shingles in plain]
    names = [shingle for shingles in plain for shingle in shingles]
    pairs = set(zip(names, made.hashes_S.tolist(), strict=True))
    assert len({name for name, _ in pairs}) == len({number for _, number in pairs}) == len(pairs)


@settings(max_examples=100)
@given(texts=st.lists(TEXT, min_size=1, max_size=6))
def test_neighbours_in_a_block_do_not_matter(texts: list[str]) -> None:
    together = SHINGLER.shingles(texts)
    alone = [SHINGLER.shingles([text]).hashes_S for text in texts]
    assert together.hashes_S.tolist() == np.concatenate(alone).tolist()


@settings(max_examples=100)
@given(words=st.lists(st.text(st.sampled_from(CHARACTERS), min_size=1, max_size=7), max_size=150))
def test_the_parts_of_a_long_text_have_its_shingles(words: list[str]) -> None:
    text = " ".join(words)
    parts = list(SMALL_BLOCKS.cut(text))
    assert max(map(len, parts)) <= 64
    found = [SMALL_BLOCKS.shingles([part], whole=False).hashes_S for part in parts]
    whole = SHINGLER.shingles([text], whole=False).hashes_S
    assert set(np.concatenate(found).tolist()) == set(whole.tolist())


def test_a_word_longer_than_a_block_is_cut() -> None:
    assert [len(part) for part in SMALL_BLOCKS.cut("a" * 200)] == [64, 64, 64, 8]
    assert len(list(SHINGLER.cut("a" * BLOCK_CHARACTERS))) == 1


def plain_minima(hashes: list[int], bins: int) -> list[int]:
    """The sketch by its definition, one hash at a time."""
    found = [int(EMPTY)] * bins
    for value in hashes:
        x = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
        x ^= x >> 31
        place = ((x % 2**32) * bins) >> 32
        found[place] = min(found[place], x >> 11)
        for round_number in range(1, 2 * bins):
            y = ((x >> 32) + round_number * 0x9E3779B9) % 2**32
            y = ((y ^ (y >> 16)) * 0x85EBCA6B) % 2**32
            y = ((y ^ (y >> 13)) * 0xC2B2AE35) % 2**32
            y ^= y >> 16
            place = ((y >> 16) * bins) >> 16 if round_number < bins else round_number - bins
            found[place] = min(found[place], (round_number << 53) | ((y & 0xFFFF) << 32))
    return found


@settings(max_examples=25)
@given(
    sets=st.lists(st.lists(st.integers(0, 2**64 - 1), max_size=40), min_size=1, max_size=5),
    bins=st.sampled_from([1, 3, 16, 20]),
)
def test_sketches_follow_their_definition(sets: list[list[int]], bins: int) -> None:
    counts = np.array([len(hashes) for hashes in sets])
    flat = np.array([value for hashes in sets for value in hashes], dtype=np.uint64)
    assert minima_of(Shingles(flat, counts), bins).tolist() == [plain_minima(hashes, bins) for hashes in sets]


@pytest.mark.parametrize("distinct", [1, 7, 40])
def test_repetitions_change_nothing_and_cost_little(distinct: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bins = 20
    hashes = np.random.default_rng(3).integers(0, 2**64, distinct, dtype=np.uint64)
    hashed = 0

    def counted(values: NDArray[np.uint32]) -> NDArray[np.uint32]:
        nonlocal hashed
        hashed += values.size
        return mix_32(values)

    mix_32 = sketch._mix_32
    monkeypatch.setattr(sketch, "_mix_32", counted)
    repeated = Shingles(np.concatenate([np.tile(hashes, 10_000), hashes]), np.array([10_000 * distinct, distinct]))
    minima = minima_of(repeated, bins)
    assert minima[0].tolist() == minima[1].tolist() == plain_minima(hashes.tolist(), bins)
    assert hashed < 10_000 * distinct


@pytest.mark.parametrize("size", [5, 100, 2000])
@pytest.mark.parametrize("shared", [0.3, 0.8])
def test_equal_bins_estimate_jaccard(size: int, shared: float) -> None:
    """Over many pairs of sets the mean is J, and single estimates spread no more than with independent hashes."""
    drawn = np.random.default_rng(7)
    pairs, bins = 200, 128
    common = max(1, round(size * shared))
    similarity = common / (2 * size - common)
    rows = []
    for _ in range(pairs):
        values = drawn.integers(0, 2**64, 2 * size - common, dtype=np.uint64)
        rows += [values[:size], values[size - common :]]
    minima = minima_of(Shingles(np.concatenate(rows), np.full(2 * pairs, size)), bins)
    estimates = (minima[::2] == minima[1::2]).mean(axis=1)
    error = np.sqrt(similarity * (1 - similarity) / bins)
    assert abs(estimates.mean() - similarity) < 4 * error / np.sqrt(pairs)
    assert estimates.std() < 1.2 * error


def plain_scramble(value: int) -> int:
    x = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
    return x ^ (x >> 31)


@settings(max_examples=50)
@given(sets=st.lists(st.lists(st.integers(0, 2**64 - 1), max_size=3000, min_size=0), min_size=1, max_size=4))
def test_signatures_follow_their_definition(sets: list[list[int]]) -> None:
    counts = np.array([len(hashes) for hashes in sets])
    flat = np.array([value for hashes in sets for value in hashes], dtype=np.uint64)
    lowest = lowest_of(Shingles(flat, counts))
    signatures = signatures_of(lowest)
    assert signatures.shape == (len(sets), SIGNATURE_BYTES)
    for hashes, numbers, signature in zip(sets, lowest, signatures, strict=True):
        expected = [int(NOTHING)] * SIGNATURE_BINS
        for value in hashes:
            x = plain_scramble(value) * 0xC2B2AE3D27D4EB4F % 2**64
            expected[x >> 54] = min(expected[x >> 54], (x >> 16) % 2**32)
        assert numbers.tolist() == expected
        codes = [0 if n == NOTHING else 1 + (n * 0x85EBCA6B % 2**32 >> 16) % 3 for n in expected]
        assert [signature[i % SIGNATURE_BYTES] >> 2 * (i // SIGNATURE_BYTES) & 3 for i in range(len(codes))] == codes


CODES = st.lists(st.integers(0, 255), min_size=SIGNATURE_BYTES, max_size=SIGNATURE_BYTES)


@settings(max_examples=50)
@given(first=CODES, second=CODES)
def test_similarities_count_bins(first: list[int], second: list[int]) -> None:
    a, b = ([byte >> 2 * i & 3 for byte in signature for i in range(4)] for signature in (first, second))
    both = [(x, y) for x, y in zip(a, b, strict=True) if x and y]
    agree = sum(x == y for x, y in both)
    filled = sum(bool(x or y) for x, y in zip(a, b, strict=True))
    found = similarities(np.array([first], np.uint8), np.array([second], np.uint8))
    assert found[0] == (agree - (len(both) - agree) / 2) / max(1, filled)


@pytest.mark.parametrize("size", [5, 100, 2000, 20_000])
@pytest.mark.parametrize("shared", [0.3, 0.88889])
def test_signatures_estimate_jaccard(size: int, shared: float) -> None:
    """Over many pairs of sets the mean is J, and single estimates are no further off than 1,024 random bins are."""
    drawn = np.random.default_rng(7)
    pairs = 100 if size < 20_000 else 30
    common = max(1, round(size * shared))
    similarity = common / (2 * size - common)
    rows = []
    for _ in range(pairs):
        values = drawn.integers(0, 2**64, 2 * size - common, dtype=np.uint64)
        rows += [values[:size], values[size - common :]]
    signatures = signatures_of(lowest_of(Shingles(np.concatenate(rows), np.full(2 * pairs, size))))
    estimates = similarities(signatures[::2], signatures[1::2])
    chance = (1 + 2 * similarity) / 3
    error = 1.5 * np.sqrt(chance * (1 - chance) / SIGNATURE_BINS)
    assert abs(estimates.mean() - similarity) < 4 * error / np.sqrt(pairs)
    assert estimates.std() < 1.25 * error
    if size == 5:
        assert np.median(estimates) == similarity
