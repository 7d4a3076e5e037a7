"""Shards of Megatron and GPT-NeoX get a manifest, nothing is copied, and what cannot be used is refused."""

from __future__ import annotations

import io
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from tokenizers import Tokenizer, models, pre_tokenizers

from data_prep.shard_tools.adopt import Foreign, adopt_shards
from data_prep.verify import find_faults
from mlc.data.indexed import IndexedShard
from mlc.data.manifest import Manifest
from mlc.errors import RecipeError, ShardError

SEQUENCES = [[20, 21, 22], [23], [24, 25], [26, 27, 28, 29]]
BOUNDS = (0, 1, 3, 4)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece model as others train them: unk, bos and eos first, no special tokens of ours."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["one tree and two rivers"] * 9),
        model_writer=written,
        vocab_size=300,
        byte_fallback=True,
        hard_vocab_limit=False,
        model_type="bpe",
        minloglevel=2,
    )
    path = tmp_path_factory.mktemp("model") / "theirs.model"
    path.write_bytes(written.getvalue())
    return path


def write(
    prefix: Path, *, code: int = 8, letter: str = "H", bounds: tuple[int, ...] = BOUNDS, tail: bytes = b""
) -> Path:
    """A pair of files as `IndexedDatasetBuilder` writes them."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    tokens = [token for sequence in SEQUENCES for token in sequence]
    content = struct.pack(f"<{len(tokens)}{letter}", *tokens)
    Path(f"{prefix}.bin").write_bytes(content)
    lengths = [len(sequence) for sequence in SEQUENCES]
    offsets = [sum(lengths[:i]) * struct.calcsize(letter) for i in range(len(lengths))]
    index = struct.pack("<9sQBQQ", b"MMIDIDX\0\0", 1, code, len(lengths), len(bounds))
    index += struct.pack(f"<{len(lengths)}i{len(lengths)}q{len(bounds)}q", *lengths, *offsets, *bounds)
    Path(f"{prefix}.idx").write_bytes(index + tail)
    return prefix


@pytest.mark.parametrize(("code", "letter"), [(8, "H"), (4, "i"), (5, "q")])
@pytest.mark.parametrize("suffix", ["", ".bin", ".idx"])
def test_shards_are_used_where_they_lie(tmp_path: Path, model: Path, code: int, letter: str, suffix: str) -> None:
    prefix = write(tmp_path / "megatron/my.data_text_document", code=code, letter=letter)
    read: list[int] = []
    made = adopt_shards(tmp_path / "out", model, [Foreign(("de",), (Path(f"{prefix}{suffix}"),))], read.append)
    manifest = Manifest.read(tmp_path / "out")
    assert manifest == made
    entry = manifest.entry("documents/de")
    assert entry.prefixes == ("../megatron/my.data_text_document",)
    assert (entry.documents, entry.sequences, entry.tokens) == (3, 4, 10)
    assert sum(read) == entry.files[f"{entry.prefixes[0]}.bin"]["bytes"] == 10 * struct.calcsize(letter)
    assert {path.name for path in (tmp_path / "out").rglob("*")} == {"build.json", "manifest.json", "tokenizer.model"}
    assert manifest.open(entry)[0].document(1).tolist() == [23, 24, 25]
    assert manifest.groups(entry).tolist() == [-1, -1, -1]
    manifest.check()
    assert find_faults(manifest) == []


def test_special_tokens_get_ids_of_their_own(tmp_path: Path, model: Path) -> None:
    adopt_shards(tmp_path / "out", model, [Foreign(("de",), (write(tmp_path / "a"),))])
    tokenizer = Manifest.read(tmp_path / "out").tokenizer
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.read_bytes()).get_piece_size()
    assert tokenizer.special_ids["[UNK]"] == 0
    assert sorted(tokenizer.special_ids.values())[1:] == list(range(pieces, tokenizer.vocab_size))
    assert (tmp_path / "out" / tokenizer.file).read_bytes() == model.read_bytes()


@pytest.mark.parametrize(
    ("bounds", "documents"),
    [
        ((1, 3, 4), [[20, 21, 22], [23, 24, 25], [26, 27, 28, 29]]),
        ((4,), [[token for sequence in SEQUENCES for token in sequence]]),
        ((0,), SEQUENCES),
    ],
    ids=["no leading 0", "one document without it", "no document at all"],
)
def test_an_index_in_another_form_gets_one_of_its_own(
    tmp_path: Path, model: Path, bounds: tuple[int, ...], documents: list[list[int]]
) -> None:
    prefix = write(tmp_path / "theirs/a", bounds=bounds)
    before = Path(f"{prefix}.idx").read_bytes()
    with pytest.raises(ShardError):
        IndexedShard(prefix)
    manifest = adopt_shards(tmp_path / "out", model, [Foreign(("de",), (prefix,))])
    entry = manifest.entry("documents/de")
    (shard,) = manifest.open(entry)
    assert [shard.document(d).tolist() for d in range(entry.documents)] == documents
    assert entry.prefixes == ("documents/de",)
    assert (tmp_path / "out/documents/de.bin").is_symlink()
    assert not os.path.isabs(os.readlink(tmp_path / "out/documents/de.bin"))
    assert Path(f"{prefix}.idx").read_bytes() == before
    assert find_faults(Manifest.read(tmp_path / "out")) == []


def test_pairs_and_groups(tmp_path: Path, model: Path) -> None:
    ones = (0, 1, 2, 3, 4)
    prefixes = (write(tmp_path / "out/x", bounds=ones), write(tmp_path / "out/y", bounds=ones))
    np.save(tmp_path / "groups.npy", np.array([7, 8, -1, 7], dtype=np.int32))
    shards = [Foreign(("en", "de"), prefixes, tmp_path / "groups.npy"), Foreign(("fr",), (write(tmp_path / "z"),))]
    manifest = adopt_shards(tmp_path / "out", model, shards)
    assert [entry.name for entry in manifest.shards] == ["documents/fr", "pairs/en-de"]
    entry = manifest.entry("pairs/en-de")
    assert (entry.prefixes, entry.documents, entry.tokens) == (("x", "y"), 4, 20)
    assert manifest.groups(entry).tolist() == [7, 8, -1, 7]
    assert find_faults(Manifest.read(tmp_path / "out")) == []
    with pytest.raises(RecipeError, match="has a manifest"):
        adopt_shards(tmp_path / "out", model, shards)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"code": 6, "letter": "d"}, "dtype of token ids.*code 6"),
        ({"code": 7, "letter": "f"}, "dtype of token ids.*code 7"),
        ({"tail": b"\0\0\0\0"}, "another size"),
        ({"bounds": (0, 3)}, "do not cover"),
        ({"bounds": (3, 1, 4)}, "backwards"),
        ({"bounds": (0, 2, 2, 4)}, "document 1 has another number of sequences.*found 0"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, model: Path, changes: dict, complaint: str) -> None:
    if changes.get("letter") in {"d", "f"}:
        prefix = write(tmp_path / "a")
        content = bytearray(Path(f"{prefix}.idx").read_bytes())
        content[17] = changes["code"]
        Path(f"{prefix}.idx").write_bytes(content)
    else:
        prefix = write(tmp_path / "a", **changes)
    with pytest.raises(ShardError, match=complaint):
        adopt_shards(tmp_path / "out", model, [Foreign(("de",), (prefix,))])
    assert not (tmp_path / "out/manifest.json").exists()


def test_ids_of_another_tokenizer_are_refused(tmp_path: Path, model: Path) -> None:
    prefix = write(tmp_path / "a")
    np.array([20] * 8 + [9999, 20], "<u2").tofile(f"{prefix}.bin")
    with pytest.raises(ShardError, match=r"another tokenizer.*token 8 is 9999"):
        adopt_shards(tmp_path / "out", model, [Foreign(("de",), (prefix,))])
    np.array([20] * 9 + [-1], "<i2").tofile(f"{prefix}.bin")
    content = bytearray(Path(f"{prefix}.idx").read_bytes())
    content[17] = 3
    Path(f"{prefix}.idx").write_bytes(content)
    with pytest.raises(ShardError, match="token 9 is -1"):
        adopt_shards(tmp_path / "out", model, [Foreign(("de",), (prefix,))])


def test_sides_that_do_not_agree_and_doubled_languages(tmp_path: Path, model: Path) -> None:
    one, other = write(tmp_path / "a", bounds=(0, 1, 2, 3, 4)), write(tmp_path / "b")
    with pytest.raises(ShardError, match="exactly one"):
        adopt_shards(tmp_path / "out", model, [Foreign(("en", "de"), (one, other))])
    with pytest.raises(RecipeError, match="same language"):
        adopt_shards(tmp_path / "out", model, [Foreign(("en",), (one,)), Foreign(("en",), (other,))])
    with pytest.raises(RecipeError, match="one language and prefix, or two"):
        adopt_shards(tmp_path / "out", model, [Foreign(("en", "de"), (one,))])
    with pytest.raises(ShardError, match=r"nothing\.idx.*No such file"):
        adopt_shards(tmp_path / "out", model, [Foreign(("en",), (tmp_path / "nothing",))])


def test_shards_of_a_hugging_face_tokenizer(tmp_path: Path) -> None:
    """GPT-NeoX's kind: ends of documents are a token of the vocabulary."""
    theirs = Tokenizer(models.WordLevel({f"w{i}": i for i in range(40)} | {"<|endoftext|>": 40}, unk_token="w0"))
    theirs.pre_tokenizer = pre_tokenizers.Whitespace()
    theirs.add_special_tokens(["<|endoftext|>"])
    theirs.save(str(tmp_path / "20B_tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    prefix = write(tmp_path / "a")
    np.array([20] * 9 + [40], "<u2").tofile(f"{prefix}.bin")
    adopt_shards(tmp_path / "out", tmp_path / "20B_tokenizer.json", [Foreign(("en",), (prefix,))])
    manifest = Manifest.read(tmp_path / "out")
    assert (manifest.tokenizer.kind, manifest.tokenizer.file) == ("hugging_face", "tokenizer.json")
    assert manifest.tokenizer.special_ids["[SEP]"] == 40
    assert list(manifest.tokenizer.files) == ["tokenizer.json", "tokenizer_config.json"]
    assert find_faults(manifest) == []
