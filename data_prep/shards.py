"""Prepared documents to the files of one shard.

In:  a `ShardPlan` and the tokenizer.
Out: `.bin`, `.idx` (two of each for pairs), `.groups.npy`, and the `ShardEntry` of the manifest. Documents pass through
     in chunks; what grows with the corpus are a few bytes for each sequence and document (the index).
"""

from __future__ import annotations

import hashlib
import io
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from data_prep.plan import ShardPlan
from data_prep.prepare import Prepared, Rejects, prepare
from data_prep.progress import Progress
from data_prep.recipe import PrepRecipe
from data_prep.tokenizer import Tokenizer
from mlc.data.indexed import ShardWriter, bin_path, idx_path
from mlc.data.manifest import ShardEntry
from mlc.files import write_atomically

Encoded: TypeAlias = list[tuple[str, NDArray[Any]]]
"""The sequences of one side of a document: text and ids."""

_CHUNK_CHARACTERS = 1 << 20
"""Text given to the tokenizer at once: enough to hide the cost of a call, little enough to stay in the cache."""


def write_shard(
    plan: ShardPlan, recipe: PrepRecipe, tokenizer: Tokenizer, output: Path, progress: Progress
) -> ShardEntry:
    """Build one shard; its indexed files appear under their final names, one after the other, when all is encoded.

    A process that is killed in between leaves files that no manifest lists.

    Raises:
        DataError: a file is cut short, or too many records had to be set aside.
    """
    groups = array("q")
    counts = _Counts()
    with ExitStack() as stack:
        rejects = stack.enter_context(Rejects(output, plan.name))
        writers = [stack.enter_context(ShardWriter(output / prefix, tokenizer.dtype)) for prefix in plan.prefixes]
        for chunk in _chunks(prepare(plan, recipe, rejects, progress.bytes)):
            before = counts.tokens
            for document, sides in _encode(tokenizer, chunk):
                if not all(sides):
                    rejects.add(document.rejected("no_tokens", "the tokenizer leaves nothing of it"))
                    continue
                for writer, sequences in zip(writers, sides, strict=True):
                    writer.add_document([ids for _, ids in sequences])
                groups.append(document.group)
                counts.add(sides)
            progress.done(len(chunk), counts.tokens - before)
        rejects.check(recipe.build.max_rejected_fraction)  # again, for the tokenizer's
    entry = ShardEntry(
        name=plan.name,
        kind=plan.kind,
        languages=plan.languages,
        prefixes=plan.prefixes,
        documents=len(groups),
        sequences=counts.sequences,
        tokens=counts.tokens,
        text_bytes=counts.text_bytes,
        files={},
        sources=tuple(map(str, plan.files)),
        dropped=dict(sorted(rejects.counts.items())),
    )
    buffer = io.BytesIO()
    np.save(buffer, np.array(groups, dtype="<i8"))
    write_atomically(output / entry.groups_file, buffer.getvalue())
    paths = [path(output / prefix) for prefix in plan.prefixes for path in (bin_path, idx_path)]
    for path in [*paths, output / entry.groups_file]:
        entry.files[path.relative_to(output).as_posix()] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    return entry


def sha256_of(path: Path) -> str:
    """Hash of a file's content, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass
class _Counts:
    sequences: int = 0
    tokens: int = 0
    text_bytes: int = 0

    def add(self, sides: Sequence[Encoded]) -> None:
        self.sequences += len(sides[0])
        self.tokens += sum(len(ids) for side in sides for _, ids in side)
        self.text_bytes += sum(len(text.encode()) for side in sides for text, _ in side)


def _chunks(documents: Iterator[Prepared]) -> Iterator[list[Prepared]]:
    chunk: list[Prepared] = []
    characters = 0
    for document in documents:
        chunk.append(document)
        characters += sum(len(text) for side in document.sequences for text in side)
        if characters >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _encode(tokenizer: Tokenizer, documents: Sequence[Prepared]) -> Iterator[tuple[Prepared, list[Encoded]]]:
    """Each document with its sides' sequences; those that have no tokens are left out."""
    found = iter(tokenizer.encode([text for document in documents for side in document.sequences for text in side]))
    for document in documents:
        sides = [[(text, next(found)) for text in side] for side in document.sequences]
        yield document, [[(text, ids) for text, ids in side if len(ids)] for side in sides]
