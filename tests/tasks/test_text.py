"""Evaluation sees text as the shards hold it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from small_models import TRAINING_TEXTS, train_tokenizer

from data_prep.recipe import NormaliseSection
from data_prep.segment import split_sequences
from mlc.data.text import REMOVED_RANGES, SPACE_RANGES, Unusable, clean_text, normalise

TEXTS = st.text(
    alphabet=st.one_of(
        st.characters(),
        st.sampled_from("ab e\u0301 \t\n\r\x0b\x0c\x1c\x1f\x85\xa0\u2028\u3000\ufeff\x00\x9f\ufdd0"),
    ),
    max_size=20,
)


@settings(max_examples=500)
@given(TEXTS)
def test_it_is_the_normalisation_of_the_shards_on_one_line(text: str) -> None:
    without_halves = "".join(character for character in text if not 0xD800 <= ord(character) <= 0xDFFF)
    try:
        needed = " ".join(split_sequences(normalise(without_halves, **NormaliseSection().model_dump()), "line"))
    except Unusable:
        needed = ""
    assert clean_text(text) == needed
    assert clean_text(needed) == needed


def test_the_ranges_say_what_is_done() -> None:
    """The export builds its own cleaning from the ranges."""
    spaces, removed = (
        {code for first, last in ranges for code in range(first, last + 1)} for ranges in (SPACE_RANGES, REMOVED_RANGES)
    )
    for code in set(range(0xD800)) | set(range(0xE000, 0x10000)):
        with_it = clean_text(f"\u4e2d{chr(code)}\u4e2d")
        assert (with_it == "\u4e2d \u4e2d") == (code in spaces), hex(code)
        assert (with_it == "\u4e2d\u4e2d") == (code in removed), hex(code)


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> SentencePieceProcessor:
    file: Path = train_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer.model")
    return SentencePieceProcessor(model_file=str(file))


@given(st.lists(st.sampled_from([line for text in TRAINING_TEXTS for line in text.split()]), min_size=1, max_size=6))
def test_lines_joined_by_spaces_have_the_ids_of_the_lines(pieces: SentencePieceProcessor, lines: list[str]) -> None:
    """Shards hold a document's lines tokenised one by one; the encoder tokenises them as one cleaned text."""
    together = pieces.encode(clean_text("\n".join(lines)))
    assert together == [token for line in lines for token in pieces.encode(line)]
