"""The last pairs of earlier steps, as negatives for the coming ones.

In:  pairs of embeddings with the ids that decide what is a negative of what.
Out: `QueuedPairs`, the newest ones up to a fixed number, the same on every rank.
Letters: Q = pairs, E = width of the embeddings, n = pairs of this rank, W = ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from mlc.distributed.gather import gather_rows_detached
from mlc.errors import CheckpointError

IDS = ("group", "first_text", "second_text", "first_language", "second_language", "step")
"""The int64 fields of `QueuedPairs`."""


@dataclass(frozen=True)
class QueuedPairs:
    """Pairs of texts and who they are; a field has one row a pair.

    Attributes:
        first_QE, second_QE: fp32 unit vectors of the two views, without gradient.
        group, first_text, second_text: int64 [Q], see `mlc.objectives.negatives.TextIds`.
        first_language, second_language: int64 [Q], place in the corpus's languages; -1 = none.
        valid: bool [Q]; False = the place holds no pair.
        step: int64 [Q], the step that put the pair in; -1 = before the first one. Its age at step t is t - step.
    """

    first_QE: Tensor
    second_QE: Tensor
    group: Tensor
    first_text: Tensor
    second_text: Tensor
    first_language: Tensor
    second_language: Tensor
    valid: Tensor
    step: Tensor

    def __len__(self) -> int:
        return len(self.valid)

    def take(self, index: Tensor | slice) -> QueuedPairs:
        """Some of the pairs, in the order of `index`."""
        return QueuedPairs(**{name: tensor[index] for name, tensor in self.by_name().items()})

    def by_name(self) -> dict[str, Tensor]:
        """The fields."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


class NegativeQueue:
    """A ring of pairs: the newest replace the oldest.

    Args:
        size: pairs kept, Q.
        width: of an embedding, E.
        device: where they are kept.
    """

    def __init__(self, size: int, width: int, device: torch.device) -> None:
        none = {name: torch.full((size,), -1, dtype=torch.int64, device=device) for name in IDS}
        self._pairs = QueuedPairs(
            first_QE=torch.zeros(size, width, device=device),
            second_QE=torch.zeros(size, width, device=device),
            valid=torch.zeros(size, dtype=torch.bool, device=device),
            **none,
        )
        self._next = 0

    def __len__(self) -> int:
        """Places, filled or not."""
        return len(self._pairs)

    @property
    def bytes(self) -> int:
        """Size of all places."""
        return sum(tensor.nbytes for tensor in self.state().values())

    @property
    def filled(self) -> int:
        """Places that hold a pair."""
        return int(self._pairs.valid.sum())

    def push(self, pairs: QueuedPairs) -> None:
        """Put pairs in, the last ones newest; of more than Q the last Q stay.

        Every rank pushes the same pairs in the same order (`gather_pairs`).
        """
        newest = pairs.take(slice(max(0, len(pairs) - len(self)), None))
        place = (torch.arange(len(newest), device=newest.valid.device) + self._next) % len(self)
        for name, tensor in self._pairs.by_name().items():
            tensor[place] = getattr(newest, name)
        self._next = (self._next + len(newest)) % len(self)

    def pairs(self) -> QueuedPairs:
        """What is in the queue, in the order of its places; the tensors are the queue's own until the next push."""
        return self._pairs

    def state(self) -> dict[str, Tensor]:
        """Everything that `load` needs: the queue's own tensors, by name."""
        return {**self._pairs.by_name(), "next": torch.tensor([self._next])}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Become the queue that `state` was taken of.

        Raises:
            CheckpointError: it is of another size or width.
        """
        needed = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in self.state().items()}
        found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in state.items()}
        if found != needed:
            raise CheckpointError("the saved queue does not fit this run", found=str(found), needed=str(needed))
        for name, tensor in self._pairs.by_name().items():
            tensor.copy_(state[name])
        self._next = int(state["next"])


def gather_pairs(pairs: QueuedPairs, sample: Tensor) -> QueuedPairs:
    """The valid pairs of all ranks in the order of their samples: the same rows whatever W is; a collective.

    Args:
        pairs: of this rank, n of them, as many on every rank.
        sample: int64 (n,), index of each pair's sample; no two valid pairs have the same.
    """
    both = gather_rows_detached(torch.cat([pairs.first_QE, pairs.second_QE], dim=1))
    ids = torch.stack([sample, pairs.valid.to(torch.int64), *(getattr(pairs, name) for name in IDS)], dim=1)
    sample, valid, *columns = gather_rows_detached(ids).unbind(1)
    first_QE, second_QE = both.chunk(2, dim=1)
    gathered = QueuedPairs(first_QE, second_QE, valid=valid.bool(), **dict(zip(IDS, columns, strict=True)))
    kept = gathered.valid.nonzero().squeeze(1)
    return gathered.take(kept[sample[kept].argsort()])
