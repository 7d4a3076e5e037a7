"""Texts with marks: what becomes of spaces, special ids only where a mark is, and texts that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hugging_face_tokenizers import TEXTS, make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from small_models import SPECIAL_IDS, TRAINING_TEXTS, train_tokenizer
from tokenizers import Tokenizer

from mlc.data.text import clean_text
from mlc.errors import CheckpointError, DataError
from mlc.generate.marked_text import BlankTokenizer, read_marks

WORDS = sorted({word for text in TRAINING_TEXTS for word in clean_text(text).split(" ")})
SHAPES = [(True, False), (False, False), (True, True)]
"""Dummy prefix, extra white space removed: of SentencePiece models."""


@pytest.fixture(scope="module", params=SHAPES, ids=["prefix", "no prefix", "spaces removed"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BlankTokenizer:
    return blank_tokenizer(request.param, tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> tuple[BlankTokenizer, SentencePieceProcessor]:
    folder = tmp_path_factory.mktemp("usual")
    made = blank_tokenizer(SHAPES[0], folder)
    return made, SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def blank_tokenizer(shape: tuple[bool, bool], folder: Path) -> BlankTokenizer:
    prefix, remove = shape
    file = train_tokenizer(folder / "tokenizer.model", dummy_prefix=prefix, extra_whitespace=remove)
    return BlankTokenizer(file, "sentencepiece", SPECIAL_IDS)


@settings(max_examples=150)
@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=6), st.data())
def test_filling_a_blank_with_what_was_there_gives_the_text_back(
    tokenizer: BlankTokenizer, words: list[str], data: st.DataObject
) -> None:
    """Wherever it is cut, amid a word too."""
    text = clean_text(" ".join(words))
    first = data.draw(st.integers(0, len(text)))
    last = data.draw(st.integers(first, len(text)))
    left, middle, right = text[:first], text[first:last], text[last:]
    marked = read_marks(f"{left}[MASK]{right}", "here")
    # The space before a blank belongs to it.
    space = " " * (len(left) - len(left.rstrip(" ")))
    content = tokenizer.inside(space + middle)
    assert marked.fill([tokenizer.text_of(content)]) == text
    prompt = tokenizer.prompt(marked)
    assert len(prompt.places) == 1
    assert prompt.part_a[prompt.places[0]] == SPECIAL_IDS["[MASK]"]
    assert sum(token in SPECIAL_IDS.values() for token in prompt.part_a) == 3  # [CLS], the blank, [SEP]


@settings(max_examples=100)
@given(st.lists(st.sampled_from(WORDS[:60]), min_size=3, max_size=8), st.data())
def test_a_blank_of_whole_words_is_laid_out_as_in_training(
    usual: tuple[BlankTokenizer, SentencePieceProcessor], words: list[str], data: st.DataObject
) -> None:
    """Training cuts pieces out of the whole text's; pieces never reach over the space before a word."""
    blanks, pieces = usual
    first = data.draw(st.integers(0, len(words) - 1))
    last = data.draw(st.integers(first + 1, len(words)))
    ids = [pieces.encode(" ".join(part)) for part in (words[:first], words[first:last], words[last:])]
    assert ids[0] + ids[1] + ids[2] == pieces.encode(" ".join(words))
    prompt = blanks.prompt(read_marks(" ".join([*words[:first], "[sMASK]", *words[last:]]), "here"))
    expected = [SPECIAL_IDS["[CLS]"], *ids[0], SPECIAL_IDS["[sMASK]"], *ids[2], SPECIAL_IDS["[SEP]"]]
    assert list(prompt.part_a) == expected
    assert prompt.places == (len(ids[0]) + 1,)
    assert blanks.text_of(ids[1]) == " " + " ".join(words[first:last])


