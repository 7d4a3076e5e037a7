"""The GLM of one row, without padding, packing or cache: dense products and one explicit mask, from the definition."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from mlc.model import MlcGlmConfig


def plain_states(
    weight: Mapping[str, Tensor],
    config: MlcGlmConfig,
    ids: Tensor,
    positions: Tensor | None = None,
    block_positions: Tensor | None = None,
    part_a: int | None = None,
) -> Tensor:
    """Final states (n, D) of the tokens `ids` (n,), the first `part_a` of which are Part A; default: all of them.

    `weight` are the parameters of an `MlcGlmModel` by name.
    """
    n, heads = len(ids), config.num_attention_heads
    half = config.hidden_size // heads // 2
    positions = torch.arange(n) if positions is None else positions
    block_positions = torch.zeros(n) if block_positions is None else block_positions
    place = torch.arange(n)
    may_see = (place[None] < (n if part_a is None else part_a)) | (
        (place[:, None] >= (n if part_a is None else part_a)) & (place[None] <= place[:, None])
    )
    wave = config.rotary_base ** -(torch.arange(half // 2, dtype=torch.float64) / (half // 2))
    angle = torch.cat([positions[:, None] * wave, block_positions[:, None] * wave], 1)[:, None]
    turn = torch.polar(torch.ones_like(angle), angle)  # (n, 1, half)

    x = weight["embeddings.weight"][ids] * config.hidden_size**0.5
    for block in range(config.num_hidden_layers):

        def linear(values: Tensor, name: str, block: int = block) -> Tensor:
            return values @ weight[f"blocks.{block}.{name}.weight"].T

        def norm(values: Tensor, name: str, block: int = block) -> Tensor:
            return root_mean_square_norm(values, weight[f"blocks.{block}.{name}.weight"], config.rms_norm_eps)

        normed = norm(x, "attention_norm")
        first, second = linear(normed, "attention.query_key").view(n, 2, 2, heads, half).unbind(1)
        query, key = (torch.complex(first, second) * turn[:, None]).unbind(1)
        scores = torch.einsum("ihk,jhk->hij", query, key.conj()).real / (2 * half) ** 0.5
        share = scores.masked_fill(~may_see, -torch.inf).softmax(-1)
        value = linear(normed, "attention.value").view(n, heads, 2 * half)
        x = x + linear(torch.einsum("hij,jhk->ihk", share, value).reshape(n, -1), "attention.output")
        gate, up = linear(norm(x, "feed_forward_norm"), "feed_forward.gate_up").chunk(2, -1)
        x = x + linear(F.silu(gate) * up, "feed_forward.down")
    return root_mean_square_norm(x, weight["final_norm.weight"], config.rms_norm_eps)


def root_mean_square_norm(values: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return values / (values.square().mean(-1, keepdim=True) + epsilon).sqrt() * weight


def plain_token_logits(weight: Mapping[str, Tensor], head: str, states: Tensor) -> Tensor:
    """Logits of `head` ("glm" or "mlm") of a model with the names of TrainingModel, its backbone under "model."."""
    hidden = F.gelu(states @ weight[f"{head}_transform.dense.weight"].T + weight[f"{head}_transform.dense.bias"])
    hidden = root_mean_square_norm(hidden, weight[f"{head}_transform.norm.weight"], 1e-6)
    return hidden @ weight["model.embeddings.weight"].T + weight[f"{head}_bias.bias"]
