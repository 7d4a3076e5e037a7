"""The encoder gives the tokenizer's own ids: on any text, for every kind of model, whichever library encodes."""

from __future__ import annotations

import io
import json
import string
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.encoding.engine import Encoder, check_sample
from data_prep.encoding.merge_list import NoMergeList, merge_list_json
from data_prep.encoding.training import ModelSettings, train_model
from mlc.data.manifest import SPECIAL_TOKENS
from mlc.errors import MlcError, RecipeError

CORPUS = [
    f"{word} {i} text of the {word}s, and more: --- ...... Ein Satz über {word}. 中文句子{i} กำลัง\u2581 {word * 3}"
    for i in range(120)
    for word in ("tree", "house", "haha", "[MASK]", "<0x0A>", "aaa", "\u0641\u064a")
]

# Every plane of Unicode, reserved texts, accents without a letter, white space and controls of all kinds.
LINE = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"], exclude_characters="\n"),
        st.sampled_from(
            [*"ab aé\u0301\u0300中。.,?!-_=\u2581\u2585\t\r\x00\x0b\x1c\x85\xa0\u2028\u3000\ufeff\u200d\U0010ffff"]
        ),
    ),
    min_size=1,
    max_size=40,
)
SPELLED = st.lists(
    st.sampled_from(
        [*SPECIAL_TOKENS, "<0x0A>", "<unk>", "<s>", " ", "\u2581", "ha", "aaaa", "---", "tree", "....", "中文"]
    ),
    min_size=1,
    max_size=12,
).map("".join)
LINES = st.lists(st.one_of(LINE, SPELLED), min_size=1, max_size=30)


def train(**changes: Any) -> bytes:
    """A model of SentencePiece's own making, of any kind."""
    model = io.BytesIO()
    choices = {
        "model_type": "bpe",
        "vocab_size": 420,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "control_symbols": ["[CLS]", "[MASK]"],
        "hard_vocab_limit": False,
        "num_threads": 1,
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=model, **{**choices, **changes}
    )
    return model.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("encoding")


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    (folder / "own.model").write_bytes(train_model(CORPUS, ModelSettings("bpe", 420, 0.99, True, 16)))
    return Encoder(folder / "own.model")


def encode(encoder: Encoder, lines: list[str]) -> list[list[int]]:
    ids, lengths = encoder.encode_lines("\n".join(lines).encode())
    assert ids.dtype == encoder.dtype
    assert lengths.dtype == np.int32
    assert len(lengths) == len(lines)
    assert lengths.sum() == len(ids)
    return [each.tolist() for each in np.split(ids, np.cumsum(lengths)[:-1])]


def expected(encoder: Encoder, lines: list[str]) -> list[list[int]]:
    return [each.tolist() for each in encoder.reference.encode(lines)]


@settings(max_examples=150)
@given(lines=LINES)
def test_own_models_on_any_text(encoder: Encoder, lines: list[str]) -> None:
    assert encoder.engine.startswith("gigatoken")
    assert encode(encoder, lines) == expected(encoder, lines)


def test_every_character_alone(encoder: Encoder) -> None:
    """All of the basic plane, and every 61st of the others."""
    codes = [*range(0xD800), *range(0xE000, 0x10000), *range(0x10000, sys.maxunicode + 1, 61)]
    lines = [chr(code) for code in codes if code != 0x0A]
    assert encode(encoder, lines) == expected(encoder, lines)


FOREIGN: dict[str, dict[str, Any]] = {
    "pieces across words": {"split_by_whitespace": False},
    "no space before a text": {"add_dummy_prefix": False},
    "spaces in pieces": {"allow_whitespace_only_pieces": True, "split_by_unicode_script": False},
    "few characters": {"character_coverage": 0.98},
    "normalising": {"normalization_rule_name": "nmt_nfkc"},
    "removing spaces": {"remove_extra_whitespaces": True},
    "user-defined": {"user_defined_symbols": ["house", "<sep>", "\u2581the"]},
    "unigram": {"model_type": "unigram"},
    "no bytes": {"byte_fallback": False},
    "space after a word": {"treat_whitespace_as_suffix": True},
}
NOT_EXACT = {
    "normalising": "it normalises text",
    "removing spaces": "it removes extra spaces",
    "user-defined": "it has user-defined or unused pieces",
    "unigram": "it is a unigram model",
    "no bytes": "it has no byte fallback",
    "space after a word": "it puts the space after a word",
}


@pytest.fixture(scope="module")
def foreign(folder: Path) -> Callable[[str], Encoder]:
    made: dict[str, Encoder] = {}

    def make(name: str) -> Encoder:
        if name not in made:
            path = folder / f"{name}.model"
            path.write_bytes(train(**FOREIGN[name]))
            made[name] = Encoder(path)
        return made[name]

    return make


@settings(max_examples=60)
@given(lines=LINES)
@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_models_on_any_text(foreign: Callable[[str], Encoder], name: str, lines: list[str]) -> None:
    encoder = foreign(name)
    assert encoder.why_not_fast == NOT_EXACT.get(name, "")
    assert encode(encoder, lines) == expected(encoder, lines)


REPETITIVE = st.text("ab ", min_size=1, max_size=60)


