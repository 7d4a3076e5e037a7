"""New models: their fixed ids, nothing lost, the same bytes from any process."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.encoding.training import ModelSettings, train_model
from data_prep.tokenizer import Tokenizer
from mlc.data.manifest import SPECIAL_TOKENS
from mlc.errors import DataError

WORDS = ("tree", "house", "river", "bridge", "garden", "[MASK]", "mountain", "window", "Straße")
CORPUS = [
    f"{word} {i} text of the {word}s and 中文句子{i}: old stones near {word}" for i in range(50) for word in WORDS
]
KINDS = ("bpe", "unigram")


def model_of(kind: str, vocab_size: int = 312) -> bytes:
    return train_model(CORPUS, ModelSettings(kind, vocab_size, 0.99, True, 16))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    home = tmp_path_factory.mktemp("training")
    for kind in KINDS:
        (home / f"{kind}.model").write_bytes(model_of(kind))
    return {kind: Tokenizer(home / f"{kind}.model") for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_ids_have_their_fixed_places(tokenizers: dict[str, Tokenizer], kind: str) -> None:
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tokenizers[kind].file))
    assert [pieces.id_to_piece(i) for i in range(10)] == list(SPECIAL_TOKENS)
    assert [pieces.id_to_piece(10 + byte) for byte in range(256)] == [f"<0x{byte:02X}>" for byte in range(256)]
    assert pieces.get_piece_size() == 312
    assert (tokenizers[kind].encode(["the trees"])[0] > 265).any()


@settings(max_examples=150)
@given(
    text=st.lists(
        st.one_of(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=9), st.sampled_from([*SPECIAL_TOKENS, "\u2581"])
        )
    ).map("".join)
)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_lost(tokenizers: dict[str, Tokenizer], kind: str, text: str) -> None:
    (ids,) = tokenizers[kind].encode([text])
    assert tokenizers[kind].decode(ids) == text
    assert (ids >= len(SPECIAL_TOKENS)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_another_process_trains_the_same_bytes(kind: str) -> None:
    program = f"""
import hashlib, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_encoding_training import model_of
print(hashlib.sha256(model_of({kind!r})).hexdigest())
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == hashlib.sha256(model_of(kind)).hexdigest()


@pytest.mark.parametrize("kind", KINDS)
def test_too_little_text_for_the_vocabulary(kind: str) -> None:
    with pytest.raises(DataError, match=r"vocab_size = 5000; needed vocab_size <= \d+"):
        train_model(["a b c d e f"] * 3, ModelSettings(kind, 5000, 0.99, True, 16))  # type: ignore[arg-type]
