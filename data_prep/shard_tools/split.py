"""One build becomes two: to train on, and to look at how training goes.

In:  a folder of shards, and a share or number of documents.
Out: two new folders. A document's part follows from a hash of (seed, its group), or (seed, shard, its number) where it
     has no group: translations of one text never lie in both parts, and the same build is always split the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

import mlc
from data_prep.shard_tools.streams import Selection, Stretch, copy_tokenizer, make_output, write_stretches
from mlc.config import digest
from mlc.data.manifest import NO_GROUP, Manifest, ShardEntry
from mlc.errors import RecipeError

_AT_ONCE = 1 << 20
_HASHES = 1 << 64


def split_build(
    build: Manifest,
    first: Path,
    second: Path,
    *,
    share: float | None = None,
    documents: int | None = None,
    seed: int = 1,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> tuple[Manifest, Manifest]:
    """Write two builds that hold every document of one, each in one of them, in its order.

    A shard of which a part gets no document is missing there.

    Args:
        build: its files are only read.
        first, second: new or empty folders.
        share: of the groups (documents without one count each) that go into the second part, above 0 and below 1: about
            this share of every shard.
        documents: or: how many documents of all shards together; more by as many as share their group with the last.
        seed: another one, another split.
        on_bytes: called with the number of bytes of tokens as they are written.

    Raises:
        RecipeError: not exactly one of `share` and `documents`, one that leaves a part empty, or a folder holds files.
        ShardError: a shard is damaged.
    """
    build.check()
    end = _hash_end(build, share, documents, seed)
    for output in (first, second):
        make_output(output)
    parts = []
    for number, output in enumerate((first, second)):
        entries = []
        for entry in build.shards:
            written = _part(build, entry, output, _selection(build, entry, seed, end, number == 1), on_bytes)
            entries += [written] if written is not None else []
        parts.append(
            Manifest(
                folder=output,
                tokenizer=copy_tokenizer(build, output),
                shards=tuple(entries),
                recipe_sha256=digest(["split", build.sha256, seed, end, number]) if build.recipe_sha256 else "",
                created_by=f"mlc {mlc.__version__}",
            )
        )
    for part, output in zip(parts, (first, second), strict=True):
        if not part.shards:
            raise RecipeError("a part of the split is empty", where=str(output), hint="choose another share or seed")
    for part, output in zip(parts, (first, second), strict=True):
        part.write(output)
    return parts[0], parts[1]


def _hash_end(build: Manifest, share: float | None, documents: int | None, seed: int) -> int:
    """Documents whose hash is below it go into the second part."""
    total = sum(entry.documents for entry in build.shards)
    if (share is None) == (documents is None):
        raise RecipeError("a split takes a share or a number of documents", found=f"{share} and {documents}")
    if documents is not None:
        if not 0 < documents < total:
            raise RecipeError(
                "a part of the split would be empty", found=f"{documents} documents", needed=f"1 .. {total - 1}"
            )
        return _nth_smallest(_all_hashes(build, seed), documents) + 1
    assert share is not None
    if not 0 < share < 1:
        raise RecipeError("a part of the split would be empty", found=f"share {share}", needed="above 0, below 1")
    return max(1, int(share * _HASHES))


def _all_hashes(build: Manifest, seed: int) -> Iterator[NDArray[np.uint64]]:
    for entry in build.shards:
        groups = build.groups(entry)
        for start in range(0, entry.documents, _AT_ONCE):
            yield _hashes(groups[start : start + _AT_ONCE], start, entry.name, seed)


def _nth_smallest(chunks: Iterator[NDArray[np.uint64]], n: int) -> int:
    """The n-th smallest (from 1) of many numbers, holding about 2 n of them."""
    held = np.empty(0, np.uint64)
    for chunk in chunks:
        held = np.concatenate([held, chunk if len(held) < n else chunk[chunk < held.max()]])
        if len(held) > n:
            held = np.partition(held, n - 1)[:n]
    return int(held.max())


def _selection(build: Manifest, entry: ShardEntry, seed: int, end: int, second: bool) -> Selection:
    groups = build.groups(entry)

    def select(start: int, stop: int) -> NDArray[np.bool_]:
        below = _hashes(groups[start:stop], start, entry.name, seed) <= np.uint64(end - 1)
        return below if second else ~below

    return select


def _hashes(groups: NDArray[np.int64], start: int, name: str, seed: int) -> NDArray[np.uint64]:
    """[documents] 64-bit hashes; `start` is the number of the first document."""
    numbers = np.arange(start, start + len(groups), dtype=np.uint64)
    of_groups = _mixed(groups.astype(np.uint64) ^ np.uint64(xxhash.xxh3_64_intdigest(f"group {seed}".encode())))
    of_numbers = _mixed(numbers ^ np.uint64(xxhash.xxh3_64_intdigest(f"document {seed} {name}".encode())))
    return np.where(groups == NO_GROUP, of_numbers, of_groups)


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection of 64-bit numbers: splitmix64's (Steele, Lea and Flood 2014)."""
    numbers = numbers + np.uint64(0x9E3779B97F4A7C15)
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def _part(
    build: Manifest, entry: ShardEntry, output: Path, selection: Selection, on_bytes: Callable[[int], None]
) -> ShardEntry | None:
    stretch = Stretch(build.open(entry), build.groups(entry), selection)
    if not any(len(chunk) for chunk in stretch.taken_groups()):
        return None
    known = replace(entry, dropped={}, text_bytes=0)  # neither is known of a part
    return write_stretches(output, known, [stretch], on_bytes)
