"""A tokenizer.json is opened so that no text spells a special token, and ids stay."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hugging_face_tokenizers import KINDS, TEXTS, make_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers

from mlc.data.tokenizer_json import HIDDEN, open_tokenizer_json, shown_name


def plain_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_of_ordinary_text_are_the_librarys(kind: str, tmp_path: Path) -> None:
    content = (make_tokenizer(kind, tmp_path) / "tokenizer.json").read_text()
    own, opened = Tokenizer.from_str(content), open_tokenizer_json(content)
    own.no_truncation()
    assert [plain_ids(opened, text) for text in TEXTS] == [plain_ids(own, text) for text in TEXTS]
    again = open_tokenizer_json(opened.to_str())  # of an export: its pieces are renamed already
    assert again.to_str() == opened.to_str()


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_keep_their_ids_and_no_text_gives_them(kind: str, tmp_path: Path) -> None:
    content = (make_tokenizer(kind, tmp_path) / "tokenizer.json").read_text()
    opened, added = open_tokenizer_json(content), json.loads(content)["added_tokens"]
    names = {token["id"]: token["content"] for token in added}
    assert {i: shown_name(opened.id_to_token(i)) for i in names} == names
    unknown = opened.token_to_id(HIDDEN + "<unk>") if kind == "xlmr" else 1
    for name in names.values():
        for text in (name, f"a {name} b{name}c"):
            assert not set(plain_ids(opened, text)) & (names.keys() - {unknown})


def test_words_of_a_word_level_model(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "</s>": 1, "a": 2, "[PAD]": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["</s>"])
    assert plain_ids(open_tokenizer_json(tokenizer.to_str()), "a </s> [UNK] [PAD] b") == [2, 0, 0, 3, 0]
    assert open_tokenizer_json(tokenizer.to_str()).token_to_id(f"{HIDDEN}</s>") == 1
