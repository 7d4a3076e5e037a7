"""Rows of different lengths as padded arrays: what a model takes, and what its outputs are compared with.

In:  ids, type ids and targets of rows.
Out: a `TaskBatch`. Letters: R rows, L columns (longest row), T columns of targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mlc.tasks.features_pieces import Ints

Array = NDArray[Any]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class TaskBatch:
    """Arrays by name, padded on the right.

    Attributes:
        inputs: the model's arguments: input_ids, attention_mask and, where the tokenizer has them, token_type_ids,
            each (R, L) int64.
        targets: what the task needs besides, named by the rows that made it; `weights` float32 are 0 for rows and
            places that count for nothing, whatever the other targets hold there.
    """

    inputs: Mapping[str, Array]
    targets: Mapping[str, Array]

    @property
    def rows(self) -> int:
        """R, rows that only fill up included."""
        return len(self.inputs["input_ids"])

    @property
    def tokens(self) -> int:
        """Tokens that are no padding."""
        return int(self.inputs["attention_mask"].sum())


class TaskRows(Protocol):
    """What a training or evaluation loop needs of any task's rows."""

    @property
    def lengths(self) -> Ints:
        """Tokens of each row, (n,) int64, without making the rows."""
        ...

    @property
    def cut(self) -> int:
        """How many rows, words or questions lost their end."""
        ...

    def __len__(self) -> int: ...

    def batch(self, places: Sequence[int], *, rows: int | None = None) -> TaskBatch:
        """The rows at these places, and as many of weight 0 as make `rows` of them."""
        ...


@runtime_checkable
class DrawnRows(TaskRows, Protocol):
    """Rows of which every epoch takes another part."""

    def draw(self, places: Sequence[int], epochs: Sequence[int], *, rows: int | None = None) -> TaskBatch:
        """As `batch`, each of the rows in its epoch."""
        ...


def padded(rows: Sequence[Array], value: float, *, count: int, dtype: Any = np.int64) -> Array:
    """Rows as a matrix (count, longest row, or 1), filled up with `value` on the right and below."""
    width = max([1, *map(len, rows)])
    matrix = np.full((count, width), value, dtype=dtype)
    for place, row in enumerate(rows):
        matrix[place, : len(row)] = row
    return matrix


def padded_inputs(ids: Sequence[Ints], type_ids: Sequence[Ints] | None, *, pad_id: int, count: int) -> dict[str, Array]:
    """The model's arguments of `count` rows.

    A row that only fills up has one visible token, of padding: attention over no token at all gives no number.
    """
    mask = padded([np.ones(len(row), np.int64) for row in ids], 0, count=count)
    mask[len(ids) :, 0] = 1
    inputs = {"input_ids": padded(ids, pad_id, count=count), "attention_mask": mask}
    if type_ids is not None:
        inputs["token_type_ids"] = padded(type_ids, 0, count=count)
    return inputs


def filled(values: Array, count: int) -> Array:
    """(R, ...) -> (count, ...), with zeros below."""
    result = np.zeros((count, *values.shape[1:]), values.dtype)
    result[: len(values)] = values
    return result


def row_weights(real: int, count: int) -> Floats:
    """(count,) float32: 1 for each of the first `real` rows."""
    return filled(np.ones(real, np.float32), count)


def row_count(real: int, asked: int | None) -> int:
    """How many rows a batch has: as many as asked for, and never fewer than there are."""
    assert real > 0 or asked, "a batch of nothing has no shape"
    return max(real, asked or 0)
