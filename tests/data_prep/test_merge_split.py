"""Builds merged and split: no document lost or doubled, translations together, the same result every time."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_shards import LANGUAGES, write_small_shards

from data_prep.shard_tools import streams
from data_prep.shard_tools.merge import merge_builds
from data_prep.shard_tools.split import split_build
from data_prep.verify import find_faults
from mlc.data.indexed import ShardWriter
from mlc.data.manifest import Manifest
from mlc.errors import RecipeError, ShardError

NAMES = [*(f"documents/{language}" for language in LANGUAGES), "pairs/aa-bb"]
Document = tuple[int, tuple[tuple[tuple[int, ...], ...], ...]]


def documents(manifest: Manifest, name: str) -> list[Document]:
    """Every document of a shard: its group, and of each side its sequences."""
    if name not in [entry.name for entry in manifest.shards]:
        return []
    entry = manifest.entry(name)
    sides = []
    for shard in manifest.open(entry):
        bounds = shard.document_bounds.tolist()
        sides.append(
            [tuple(tuple(shard.sequence(s).tolist()) for s in range(low, high)) for low, high in pairwise(bounds)]
        )
    return [(int(group), tuple(texts)) for group, *texts in zip(manifest.groups(entry), *sides, strict=True)]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_merging_joins_shards_in_the_order_given(tmp_path: Path) -> None:
    first = write_small_shards(tmp_path / "a", documents=7, pairs=5, seed=1)
    second = write_small_shards(tmp_path / "b", documents=300, pairs=9, seed=2)
    third = replace(second, shards=second.shards[:1])
    read: list[int] = []
    merged = merge_builds([first, second, third], tmp_path / "out", read.append)
    assert Manifest.read(tmp_path / "out") == merged
    assert find_faults(merged) == []
    for name in NAMES:
        assert documents(merged, name) == [d for build in (first, second, third) for d in documents(build, name)]
    assert sum(read) == sum(size["bytes"] for e in merged.shards for f, size in e.files.items() if f.endswith(".bin"))
    merge_builds([first, second, third], tmp_path / "again")
    assert files(tmp_path / "again") == files(tmp_path / "out")
    other = merge_builds([second, first], tmp_path / "other")
    assert documents(other, NAMES[0]) == documents(second, NAMES[0]) + documents(first, NAMES[0])


def test_merging_adds_what_was_counted(tmp_path: Path) -> None:
    build = write_small_shards(tmp_path / "a")
    known = [replace(entry, dropped={"empty": 2}, text_bytes=50, sources=("x",)) for entry in build.shards]
    counted = replace(build, shards=tuple(known), recipe_sha256="ab")
    merged = merge_builds([counted, counted], tmp_path / "out").shards[0]
    assert (merged.dropped, merged.text_bytes, merged.sources) == ({"empty": 4}, 100, ("x", "x"))
    merged = merge_builds([counted, build], tmp_path / "unknown").shards[0]
    assert merged.text_bytes == 0
    assert merge_builds([counted, counted], tmp_path / "built").recipe_sha256
    assert not merge_builds([counted, build], tmp_path / "adopted").recipe_sha256


def test_what_cannot_be_merged_is_refused(tmp_path: Path) -> None:
    build = write_small_shards(tmp_path / "a")
    other = write_small_shards(tmp_path / "b", tokenizer=b"another tokenizer")
    with pytest.raises(RecipeError, match="different tokenizers"):
        merge_builds([build, other], tmp_path / "out")
    with pytest.raises(RecipeError, match="two builds or more"):
        merge_builds([build], tmp_path / "out")
    with pytest.raises(RecipeError, match="holds files already"):
        merge_builds([build, build], tmp_path / "b")
    swapped = replace(build, shards=(replace(build.shards[-1], name="pairs/bb-aa", languages=("bb", "aa")),))
    with pytest.raises(RecipeError, match="both orders"):
        merge_builds([build, swapped], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    prefix = tmp_path / "a/documents/aa"
    shards = [shard.tokens for shard in build.open(build.shards[0])]
    with ShardWriter(prefix, "int32") as writer:
        writer.add_document([shards[0].copy()])
    with pytest.raises(ShardError, match=r"aa\.bin"):
        merge_builds([build, build], tmp_path / "out")


@settings(max_examples=12)
@given(
    seed=st.integers(0, 2**31),
    share=st.floats(0.3, 0.7),
    at_once=st.integers(1, 9),
    sequences=st.lists(st.integers(0, 3), min_size=1, max_size=4).filter(any),
    gathered=st.integers(1, 40),
)
def test_a_split_loses_nothing_and_keeps_translations_together(
    tmp_path_factory: pytest.TempPathFactory, seed: int, share: float, at_once: int, sequences: list[int], gathered: int
) -> None:
    folder = tmp_path_factory.mktemp("split")
    build = write_small_shards(folder / "a", documents=40, pairs=30, seed=seed, sequences=sequences)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "_DOCUMENTS_AT_ONCE", at_once)
        patch.setattr(streams, "_TOKENS_AT_ONCE", gathered)
        parts = split_build(build, folder / "train", folder / "dev", share=share, seed=seed)
    for name in NAMES:
        whole = documents(build, name)
        found = [documents(part, name) for part in parts]
        assert Counter(found[0]) + Counter(found[1]) == Counter(whole)
        for part in found:
            places = [whole.index(document) for document in part if whole.count(document) == 1]
            assert places == sorted(places)
    groups = [{group for name in NAMES for group, _ in documents(part, name)} - {-1} for part in parts]
    assert not groups[0] & groups[1]
    for part, output in zip(parts, ("train", "dev"), strict=True):
        assert Manifest.read(folder / output) == part
        faults = [fault for fault in find_faults(part) if "is empty" not in fault]
        assert faults == []


def test_a_split_is_the_same_every_time_and_follows_the_seed(tmp_path: Path) -> None:
    build = write_small_shards(tmp_path / "a", documents=400, pairs=300)
    for name, seed in (("x", 1), ("y", 1), ("z", 2)):
        split_build(build, tmp_path / name / "train", tmp_path / name / "dev", share=0.25, seed=seed)
    assert files(tmp_path / "x") == files(tmp_path / "y")
    assert files(tmp_path / "x") != files(tmp_path / "z")
    dev = Manifest.read(tmp_path / "x/dev")
    for entry in dev.shards:
        # The binomial's deviation is at most sqrt(400 / 4 * 3 / 4) = 8.7: five of them, for a fixed seed.
        assert abs(entry.documents - 0.25 * build.entry(entry.name).documents) < 45


@pytest.mark.parametrize("count", [1, 7, 100])
def test_a_number_of_documents(tmp_path: Path, count: int) -> None:
    build = write_small_shards(tmp_path / "a", documents=100, pairs=80)
    _, dev = split_build(build, tmp_path / "train", tmp_path / "dev", documents=count)
    found = sum(entry.documents for entry in dev.shards)
    assert count <= found < count + len(LANGUAGES)  # no group has more documents than there are languages


def test_what_cannot_be_split_is_refused(tmp_path: Path) -> None:
    build = write_small_shards(tmp_path / "a", documents=3, pairs=2)
    outputs = (tmp_path / "x", tmp_path / "y")
    for choice in (
        {},
        {"share": 0.1, "documents": 3},
        {"share": 0.0},
        {"share": 1.0},
        {"documents": 0},
        {"documents": 11},
    ):
        with pytest.raises(RecipeError, match="share" if "share" in choice or not choice else "documents"):
            split_build(build, *outputs, **choice)  # type: ignore[arg-type]
        assert not outputs[0].exists()
    with pytest.raises(RecipeError, match="is empty"):
        split_build(build, *outputs, share=1e-12)
    assert not (outputs[0] / "manifest.json").exists()


def test_the_smallest_hashes_are_found_in_chunks() -> None:
    from data_prep.shard_tools.split import _nth_smallest

    numbers = np.random.default_rng(3).integers(0, 2**63, 1000, dtype=np.uint64)
    for n in (1, 2, 500, 999, 1000):
        assert _nth_smallest(iter(np.array_split(numbers, 13)), n) == int(np.sort(numbers)[n - 1])
