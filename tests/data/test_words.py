"""Words: where they start in a tokenizer, and how long they get."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hugging_face_tokenizers import make_tokenizer
from recipes_for_tests import train_recipe
from small_shards import write_small_shards
from tokenizers import Tokenizer, pre_tokenizers

from mlc.data.batches import BatchBuilder
from mlc.data.corpus import Corpus
from mlc.data.manifest import SPECIAL_TOKENS, Manifest
from mlc.data.piece_marks import Marks
from mlc.data.words import LONGEST_WORD, number_words, starts_word, word_starts
from mlc.errors import ShardError

LINES = ["the bridges stand near old bridges, the river.", "树房子河站在旧石桥。", "สะพานเก่าใกล้แม่น้ำ", "다리 옆에"]


@pytest.fixture(scope="module")
def model() -> bytes:
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES * 20),
        model_writer=file,
        model_type="bpe",
        vocab_size=400,
        hard_vocab_limit=False,
        byte_fallback=True,
        pad_id=0,
        unk_id=1,
        bos_id=-1,
        eos_id=-1,
        control_symbols=list(SPECIAL_TOKENS[2:]),
        minloglevel=2,
    )
    return file.getvalue()


@pytest.fixture(scope="module")
def manifest(model: bytes, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    size = sentencepiece.SentencePieceProcessor(model_proto=model).get_piece_size()
    folder = tmp_path_factory.mktemp("shards")
    return write_small_shards(folder, tokenizer=model, vocab_size=size + 2)


def _words(text: str, model: bytes, starts: np.ndarray) -> list[list[str]]:
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    ids = np.array(pieces.encode(text))
    numbers = number_words(ids, np.arange(len(ids)), starts)
    named = [(number, pieces.id_to_piece(int(i))) for number, i in zip(numbers.tolist(), ids, strict=True)]
    return [[piece for _, piece in word] for _, word in itertools.groupby(named, key=lambda item: item[0])]


def test_words_of_spaced_text_are_what_spaces_part(model: bytes, manifest: Manifest) -> None:
    starts = word_starts(manifest)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    for text in ("the old bridges, near rivers", "다리 다리옆에 옆에", "thé ☃stand"):
        # Decoding puts the bytes of "é" and the snowman together again.
        words = [pieces.decode_pieces(word) for word in _words(text, model, starts)]
        assert words == text.split()


def test_pieces_are_words_where_no_spaces_are_written(model: bytes, manifest: Manifest) -> None:
    starts = word_starts(manifest)
    assert all(len(word) == 1 for word in _words("河站在石桥。旧", model, starts))
    assert all(len(word) <= 2 for word in _words("สะพานแม่", model, starts)), "a tone mark stays with its letter"


def test_bytes_and_unknown_pieces_belong_to_the_word_around_them(model: bytes, manifest: Manifest) -> None:
    starts = word_starts(manifest)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert not starts[pieces.piece_to_id("<0xE2>")]
    assert not starts[pieces.unk_id()]
    assert starts[[pieces.piece_to_id(name) for name in SPECIAL_TOKENS[2:]]].all()
    assert starts[pieces.get_piece_size() :].all(), "special tokens beyond the model's pieces"
    assert len(starts) == manifest.tokenizer.vocab_size


def test_overlong_words_are_cut() -> None:
    starts = np.array([False, True])
    tokens = np.array([1] + [0] * (2 * LONGEST_WORD + 2))
    numbers = number_words(tokens, np.arange(len(tokens)), starts)
    assert np.bincount(numbers).tolist() == [LONGEST_WORD, LONGEST_WORD, 3]


def test_a_gap_ends_a_word() -> None:
    starts = np.array([False, True])
    numbers = number_words(np.array([9, 0, 0, 9, 0, 1, 0]) % 9, np.array([1, 2, 4, 5, 6]), starts)
    assert numbers.tolist() == [0, 0, 1, 2, 2]
    assert not len(number_words(np.array([1]), np.empty(0, dtype=np.int64), starts))


@pytest.mark.parametrize(
    ("piece", "expected"),
    [
        *(("▁a", True), ("▁", True), ("a", False), (",", False), ("ü", False), ("я", False), ("", False)),
        *(("树", True), ("か", True), ("。", True), ("ก", True), ("ั", False), ("리", False), ("ㄱ", False)),
    ],
)
def test_pieces_that_start_a_word(piece: str, expected: bool) -> None:
    assert starts_word(piece) is expected


def test_shards_without_a_sentencepiece_model_are_refused(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / manifest.tokenizer.file).write_bytes(b"a tokenizer")
    with pytest.raises(ShardError, match="SentencePiece model"):
        word_starts(dataclasses.replace(manifest, folder=tmp_path))
    with pytest.raises(ShardError, match=r"tokenizer\.model"):
        word_starts(dataclasses.replace(manifest, folder=tmp_path / "nowhere"))


def test_batches_mask_words_whole(manifest: Manifest) -> None:
    """All tokens of these shards are bytes to the model, so their words are the parts of `LONGEST_WORD` pieces."""
    recipe = train_recipe(
        data={"shards": str(manifest.folder), "samples_per_step": 16},
        objectives={"contrastive": {"weight": 0.0}, "glm": {"weight": 0.0}, "mlm": {"weight": 1.0, "whole_word": True}},
    )
    corpus = Corpus(recipe.data, manifest, seed=recipe.run.seed)
    builder = BatchBuilder.of(recipe, corpus, rank=0, world_size=1)
    (part,) = builder.build(0).micro_batches
    rows, columns = np.divmod(part.mlm_index, part.input_ids.shape[1])
    for row in set(rows.tolist()):
        masked = set(columns[rows == row].tolist())
        inner = range(1, int(part.lengths[row]) - 1)
        words = [set(inner[start : start + LONGEST_WORD]) for start in range(0, len(inner), LONGEST_WORD)]
        assert masked == set().union(*(word for word in words if word & masked))


TOKENIZERS = ["bert", "gpt2", "xlmr"]


def _shards_of(kind: str, folder: Path) -> tuple[Tokenizer, Manifest]:
    source = make_tokenizer(kind, folder / "source") / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(source))
    tokenizer.no_truncation()
    unknown = {"bert": "[UNK]", "gpt2": "<|endoftext|>", "xlmr": "<unk>"}[kind]
    size = tokenizer.get_vocab_size()
    ids = {name: size + number for number, name in enumerate(SPECIAL_TOKENS)}
    manifest = write_small_shards(folder, tokenizer=source.read_bytes(), vocab_size=size + len(SPECIAL_TOKENS))
    info = dataclasses.replace(
        manifest.tokenizer, kind="hugging_face", special_ids={**ids, "[UNK]": tokenizer.token_to_id(unknown)}
    )
    return tokenizer, dataclasses.replace(manifest, tokenizer=info)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_words_of_a_tokenizer_json(kind: str, tmp_path: Path) -> None:
    tokenizer, manifest = _shards_of(kind, tmp_path)
    starts = word_starts(manifest)
    assert len(starts) == manifest.tokenizer.vocab_size
    assert starts[tokenizer.get_vocab_size() :].all(), "special tokens beyond the tokenizer's own"

    def words(text: str) -> list[str]:
        found = tokenizer.encode(text, add_special_tokens=False)
        numbers = number_words(np.array(found.ids), np.arange(len(found.ids)), starts).tolist()
        places = [[place for place, number in enumerate(numbers) if number == word] for word in range(max(numbers) + 1)]
        return [text[found.offsets[word[0]][0] : found.offsets[word[-1]][1]].strip() for word in places]

    spaced = "the rivers standing near Brücken und Gartenhaus"
    assert words(spaced) == spaced.split()
    # Where no spaces are written every piece is a word; those of GPT-2 may begin in the middle of a letter.
    unspaced, pieces = words("河站在石桥旧"), tokenizer.encode("河站在石桥旧", add_special_tokens=False).tokens
    assert len(unspaced) == len(pieces) if kind != "gpt2" else len(unspaced) > 2
    # BERT cuts punctuation off and calls it a word; the others write it to a word.
    assert words("near bridges, old") == (
        ["near", "bridges", ",", "old"] if kind == "bert" else ["near", "bridges,", "old"]
    )
    assert starts[manifest.tokenizer.special_ids["[UNK]"]] == (kind == "bert")


def test_first_characters_of_byte_pieces() -> None:
    """A letter of a script without spaces that is cut into pieces starts a word with its first one alone."""
    marks = Marks("bytes")
    letters = _letters("aü,  树ก𠀀리")

    def read(content: bytes) -> tuple[bool, bool]:
        marked, text = marks.read("".join(letters[byte] for byte in content))
        return marked, starts_word(text)

    for letter in "树ก𠀀":
        for end in range(2, len(letter.encode()) + 1):
            assert read(letter.encode()[:end]) == (False, True)
        for begin in range(1, len(letter.encode())):
            assert read(letter.encode()[begin:]) == (False, False)
    assert read(b" ") == (True, False)
    assert read(" ü".encode()) == (True, False)
    for within in (b"a", b",", "ü".encode(), "리".encode()):
        assert read(within) == (False, False)
    for never in "\xff\xc0\xf5":  # stand for themselves; no text has these bytes
        assert marks.read(never) == (False, "")


def _letters(text: str) -> dict[int, str]:
    """What ByteLevel writes for each byte of a text."""
    (piece, _), *_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    return dict(zip(text.encode(), piece, strict=True))


def test_pieces_that_tell_nothing_are_refused(tmp_path: Path) -> None:
    _, manifest = _shards_of("xlmr", tmp_path)
    file = tmp_path / manifest.tokenizer.file
    content = json.loads(file.read_text())
    for changes, found in (
        ({"pre_tokenizer": {"type": "Whitespace"}, "normalizer": None}, "model Unigram, steps before it: Whitespace"),
        ({"pre_tokenizer": None, "normalizer": None}, "steps before it: none"),
        ({"model": 1}, "AttributeError"),
        ({"model": {"type": "BPE"}, "pre_tokenizer": {"type": "ByteLevel"}}, "KeyError"),
    ):
        file.write_text(json.dumps({**content, **changes}))
        with pytest.raises(ShardError, match="tell where words start") as caught:
            word_starts(manifest)
        assert found in str(caught.value)
        assert "whole_word=false" in str(caught.value)
