"""The work on one unit of a build: read, clean, and either fingerprint its documents or encode them.

In:  a `Unit`, and what the recipe says about its source.
Out: chunks of its documents, for the tokenizer's sample and for fingerprints; or the unit's files
     (data_prep.unit_files), which are put in place whole.

Documents pass through in chunks, so memory does not grow with a file. All three kinds of work see the same documents in
the same order: those that are read, can be normalised, and that the cleaning steps leave.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from data_prep.cleaning.document import Document, Dropped, Step
from data_prep.cleaning.steps import clean
from data_prep.encoding.engine import Encoder, check_sample
from data_prep.encoding.report import TokenCounter
from data_prep.plan import Source
from data_prep.readers.record import KEPT_CHARACTERS, Record, Rejected, rejected
from data_prep.recipe import NormaliseSection
from data_prep.segment import Split, split_sequences
from data_prep.set_aside import Example
from data_prep.token_counts import TokenCounts
from data_prep.unit_files import Side, UnitCounts, UnitRecord, UnitWriter, place_of
from data_prep.units import Part, Unit
from mlc.data.text import Unusable, normalise
from mlc.errors import DataError

CHUNK_CHARACTERS = 4 << 20
"""Of text that is cleaned and encoded together: enough to hide the cost of a call."""
NO_TOKENS = "no_tokens"
CHECKED_LINES = 100
"""Of every unit: encoded by the tokenizer's own library too, and compared."""
_LINE_FEED = 0x0A
TRIED_RECORDS = 1000
"""A unit whose first so many records are all set aside is read the wrong way; the rest of it would only take time."""
UNLISTED = "unlisted_language"
"""Why a record of a language that its table does not name is set aside: it could be read, so it is not unusable."""


class RecordReader(Protocol):
    """The records of one part of a unit, in order; to be gone through once.

    Attributes:
        lines: that begin in the part; whole once the last record has been given.
        elsewhere: further records of the part, in shards of other languages, where those that cannot be read are given
            here for all of them.
    """

    @property
    def lines(self) -> int: ...  # noqa: D102

    @property
    def elsewhere(self) -> int: ...  # noqa: D102

    def __iter__(self) -> Iterator[Record | Rejected]: ...


@dataclass(frozen=True, slots=True)
class Kept:
    """A document that is used, and where it comes from.

    Attributes:
        part, line: see `data_prep.unit_files.place_of`.
        group: number of its meaning, -1 without one.
    """

    document: Document
    part: int
    line: int
    group: int


@dataclass
class Chunk:
    """Consecutive records of a unit.

    Attributes:
        kept: documents, in order.
        dropped: the others with the number of their part, in order.
    """

    kept: list[Kept] = field(default_factory=list)
    dropped: list[tuple[int, Rejected]] = field(default_factory=list)


class ChunkReader(Protocol):
    """The documents of a unit as its recipe wants them; to be gone through once.

    Attributes:
        lines: of each part, once it has been gone through.
        records: read so far.
        unusable: {reason: of these, set aside because they could not be read or normalised}.
        example: the first of them.
    """

    lines: list[int]
    records: int
    unusable: Counter[str]
    example: Example | None

    def __iter__(self) -> Iterator[Chunk]: ...


