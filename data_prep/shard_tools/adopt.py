"""A manifest for shards that Megatron or GPT-NeoX made, so that training can use them where they are.

In:  prefixes of `.bin`/`.idx` pairs, their languages, and the tokenizer they were made with.
Out: a folder with `manifest.json` and a copy of the tokenizer. No token is copied; every one is read once, for its hash
     and its bounds.

Two kinds of index that Megatron reads, and this project's reader does not, get an `.idx` of their own in that folder,
with a link to the `.bin` beside it: document bounds without the leading 0, and an index that names no document (a
writer whose `end_document` was never called), where every sequence becomes one. Float tokens, and indexes with the
modes of multimodal data behind them, are refused.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import mlc
from data_prep.encoding.reference import copy_tokenizer
from data_prep.hashed_file import FileSet
from data_prep.index_files import write_groups, write_index
from data_prep.verify import scan_tokens
from mlc.data.indexed import DTYPE_OF_CODE, HEADER, IndexedShard, bin_path, idx_path
from mlc.data.manifest import MANIFEST_NAME, Manifest, ShardEntry
from mlc.errors import RecipeError, ShardError

_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Foreign:
    """One shard to adopt.

    Attributes:
        languages: one, or the two of sentence pairs.
        prefixes: of its files, as many; `.bin` or `.idx` behind them may be given too.
        groups: a .npy of int64 [documents] group numbers, if there is one.
    """

    languages: tuple[str, ...]
    prefixes: tuple[Path, ...]
    groups: Path | None = None

    @property
    def name(self) -> str:
        """Of the shard: "documents/de", "pairs/en-de"."""
        return f"{'documents' if len(self.languages) == 1 else 'pairs'}/{'-'.join(self.languages)}"


def adopt_shards(
    output: Path, tokenizer: Path, shards: Sequence[Foreign], on_bytes: Callable[[int], None] = lambda count: None
) -> Manifest:
    """Write the manifest of shards that lie somewhere else, or in the same folder.

    Args:
        output: folder of the manifest; must hold none.
        tokenizer: a SentencePiece model, or a tokenizer.json of Hugging Face or a folder with one.
        shards: one for each language or two languages.
        on_bytes: called with the number of bytes of tokens as they are read.

    Raises:
        RecipeError: there is a manifest already, a language is named twice, or the tokenizer cannot be read.
        ShardError: a shard cannot be used: damaged, float tokens, ids outside the vocabulary, empty sequences, or pairs
            whose sides do not agree.
    """
    if (output / MANIFEST_NAME).exists():
        raise RecipeError("the folder has a manifest already", where=str(output), hint="name another folder")
    names = [foreign.name for foreign in shards]
    for name in names:
        if names.count(name) > 1:
            raise RecipeError(
                "two shards of the same language",
                found=name,
                needed="one for each",
                hint="adopt each into a folder of its own, then mlc prep merge",
            )
    output.mkdir(parents=True, exist_ok=True)
    manifest = Manifest(
        folder=output, tokenizer=copy_tokenizer(tokenizer, output), shards=(), created_by=f"mlc {mlc.__version__}"
    )
    entries = [_entry(manifest, foreign, on_bytes) for foreign in sorted(shards, key=lambda foreign: foreign.name)]
    manifest = replace(manifest, shards=tuple(entries))
    manifest.write(output)
    return manifest


def _entry(manifest: Manifest, foreign: Foreign, on_bytes: Callable[[int], None]) -> ShardEntry:
    if len(foreign.languages) != len(foreign.prefixes) or len(foreign.languages) not in {1, 2}:
        raise RecipeError(
            "a shard has one language and prefix, or two",
            found=f"languages {foreign.languages}, {len(foreign.prefixes)} prefixes",
        )
    output = manifest.folder
    prefixes, shards, files = [], [], {}
    for language, given in zip(foreign.languages, foreign.prefixes, strict=True):
        own = output / (foreign.name if len(foreign.languages) == 1 else f"{foreign.name}.{language}")
        prefix = _readable(_without_suffix(given), own)
        shard = IndexedShard(prefix)
        _check_documents(shard, len(foreign.languages) == 2)
        sha256, faults = scan_tokens(manifest, prefix, shard, on_bytes)
        if faults:
            raise ShardError("the shard was made with another tokenizer", found=faults[0], where=str(prefix))
        prefixes.append(_relative(prefix, output))
        shards.append(shard)
        files[_relative(bin_path(prefix), output)] = {"bytes": bin_path(prefix).stat().st_size, "sha256": sha256}
        files[_relative(idx_path(prefix), output)] = _facts(idx_path(prefix))
    if len({shard.num_documents for shard in shards}) > 1:
        raise ShardError(
            "the sides of sentence pairs differ in length",
            found=" and ".join(f"{shard.num_documents} documents" for shard in shards),
            where=foreign.name,
        )
    entry = ShardEntry(
        name=foreign.name,
        kind="documents" if len(shards) == 1 else "pairs",
        languages=foreign.languages,
        prefixes=tuple(prefixes),
        documents=shards[0].num_documents,
        sequences=shards[0].num_sequences,
        tokens=sum(shard.num_tokens for shard in shards),
        files=files,
        sources=tuple(map(str, foreign.prefixes)),
    )
    if foreign.groups is not None:
        files[entry.groups_file] = _copy_groups(foreign.groups, output / entry.groups_file, entry.documents)
    return entry


def _without_suffix(prefix: Path) -> Path:
    return prefix.with_name(prefix.stem) if prefix.suffix in {".bin", ".idx"} else prefix


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def _facts(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _check_documents(shard: IndexedShard, pairs: bool) -> None:
    where = str(idx_path(shard.prefix))
    if not shard.num_documents:
        raise ShardError("the shard has no documents", where=where)
    if not shard.lengths.all():
        raise ShardError("a sequence is empty", found=f"sequence {int(np.argmin(shard.lengths))}", where=where)
    sizes = np.diff(shard.document_bounds)
    for wrong, needed in ((sizes < 1, "at least one"), (sizes > 1, "exactly one, as in all sentence pairs")):
        if wrong.any() and (pairs or needed == "at least one"):
            d = int(np.argmax(wrong))
            raise ShardError(
                f"document {d} has another number of sequences", found=str(sizes[d]), needed=needed, where=where
            )


def _readable(prefix: Path, own: Path) -> Path:
    """The prefix itself, or one in the manifest's folder whose index says the same in the form that is read here."""
    try:
        with idx_path(prefix).open("rb") as file:
            header = file.read(HEADER.size)
    except OSError as error:
        raise ShardError(
            "the shard cannot be opened", found=error.strerror or str(error), where=str(idx_path(prefix))
        ) from None
    if len(header) < HEADER.size:
        return prefix  # refused when it is opened
    _, _, code, sequences, bounds = HEADER.unpack(header)
    start, size = HEADER.size + 12 * sequences, idx_path(prefix).stat().st_size
    if code not in DTYPE_OF_CODE or size != start + 8 * bounds or not bounds:
        return prefix
    ends = np.memmap(idx_path(prefix), np.dtype("u1"), "r")[start:].view("<i8")
    sizes: _Ones | _Ends
    if sequences and (bounds, int(ends[0])) == (1, 0):
        sizes = _Ones(sequences)
    elif ends[0] > 0 and int(ends[-1]) == sequences:
        sizes = _Ends(ends)
    else:
        return prefix
    if own.resolve() == prefix.resolve():
        raise ShardError(
            "this index needs a form of its own, and the folder of the manifest has the shard's name already",
            where=str(prefix),
            hint="name another folder for the manifest",
        )
    _write_own(prefix, own, DTYPE_OF_CODE[code], sequences, sizes)
    return own


