"""Queries and passages as samples of the contrast.

In:  examples of a ranking task, the tokenizer of the model.
Out: `RetrievalSamples`, which `mlc.data.batches.BatchBuilder` makes batches of: a query is the first view, one of its
right passages the second, its wrong ones are the hard negatives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from mlc.data.corpus import Sample
from mlc.data.randomness import generator
from mlc.errors import DataError
from mlc.finetune.batches import places_of
from mlc.tasks.examples import RankingExample
from mlc.tasks.features_pieces import Ints, Ragged, SmallInts, distinct
from mlc.tasks.tokenizers import TextTokenizer

NO_LANGUAGE = "und"
"""ISO 639-2's code where the data does not say it."""
_WHOLE = np.empty(0, dtype=np.int64)  # no sentences are told apart


class RetrievalSamples:
    """The samples of a run, which go over the examples once an epoch.

    Sample i is example `places_of(i)`, with one of its right passages by (seed, i). Examples that share a query or a
    right passage are one group: what is right for one is no negative of the others.

    Args:
        examples: n of them; each has a right passage.
        tokenizer: of the model.
        seed: run seed.
        samples_per_step: global batch N.

    Attributes:
        languages: of the examples, sorted.
        cut: different texts that lost their end.
        largest_group: examples of the largest group.

    Raises:
        DataError: the tokenizer leaves nothing of a text.
    """

    def __init__(
        self, examples: Sequence[RankingExample], tokenizer: TextTokenizer, *, seed: int, samples_per_step: int
    ) -> None:
        self._seed, self._samples_per_step = seed, samples_per_step
        texts, places = distinct(text for example in examples for text in _texts(example))
        tokenized = tokenizer.tokenize(texts)
        self.cut = tokenized.cut
        self._tokens = Ragged.of(ids[1:-1] for ids in tokenized.ids)
        self._lengths = self._tokens.lengths
        # A row: the query, its right passages, its wrong ones; all numbers of texts.
        counts = [1 + len(example.positives) + len(example.negatives) for example in examples]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._texts = places
        self._right = np.array([len(example.positives) for example in examples], np.int64)
        self._languages = [example.place.language or NO_LANGUAGE for example in examples]
        self.languages: Sequence[str] = sorted(set(self._languages))
        self._check(examples)
        self._groups = _groups([self._row(place)[: 1 + self._right[place]].tolist() for place in range(len(examples))])
        self.largest_group = max(Counter(self._groups).values())

    def __len__(self) -> int:
        return len(self._right)

    def step_indices(self, step: int) -> Ints:
        """Samples of global batch `step`, counted from 0, (N,)."""
        return np.arange(step * self._samples_per_step, (step + 1) * self._samples_per_step, dtype=np.int64)

    def planned_tokens(self, index: Ints, *, rows_per_pair: int, rows_per_text: int, hard_negatives: int) -> Ints:
        """About how many tokens each sample has, (n,): the mean of a text times its texts."""
        del rows_per_text
        planned = np.empty(len(index), np.int64)
        for number, place in enumerate(places_of(index, len(self), self._seed).tolist()):
            row = self._row(place)
            rows = 2 * rows_per_pair + min(hard_negatives, len(row) - 1 - int(self._right[place]))
            planned[number] = int(self._lengths[row].mean() * rows)
        return planned

    def samples(self, index: Ints) -> list[Sample]:
        """The samples at `index`, (n,)."""
        places = places_of(index, len(self), self._seed).tolist()
        return [self._sample(number, place) for number, place in zip(index.tolist(), places, strict=True)]

    def _sample(self, number: int, place: int) -> Sample:
        row, right = self._row(place), int(self._right[place])
        chosen = 1 + int(generator(self._seed, "right passage", number).integers(right))
        return Sample(
            index=number,
            first=self._tokens[row[0]],
            second=self._tokens[row[chosen]],
            first_ends=_WHOLE,
            second_ends=_WHOLE,
            first_language=self._languages[place],
            second_language=self._languages[place],
            group=self._groups[place],
            hard=tuple(self._tokens[text] for text in row[1 + right :]),
        )

    def _row(self, place: int) -> SmallInts:
        return self._texts[self._starts[place] : self._starts[place + 1]]

    def _check(self, examples: Sequence[RankingExample]) -> None:
        empty = np.flatnonzero(self._lengths == 0)
        if len(empty):
            first = int(np.flatnonzero(np.isin(self._texts, empty))[0])
            place = int(np.searchsorted(self._starts, first, side="right")) - 1
            raise DataError(
                "the tokenizer leaves nothing of a text",
                found=f"{len(empty)} such texts",
                needed="one token or more: it cannot be found, nor find",
                where=str(examples[place].place),
            )


def _texts(example: RankingExample) -> Iterable[str]:
    return (example.query, *example.positives, *example.negatives)


def _groups(rows: Sequence[Sequence[int]]) -> list[int]:
    """Numbers that rows with a text in common share, by union-find (Galler & Fischer 1964)."""
    parents = list(range(len(rows)))

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    first_with: dict[int, int] = {}
    for number, texts in enumerate(rows):
        for text in texts:
            other = root(first_with.setdefault(text, number))
            own = root(number)
            parents[max(own, other)] = min(own, other)
    return [root(number) for number in range(len(rows))]
