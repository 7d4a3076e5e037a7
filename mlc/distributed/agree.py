"""One rank's work for all of them.

In:  work that only rank 0 can do, or that all must see alike.
Out: its result, or its error, on every rank.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

from mlc.errors import MlcError

T = TypeVar("T")


def from_rank_0(work: Callable[[], T]) -> T:
    """What `work` returns on rank 0, on every rank; a collective.

    Args:
        work: called on rank 0 alone; what it returns can be pickled.

    Raises:
        MlcError: the one `work` raised, or one that stands for any other exception, on every rank.
    """
    answer: list[T | MlcError | None] = [None]
    if dist.get_rank() == 0:
        try:
            answer = [work()]
        except Exception as error:  # the others wait in the broadcast: whatever it is, they have to hear of it
            if not isinstance(error, MlcError):
                traceback.print_exc()
            answer = [error if isinstance(error, MlcError) else MlcError("rank 0 failed", found=repr(error))]
    dist.broadcast_object_list(answer, src=0)
    if isinstance(answer[0], MlcError):
        raise answer[0]
    return answer[0]  # type: ignore[return-value]
