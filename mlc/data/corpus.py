"""Samples: two views of one meaning (or one text), as a pure function of the sample's index.

In:  the shards that a recipe's sources select, through their manifest.
Out: `Sample`s with clean tokens, languages, and the identities that the contrast's masks need.

Views: two spans of one document; a document and the same document in another language; the two sides of a sentence
pair; the first two sequences of a document whose others are hard negatives; one text alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash

from mlc.data.indexed import IndexedShard
from mlc.data.manifest import Manifest, ShardEntry
from mlc.data.randomness import generator, hash_words
from mlc.data.sampler import Sampler
from mlc.data.views import aligned_windows, ends_within, two_spans, window
from mlc.errors import RecipeError
from mlc.recipe import DataSection, SourceSection

Int64Array = npt.NDArray[np.int64]
Tokens = npt.NDArray[np.integer]

SPECIALS_PER_TEXT = 2  # [CLS] and [SEP]


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample, uncorrupted.

    Attributes:
        index: its number in the run.
        first, second: tokens of the views without [CLS] and [SEP]; `second` is None for a single text.
        first_ends, second_ends: where the sequences of the shard end inside the views, see `ends_within`; of a single
            text, `second_ends` is empty.
        first_language, second_language: language codes.
        group: same number = same document or translation of it; never a negative of one another.
        hard: tokens of the hard negatives that the document brings, in its order; of ranked documents only.
    """

    index: int
    first: Tokens
    second: Tokens | None
    first_ends: Int64Array
    second_ends: Int64Array
    first_language: str
    second_language: str
    group: int
    hard: tuple[Tokens, ...] = ()

    @property
    def views(self) -> list[tuple[Tokens, Int64Array]]:
        """Tokens and ends of the one or two views."""
        first = (self.first, self.first_ends)
        return [first] if self.second is None else [first, (self.second, self.second_ends)]


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
        self.manifest = manifest
        self._data, self._seed = data, seed
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

    def planned_tokens(
        self, index: Int64Array, *, rows_per_pair: int = 1, rows_per_text: int = 1, hard_negatives: int = 0
    ) -> Int64Array:
        """About how many tokens the rows of each sample have, known without reading texts; used to balance and sort.

        A translation is taken to be as long as its original, and hard negatives as long as their document's mean;
        special tokens and Part B are not counted.

        Args:
            index: of the samples, (n,).
            rows_per_pair: how often each view of a sample with a partner is fed to the model.
            rows_per_text: how often a text without a partner is.
            hard_negatives: of a sample, at most.
        """
        stream, place = self.sampler.draw(index)
        planned = np.empty(len(index), dtype=np.int64)
        for number in np.unique(stream):
            chosen = np.flatnonzero(stream == number)
            source_stream = self.streams[int(number)]
            documents = place[chosen]
            if source_stream.documents is not None:
                documents = source_stream.documents[documents]
            limit = self._data.max_tokens - SPECIALS_PER_TEXT
            if source_stream.source.view == "ranked":
                tokens, paired, hard = _ranked_lengths(source_stream.shards[0], documents, limit, hard_negatives)
                planned[chosen] = tokens * np.where(paired, rows_per_pair, rows_per_text) + hard
                continue
            lengths = [np.minimum(_document_lengths(shard, documents), limit) for shard in source_stream.shards]
            single = source_stream.source.view == "text"
            sides = 2 if len(lengths) == 1 and not single else 1
            planned[chosen] = np.sum(lengths, axis=0) * sides * (rows_per_text if single else rows_per_pair)
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
        entries = [entry for entry in self.manifest.shards if is_selected(entry, source)]
        where = f"{self._data.shards}/manifest.json"
        found_languages = {language for entry in entries for language in entry.languages}
        missing = sorted(set(source.languages) - found_languages)
        if not entries or missing:
            available = sorted({code for e in self.manifest.shards if e.kind == source.kind for code in e.languages})
            raise RecipeError(
                f"data.sources[{number}] selects {source.kind} that the shards do not hold",
                found=f"languages {', '.join(available) or 'none'} of kind {source.kind}",
                needed=f"languages {', '.join(missing) or 'any'}",
                where=where,
                hint="mlc prep inspect " + self._data.shards,
            )
        opened = [(entry, tuple(self.manifest.open(entry)), self.manifest.groups(entry)) for entry in entries]
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
        language, shard = stream.entry.languages[0], stream.shards[0]
        group = int(stream.groups[document])
        if group < 0:
            group = hash_words(stream.entry.name, document)
        if stream.source.view == "ranked":
            return _ranked(index, shard, document, language, group, limit)
        text, ends = shard.document(document), _sequence_ends(shard, document)
        if stream.source.view == "text":
            part = window(len(text), random.random(), limit)
            return Sample(index, text[part], None, ends_within(ends, part), _NO_ENDS, language, language, group)
        other_text, other_ends, other_language = text, ends, language
        if stream.translations is not None:
            # One key a sample, or one a global batch: then the whole batch pairs the same two languages.
            turn = index // self._data.samples_per_step if self._data.language_pure else index
            key = hash_words(self._seed, "partner", turn)
            other_language, other, partner = stream.translations.partner(group, language, key)
            other_text, other_ends = other.document(partner), _sequence_ends(other, partner)
            first, second = aligned_windows(ends, other_ends, random, limit)
        elif stream.source.view == "pair":
            other, other_language = stream.shards[1], stream.entry.languages[1]
            other_text, other_ends = other.document(document), _sequence_ends(other, document)
            first, second = (slice(0, min(len(side), limit)) for side in (text, other_text))
        else:
            first, second = two_spans(len(text), random, limit, self._data.min_span_tokens)
        return Sample(
            index,
            text[first],
            other_text[second],
            ends_within(ends, first),
            ends_within(other_ends, second),
            language,
            other_language,
            group,
        )


