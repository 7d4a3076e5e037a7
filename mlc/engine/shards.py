"""This rank's part of what ZeRO-3 has sharded.

In:  a parameter under ZeRO-3, or one of its shards.
Out: flat tensors that, joined over ranks, are the whole parameter: without the padding that makes shards equally long.
"""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import Tensor


def own_master(parameter: Any) -> Tensor:
    """This rank's part of a student's parameter in fp32: the optimizer's own memory where that is on the device."""
    from deepspeed.utils import safe_get_local_fp32_param

    master: Tensor | None = safe_get_local_fp32_param(parameter)
    if master is None:  # frozen: the optimizer has no master copy
        master = parameter.ds_tensor.float()
    return own_part(parameter, master.detach())


def own_part(parameter: Any, shard: Tensor) -> Tensor:
    """A shard without what pads the last ones: equal shards are longer than the parameter, in values nobody set."""
    start = dist.get_rank() * len(shard)
    return shard[: max(0, min(len(shard), parameter.ds_numel - start))]
