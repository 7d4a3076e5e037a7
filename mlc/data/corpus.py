"""Samples: two views of one meaning (or one text), as a pure function of the sample's index.

In:  the shards that a recipe's sources select, through their manifest.
Out: `Sample`s with clean tokens, languages, and the identities that the contrast's masks need.

Views: two spans of one document; a document and the same document in another language; the two sides of a sentence
pair; one text alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash

from mlc.config import DataSection, SourceSection
from mlc.data.indexed import IndexedShard
from mlc.data.manifest import Manifest, ShardEntry
from mlc.data.randomness import generator, hash_words
from mlc.data.sampler import Sampler
from mlc.errors import RecipeError

Int64Array = npt.NDArray[np.int64]
Tokens = npt.NDArray[np.integer]

SPECIALS_PER_TEXT = 2  # [CLS] and [SEP]


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample, uncorrupted.

    Attributes:
        index: its number in the run.
        first, second: tokens of the views without [CLS] and [SEP]; `second` is None for a single text.
        first_language, second_language: language codes.
        group: same number = same document or translation of it; never a negative of one another.
    """

    index: int
    first: Tokens
    second: Tokens | None
    first_language: str
    second_language: str
    group: int


class Translations:
    """Where the other languages of a document are: all (group, shard, document) triples sorted by group."""

    def __init__(self, shards: Sequence[tuple[str, IndexedShard, Int64Array]]) -> None:
        self._shards = shards
        group = np.concatenate([groups for _, _, groups in shards])
        shard = np.concatenate([np.full(len(groups), place) for place, (_, _, groups) in enumerate(shards)])
        document = np.concatenate([np.arange(len(groups)) for _, _, groups in shards])
        order = np.lexsort((document, shard, group))
        order = order[group[order] >= 0]
        self._group, self._shard, self._document = group[order], shard[order], document[order]
        names = sorted({language for language, _, _ in shards})
        language = np.array([names.index(name) for name, _, _ in shards], dtype=np.int64)[self._shard]
        first_of_group = np.flatnonzero(np.diff(self._group, prepend=-1))
        if len(first_of_group):
            least, most = (function.reduceat(language, first_of_group) for function in (np.minimum, np.maximum))
            self._translated = self._group[first_of_group[least != most]]
        else:
            self._translated = self._group

    def translated(self, place: int) -> Int64Array:
        """Documents of shard number `place` that exist in another language too."""
        return np.flatnonzero(np.isin(self._shards[place][2], self._translated)).astype(np.int64)

    def partner(self, group: int, language: str, key: int) -> tuple[str, IndexedShard, int]:
        """A translation of `group` into another language: of those it exists in, the first in an order set by `key`.

        Documents that share a key get the same language as far as they can.
        """
        low, high = np.searchsorted(self._group, [group, group + 1])
        members = [(self._shards[int(self._shard[p])], int(self._document[p])) for p in range(low, high)]
        others = [member for member in members if member[0][0] != language]
        (other, shard, _), document = min(others, key=lambda member: hash_words(key, member[0][0]))
        return other, shard, document


@dataclass(frozen=True)
class Stream:
    """One source in one language (or language pair): what the sampler draws from.

    Attributes:
        documents: which documents of the shard belong to it; None = all.
        translations: translations view: where every document's other languages are.
    """

    source: SourceSection
    entry: ShardEntry
    shards: tuple[IndexedShard, ...]
    groups: Int64Array
    documents: Int64Array | None = None
    translations: Translations | None = None

    @property
    def size(self) -> int:
        """Number of documents (or pairs) that can be drawn."""
        return len(self.documents) if self.documents is not None else self.entry.documents

    def document(self, place: int) -> int:
        """The shard's document behind place 0..size-1."""
        return int(self.documents[place]) if self.documents is not None else place


