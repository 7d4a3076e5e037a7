"""A whole copy of a model under DeepSpeed, for writing text with it.

In:  the model before DeepSpeed has it, later the engine.
Out: a plain model with the engine's weights.

Texts end after different numbers of tokens. Under ZeRO-3 every forward gathers parameters from all ranks, so ranks that
write texts of their own would wait for one another for ever. With a whole copy each writes by itself, at the cost of
the model's size in fp32 on every rank.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from mlc.engine.construct import gathered


class WholeCopy:
    """A copy that is brought up to date when it is asked for.

    Args:
        model: whole, before DeepSpeed has it.
    """

    def __init__(self, model: nn.Module) -> None:
        self._copy: Any = copy.deepcopy(model).requires_grad_(False).eval()

    @torch.no_grad()
    def of(self, engine: Any, device: torch.device) -> Any:
        """The copy with the weights of the engine's model; a collective."""
        self._copy.to(device)
        own = dict(self._copy.named_parameters())
        for name, parameter in engine.module.named_parameters():
            with gathered(parameter):
                own[name].copy_(parameter)
        return self._copy
