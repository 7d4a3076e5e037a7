"""One parameter of a GLM from tensors of another encoder: the record of how, and the arithmetic.

In:  tensors of the start.
Out: a `Carried`, which says what was done and makes the value; matrices in the GLM's layout.

Shape letters: D width, H heads, d width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from mlc.model.start_source import StartSource

EMBEDDINGS, FINAL_NORM = "embeddings.weight", "final_norm.weight"
WRITERS = ("attention.output.weight", "feed_forward.down.weight")
"""Parameters of a block that write to the residual stream."""


@dataclass(frozen=True)
class Carried:
    """A parameter's first value, from tensors of the start.

    Attributes:
        how: exact = the numbers of one or more tensors, bit for bit up to their order and a factor that `note` states;
            adapted = computed from them; zero = 0, so that an added block does nothing at first.
        sources: names of the tensors.
        note: what was done to them, and what the parameter does otherwise than in the start.
        make: the value in fp32; reads the tensors anew at every call.
    """

    how: Literal["exact", "adapted", "zero"]
    sources: tuple[str, ...]
    note: str
    make: Callable[[], Tensor]


@dataclass(frozen=True)
class EncoderSizes:
    """What must be equal in the start and in the GLM, but for the layers."""

    layers: int
    hidden_size: int
    heads: int
    feed_forward_size: int


class Family(Protocol):
    """An encoder as a GLM sees it."""

    @property
    def sizes(self) -> EncoderSizes:
        """Of the encoder."""
        ...

    def block(self, number: int) -> dict[str, Carried]:
        """Parameters of a GLM's block from block `number`, by their names in it."""
        ...

    def ends(self) -> dict[str, Carried]:
        """The token embeddings (as many rows as the encoder has) and the final norm."""
        ...


def query_key_weight(query: Tensor, key: Tensor, heads: int, order: Tensor) -> Tensor:
    """The GLM's `query_key` from two projections, (H d, D) each -> (2 H d, D).

    Args:
        query, key: features ordered (head, d).
        heads: H.
        order: (d,) which feature of a head comes first; its halves are the members of the pairs that the GLM turns.
    """
    width = query.shape[1]
    both = torch.stack([query.view(heads, -1, width), key.view(heads, -1, width)])[:, :, order]
    members = both.view(2, heads, 2, len(order) // 2, width)
    return members.permute(2, 0, 1, 3, 4).reshape(-1, width).contiguous()


def rotary_order(head_width: int, base: float, glm_base: float) -> Tensor:
    """Order (d,) of a rotary head's features for `query_key_weight`.

    An encoder turns all d/2 pairs (feature i with feature i + d/2) by the place in the text, the GLM only its first
    d/4. Each of these gets the pair whose frequency is nearest, in order; with equal bases that is every second pair,
    at its own frequency. The others are turned no more.
    """
    pairs, turned = head_width // 2, head_width // 4
    chosen: list[int] = []
    for place in range(turned):
        wanted = math.log(glm_base) * place / turned
        first, last = (chosen[-1] + 1 if chosen else 0), pairs - (turned - place)
        chosen.append(min(range(first, last + 1), key=lambda pair: abs(math.log(base) * pair / pairs - wanted)))
    others = [pair for pair in range(pairs) if pair not in set(chosen)]
    order = torch.tensor(chosen + others)
    return torch.cat([order, order + pairs])


def centred(matrix: Tensor) -> Tensor:
    """(D, n) whose columns have mean 0, so that what it writes has mean 0 over the D features."""
    return matrix - matrix.mean(dim=0, keepdim=True)


def same(source: StartSource, name: str, note: str = "") -> Carried:
    """A tensor of the start as it is."""
    return Carried("exact", (name,), note, lambda: source.read(name))
