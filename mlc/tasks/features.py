"""One text a row, or two: classification, regression, retrieval and re-ranking.

In:  examples (mlc.tasks.examples) or strings, and a `PieceEncoder`.
Out: `TextRows`: ids kept compact, rows and batches made when they are asked for.

Other kinds of task: mlc.tasks.features_words, features_answers, features_translation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mlc.errors import DataError, UsageError
from mlc.tasks.examples import ClassificationExample, RankingExample, RegressionExample
from mlc.tasks.features_batch import Array, Floats, TaskBatch, filled, padded_inputs, row_count, row_weights
from mlc.tasks.features_pieces import (
    Ints,
    PieceEncoder,
    Progress,
    Ragged,
    SmallInts,
    Template,
    distinct,
    kept_of_pair,
)


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """A row as the model takes it.

    Attributes:
        ids: (L,) int64, special tokens included.
        type_ids: (L,) int64; None where the model takes none.
    """

    ids: Ints
    type_ids: Ints | None


@dataclass(frozen=True)
class TextRows:
    """Rows of one text or two; `tokenize_texts` makes them.

    Attributes:
        pieces: ids of every different text, whole.
        texts: (n, 1) or (n, 2) int32: which of them a row has.
        kept: (n, 1) or (n, 2) int64: how many of their ids stay.
        template: special tokens around them.
        pad_id: fills the end of a row.
        has_type_ids: whether the model takes token_type_ids.
        cut: rows of which something was cut off.
        labels: (n,) int64 classes or float32 numbers; None where they are not known.
    """

    pieces: Ragged
    texts: SmallInts
    kept: Ints
    template: Template
    pad_id: int
    has_type_ids: bool
    cut: int
    labels: Array | None = None

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def lengths(self) -> Ints:
        """Tokens of each row, (n,) int64."""
        lengths: Ints = self.kept.sum(1) + self.template.size
        return lengths

    def __getitem__(self, row: int) -> TextFeatures:
        kept = self.kept[row].tolist()
        texts = [self.pieces[text][:count] for text, count in zip(self.texts[row], kept, strict=True)]
        return TextFeatures(self.template.ids(*texts), self.template.type_ids(*kept) if self.has_type_ids else None)

    def with_labels(self, labels: Array) -> TextRows:
        """The same rows with targets, (n,)."""
        if labels.shape != (len(self),):
            raise UsageError("labels do not fit the rows", found=str(labels.shape), needed=f"({len(self)},)")
        return replace(self, labels=labels)

    def batch(self, places: Sequence[int], *, rows: int | None = None) -> TaskBatch:
        """Rows as arrays.

        Args:
            places: of the rows.
            rows: R; rows of weight 0 fill up. None = as many as `places`.

        Returns:
            targets: `weights` (R,), and `labels` (R,) where they are known.
        """
        features, count = [self[place] for place in places], row_count(len(places), rows)
        types = [row.type_ids for row in features if row.type_ids is not None] if self.has_type_ids else None
        inputs = padded_inputs([row.ids for row in features], types, pad_id=self.pad_id, count=count)
        targets: dict[str, Array] = {"weights": row_weights(len(features), count)}
        if self.labels is not None:
            targets["labels"] = filled(self.labels[list(places)], count)
        return TaskBatch(inputs, targets)


def tokenize_texts(
    encoder: PieceEncoder,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    max_tokens: int | None = None,
    progress: Progress | None = None,
) -> TextRows:
    """Make rows of texts, or of texts with a second one each; every different text is tokenised once.

    Args:
        texts: n of them.
        pairs: n second texts; None = one text a row.
        max_tokens: longest row, special tokens included; None = the tokenizer's. What is longer is cut at its end: of
            two texts the longer one first, until they are equally long.
        progress: told how many different texts were tokenised.

    Raises:
        UsageError: the numbers of texts differ, or `max_tokens` leaves no room.
    """
    if isinstance(texts, str) or isinstance(pairs, str):
        raise UsageError("texts are a list", found="one string", needed='["..."]')
    if pairs is not None and len(pairs) != len(texts):
        raise UsageError("each text needs its second one", found=f"{len(texts)} and {len(pairs)}")
    template = encoder.single if pairs is None else encoder.pair
    room = encoder.room(template, max_tokens)
    different, places = distinct([*texts, *(pairs or ())])
    pieces = encoder.encode(different, progress)
    chosen = np.ascontiguousarray(places.reshape(len(template.text_types), -1).T)
    whole = pieces.lengths[chosen]
    if pairs is None:
        kept = np.minimum(whole, room)
    else:
        kept = np.stack(kept_of_pair(whole[:, 0], whole[:, 1], room), axis=1)
    return TextRows(
        pieces=pieces,
        texts=chosen,
        kept=kept,
        template=template,
        pad_id=encoder.pad_id,
        has_type_ids=encoder.has_type_ids,
        cut=int((kept < whole).any(1).sum()),
    )


def tokenize_examples(
    encoder: PieceEncoder,
    examples: Sequence[ClassificationExample] | Sequence[RegressionExample],
    *,
    max_tokens: int | None = None,
    progress: Progress | None = None,
) -> TextRows:
    """Rows of examples in their order, without labels: see `class_labels` and `score_labels`.

    Raises:
        DataError: some have a second text and others have none.
    """
    pairs = [example.text_pair for example in examples if example.text_pair is not None]
    if pairs and len(pairs) != len(examples):
        odd = next(example for example in examples if (example.text_pair is None) != (examples[0].text_pair is None))
        raise DataError(
            "some examples have one text and others two",
            found="two texts" if odd.text_pair is not None else "one text",
            needed="the same as on the first line",
            where=str(odd.place),
        )
    texts = [example.text for example in examples]
    return tokenize_texts(encoder, texts, pairs or None, max_tokens=max_tokens, progress=progress)


def class_labels(examples: Sequence[ClassificationExample], classes: Sequence[str]) -> Ints:
    """Numbers of the examples' classes, (n,) int64.

    Raises:
        DataError: an example has no class, or one that is not among `classes`.
    """
    number = {name: place for place, name in enumerate(classes)}
    labels = np.empty(len(examples), np.int64)
    for place, example in enumerate(examples):
        if example.label not in number:
            found = "none" if example.label is None else example.label
            raise DataError("unknown class", found=found, needed=", ".join(classes), where=str(example.place))
        labels[place] = number[example.label]
    return labels


def score_labels(examples: Sequence[RegressionExample]) -> Floats:
    """The examples' numbers, (n,) float32.

    Raises:
        DataError: an example has none.
    """
    for example in examples:
        if example.score is None or not np.isfinite(example.score):
            raise DataError("no number to learn", found=example.score, needed="a number", where=str(example.place))
    return np.array([example.score for example in examples], np.float32)


@dataclass(frozen=True)
class RankingPairs:
    """Every query with each of its passages, for a model that reads both at once.

    Attributes:
        queries, passages: n texts each; a query's passages follow one another, right ones first.
        relevant: (n,) int64, 1 = the passage answers the query.
        query_numbers: (n,) int64, which example a pair is of.
    """

    queries: list[str]
    passages: list[str]
    relevant: Ints
    query_numbers: Ints


def ranking_pairs(examples: Sequence[RankingExample]) -> RankingPairs:
    """Lay examples out as pairs, for `tokenize_texts(encoder, pairs.queries, pairs.passages)`."""
    counts = [(len(example.positives), len(example.negatives)) for example in examples]
    return RankingPairs(
        queries=[example.query for example, count in zip(examples, counts, strict=True) for _ in range(sum(count))],
        passages=[passage for example in examples for passage in (*example.positives, *example.negatives)],
        relevant=np.concatenate([np.repeat([1, 0], count) for count in counts] or [np.empty(0, np.int64)]),
        query_numbers=np.repeat(np.arange(len(examples)), [sum(count) for count in counts]),
    )
