"""The corpus: documents in every language, a held-out part, and the measurements that show the two do not mix.

Comes in: counts and a seed. Goes out: records {"id", "lang", "text"} by language (one sentence a line of the text) and
a report. A function of its arguments alone: the same on any machine, whatever the hash seed of the process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random

from data_prep.demo_corpus.languages import all_realisers
from data_prep.demo_corpus.planning import DocumentPlan, sample_document
from data_prep.demo_corpus.realiser import Realiser
from data_prep.demo_corpus.sentences import MeaningKey, content_concepts, meaning_key
from mlc.errors import DataError, UsageError

Record = dict[str, str]

MIN_DIFFERING_CONCEPTS = 8
"""Two held-out documents differ in at least this many concepts, so that retrieval among them is fair."""

WITHOUT_SPACES = ("zh", "ja")
_ATTEMPTS_PER_DOCUMENT = 200
_NGRAM = 5
_PUNCTUATION = ".,。、，।"


@dataclass(frozen=True)
class LanguageReport:
    """Size and overlap of one language; a token is a word, or a character in Chinese and Japanese."""

    train_tokens: int
    train_types: int
    held_out_tokens: int
    held_out_types: int
    held_out_types_unseen: int
    repeated_sentences: int
    five_gram_overlap: float
    """Share of the held-out 5-grams (within sentences, with repeats) that occur in training."""


@dataclass(frozen=True)
class Corpus:
    """Training and held-out records by language, and one language's extra documents that have no translation."""

    seed: int
    train: Mapping[str, list[Record]]
    held_out: Mapping[str, list[Record]]
    extra: list[Record]
    train_plans: tuple[DocumentPlan, ...]
    held_out_plans: tuple[DocumentPlan, ...]

    def report(self) -> dict[str, LanguageReport]:
        """Measures every language on its surface text (not on the plans)."""
        extra = {record["lang"]: self.extra for record in self.extra}
        return {
            language: _measure(language, [*records, *extra.get(language, [])], self.held_out[language])
            for language, records in self.train.items()
        }


def generate(documents: int, held_out: int, seed: int, *, extra: int = 0, extra_language: str = "en") -> Corpus:
    """Generates `documents` training and `held_out` held-out documents in every language.

    The held-out part depends on (held_out, seed) alone, so it stays the same when the training part grows.

    Args:
        documents: training documents, each in all languages, >= 1.
        held_out: documents for scoring, >= 0; none of their sentences occurs in training in any language.
        seed: any integer.
        extra: further documents in `extra_language` alone.
        extra_language: a language code of the corpus.

    Raises:
        UsageError: a count or the language cannot be, or there are too few combinations for so many documents.
        DataError: a held-out sentence occurs in training (a fault of a lexicon: two concepts with one form).
    """
    realisers = all_realisers()
    if documents < 1 or held_out < 0 or extra < 0:
        found = {"documents": documents, "held_out": held_out, "extra": extra}
        raise UsageError("the corpus cannot have this size", found=found, needed="documents >= 1, the others >= 0")
    if extra_language not in realisers:
        raise UsageError("unknown language", found=extra_language, needed=f"one of {', '.join(realisers)}")
    held_out_plans = _held_out_plans(held_out, seed)
    blocked = {meaning_key(sentence) for plan in held_out_plans for sentence in plan}
    train_plans = _train_plans("train", documents, seed, blocked)
    extra_plans = _train_plans("extra", extra, seed, blocked)
    corpus = Corpus(
        seed=seed,
        train={code: _records("train", code, train_plans, realiser) for code, realiser in realisers.items()},
        held_out={code: _records("heldout", code, held_out_plans, realiser) for code, realiser in realisers.items()},
        extra=_records("extra", extra_language, extra_plans, realisers[extra_language]),
        train_plans=train_plans,
        held_out_plans=held_out_plans,
    )
    _refuse_repeats(corpus)
    return corpus


def least_difference(plans: Sequence[DocumentPlan]) -> int | None:
    """The least number of concepts, over all pairs of plans, that only one of the two has in the same role."""
    concepts = [_document_concepts(plan) for plan in plans]
    return min((len(first ^ second) for first, second in combinations(concepts, 2)), default=None)


