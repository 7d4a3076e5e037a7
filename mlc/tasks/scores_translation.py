"""Scores of translations: BLEU and chrF, by sacrebleu.

In:  translations and references, one each.
Out: `Scores`, 0..100, with the signatures that other figures are comparable by (Post 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlc.data.spacing import language_code, writes_spaces
from mlc.tasks.scores import RESAMPLES, SEED, Doubles, Measure, Scores, summarise
from mlc.tasks.scores_classes import check_same_length


def score_translations(
    references: Sequence[str],
    translations: Sequence[str],
    language: str,
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Scores:
    """Score translations into one language. chrF is the main score: it needs no words.

    Args:
        references, translations: one of each for a sentence.
        language: of both; it chooses how BLEU parts words (`bleu_tokenizer`).
        resamples, seed: of the intervals.

    Raises:
        DataError: nothing to score, or not one translation for each sentence.
    """
    from sacrebleu.metrics import BLEU, CHRF

    check_same_length(len(references), len(translations), "translation")
    # Whether words are parted already is the caller's business: sacrebleu would warn of a space before a full stop.
    metrics: dict[str, Any] = {"chrf": CHRF(), "bleu": BLEU(tokenize=bleu_tokenizer(language), force=True)}
    measures, signatures = [], {}
    for name, metric in metrics.items():
        value = metric.corpus_score(list(translations), [list(references)]).score
        # What sacrebleu's own significance tests draw from; a test keeps it equal to the value of a whole draw.
        statistics = np.array(metric._extract_corpus_statistics(translations, [references]), np.float64)
        measures.append(_measure(name, value, metric, statistics))
        signatures[name] = str(metric.get_signature())
    return summarise(
        "translation", "chrf", measures, resamples=resamples, seed=seed, details={"signatures": signatures}
    )


def bleu_tokenizer(language: str) -> str:
    """How sacrebleu parts words: "zh" for Chinese, characters for other languages without spaces, else "13a"."""
    if language_code(language) == "zh":
        return "zh"
    return "13a" if writes_spaces(language) else "char"


def _measure(name: str, value: float, metric: Any, statistics_NK: Doubles) -> Measure:
    def of_draws(draws: Doubles) -> Doubles:
        sums = np.rint(draws @ statistics_NK).astype(np.int64).tolist()  # counts, as sacrebleu expects them
        return np.array([metric._compute_score_from_stats(row).score for row in sums])

    return Measure(name, float(value), len(statistics_NK), of_draws)
