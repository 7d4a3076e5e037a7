"""Prepared documents to the files of one shard.

In:  a `ShardPlan` and the tokenizer.
Out: `.bin`, `.idx` (two of each for pairs), `.groups.npy`, and the `ShardEntry` of the manifest. Documents pass through
     in chunks; what grows with the corpus are a few bytes for each sequence and document (the index).
"""

from __future__ import annotations

import hashlib
import io
from array import array
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.plan import ShardPlan
from data_prep.prepare import Prepared, Rejects, prepare
from data_prep.progress import Progress
from data_prep.recipe import PrepRecipe
from data_prep.tokenizer import Tokenizer
from mlc.data.indexed import ShardWriter, bin_path, idx_path
from mlc.data.manifest import ShardEntry, write_atomically

_CHUNK_CHARACTERS = 1 << 20
"""Text given to the tokenizer at once: enough to hide the cost of a call, little enough to stay in the cache."""


def write_shard(
    plan: ShardPlan, recipe: PrepRecipe, tokenizer: Tokenizer, output: Path, progress: Progress
) -> ShardEntry:
    """Build one shard; nothing appears under the final names unless all of it could be built.

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
            for side, writer in enumerate(writers):
                for sequences in _encode(tokenizer, [document.sequences[side] for document in chunk]):
                    writer.add_document(sequences)
                    counts.tokens += sum(map(len, sequences))
            groups.extend(document.group for document in chunk)
            counts.add(chunk)
            progress.done(len(chunk), counts.tokens - before)
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

    def add(self, documents: Iterable[Prepared]) -> None:
        for document in documents:
            self.sequences += len(document.sequences[0])
            self.text_bytes += sum(len(text.encode()) for side in document.sequences for text in side)


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


def _encode(tokenizer: Tokenizer, documents: list[list[str]]) -> Iterator[list[NDArray[Any]]]:
    ids = iter(tokenizer.encode([text for document in documents for text in document]))
    for document in documents:
        yield [next(ids) for _ in document]
