"""Verifying with several processes: the same faults in the same order, every byte counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from small_shards import write_small_shards

from data_prep.verify import find_faults, total_bytes
from mlc.data.manifest import Manifest
from mlc.errors import ShardError


def damage(manifest: Manifest) -> None:
    folder = manifest.folder
    (folder / "tokenizer.model").write_bytes(b"another")
    flip(folder / "documents/aa.bin", 0)
    flip(folder / "documents/bb.idx", 40)
    (folder / "documents/cc.groups.npy").write_bytes(b"short")
    (folder / "pairs/aa-bb.bb.bin").unlink()


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_faults_and_their_order_do_not_depend_on_processes(tmp_path: Path) -> None:
    manifest = write_small_shards(tmp_path / "shards")
    damage(manifest)
    read: dict[int, list[int]] = {1: [], 3: []}
    shards: dict[int, list[str]] = {1: [], 3: []}
    found = {jobs: find_faults(manifest, shards[jobs].append, jobs=jobs, on_bytes=read[jobs].append) for jobs in (1, 3)}
    assert found[1] == found[3]
    assert shards[1] == shards[3] == [entry.name for entry in manifest.shards]
    assert sum(read[1]) == sum(read[3])
    for part in ("tokenizer.model: sha256", "aa.bin: sha256", "bb.idx: sha256", "bb.idx: sequence", "groups.npy: 5 by"):
        assert any(part in fault for fault in found[1]), part
    assert any("aa-bb.bb.bin: no such file" in fault for fault in found[1])


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_byte_is_counted(tmp_path: Path, jobs: int) -> None:
    manifest = write_small_shards(tmp_path / "shards")
    read: list[int] = []
    assert find_faults(manifest, jobs=jobs, on_bytes=read.append) == []
    assert sum(read) == total_bytes(manifest)


def test_what_is_listed_in_a_wrong_way(tmp_path: Path) -> None:
    manifest = write_small_shards(tmp_path / "shards")
    entry = manifest.shards[0]
    without = {name: facts for name, facts in entry.files.items() if not name.endswith(".bin")}
    faults = find_faults(replace(manifest, shards=(replace(entry, files=without), *manifest.shards[1:])))
    assert faults == ["manifest.json: shard documents/aa lists no file documents/aa.bin"]
    faults = find_faults(replace(manifest, shards=(replace(entry, tokens=3),)))
    assert [fault.rpartition(": ")[2].endswith("the manifest says 3") for fault in faults] == [True]


def test_special_tokens_are_faults_of_what_was_built_from_text(tmp_path: Path) -> None:
    manifest = write_small_shards(tmp_path / "shards")
    ids = manifest.tokenizer.special_ids | {"[SEP]": 150}
    other = replace(manifest, tokenizer=replace(manifest.tokenizer, special_ids=ids))
    assert find_faults(other) == []
    faults = find_faults(replace(other, recipe_sha256="ab"))
    shards = [shard for entry in manifest.shards for shard in manifest.open(entry)]
    assert len(faults) == sum(bool((shard.tokens == 150).any()) for shard in shards) > 0
    assert all("holds the special token [SEP]" in fault for fault in faults)


def test_a_manifest_of_another_kind_of_shards_is_refused(tmp_path: Path) -> None:
    manifest = write_small_shards(tmp_path / "shards")
    replace(manifest, shards=(replace(manifest.shards[0], languages=("aa", "bb")),)).write(tmp_path / "shards")
    with pytest.raises(ShardError, match="documents with 2 languages"):
        Manifest.read(tmp_path / "shards")
