"""The exported tokenizer gives SentencePiece's ids on every text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from small_models import SPECIAL_IDS, SPECIAL_TOKENS, TRAINING_TEXTS, train_tokenizer
from transformers import AutoTokenizer

from mlc.data.text import clean_text
from mlc.errors import MlcError
from mlc.tasks import fast_tokenizer
from mlc.tasks.fast_tokenizer import SAMPLE_TEXTS, check_same_ids, convert_tokenizer

VARIANTS = {
    "prefix": {},
    "no prefix": {"dummy_prefix": False},
    "whitespace collapsed": {"extra_whitespace": True},
    "no byte fallback": {"byte_fallback": False},
    "pieces across words": {"split_by_whitespace": False, "split_by_unicode_script": False, "split_by_number": False},
    "whitespace pieces": {"allow_whitespace_only_pieces": True},
}


@pytest.fixture(scope="module", params=list(VARIANTS))
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, SentencePieceProcessor, Path]:
    """A tokenizer as AutoTokenizer reopens it, and its SentencePiece model."""
    folder = tmp_path_factory.mktemp("tokenizer")
    file = train_tokenizer(folder / "tokenizer.model", **VARIANTS[request.param])
    convert_tokenizer(file, SPECIAL_IDS, max_tokens=30).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder), SentencePieceProcessor(model_file=str(file)), file


# Letters of the training texts (so that merges happen), special tokens, whitespace, and anything else.
FRAGMENTS = st.one_of(
    st.sampled_from([word for text in TRAINING_TEXTS for word in text.split()]),
    st.text(alphabet=sorted(set("".join(TRAINING_TEXTS))), max_size=12),
    st.text(alphabet="ab -", max_size=12),
    st.sampled_from([*SPECIAL_TOKENS, "<0x41>", "<s>", "▁", " ", "  ", "\n", "\t", "\u00a0", "\u3000", "\r\n"]),
    # Unassigned characters: another version of Unicode may have made them letters that NFC composes.
    st.text(alphabet=st.characters(exclude_categories=["Cs", "Cn"]), max_size=6),
    st.text(alphabet="eaou\u0301\u0308\u0323 \u1100\u1161\u11a8\t\n\x07\ufeff\x85\u2028\x1f\x1c", max_size=8),
)


@settings(max_examples=150)
@given(fragments=st.lists(FRAGMENTS, max_size=12))
def test_ids_equal_sentencepiece(both: tuple[Any, SentencePieceProcessor, Path], fragments: list[str]) -> None:
    fast, reference, _ = both
    text = "".join(fragments)
    needed = [SPECIAL_IDS["[CLS]"], *reference.encode(clean_text(text)), SPECIAL_IDS["[SEP]"]]
    assert fast(text, verbose=False)["input_ids"] == needed
    assert fast(text, add_special_tokens=False, verbose=False)["input_ids"] == needed[1:-1]


def test_decoding_gives_the_text_back(both: tuple[Any, SentencePieceProcessor, Path]) -> None:
    fast, reference, _ = both
    for text in TRAINING_TEXTS:
        ids = fast(text)["input_ids"]
        if SPECIAL_IDS["[UNK]"] in ids:  # without byte fallback a rare letter is lost
            continue
        assert fast.decode(ids, skip_special_tokens=True) == reference.decode(reference.encode(clean_text(text)))


def test_special_tokens_and_truncation(both: tuple[Any, SentencePieceProcessor, Path]) -> None:
    fast, _, _ = both
    named = (fast.pad_token_id, fast.unk_token_id, fast.cls_token_id, fast.sep_token_id, fast.mask_token_id)
    assert named == (0, 1, 2, 3, SPECIAL_IDS["[MLM]"])
    assert {token: fast.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS} == SPECIAL_IDS
    batch = fast([TRAINING_TEXTS[0] * 4, "a"], padding=True, truncation=True)
    assert set(batch) == {"input_ids", "attention_mask"}
    assert [len(row) for row in batch["input_ids"]] == [30, 30]
    assert batch["input_ids"][0][-1] == SPECIAL_IDS["[SEP]"]
    assert batch["input_ids"][1][-1] == 0  # the GLM needs padding on the right


def test_a_difference_is_found_and_shown(both: tuple[Any, SentencePieceProcessor, Path], tmp_path: Path) -> None:
    fast, _, file = both
    assert check_same_ids(fast, file, SPECIAL_IDS, ["more"]) == len(SAMPLE_TEXTS) + 1
    other = train_tokenizer(tmp_path / "other.model", vocab_size=440)
    with pytest.raises(MlcError, match="parts from SentencePiece at token") as caught:
        check_same_ids(fast, other, SPECIAL_IDS, [])
    assert str(other) in str(caught.value)


def test_what_cannot_be_equal_is_refused(tmp_path: Path) -> None:
    unigram = train_tokenizer(tmp_path / "unigram.model", model_type="unigram", vocab_size=420)
    with pytest.raises(MlcError, match="only SentencePiece BPE"):
        convert_tokenizer(unigram, SPECIAL_IDS)
    normalising = train_tokenizer(tmp_path / "nfkc.model", normalization_rule_name="nmt_nfkc")
    with pytest.raises(MlcError, match="normalisation table"):
        convert_tokenizer(normalising, SPECIAL_IDS)
    user = train_tokenizer(tmp_path / "user.model", user_defined_symbols=["<x>"])
    with pytest.raises(MlcError, match="user-defined"):
        convert_tokenizer(user, SPECIAL_IDS)
    plain = train_tokenizer(tmp_path / "plain.model")
    with pytest.raises(MlcError, match=r"id 7 is not \[MASK\]"):
        convert_tokenizer(plain, {**SPECIAL_IDS, "[MASK]": 7})
    (tmp_path / "noise.model").write_bytes(b"\xff\xfe no protobuf")
    with pytest.raises(MlcError, match="no SentencePiece model"):
        convert_tokenizer(tmp_path / "noise.model", SPECIAL_IDS)
    with pytest.raises(MlcError, match="cannot be read"):
        convert_tokenizer(tmp_path / "absent.model", SPECIAL_IDS)


def test_a_wrong_merge_order_would_be_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check at export can fail: with the merges reversed it does."""
    file = train_tokenizer(tmp_path / "tokenizer.model")
    merges = fast_tokenizer._merges
    monkeypatch.setattr(fast_tokenizer, "_merges", lambda proto: merges(proto)[::-1])
    with pytest.raises(MlcError, match="parts from SentencePiece"):
        check_same_ids(convert_tokenizer(file, SPECIAL_IDS), file, SPECIAL_IDS, TRAINING_TEXTS)
