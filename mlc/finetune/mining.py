"""Hard negatives: of every query the wrong passages that a bi-encoder takes for right ones.

In:  vectors of queries and passages, which passages are right.
Out: `Mined`: numbers of passages for every query, hardest first, and counts of what was left out.
Letters: Q queries, P passages, E size of an embedding, B queries of a block.

The passages of a query are searched exactly. Left out are its right passages and copies of them, and what is nearly as
similar as a right one, which is too often right itself: candidates of at least `share` of the similarity of the right
passage (Moreira et al. 2024, "NV-Retriever", TopK-PercPos, there 0.95). Of the rest, by similarity, the first are
taken, or some at random from a range of ranks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlc.data.randomness import generator
from mlc.data.text import clean_text
from mlc.tasks.examples import RankingExample
from mlc.tasks.features_pieces import Ints

Floats = NDArray[np.float32]
BLOCK_ELEMENTS = 2**24
"""Similarities of one block, B x P."""


@dataclass(frozen=True)
class MiningSettings:
    """How negatives are chosen.

    Attributes:
        negatives: of a query, at most.
        share: candidates from this share of the least similar right passage's cosine on are left out; of a cosine c
            below 0 from c - (1 - share) x |c| on.
        first_rank, last_rank: the range, counted from 1 among what is left.
        at_random: draw from the range; else its first are taken.
        seed: of the draw.
    """

    negatives: int = 7
    share: float = 0.95
    first_rank: int = 1
    last_rank: int = 100
    at_random: bool = False
    seed: int = 1


@dataclass(frozen=True)
class PassagePool:
    """All passages that negatives come from.

    Attributes:
        texts: P different ones.
        right: of each of Q queries the numbers of its right passages.
        copies: of each of Q queries the numbers of passages that are no negatives: its right passages, all with the
            text of one of them or of the query but for case and white space, and what is right for a query of the same
            text.
    """

    texts: list[str]
    right: list[Ints]
    copies: list[Ints]


@dataclass(frozen=True)
class Mined:
    """Negatives of every query.

    Attributes:
        negatives: of each of Q queries numbers of passages, most similar first.
        copies: pairs of query and passage left out as copies, right passages not counted.
        near: pairs left out as nearly as similar as a right passage.
        short: queries with fewer negatives than asked for, those without any among them.
        without: queries without any.
    """

    negatives: list[Ints]
    copies: int
    near: int
    short: int
    without: int


def passage_pool(examples: Sequence[RankingExample], more: Sequence[str] = ()) -> PassagePool:
    """The passages of examples, and more.

    Args:
        examples: Q of them; their negatives are passages like others.
        more: further passages.
    """
    number: dict[str, int] = {}
    for text in (text for example in examples for text in (*example.positives, *example.negatives)):
        number.setdefault(text, len(number))
    for text in more:
        number.setdefault(text, len(number))
    same_key: dict[str, list[int]] = defaultdict(list)
    for text, place in number.items():
        same_key[_key(text)].append(place)
    right_keys: dict[str, set[str]] = defaultdict(set)
    for example in examples:
        right_keys[_key(example.query)].update(map(_key, example.positives))
    copies = []
    for example in examples:
        query = _key(example.query)
        found = {place for key in (query, *right_keys[query]) for place in same_key.get(key, ())}
        copies.append(np.array(sorted(found), np.int64))
    right = [np.array(sorted({number[text] for text in example.positives}), np.int64) for example in examples]
    return PassagePool(list(number), right, copies)


def mine(
    queries: Floats,
    passages: Floats,
    pool: PassagePool,
    settings: MiningSettings,
    progress: Callable[[int], object] = lambda count: None,
) -> Mined:
    """Choose negatives; a function of the vectors, the pool and the settings.

    Args:
        queries: (Q, E), norm 1.
        passages: (P, E), norm 1.
        pool: Q queries and P passages.
        settings: how.
        progress: told after every block how many queries it had.
    """
    negatives: list[Ints] = []
    near = 0
    rows = max(1, BLOCK_ELEMENTS // max(1, len(passages)))
    for start in range(0, len(queries), rows):
        similarities_BP = queries[start : start + rows] @ passages.T
        for query, similarity_P in enumerate(similarities_BP, start):
            limit = _limit(similarity_P[pool.right[query]], settings.share)
            similarity_P[pool.copies[query]] = -np.inf
            too_near = similarity_P >= limit
            near += int(too_near.sum())
            similarity_P[too_near] = -np.inf
            ranked = _best(similarity_P, settings.last_rank)[settings.first_rank - 1 :]
            negatives.append(_choose(ranked, query, settings))
        progress(len(similarities_BP))
    return Mined(
        negatives,
        copies=sum(len(copies) - len(right) for copies, right in zip(pool.copies, pool.right, strict=True)),
        near=near,
        short=sum(len(found) < settings.negatives for found in negatives),
        without=sum(not len(found) for found in negatives),
    )


def _limit(right: Floats, share: float) -> float:
    """From which similarity on a passage may be right."""
    least = float(right.min())
    return least - (1 - share) * abs(least)


def _best(similarity_P: Floats, count: int) -> Ints:
    """Numbers of the `count` largest that are no -inf, by similarity and then by number."""
    if count < len(similarity_P):
        least = np.partition(similarity_P, len(similarity_P) - count)[len(similarity_P) - count]
        among = np.flatnonzero((similarity_P >= least) & (similarity_P > -np.inf))  # with all that tie with the last
    else:
        among = np.flatnonzero(similarity_P > -np.inf)
    best: Ints = among[np.lexsort((among, -similarity_P[among]))[:count]]
    return best


def _choose(ranked: Ints, query: int, settings: MiningSettings) -> Ints:
    if not settings.at_random or len(ranked) <= settings.negatives:
        return ranked[: settings.negatives]
    places = generator(settings.seed, "mined negatives", query).permutation(len(ranked))[: settings.negatives]
    return ranked[np.sort(places)]


def _key(text: str) -> str:
    """What copies of a text have in common."""
    return clean_text(text).casefold()