class Corpus:
    """All samples of a run.

    Args:
        data: the recipe's data section.
        manifest: of `data.shards`.
        seed: run seed.

    Raises:
        RecipeError: a source selects no shard, or documents without translations for the translations view.
    """

    def __init__(self, data: DataSection, manifest: Manifest, *, seed: int) -> None:
        self._data, self._manifest, self._seed = data, manifest, seed
        self.streams: list[Stream] = []
        shares: list[float] = []
        for number, source in enumerate(data.sources):
            streams = self._open_source(number, source)
            sizes = np.array([stream.size for stream in streams], dtype=np.float64) ** data.language_exponent
            shares += list(source.weight * sizes / sizes.sum())
            self.streams += streams
        self.sampler = Sampler(
            [stream.size for stream in self.streams],
            shares,
            seed=seed,
            samples_per_step=data.samples_per_step,
            language_pure=data.language_pure,
        )
        self.languages = sorted({language for stream in self.streams for language in stream.entry.languages})

    def step_indices(self, step: int) -> Int64Array:
        """Indices of global batch `step` (counted from 0), shape (N,)."""
        count = self._data.samples_per_step
        return np.arange(step * count, (step + 1) * count, dtype=np.int64)

    def planned_tokens(self, index: Int64Array) -> Int64Array:
        """About how many tokens each sample has, known without reading them; used to balance and sort.

        A translation is taken to be as long as its original; special tokens and Part B are not counted.
        """
        stream, place = self.sampler.draw(index)
        planned = np.empty(len(index), dtype=np.int64)
        for number in np.unique(stream):
            chosen = np.flatnonzero(stream == number)
            source_stream = self.streams[int(number)]
            documents = place[chosen]
            if source_stream.documents is not None:
                documents = source_stream.documents[documents]
            lengths = [
                np.minimum(_document_lengths(shard, documents), self._data.max_tokens - SPECIALS_PER_TEXT)
                for shard in source_stream.shards
            ]
            sides = 2 if len(lengths) == 1 and source_stream.source.view != "text" else 1
            planned[chosen] = np.sum(lengths, axis=0) * sides
        return planned

    def samples(self, index: Int64Array) -> list[Sample]:
        """Read the samples at `index`, shape (n,)."""
        streams, places = self.sampler.draw(index)
        return [
            self._read(int(i), self.streams[int(stream)], int(place))
            for i, stream, place in zip(index, streams, places, strict=True)
        ]

    def token_counts(self, vocab_size: int, samples: int = 2048) -> Int64Array:
        """How often each token occurs in `samples` of the run's first samples, (vocab_size,).

        With language-pure batches it is the first sample of each batch: the first few batches are few languages.
        """
        stride = self._data.samples_per_step if self._data.language_pure else 1
        chosen = self.samples(np.arange(samples) * stride)
        texts = [text for sample in chosen for text in (sample.first, sample.second)]
        tokens = np.concatenate([text for text in texts if text is not None])
        return np.bincount(tokens, minlength=vocab_size).astype(np.int64)

    def _open_source(self, number: int, source: SourceSection) -> list[Stream]:
        entries = [entry for entry in self._manifest.shards if entry.kind == source.kind and _selected(entry, source)]
        where = f"{self._data.shards}/manifest.json"
        found_languages = {language for entry in entries for language in entry.languages}
        missing = sorted(set(source.languages) - found_languages)
        if not entries or missing:
            available = sorted({code for e in self._manifest.shards if e.kind == source.kind for code in e.languages})
            raise RecipeError(
                f"data.sources[{number}] selects {source.kind} that the shards do not hold",
                found=f"languages {', '.join(available) or 'none'} of kind {source.kind}",
                needed=f"languages {', '.join(missing) or 'any'}",
                where=where,
                hint="mlc prep inspect " + self._data.shards,
            )
        opened = [(entry, tuple(self._manifest.open(entry)), self._manifest.groups(entry)) for entry in entries]
        if source.view != "translations":
            return [Stream(source, entry, shards, groups) for entry, shards, groups in opened if entry.documents]
        translations = Translations([(entry.languages[0], shards[0], groups) for entry, shards, groups in opened])
        streams = []
        for place, (entry, shards, groups) in enumerate(opened):
            documents = translations.translated(place)
            if len(documents):
                streams.append(Stream(source, entry, shards, groups, documents, translations))
        if not streams:
            raise RecipeError(
                f'data.sources[{number}] has view = "translations", but no document exists in two of its languages',
                needed="documents that share a group number",
                where=where,
            )
        return streams

    def _read(self, index: int, stream: Stream, place: int) -> Sample:
        document = stream.document(place)
        random = generator(self._seed, "view", index)
        limit = self._data.max_tokens - SPECIALS_PER_TEXT
        language = stream.entry.languages[0]
        group = int(stream.groups[document])
        if group < 0:
            group = hash_words(stream.entry.name, document)
        if stream.translations is not None:
            # One key a sample, or one a global batch: then the whole batch pairs the same two languages.
            turn = index // self._data.samples_per_step if self._data.language_pure else index
            key = hash_words(self._seed, "partner", turn)
            other, shard, partner = stream.translations.partner(group, language, key)
            first, second = aligned_windows((stream.shards[0], document), (shard, partner), random, limit)
            return Sample(index, first, second, language, other, group)
        match stream.source.view:
            case "pair":
                first, second = (shard.document(document)[:limit] for shard in stream.shards)
                return Sample(index, first, second, language, stream.entry.languages[1], group)
            case "spans":
                first, second = two_spans(
                    stream.shards[0].document(document), random, limit, self._data.min_span_tokens
                )
                return Sample(index, first, second, language, language, group)
            case _:
                text = stream.shards[0].document(document)
                return Sample(index, _window(text, random.random(), limit), None, language, language, group)


