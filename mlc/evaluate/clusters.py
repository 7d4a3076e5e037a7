"""Topic clusters over languages: do embeddings group texts by topic, or by language?

In:  labelled texts of several languages (mlc.evaluate.task_data.read_classification).
Out: how well k-means clusters of all texts together agree with the topics, and how much they follow the language.
Letters: N texts, D = embedding size, S seeds.

V-measure (Rosenberg & Hirschberg 2007), adjusted Rand index (Hubert & Arabie 1985), purity, and the normalised mutual
information with the language, all but purity by scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlc.errors import DataError, UsageError
from mlc.evaluate.intervals import Bootstrap, Places, Score
from mlc.evaluate.options import Evaluation
from mlc.evaluate.results import TaskResult
from mlc.evaluate.similarity import Floats
from mlc.tasks.examples import ClassificationExample

MOST_RESAMPLES = 100
"""Of these scores, each of which is computed for every seed and resample: enough for bounds to two digits."""

Labels = NDArray[np.int64]


def evaluate_clusters(
    evaluation: Evaluation, examples: Sequence[ClassificationExample], *, seeds: int = 5, clusters: int | None = None
) -> TaskResult:
    """Cluster all texts together, with every seed, and compare with labels and languages.

    Args:
        seeds: runs of k-means, each with its own start; scores are their means.
        clusters: k; None = as many as there are labels.

    Raises:
        DataError: records are pairs of texts, or all labels are equal.
        UsageError: fewer texts than clusters.
    """
    if examples[0].text_pair is not None:
        raise DataError("clusters are of single texts", found='"text_pair"', where=str(examples[0].place))
    names = sorted({str(example.label) for example in examples})
    if len(names) < 2:
        raise DataError("there is one label only", found=names[0], where=examples[0].place.file)
    count = clusters or len(names)
    if len(examples) < count:
        raise UsageError("there are fewer texts than clusters", found=len(examples), needed=f"{count} or more")
    vectors = evaluation.encode(example.text for example in examples)
    label_N = np.array([names.index(str(example.label)) for example in examples])
    language_N = np.array([example.place.language for example in examples])
    cluster_SN = k_means(vectors.of(example.text for example in examples), count, seeds, evaluation.options.seed)
    bootstrap = evaluation.options.bootstrap
    bootstrap = replace(bootstrap, resamples=min(bootstrap.resamples, MOST_RESAMPLES))
    rows = {
        language: topic_scores(label_N[language_N == language], cluster_SN[:, language_N == language], bootstrap)
        for language in sorted(set(language_N.tolist()))
    }
    scores = topic_scores(label_N, cluster_SN, bootstrap)
    if len(rows) > 1:
        scores |= {"nmi_language": nmi(np.unique(language_N, return_inverse=True)[1], cluster_SN, bootstrap)}
    spread = {name: float(np.std(_each_seed(name, label_N, cluster_SN))) for name in _topic_metrics()}
    return TaskResult(
        task="clusters",
        facts=evaluation.facts(vectors),
        data=evaluation.data,
        scores=scores,
        by={"language": rows},
        details={"clusters": count, "labels": names, "seeds": seeds, "sd_over_seeds": spread},
        notes=(
            f"{count} clusters of the texts of all languages together, means over {seeds} seeds (sd of the V-measure "
            f"{spread['v_measure']:.3f}); nmi_language: 0 = clusters say nothing about the language",
        ),
    )


def k_means(vectors_ND: Floats, clusters: int, seeds: int, first_seed: int = 0) -> Labels:
    """Clusters of each seed, (S, N): k-means++ with one start (scikit-learn)."""
    from sklearn.cluster import KMeans

    runs = [KMeans(clusters, n_init=1, random_state=first_seed + seed).fit_predict(vectors_ND) for seed in range(seeds)]
    return np.stack(runs).astype(np.int64)


def purity(label_N: Labels, cluster_N: Labels) -> float:
    """Share of texts whose label is the commonest one of their cluster (Manning et al. 2008, section 16.3)."""
    from sklearn.metrics.cluster import contingency_matrix

    return float(contingency_matrix(label_N, cluster_N).max(axis=0).sum() / len(label_N))


def topic_scores(label_N: Labels, cluster_SN: Labels, bootstrap: Bootstrap) -> dict[str, Score]:
    """V-measure, adjusted Rand index and purity: means over seeds; texts are resampled."""
    return {name: _score(of, label_N, cluster_SN, bootstrap) for name, of in _topic_metrics().items()}


def nmi(language_N: Labels, cluster_SN: Labels, bootstrap: Bootstrap) -> Score:
    """Normalised mutual information of clusters and languages, 0 = independent, 1 = the same (arithmetic mean)."""
    from sklearn.metrics import normalized_mutual_info_score

    return _score(normalized_mutual_info_score, language_N, cluster_SN, bootstrap)


def _topic_metrics() -> Mapping[str, Callable[[Any, Any], float]]:
    from sklearn.metrics import adjusted_rand_score, v_measure_score

    return {"v_measure": v_measure_score, "adjusted_rand": adjusted_rand_score, "purity": purity}


def _score(metric: Callable[[Any, Any], float], truth_N: Labels, cluster_SN: Labels, bootstrap: Bootstrap) -> Score:
    def on(places: Places) -> float:
        return float(np.mean([metric(truth_N[places], cluster_N[places]) for cluster_N in cluster_SN]))

    # A text that is drawn twice agrees with itself, so these measures are higher on draws than on the texts.
    return bootstrap.statistic(on, len(truth_N), centred=True)


def _each_seed(name: str, label_N: Labels, cluster_SN: Labels) -> list[float]:
    metric = _topic_metrics()[name]
    return [float(metric(label_N, cluster_N)) for cluster_N in cluster_SN]
