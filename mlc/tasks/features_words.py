"""Words with a label each: token classification. Sentences of any length, and every word is predicted.

In:  examples with words (mlc.tasks.examples.TokenExample) and a `PieceEncoder`.
Out: `WordRows`: windows over words; their targets; predictions put together by sentence.

The label of a word stands on its first piece; other pieces are not scored. A word of which the tokenizer leaves nothing
(control characters) is the unknown token. A sentence that is longer than the model takes is read in windows that share
a quarter of their pieces; a word is scored in one window, where it has more context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from mlc.errors import DataError, UsageError
from mlc.tasks.examples import TokenExample
from mlc.tasks.features import TextFeatures
from mlc.tasks.features_batch import Array, TaskBatch, padded_inputs, row_count
from mlc.tasks.features_pieces import Ints, PieceEncoder, Progress, Ragged, SmallInts, Template, distinct

_CARRIER = "a"
"""A word before a word, so that it is encoded as inside a sentence: with the space before it."""


@dataclass(frozen=True, slots=True)
class WordFeatures:
    """A window as the model takes it.

    Attributes:
        text: ids and type ids.
        sentence: number of its example.
        words: (W,) numbers of the words that are scored in this window, one after the other.
        places: (W,) columns of their first pieces.
    """

    text: TextFeatures
    sentence: int
    words: Ints
    places: Ints


@dataclass(frozen=True)
class WordRows:
    """Windows over the words of sentences; `tokenize_words` makes them.

    Attributes:
        pieces: ids of every different word: as a sentence's first, then as a later one.
        words: which of them each sentence has, int32.
        windows: (n, 5) int64: sentence; first word and end of the window; first word and end of what is scored in it.
        room: pieces that a window holds.
        template: special tokens around them.
        pad_id: fills the end of a row.
        has_type_ids: whether the model takes token_type_ids.
        split: sentences of more than one window.
        cut: words of more pieces than the model takes, which lost their end.
        unknown: words of which the tokenizer leaves nothing.
        labels: number of each word's label, by sentence; None where they are not known.
    """

    pieces: Ragged
    words: Ragged
    windows: Ints
    room: int
    template: Template
    pad_id: int
    has_type_ids: bool
    split: int
    cut: int
    unknown: int
    labels: Ragged | None = None

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def lengths(self) -> Ints:
        """Tokens of each row, (n,) int64."""
        sizes = np.concatenate([[0], np.cumsum(np.minimum(self.pieces.lengths, self.room)[self.words.values])])
        starts = self.words.starts[self.windows[:, 0]]
        lengths: Ints = sizes[starts + self.windows[:, 2]] - sizes[starts + self.windows[:, 1]]
        return lengths + self.template.size

    def __getitem__(self, row: int) -> WordFeatures:
        sentence, first, end, first_scored, end_scored = self.windows[row].tolist()
        texts = [self.pieces[word][: self.room] for word in self.words[sentence][first:end]]
        lengths = [len(text) for text in texts]
        starts = self.template.text_start() + np.concatenate([[0], np.cumsum(lengths)])
        type_ids = self.template.type_ids(sum(lengths)) if self.has_type_ids else None
        return WordFeatures(
            text=TextFeatures(self.template.ids(np.concatenate(texts)), type_ids),
            sentence=sentence,
            words=np.arange(first_scored, end_scored),
            places=starts[first_scored - first : end_scored - first].astype(np.int64),
        )

    def with_labels(self, labels: Ragged) -> WordRows:
        """The same rows with targets: see `word_labels`."""
        if not np.array_equal(labels.starts, self.words.starts):
            raise UsageError("labels do not fit the sentences", found=f"{len(labels)} rows of labels")
        return replace(self, labels=labels)

    def batch(self, places: Sequence[int], *, rows: int | None = None) -> TaskBatch:
        """Rows as arrays.

        Args:
            places: of the rows.
            rows: R; rows of weight 0 fill up. None = as many as `places`.

        Returns:
            targets: `weights` (R, L), 1 on the first piece of each word that is scored; `labels` (R, L) where known.
        """
        features, count = [self[place] for place in places], row_count(len(places), rows)
        types = [row.text.type_ids for row in features if row.text.type_ids is not None] if self.has_type_ids else None
        inputs = padded_inputs([row.text.ids for row in features], types, pad_id=self.pad_id, count=count)
        weights = np.zeros(inputs["input_ids"].shape, np.float32)
        labels = np.zeros(inputs["input_ids"].shape, np.int64)
        for number, row in enumerate(features):
            weights[number, row.places] = 1
            if self.labels is not None:
                labels[number, row.places] = self.labels[row.sentence][row.words]
        return TaskBatch(inputs, {"weights": weights} | ({} if self.labels is None else {"labels": labels}))

    def by_sentence(self, predictions: Sequence[Array]) -> list[Array]:
        """Put predictions of windows together.

        Args:
            predictions: of each row, in their order: (L,) or (L, C), one for every column of the row, padding or not.

        Returns:
            Of each sentence (words,) or (words, C), one for every word.
        """
        assert len(predictions) == len(self)
        shapes = predictions[0].shape[1:] if len(self) else ()
        dtype = predictions[0].dtype if len(self) else np.int64
        results = [np.empty((length, *shapes), dtype) for length in self.words.lengths]
        for row, prediction in enumerate(predictions):
            found = self[row]
            results[found.sentence][found.words] = prediction[found.places]
        return results


def tokenize_words(
    encoder: PieceEncoder,
    sentences: Sequence[Sequence[str]],
    *,
    max_tokens: int | None = None,
    progress: Progress | None = None,
) -> WordRows:
    """Make windows of sentences that are split into words; every different word is tokenised once.

    Args:
        sentences: words of each; none is empty of words.
        max_tokens: longest row, special tokens included; None = the tokenizer's.
        progress: told how many different words were tokenised.

    Raises:
        DataError: a sentence without words.
        UsageError: `max_tokens` leaves no room.
    """
    room = encoder.room(encoder.single, max_tokens)
    for number, sentence in enumerate(sentences):
        if not sentence:
            raise DataError("a sentence has no words", found=f"sentence {number}", needed="one word or more")
    lengths = [len(sentence) for sentence in sentences]
    different, numbers = distinct(word for sentence in sentences for word in sentence)
    words = Ragged(numbers, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    inside = np.ones(len(numbers), bool)
    inside[words.starts[:-1]] = False
    firsts = np.unique(numbers[~inside])  # few, so that not every word is encoded twice
    place_of_first = np.zeros(len(different), np.int32)
    place_of_first[firsts] = np.arange(len(firsts), dtype=np.int32)
    pieces, is_unknown = _encode_words(encoder, [different[word] for word in firsts], different, progress)
    chosen = np.where(inside, numbers + len(firsts), place_of_first[numbers]).astype(np.int32)
    words = Ragged(chosen, words.starts)
    sizes = np.minimum(pieces.lengths, room)
    windows = [
        (sentence, *window)
        for sentence in range(len(sentences))
        for window in split_into_windows(sizes[words[sentence]], room)
    ]
    table = np.array(windows, np.int64).reshape(-1, 5)
    return WordRows(
        pieces=pieces,
        words=words,
        windows=table,
        room=room,
        template=encoder.single,
        pad_id=encoder.pad_id,
        has_type_ids=encoder.has_type_ids,
        split=int((np.bincount(table[:, 0], minlength=len(sentences)) > 1).sum()),
        cut=int((pieces.lengths[chosen] > room).sum()),
        unknown=int(is_unknown[chosen].sum()),
    )


def word_labels(examples: Sequence[TokenExample], classes: Sequence[str]) -> Ragged:
    """Numbers of the words' labels, by sentence.

    Raises:
        DataError: an example has no labels, not as many as words, or one that is not among `classes`.
    """
    number = {name: place for place, name in enumerate(classes)}
    rows = []
    for example in examples:
        labels, where = example.labels, str(example.place)
        if labels is None or len(labels) != len(example.tokens):
            found = "none" if labels is None else f"{len(labels)} labels"
            raise DataError("words and labels differ", found=found, needed=f"{len(example.tokens)} labels", where=where)
        unknown = next((label for label in labels if label not in number), None)
        if unknown is not None:
            raise DataError("unknown label of a word", found=unknown, needed=", ".join(classes), where=where)
        rows.append([number[label] for label in labels])
    return Ragged.of(rows)


def split_into_windows(sizes: SmallInts | Ints, room: int) -> list[tuple[int, int, int, int]]:
    """Windows over words of these sizes.

    Args:
        sizes: pieces of each word, 1..room.
        room: pieces that a window holds.

    Returns:
        First word and end of each window, first word and end of what is scored in it: parts that follow one another.
        A window begins with as many words of the one before as a quarter of its room holds; half of those are scored
        here.
    """
    total = np.concatenate([[0], np.cumsum(sizes)])
    count, spans, first = len(sizes), list[tuple[int, int]](), 0
    while True:
        end = int(np.searchsorted(total, total[first] + room, side="right")) - 1
        spans.append((first, end))
        if end >= count:
            break
        shared = int(np.searchsorted(total, total[end] - room // 4, side="left"))
        first = max(first + 1, min(shared, end))
        # The next word has to fit behind what is shared, or nothing new would be read.
        while total[end + 1] - total[first] > room:
            first += 1
    edges = [0, *((start + end) // 2 for (_, end), (start, _) in pairwise(spans)), count]
    return [(*span, edges[number], edges[number + 1]) for number, span in enumerate(spans)]


def _encode_words(
    encoder: PieceEncoder, firsts: Sequence[str], later: Sequence[str], progress: Progress | None
) -> tuple[Ragged, np.ndarray]:
    carrier = encoder.encode([_CARRIER])[0]
    alone = encoder.encode(firsts, progress)
    behind = encoder.encode([f"{_CARRIER} {word}" for word in later], progress)
    rows: list[SmallInts] = [alone[number] for number in range(len(alone))]
    for number, word in enumerate(later):
        row = behind[number]
        if np.array_equal(row[: len(carrier)], carrier):
            rows.append(row[len(carrier) :])
        else:  # pieces that reach across spaces
            rows.append(encoder.encode([word])[0])
    is_unknown = np.array([len(row) == 0 for row in rows], bool)
    unknown = np.array([encoder.unknown_id], np.int32)
    return Ragged.of(row if len(row) else unknown for row in rows), is_unknown
