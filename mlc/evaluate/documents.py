"""Document matching: which documents of two languages are translations of one another? (WMT16, Buck & Koehn 2016)

In:  {language: {id: text}}: the same id in two languages is the same document; others have no counterpart.
Out: for every pair of languages the share of documents that a 1-to-1 matching pairs rightly.
Letters: N first and M second documents, D = embedding size.

All documents of both languages are candidates. A document longer than the model can be read in pieces, whose vectors
are averaged.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Literal

import numpy as np

from mlc.errors import MlcError, UsageError
from mlc.evaluate.options import Evaluation, TextVectors
from mlc.evaluate.results import TaskResult
from mlc.evaluate.similarity import Floats, nearest

Pieces = Literal["whole", "windows", "sentences"]
Matching = Literal["greedy", "hungarian"]
PIECES: tuple[Pieces, ...] = ("whole", "windows", "sentences")
MATCHINGS: tuple[Matching, ...] = ("greedy", "hungarian")
LARGEST_HUNGARIAN = 2**27
"""N x M; 1 GiB as float64, and the time grows with the cube."""
_SENTENCE_ENDS = re.compile(r"(?<=[.!?…؟۔።])\s+|(?<=[。！？।॥])\s*|\n+")

IsLong = Callable[[Sequence[str]], Sequence[bool]]


def evaluate_documents(
    evaluation: Evaluation,
    documents: Mapping[str, Mapping[str, str]],
    *,
    pieces: Pieces = "windows",
    matching: Matching = "greedy",
    repeated: int = 0,
) -> TaskResult:
    """Match documents of every pair of languages that share two ids or more.

    Args:
        pieces: whole = the beginning that fits; windows = halves, halves of halves, ... until each fits; sentences.
        repeated: documents set aside while reading, for the report.

    Raises:
        UsageError: no two languages share documents.
    """
    pairs = [
        (a, b) for a, b in combinations(sorted(documents), 2) if len(documents[a].keys() & documents[b].keys()) > 1
    ]
    if not pairs:
        raise UsageError(
            "no two languages have documents in common",
            found=", ".join(f"{language}: {len(texts)}" for language, texts in documents.items()),
            needed='the same "id" in two languages',
        )
    different = dict.fromkeys(text for texts in documents.values() for text in texts.values())
    parts = split_documents(different, pieces, evaluation.encoder_is_long)
    vectors = evaluation.encode(piece for texts in parts.values() for piece in texts)
    of_document = document_vectors(parts, vectors)
    rows = {}
    found_of_pair, top1_of_pair = [], []
    for a, b in pairs:
        ids = list(documents[a]), list(documents[b])
        first_ND, second_MD = (np.stack([of_document[documents[x][i]] for i in documents[x]]) for x in (a, b))
        found, top1 = match_scores(ids, first_ND, second_MD, matching)
        found_of_pair.append(found)
        top1_of_pair.append(top1)
        rows[f"{a}-{b}"] = {
            "recall": evaluation.options.bootstrap.mean(found),
            "top1": evaluation.options.bootstrap.mean(top1),
        }
    bootstrap = evaluation.options.bootstrap
    notes = [f"{len(different)} documents, {sum(map(len, parts.values()))} pieces ({pieces}), {matching} matching"]
    if repeated:
        notes.append(f"documents whose id occurs twice in one language: the first one was taken ({repeated} others)")
    return TaskResult(
        task="documents",
        facts=evaluation.facts(vectors),
        data=evaluation.data,
        scores={"recall": bootstrap.mean_of_means(found_of_pair), "top1": bootstrap.mean_of_means(top1_of_pair)},
        by={"pair": rows},
        details={"pieces": pieces, "matching": matching, "documents": {x: len(t) for x, t in documents.items()}},
        notes=tuple(notes),
    )


def match_scores(
    ids: tuple[Sequence[str], Sequence[str]], first_ND: Floats, second_MD: Floats, matching: Matching
) -> tuple[list[float], list[float]]:
    """For every document with a counterpart: is it matched with it (recall), is it its nearest (mean of both ways)?"""
    places = [{identity: place for place, identity in enumerate(side)} for side in ids]
    shared = [identity for identity in ids[0] if identity in places[1]]
    matched = dict((greedy_matching if matching == "greedy" else hungarian_matching)(first_ND, second_MD))
    (_, forward_N1), (_, backward_M1) = nearest(first_ND, second_MD, 1)
    found, top1 = [], []
    for identity in shared:
        a, b = places[0][identity], places[1][identity]
        found.append(float(matched.get(a) == b))
        top1.append((float(forward_N1[a, 0] == b) + float(backward_M1[b, 0] == a)) / 2)
    return found, top1


def greedy_matching(first_ND: Floats, second_MD: Floats) -> list[tuple[int, int]]:
    """Competitive linking (Melamed 2000), as in WMT16: the most similar pair of free documents, again and again.

    Exact, without the whole matrix: a document's best free partner is looked for again only when it has been taken.
    """
    taken_M = np.zeros(len(second_MD), dtype=bool)
    (best_N1, place_N1), _ = nearest(first_ND, second_MD, 1)
    queue = [(-float(best_N1[row, 0]), row, int(place_N1[row, 0])) for row in range(len(first_ND))]
    heapq.heapify(queue)
    matched: list[tuple[int, int]] = []
    while queue and len(matched) < len(second_MD):
        _, row, column = heapq.heappop(queue)
        if not taken_M[column]:
            taken_M[column] = True
            matched.append((row, column))
            continue
        score_M = np.where(taken_M, -np.inf, second_MD @ first_ND[row])
        column = int(score_M.argmax())
        heapq.heappush(queue, (-float(score_M[column]), row, column))
    return matched


def hungarian_matching(first_ND: Floats, second_MD: Floats) -> list[tuple[int, int]]:
    """The matching with the largest sum of cosines.

    Raises:
        MlcError: the matrix is too large.
    """
    from scipy.optimize import linear_sum_assignment

    if len(first_ND) * len(second_MD) > LARGEST_HUNGARIAN:
        raise MlcError(
            "there are too many documents for this matching",
            found=f"{len(first_ND)} x {len(second_MD)}",
            needed=f"at most {LARGEST_HUNGARIAN} pairs",
            hint="--matching greedy, or fewer documents by --limit",
        )
    rows, columns = linear_sum_assignment(first_ND @ second_MD.T, maximize=True)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def split_documents(texts: Iterable[str], pieces: Pieces, is_long: IsLong) -> dict[str, list[str]]:
    """{document: its pieces}, none longer than the model takes unless `pieces` is whole.

    Args:
        is_long: which of some texts do not fit.
    """
    if pieces == "whole":
        return {text: [text] for text in texts}
    parts = {text: split_sentences(text) if pieces == "sentences" else [text] for text in texts}
    fitting: set[str] = set()
    while True:
        new = [piece for piece in dict.fromkeys(p for own in parts.values() for p in own) if piece not in fitting]
        long = {piece for piece, cut in zip(new, is_long(new), strict=True) if cut and len(piece) > 1}
        if not long:
            return parts
        fitting.update(piece for piece in new if piece not in long)
        parts = {
            text: [half for piece in own for half in (in_halves(piece) if piece in long else [piece])]
            for text, own in parts.items()
        }


def split_sentences(text: str) -> list[str]:
    """At line ends and after sentence marks of many scripts: a rule, not a parser."""
    return [part.strip() for part in _SENTENCE_ENDS.split(text) if part.strip()] or [text]


def in_halves(text: str) -> list[str]:
    """At the space nearest to the middle; in the middle where there is none in the middle half of the text."""
    middle, quarter = len(text) // 2, len(text) // 4
    spaces = [m.start() for m in re.finditer(r"\s", text[quarter:-quarter] if quarter else "")]
    cut = min((quarter + place for place in spaces), key=lambda place: abs(place - middle), default=middle)
    return [half for half in (text[:cut].strip(), text[cut:].strip()) if half] or [text[:1]]


def document_vectors(parts: Mapping[str, Sequence[str]], vectors: TextVectors) -> dict[str, Floats]:
    """{document: unit vector}: the mean of its pieces' unit vectors, scaled to norm 1."""
    found = {}
    for text, own in parts.items():
        mean_D = vectors.of(own).mean(axis=0)
        found[text] = mean_D / max(float(np.linalg.norm(mean_D)), 1e-12)
    return found
