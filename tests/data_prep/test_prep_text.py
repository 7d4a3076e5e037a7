"""Normalisation, sequences, and the tokenizer: nothing of a text is lost."""

from __future__ import annotations

import dataclasses
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.encoding.training import ModelSettings, train_model
from data_prep.recipe import NormaliseSection
from data_prep.sample import balanced_sample, choose_candidates, share_bytes
from data_prep.segment import split_sequences
from data_prep.tokenizer import Tokenizer
from mlc.data.manifest import SPECIAL_TOKENS
from mlc.data.text import Unusable, normalise
from mlc.errors import DataError, RecipeError

# Letters of several scripts, accents, spaces and controls of every kind, and SentencePiece's own reserved characters.
TEXT = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from(
            "ab é\u0301\u0300中।।.。?!\u2581\u2585 \t\n\r\x00\x0b\x1c\x85\xa0\u2028\u3000\ufeff\u200d[MASK]<0x0A>"
        ),
    ),
    max_size=40,
)


@settings(max_examples=300)
@given(text=TEXT, section=st.builds(NormaliseSection))
def test_normalising_twice_changes_nothing(text: str, section: NormaliseSection) -> None:
    try:
        once = normalise(text, **section.model_dump())
    except Unusable:
        return
    assert normalise(once, **section.model_dump()) == once
    if section.nfc:
        assert unicodedata.is_normalized("NFC", once)
    if section.whitespace:
        assert not any(space in once for space in ("  ", "\t", "\r", "\xa0", "\u3000", " \n", "\n "))
        assert once == once.strip()


@pytest.mark.parametrize(
    ("text", "changes", "expected"),
    [
        (" a \t b\r\nc\u2028d ", {}, "a b\nc\nd"),
        ("e\u0301", {}, "\xe9"),
        ("e\u0301", {"nfc": False}, "e\u0301"),
        ("e\x00\u0301\ufeff", {}, "\xe9"),
        ("a  b", {"whitespace": False}, "a  b"),
        ("a\x00b", {"control_characters": "keep"}, "a\x00b"),
        ("می\u200cخواهم", {}, "می\u200cخواهم"),
    ],
)
def test_normalised_text(text: str, changes: dict[str, object], expected: str) -> None:
    assert normalise(text, **changes) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "changes", "reason"),
    [
        ("", {}, "empty"),
        (" \n\u3000", {}, "empty"),
        ("\x00", {}, "empty"),
        ("a\ud800", {}, "surrogate"),
        ("a\x07", {"control_characters": "reject"}, "control_character"),
    ],
)
def test_unusable_text(text: str, changes: dict[str, object], reason: str) -> None:
    with pytest.raises(Unusable) as unusable:
        normalise(text, **changes)  # type: ignore[arg-type]
    assert unusable.value.reason == reason


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three", ["One.", "Two!", "Three"]),
        ('He said "Go." Then left.', ['He said "Go."', "Then left."]),
        ("It costs 3.50 e.g. here, etc. and so on. End.", ["It costs 3.50 e.g. here, etc. and so on.", "End."]),
        ("你好。再见！“好吗？”他说。", ["你好。", "再见！", "“好吗？”", "他说。"]),
        ("यह एक है। यह दो है॥", ["यह एक है।", "यह दो है॥"]),
        ("کیا؟ ہاں۔ ختم", ["کیا؟", "ہاں۔", "ختم"]),
        ("Բարև։ Այո", ["Բարև։", "Այո"]),
        ("ሰላም። እሺ", ["ሰላም።", "እሺ"]),
        ("line one\n\nline. two", ["line one", "line. two"]),
    ],
)
def test_sentences_of_many_scripts(text: str, sentences: list[str]) -> None:
    assert split_sequences(text, "sentence") == sentences


@settings(max_examples=200)
@given(text=TEXT, how=st.sampled_from(["line", "sentence", "whole"]))
def test_splitting_loses_white_space_only(text: str, how: str) -> None:
    sequences = split_sequences(text, how)  # type: ignore[arg-type]
    assert "".join("".join(sequences).split()) == "".join(text.split())
    assert all(sequence.strip() for sequence in sequences)


CORPUS = [
    f"{word} {i} text of the {word}s and more. Ein Satz über {word} 中文句子{i}"
    for i in range(200)
    for word in ("tree", "house", "river", "[MASK]", "<0x0A>")
]
SETTINGS = ModelSettings("bpe", 380, 0.99, True, 16)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    path.write_bytes(train_model(CORPUS, SETTINGS))
    return path


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> Tokenizer:
    return Tokenizer(model)


@settings(max_examples=500)
@given(texts=st.lists(TEXT, max_size=5))
def test_decoding_gives_the_text_back(tokenizer: Tokenizer, texts: list[str]) -> None:
    ids = tokenizer.encode(texts)
    assert [tokenizer.decode(each) for each in ids] == texts
    flat = np.concatenate([*ids, np.array([10])])
    assert flat.min() >= len(SPECIAL_TOKENS)  # no text gives a special token, and nothing is unknown
    assert flat.max() < tokenizer.vocab_size
    assert all(each.dtype == np.uint16 for each in ids)


def test_ids_have_their_fixed_places(tokenizer: Tokenizer, model: Path) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    assert [processor.id_to_piece(i) for i in range(10)] == list(SPECIAL_TOKENS)
    assert [processor.id_to_piece(10 + byte) for byte in range(256)] == [f"<0x{byte:02X}>" for byte in range(256)]
    assert tokenizer.special_ids == {name: i for i, name in enumerate(SPECIAL_TOKENS)}
    assert tokenizer.vocab_size == processor.get_piece_size() == 380