@settings(max_examples=25)
@given(
    corpus=st.lists(REPETITIVE.filter(str.strip), min_size=20, max_size=60),
    lines=st.lists(st.one_of(REPETITIVE, REPETITIVE.map(lambda text: text[:3] * 9)), min_size=50, max_size=200),
    crossing=st.booleans(),
)
def test_models_of_repetitions_on_repetitions(
    folder: Path, corpus: list[str], lines: list[str], crossing: bool
) -> None:
    """Two letters give pieces that overlap themselves, where a merge list could order what SentencePiece does not."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*corpus, "a b"] * 3),
        model_writer=model,
        model_type="bpe",
        vocab_size=330,
        hard_vocab_limit=False,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_by_whitespace=not crossing,
        minloglevel=2,
    )
    path = folder / "repetitive.model"
    path.write_bytes(model.getvalue())
    encoder = Encoder(path)
    assert encoder.why_not_fast == ""
    assert encode(encoder, lines) == expected(encoder, lines)


def test_a_long_line_without_spaces_between_short_ones(encoder: Encoder) -> None:
    huge = "".join(np.random.default_rng(1).choice(list(string.ascii_lowercase), 1_000_000))
    ids, lengths = encoder.encode_lines(f"one\n{huge}\n\u2581 two".encode())
    text = [encoder.decode(each) for each in np.split(ids, np.cumsum(lengths)[:-1])]
    assert text == ["one", huge, "\u2581 two"]
    assert ids[: lengths[0]].tolist() == expected(encoder, ["one"])[0]


def test_the_mark_comes_back(encoder: Encoder) -> None:
    lines = ["a\u2581b", "\u2581", "plain", "\u2581\u2581 x", "plain"]
    assert encode(encoder, lines) == expected(encoder, lines)
    assert [encoder.decode(np.array(each)) for each in encode(encoder, lines)] == lines


def test_no_lines(encoder: Encoder) -> None:
    ids, lengths = encoder.encode_lines(b"")
    assert (len(ids), len(lengths), ids.dtype, lengths.dtype) == (0, 0, encoder.dtype, np.int32)


def test_the_slow_way_is_the_same(folder: Path, encoder: Encoder) -> None:
    slow = Encoder(folder / "own.model", fast=False)
    assert slow.engine.startswith("sentencepiece")
    assert encode(slow, CORPUS) == encode(encoder, CORPUS)


def test_without_gigatoken(folder: Path, encoder: Encoder) -> None:
    """In a process that cannot import it, and that has neither torch nor transformers afterwards."""
    program = """
import sys
sys.modules["gigatoken"] = None
from pathlib import Path
from data_prep.encoding.engine import Encoder
encoder = Encoder(Path(sys.argv[1]))
print(encoder.engine, "|", encoder.why_not_fast, "|", encoder.encode_lines(b"a tree")[0].tolist())
assert not {"torch", "transformers"} & set(sys.modules)
"""
    command = [sys.executable, "-c", program, str(folder / "own.model")]
    engine, reason, ids = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split(" | ")
    assert engine.startswith("sentencepiece ")
    assert reason == "gigatoken is not installed"
    assert json.loads(ids) == encode(encoder, ["a tree"])[0]


def test_a_sample_is_compared_whole(encoder: Encoder) -> None:
    assert check_sample(encoder, iter(CORPUS * 3)) == len(CORPUS) * 3


def test_a_line_with_other_ids_is_found(folder: Path, encoder: Encoder) -> None:
    """The check sees one line of two thousand on which the engine gives the ids of another model."""
    (folder / "smaller.model").write_bytes(train_model(CORPUS, ModelSettings("bpe", 390, 0.99, True, 16)))
    mixed = Encoder(folder / "own.model")
    mixed.reference = Encoder(folder / "smaller.model", fast=False).reference
    several = [*CORPUS, *string.punctuation, *string.ascii_letters]
    found = list(zip(several, encode(mixed, several), expected(mixed, several), strict=True))
    same, other = ([line for line, a, b in found if (a == b) is wanted] for wanted in (True, False))
    lines = (same * 2000)[:2000]
    assert check_sample(mixed, lines) == 2000
    lines[1700] = other[0]
    with pytest.raises(
        MlcError, match=r"line 1701 of the sample: gigatoken .* parts from the tokenizer at token \d+ of"
    ):
        check_sample(mixed, lines)


def test_what_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.model").write_bytes(b"no model")
    for path in (tmp_path / "x.model", tmp_path, tmp_path / "none.json", tmp_path / "none.model"):
        with pytest.raises(RecipeError):
            Encoder(path)
    with pytest.raises(NoMergeList, match="no SentencePiece model"):
        merge_list_json(b"\xff\xff")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda pieces: setattr(_joined(pieces)[0], "score", _joined(pieces)[1].score), "has the score of another one"),
        (lambda pieces: setattr(_longest(pieces), "score", 1.0), "is not joined to itself by falling scores"),
        (lambda pieces: setattr(_longest(pieces), "piece", "never seen"), "cannot be joined from characters"),
        (lambda pieces: setattr(_longest(pieces), "piece", "<0x4q>"), "reads like a byte"),
    ],
)
def test_a_model_that_breaks_a_rule_is_left_to_sentencepiece(
    encoder: Encoder, folder: Path, change: Callable[[Any], None], reason: str
) -> None:
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString((folder / "own.model").read_bytes())
    change(proto.pieces)
    with pytest.raises(NoMergeList, match=reason):
        merge_list_json(proto.SerializeToString())


def _joined(pieces: Any) -> list[Any]:
    return [piece for piece in pieces if piece.type == piece.NORMAL and len(piece.piece) > 1]


def _longest(pieces: Any) -> Any:
    return max(_joined(pieces), key=lambda piece: len(piece.piece))
