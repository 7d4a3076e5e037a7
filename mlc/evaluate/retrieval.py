"""Translation retrieval: for each text, is its translation the nearest of all candidates?

In:  parallel texts (mlc.tasks.parallel_texts) and a function that turns texts into unit vectors.
Out: top-1 accuracy and mean reciprocal rank of every pair of languages in both directions.
Letters: N = texts of one pair of languages, D = embedding size, B = rows of a block.

Rule: the right answer is the text on the same line, by place, as in the Tatoeba test of Artetxe & Schwenk 2019 (LASER);
similarity is the cosine. A candidate that scores as high as the right one counts as ranked before it, so a model that
gives every text the same vector scores 0, and of two candidates with the same words neither can be found; the number of
such repeated texts is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlc.errors import MlcError
from mlc.tasks.parallel_texts import ParallelTexts

TIE_TOLERANCE = 1e-6
"""Cosines that differ by less are equal: float32 rounding of a dot product of unit vectors, which depends on where in
a matrix product it is computed, is some 1e-7."""

_BLOCK_ELEMENTS = 2**24  # 64 MiB of float32 scores at a time

Floats = NDArray[np.float32]
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
    """

    languages: tuple[str, str]
    origin: str
    forward: RetrievalScore
    backward: RetrievalScore
    candidates: int
    repeated_texts: tuple[int, int] = (0, 0)
    repeated_ids: int = 0

    @property
    def top1(self) -> float:
        """Mean of both directions."""
        return (self.forward.top1 + self.backward.top1) / 2

    @property
    def mrr(self) -> float:
        """Mean of both directions."""
        return (self.forward.mrr + self.backward.mrr) / 2


def retrieval_ranks(first_ND: Floats, second_ND: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rank of every text's translation among all candidates, 1 = best, in both directions.

    Args:
        first_ND, second_ND: unit vectors; row k of one translates row k of the other.

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
    gold_N = np.einsum("nd,nd->n", first_ND, second_ND) - np.float32(TIE_TOLERANCE)
    forward_N = np.ones(count, dtype=np.int64)
    backward_N = np.ones(count, dtype=np.int64)
    rows = max(1, _BLOCK_ELEMENTS // max(count, 1))
    for start in range(0, count, rows):
        stop = min(start + rows, count)
        score_BN = first_ND[start:stop] @ second_ND.T
        score_BN[np.arange(stop - start), np.arange(start, stop)] = -np.inf  # the right answer is no rival of its own
        forward_N[start:stop] += np.count_nonzero(score_BN >= gold_N[start:stop, None], axis=1)
        backward_N += np.count_nonzero(score_BN >= gold_N[None, :], axis=0)
    return forward_N, backward_N


def score_ranks(ranks_N: NDArray[np.int64]) -> RetrievalScore:
    """Top-1 accuracy and mean reciprocal rank of ranks that start at 1."""
    return RetrievalScore(top1=float(np.mean(ranks_N == 1)), mrr=float(np.mean(1.0 / ranks_N)))


def unique_texts(pairs: Sequence[ParallelTexts]) -> list[str]:
    """Every text once, in order of appearance: a text that several pairs share is encoded once."""
    return list(dict.fromkeys(text for pair in pairs for side in (pair.first, pair.second) for text in side))


def score_pairs(pairs: Sequence[ParallelTexts], places: Mapping[str, int], vectors_UD: Floats) -> list[PairScore]:
    """Score pairs whose texts are already encoded.

    Args:
        places: text -> row of `vectors_UD`, for every text of `pairs`.
        vectors_UD: unit vectors of the different texts.
    """
    scores = []
    for pair in pairs:
        sides = [vectors_UD[[places[text] for text in side]] for side in (pair.first, pair.second)]
        forward_N, backward_N = retrieval_ranks(*sides)
        scores.append(
            PairScore(
                languages=pair.languages,
                origin=pair.origin,
                forward=score_ranks(forward_N),
                backward=score_ranks(backward_N),
                candidates=len(pair),
                repeated_texts=(len(pair) - len(set(pair.first)), len(pair) - len(set(pair.second))),
                repeated_ids=pair.repeated_ids,
            )
        )
    return scores


def evaluate_retrieval(pairs: Sequence[ParallelTexts], encode: Encode) -> list[PairScore]:
    """Encode the texts of `pairs` and score them.

    Args:
        encode: texts -> unit vectors (n, D) in the same order, such as `TextEncoder.encode`.
    """
    texts = unique_texts(pairs)
    return score_pairs(pairs, {text: place for place, text in enumerate(texts)}, encode(texts))


def best_layer(
    pairs: Sequence[ParallelTexts], encode_layers: Callable[[Sequence[str]], Mapping[int, Floats]]
) -> tuple[int, dict[int, float]]:
    """The layer whose mean-pooled states retrieve best on a dev split.

    Args:
        encode_layers: texts -> {layer: unit vectors}, such as `TextEncoder.encode_layers`.

    Returns:
        (layer of the highest mean top-1, among equals of the highest mean MRR, then the lowest; {layer: mean top-1}).
    """
    texts = unique_texts(pairs)
    places = {text: place for place, text in enumerate(texts)}
    by_layer = {layer: score_pairs(pairs, places, vectors) for layer, vectors in encode_layers(texts).items()}
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