_NO_ENDS: Int64Array = np.empty(0, dtype=np.int64)


def _ranked(index: int, shard: IndexedShard, document: int, language: str, group: int, limit: int) -> Sample:
    """First sequence, its partner, hard negatives; a document of one sequence, or none, has no partner."""
    low, high = shard.document_bounds[document : document + 2].tolist()
    sequences = [shard.sequence(place)[:limit] for place in range(low, high)]
    ends = [ends_within(np.array([len(tokens)]), slice(0, len(tokens))) for tokens in sequences[:2]]
    return Sample(
        index,
        sequences[0] if sequences else shard.tokens[:0],
        sequences[1] if len(sequences) > 1 else None,
        ends[0] if sequences else _NO_ENDS,
        ends[1] if len(sequences) > 1 else _NO_ENDS,
        language,
        language,
        group,
        tuple(sequences[2:]),
    )


def text_hash(tokens: Tokens) -> int:
    """63-bit hash of a text, the same for every token dtype."""
    return xxhash.xxh3_64_intdigest(np.asarray(tokens, dtype="<u4").tobytes()) >> 1


def _sequence_ends(shard: IndexedShard, document: int) -> Int64Array:
    """Where each sequence of a document ends, in tokens from its start."""
    low, high = shard.document_bounds[document : document + 2]
    return np.cumsum(shard.lengths[low:high], dtype=np.int64)


def _ranked_lengths(
    shard: IndexedShard, documents: Int64Array, limit: int, hard_negatives: int
) -> tuple[Int64Array, npt.NDArray[np.bool_], Int64Array]:
    """Of ranked documents: tokens of the first two sequences, whether there are two, and about those of the rest."""
    first = np.asarray(shard.document_bounds[documents])
    count = np.asarray(shard.document_bounds[documents + 1]) - first
    last = max(0, shard.num_sequences - 1)
    whole = [
        np.where(count > place, shard.lengths[np.minimum(first + place, last)], 0) if shard.num_sequences else 0 * count
        for place in (0, 1)
    ]
    tokens = np.sum([np.minimum(lengths, limit) for lengths in whole], axis=0).astype(np.int64)
    negatives = np.maximum(count - 2, 0)
    rest = _document_lengths(shard, documents) - whole[0] - whole[1]
    mean = np.minimum(-(-rest // np.maximum(negatives, 1)), limit)
    hard = mean * np.minimum(negatives, hard_negatives)
    return tokens, count > 1, hard.astype(np.int64)


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


def is_selected(entry: ShardEntry, source: SourceSection) -> bool:
    """Whether a source draws from a shard: one of its kind, in no languages but those it lists."""
    chosen = not source.languages or all(language in source.languages for language in entry.languages)
    return entry.kind == source.kind and chosen