@pytest.mark.parametrize("name", SPECIAL_TOKENS)
def test_the_name_of_a_special_token_is_text(tokenizer: Tokenizer, name: str) -> None:
    (ids,) = tokenizer.encode([name])
    assert len(ids) > 1
    assert tokenizer.decode(ids) == name
    assert tokenizer.decode(np.array([tokenizer.special_ids[name]])) in ("", " \u2047 ")


def test_a_word_is_the_same_token_wherever_it_stands(tokenizer: Tokenizer) -> None:
    alone, inside = tokenizer.encode(["tree", "text tree"])
    assert inside[-len(alone) :].tolist() == alone.tolist()


def test_digits_are_single(tokenizer: Tokenizer) -> None:
    (ids,) = tokenizer.encode(["2024"])
    assert [tokenizer.decode(ids[[i]]) for i in range(-4, 0)] == list("2024")


def test_training_is_deterministic(model: Path) -> None:
    assert train_model(iter(CORPUS), SETTINGS) == model.read_bytes()


def test_too_little_text_for_the_vocabulary() -> None:
    with pytest.raises(DataError, match=r"vocab_size = 5000; needed vocab_size <= \d+"):
        train_model(["a b c"], dataclasses.replace(SETTINGS, vocab_size=5000))


def test_a_foreign_model_gets_the_missing_special_tokens(tmp_path: Path) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_prefix=str(tmp_path / "foreign"),
        vocab_size=300,
        pad_id=3,
        control_symbols=["[CLS]"],
        hard_vocab_limit=False,
        minloglevel=2,
    )
    foreign = Tokenizer(tmp_path / "foreign.model")
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "foreign.model"))
    pieces = processor.get_piece_size()
    assert foreign.special_ids["[PAD]"] == 3
    assert foreign.special_ids["[UNK]"] == processor.unk_id()
    assert foreign.special_ids["[CLS]"] == processor.piece_to_id("[CLS]")
    added = [foreign.special_ids[name] for name in SPECIAL_TOKENS[3:]]
    assert added == list(range(pieces, pieces + 7))
    assert foreign.vocab_size == pieces + 7
    assert foreign.decode(np.array(added)) == ""


def test_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.model").write_bytes(b"no model")
    with pytest.raises(RecipeError, match=r"x\.model"):
        Tokenizer(tmp_path / "x.model")


@settings(max_examples=200)
@given(
    totals=st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 10_000), min_size=1),
    budget=st.integers(1, 20_000),
    exponent=st.floats(0, 1),
)
def test_shares_fill_the_budget(totals: dict[str, int], budget: int, exponent: float) -> None:
    shares = share_bytes(totals, budget, exponent)
    assert set(shares) == set(totals)
    assert all(0 <= shares[language] <= totals[language] for language in totals)
    # Rounding down costs less than a byte a language.
    assert min(budget, sum(totals.values())) - len(totals) <= sum(shares.values()) <= budget


def test_the_exponent_balances_languages() -> None:
    totals = {"big": 1_000_000, "small": 10_000}
    assert share_bytes(totals, 1010, 1.0) == {"big": 1000, "small": 10}
    assert share_bytes(totals, 1100, 0.5) == {"big": 1000, "small": 100}
    assert share_bytes(totals, 1000, 0.0) == {"big": 500, "small": 500}
    assert share_bytes(totals, 100_000, 0.0) == {"big": 90_000, "small": 10_000}


def sample(folder: Path, parts: list[list[tuple[list[str]]]], seed: int = 1) -> list[str]:
    found = [
        candidates
        for i, part in enumerate(parts)
        for candidates in choose_candidates(part, ["en"], 2000, seed, folder, str(i))
    ]
    return list(balanced_sample(found, 2000, 0.5))


def test_the_sample_is_bounded_spread_and_independent_of_the_split(tmp_path: Path) -> None:
    texts = [f"sentence number {i:04d}" for i in range(1000)]
    documents = [(texts[i : i + 5] * 2,) for i in range(0, 1000, 5)]
    *chosen, cut = sample(tmp_path / "one", [documents])
    assert sum(map(len, [*chosen, cut])) == 2000
    assert any(text.startswith(cut) for text in texts)
    assert len(set(chosen)) == len(chosen)  # each text once, though it occurs twice
    places = sorted(texts.index(text) for text in chosen)
    assert places[0] < 100
    assert places[-1] > 900
    assert sample(tmp_path / "two", [documents[100:], documents[:30], documents[30:100]]) == [*chosen, cut]


@pytest.mark.parametrize("place", range(4))
def test_one_huge_text_leaves_room_for_others_and_is_cut_to_fit(tmp_path: Path, place: int) -> None:
    """The seed decides where among the hashes the huge text comes; wherever it is, the sample is full."""
    huge = "\u4e2d" * 50_000
    documents = [([f"sentence number {i:04d}"],) for i in range(300)]
    documents.insert(100, ([huge],))
    chosen = sample(tmp_path / "one", [documents], seed=place)
    assert 1997 < sum(len(text.encode()) for text in chosen) <= 2000  # less than a character short
    assert sample(tmp_path / "two", [documents[200:], documents[:200]], seed=place) == chosen
    few = [(["one"],), ([huge],), (["two"],)]
    chosen = sample(tmp_path / "few", [few], seed=place)
    assert 1997 < sum(len(text.encode()) for text in chosen) <= 2000