class UnitReader:
    """Reads a unit and cleans its documents; to be gone through once.

    Args:
        unit: what to read.
        source: how.
        languages: of the sides.
        rules: how texts are normalised.
        steps: of cleaning.
        read: what reads a part of it.

    Attributes: see `ChunkReader`.
    """

    def __init__(
        self,
        unit: Unit,
        source: Source,
        languages: tuple[str, ...],
        rules: NormaliseSection,
        steps: Sequence[Step],
        read: Callable[[Part], RecordReader],
    ) -> None:
        self._unit, self._source, self._languages = unit, source, languages
        self._rules, self._steps, self._read = rules, steps, read
        self.lines: list[int] = []
        self.records = 0
        self.unusable: Counter[str] = Counter()
        self.example: Example | None = None

    def __iter__(self) -> Iterator[Chunk]:
        """Chunks of the unit.

        Raises:
            DataError: a file has changed or is cut short, or none of the first records can be used.
        """
        reasons = None if self._source.sorted_by else Counter[str]()  # of sorted records that has been looked at
        for chunk in self._chunks():
            self._clean(chunk)
            if reasons is not None:
                reasons.update(dropped.reason for _, dropped in chunk.dropped)
                if chunk.kept:
                    reasons = None
                elif reasons.total() >= TRIED_RECORDS:
                    raise hopeless(self._unit.parts[0].file, self._source, reasons)
            yield chunk
        for part in self._unit.parts:
            part.check()

    def _chunks(self) -> Iterator[Chunk]:
        chunk, characters = Chunk(), 0
        for number, part in enumerate(self._unit.parts):
            part.check()
            reader = self._read(part)
            for record in reader:
                self.records += 1
                found = record if isinstance(record, Rejected) else self._normalised(record, number)
                if isinstance(found, Rejected):
                    self._note(part.file, found)
                    chunk.dropped.append((number, found))
                else:
                    chunk.kept.append(found)
                    characters += sum(map(len, found.document.texts))
                if characters >= CHUNK_CHARACTERS or len(chunk.dropped) >= TRIED_RECORDS:
                    yield chunk
                    chunk, characters = Chunk(), 0
            self.lines.append(reader.lines)
            self.records += reader.elsewhere
        if chunk.kept or chunk.dropped:
            yield chunk

    def _note(self, file: Path, unusable: Rejected) -> None:
        if unusable.reason == UNLISTED:
            return
        self.unusable[unusable.reason] += 1
        if self.example is None:
            self.example = Example(file, unusable.line, unusable.reason, unusable.beginning)

    def _normalised(self, record: Record, part: int) -> Kept | Rejected:
        rules = self._rules
        try:
            texts = tuple(
                [
                    normalise(
                        text, nfc=rules.nfc, whitespace=rules.whitespace, control_characters=rules.control_characters
                    )
                    for text in record.texts
                ]
            )
        except Unusable as unusable:
            return rejected(record.line, unusable.reason, unusable.detail, _beginning(record.texts))
        return Kept(Document(texts, self._languages), part, record.line, record.group)

    def _clean(self, chunk: Chunk) -> None:
        if not self._steps:
            return
        results = clean([kept.document for kept in chunk.kept], self._steps)
        kept_before, chunk.kept = chunk.kept, []
        for kept, result in zip(kept_before, results, strict=True):
            if isinstance(result, Dropped):
                beginning = _beginning(kept.document.texts)
                chunk.dropped.append((kept.part, rejected(kept.line, result.reason, result.detail, beginning)))
            else:
                chunk.kept.append(Kept(result, kept.part, kept.line, kept.group))


def encode_unit(
    reader: ChunkReader,
    writer: UnitWriter,
    sides: SideEncoder,
    drops: Mapping[int, str],
    split: Split,
    on_done: Callable[[int, int], None],
) -> UnitRecord:
    """Encode what a reader gives, and finish the unit.

    Args:
        reader: of the unit.
        writer: of its files.
        sides: the tokenizer, for the unit's languages.
        drops: {place among the reader's documents, from 0: the reason why it is left out}.
        split: how a text becomes sequences.
        on_done: called with counts of documents and tokens.
    """
    place = 0
    for chunk in reader:
        if not place:
            check_sample(sides.encoder, _first_lines(chunk, split))
        left_out = [drops.get(number) for number in range(place, place + len(chunk.kept))]
        place += len(chunk.kept)
        if any(left_out):
            _leave_out(chunk, left_out)
        tokens = _encode_chunk(chunk, writer, sides, split)
        on_done(len(chunk.kept), tokens)
    numbers = {"records": reader.records, "unusable": reader.unusable.total() + writer.dropped[NO_TOKENS]}
    return writer.finish(UnitCounts(tuple(reader.lines), numbers, tuple(sides.counts)))


class SideEncoder:
    """Encodes the sides of documents and counts how well the tokenizer fits them.

    Args:
        encoder: the tokenizer.
        counter: made for it.
        languages: of the sides.

    Attributes:
        counts: of each side, so far.
    """

    def __init__(self, encoder: Encoder, counter: TokenCounter, languages: Sequence[str]) -> None:
        self.encoder, self._counter, self._languages = encoder, counter, languages
        self.counts = [TokenCounts() for _ in languages]

    def encode(self, side: int, documents: Sequence[list[str]]) -> tuple[Side, NDArray[np.int64]]:
        """Encode the sequences of documents, and count the bytes of each document's text.

        Sequences without tokens are left out.
        """
        text = "\n".join(chain.from_iterable(documents)).encode()
        ids, lengths = self.encoder.encode_lines(text)
        self.counts[side] += self._counter.count(text, ids, len(lengths), self._languages[side])
        sizes = np.fromiter(map(len, documents), np.int64, len(documents))
        ends = np.flatnonzero(np.frombuffer(text, np.uint8) == _LINE_FEED)
        line_bytes = np.diff(ends, prepend=-1, append=len(text)) - 1 if text else ends
        used = lengths > 0
        if not used.all():
            lengths, line_bytes = lengths[used], line_bytes[used]
            sizes = _sums(used, sizes)
        return Side(ids, lengths, sizes), _sums(line_bytes, sizes)


