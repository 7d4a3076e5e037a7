"""The GLM encoder: blank-infilling attention, 2D rotary positions, a modern pre-norm block.

In:  token ids of right-padded rows (R, L); for each row how many of its tokens are Part A; two positions a token.
Out: hidden states, either padded (`MlcGlmModel.forward`, the interface of transformers) or packed without padding
     (`MlcGlmModel.forward_packed`, for training: nothing but attention ever computes on padding).

The model is that of GLM (Du et al. 2022, section 2): Part A is bidirectional and blind to Part B; Part B sees Part A
and its own past. This module and its neighbours in *_glm.py need torch and transformers only, so an export can carry
them along.

Shape letters: R rows, L columns, T tokens without padding, D width, H heads, d width of a head, F feed-forward width,
S slots of attention (see packing_glm).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput

from .configuration_glm import MlcGlmConfig
from .functions_glm import collect, gated_silu, rms_norm, rotate_pairs, spread
from .packing_glm import AttentionGroup, PackedRows, pack_rows


@dataclass(frozen=True)
class PackedStates:
    """What `MlcGlmModel.forward_packed` returns."""

    states_TD: Tensor
    """After the last block and the final norm."""
    layer_TD: Tensor
    """The layer that was asked for."""
    rows: PackedRows


@dataclass(frozen=True)
class AttentionIndex:
    """What all blocks share: how heads find their slots, and how far positions turn them."""

    rows: PackedRows
    cosine: Tensor
    """(T, 2 * H * d/2): for queries (scaled by 1/sqrt(d)), then for keys."""
    sine: Tensor
    query_key_source: Tensor
    """(2 * S * 2,): for queries, then keys, the two half heads of each slot among the T * 4H half heads."""
    query_key_place: Tensor
    value_source: Tensor
    """(S,): the head of each slot among the T * H heads."""
    value_place: Tensor


class MlcGlmRMSNorm(nn.Module):
    """Root mean square norm (Zhang & Sennrich 2019); statistics in at least fp32."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, states: Tensor) -> Tensor:
        """Normalise the last dimension."""
        return rms_norm(states, self.weight, self.epsilon)


class ResidualLinear(nn.Linear):
    """A projection that writes to the residual stream; it differs in its initial weights only."""


