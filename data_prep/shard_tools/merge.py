"""Several builds with the same tokenizer become one.

In:  folders of shards, in an order.
Out: a new folder: shards of the same name are joined in that order, with their group numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import mlc
from data_prep.shard_tools.streams import Stretch, copy_tokenizer, make_output, write_stretches
from mlc.config import digest
from mlc.data.manifest import Manifest, ShardEntry
from mlc.errors import RecipeError


def merge_builds(
    builds: Sequence[Manifest], output: Path, on_bytes: Callable[[int], None] = lambda count: None
) -> Manifest:
    """Write a build that holds the documents of several.

    The result is a function of the builds and their order. The same document in two of them stays twice.

    Args:
        builds: two or more; their files are only read.
        output: a new or empty folder.
        on_bytes: called with the number of bytes of tokens as they are written.

    Raises:
        RecipeError: the tokenizers differ, a pair of languages has both orders, or the folder holds files.
        ShardError: a shard is damaged.
    """
    _check_alike(builds)
    make_output(output)
    found: dict[str, list[tuple[Manifest, ShardEntry]]] = {}
    for build in builds:
        for entry in build.shards:
            found.setdefault(entry.name, []).append((build, entry))
    manifest = Manifest(
        folder=output,
        tokenizer=copy_tokenizer(builds[0], output),
        shards=tuple(_merged(found[name], output, on_bytes) for name in sorted(found)),
        recipe_sha256=_recipe(builds),
        created_by=f"mlc {mlc.__version__}",
    )
    manifest.write(output)
    return manifest


def _recipe(builds: Sequence[Manifest]) -> str:
    """Empty where a part was adopted: what text cannot give may be in it."""
    if not all(build.recipe_sha256 for build in builds):
        return ""
    return digest(["merge", *(build.sha256 for build in builds)])


def _check_alike(builds: Sequence[Manifest]) -> None:
    if len(builds) < 2:
        raise RecipeError("merging takes two builds or more", found=f"{len(builds)}")
    first = builds[0]
    for other in builds:
        other.check()
        mine, theirs = (replace(build.tokenizer, file="") for build in (first, other))
        if mine != theirs:
            raise RecipeError(
                "the builds have different tokenizers",
                found=f"sha256 {theirs.sha256[:12]}, {theirs.vocab_size} ids in {other.folder}",
                needed=f"sha256 {mine.sha256[:12]}, {mine.vocab_size} ids as in {first.folder}",
                hint="build one of them again with the tokenizer of the other (tokenizer.path)",
            )
    seen = {entry.languages for build in builds for entry in build.shards}
    for languages in sorted(seen):
        if len(languages) == 2 and languages[0] < languages[1] and languages[::-1] in seen:
            raise RecipeError(
                "the same two languages are paired in both orders",
                found=f"{'-'.join(languages)} and {'-'.join(languages[::-1])}",
                needed="one order in all builds",
            )


def _merged(parts: Sequence[tuple[Manifest, ShardEntry]], output: Path, on_bytes: Callable[[int], None]) -> ShardEntry:
    entries = [entry for _, entry in parts]
    stretches = [Stretch(build.open(entry), build.groups(entry)) for build, entry in parts]
    dtypes = {shard.dtype.name for stretch in stretches for shard in stretch.shards}
    if len(dtypes) > 1:
        raise RecipeError("shards of one name differ in dtype", found=", ".join(sorted(dtypes)), where=entries[0].name)
    dropped: Counter[str] = Counter()
    for entry in entries:
        dropped.update(entry.dropped)
    known = all(entry.text_bytes for entry in entries)
    whole = replace(
        entries[0],
        sources=tuple(source for entry in entries for source in entry.sources),
        dropped=dict(sorted(dropped.items())),
        text_bytes=sum(entry.text_bytes for entry in entries) if known else 0,
    )
    return write_stretches(output, whole, stretches, on_bytes)
