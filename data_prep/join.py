"""The units of a shard, one after the other, become its files.

In:  finished units (`data_prep/unit_files.py`) in the order of their documents.
Out: `.bin`, `.idx` (two of each for pairs), `.groups.npy`, `rejected/<shard>.jsonl`, and the shard's `ShardEntry`. The
     bytes are those `mlc.data.indexed.ShardWriter` writes for the same documents, however these were cut into units.

Every byte of a unit is read once for the shard and compared with the hash in the unit's record on the way. Nothing that
grows with the shard is held in memory but a few numbers a unit.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import xxhash
from numpy.typing import NDArray

from data_prep.hashed_file import FileSet, HashedFile
from data_prep.index_files import write_groups, write_index
from data_prep.unit_files import Block, UnitRecord, place_of, read_blocks
from mlc.data.indexed import bin_path, idx_path
from mlc.data.manifest import ShardEntry
from mlc.errors import ShardError

BLOCK_BYTES = 256 << 10
"""Copied and hashed at a time: still in the processor's cache for the second of both."""


@dataclass(frozen=True)
class PlacedUnit:
    """A finished unit and where it comes from.

    Attributes:
        record: of the unit.
        source: place of its source among the shard's.
        files: of its parts, as the recipe names them, in the order of `UnitRecord.lines`.
    """

    record: UnitRecord
    source: int
    files: tuple[str, ...]


@dataclass(frozen=True)
class JoinPlan:
    """What a shard is made of.

    Attributes:
        name: "documents/de", "pairs/en-de".
        kind: of the shard.
        languages: one, or two for pairs.
        units: by source, file and range, in this order.
        max_documents: of each source; None: all.
        source_files: every file of the shard's sources, for the manifest.
    """

    name: str
    kind: Literal["documents", "pairs"]
    languages: tuple[str, ...]
    units: Sequence[PlacedUnit]
    max_documents: Sequence[int | None]
    source_files: tuple[str, ...] = ()

    @property
    def prefixes(self) -> tuple[str, ...]:
        """Of the shard's indexed files, one for each language."""
        if self.kind == "documents":
            return (self.name,)
        return tuple(f"{self.name}.{language}" for language in self.languages)


@dataclass(frozen=True)
class _Part:
    """What is taken of a unit: its first documents.

    Attributes:
        end: `place_of` the last document where the unit is cut, else None: all records of the unit count.
    """

    unit: PlacedUnit
    documents: int
    sequences: tuple[int, ...]
    tokens: tuple[int, ...]
    text_bytes: int
    end: int | None


def join_shard(output: Path, plan: JoinPlan, on_bytes: Callable[[int], None] = lambda count: None) -> ShardEntry:
    """Write the files of a shard under their final names; those of an older build are replaced.

    Where a source's `max_documents` is reached, neither the documents nor the rejected records behind the last one
    count. Units behind it need not be there. A process that is killed leaves files that no manifest lists.

    Args:
        output: folder of the build.
        plan: of the shard.
        on_bytes: called with the number of bytes of tokens as they are copied.

    Raises:
        ShardError: a unit's file is missing or is not what its record says.
        OSError: a file cannot be written.
    """
    parts = _parts(plan)
    dropped = join_rejected(output, plan, parts)
    dtype = np.dtype(plan.units[0].record.dtype if plan.units else "uint16").newbyteorder("<")
    documents = sum(part.documents for part in parts)
    entry = ShardEntry(
        name=plan.name,
        kind=plan.kind,
        languages=plan.languages,
        prefixes=plan.prefixes,
        documents=documents,
        sequences=sum(part.sequences[0] for part in parts),
        tokens=sum(sum(part.tokens) for part in parts),
        files={},
        sources=plan.source_files,
        dropped=dropped,
        text_bytes=sum(part.text_bytes for part in parts),
    )
    with FileSet() as files:
        for side, prefix in enumerate(plan.prefixes):
            _copy_tokens(files.open(bin_path(output / prefix), hashlib.sha256), parts, side, dtype, on_bytes)
        for side, prefix in enumerate(plan.prefixes):
            write_index(
                files.open(idx_path(output / prefix), hashlib.sha256),
                dtype,
                sum(part.sequences[side] for part in parts),
                documents,
                _Chunks(parts, partial(_lengths, side=side)),
                _Chunks(parts, partial(_sizes, side=side)),
            )
        write_groups(files.open(output / entry.groups_file, hashlib.sha256), documents, _Chunks(parts, _groups))
        for path, (size, digest) in files.finish().items():
            entry.files[path.relative_to(output).as_posix()] = {"bytes": size, "sha256": digest}
        files.commit()
    return entry