def _write_own(prefix: Path, own: Path, dtype: np.dtype[Any], sequences: int, sizes: _Ones | _Ends) -> None:
    lengths = np.memmap(idx_path(prefix), np.dtype("u1"), "r")[HEADER.size : HEADER.size + 4 * sequences].view("<i4")
    parts = [lengths[start : start + _AT_ONCE] for start in range(0, sequences, _AT_ONCE)]
    with FileSet() as files:
        write_index(files.open(idx_path(own), hashlib.sha256), dtype, sequences, len(sizes), parts, sizes)
        files.finish()
        files.commit()
    bin_path(own).unlink(missing_ok=True)
    bin_path(own).symlink_to(os.path.relpath(bin_path(prefix).resolve(), own.parent.resolve()))


class _Ones:
    """Sizes of documents of one sequence each, in chunks."""

    def __init__(self, documents: int) -> None:
        self._documents = documents

    def __len__(self) -> int:
        return self._documents

    def __iter__(self) -> Iterator[NDArray[Any]]:
        for start in range(0, self._documents, _AT_ONCE):
            yield np.ones(min(_AT_ONCE, self._documents - start), np.int32)


class _Ends:
    """Sizes of documents whose ends are known, in chunks."""

    def __init__(self, ends: NDArray[Any]) -> None:
        self._ends = ends

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        before = 0
        for start in range(0, len(self._ends), _AT_ONCE):
            chunk = self._ends[start : start + _AT_ONCE]
            yield np.diff(chunk, prepend=np.int64(before))
            before = int(chunk[-1])


def _copy_groups(source: Path, target: Path, documents: int) -> dict[str, Any]:
    try:
        groups = np.load(source, allow_pickle=False)
    except Exception as error:  # numpy's parser of the header raises many kinds
        raise ShardError("the group numbers cannot be read", found=str(error), where=str(source)) from None
    if getattr(groups, "shape", None) != (documents,) or groups.dtype.kind not in "iu":
        raise ShardError("these are no group numbers of this shard", needed=f"int64 ({documents},)", where=str(source))
    with FileSet() as files:
        write_groups(files.open(target, hashlib.sha256), documents, [groups])
        size, sha256 = files.finish()[target]
        files.commit()
    return {"bytes": size, "sha256": sha256}
