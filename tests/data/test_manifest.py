"""The manifest: read and written, its hash, its checks, group numbers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import xxhash

from mlc.data.indexed import ShardWriter
from mlc.data.manifest import SPECIAL_TOKENS, Manifest, ShardEntry, TokenizerInfo, group_number
from mlc.errors import ShardError


def make(folder: Path) -> Manifest:
    """A folder with one shard of documents and one of pairs."""
    names = {"documents/en": ["documents/en"], "pairs/en-de": ["pairs/en-de.en", "pairs/en-de.de"]}
    entries = []
    for name, prefixes in names.items():
        for prefix in prefixes:
            with ShardWriter(folder / prefix, "uint16") as writer:
                writer.add_document([np.array([10, 11])])
                writer.add_document([np.array([12])])
        np.save(folder / f"{name}.groups.npy", np.array([5, -1], dtype=np.int64))
        files = [f"{prefix}.{suffix}" for prefix in prefixes for suffix in ("bin", "idx")] + [f"{name}.groups.npy"]
        entries.append(
            ShardEntry(
                name=name,
                kind="documents" if len(prefixes) == 1 else "pairs",
                languages=("en",) if len(prefixes) == 1 else ("en", "de"),
                prefixes=tuple(prefixes),
                documents=2,
                sequences=2,
                tokens=3 * len(prefixes),
                files={file: {"bytes": (folder / file).stat().st_size, "sha256": ""} for file in files},
                sources=("corpus/ä.txt",),
                dropped={"empty": 1},
            )
        )
    special_ids = {token: i for i, token in enumerate(SPECIAL_TOKENS)}
    (folder / "tokenizer.model").write_bytes(b"a tokenizer")
    sha256 = hashlib.sha256(b"a tokenizer").hexdigest()
    tokenizer = TokenizerInfo(file="tokenizer.model", sha256=sha256, vocab_size=300, special_ids=special_ids)
    return Manifest(
        folder=folder,
        tokenizer=tokenizer,
        shards=tuple(entries),
        recipe_sha256="ab",
        created_by="mlc 1",
        timing={"seconds": 1.5},
        sources_digest="cd",
    )


def test_write_then_read(tmp_path: Path) -> None:
    manifest = make(tmp_path)
    manifest.write(tmp_path)
    assert Manifest.read(tmp_path) == manifest
    assert not list(tmp_path.glob("*.tmp"))


def test_the_hash_follows_content_and_nothing_else(tmp_path: Path) -> None:
    manifest = make(tmp_path)
    later = dataclasses.replace(manifest, timing={"seconds": 9.0}, created_by="mlc 2", folder=tmp_path / "moved")
    assert later.sha256 == manifest.sha256
    entry = dataclasses.replace(manifest.shards[0], tokens=4)
    assert dataclasses.replace(manifest, shards=(entry, manifest.shards[1])).sha256 != manifest.sha256
    tokenizer = dataclasses.replace(manifest.tokenizer, sha256="other")
    assert dataclasses.replace(manifest, tokenizer=tokenizer).sha256 != manifest.sha256


def test_manifests_of_one_tokenizer_file_keep_their_hash(tmp_path: Path) -> None:
    """Runs on shards from before a tokenizer could have several files compare this hash when they go on."""
    manifest = make(tmp_path)
    assert manifest.sha256 == "e829269af483d27f9f7b18de31fbda5a99a57af7ba9a65849256076ad8f66163"
    assert manifest.tokenizer.digest == manifest.tokenizer.sha256


def test_a_manifest_that_does_not_name_the_kind_of_its_tokenizer_is_read(tmp_path: Path) -> None:
    manifest = make(tmp_path)
    manifest.write(tmp_path)
    table = json.loads((tmp_path / "manifest.json").read_text())
    del table["tokenizer"]["kind"], table["sha256"]
    canonical = json.dumps(table, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    stated = hashlib.sha256(canonical.encode()).hexdigest()
    (tmp_path / "manifest.json").write_text(json.dumps({**table, "sha256": stated}))
    assert Manifest.read(tmp_path) == manifest


def test_every_file_of_the_tokenizer_is_checked(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "tokenizer_config.json").write_bytes(b"{}")
    plain = make(tmp_path)
    others = {"sub/tokenizer_config.json": hashlib.sha256(b"{}").hexdigest()}
    tokenizer = dataclasses.replace(plain.tokenizer, other_files=others)
    manifest = dataclasses.replace(plain, tokenizer=tokenizer)
    manifest.write(tmp_path)
    assert Manifest.read(tmp_path) == manifest
    assert manifest.sha256 != plain.sha256
    assert tokenizer.digest not in (plain.tokenizer.digest, *others.values())
    manifest.check()
    assert list(manifest.tokenizer_files()) == ["tokenizer.model", "tokenizer_config.json"]
    (tmp_path / "sub" / "tokenizer_config.json").write_bytes(b"{ }")
    with pytest.raises(ShardError, match=r"missing or another one.*tokenizer_config|tokenizer_config.*another one"):
        manifest.check()


def test_equal_builds_have_equal_files(tmp_path: Path) -> None:
    manifest = make(tmp_path)
    manifest.write(tmp_path)
    first = (tmp_path / "manifest.json").read_bytes()
    dataclasses.replace(manifest, timing={"seconds": 2.5}, created_by="mlc 3").write(tmp_path)
    assert (tmp_path / "manifest.json").read_bytes() == first


def test_shards_and_groups_are_opened(tmp_path: Path) -> None:
    manifest = make(tmp_path)
    pairs = manifest.entry("pairs/en-de")
    assert [shard.sequence(0).tolist() for shard in manifest.open(pairs)] == [[10, 11], [10, 11]]
    assert manifest.groups(pairs).tolist() == [5, -1]
    foreign = dataclasses.replace(pairs, files={})  # Megatron's own files have no group numbers
    assert manifest.groups(foreign).tolist() == [-1, -1]
    with pytest.raises(ShardError, match="documents/en, pairs/en-de"):
        manifest.entry("documents/fr")


def test_a_file_of_another_size_is_refused(tmp_path: Path) -> None:
    manifest = make(tmp_path)
    manifest.check()
    path = tmp_path / "pairs/en-de.de.bin"
    path.write_bytes(path.read_bytes()[:-2])
    manifest.check([manifest.entry("documents/en")])
    for refused in (manifest.check, lambda: manifest.open(manifest.entry("pairs/en-de"))):
        with pytest.raises(ShardError, match=r"en-de\.de\.bin.*4 bytes.*6 bytes"):
            refused()
    path.unlink()
    with pytest.raises(ShardError, match="no such file"):
        manifest.check()


def test_other_counts_are_refused(tmp_path: Path) -> None:
    manifest = make(tmp_path)
    entry = dataclasses.replace(manifest.entry("documents/en"), documents=3)
    with pytest.raises(ShardError, match="other counts"):
        manifest.open(entry)
    with pytest.raises(ShardError, match="no group numbers of this shard"):
        manifest.groups(entry)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda table: table.update(version=2), "newer version"),
        (lambda table: table.update(version="1"), "newer version"),
        (lambda table: table.update(format="other"), "no manifest of shards"),
        (lambda table: table["shards"][0].update(tokens=999), "changed or damaged"),
        (lambda table: table["shards"][0].update(tokens="many"), "damaged"),
        (lambda table: table["shards"][0].update(new=1), "unknown keys"),
        (lambda table: table["shards"][0].pop("files"), "damaged"),
        (lambda table: table.pop("tokenizer"), "damaged"),
        (lambda table: table["tokenizer"].update(kind="of tomorrow"), "damaged"),
        (lambda table: table["tokenizer"].update(other_files={"a\0b": ""}), "damaged"),
        (lambda table: table["tokenizer"].update(other_files=[]), "damaged"),
    ],
)
def test_what_cannot_be_trusted_is_refused(tmp_path: Path, change: object, complaint: str) -> None:
    make(tmp_path).write(tmp_path)
    path = tmp_path / "manifest.json"
    table = json.loads(path.read_text())
    change(table)  # type: ignore[operator]
    path.write_text(json.dumps(table))
    with pytest.raises(ShardError, match=complaint) as refused:
        Manifest.read(tmp_path)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_no_json_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ShardError, match=r"manifest\.json"):
        Manifest.read(tmp_path)


def test_a_missing_manifest_names_the_next_command(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="mlc prep build"):
        Manifest.read(tmp_path)


def test_group_numbers_are_the_first_63_bits() -> None:
    assert group_number("bible/GEN.1") == xxhash.xxh3_64_intdigest(b"bible/GEN.1") // 2
    assert 0 <= group_number("ü") < 2**63
    assert group_number("a", "bc") != group_number("ab", "c")