def join_rejected(output: Path, plan: JoinPlan, parts: Sequence[_Part] | None = None) -> dict[str, int]:
    """Write `<output>/rejected/<shard>.jsonl`, with files and their lines for ranges and theirs.

    Returns:
        {reason: records set aside}, by reason.
    """
    counts: Counter[str] = Counter()
    lines: Counter[tuple[int, str]] = Counter()
    path = output / "rejected" / f"{plan.name}.jsonl"
    with FileSet() as files:
        file: HashedFile | None = None
        for part in _parts(plan) if parts is None else parts:
            record, unit = part.unit.record, part.unit
            before = [lines[unit.source, name] for name in unit.files]
            if record.rejected_path is not None:
                file = file or files.open(path, xxhash.xxh3_64)
                record.check_hash(record.rejected_path)
                counts += _copy_rejected(file, record.rejected_path, part, before)
            if part.end is None:
                counts += Counter(record.dropped)
            for name, count in zip(unit.files, record.lines, strict=True):
                lines[unit.source, name] += count
        if file is None or not file.bytes:
            path.unlink(missing_ok=True)
        else:
            file.finish()
            files.commit()
    return dict(sorted(counts.items()))


def _parts(plan: JoinPlan) -> list[_Part]:
    parts = []
    left = list(plan.max_documents)
    for unit in plan.units:
        record, limit = unit.record, left[unit.source]
        if limit == 0:
            continue
        record.check_hash(record.index_path)
        if limit is None or record.documents < limit:
            parts.append(_Part(unit, record.documents, record.sequences, record.tokens, record.text_bytes, None))
            kept = record.documents
        else:
            parts.append(_cut(unit, limit))
            kept = limit
        left[unit.source] = None if limit is None else limit - kept
    return parts


def _cut(unit: PlacedUnit, documents: int) -> _Part:
    """The part of a unit with its first so many (1 or more) documents."""
    record = unit.record
    sequences, tokens, text_bytes, end, left = [0] * record.sides, [0] * record.sides, 0, 0, documents
    for block in read_blocks(record):
        count = min(left, block.documents)
        for side in range(record.sides):
            lengths = _lengths(block, count, side)
            sequences[side] += len(lengths)
            tokens[side] += int(lengths.sum(dtype=np.int64))
        text_bytes += int(block.text_bytes()[:count].sum())
        end = int(block.places()[count - 1])
        left -= count
        if not left:
            break
    return _Part(unit, documents, tuple(sequences), tuple(tokens), text_bytes, end)


class _Chunks:
    """Arrays of all parts' blocks, cut to the documents that are taken; may be gone through again and again."""

    def __init__(self, parts: Sequence[_Part], read: Callable[[Block, int], NDArray[Any]]) -> None:
        self._parts, self._read = parts, read

    def __iter__(self) -> Iterator[NDArray[Any]]:
        for part in self._parts:
            left = part.documents
            for block in read_blocks(part.unit.record) if left else ():
                count = min(left, block.documents)
                yield self._read(block, count)
                left -= count
                if not left:
                    break


def _groups(block: Block, count: int) -> NDArray[Any]:
    return block.groups()[:count]


def _sizes(block: Block, count: int, side: int) -> NDArray[Any]:
    return block.sizes(side)[:count]


def _lengths(block: Block, count: int, side: int) -> NDArray[Any]:
    lengths = block.lengths(side)
    return lengths if count == block.documents else lengths[: int(block.sizes(side)[:count].sum(dtype=np.int64))]


def _copy_tokens(
    target: HashedFile, parts: Sequence[_Part], side: int, dtype: np.dtype[Any], on_bytes: Callable[[int], None]
) -> None:
    buffer = memoryview(bytearray(BLOCK_BYTES))
    for part in parts:
        record, path = part.unit.record, part.unit.record.tokens_path(side)
        if np.dtype(record.dtype).newbyteorder("<") != dtype:
            raise ShardError("units of one shard differ in dtype", found=record.dtype, needed=dtype.name)
        if part.end is not None:
            record.check_hash(path)
        digest = xxhash.xxh3_64()
        with path.open("rb", buffering=0) as file:
            for block in _blocks(file, part.tokens[side] * dtype.itemsize, buffer):
                digest.update(block)
                target.write(block)
                on_bytes(len(block))
        if part.end is None and digest.hexdigest() != record.files[path.name].xxh3:
            record.check_hash(path)


def _blocks(file: IO[bytes], size: int, buffer: memoryview) -> Iterator[memoryview]:
    """The first `size` bytes of a file."""
    while size:
        count = file.readinto(buffer[: min(size, len(buffer))])  # type: ignore[attr-defined]
        if not count:
            raise ShardError("a unit's file is cut short", found=f"{size} bytes less", where=file.name)
        yield buffer[:count]
        size -= count


def _copy_rejected(target: HashedFile, path: Path, part: _Part, before: Sequence[int]) -> Counter[str]:
    """Copy a unit's rows; returns their counts by reason where the unit is cut (else its record has them)."""
    counts: Counter[str] = Counter()
    names = [json.dumps({"file": name}, ensure_ascii=False)[1:-1].encode() for name in part.unit.files]
    with path.open("rb") as rows:
        for row in rows:
            first, second, rest = row.split(b", ", 2)
            number, line = int(first.rpartition(b" ")[2]), int(second.rpartition(b" ")[2])
            if part.end is not None:
                if place_of(number, line) > part.end:
                    break
                counts[json.loads(b"{" + rest)["reason"]] += 1
            target.write(b'{%s, "line": %d, %s' % (names[number], before[number] + line, rest))
    return counts
