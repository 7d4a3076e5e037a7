"""Scores of labelled words: named entities, and labels of any kind.

In:  gold and predicted labels by sentence.
Out: `Scores`: entity F1, precision and recall, strict IOB2, and the share of words with the right label. seqeval finds
     the entities; its own scores parse every sentence again for every score, and are compared with in tests.

An entity is right where its type, its first and its last word are (Tjong Kim Sang 2002). Strict: a predicted "I-" that
continues no entity of its type is none (Ramshaw and Marcus 1995 in the IOB2 form of Ratnaparkhi 1998).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlc.errors import DataError
from mlc.tasks.scores import RESAMPLES, SEED, Doubles, Measure, Scores, additive_measure, summarise
from mlc.tasks.scores_classes import check_same_length

Labels = Sequence[Sequence[str]]


def score_entities(gold: Labels, predicted: Labels, *, resamples: int = RESAMPLES, seed: int = SEED) -> Scores:
    """Score named entities. Intervals draw sentences.

    Args:
        gold, predicted: labels of each sentence's words: O, B-x, I-x.
        resamples, seed: of the intervals.

    Returns:
        Micro f1 (the main score), precision, recall, macro_f1 (over all types, gold or predicted) and word_accuracy;
        scores of each type as details. F1 of a type that is never found is 0.

    Raises:
        DataError: nothing to score, sentences or words differ in number, or a label is not of IOB2.
    """
    right, found = _checked(gold, predicted)
    for sentence in (*right, *found):
        for label in sentence:
            if label != "O" and not (label.startswith(("B-", "I-")) and len(label) > 2):
                raise DataError("a label is not of IOB2", found=label, needed="O, B-TYPE or I-TYPE")
    types, statistics = _entity_statistics(right, found)
    finish = {"f1": _micro_f1, "precision": _precision, "recall": _recall, "macro_f1": _macro_f1}
    whole = statistics.sum(0, keepdims=True)
    measures = [additive_measure(name, of_sums(whole)[0], statistics, of_sums) for name, of_sums in finish.items()]
    measures.append(_word_accuracy(right, found))
    details = {"types": _scores_of_types(types, whole), "words": sum(map(len, right))}
    return summarise("token_classification", "f1", measures, resamples=resamples, seed=seed, details=details)


def score_words(gold: Labels, predicted: Labels, *, resamples: int = RESAMPLES, seed: int = SEED) -> Scores:
    """Score labels that are no entities, such as parts of speech: the share of right words. Intervals draw sentences.

    Raises:
        DataError: nothing to score, or sentences or words differ in number.
    """
    right, found = _checked(gold, predicted)
    details = {"words": sum(map(len, right))}
    measures = [_word_accuracy(right, found)]
    return summarise("token_classification", "word_accuracy", measures, resamples=resamples, seed=seed, details=details)


def _checked(gold: Labels, predicted: Labels) -> tuple[list[list[str]], list[list[str]]]:
    check_same_length(len(gold), len(predicted), "token classification")
    for number, (one, other) in enumerate(zip(gold, predicted, strict=True)):
        if len(one) != len(other):
            found = f"{len(other)} labels of sentence {number}"
            raise DataError("every word needs one label", found=found, needed=str(len(one)))
    right, found_labels = ([list(map(str, sentence)) for sentence in labels] for labels in (gold, predicted))
    if not any(right):
        raise DataError("nothing to score", found="no words", needed="one or more", where="token classification")
    return right, found_labels


def _entity_statistics(gold: Labels, predicted: Labels) -> tuple[list[str], Doubles]:
    """Types, and (N, 3T): of each type entities of the gold labels, of the predicted ones, and in both."""
    from seqeval.scheme import IOB2, Entities

    both = [Entities(labels, IOB2) for labels in (gold, predicted)]
    types = sorted(both[0].unique_tags | both[1].unique_tags)
    number = {name: place for place, name in enumerate(types)}
    statistics = np.zeros((len(gold), 3, len(types)))
    for sentence, (right, found) in enumerate(zip(both[0].entities, both[1].entities, strict=True)):
        for row, entities in enumerate((right, found, set(right) & set(found))):
            for entity in entities:
                statistics[sentence, row, number[entity.tag]] += 1
    return types, statistics.reshape(len(gold), -1)


def _scores_of_types(types: Sequence[str], whole: Doubles) -> dict[str, dict[str, float]]:
    columns = np.split(whole, 3, axis=1)
    table = {}
    for place, name in enumerate(types):
        own = np.concatenate([column[:, [place]] for column in columns], axis=1)
        scores = {"precision": _precision(own), "recall": _recall(own), "f1": _micro_f1(own)}
        table[name] = {key: float(value[0]) for key, value in scores.items()} | {"entities": int(own[0, 0])}
    return table


def _totals(sums: Doubles) -> list[Doubles]:
    return [part.sum(1) for part in np.split(sums, 3, axis=1)]


def _share(above: Doubles, below: Doubles) -> Doubles:
    """0 where there is nothing to divide by."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def _micro_f1(sums: Doubles) -> Doubles:
    gold, predicted, both = _totals(sums)
    return _share(2 * both, gold + predicted)


def _precision(sums: Doubles) -> Doubles:
    _, predicted, both = _totals(sums)
    return _share(both, predicted)


def _recall(sums: Doubles) -> Doubles:
    gold, _, both = _totals(sums)
    return _share(both, gold)


def _macro_f1(sums: Doubles) -> Doubles:
    gold, predicted, both = np.split(sums, 3, axis=1)
    if not gold.shape[1]:
        return np.zeros(len(sums))
    result: Doubles = _share(2 * both, gold + predicted).mean(1)
    return result


def _word_accuracy(gold: Labels, predicted: Labels) -> Measure:
    statistics = np.array(
        [
            (sum(a == b for a, b in zip(one, other, strict=True)), len(one))
            for one, other in zip(gold, predicted, strict=True)
        ],
        np.float64,
    )
    right, words = statistics.sum(0)
    return additive_measure("word_accuracy", right / words, statistics, lambda sums: _share(sums[:, 0], sums[:, 1]))