class MlcGlmAttention(nn.Module):
    """Multi-head attention within the rows of a packed batch.

    The features of `query_key` are ordered (pair member, query or key, head, d/2): a rotation turns feature i of the
    first member with feature i of the second, so both members are contiguous. The first d/4 pairs of a head turn with
    position 1, the others with position 2.
    """

    def __init__(self, config: MlcGlmConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.query_key = nn.Linear(width, 2 * width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = ResidualLinear(width, width, bias=False)

    def forward(self, states_TD: Tensor, index: AttentionIndex) -> Tensor:
        """Attend from and to normed states (T, D); returns (T, D)."""
        tokens, width = states_TD.shape
        head_width = width // self.heads
        turned = rotate_pairs(self.query_key(states_TD), index.cosine, index.sine)
        half_heads = spread(turned.view(-1, head_width // 2), index.query_key_source, index.query_key_place)
        query_Sd, key_Sd = half_heads.view(2, -1, head_width).unbind(0)
        value_Sd = spread(self.value(states_TD).view(-1, head_width), index.value_source, index.value_place)
        attended_Sd = attend_groups(query_Sd, key_Sd, value_Sd, index.rows.groups, self.heads)
        attended_TD = collect(attended_Sd, index.value_place).view(tokens, width)
        return cast(Tensor, self.output(attended_TD))


class MlcGlmFeedForward(nn.Module):
    """Gated feed-forward layer (SwiGLU, Shazeer 2020)."""

    def __init__(self, config: MlcGlmConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down = ResidualLinear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, states_TD: Tensor) -> Tensor:
        """Transform normed states (T, D) -> (T, D)."""
        return cast(Tensor, self.down(gated_silu(self.gate_up(states_TD))))


class MlcGlmBlock(nn.Module):
    """Attention, then the feed-forward layer, each added to the residual stream."""

    def __init__(self, config: MlcGlmConfig) -> None:
        super().__init__()
        self.attention_norm = MlcGlmRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.attention = MlcGlmAttention(config)
        self.feed_forward_norm = MlcGlmRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.feed_forward = MlcGlmFeedForward(config)
        self.dropout = config.hidden_dropout

    def forward(self, states_TD: Tensor, index: AttentionIndex) -> Tensor:
        """The residual stream (T, D) after this block."""
        branch_TD = self.attention(self.attention_norm(states_TD), index)
        states_TD = states_TD + F.dropout(branch_TD, self.dropout, self.training)
        branch_TD = self.feed_forward(self.feed_forward_norm(states_TD))
        return states_TD + F.dropout(branch_TD, self.dropout, self.training)


class MlcGlmModel(PreTrainedModel):
    """The encoder. Its weights start as drawn by `_init_weights`; see mlc.model.initialise for a reproducible start."""

    config_class = MlcGlmConfig
    base_model_prefix = "model"
    _no_split_modules = ["MlcGlmBlock"]  # noqa: RUF012 (transformers asks for a list)
    _keys_to_ignore_on_load_unexpected = [r"^(glm|mlm)_"]  # noqa: RUF012 (a list; token heads beside the backbone)
    _supports_sdpa = True

    def __init__(self, config: MlcGlmConfig) -> None:
        super().__init__(config)
        # No padding_idx: the padding is never looked up, and torch would zero a row that zero.Init has taken away.
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(MlcGlmBlock(config) for _ in range(config.num_hidden_layers))
        self.final_norm = MlcGlmRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The token embeddings."""
        return self.embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the token embeddings."""
        self.embeddings = value

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # The functions of transformers leave loaded parameters alone; on parameters that zero.Init has partitioned
        # (no elements left here) they do nothing.
        for name, parameter in module.named_parameters(recurse=False):
            std = initial_std(module, self.config)
            if isinstance(module, MlcGlmRMSNorm):
                init.ones_(parameter)
            elif std is not None:
                init.normal_(parameter, mean=0.0, std=std)
            else:
                raise TypeError(f"no rule for the initial value of {type(module).__name__}.{name}")

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        part_a_lengths: Tensor | None = None,
        position_ids: Tensor | None = None,
        block_position_ids: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **unused: Any,
    ) -> BaseModelOutput | tuple[Any, ...]:
        """Encode right-padded rows.

        Args:
            input_ids: int (R, L).
            attention_mask: (R, L), 1 for tokens and 0 for the padding on the right; default: no padding.
            part_a_lengths: int (R,), tokens at the start of each row that see each other and nothing else; default:
                the whole row.
            position_ids: int (R, L), place in the text; default: the column.
            block_position_ids: int (R, L), place in the blank, 0 in Part A; default: 0.
            output_hidden_states: also return every layer's states.
            return_dict: False for a tuple.
            unused: what tokenizers add for other models, such as token_type_ids.

        Returns:
            last_hidden_state (R, L, D), 0 in the padding; hidden_states, if asked for: the embeddings, then the output
            of each block, the last of them after the final norm.

        Raises:
            ValueError: the padding is not on the right.
        """
        rows, columns = input_ids.shape
        if attention_mask is None:
            lengths_R = torch.full((rows,), columns, device=input_ids.device)
        else:
            lengths_R = attention_mask.long().sum(1)
            if not torch.equal(attention_mask.bool(), _column_grid(input_ids) < lengths_R[:, None]):
                raise ValueError("attention_mask must be 1 for the tokens of a row and then 0: pad on the right")
        packed, layers = self._run_blocks(
            input_ids,
            lengths_R,
            lengths_R if part_a_lengths is None else part_a_lengths,
            _column_grid(input_ids) if position_ids is None else position_ids,
            torch.zeros_like(input_ids) if block_position_ids is None else block_position_ids,
        )
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        output = BaseModelOutput(
            last_hidden_state=packed.unpack(layers[-1]),
            hidden_states=tuple(packed.unpack(layer) for layer in layers) if output_hidden_states else None,
        )
        use_dict = self.config.return_dict if return_dict is None else return_dict
        return output if use_dict else output.to_tuple()

    def forward_packed(
        self,
        input_ids: Tensor,
        lengths: Tensor,
        part_a_lengths: Tensor,
        positions: Tensor,
        block_positions: Tensor,
        layer: int = -1,
    ) -> PackedStates:
        """Encode without ever padding the states.

        Args:
            input_ids: int (R, L), right-padded.
            lengths: int (R,), tokens of each row.
            part_a_lengths: int (R,), see `forward`.
            positions: int (R, L), place in the text.
            block_positions: int (R, L), place in the blank.
            layer: index of the layer to return beside the last one: 0 = embeddings, k = output of block k, -1 or the
                number of blocks = the last one after the final norm.
        """
        rows, layers = self._run_blocks(input_ids, lengths, part_a_lengths, positions, block_positions)
        return PackedStates(layers[-1], layers[layer], rows)

    def _run_blocks(
        self,
        input_ids: Tensor,
        lengths_R: Tensor,
        part_a_lengths_R: Tensor,
        positions_RL: Tensor,
        block_positions_RL: Tensor,
    ) -> tuple[PackedRows, list[Tensor]]:
        rows = pack_rows(lengths_R, part_a_lengths_R, input_ids.shape[1], self.config.num_attention_heads)
        # The tied head needs rows of norm 1 for logits of order 1, the residual stream elements of order 1.
        states_TD = self.embeddings(input_ids[rows.row_T, rows.column_T]) * self.config.hidden_size**0.5
        index = attention_index(
            rows,
            positions_RL[rows.row_T, rows.column_T],
            block_positions_RL[rows.row_T, rows.column_T],
            self.config,
            states_TD.dtype,
        )
        layers = [states_TD]
        for block in self.blocks:
            layers.append(block(layers[-1], index))
        layers[-1] = self.final_norm(layers[-1])
        return rows, layers


def initial_std(module: nn.Module, config: MlcGlmConfig) -> float | None:
    """Standard deviation of a module's initial weights; None = not a module of random weights.

    Every matrix keeps the size of what it reads (1 / sqrt(its inputs)). Those that write to the residual stream start
    2 x layers times smaller, so that the token embeddings dominate it: the mean over a text begins as a bag of words,
    from which contrastive learning starts well. Adam moves every weight by about the learning rate a step, whatever
    its size: much smaller embeddings would be overrun by their first, nearly parallel, updates and collapse.
    """
    if isinstance(module, ResidualLinear):
        return float(module.in_features**-0.5) / (2 * config.num_hidden_layers)
    if isinstance(module, nn.Linear):
        return float(module.in_features**-0.5)
    return float(config.hidden_size**-0.5) if isinstance(module, nn.Embedding) else None


def attention_index(
    rows: PackedRows, positions_T: Tensor, block_positions_T: Tensor, config: MlcGlmConfig, dtype: torch.dtype
) -> AttentionIndex:
    """Rotation tables and slot indexes for all blocks."""
    heads, tokens = config.num_attention_heads, positions_T.shape[0]
    cosine, sine = rotation_tables(positions_T, block_positions_T, config, dtype)
    # Half heads lie as (token, member, query or key, head); in slots as (query or key, slot, member).
    place = torch.empty(tokens, 2, 2, heads, dtype=torch.long, device=positions_T.device)
    for member in (0, 1):
        for kind in (0, 1):
            place[:, member, kind] = (kind * rows.slots + rows.slot_TH) * 2 + member
    return AttentionIndex(
        rows=rows,
        cosine=cosine,
        sine=sine,
        query_key_source=_inverse(place.flatten(), 4 * rows.slots),
        query_key_place=place.flatten(),
        value_source=_inverse(rows.slot_TH.flatten(), rows.slots),
        value_place=rows.slot_TH.flatten(),
    )


def rotation_tables(
    positions_T: Tensor, block_positions_T: Tensor, config: MlcGlmConfig, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosine and sine that turn queries (scaled by 1/sqrt(d)), then keys: (T, 2 * H * d/2) each.

    Computed in at least fp32, returned in `dtype`.
    """
    heads, head_width = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    device, tokens = positions_T.device, positions_T.shape[0]
    wide = torch.promote_types(dtype, torch.float32)
    turns = torch.arange(head_width // 4, device=device, dtype=wide) / (head_width // 4)
    frequency = config.rotary_base**-turns
    angle = torch.cat([positions_T[:, None] * frequency, block_positions_T[:, None] * frequency], dim=1)
    scale = torch.tensor([head_width**-0.5, 1.0], device=device, dtype=wide)[:, None, None]

    def table(values: Tensor) -> Tensor:
        return (values[:, None, None, :] * scale).to(dtype).expand(-1, -1, heads, -1).reshape(tokens, -1)

    return table(angle.cos()), table(angle.sin())


def attend_groups(
    query_Sd: Tensor, key_Sd: Tensor, value_Sd: Tensor, groups: tuple[AttentionGroup, ...], heads: int
) -> Tensor:
    """Attention of queries that are already scaled, group by group; (S, d) in and out."""
    sizes = [group.rows * heads * group.columns for group in groups]
    attended = []
    parts = zip(groups, query_Sd.split(sizes), key_Sd.split(sizes), value_Sd.split(sizes), strict=True)
    for group, *tensors in parts:
        query, key, value = (t.view(group.rows, heads, group.columns, -1) for t in tensors)
        attended.append(attend(query, key, value, group.may_see_RLL).reshape(-1, query_Sd.shape[1]))
    return torch.cat(attended)


def attend(query: Tensor, key: Tensor, value: Tensor, may_see: Tensor) -> Tensor:
    """softmax(query key^T) value over (rows, heads, columns, d), queries scaled already."""
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=may_see, scale=1.0)
    # The CPU kernel of torch 2.13 is about 5 times slower in its backward pass than these three operations.
    scores = (query @ key.transpose(-1, -2)).masked_fill_(~may_see, -torch.inf)
    return scores.softmax(-1) @ value


def _inverse(place: Tensor, size: int) -> Tensor:
    """source (size,) with source[place[i]] = i, and 0 at places nobody has."""
    return place.new_zeros(size).index_copy_(0, place, torch.arange(place.shape[0], device=place.device))


def _column_grid(input_ids: Tensor) -> Tensor:
    return torch.arange(input_ids.shape[1], device=input_ids.device).expand(input_ids.shape)