def tokens(sentence: str, language: str) -> list[str]:
    """Words without punctuation; in Chinese and Japanese, characters."""
    if language in WITHOUT_SPACES:
        return [character for character in sentence if character not in _PUNCTUATION]
    return [word.strip(_PUNCTUATION) for word in sentence.split()]


def _document_concepts(plan: DocumentPlan) -> frozenset[str]:
    return frozenset().union(*(content_concepts(sentence) for sentence in plan))


def _attempts(part: str, number: int, seed: int) -> Iterator[DocumentPlan]:
    """Candidate plans of one document; each has a stream of its own, so documents do not depend on one another."""
    for attempt in range(_ATTEMPTS_PER_DOCUMENT):
        yield sample_document(Random(f"{seed}/{part}/{number}/{attempt}"))
    raise UsageError(
        f"no new {part} document found after {_ATTEMPTS_PER_DOCUMENT} attempts",
        found=f"document {number}",
        needed="fewer documents: the vocabulary is small",
    )


def _held_out_plans(count: int, seed: int) -> tuple[DocumentPlan, ...]:
    """Plans that share no sentence with one another and differ in MIN_DIFFERING_CONCEPTS concepts or more."""
    plans: list[DocumentPlan] = []
    concepts: list[frozenset[str]] = []
    used: set[MeaningKey] = set()
    for number in range(count):
        for plan in _attempts("heldout", number, seed):
            keys, own = {meaning_key(sentence) for sentence in plan}, _document_concepts(plan)
            if not keys & used and all(len(own ^ other) >= MIN_DIFFERING_CONCEPTS for other in concepts):
                break
        plans.append(plan)
        concepts.append(own)
        used |= keys
    return tuple(plans)


def _train_plans(part: str, count: int, seed: int, blocked: set[MeaningKey]) -> tuple[DocumentPlan, ...]:
    """Distinct plans without any of the blocked sentences."""
    plans: dict[DocumentPlan, None] = {}
    for number in range(count):
        for plan in _attempts(part, number, seed):
            if plan not in plans and not any(meaning_key(sentence) in blocked for sentence in plan):
                break
        plans[plan] = None
    return tuple(plans)


def _records(part: str, language: str, plans: Sequence[DocumentPlan], realiser: Realiser) -> list[Record]:
    return [
        {
            "id": f"{part}-{number:06d}",
            "lang": language,
            "text": "\n".join(realiser.sentence(sentence) for sentence in plan),
        }
        for number, plan in enumerate(plans)
    ]


def _sentences(records: Sequence[Record]) -> Iterator[str]:
    for record in records:
        yield from record["text"].split("\n")


def _refuse_repeats(corpus: Corpus) -> None:
    """Plans were kept apart by meaning; this looks at the text, where two meanings could still read the same."""
    for language, records in corpus.train.items():
        extra = [record for record in corpus.extra if record["lang"] == language]
        repeated = set(_sentences(corpus.held_out[language])) & set(_sentences([*records, *extra]))
        if repeated:
            raise DataError(
                f"{len(repeated)} held-out sentences occur in training in language {language}",
                found=min(repeated),
                needed="two concepts of one section never share their forms",
                where="data_prep/demo_corpus/languages",
            )


def _five_grams(records: Sequence[Record], language: str) -> Iterator[tuple[str, ...]]:
    for sentence in _sentences(records):
        words = tokens(sentence, language)
        for start in range(len(words) - _NGRAM + 1):
            yield tuple(words[start : start + _NGRAM])


def _measure(language: str, train: Sequence[Record], held_out: Sequence[Record]) -> LanguageReport:
    train_tokens = [token for sentence in _sentences(train) for token in tokens(sentence, language)]
    held_out_tokens = [token for sentence in _sentences(held_out) for token in tokens(sentence, language)]
    train_types, held_out_types = set(train_tokens), set(held_out_tokens)
    seen = set(_five_grams(train, language))
    hits = [gram in seen for gram in _five_grams(held_out, language)]
    return LanguageReport(
        train_tokens=len(train_tokens),
        train_types=len(train_types),
        held_out_tokens=len(held_out_tokens),
        held_out_types=len(held_out_types),
        held_out_types_unseen=len(held_out_types - train_types),
        repeated_sentences=len(set(_sentences(held_out)) & set(_sentences(train))),
        five_gram_overlap=sum(hits) / len(hits) if hits else 0.0,
    )
