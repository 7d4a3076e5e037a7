"""Global batches of fine-tuning: every example once an epoch, in an order of the seed alone.

In:  a task's rows, the step, the rank.
Out: a `FinetuneBatch`, numpy only, a pure function of (rows, seed, step, rank, world size).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlc.data.batches import assign, check_batch_size
from mlc.data.randomness import hash_words, keyed_permutation
from mlc.tasks.features_batch import DrawnRows, TaskBatch, TaskRows
from mlc.tasks.features_pieces import Ints


@dataclass(frozen=True)
class FinetunePart:
    """One forward of one rank.

    Attributes:
        arrays: inputs and targets.
        samples: numbers of the samples, counted over epochs; -1 = added for evenness.
    """

    arrays: TaskBatch
    samples: Ints


@dataclass(frozen=True)
class FinetuneBatch:
    """What one rank does for one optimizer step."""

    step: int
    micro_batches: Sequence[FinetunePart]


class FinetuneBatches:
    """Builds any step's batch for one rank.

    Sample i is row `order(i % n)` of epoch i // n: a keyed permutation of the rows, another one every epoch. Samples
    of one global batch are dealt out by length (mlc.data.batches.assign).

    Args:
        rows: n of them, with targets.
        seed: run seed.
        samples_per_step: global batch N.
        micro_batches: K.
        rank, world_size: who asks.

    Raises:
        RecipeError: N < world_size x K.
    """

    def __init__(
        self, rows: TaskRows, *, seed: int, samples_per_step: int, micro_batches: int, rank: int, world_size: int
    ) -> None:
        check_batch_size(samples_per_step, micro_batches, world_size)
        self._rows, self._seed, self._samples_per_step = rows, seed, samples_per_step
        self._micro_batches, self._rank, self._world_size = micro_batches, rank, world_size
        self._lengths = rows.lengths

    def build(self, step: int) -> FinetuneBatch:
        """The rank's part of global batch `step`, counted from 0."""
        samples = np.arange(self._samples_per_step, dtype=np.int64) + step * self._samples_per_step
        places = self.places(samples)
        size = -(-self._samples_per_step // (self._world_size * self._micro_batches))
        parts = []
        for chosen in assign(self._lengths[places], self._world_size, self._rank, self._micro_batches):
            numbers = np.full(size, -1, dtype=np.int64)
            numbers[: len(chosen)] = samples[chosen]
            parts.append(FinetunePart(self._arrays(places[chosen], samples[chosen], size), numbers))
        return FinetuneBatch(step, parts)

    def places(self, samples: Ints) -> Ints:
        """The row of each sample."""
        return places_of(samples, len(self._rows), self._seed)

    def _arrays(self, places: Ints, samples: Ints, size: int) -> TaskBatch:
        if isinstance(self._rows, DrawnRows):
            return self._rows.draw(places.tolist(), (samples // len(self._rows)).tolist(), rows=size)
        return self._rows.batch(places.tolist(), rows=size)


def places_of(samples: Ints, count: int, seed: int) -> Ints:
    """Which of `count` examples each sample is: every one once an epoch, in an order of (seed, epoch)."""
    epochs, within = np.divmod(samples, count)
    places = np.empty_like(samples)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        key = hash_words(seed, "fine-tuning epoch", int(epoch))
        places[chosen] = keyed_permutation(within[chosen], count, key)
    return places
