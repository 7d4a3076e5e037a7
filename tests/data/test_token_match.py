"""Tokens of one tokenizer found in another, whatever marks their spaces and bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hugging_face_tokenizers import KINDS, make_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from small_models import SPECIAL_IDS, train_tokenizer
from tokenizers import Tokenizer, models

from mlc.data.token_match import HOW, TokenMatch, Vocabulary, match_tokens, open_vocabulary
from mlc.errors import ShardError


def starts_of(match: TokenMatch, number: int) -> tuple[str, list[int]]:
    ids = match.old_ids[match.starts[number] : match.starts[number + 1]].tolist()
    return HOW[match.how[number]], ids


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("tokenizers")
    for kind in KINDS:
        make_tokenizer(kind, home / kind)
    train_tokenizer(home / "tokenizer.model")
    return home


def opened(folder: Path, kind: str) -> Vocabulary:
    if kind == "sentencepiece":
        file = folder / "tokenizer.model"
        return open_vocabulary(file, "sentencepiece", SPECIAL_IDS, SentencePieceProcessor(str(file)).vocab_size())
    file = folder / kind / "tokenizer.json"
    special = {
        "bert": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MLM]": 4},
        "gpt2": {"[CLS]": 0},
        "xlmr": {"[CLS]": 0, "[PAD]": 1, "[SEP]": 2, "[UNK]": 3},
    }[kind]
    return open_vocabulary(file, "hugging_face", special, Tokenizer.from_file(str(file)).get_vocab_size())


@pytest.mark.parametrize("kind", ["sentencepiece", *KINDS])
def test_a_tokenizer_is_all_in_itself(folder: Path, kind: str) -> None:
    vocabulary = opened(folder, kind)
    match = match_tokens(vocabulary, vocabulary)
    assert match.counts()["mean"] == 0
    for number in vocabulary.forms:
        assert starts_of(match, number) == ("same", [number])
    for number in vocabulary.special_ids.values():
        assert starts_of(match, number) == ("special", [number])


@pytest.mark.parametrize(("old", "new"), permutations(["sentencepiece", *KINDS], 2))
def test_the_same_token_is_the_same_text(folder: Path, old: str, new: str) -> None:
    vocabularies = opened(folder, old), opened(folder, new)
    match = match_tokens(*vocabularies)
    assert len(match.starts) == vocabularies[1].size + 1
    assert sum(match.counts().values()) == vocabularies[1].size
    assert match.old_ids.max() < vocabularies[0].size
    seen = 0
    for number, (_, content) in vocabularies[1].forms.items():
        how, ids = starts_of(match, number)
        if how == "same":
            seen += 1
            assert vocabularies[0].forms[ids[0]][1] == content
        elif how == "mean" and old != "bert":  # which writes small letters and knows no spaces
            text = b"".join(vocabularies[0].forms[piece][1] for piece in ids)
            assert text.strip(b" ") in (content.strip(b" "), b""), (text, content)
    assert seen > 20, "these tokenizers were trained on the same words"


def vocabulary_of(forms: Sequence[bytes], special: dict[str, int], *, spaces: bool = True) -> Vocabulary:
    """Single bytes are pieces; a text is cut into characters."""
    by_form = {form: number for number, form in enumerate(forms)}

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [[by_form.get(letter.encode(), 0) for letter in text] for text in texts]

    found = {number: (False, form) for number, form in enumerate(forms) if number not in special.values()}
    return Vocabulary(len(forms), found, special, encode, spaces, 0)


def test_what_is_not_there_is_the_mean_of_its_pieces_or_nothing() -> None:
    old = vocabulary_of([b"?", b"a", b"b", b" ", b"ab"], {"[UNK]": 0})
    new = vocabulary_of([b"?", b"ab", b"ba", b" ba", b"xa", b"\xe2\x82", b"\xe2"], {"[UNK]": 0})
    match = match_tokens(old, new)
    expected = [("special", [0]), ("same", [4]), ("mean", [2, 1]), ("mean", [3, 2, 1]), ("none", []), ("none", [])]
    assert [starts_of(match, number) for number in range(7)] == [*expected, ("none", [])]


@given(st.text(alphabet="ab ", min_size=1, max_size=4))
def test_a_space_of_the_old_tokenizers_own_is_no_part_of_a_token(text: str) -> None:
    plain = vocabulary_of([b"?", b"a", b"b", b" "], {"[UNK]": 0})

    def with_space(texts: Sequence[str]) -> list[list[int]]:
        return plain.encode([f" {text}" for text in texts])

    old = Vocabulary(plain.size, plain.forms, plain.special_ids, with_space, False, 0)
    new = vocabulary_of([b"?", b"aba", text.encode() + b"ab"], {"[UNK]": 0})
    match = match_tokens(old, new)
    assert starts_of(match, 1) == ("mean", [1, 2, 1])
    pieces = b"".join(old.forms[piece][1] for piece in starts_of(match, 2)[1])
    assert pieces.strip() == (text.encode() + b"ab").strip()


def test_special_tokens_are_carried_by_what_they_are_for() -> None:
    old = vocabulary_of([b"<s>", b"</s>", b"<mask>", b"x"], {"[CLS]": 0, "[SEP]": 1, "[MLM]": 2})
    names = ("[MASK]", "[MLM]", "[CLS]", "[SEP]", "[eop]", "[gMASK]")
    new = vocabulary_of([name.encode() for name in names], {name: number for number, name in enumerate(names)})
    found = [starts_of(match_tokens(old, new), number) for number in range(len(names))]
    assert found == [(("special", [place]) if place is not None else ("none", [])) for place in (2, 2, 0, 1, None, 2)]


def test_tokenizers_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    words: Any = models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")
    Tokenizer(words).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ShardError, match="do not tell where words start"):
        open_vocabulary(tmp_path / "tokenizer.json", "hugging_face", {}, 2)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0"}))
    with pytest.raises(ShardError, match="the tokenizer cannot be read"):
        open_vocabulary(tmp_path / "tokenizer.json", "hugging_face", {}, 2)
    with pytest.raises(ShardError, match="the tokenizer cannot be read"):
        open_vocabulary(tmp_path / "tokenizer.model", "sentencepiece", {}, 2)
