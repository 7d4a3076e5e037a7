"""Prove that shards are what their manifest says: every hash, bound, id and count.

In:  a folder of shards.
Out: a list of faults, empty if there is none. Reads every byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from data_prep.shards import sha256_of
from mlc.data.indexed import IndexedShard, token_dtype
from mlc.data.manifest import NO_GROUP, SPECIAL_TOKENS, Manifest, ShardEntry
from mlc.errors import MlcError, ShardError

_TOKENS_AT_ONCE = 1 << 22


def find_faults(manifest: Manifest, on_shard: Callable[[str], None] = lambda name: None) -> list[str]:
    """Every fault of a build, each one line with the file it is in.

    Args:
        manifest: from `Manifest.read`, which has checked itself already.
        on_shard: called with the name of each shard before it is read.
    """
    faults = list(_tokenizer_faults(manifest))
    names = [entry.name for entry in manifest.shards]
    faults += [f"manifest.json: shard {name} is listed twice" for name in sorted(set(names)) if names.count(name) > 1]
    for entry in manifest.shards:
        on_shard(entry.name)
        faults += _file_faults(manifest, entry)
        faults += _shard_faults(manifest, entry)
        faults += _group_faults(manifest, entry)
    return faults


def _tokenizer_faults(manifest: Manifest) -> Iterator[str]:
    path = manifest.folder / manifest.tokenizer.file
    if not path.is_file():
        yield f"{path}: no such file"
    elif (found := sha256_of(path)) != manifest.tokenizer.sha256:
        yield f"{path}: sha256 {found[:12]}, the manifest says {manifest.tokenizer.sha256[:12]}"
    ids = manifest.tokenizer.special_ids
    if set(ids) != set(SPECIAL_TOKENS) or len(set(ids.values())) != len(ids):
        yield f"manifest.json: special tokens {ids}, needed different ids for {', '.join(SPECIAL_TOKENS)}"
    if any(not 0 <= token < manifest.tokenizer.vocab_size for token in ids.values()):
        yield f"manifest.json: special tokens {ids} outside the vocabulary of {manifest.tokenizer.vocab_size}"


def _file_faults(manifest: Manifest, entry: ShardEntry) -> Iterator[str]:
    needed = [f"{prefix}.{suffix}" for prefix in entry.prefixes for suffix in ("bin", "idx")]
    for name in needed:
        if name not in entry.files:
            yield f"manifest.json: shard {entry.name} lists no file {name}"
    for name, stated in entry.files.items():
        path = manifest.folder / name
        if not path.is_file():
            yield f"{path}: no such file"
        elif path.stat().st_size != stated["bytes"]:
            yield f"{path}: {path.stat().st_size} bytes, the manifest says {stated['bytes']}"
        elif (found := sha256_of(path)) != stated["sha256"]:
            yield f"{path}: sha256 {found[:12]}, the manifest says {stated['sha256'][:12]}"


def _shard_faults(manifest: Manifest, entry: ShardEntry) -> Iterator[str]:
    tokens, opened = 0, []
    for prefix in entry.prefixes:
        path = manifest.folder / prefix
        try:
            shard = IndexedShard(path)
        except ShardError as error:
            yield str(error)
            continue
        opened.append(shard)
        tokens += shard.num_tokens
        found, stated = (shard.num_documents, shard.num_sequences), (entry.documents, entry.sequences)
        if found != stated:
            yield f"{path}: {found} documents and sequences, the manifest says {stated}"
        if entry.kind == "pairs" and not np.array_equal(shard.document_bounds, np.arange(shard.num_documents + 1)):
            yield f"{path}: a pair is not one sequence"
        if shard.num_sequences and not shard.lengths.all():
            yield f"{path}: sequence {int(np.argmin(shard.lengths))} is empty"
        yield from _token_faults(manifest, path, shard)
    if len(opened) == len(entry.prefixes) and tokens != entry.tokens:
        yield f"shard {entry.name}: {tokens} tokens, the manifest says {entry.tokens}"


def _token_faults(manifest: Manifest, path: Path, shard: IndexedShard) -> Iterator[str]:
    vocab_size, special_ids = manifest.tokenizer.vocab_size, manifest.tokenizer.special_ids
    if shard.dtype != token_dtype(vocab_size):
        yield f"{path}: {shard.dtype.name} tokens, needed {token_dtype(vocab_size).name} for {vocab_size} ids"
    used = np.zeros(vocab_size, dtype=bool)
    for start in range(0, shard.num_tokens, _TOKENS_AT_ONCE):
        tokens = shard.tokens[start : start + _TOKENS_AT_ONCE]
        outside = (tokens < 0) | (tokens >= vocab_size)
        if outside.any():
            place = int(np.argmax(outside))
            yield f"{path}.bin: token {start + place} is {tokens[place]}, the vocabulary has {vocab_size} ids"
            return
        used[tokens] = True
    for name in SPECIAL_TOKENS:
        if name in special_ids and name != "[UNK]" and special_ids[name] < vocab_size and used[special_ids[name]]:
            yield f"{path}.bin: holds the special token {name}, which text cannot give"


def _group_faults(manifest: Manifest, entry: ShardEntry) -> Iterator[str]:
    try:
        groups = manifest.groups(entry)
    except MlcError as error:
        yield str(error)
        return
    if len(groups) and groups.min() < NO_GROUP:
        yield f"{manifest.folder / entry.groups_file}: group number {groups.min()}, needed >= {NO_GROUP}"
