"""Bitext mining: find the pairs of texts that translate one another in two monolingual lists (BUCC, Zweigenbaum 2017).

In:  two lists of texts with ids, and the gold pairs of ids; or parallel texts, from which lists are made.
Out: candidate pairs with scores, the threshold of the best F1 on one set of lists, precision, recall and F1 on another.
Letters: N first and M second texts, C candidates.

Scores are ratio margins, candidates are the best of the `NEIGHBOURS` nearest in both directions, and a text takes part
in one pair only, the best first: "max" retrieval of Artetxe & Schwenk 2019 and of LASER's mine_bitexts.py.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlc.errors import DataError, UsageError
from mlc.evaluate.intervals import Bootstrap, Score, mean_of_scores
from mlc.evaluate.options import Evaluation
from mlc.evaluate.results import TaskResult, new_key
from mlc.evaluate.similarity import Floats, Neighbourhood, Scoring, nearest
from mlc.files import write_atomically
from mlc.tasks.parallel_texts import ParallelTexts
from mlc.tasks.text_files import read_lines

NEIGHBOURS = 4
Gold = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Lists:
    """Two monolingual lists.

    Attributes:
        name: of the pair, as "de-en".
        first, second: {id: text}.
        gold: ids of the pairs that translate one another.
    """

    name: str
    first: dict[str, str]
    second: dict[str, str]
    gold: Gold

    @property
    def texts(self) -> list[str]:
        """Of both lists."""
        return [*self.first.values(), *self.second.values()]


@dataclass(frozen=True)
class Candidates:
    """Pairs (C,) by falling score."""

    ids: list[tuple[str, str]]
    scores_C: Floats


def mine(lists: Lists, first_ND: Floats, second_MD: Floats, scoring: Scoring = "margin") -> Candidates:
    """Candidates of two lists: every text at most once, best score first.

    Args:
        first_ND, second_MD: unit vectors of `lists.first` and `lists.second`, in their order.
        scoring: margin as in the paper; csls and cosine choose among the same neighbours.
    """
    (forward_NK, place_NK), (backward_MK, place_MK) = nearest(first_ND, second_MD, NEIGHBOURS)
    around = Neighbourhood(scoring, forward_NK.mean(axis=1), backward_MK.mean(axis=1))
    rows_NK = np.broadcast_to(np.arange(len(first_ND))[:, None], place_NK.shape)
    rows_MK = np.broadcast_to(np.arange(len(second_MD))[:, None], place_MK.shape)
    forward = around.score_of_pairs(forward_NK.ravel(), rows_NK.ravel(), place_NK.ravel()).reshape(place_NK.shape)
    backward = around.score_of_pairs(backward_MK.ravel(), place_MK.ravel(), rows_MK.ravel()).reshape(place_MK.shape)
    best_N, best_M = forward.argmax(axis=1), backward.argmax(axis=1)
    every_N, every_M = np.arange(len(best_N)), np.arange(len(best_M))
    score = np.concatenate([forward[every_N, best_N], backward[every_M, best_M]])
    first = np.concatenate([every_N, place_MK[every_M, best_M]])
    second = np.concatenate([place_NK[every_N, best_N], every_M])
    kept = []
    free_N, free_M = np.ones(len(every_N), bool), np.ones(len(every_M), bool)
    for place in np.argsort(-score, kind="stable"):
        if free_N[first[place]] and free_M[second[place]]:
            free_N[first[place]] = free_M[second[place]] = False
            kept.append(place)
    ids = list(lists.first), list(lists.second)
    return Candidates([(ids[0][first[p]], ids[1][second[p]]) for p in kept], score[kept])


def best_threshold(candidates: Candidates, gold: Gold) -> tuple[float, float]:
    """(threshold, F1): the score between two candidates above which F1 is best.

    Candidates of equal score are taken or left together.
    """
    found_C = np.cumsum([pair in gold for pair in candidates.ids])
    taken_C = np.arange(1, len(found_C) + 1)
    f1_C = 2 * found_C / (taken_C + len(gold))
    score_C = candidates.scores_C.astype(np.float64)
    follows_C = np.append(score_C[1:], score_C[-1] - 1e-3)
    f1_C = np.where(follows_C < score_C, f1_C, -1.0)
    best = int(np.argmax(f1_C))
    return float((score_C[best] + follows_C[best]) / 2), float(f1_C[best])


def mining_scores(mined: Iterable[tuple[str, str]], gold: Gold, bootstrap: Bootstrap) -> dict[str, Score]:
    """F1, precision and recall; what is resampled are the pairs that were mined, gold, or both."""
    found = set(mined)
    pairs = sorted(found | gold)
    if not pairs:
        return {name: Score(0.0, n=0) for name in ("f1", "precision", "recall")}
    is_P3 = np.array([[p in found and p in gold, p in found, p in gold] for p in pairs], dtype=np.float64)
    draws_G3 = bootstrap.means(is_P3)
    ratios: dict[str, Callable[[NDArray], NDArray]] = {
        "f1": lambda x: 2 * x[..., 0] / np.maximum(x[..., 1] + x[..., 2], 1e-12),
        "precision": lambda x: x[..., 0] / np.maximum(x[..., 1], 1e-12),
        "recall": lambda x: x[..., 0] / np.maximum(x[..., 2], 1e-12),
    }
    of_all = is_P3.mean(axis=0)
    return {name: bootstrap.score(float(of(of_all)), of(draws_G3), len(gold)) for name, of in ratios.items()}


def evaluate_mining(
    evaluation: Evaluation,
    sets: Sequence[tuple[Lists, Lists | None]],
    *,
    scoring: Scoring = "margin",
    threshold: float | None = None,
    out: Path | None = None,
) -> TaskResult:
    """Choose each threshold on the second lists of a set, and mine the first ones.

    Args:
        sets: (lists to mine, lists that choose the threshold); the latter may be None where `threshold` is given.
        out: TSV of the mined pairs: score, ids, texts, and whether the pair is gold, best first.
    """
    vectors = evaluation.encode(text for pair in sets for lists in pair if lists for text in lists.texts)
    rows, written = {}, []
    details: dict[str, dict[str, Any]] = {}
    for test, train in sets:
        name = new_key(test.name, details)
        bound, train_f1 = threshold, None
        if train is not None:
            tried = mine(train, vectors.of(train.first.values()), vectors.of(train.second.values()), scoring)
            bound, train_f1 = best_threshold(tried, train.gold)
        assert bound is not None  # the command has checked it
        found = mine(test, vectors.of(test.first.values()), vectors.of(test.second.values()), scoring)
        mined = [(pair, s) for pair, s in zip(found.ids, found.scores_C.tolist(), strict=True) if s >= bound]
        written += [(test, pair, score) for pair, score in mined]
        if test.gold:
            rows[name] = mining_scores((pair for pair, _ in mined), test.gold, evaluation.options.bootstrap)
        sizes = {"first": len(test.first), "second": len(test.second), "gold": len(test.gold), "mined": len(mined)}
        details[name] = {"threshold": bound, "train_f1": train_f1, **sizes}
    if out is not None:
        write_mined(written, out)
    names = next(iter(rows.values()), {})
    return TaskResult(
        task="mining",
        facts=evaluation.facts(vectors),
        data=evaluation.data,
        scores={name: mean_of_scores([row[name] for row in rows.values()]) for name in names},
        by={"pair": rows},
        details={"scoring": scoring, "mining": details},
        notes=tuple(_note(name, facts) for name, facts in details.items()),
    )


def write_mined(pairs: Sequence[tuple[Lists, tuple[str, str], float]], out: Path) -> None:
    """score, first id, second id, first text, second text, gold (1, 0, or empty where no gold is known)."""
    content = io.StringIO()
    writer = csv.writer(content, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None)
    for lists, (a, b), score in pairs:
        known = str(int((a, b) in lists.gold)) if lists.gold else ""
        texts = (" ".join(text.split()) for text in (lists.first[a], lists.second[b]))
        writer.writerow([f"{score:.6f}", a, b, *texts, known])
    write_atomically(out, content.getvalue().encode())


def read_lists(first: Path, second: Path, gold: Path | None) -> Lists:
    """BUCC's form: two files of "id<TAB>text", and one of "first id<TAB>second id".

    Raises:
        DataError: a line of another form, an id that occurs twice, or a gold id that is in no list.
    """
    texts = [_read_ids(path) for path in (first, second)]
    pairs = set()
    for number, line in read_lines(gold) if gold is not None else ():
        a, b = _columns(line, f"{gold}:{number}")
        if a not in texts[0] or b not in texts[1]:
            raise DataError("a gold id is in no list", found=f"{a} {b}", where=f"{gold}:{number}")
        pairs.add((a, b))
    return Lists(f"{first.name} {second.name}", texts[0], texts[1], frozenset(pairs))


def comparable_lists(texts: ParallelTexts, parallel_share: float, seed: int) -> Lists:
    """Lists with few pairs, from texts that are all parallel.

    A share of the lines (at least one) keep both sides; of the others one half keep only the first side and one half
    only the second, as texts without a translation. Lines that repeat a text of an earlier line are left out: their
    pairs would be right and counted as wrong. Ids are places of lines from 0.
    """
    seen: tuple[set[str], set[str]] = (set(), set())
    usable = []
    for place, sides in enumerate(zip(texts.first, texts.second, strict=True)):
        if not any(side in known for side, known in zip(sides, seen, strict=True)):
            usable.append(place)
        for side, known in zip(sides, seen, strict=True):
            known.add(side)
    order = np.random.default_rng(seed).permutation(usable)
    pairs = max(1, round(parallel_share * len(order)))
    only_first = order[pairs : pairs + (len(order) - pairs) // 2]
    only_second = order[pairs + len(only_first) :]
    first, second = sorted([*order[:pairs], *only_first]), sorted([*order[:pairs], *only_second])
    return Lists(
        "-".join(texts.languages),
        {str(k): texts.first[k] for k in first},
        {str(k): texts.second[k] for k in second},
        frozenset((str(k), str(k)) for k in order[:pairs]),
    )


def halves(lists: Lists, seed: int) -> tuple[Lists, Lists]:
    """Two disjoint sets of lists: gold pairs, first and second texts without one are dealt out at random."""
    random = np.random.default_rng(seed)
    gold = sorted(lists.gold)
    if len(gold) < 2:
        raise UsageError(
            "a threshold cannot be chosen on a half",
            found=f"{len(gold)} gold pairs in {lists.name}",
            needed="two or more, or --train-data with --train-gold, or --threshold",
        )
    chosen = [gold[k] for k in random.permutation(len(gold))[: len(gold) // 2]]
    parts: list[set[str]] = []
    for side, texts in enumerate((lists.first, lists.second)):
        paired = {pair[side] for pair in gold}
        alone = [identity for identity in texts if identity not in paired]
        drawn = {alone[k] for k in random.permutation(len(alone))[: len(alone) // 2]}
        # An id of several gold pairs goes where the first half takes any of them.
        parts.append(drawn | {pair[side] for pair in chosen})

    def part(inside: bool) -> Lists:
        first = {i: t for i, t in lists.first.items() if (i in parts[0]) == inside}
        second = {i: t for i, t in lists.second.items() if (i in parts[1]) == inside}
        return Lists(lists.name, first, second, frozenset(p for p in gold if p[0] in first and p[1] in second))

    return part(False), part(True)


def _read_ids(path: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    for number, line in read_lines(path):
        identity, text = _columns(line, f"{path}:{number}")
        if identity in texts:
            raise DataError("an id occurs twice", found=identity, where=f"{path}:{number}")
        texts[identity] = text
    if not texts:
        raise DataError("the file is empty", where=str(path))
    return texts


def _columns(line: str, where: str) -> tuple[str, str]:
    left, tab, right = line.partition("\t")
    if not (tab and left.strip() and right.strip()):
        raise DataError("this line is not two columns", found=line[:60], needed="two, with a tab between", where=where)
    return left.strip(), right.strip()


def _note(name: str, facts: dict[str, Any]) -> str:
    chosen = "given" if facts["train_f1"] is None else f"best F1 {facts['train_f1']:.3f} where it was chosen"
    return (
        f"{name}: {facts['mined']} pairs of {facts['first']} and {facts['second']} texts, {facts['gold']} are gold; "
        f"threshold {facts['threshold']:.4f} ({chosen})"
    )
