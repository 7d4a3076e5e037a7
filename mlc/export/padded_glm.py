"""The GLM's encoder on padded rows, in operations whose shapes do not depend on the data: what a graph can hold.

In:  an `MlcGlmModel`; token ids of right-padded rows and their mask.
Out: the states of every layer, equal to those of `MlcGlmModel.forward` up to the order of floating-point sums.

The model itself packs its rows and groups them by length, so the sizes of its tensors follow from the lengths; a graph
that is made once for all inputs cannot do that. There is no Part B here: every token sees the whole row.

Shape letters: R rows, L columns, D width, H heads, d width of a head.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlc.model.modeling_glm import MlcGlmAttention, MlcGlmBlock, MlcGlmModel, MlcGlmRMSNorm


class PaddedGlm(nn.Module):
    """The model's own weights behind another forward; for inference only.

    Args:
        model: the GLM; its modules are shared, not copied.
    """

    def __init__(self, model: MlcGlmModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """All layers.

        Args:
            input_ids: int (R, L).
            attention_mask: int (R, L), 1 for tokens and 0 for the padding on the right. That it is on the right is not
                checked, and no row may be empty.

        Returns:
            Layers + 1 tensors (R, L, D), 0 in the padding: the embeddings, the output of each block, the last of them
            after the final norm.
        """
        config = self.model.config
        head_width = config.hidden_size // config.num_attention_heads
        states = self.model.embeddings(input_ids) * config.hidden_size**0.5
        cosine, sine = _rotation(input_ids.shape[1], head_width, config.rotary_base, states)
        hidden_R11L = attention_mask[:, None, None, :] == 0
        layers = [states]
        for block in self.model.blocks:
            layers.append(_block(cast(MlcGlmBlock, block), layers[-1], cosine, sine, hidden_R11L))
        layers[-1] = _norm(self.model.final_norm, layers[-1])
        keep = attention_mask.unsqueeze(-1).to(states.dtype)
        return tuple(layer * keep for layer in layers)


def _rotation(columns: int, head_width: int, base: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine (L, d/2): the first half turns with the column, the second with the place in a blank, here 0."""
    wide = torch.promote_types(like.dtype, torch.float32)
    turns = torch.arange(head_width // 4, device=like.device, dtype=wide) / (head_width // 4)
    column_L1 = torch.arange(columns, device=like.device, dtype=wide)[:, None]
    angle = column_L1 * base**-turns
    angle = torch.cat([angle, torch.zeros_like(angle)], dim=1)
    return angle.cos().to(like.dtype), angle.sin().to(like.dtype)


def _block(block: MlcGlmBlock, states: Tensor, cosine: Tensor, sine: Tensor, hidden_R11L: Tensor) -> Tensor:
    normed = _norm(block.attention_norm, states)
    states = states + _attend(block.attention, normed, cosine, sine, hidden_R11L)
    gate, up = block.feed_forward.gate_up(_norm(block.feed_forward_norm, states)).chunk(2, dim=-1)
    result: Tensor = states + block.feed_forward.down(F.silu(gate) * up)
    return result


def _attend(attention: MlcGlmAttention, normed: Tensor, cosine: Tensor, sine: Tensor, hidden_R11L: Tensor) -> Tensor:
    rows, columns, width = normed.shape
    heads = attention.heads
    half = width // heads // 2
    # The features are ordered (pair member, query or key, head, d/2), see MlcGlmAttention.
    pairs = attention.query_key(normed).view(rows, columns, 2, 2, heads, half).permute(2, 3, 0, 4, 1, 5)
    first, second = pairs[0], pairs[1]
    turned = torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
    query_RHLd, key_RHLd = turned[0] * (2 * half) ** -0.5, turned[1]
    value_RHLd = attention.value(normed).view(rows, columns, heads, 2 * half).transpose(1, 2)
    scores = query_RHLd @ key_RHLd.transpose(-1, -2)
    scores = scores.masked_fill(hidden_R11L, torch.finfo(scores.dtype).min)
    attended = (scores.softmax(-1) @ value_RHLd).transpose(1, 2).reshape(rows, columns, width)
    result: Tensor = attention.output(attended)
    return result


def _norm(norm: MlcGlmRMSNorm, states: Tensor) -> Tensor:
    wide = states.to(torch.promote_types(states.dtype, torch.float32))
    scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + norm.epsilon)
    return scaled.to(states.dtype) * norm.weight
