"""The shape of the space: alignment, uniformity, and how much of the language an embedding tells.

In:  parallel texts (mlc.tasks.parallel_texts).
Out: alignment and uniformity (Wang & Isola 2020) of every pair of languages and of all; accuracy of a linear probe that
     guesses the language; share of texts whose nearest neighbour is of their own language, which retrieval over all
     languages at once must overcome.
Letters: N pairs, U different texts, D = embedding size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlc.errors import UsageError
from mlc.evaluate.intervals import Bootstrap, Score
from mlc.evaluate.options import Evaluation, TextVectors
from mlc.evaluate.results import Scores, TaskResult, new_key
from mlc.evaluate.similarity import BLOCK_ELEMENTS, Floats, row_blocks
from mlc.tasks.parallel_texts import ParallelTexts

ALPHA = 2  # power of the distance, eq. 1
T = 2  # eq. 2
MOST_TEXTS = 20_000
"""Of the uniformity over all languages, whose work grows with the square."""
FOLDS = 5
FEWEST_TEXTS = 2 * FOLDS


@dataclass(frozen=True)
class LanguageTexts:
    """Different texts, equally many of each language. Texts found in two languages are left out.

    Attributes:
        dropped: how many of those there were.
    """

    texts: list[str]
    languages: NDArray[np.str_]
    dropped: int


def evaluate_alignment(
    evaluation: Evaluation, pairs: Sequence[ParallelTexts], *, texts_per_language: int = 200
) -> TaskResult:
    """Score the space.

    Args:
        texts_per_language: of the probe and of the nearest neighbours; fewer where a language has fewer.

    Raises:
        UsageError: a language has too few texts of its own for the probe.
    """
    bootstrap, seed = evaluation.options.bootstrap, evaluation.options.seed
    sample = balanced_texts(pairs, texts_per_language, seed)
    vectors = evaluation.encode(text for pair in pairs for side in (pair.first, pair.second) for text in side)
    rows: dict[str, Scores] = {}
    distances = []
    for pair in pairs:
        first_ND, second_ND = vectors.of(pair.first), vectors.of(pair.second)
        distances.append(squared_distances(first_ND, second_ND))
        both = vectors.of(dict.fromkeys([*pair.first, *pair.second]))
        rows[new_key("-".join(pair.languages), rows)] = {
            "alignment": bootstrap.mean(distances[-1]),
            "uniformity": uniformity(both, bootstrap),
        }
    scores = {
        "alignment": bootstrap.mean_of_means(distances),
        "uniformity": uniformity(_some(vectors.vectors_UD, seed), bootstrap),
    }
    spread_over = min(MOST_TEXTS, len(vectors.places))
    notes = [f"alignment: mean squared distance of translations; uniformity of all languages over {spread_over} texts"]
    by_language: dict[str, Scores] = {}
    names = sorted(set(sample.languages.tolist()))
    if len(names) > 1:
        identified, neighbours, by_language = _language_scores(sample, vectors, bootstrap)
        scores |= {"language_probe": identified, "same_language_neighbours": neighbours}
        notes.append(
            f"languages are guessed on {len(sample.texts) // len(names)} texts of each of {len(names)}; by chance "
            f"{1 / len(names):.3f} are right, and {_chance_of_neighbour(len(sample.texts), len(names)):.3f} of nearest "
            f"neighbours are of the same language"
        )
        if sample.dropped:
            notes.append(f"{sample.dropped} texts that occur in two languages are not guessed")
    return TaskResult(
        task="alignment",
        facts=evaluation.facts(vectors),
        data=evaluation.data,
        scores=scores,
        by={"pair": rows, "language": by_language},
        details={
            "chance_language_probe": 1 / len(names),
            "chance_same_language_neighbours": _chance_of_neighbour(len(sample.texts), len(names)),
            "texts_per_language": len(sample.texts) // len(names),
        },
        notes=tuple(notes),
    )


def squared_distances(first_ND: Floats, second_ND: Floats) -> NDArray[np.float64]:
    """(N,) |x - y|^ALPHA of translations; their mean is the alignment, eq. 1: 0 = all equal."""
    distance_N: NDArray[np.float64] = np.linalg.norm(first_ND.astype(np.float64) - second_ND, axis=1) ** ALPHA
    return distance_N


def uniformity(vectors_UD: Floats, bootstrap: Bootstrap) -> Score:
    """log of the mean over all pairs of different texts of exp(-T |x - y|^2), eq. 2: 0 = all equal, lower = spread.

    The interval resamples the texts' mean kernels, to first order (a U-statistic moves with two of its texts).
    """
    kernel_U = mean_kernels(vectors_UD)
    mean = float(kernel_U.mean())
    draws_G = mean + 2 * (bootstrap.means(kernel_U) - mean)
    return bootstrap.score(float(np.log(mean)), np.log(np.maximum(draws_G, 1e-300)), len(vectors_UD))


def mean_kernels(vectors_UD: Floats) -> NDArray[np.float64]:
    """(U,) mean of exp(-T |x - y|^2) of each unit vector with the others; |x - y|^2 = 2 - 2 cos."""
    count = len(vectors_UD)
    kernel_U = np.empty(count)
    for rows in row_blocks(count, count, BLOCK_ELEMENTS):
        block = np.exp(T * (2 * (vectors_UD[rows] @ vectors_UD.T) - 2))
        own = np.arange(rows.start, rows.stop)
        kernel_U[rows] = (block.sum(axis=1, dtype=np.float64) - block[own - rows.start, own]) / max(1, count - 1)
    return kernel_U


def balanced_texts(pairs: Sequence[ParallelTexts], most: int, seed: int) -> LanguageTexts:
    """Equally many texts of each language: at most `most`, at most as many as the poorest language has.

    Raises:
        UsageError: that is too few to cross-validate.
    """
    by_language: dict[str, dict[str, None]] = {}
    for pair in pairs:
        for language, side in zip(pair.languages, (pair.first, pair.second), strict=True):
            by_language.setdefault(language, {}).update(dict.fromkeys(side))
    uses = Counter(text for texts in by_language.values() for text in texts)
    own = {language: [text for text in texts if uses[text] == 1] for language, texts in by_language.items()}
    poorest = min(own, key=lambda language: len(own[language]))
    each = min(most, len(own[poorest]))
    if each < FEWEST_TEXTS:
        raise UsageError(
            "a language has too few texts to be guessed",
            found=f"{poorest}: {each}",
            needed=f"{FEWEST_TEXTS} or more; leave it out by --languages",
        )
    random = np.random.default_rng(seed)
    texts, languages = [], []
    for language in sorted(own):
        texts += [own[language][k] for k in random.permutation(len(own[language]))[:each]]
        languages += [language] * each
    return LanguageTexts(texts, np.array(languages), sum(count > 1 for count in uses.values()))


def guess_languages(vectors_UD: Floats, language_U: NDArray[np.str_], seed: int) -> NDArray[np.bool_]:
    """Whether each text's language is guessed by a logistic regression that was trained without the text's fold."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    # Tolerance: accuracy needs no exact optimum, and 70 languages would take minutes to reach it.
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300, tol=1e-3))
    guessed: NDArray[np.bool_] = cross_val_predict(probe, vectors_UD, language_U, cv=folds) == language_U
    return guessed


