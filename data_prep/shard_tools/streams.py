"""Shards on disk as chunks of arrays, and chunks as a shard: what merging and splitting have in common.

In:  `IndexedShard`s, some of their documents or all of them.
Out: tokens, lengths, document sizes in chunks; the files of a new shard. Nothing is held but a chunk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.hashed_file import FileSet
from data_prep.index_files import write_groups, write_index
from mlc.data.indexed import IndexedShard, bin_path, idx_path
from mlc.data.manifest import Manifest, ShardEntry, TokenizerInfo
from mlc.errors import RecipeError
from mlc.files import write_atomically

_DOCUMENTS_AT_ONCE = 4096
_TOKENS_AT_ONCE = 1 << 20

Selection = Callable[[int, int], NDArray[np.bool_]]
"""(start, end) -> bool [end - start]: which of these documents are taken."""


@dataclass(frozen=True)
class Stretch:
    """Documents of one shard.

    Attributes:
        shards: its sides.
        groups: int64 [documents].
        selection: of documents; None: all.
    """

    shards: Sequence[IndexedShard]
    groups: NDArray[np.int64]
    selection: Selection | None = None

    def chunks(self) -> Iterator[tuple[int, int, NDArray[np.bool_]]]:
        """(start, end, which) of documents, chunk by chunk."""
        for start in range(0, len(self.groups), _DOCUMENTS_AT_ONCE):
            end = min(start + _DOCUMENTS_AT_ONCE, len(self.groups))
            yield start, end, self.selection(start, end) if self.selection else np.ones(end - start, dtype=bool)

    def taken_groups(self) -> Iterator[NDArray[np.int64]]:
        """Group numbers of the documents that are taken."""
        for start, end, which in self.chunks():
            yield self.groups[start:end][which]

    def sizes(self, side: int) -> Iterator[NDArray[Any]]:
        """Sequences of each document."""
        for start, end, which in self.chunks():
            yield np.diff(self.shards[side].document_bounds[start : end + 1])[which]

    def lengths(self, side: int) -> Iterator[NDArray[Any]]:
        """Tokens of each sequence."""
        shard = self.shards[side]
        for start, end, which in self.chunks():
            bounds = shard.document_bounds[start : end + 1]
            yield shard.lengths[int(bounds[0]) : int(bounds[-1])][np.repeat(which, np.diff(bounds))]

    def tokens(self, side: int) -> Iterator[NDArray[Any]]:
        """All tokens of the documents that are taken."""
        shard = self.shards[side]
        starts = np.empty(_DOCUMENTS_AT_ONCE + 1, np.int64)
        for start, end, which in self.chunks():
            bounds = shard.document_bounds[start : end + 1]
            inside = bounds < shard.num_sequences
            starts[: len(bounds)][inside] = shard.offsets[bounds[inside]] // shard.dtype.itemsize
            starts[: len(bounds)][~inside] = shard.num_tokens
            edges = np.flatnonzero(np.diff(which, prepend=False, append=False)).reshape(-1, 2)  # runs of taken ones
            if len(edges) > 1 and starts[end - start] - starts[0] <= 4 * _TOKENS_AT_ONCE:
                taken = np.repeat(which, np.diff(starts[: len(bounds)]))
                yield shard.tokens[int(starts[0]) : int(starts[end - start])][taken]
                continue
            for first, last in edges.tolist():
                for token in range(int(starts[first]), int(starts[last]), _TOKENS_AT_ONCE):
                    yield shard.tokens[token : min(token + _TOKENS_AT_ONCE, int(starts[last]))]


class _Joined:
    """Chunks of several stretches; may be gone through again and again."""

    def __init__(self, chunks: Sequence[Callable[[], Iterable[NDArray[Any]]]]) -> None:
        self._chunks = chunks

    def __iter__(self) -> Iterator[NDArray[Any]]:
        for chunks in self._chunks:
            yield from chunks()


def write_stretches(
    output: Path, entry: ShardEntry, stretches: Sequence[Stretch], on_bytes: Callable[[int], None]
) -> ShardEntry:
    """Write documents of several shards as one.

    Args:
        output: folder of the new build.
        entry: name, kind and languages of the shard, and what is known of its sources.
        stretches: in their order; all of one dtype.
        on_bytes: called with the number of bytes of tokens as they are written.

    Returns:
        The entry with counts, prefixes and files.
    """
    prefixes = (
        (entry.name,)
        if entry.kind == "documents"
        else tuple(f"{entry.name}.{language}" for language in entry.languages)
    )
    documents = sum(len(chunk) for stretch in stretches for chunk in stretch.taken_groups())
    dtype = stretches[0].shards[0].dtype
    sequences = tokens = 0
    listed: dict[str, dict[str, Any]] = {}
    with FileSet() as files:
        for side, prefix in enumerate(prefixes):
            file = files.open(bin_path(output / prefix), hashlib.sha256)
            for stretch in stretches:
                for chunk in stretch.tokens(side):
                    file.write(chunk)
                    on_bytes(chunk.nbytes)
            tokens += file.bytes // dtype.itemsize
        for side, prefix in enumerate(prefixes):
            lengths = _Joined([partial(stretch.lengths, side) for stretch in stretches])
            sizes = _Joined([partial(stretch.sizes, side) for stretch in stretches])
            sequences = sum(len(chunk) for chunk in lengths)
            index = files.open(idx_path(output / prefix), hashlib.sha256)
            write_index(index, dtype, sequences, documents, lengths, sizes)
        groups = _Joined([stretch.taken_groups for stretch in stretches])
        name = f"{entry.name}.groups.npy"
        write_groups(files.open(output / name, hashlib.sha256), documents, groups)
        for path, (size, digest) in files.finish().items():
            listed[path.relative_to(output).as_posix()] = {"bytes": size, "sha256": digest}
        files.commit()
    return replace(entry, prefixes=prefixes, documents=documents, sequences=sequences, tokens=tokens, files=listed)


def copy_tokenizer(manifest: Manifest, output: Path) -> TokenizerInfo:
    """Copy all files of a build's tokenizer."""
    names = {name: Path(name).name for name in manifest.tokenizer.files}
    for name, copied in names.items():
        write_atomically(output / copied, (manifest.folder / name).read_bytes())
    others = {names[name]: sha256 for name, sha256 in manifest.tokenizer.other_files.items()}
    return replace(manifest.tokenizer, file=names[manifest.tokenizer.file], other_files=others)


def make_output(output: Path) -> None:
    """Make the folder of a new build.

    Raises:
        RecipeError: it holds files.
    """
    if output.is_dir() and any(output.iterdir()):
        raise RecipeError(
            "the output folder holds files already",
            found=", ".join(sorted(path.name for path in output.iterdir())[:5]),
            needed="a folder that is new or empty",
            where=str(output),
        )
    output.mkdir(parents=True, exist_ok=True)
