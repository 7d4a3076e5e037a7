"""A tokenizer.json as the shards' tokenizer: its own library's ids, and where the special tokens are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers

from data_prep.encoding.engine import Encoder, check_sample
from data_prep.encoding.hugging_face import tokenizer_files
from mlc.data.manifest import SPECIAL_TOKENS
from mlc.errors import RecipeError

CORPUS = [
    f"{word} {i} text of the {word}s, and more: it's --- Ein Satz über {word}. 中文句子{i} กำลัง \U00032554ძ"
    for i in range(100)
    for word in ("tree", "house", "haha", "река", "घर")
]
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Of Llama 3."""

LINE = st.lists(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), min_size=1, max_size=9),
        st.text(st.characters(categories=["Cn", "Lo", "Nd", "Mn"]), min_size=1, max_size=9),
        st.sampled_from([*"aAbſK\u0130é\u0301中。.'sStTEl\u2581\t\r\x00\x1c\x85\xa0\u2028\u3000\u200d012٣½Ⅷ🎉 "]),
        st.sampled_from(["<s>", "</s>", "[MASK]", "<mask>", "<kept>", "<0x0A>", "'ll", "'S", "  ", "\U00032554ძ"]),
    ),
    min_size=1,
    max_size=12,
).map("".join)
LINES = st.lists(LINE, min_size=1, max_size=30)


def byte_level(kind: str) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    if kind == "llama 3":
        split = pre_tokenizers.Split(Regex(WORDS), "isolated")
        bytes_alone = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_alone])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=kind == "space before a text")
    if kind == "composing":
        tokenizer.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<s>", "</s>", "<pad>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.decoder = decoders.ByteLevel()
    if kind == "cuts and pads":
        tokenizer.enable_truncation(3)
        tokenizer.enable_padding(length=9)
        tokenizer.add_tokens([AddedToken("<kept>", normalized=False)])
    return tokenizer


def word_piece() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=500, special_tokens=specials))
    return tokenizer


def folder_of(home: Path, tokenizer: tokenizers.Tokenizer, config: dict[str, Any] | None = None) -> Path:
    home.mkdir(exist_ok=True)
    tokenizer.save(str(home / "tokenizer.json"))
    if config is not None:
        (home / "tokenizer_config.json").write_text(json.dumps(config))
    return home


KINDS = ["plain", "space before a text", "llama 3", "composing", "cuts and pads"]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Encoder]:
    home = tmp_path_factory.mktemp("tokenizers")
    made = {kind: Encoder(folder_of(home / kind, byte_level(kind))) for kind in KINDS}
    made["word piece"] = Encoder(folder_of(home / "word", word_piece()))
    return made


@settings(max_examples=100)
@given(lines=LINES)
@pytest.mark.parametrize("kind", [*KINDS, "word piece"])
def test_ids_are_those_of_the_library(encoders: dict[str, Encoder], kind: str, lines: list[str]) -> None:
    encoder = encoders[kind]
    assert encoder.engine.startswith("tokenizers" if kind == "word piece" else "gigatoken")
    ids, lengths = encoder.encode_lines("\n".join(lines).encode())
    assert [each.tolist() for each in np.split(ids, np.cumsum(lengths)[:-1])] == [
        each.tolist() for each in encoder.reference.encode(lines)
    ]
    assert not set(ids.tolist()) & {i for name, i in encoder.special_ids.items() if name != "[UNK]"}


def test_the_reference_is_the_file_as_it_is(encoders: dict[str, Encoder]) -> None:
    """Not cut, not padded, and with the tokens of text that were added to it."""
    (ids,) = encoders["cuts and pads"].reference.encode(["a house <kept> of trees"])
    plain = byte_level("plain")
    plain.add_tokens([AddedToken("<kept>", normalized=False)])
    assert ids.tolist() == plain.encode("a house <kept> of trees").ids


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_agrees_and_decodes(encoders: dict[str, Encoder], kind: str) -> None:
    encoder = encoders[kind]
    assert check_sample(encoder, CORPUS) == len(CORPUS)
    (ids,) = encoder.reference.encode([CORPUS[0]])
    assert encoder.decode(ids).strip() == CORPUS[0]


def test_special_tokens_by_role_and_by_name(tmp_path: Path) -> None:
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": "<pad>", "mask_token": "<mask>"}
    tokenizer = byte_level("plain")
    own = tokenizer.get_vocab_size()
    encoder = Encoder(folder_of(tmp_path / "roles", tokenizer, config))
    assert encoder.kind == "hugging_face"
    found = {name: i for name, i in encoder.special_ids.items() if i < own}
    assert found == {"[CLS]": 0, "[SEP]": 1, "[PAD]": 2, "[MLM]": 3}
    assert sorted(set(encoder.special_ids.values()) - set(found.values())) == list(range(own, own + 6))
    assert encoder.vocab_size == own + 6

    glm = byte_level("plain")
    glm.add_special_tokens(["[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>"])
    ids = Encoder(folder_of(tmp_path / "glm", glm)).special_ids
    assert [ids[name] for name in ("[MASK]", "[gMASK]", "[sMASK]", "[sop]", "[eop]")] == list(range(own, own + 5))

    bert = Encoder(folder_of(tmp_path / "bert", word_piece(), {"mask_token": "[MASK]"})).special_ids
    assert [bert[name] for name in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MLM]")] == [0, 1, 2, 3, 4]
    assert len(set(bert.values())) == len(SPECIAL_TOKENS)
    assert bert["[MASK]"] > 4  # the mask of BERT's objective is [MLM] here; [MASK] is GLM's


def test_the_unknown_token_of_the_model_itself(encoders: dict[str, Encoder]) -> None:
    assert encoders["word piece"].special_ids["[UNK]"] == 1
    ids, _ = encoders["word piece"].encode_lines("☃".encode())
    assert ids.tolist() == [1]


def test_what_has_to_be_copied(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "with", byte_level("plain"), {})
    assert tokenizer_files(folder) == (folder / "tokenizer.json", folder / "tokenizer_config.json")
    assert tokenizer_files(folder / "tokenizer.json") == tokenizer_files(folder)
    folder = folder_of(tmp_path / "without", byte_level("plain"))
    assert tokenizer_files(folder) == (folder / "tokenizer.json",)
    with pytest.raises(RecipeError, match=r"needed tokenizer\.json"):
        tokenizer_files(tmp_path)


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"model": {"type": "BPE"}}'])
def test_a_damaged_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(RecipeError, match=r"no tokenizer can be read"):
        Encoder(tmp_path)


def test_a_damaged_configuration_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "x", byte_level("plain"))
    for content in ("{", "[1]"):
        (folder / "tokenizer_config.json").write_text(content)
        with pytest.raises(RecipeError, match=r"no tokenizer can be read"):
            Encoder(folder)
