"""What a save in the background writes: a copy in host memory, taken beside training before the next update.

In:  the tensors of this rank, on any device.
Out: the same values in memory of their own, which every save uses again.

Most of these tensors are views that lie side by side in a few long ones, DeepSpeed's flat groups. So memory is copied
by stretches instead of by tensors, which is twice as fast on a CPU (docs/benchmarks.md, "Saving and resuming").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LARGEST_GAP_BYTES = 64 << 10
"""Between two tensors of one storage that are copied together."""
ALIGNMENT_BYTES = 64


@dataclass
class _Stretch:
    """Bytes start .. end - 1 of a storage."""

    storage: torch.UntypedStorage
    device: torch.device
    start: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.start

    def bytes(self) -> Tensor:
        """The live memory, (length,) uint8."""
        empty = torch.empty(0, dtype=torch.uint8, device=self.device)
        return empty.set_(self.storage, self.start, (self.length,))  # type: ignore[call-overload, no-any-return]


class HostCopies:
    """Copies in host memory, pinned where there is a GPU."""

    def __init__(self) -> None:
        self._memory: list[Tensor] = []

    @property
    def bytes(self) -> int:
        """Host memory held."""
        return sum(memory.nbytes for memory in self._memory)

    def of(self, tensors: Sequence[Tensor], *, ready: torch.cuda.Event | None = None) -> list[Tensor]:
        """The same values, apart from live memory; the copies of before are overwritten. Done when this returns.

        Args:
            tensors: on any device.
            ready: where there is a GPU: recorded once the values were those to copy.
        """
        with _beside_training(ready):
            tensors = [tensor.detach().contiguous() for tensor in tensors]
            stretches, places = _stretches(tensors)
            self._make_room([stretch.length for stretch in stretches])
            for memory, stretch in zip(self._memory, stretches, strict=True):
                if stretch.device.type == "cpu":
                    # Long copies of torch's own go through the cache, which costs a read of what is overwritten.
                    np.copyto(memory.numpy(), stretch.bytes().numpy())
                else:
                    memory.copy_(stretch.bytes(), non_blocking=True)
        return [
            self._memory[number][start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            for tensor, (number, start) in zip(tensors, places, strict=True)
        ]

    def _make_room(self, lengths: list[int]) -> None:
        if [len(memory) for memory in self._memory] != lengths:
            self._memory = []  # what was there is given back first
            pinned = torch.cuda.is_available()
            self._memory = [torch.empty(length, dtype=torch.uint8, pin_memory=pinned) for length in lengths]


@contextmanager
def _beside_training(ready: torch.cuda.Event | None) -> Iterator[None]:
    """Work of a stream of its own, which is done at the end; on a CPU nothing has to be done for that."""
    if ready is None:
        yield
        return
    stream = torch.cuda.Stream(device=ready.device)
    with torch.cuda.stream(stream):  # which sets this thread's device, too
        stream.wait_event(ready)
        yield
        stream.synchronize()


def _stretches(tensors: Sequence[Tensor]) -> tuple[list[_Stretch], list[tuple[int, int]]]:
    """Stretches that cover contiguous tensors; for each tensor the number of its stretch, and its first byte in it.

    Stretches are numbered in the order of `tensors`: addresses of small temporary copies change from save to save.
    """
    stretches: list[_Stretch] = []
    found = [(0, 0)] * len(tensors)
    for number in sorted(range(len(tensors)), key=lambda number: _address(tensors[number])):
        tensor = tensors[number]
        storage, start = tensor.untyped_storage(), _address(tensor)[1]
        last = stretches[-1] if stretches else None
        if last is None or last.storage.data_ptr() != storage.data_ptr() or start > last.end + LARGEST_GAP_BYTES:
            aligned = start - start % ALIGNMENT_BYTES  # so that what is there can be viewed in any dtype
            last = _Stretch(storage, tensor.device, aligned, aligned)
            stretches.append(last)
        last.end = max(last.end, start + tensor.nbytes)
        found[number] = (len(stretches) - 1, start - last.start)
    order = list(dict.fromkeys(stretch for stretch, _ in found))
    numbers = {stretch: number for number, stretch in enumerate(order)}
    return [stretches[stretch] for stretch in order], [(numbers[stretch], start) for stretch, start in found]


def _address(tensor: Tensor) -> tuple[int, int]:
    return tensor.untyped_storage().data_ptr(), int(tensor.storage_offset()) * tensor.itemsize
