"""The files of one unit of work: what a process makes of a range of source files, until the units are joined to shards.

In:  arrays of tokens, lengths and group numbers, chunk by chunk; records that were set aside.
Out: in one folder, for a unit named U with sides s = 0 (and 1 for pairs):

    U.s.bin           token ids of every sequence, as in the shard's `.bin`
    U.index           for every chunk: int64 [1 + sides] documents and sequences of each side, then int64 group numbers
                      [D], int64 bytes of text [D], int64 places [D] (see `place_of`), and for each side int32 sequences
                      of each document [D] and int32 lengths [S]; all little-endian
    U.rejected.jsonl  records set aside; there is no such file without any
    U.json            the `UnitRecord`: counts, sizes and hashes of the others; written last. A unit without it is not
                      there.

Nothing but the chunk at hand is held in memory.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import pydantic
import xxhash
from numpy.typing import DTypeLike, NDArray

from data_prep.hashed_file import FileSet, HashedFile
from data_prep.token_counts import TokenCounts
from mlc.data.indexed import CODE_OF_DTYPE
from mlc.errors import ShardError
from mlc.files import FileFacts, hash_file, write_atomically

FORMAT = "mlc-unit"
FORMAT_VERSION = 2
_WORD = np.dtype("<i8")
_LENGTH = np.dtype("<i4")
_LINE_BITS = 40


@dataclass(frozen=True)
class Side:
    """One side of a chunk of documents (documents have one side, pairs two).

    Attributes:
        tokens: [T] ids of all sequences, one after the other.
        lengths: int [S], tokens of each sequence.
        sizes: int [D], sequences of each document.
    """

    tokens: NDArray[Any]
    lengths: NDArray[Any]
    sizes: NDArray[Any]


@dataclass(frozen=True)
class UnitCounts:
    """What the writer of a unit cannot count itself.

    Attributes:
        lines: that begin in each of the unit's files or ranges, in their order.
        numbers: further counts by name, such as bytes read; the writer passes them on.
        token_counts: of each side; passed on too.
    """

    lines: tuple[int, ...]
    numbers: Mapping[str, int] = field(default_factory=dict)
    token_counts: tuple[TokenCounts, ...] = ()


@dataclass(frozen=True)
class UnitRecord:
    """The content of `U.json`: a finished unit.

    Attributes:
        folder, name: where its files are.
        dtype: name of the tokens' dtype, "uint16".
        documents: D.
        sequences, tokens: of each side.
        text_bytes: UTF-8 bytes of the text of all sides.
        lines, numbers, token_counts: see `UnitCounts`.
        dropped: {reason: records set aside}.
        files: {file name: its size and xxh3_64}.
    """

    folder: Path
    name: str
    dtype: str
    documents: int
    sequences: tuple[int, ...]
    tokens: tuple[int, ...]
    text_bytes: int
    lines: tuple[int, ...]
    dropped: dict[str, int]
    numbers: dict[str, int]
    token_counts: tuple[TokenCounts, ...]
    files: dict[str, FileFacts]

    @property
    def sides(self) -> int:
        """1, or 2 for pairs."""
        return len(self.tokens)

    @property
    def records(self) -> int:
        """Documents and records set aside."""
        return self.documents + sum(self.dropped.values())

    def tokens_path(self, side: int) -> Path:
        """`U.s.bin`."""
        return self.folder / _tokens_name(self.name, side)

    @property
    def index_path(self) -> Path:
        """`U.index`."""
        return self.folder / _index_name(self.name)

    @property
    def rejected_path(self) -> Path | None:
        """`U.rejected.jsonl`, if there is one."""
        name = _rejected_name(self.name)
        return self.folder / name if name in self.files else None

    @classmethod
    def find(cls, folder: Path, name: str) -> UnitRecord | None:
        """The record of a unit that is finished and whole, as far as the sizes of its files tell; else None."""
        try:
            return cls.read(folder, name)
        except ShardError:
            return None

    @classmethod
    def read(cls, folder: Path, name: str) -> UnitRecord:
        """Read `U.json` and compare the sizes of the unit's files with it.

        Raises:
            ShardError: there is none, or a file is missing or has another size.
        """
        path = folder / record_name(name)
        try:
            content = json.loads(path.read_bytes())
            if (content.pop("format"), content.pop("version")) != (FORMAT, FORMAT_VERSION):
                raise ValueError("another format or version")
            record = _PARSER.validate_python({**content, "folder": folder, "name": name})
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ShardError("no finished unit here", found=str(error), where=str(path)) from None
        for file, facts in record.files.items():
            size = (folder / file).stat().st_size if (folder / file).is_file() else None
            if size != facts.bytes:
                raise _damaged(folder / file, size, facts.bytes)
        return record

    def check_hash(self, path: Path) -> None:
        """Compare the content of one of the unit's files with its hash.

        Raises:
            ShardError: it is another one, or there is no such file.
        """
        if not path.is_file():
            raise _damaged(path, None, f"{self.files[path.name].bytes} bytes")
        found, needed = hash_file(path), self.files[path.name].xxh3
        if found != needed:
            raise _damaged(path, f"xxh3 {found}", f"xxh3 {needed}")

    def check_hashes(self) -> None:
        """As `check_hash`, for all files."""
        for name in self.files:
            self.check_hash(self.folder / name)

    def remove(self) -> None:
        """Delete the unit, its record first."""
        for name in (record_name(self.name), *self.files):
            (self.folder / name).unlink(missing_ok=True)


_PARSER = pydantic.TypeAdapter(UnitRecord)  # made once: it takes longer than a hundred uses of it


class UnitWriter:
    """Writes the files of one unit; a context manager, which removes what was not finished.

    Two processes may write the same unit at once (a claim that was taken over): they write the same bytes, under names
    of their own until `finish`.

    Args:
        folder: where; it is made.
        name: of the unit.
        dtype: of the tokens, an integer dtype of the shard format.
        sides: 1, or 2 for pairs.

    Raises:
        ShardError: a dtype the format lacks.
        OSError: from any method: a file cannot be written.
    """

    def __init__(self, folder: Path, name: str, dtype: DTypeLike, sides: int = 1) -> None:
        self._folder, self._name, self._dtype = folder, name, np.dtype(dtype).newbyteorder("<")
        if self._dtype not in CODE_OF_DTYPE:
            known = ", ".join(known.name for known in CODE_OF_DTYPE)
            raise ShardError("no dtype of token ids", found=self._dtype.name, needed=f"one of {known}")
        self.documents = 0
        self.dropped: Counter[str] = Counter()
        self._sequences, self._tokens, self._text_bytes = [0] * sides, [0] * sides, 0
        self._set = FileSet()
        self._bins = [self._set.open(folder / _tokens_name(name, side), xxhash.xxh3_64) for side in range(sides)]
        self._index = self._set.open(folder / _index_name(name), xxhash.xxh3_64)
        self._rejected: HashedFile | None = None

    def add(self, sides: Sequence[Side], groups: NDArray[Any], text_bytes: NDArray[Any], places: NDArray[Any]) -> None:
        """Append a chunk of documents.

        Args:
            sides: its tokens; every side has the chunk's D documents.
            groups: int [D], group number of each document, -1 without one.
            text_bytes: int [D], UTF-8 bytes of each document's text, all sides together.
            places: int [D], `place_of` each document, growing.
        """
        documents = len(groups)
        assert len(sides) == len(self._bins), f"{len(sides)} sides, not {len(self._bins)}"
        assert len(text_bytes) == len(places) == documents
        for side in sides:
            assert len(side.sizes) == documents, f"{len(side.sizes)} documents, not {documents}"
            assert int(side.sizes.sum()) == len(side.lengths), "the documents do not have that many sequences"
            assert int(side.lengths.sum(dtype=np.int64)) == len(side.tokens), "the sequences do not have that many ids"
        if not documents:
            return
        header = np.array([documents, *(len(side.lengths) for side in sides)])
        for block in (header, groups, text_bytes, places):
            self._index.write(_as(block, _WORD))
        for number, side in enumerate(sides):
            self._bins[number].write(self._as_tokens(side.tokens))
            self._index.write(_as(side.sizes, _LENGTH))
            self._index.write(_as(side.lengths, _LENGTH))
            self._sequences[number] += len(side.lengths)
            self._tokens[number] += len(side.tokens)
        self.documents += documents
        self._text_bytes += int(text_bytes.sum(dtype=np.int64))

    def reject(self, part: int, line: int, reason: str, detail: str, beginning: str) -> None:
        """Set one record aside; call it in the order of the records' places.

        Args:
            part: place of its file or range among the unit's.
            line: its first line, counted from 1 at the start of that range.
            reason: by which it is counted.
            detail: what exactly was wrong.
            beginning: of the record.
        """
        if self._rejected is None:
            self._rejected = self._set.open(self._folder / _rejected_name(self._name), xxhash.xxh3_64)
        self.dropped[reason] += 1
        place = f'{{"part": {part}, "line": {line}, '
        row = json.dumps({"reason": reason, "detail": detail, "record": beginning}, ensure_ascii=False)
        self._rejected.write((place + row[1:] + "\n").encode(errors="backslashreplace"))  # of a lone surrogate

    def finish(self, counts: UnitCounts) -> UnitRecord:
        """Sync all files, give them their names, and write the record last."""
        files = [*self._bins, self._index, *([self._rejected] if self._rejected else [])]
        facts = {file.path.name: FileFacts(*file.finish()) for file in files}
        record = UnitRecord(
            folder=self._folder,
            name=self._name,
            dtype=self._dtype.name,
            documents=self.documents,
            sequences=tuple(self._sequences),
            tokens=tuple(self._tokens),
            text_bytes=self._text_bytes,
            lines=counts.lines,
            dropped=dict(sorted(self.dropped.items())),
            numbers=dict(counts.numbers),
            token_counts=counts.token_counts,
            files=facts,
        )
        self._set.commit()
        content = {"format": FORMAT, "version": FORMAT_VERSION, **asdict(record)}
        del content["folder"]
        write_atomically(self._folder / record_name(self._name), (json.dumps(content, indent=1) + "\n").encode())
        return record

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._set.__exit__(*error)

    def _as_tokens(self, tokens: NDArray[Any]) -> NDArray[Any]:
        if tokens.dtype != self._dtype and tokens.size:
            limits = np.iinfo(self._dtype)
            low, high = int(tokens.min()), int(tokens.max())
            fits = limits.min <= low and high <= limits.max
            assert fits, f"ids {low} .. {high} do not fit into {self._dtype.name}"
        return _as(tokens, self._dtype)


@dataclass(frozen=True)
class Block:
    """A chunk of documents in `U.index`; its arrays are read when they are asked for.

    Attributes:
        documents: D.
        sequences: of each side, S.
    """

    documents: int
    sequences: tuple[int, ...]
    _file: IO[bytes]
    _start: int

    def groups(self) -> NDArray[np.int64]:
        """[D] group numbers."""
        return self._read(0, self.documents, _WORD)

    def text_bytes(self) -> NDArray[np.int64]:
        """[D] bytes of text."""
        return self._read(8 * self.documents, self.documents, _WORD)

    def places(self) -> NDArray[np.int64]:
        """[D] `place_of` each document."""
        return self._read(16 * self.documents, self.documents, _WORD)

    def sizes(self, side: int) -> NDArray[np.int32]:
        """[D] sequences of each document."""
        return self._read(self._side_start(side), self.documents, _LENGTH)

    def lengths(self, side: int) -> NDArray[np.int32]:
        """[S] tokens of each sequence."""
        return self._read(self._side_start(side) + 4 * self.documents, self.sequences[side], _LENGTH)

    def _side_start(self, side: int) -> int:
        return (24 + 4 * side) * self.documents + 4 * sum(self.sequences[:side])

    def _read(self, start: int, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        self._file.seek(self._start + start)
        return np.frombuffer(self._file.read(count * dtype.itemsize), dtype)


def read_blocks(record: UnitRecord) -> Iterator[Block]:
    """The chunks of a unit's index, in order. Their arrays can be read until the next one is asked for."""
    header = _WORD.itemsize * (1 + record.sides)
    with record.index_path.open("rb", buffering=0) as file:
        start, end = 0, record.files[record.index_path.name].bytes
        while start < end:
            file.seek(start)
            documents, *sequences = np.frombuffer(file.read(header), _WORD).tolist()
            start += header
            yield Block(documents, tuple(sequences), file, start)
            start += (24 + 4 * record.sides) * documents + 4 * sum(sequences)


def place_of(part: int, line: int) -> int:
    """A record's place in its unit as one number: the file or range among the unit's, and the line, from 1, in it."""
    return part << _LINE_BITS | line


def split_place(place: int) -> tuple[int, int]:
    """Part and line of `place_of`."""
    return place >> _LINE_BITS, place & ((1 << _LINE_BITS) - 1)


def record_name(name: str) -> str:
    """File name of a unit's record."""
    return f"{name}.json"


def _tokens_name(name: str, side: int) -> str:
    return f"{name}.{side}.bin"


def _index_name(name: str) -> str:
    return f"{name}.index"


def _rejected_name(name: str) -> str:
    return f"{name}.rejected.jsonl"


def _as(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(array, dtype=dtype)


def _damaged(path: Path, found: object, needed: object) -> ShardError:
    return ShardError(
        "a file of a finished unit is missing or damaged",
        found="no such file" if found is None else str(found),
        needed=str(needed),
        where=str(path),
        hint=f"build again; if that does not help, delete {path.parent}",
    )