def two_spans(text: Tokens, random: np.random.Generator, limit: int, shortest: int) -> tuple[Tokens, Tokens]:
    """Two spans of one document that do not overlap, in random order.

    A window of at most twice `limit` tokens is cut at a random place; each side gives a span of random length at a
    random place. Overlapping spans would let shared words, rather than shared meaning, find the partner.
    A document shorter than twice `shortest` gives both views the whole text.

    Args:
        text: tokens of the document, shape (n,).
        limit: longest span in tokens.
        shortest: shortest span in tokens.
    """
    if len(text) < 2 * shortest:
        return text[:limit], text[:limit]
    window = _window(text, random.random(), 2 * limit)
    cut = int(random.integers(shortest, len(window) - shortest + 1))
    spans = []
    for side in (window[:cut], window[cut:]):
        longest = min(len(side), limit)
        length = int(random.integers(min(shortest, longest), longest + 1))
        spans.append(_window(side, random.random(), length))
    if random.random() < 0.5:
        spans.reverse()
    return spans[0], spans[1]


def aligned_windows(
    first: tuple[IndexedShard, int], second: tuple[IndexedShard, int], random: np.random.Generator, limit: int
) -> tuple[Tokens, Tokens]:
    """The same passage of a document in two languages, at most `limit` tokens a side.

    Documents with equally many sequences are taken to correspond sequence by sequence: the passage starts at the same
    sequence in both. Otherwise it starts at the same fraction of the text.
    """
    texts = [shard.document(document) for shard, document in (first, second)]
    place = random.random()
    if max(len(text) for text in texts) <= limit:
        return texts[0], texts[1]
    bounds = [
        np.cumsum(shard.lengths[shard.document_bounds[document] : shard.document_bounds[document + 1]])
        for shard, document in (first, second)
    ]
    if len(bounds[0]) != len(bounds[1]) or len(bounds[0]) == 1:
        return _window(texts[0], place, limit), _window(texts[1], place, limit)
    # The last start from which the rest still fills a view, so that late starts do not give stubs.
    late = min(int(np.searchsorted(b, max(0, int(b[-1]) - limit), side="right")) for b in bounds)
    sequence = int(place * (late + 1))
    starts = [int(b[sequence - 1]) if sequence else 0 for b in bounds]
    return texts[0][starts[0] : starts[0] + limit], texts[1][starts[1] : starts[1] + limit]


def text_hash(tokens: Tokens) -> int:
    """63-bit hash of a text, the same for every token dtype."""
    return xxhash.xxh3_64_intdigest(np.asarray(tokens, dtype="<u4").tobytes()) >> 1


def _window(text: Tokens, place: float, limit: int) -> Tokens:
    start = int(place * (max(0, len(text) - limit) + 1))
    return text[start : start + limit]


def _document_lengths(shard: IndexedShard, documents: Int64Array) -> Int64Array:
    """Tokens of the given documents, reading nothing but their own index entries."""
    total_bytes = shard.num_tokens * shard.dtype.itemsize
    first = np.asarray(shard.document_bounds[documents])
    end = np.asarray(shard.document_bounds[documents + 1])
    last = shard.num_sequences - 1
    starts, ends = (
        np.where(bound <= last, shard.offsets[np.minimum(bound, last)], total_bytes) for bound in (first, end)
    )
    return ((ends - starts) // shard.dtype.itemsize).astype(np.int64)


def _selected(entry: ShardEntry, source: SourceSection) -> bool:
    return not source.languages or all(language in source.languages for language in entry.languages)
