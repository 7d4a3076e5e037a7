"""Which spans of a text become GLM blanks: short spans, whole sentences, or the end of the text.

In:  the ends of a text's sentences and sides, the recipe's settings, a random generator.
Out: starts and lengths of the blanks in tokens, in text order. Nothing here sees a token.

A text has one side, or two where both views of a sample are joined; no blank reaches from one side into the other.
Source: Du et al. 2022, "GLM", section 2.1 (short spans) and 2.2 (sentences and documents).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from mlc.data.randomness import generator, stochastic_round
from mlc.recipe_objectives import BlankKind, BlankSection

Int64Array = npt.NDArray[np.int64]

LONGEST_BLANK = 39  # tokens; the bound of GLM's published sampling of short spans
_NONE: Int64Array = np.empty(0, dtype=np.int64)
_HAIR = 1e-9  # 0.07 * 100 is a hair above 7 in floating point


def draw_kind(blanks: BlankSection, seed: int, index: int) -> BlankKind:
    """Which kind of blanks all texts of sample `index` get."""
    shares: dict[BlankKind, float] = {
        "token": blanks.token_share,
        "sentence": blanks.sentence_share,
        "document": blanks.document_share,
    }
    kinds = [kind for kind, share in shares.items() if share]
    if len(kinds) == 1:
        return kinds[0]
    place = generator(seed, "blank kind", index).random() * sum(shares.values())
    for kind in kinds[:-1]:
        place -= shares[kind]
        if place < 0:
            return kind
    return kinds[-1]


def choose_blanks(
    kind: BlankKind, ends: Int64Array, side_ends: Int64Array, random: np.random.Generator, blanks: BlankSection
) -> tuple[Int64Array, Int64Array]:
    """Starts and lengths of the blanks of one text, in text order.

    Args:
        kind: of all blanks of the text.
        ends: where the sentences end, (sentences,), ascending; every end of a side is among them.
        side_ends: where the sides end, (1,) or (2,); the last one is the length of the text.
        random: of this text alone.
        blanks: settings.
    """
    if kind == "token":
        starts, lengths = _short_spans(int(side_ends[-1]), random, blanks)
        return _split(starts, lengths, side_ends[:-1])
    if kind == "sentence":
        return _sentences(ends, random, blanks.mask_fraction)
    return _text_end(side_ends, random, blanks.shortest_document_blank)


def _short_spans(size: int, random: np.random.Generator, blanks: BlankSection) -> tuple[Int64Array, Int64Array]:
    """Spans of Poisson length that are never adjacent; at least one token is left standing."""
    budget = stochastic_round(size * blanks.mask_fraction, random)
    lengths: list[int] = []
    while budget > 0:
        length = min(max(1, int(random.poisson(blanks.mean_span_tokens))), LONGEST_BLANK, budget)
        lengths.append(length)
        budget -= length
    standing = size - sum(lengths)
    # Spans go into different gaps of the standing tokens, so there can be one more span than standing tokens.
    lengths = lengths[: standing + 1]
    standing = size - sum(lengths)
    if not lengths or standing < 1:
        return _NONE, _NONE
    gaps = np.sort(random.permutation(standing + 1)[: len(lengths)])
    span_lengths = np.asarray(lengths, dtype=np.int64)
    before = np.concatenate([[0], np.cumsum(span_lengths)[:-1]])
    return gaps + before, span_lengths


def _split(starts: Int64Array, lengths: Int64Array, borders: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Spans that reach over a border become one on each side of it; the [SEP] between them keeps them apart."""
    stops = starts + lengths
    crossed = [int(b) for b in borders if ((starts < b) & (b < stops)).any()]
    if not crossed:
        return starts, lengths
    starts, stops = np.sort(np.append(starts, crossed)), np.sort(np.append(stops, crossed))
    return starts, stops - starts


def _sentences(ends: Int64Array, random: np.random.Generator, fraction: float) -> tuple[Int64Array, Int64Array]:
    """Whole sentences in random order until `fraction` of the tokens is covered; at least one.

    Each sentence is a blank of its own, neighbours too, as published: its [sMASK] says that one sentence is missing.
    The published sampling always takes the sentence that crosses the goal and so covers more than the goal; here it is
    taken with the probability that makes the mean exact, wherever the first sentence does not cross the goal itself.
    """
    lengths = np.diff(ends, prepend=0)
    wanted, covered = fraction * float(lengths.sum()), 0
    chosen: list[int] = []
    for number in random.permutation(len(lengths)):
        missing = wanted - covered
        if chosen and (missing <= 0 or random.random() * lengths[number] >= missing):
            break
        chosen.append(int(number))
        covered += int(lengths[number])
    numbers = np.sort(np.array(chosen, dtype=np.int64))
    return (ends - lengths)[numbers], lengths[numbers]


def _text_end(side_ends: Int64Array, random: np.random.Generator, shortest: float) -> tuple[Int64Array, Int64Array]:
    """One blank from a random place to the end of the text; of two sides, the end of one, drawn at random.

    Every length from `shortest` times the text to the whole text is equally likely.
    """
    sizes = np.diff(side_ends, prepend=0)
    sides = np.flatnonzero(sizes)
    if not len(sides):
        return _NONE, _NONE
    side = sides[int(random.integers(len(sides)))]
    least = max(1, math.ceil(shortest * float(sizes[side]) - _HAIR))
    length = int(random.integers(least, int(sizes[side]) + 1))
    return side_ends[[side]] - length, np.array([length], dtype=np.int64)
