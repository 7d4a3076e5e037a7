"""Translation retrieval: for each text, is its translation the nearest of all candidates?

In:  parallel texts (mlc.tasks.parallel_texts) and a function that turns texts into unit vectors.
Out: top-1 accuracy and mean reciprocal rank of every pair of languages in both directions.
Letters: N = texts of one pair of languages, D = embedding size, B = rows of a block.

Rule: the right answer is the text on the same line, by place, as in the Tatoeba test of Artetxe & Schwenk 2019 (LASER);
similarity is the cosine, CSLS or the ratio margin (mlc.evaluate.similarity). A candidate that scores as high as the
right one counts as ranked before it, so a model that gives every text the same vector scores 0, and of two candidates
with the same words neither can be found; the number of such repeated texts is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mlc.errors import MlcError
from mlc.evaluate.similarity import BLOCK_ELEMENTS, Scoring, neighbourhood, row_blocks
from mlc.tasks.parallel_texts import ParallelTexts

_BLOCK_ELEMENTS = BLOCK_ELEMENTS

Floats = NDArray[np.float32]
Ranks = NDArray[np.int64]
Encode = Callable[[Sequence[str]], Floats]


@dataclass(frozen=True)
class RetrievalScore:
    """One direction: queries of one language, candidates of the other.

    Attributes:
        top1: share of queries whose translation ranks first, 0..1.
        mrr: mean of 1 / rank of the translation, 0..1.
    """

    top1: float
    mrr: float


@dataclass(frozen=True)
class PairScore:
    """Both directions of a pair of languages.

    Attributes:
        forward: first language asks, second answers; backward: the other way.
        candidates: N, in each direction.
        repeated_texts: lines whose text is that of an earlier line, on the first and on the second side.
        repeated_ids: documents set aside while reading (see ParallelTexts).
        ranks: of every line, forward and backward; what intervals are made of.
    """

    languages: tuple[str, str]
    origin: str
    forward: RetrievalScore
    backward: RetrievalScore
    candidates: int
    repeated_texts: tuple[int, int] = (0, 0)
    repeated_ids: int = 0
    ranks: tuple[Ranks, ...] = field(default=(), compare=False, repr=False)

    @property
    def top1(self) -> float:
        """Mean of both directions."""
        return (self.forward.top1 + self.backward.top1) / 2

    @property
    def mrr(self) -> float:
        """Mean of both directions."""
        return (self.forward.mrr + self.backward.mrr) / 2


def retrieval_ranks(first_ND: Floats, second_ND: Floats, scoring: Scoring = "cosine") -> tuple[Ranks, Ranks]:
    """Rank of every text's translation among all candidates, 1 = best, in both directions.

    Args:
        first_ND, second_ND: unit vectors; row k of one translates row k of the other.
        scoring: cosine; csls with 10 neighbours; margin = ratio margin with 4.

    Returns:
        (rank (N,) of second[k] for query first[k], rank (N,) of first[k] for query second[k]).
        At most 64 MiB of scores (or one row) are held at a time.

    Raises:
        MlcError: shapes differ, or a vector is not finite.
    """
    if first_ND.shape != second_ND.shape:
        raise MlcError("the two sides differ", found=f"{first_ND.shape} and {second_ND.shape}", needed="equal shapes")
    if not (np.isfinite(first_ND).all() and np.isfinite(second_ND).all()):
        raise MlcError(
            "the model gives vectors that are not finite", hint="check the checkpoint, or use --precision fp32"
        )
    count = len(first_ND)
    around = neighbourhood(first_ND, second_ND, scoring)
    every_N = np.arange(count)
    cosine_N = np.einsum("nd,nd->n", first_ND, second_ND)
    gold_N = around.score_of_pairs(cosine_N, every_N, every_N) - around.tolerances(every_N, every_N)
    forward_N = np.ones(count, dtype=np.int64)
    backward_N = np.ones(count, dtype=np.int64)
    for rows in row_blocks(count, count, _BLOCK_ELEMENTS):
        score_BN = around.scores(first_ND[rows] @ second_ND.T, rows)
        score_BN[every_N[rows] - rows.start, every_N[rows]] = -np.inf  # the right answer is no rival of its own
        forward_N[rows] += np.count_nonzero(score_BN >= gold_N[rows, None], axis=1)
        backward_N += np.count_nonzero(score_BN >= gold_N[None, :], axis=0)
    return forward_N, backward_N


def score_ranks(ranks_N: Ranks) -> RetrievalScore:
    """Top-1 accuracy and mean reciprocal rank of ranks that start at 1."""
    return RetrievalScore(top1=float(np.mean(ranks_N == 1)), mrr=float(np.mean(1.0 / ranks_N)))


def unique_texts(pairs: Sequence[ParallelTexts]) -> list[str]:
    """Every text once, in order of appearance: a text that several pairs share is encoded once."""
    return list(dict.fromkeys(text for pair in pairs for side in (pair.first, pair.second) for text in side))


def score_pairs(
    pairs: Sequence[ParallelTexts], places: Mapping[str, int], vectors_UD: Floats, scoring: Scoring = "cosine"
) -> list[PairScore]:
    """Score pairs whose texts are already encoded.

    Args:
        places: text -> row of `vectors_UD`, for every text of `pairs`.
        vectors_UD: unit vectors of the different texts.
        scoring: see `retrieval_ranks`.
    """
    scores = []
    for pair in pairs:
        first_ND, second_ND = (vectors_UD[[places[text] for text in side]] for side in (pair.first, pair.second))
        forward_N, backward_N = retrieval_ranks(first_ND, second_ND, scoring)
        scores.append(
            PairScore(
                languages=pair.languages,
                origin=pair.origin,
                forward=score_ranks(forward_N),
                backward=score_ranks(backward_N),
                candidates=len(pair),
                repeated_texts=(len(pair) - len(set(pair.first)), len(pair) - len(set(pair.second))),
                repeated_ids=pair.repeated_ids,
                ranks=(forward_N, backward_N),
            )
        )
    return scores


def evaluate_retrieval(pairs: Sequence[ParallelTexts], encode: Encode, scoring: Scoring = "cosine") -> list[PairScore]:
    """Encode the texts of `pairs` and score them.

    Args:
        encode: texts -> unit vectors (n, D) in the same order, such as `TextEncoder.encode`.
        scoring: see `retrieval_ranks`.
    """
    texts = unique_texts(pairs)
    return score_pairs(pairs, {text: place for place, text in enumerate(texts)}, encode(texts), scoring)


def best_layer(
    pairs: Sequence[ParallelTexts],
    encode_layers: Callable[[Sequence[str]], Mapping[int, Floats]],
    scoring: Scoring = "cosine",
) -> tuple[int, dict[int, float]]:
    """The layer whose mean-pooled states retrieve best on a dev split.

    Args:
        encode_layers: texts -> {layer: unit vectors}, such as `TextEncoder.encode_layers`.
        scoring: see `retrieval_ranks`.

    Returns:
        (layer of the highest mean top-1, among equals of the highest mean MRR, then the lowest; {layer: mean top-1}).
    """
    texts = unique_texts(pairs)
    places = {text: place for place, text in enumerate(texts)}
    by_layer = {layer: score_pairs(pairs, places, vectors, scoring) for layer, vectors in encode_layers(texts).items()}
    # Rounded: the last bit of a mean must not decide a tie.
    figures = {layer: (round(mean_top1(scores), 9), round(mean_mrr(scores), 9)) for layer, scores in by_layer.items()}
    best = max(figures, key=lambda layer: (figures[layer], -layer))
    return best, {layer: top1 for layer, (top1, _) in figures.items()}


def mean_top1(scores: Sequence[PairScore]) -> float:
    """Mean over pairs of languages, each the mean of its directions."""
    return float(np.mean([score.top1 for score in scores]))


def mean_mrr(scores: Sequence[PairScore]) -> float:
    """Mean over pairs of languages, each the mean of its directions."""
    return float(np.mean([score.mrr for score in scores]))
