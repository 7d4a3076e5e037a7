"""One rank's part of a checkpoint: which tensors go into which file, copied to host memory or not, and written.

In:  the state of an engine, and of a queue of negatives where there is one.
Out: files, with their sizes and hashes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from mlc.engine.engine_state import EngineState
from mlc.engine.host_copies import HostCopies
from mlc.engine.momentum import MomentumQueue
from mlc.files import FileFacts
from mlc.tensor_files import Piece, write_pieces, write_tensors

WEIGHTS, MOMENTS, MOMENTUM, QUEUE = "model/weights-", "optimizer/state-", "queue/momentum-", "queue/queue.safetensors"
"""Files of a checkpoint; the first three have one a rank, see `of_rank`."""

SECONDS_BETWEEN_REPORTS = 10.0
GIB = 1 << 30

Parts = dict[str, list[Piece] | dict[str, Tensor]]
"""Tensors by the name of their file inside the checkpoint."""


def of_rank(file: str, rank: int, world_size: int) -> str:
    """Name of a rank's file: "model/weights-00000-of-00002.safetensors"."""
    return f"{file}{rank:05d}-of-{world_size:05d}.safetensors"


def parts_of(state: EngineState, queue: MomentumQueue | None) -> Parts:
    """What this rank writes; views of live memory."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    parts: Parts = {
        of_rank(WEIGHTS, rank, world_size): state.weights_to_save(),
        of_rank(MOMENTS, rank, world_size): state.moments(),
    }
    if queue is not None:
        parts[of_rank(MOMENTUM, rank, world_size)] = queue.encoder.pieces()
        if rank == 0:
            parts[QUEUE] = queue.queue.state()
    return parts


def copied(parts: Parts, copies: HostCopies, ready: torch.cuda.Event | None) -> Parts:
    """The same values in host memory, apart from live memory; arguments as in `HostCopies.of`."""
    live = [tensor for tensors in parts.values() for tensor in _tensors(tensors)]
    memory = iter(copies.of(live, ready=ready))
    return {
        file: {name: next(memory) for name in tensors}
        if isinstance(tensors, dict)
        else [replace(piece, values=next(memory)) for piece in tensors]
        for file, tensors in parts.items()
    }


def write_parts(
    folder: Path, parts: Parts, *, beat: Callable[[str], None], say: Callable[[str], None] | None
) -> dict[str, FileFacts]:
    """Write files, synced, and hashed on the way.

    Args:
        folder: the checkpoint, with the folders of its files.
        parts: on the host.
        beat: called after every block: a stuck file system gives no beat.
        say: told now and then how far it is.

    Raises:
        OSError: a file cannot be written.
    """
    reporter = _Reporter(beat, say, parts)
    facts = {}
    for name, tensors in parts.items():
        if isinstance(tensors, dict):
            facts[name] = write_tensors(folder / name, tensors, progress=reporter)
        else:
            facts[name] = write_pieces(folder / name, tensors, progress=reporter)
    return facts


class _Reporter:
    def __init__(self, beat: Callable[[str], None], say: Callable[[str], None] | None, parts: Parts) -> None:
        self._beat, self._say = beat, say
        self._total = sum(_bytes(tensors) for tensors in parts.values())
        self._done = 0
        self._next = time.monotonic() + SECONDS_BETWEEN_REPORTS

    def __call__(self, count: int) -> None:
        self._done += count
        self._beat("writing a checkpoint")
        if self._say is not None and time.monotonic() >= self._next:
            self._next = time.monotonic() + SECONDS_BETWEEN_REPORTS
            self._say(f"saving: rank 0 has written {self._done / GIB:.2f} of {self._total / GIB:.2f} GiB")


def _tensors(tensors: list[Piece] | dict[str, Tensor]) -> list[Tensor]:
    return list(tensors.values()) if isinstance(tensors, dict) else [piece.values for piece in tensors]


def _bytes(tensors: list[Piece] | dict[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in _tensors(tensors))
