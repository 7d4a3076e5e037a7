"""The tokenizer's training sample: bounded, balanced over languages, spread over every file, the same every time.

In:  prepared text.
Out: sequences for `train_model` (data_prep.encoding.training), in a fixed order.

A sequence is in the sample when the hash of (seed, its text) is small enough. So the choice does not depend on ranks or
on the order of files, is spread evenly over them, and takes a sequence that occurs many times once. The last one is cut
to the bytes that are left, so that one huge sequence can neither empty the sample nor overfill it.
"""

from __future__ import annotations

import heapq
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import xxhash


@dataclass(frozen=True)
class Candidates:
    """One unit's sequences in one language that may come into the sample.

    Attributes:
        file: JSON lines [hash, text], ascending, without duplicates.
        total_bytes: of all sequences the unit has in the language, chosen or not.
    """

    language: str
    file: Path
    total_bytes: int


def choose_candidates(
    documents: Iterable[Sequence[Sequence[str]]],
    languages: Sequence[str],
    sample_bytes: int,
    seed: int,
    folder: Path,
    mark: str,
) -> list[Candidates]:
    """Keep the sequences of smallest hash until they fill `sample_bytes` for each language: no sample needs more.

    Args:
        documents: of one unit, each the sequences of its sides.
        languages: of the sides.
        sample_bytes: what the sample can take of them at most.
        seed: of the recipe.
        folder: for the candidates' files.
        mark: a file name that no other unit uses.
    """
    pools = [_Pool(sample_bytes, seed) for _ in languages]
    for document in documents:
        for pool, sequences in zip(pools, document, strict=True):
            for sequence in sequences:
                pool.offer(sequence)
    folder.mkdir(parents=True, exist_ok=True)
    found, as_json = [], json.JSONEncoder(ensure_ascii=False).encode
    for side, (language, pool) in enumerate(zip(languages, pools, strict=True)):
        file = folder / f"{mark}.{side}.jsonl"
        # Another process may be at the same unit, if this one was thought dead: a file is whole whenever it is there.
        temporary = file.with_name(f"{file.name}.{uuid.uuid4().hex}.tmp")
        with temporary.open("w", encoding="utf-8") as out:
            out.writelines(as_json(item) + "\n" for item in pool.ascending())
        os.replace(temporary, file)
        found.append(Candidates(language, file, pool.total_bytes))
    return found


def balanced_sample(candidates: Sequence[Candidates], sample_bytes: int, exponent: float) -> Iterator[str]:
    """The sample: language after language, each ascending by hash, until its share of the bytes is full."""
    totals: dict[str, int] = {}
    for found in candidates:
        totals[found.language] = totals.get(found.language, 0) + found.total_bytes
    shares = share_bytes(totals, sample_bytes, exponent)
    for language in sorted(shares):
        taken = 0
        for text in _merged([found.file for found in candidates if found.language == language]):
            part = _cut(text, shares[language] - taken)
            if part:
                yield part
            if part != text:
                break
            taken += len(text.encode())


def share_bytes(totals: Mapping[str, int], budget: int, exponent: float) -> dict[str, int]:
    """Split a budget in proportion to total ** exponent; what a small language cannot fill goes to the others.

    Args:
        totals: bytes each language has.
        budget: bytes to share.
        exponent: 1 = in proportion to the bytes, 0 = the same for all.

    Returns:
        {language: bytes}, none above its total.
    """
    shares: dict[str, int] = {}
    open_languages, left = sorted(totals), budget
    while open_languages:
        weights = {language: totals[language] ** exponent for language in open_languages}
        whole = sum(weights.values()) or 1.0
        full = [language for language in open_languages if left * weights[language] / whole >= totals[language]]
        if not full:
            shares.update({language: int(left * weights[language] / whole) for language in open_languages})
            break
        shares.update({language: totals[language] for language in full})
        left -= sum(totals[language] for language in full)
        open_languages = [language for language in open_languages if language not in full]
    return shares


def _cut(text: str, size: int) -> str:
    """The beginning of a text in at most `size` bytes of UTF-8; whole characters."""
    return text.encode()[: max(size, 0)].decode(errors="ignore")


class _Pool:
    """The sequences of smallest hash that fill `capacity` bytes, the one that crosses the border included."""

    def __init__(self, capacity: int, seed: int) -> None:
        self.total_bytes = 0
        self._capacity, self._held_bytes = capacity, 0
        self._seed = seed & 0xFFFFFFFFFFFFFFFF
        self._heap: list[tuple[int, int, str]] = []  # (-hash, bytes, text): the largest hash on top
        self._known: set[int] = set()
        self._bound = 1 << 64  # nothing from here on can still come in

    def offer(self, text: str) -> None:
        encoded = text.encode()
        self.total_bytes += len(encoded)
        place = xxhash.xxh3_64_intdigest(encoded, self._seed)
        if place >= self._bound or place in self._known:
            return
        kept = _cut(text, self._capacity)  # by itself, not by what is left: that depends on the other sequences
        size = len(kept.encode())
        heapq.heappush(self._heap, (-place, size, kept))
        self._known.add(place)
        self._held_bytes += size
        while self._held_bytes - self._heap[0][1] >= self._capacity:
            dropped, size, _ = heapq.heappop(self._heap)
            self._bound = -dropped
            self._known.discard(-dropped)
            self._held_bytes -= size

    def ascending(self) -> list[tuple[int, str]]:
        return sorted((-negative, text) for negative, _, text in self._heap)


def _merged(files: Sequence[Path]) -> Iterator[str]:
    """Texts of several candidates' files, ascending by hash, each once."""
    with ExitStack() as stack:
        rows = [map(json.loads, stack.enter_context(file.open(encoding="utf-8"))) for file in files]
        for _, same in groupby(heapq.merge(*rows), key=lambda row: row[0]):
            yield next(same)[1]