@pytest.mark.parametrize("kind", ["gpt2", "xlmr", "bert"])
def test_other_tokenizers_go_on_behind_a_blank_as_the_text_does(kind: str, tmp_path: Path) -> None:
    folder = make_tokenizer(kind, tmp_path)
    plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
    plain.no_truncation()
    ids = {name: plain.get_vocab_size() + place for place, name in enumerate(SPECIAL_IDS)}
    blanks = BlankTokenizer(folder / "tokenizer.json", "hugging_face", ids)
    text = TEXTS[3]
    words = text.split(" ")
    whole = plain.encode(text, add_special_tokens=False)
    for cut in range(1, len(words) - 1):
        prompt = blanks.prompt(read_marks(" ".join([*words[:cut], "[MASK]", *words[cut + 1 :]]), "here"))
        place = prompt.places[0]
        content = whole.ids[place - 1 : place - 1 + len(whole.ids) - (len(prompt.part_a) - 3)]
        assert [*prompt.part_a[1:place], *content, *prompt.part_a[place + 1 : -1]] == whole.ids
        assert blanks.text_of(content) == " " + words[cut]
    # Amid a word: the pieces behind the blank are those that say that a word goes on.
    longest = max(words, key=len)
    found = [blanks.inside(longest[cut:]) for cut in range(1, len(longest))]
    if kind == "bert":
        assert all(plain.id_to_token(tokens[0]).startswith("##") for tokens in found)
    assert [blanks.text_of(tokens) for tokens in found] == [longest[cut:] for cut in range(1, len(longest))]


def test_only_marks_become_special_ids(tokenizer: BlankTokenizer) -> None:
    text = "[CLS] a [SEP] b [sop][MASK] [eop] [MLM] [PAD] <s>"
    prompt = tokenizer.prompt(read_marks(text, "here"))
    special = [token for token in prompt.part_a if token in SPECIAL_IDS.values()]
    assert special == [SPECIAL_IDS[name] for name in ("[CLS]", "[MASK]", "[SEP]")]


def test_several_marks_and_their_spaces() -> None:
    marked = read_marks("  [MASK] met[sMASK] on\n Tuesday, [MASK]", "here")
    assert marked.marks == ("[MASK]", "[sMASK]", "[MASK]")
    assert marked.segments == ("", " met", " on Tuesday, ", "")
    assert marked.fill([" They", "?", " then"]) == "They met? on Tuesday, then"
    assert marked.fill(["They", " They", "then"]) == "They met They on Tuesday,then"


def test_a_text_without_marks_is_to_be_continued(tokenizer: BlankTokenizer) -> None:
    plain, said = read_marks("The committee", "here"), read_marks("The committee [gMASK]", "here")
    assert plain.marks == said.marks == ("[gMASK]",)
    assert tokenizer.prompt(plain) == tokenizer.prompt(said)
    alone = tokenizer.prompt(read_marks("[gMASK]", "here"))
    assert alone.part_a == tuple(SPECIAL_IDS[name] for name in ("[CLS]", "[gMASK]", "[SEP]"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "text is empty"),
        (" \t\x07", "text is empty"),
        ("They [mask] on", r"misspelled, at character 6; found \[mask\]"),
        ("They [MASK ] on", "misspelled"),
        ("They [SMASK] on", "misspelled"),
        ("They [MASKED] on", "misspelled"),
        ("They [MASK] [Gmask]", r"character 13; found \[Gmask\]"),
        ("They [gMASK] on", "something follows it"),
        ("They [gMASK] [MASK]", "something follows it"),
        ("They [gMASK][gMASK]", "something follows it"),
    ],
)
def test_texts_that_cannot_be_used_are_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_marks(text, "file.txt:7")
    assert "file.txt:7" in str(caught.value)


@pytest.mark.parametrize("text", ["a mask", "[masquerade]", "[unmask]", "[a mask]", "<mask>"])
def test_other_words_in_brackets_are_text(text: str) -> None:
    assert read_marks(text, "here").segments == (text, "")


def test_a_tokenizer_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="tokenizer is missing"):
        BlankTokenizer(tmp_path / "tokenizer.model", "sentencepiece", SPECIAL_IDS)