def _first_lines(chunk: Chunk, split: Split) -> list[str]:
    lines = (line for kept in chunk.kept for text in kept.document.texts for line in split_sequences(text, split))
    return list(islice(lines, CHECKED_LINES))


def _leave_out(chunk: Chunk, reasons: Sequence[str | None]) -> None:
    kept_before, chunk.kept = chunk.kept, []
    for kept, reason in zip(kept_before, reasons, strict=True):
        if reason is None:
            chunk.kept.append(kept)
        else:
            chunk.dropped.append((kept.part, rejected(kept.line, reason, "", _beginning(kept.document.texts))))


def _encode_chunk(chunk: Chunk, writer: UnitWriter, sides: SideEncoder, split: Split) -> int:
    """Write a chunk's documents and records set aside; the number of tokens."""
    encoded = [
        sides.encode(side, [split_sequences(kept.document.texts[side], split) for kept in chunk.kept])
        for side in range(len(chunk.kept[0].document.texts) if chunk.kept else 0)
    ]
    if encoded:
        # A document of which the tokenizer leaves nothing on one side is none.
        empty = np.logical_or.reduce([side.sizes == 0 for side, _ in encoded])
        if empty.any():
            _set_aside_empty(chunk, empty)
            encoded = [(_without(side, empty), text_bytes[~empty]) for side, text_bytes in encoded]
    for part, dropped in sorted(chunk.dropped, key=lambda item: (item[0], item[1].line)):
        writer.reject(part, dropped.line, dropped.reason, dropped.detail, dropped.beginning)
    if not chunk.kept:
        return 0
    writer.add(
        [side for side, _ in encoded],
        np.array([kept.group for kept in chunk.kept], np.int64),
        np.add.reduce([text_bytes for _, text_bytes in encoded]),
        np.array([place_of(kept.part, kept.line) for kept in chunk.kept], np.int64),
    )
    return sum(len(side.tokens) for side, _ in encoded)


def _set_aside_empty(chunk: Chunk, empty: NDArray[np.bool_]) -> None:
    kept_before, chunk.kept = chunk.kept, []
    for kept, gone in zip(kept_before, empty.tolist(), strict=True):
        if gone:
            beginning = _beginning(kept.document.texts)
            found = rejected(kept.line, NO_TOKENS, "the tokenizer leaves nothing of it", beginning)
            chunk.dropped.append((kept.part, found))
        else:
            chunk.kept.append(kept)


def _sums(values: NDArray[Any], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The sum over each document's values; `sizes` says how many each has."""
    totals = np.concatenate(([0], np.cumsum(values, dtype=np.int64)))
    ends = np.cumsum(sizes)
    found: NDArray[np.int64] = totals[ends] - totals[ends - sizes]
    return found


def _without(side: Side, gone: NDArray[np.bool_]) -> Side:
    """A side without some of its documents."""
    sequences = np.repeat(~gone, side.sizes)
    tokens = np.repeat(sequences, side.lengths)
    return Side(side.tokens[tokens], side.lengths[sequences], side.sizes[~gone])


def _beginning(texts: Sequence[str]) -> str:
    return " | ".join(text[:KEPT_CHARACTERS] for text in texts)


def hopeless(file: Path, source: Source, reasons: Counter[str]) -> DataError:
    """The error of a file of which nothing has been usable so far: {reason: records}."""
    listed = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
    fields = ", ".join(filter(None, [*source.reading.text_fields, source.reading.language_field]))
    return DataError(
        f"none of the first {reasons.total()} records could be used",
        found=listed,
        needed=f"records with text under {fields}, or plain text",
        where=str(file),
        hint="set the table's text_field (of pairs: fields) and format; mend the files if these are right",
    )
