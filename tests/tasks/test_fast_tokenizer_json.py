"""An exported tokenizer.json gives the ids of the one that the shards were made with, on every text."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hugging_face_tokenizers import KINDS, TEXTS, make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer
from transformers import AutoTokenizer

from data_prep.encoding.hugging_face import HuggingFaceTokenizer
from mlc.data.manifest import SPECIAL_TOKENS
from mlc.data.text import clean_text
from mlc.errors import MlcError
from mlc.tasks.fast_tokenizer import SAMPLE_TEXTS, check_same_ids
from mlc.tasks.fast_tokenizer_json import complete_tokenizer, texts_with_added_tokens

ROLES = {
    "pad_token_id": "[PAD]",
    "unk_token_id": "[UNK]",
    "cls_token_id": "[CLS]",
    "sep_token_id": "[SEP]",
    "mask_token_id": "[MLM]",
}


@dataclass(frozen=True)
class Both:
    """The tokenizer of the shards, and the exported one as AutoTokenizer reopens it."""

    file: Path
    reference: HuggingFaceTokenizer
    exported: Any


def export(source: Path, folder: Path) -> Both:
    reference = HuggingFaceTokenizer(source)
    complete_tokenizer(reference.file, reference.special_ids, max_tokens=30).save_pretrained(folder)
    return Both(reference.file, reference, AutoTokenizer.from_pretrained(folder))


@pytest.fixture(scope="module", params=KINDS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    folder = tmp_path_factory.mktemp(request.param)
    return export(make_tokenizer(request.param, folder / "source"), folder / "out")


FRAGMENTS = st.one_of(
    st.sampled_from([word for line in TEXTS for word in line.split()]),
    st.text(alphabet=st.characters(exclude_categories=["Cs", "Cn"]), max_size=6),
    st.sampled_from([*SPECIAL_TOKENS, "<s>", "</s>", "<mask>", "<|endoftext|>", "##", "Ġ", "▁", " ", "  ", "\n", "\t"]),
    st.text(alphabet="eaou\u0301\u0308 \u1100\u1161\t\n\x07\ufeff\x85\u2028\x1f\u3000", max_size=8),
)


@settings(max_examples=150)
@given(fragments=st.lists(FRAGMENTS, max_size=12))
def test_ids_are_those_of_the_shards_tokenizer(both: Both, fragments: list[str]) -> None:
    text, ids = "".join(fragments), both.reference.special_ids
    (plain,) = both.reference.encode([clean_text(text)])
    needed = [ids["[CLS]"], *plain.tolist(), ids["[SEP]"]]
    assert not {i for name, i in ids.items() if name != "[UNK]"} & set(needed[1:-1])
    assert both.exported(text, verbose=False)["input_ids"] == needed


def test_special_tokens_have_the_ids_of_the_manifest(both: Both) -> None:
    ids = both.reference.special_ids
    assert {role: getattr(both.exported, role) for role in ROLES} == {role: ids[name] for role, name in ROLES.items()}
    assert len(both.exported) == both.reference.vocab_size
    own = json.loads(both.file.read_text())
    names = {name: both.exported.convert_ids_to_tokens(i) for name, i in ids.items()}
    if own["model"]["type"] == "WordPiece":  # its "[MASK]" is what masked language modelling uses
        assert (names["[MLM]"], names["[MASK]"]) == ("[MASK]", "[mlc_MASK]")
    assert names["[gMASK]"] == "[gMASK]"
    batch = both.exported([TEXTS[0] * 4, "a"], padding=True, truncation=True)
    assert [len(row) for row in batch["input_ids"]] == [30, 30]
    assert batch["input_ids"][0][-1] == ids["[SEP]"]
    assert batch["input_ids"][1][-1] == ids["[PAD]"]


def test_a_difference_is_found_and_shown(both: Both, tmp_path: Path) -> None:
    ids = both.reference.special_ids
    assert check_same_ids(both.exported, both.file, ids, TEXTS, "hugging_face") == len(SAMPLE_TEXTS) + len(TEXTS)
    for kind in KINDS:
        other = make_tokenizer(kind, tmp_path / kind, vocab_size=300)
        with pytest.raises(MlcError, match="parts from tokenizers at token"):
            check_same_ids(both.exported, other / "tokenizer.json", ids, TEXTS, "hugging_face")


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_of_text_that_were_added_stay(kind: str, tmp_path: Path) -> None:
    """Spaces at their sides too: they are found after the text was cleaned, as in the shards."""
    source = make_tokenizer(kind, tmp_path / "source")
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.add_tokens([AddedToken("<kept>", normalized=False)])
    tokenizer.save(str(source / "tokenizer.json"))
    found = export(source, tmp_path / "out")
    texts = texts_with_added_tokens(found.file)
    assert "a <kept> b<kept>c" in texts
    check_same_ids(found.exported, found.file, found.reference.special_ids, texts, "hugging_face")
    (kept,) = tokenizer.encode("<kept>", add_special_tokens=False).ids[-1:]
    assert found.exported("a <kept> b")["input_ids"].count(kept) == 1


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    file = make_tokenizer("gpt2", tmp_path / "gaps") / "tokenizer.json"
    content = json.loads(file.read_text())
    last = max(content["model"]["vocab"], key=content["model"]["vocab"].get)
    content["model"]["vocab"][last] += 5
    file.write_text(json.dumps(content))
    with pytest.raises(MlcError, match="its ids have gaps"):
        complete_tokenizer(file, HuggingFaceTokenizer(file).special_ids)
    for text in ("", "[1]", "{}", '{"added_tokens": 1}', '{"added_tokens": []}'):
        file.write_text(text)
        with pytest.raises(MlcError, match=r"this is no tokenizer\.json"):
            complete_tokenizer(file, {})
    file.write_bytes(b"\xff")
    for read in (lambda: complete_tokenizer(file, {}), lambda: texts_with_added_tokens(file)):
        with pytest.raises(MlcError, match="the tokenizer cannot be read"):
            read()