def same_language_neighbours(vectors_UD: Floats, language_U: NDArray[np.str_]) -> NDArray[np.bool_]:
    """Whether each text's nearest other text is of its own language."""
    count = len(vectors_UD)
    same_U = np.empty(count, dtype=bool)
    for rows in row_blocks(count, count, BLOCK_ELEMENTS):
        cosine_BU = vectors_UD[rows] @ vectors_UD.T
        own = np.arange(rows.start, rows.stop)
        cosine_BU[own - rows.start, own] = -np.inf
        same_U[rows] = language_U[cosine_BU.argmax(axis=1)] == language_U[rows]
    return same_U


def _language_scores(
    sample: LanguageTexts, vectors: TextVectors, bootstrap: Bootstrap
) -> tuple[Score, Score, dict[str, Scores]]:
    vectors_UD = vectors.of(sample.texts)
    guessed_U = guess_languages(vectors_UD, sample.languages, bootstrap.seed)
    same_U = same_language_neighbours(vectors_UD, sample.languages)
    rows: dict[str, Scores] = {
        language: {
            "language_probe": bootstrap.mean(guessed_U[sample.languages == language]),
            "same_language_neighbours": bootstrap.mean(same_U[sample.languages == language]),
        }
        for language in sorted(set(sample.languages.tolist()))
    }
    return bootstrap.mean(guessed_U), bootstrap.mean(same_U), rows


def _chance_of_neighbour(texts: int, languages: int) -> float:
    return (texts // languages - 1) / max(1, texts - 1)


def _some(vectors_UD: Floats, seed: int) -> Floats:
    if len(vectors_UD) <= MOST_TEXTS:
        return vectors_UD
    return vectors_UD[np.random.default_rng(seed).permutation(len(vectors_UD))[:MOST_TEXTS]]
