"""Prove that shards are what their manifest says: every hash, bound, id and count.

In:  a folder of shards.
Out: a list of faults, empty if there is none. Reads every byte; tokens are hashed and looked at in one reading.

The work is cut into pieces (a file to hash, a pair of `.bin` and `.idx`, an array of groups) that several processes
take, the largest first; the faults stand in the order of the manifest whoever found them.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mlc.data.indexed import IndexedShard, bin_path, idx_path, token_dtype
from mlc.data.manifest import NO_GROUP, SPECIAL_TOKENS, Manifest, ShardEntry
from mlc.errors import MlcError, ShardError

_TOKENS_AT_ONCE = 1 << 20
_BLOCK_BYTES = 1 << 20
_SECONDS_BETWEEN_COUNTS = 0.2

Report = Callable[[int], None]


@dataclass(frozen=True)
class _Piece:
    """Work of one process.

    Attributes:
        entry: place of the shard in the manifest.
        prefix: of the pair of files to look into; else
        file: to hash; neither: the group numbers are looked at.
    """

    entry: int
    prefix: str = ""
    file: str = ""


@dataclass(frozen=True)
class _Found:
    """What a piece came to: the faults of its file, those inside of it, and the tokens of a `.bin`."""

    file_faults: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    tokens: int | None = None


def find_faults(
    manifest: Manifest,
    on_shard: Callable[[str], None] = lambda name: None,
    *,
    jobs: int = 1,
    on_bytes: Report = lambda count: None,
) -> list[str]:
    """Every fault of a build, each one line with the file it is in.

    Args:
        manifest: from `Manifest.read`, which has checked itself already.
        on_shard: called with the name of each shard before its faults are gathered.
        jobs: processes; the faults and their order do not depend on it.
        on_bytes: called with the number of bytes that were read since the last call, now and then; see `total_bytes`.
    """
    faults = list(_tokenizer_faults(manifest))
    names = [entry.name for entry in manifest.shards]
    faults += [f"manifest.json: shard {name} is listed twice" for name in sorted(set(names)) if names.count(name) > 1]
    pieces = [piece for number, entry in enumerate(manifest.shards) for piece in _pieces(number, entry)]
    with ExitStack() as stack:
        if jobs > 1 and len(pieces) > 1:
            found = stack.enter_context(_Pool(manifest, pieces, min(jobs, len(pieces)), on_bytes)).found
        else:
            found = lambda piece: _look_at(manifest, piece, on_bytes)  # noqa: E731
        for number, entry in enumerate(manifest.shards):
            on_shard(entry.name)
            faults += _entry_faults(entry, {piece: found(piece) for piece in _pieces(number, entry)})
    return faults


def total_bytes(manifest: Manifest) -> int:
    """What `on_bytes` comes to where every file has the size that the manifest says."""
    return sum(facts["bytes"] for entry in manifest.shards for facts in entry.files.values())


def _pieces(number: int, entry: ShardEntry) -> list[_Piece]:
    tokens = {f"{prefix}.bin" for prefix in entry.prefixes}
    pieces = [_Piece(number, file=name) for name in entry.files if name not in tokens]
    return pieces + [_Piece(number, prefix=prefix) for prefix in dict.fromkeys(entry.prefixes)] + [_Piece(number)]


def _entry_faults(entry: ShardEntry, found: dict[_Piece, _Found]) -> Iterator[str]:
    for name in (f"{prefix}.{suffix}" for prefix in entry.prefixes for suffix in ("bin", "idx")):
        if name not in entry.files:
            yield f"manifest.json: shard {entry.name} lists no file {name}"
    of_file = {piece.file or f"{piece.prefix}.bin": each for piece, each in found.items() if piece.file or piece.prefix}
    for name in entry.files:
        yield from of_file[name].file_faults
    inside = [each for piece, each in found.items() if piece.prefix]
    for each in inside:
        yield from each.faults
    tokens = [each.tokens for each in inside if each.tokens is not None]
    if len(tokens) == len(entry.prefixes) and sum(tokens) != entry.tokens:
        yield f"shard {entry.name}: {sum(tokens)} tokens, the manifest says {entry.tokens}"
    for piece, each in found.items():
        if not piece.prefix and not piece.file:
            yield from each.faults


def _look_at(manifest: Manifest, piece: _Piece, report: Report) -> _Found:
    entry = manifest.shards[piece.entry]
    if piece.prefix:
        return _look_into(manifest, entry, piece.prefix, report)
    if piece.file:
        return _Found(file_faults=tuple(_file_faults(manifest, entry, piece.file, None, report)))
    return _Found(faults=tuple(_group_faults(manifest, entry)))


def _tokenizer_faults(manifest: Manifest) -> Iterator[str]:
    for name, sha256 in manifest.tokenizer.files.items():
        path = manifest.folder / name
        if not path.is_file():
            yield f"{path}: no such file"
        elif (found := _hash(path, lambda count: None)) != sha256:
            yield f"{path}: sha256 {found[:12]}, the manifest says {sha256[:12]}"
    ids = manifest.tokenizer.special_ids
    if set(ids) != set(SPECIAL_TOKENS) or len(set(ids.values())) != len(ids):
        yield f"manifest.json: special tokens {ids}, needed different ids for {', '.join(SPECIAL_TOKENS)}"
    if any(not 0 <= token < manifest.tokenizer.vocab_size for token in ids.values()):
        yield f"manifest.json: special tokens {ids} outside the vocabulary of {manifest.tokenizer.vocab_size}"


def _hash(path: Path, report: Report) -> str:
    digest, buffer = hashlib.sha256(), bytearray(_BLOCK_BYTES)
    block = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(block[:count])
            report(count)
    return digest.hexdigest()


def _file_faults(manifest: Manifest, entry: ShardEntry, name: str, sha256: str | None, report: Report) -> Iterator[str]:
    """Of a listed file; `sha256` where it is known already."""
    path, stated = manifest.folder / name, entry.files[name]
    if not path.is_file():
        yield f"{path}: no such file"
    elif path.stat().st_size != stated["bytes"]:
        yield f"{path}: {path.stat().st_size} bytes, the manifest says {stated['bytes']}"
    elif (found := sha256 or _hash(path, report)) != stated["sha256"]:
        yield f"{path}: sha256 {found[:12]}, the manifest says {stated['sha256'][:12]}"


def _look_into(manifest: Manifest, entry: ShardEntry, prefix: str, report: Report) -> _Found:
    path = manifest.folder / prefix
    name, sha256, tokens = f"{prefix}.bin", None, None
    faults: list[str] = []
    try:
        shard = IndexedShard(path)
    except ShardError as error:
        faults.append(str(error))
    else:
        tokens = shard.num_tokens
        faults += _index_faults(entry, path, shard)
        sha256, token_faults = scan_tokens(manifest, path, shard, report)
        faults += token_faults
    listed = _file_faults(manifest, entry, name, sha256, report) if name in entry.files else ()
    return _Found(tuple(listed), tuple(faults), tokens)


def _index_faults(entry: ShardEntry, path: Path, shard: IndexedShard) -> Iterator[str]:
    found, stated = (shard.num_documents, shard.num_sequences), (entry.documents, entry.sequences)
    if found != stated:
        yield f"{path}: {found} documents and sequences, the manifest says {stated}"
    if entry.kind == "pairs" and not _one_sequence_each(shard):
        yield f"{path}: a pair is not one sequence"
    if shard.num_sequences and not shard.lengths.all():
        yield f"{path}: sequence {int(np.argmin(shard.lengths))} is empty"


def _one_sequence_each(shard: IndexedShard) -> bool:
    bounds = shard.document_bounds
    parts = range(0, len(bounds), _TOKENS_AT_ONCE)
    return all(
        np.array_equal(part, np.arange(start, start + len(part)))
        for start in parts
        for part in [bounds[start : start + _TOKENS_AT_ONCE]]
    )


def scan_tokens(manifest: Manifest, path: Path, shard: IndexedShard, report: Report) -> tuple[str, list[str]]:
    """Read a `.bin` once.

    Special tokens are faults only in what was built from text: other people's shards may end documents with one.

    Returns:
        Its sha256; its faults: a dtype the build would not have chosen, ids outside the vocabulary, special tokens.
    """
    vocab_size, built = manifest.tokenizer.vocab_size, bool(manifest.recipe_sha256)
    faults, outside = [], ""
    if built and shard.dtype != token_dtype(vocab_size):
        faults.append(f"{path}: {shard.dtype.name} tokens, needed {token_dtype(vocab_size).name} for {vocab_size} ids")
    specials = [(name, manifest.tokenizer.special_ids[name]) for name in _text_cannot_give(manifest)]
    used: set[str] = set()
    digest = hashlib.sha256()
    for start in range(0, shard.num_tokens, _TOKENS_AT_ONCE):
        tokens = shard.tokens[start : start + _TOKENS_AT_ONCE]
        digest.update(tokens.data)
        report(tokens.nbytes)
        low, high = int(tokens.min()), int(tokens.max())
        if not outside and (low < 0 or high >= vocab_size):
            place = int(np.argmax((tokens < 0) | (tokens >= vocab_size)))
            outside = f"{path}.bin: token {start + place} is {tokens[place]}, the vocabulary has {vocab_size} ids"
        if built:
            used |= {name for name, token in specials if low <= token <= high and (tokens == token).any()}
    if outside:
        return digest.hexdigest(), [*faults, outside]
    return digest.hexdigest(), faults + [
        f"{path}.bin: holds the special token {name}, which text cannot give" for name, _ in specials if name in used
    ]


def _text_cannot_give(manifest: Manifest) -> list[str]:
    return [name for name in SPECIAL_TOKENS if name in manifest.tokenizer.special_ids and name != "[UNK]"]


def _group_faults(manifest: Manifest, entry: ShardEntry) -> Iterator[str]:
    try:
        groups = manifest.groups(entry)
    except MlcError as error:
        yield str(error)
        return
    if entry.groups_file in entry.files and len(groups) and groups.min() < NO_GROUP:
        yield f"{manifest.folder / entry.groups_file}: group number {groups.min()}, needed >= {NO_GROUP}"


class _Pool:
    """Processes that look at the pieces; what they have read is counted in a file that they and the parent map.

    Processes are started afresh (`spawn`): a fork of a program that has threads may never wake up.
    """

    def __init__(self, manifest: Manifest, pieces: list[_Piece], jobs: int, on_bytes: Report) -> None:
        self._on_bytes, self._reported = on_bytes, 0
        self._folder = tempfile.TemporaryDirectory()
        counts_file = Path(self._folder.name) / "bytes_read"
        self._counts = np.memmap(counts_file, np.int64, "w+", shape=(len(pieces),))
        self._pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))
        order = sorted(range(len(pieces)), key=lambda place: -_size(manifest, pieces[place]))
        self._futures: dict[_Piece, Future[_Found]] = {}
        for place in order:
            piece = pieces[place]
            alone = replace(manifest, shards=(manifest.shards[piece.entry],))
            work = (alone, replace(piece, entry=0), counts_file, place)
            self._futures[piece] = self._pool.submit(_look_at_and_count, *work)

    def found(self, piece: _Piece) -> _Found:
        """What a piece came to; waits for it."""
        future = self._futures[piece]
        while not future.done():
            wait([future], _SECONDS_BETWEEN_COUNTS, FIRST_EXCEPTION)
            self._report()
        self._report()
        return future.result()

    def _report(self) -> None:
        total = int(self._counts.sum())
        if total > self._reported:
            self._on_bytes(total - self._reported)
            self._reported = total

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._folder.cleanup()


def _size(manifest: Manifest, piece: _Piece) -> int:
    entry = manifest.shards[piece.entry]
    if not piece.prefix:
        return int(entry.files[piece.file]["bytes"]) if piece.file else 8 * entry.documents
    paths = [path(manifest.folder / piece.prefix) for path in (bin_path, idx_path)]
    return sum(path.stat().st_size for path in paths if path.is_file())


def _look_at_and_count(manifest: Manifest, piece: _Piece, counts_file: Path, place: int) -> _Found:
    counts = np.memmap(counts_file, np.int64, "r+")

    def count(read: int) -> None:
        counts[place] += read

    return _look_at(manifest, piece, count)
