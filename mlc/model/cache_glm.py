"""Keys and values of all blocks, kept while Part B of a GLM grows.

In:  an `MlcGlmModel`; tokens in the padded layout (R, N), Part A first, then Part B a few columns at a time.
Out: their final states. What was read before is not computed again: Part A is blind to Part B, and Part B to its own
     future (Du et al. 2022, section 2.1), so keys and values of earlier tokens never change.

Like all *_glm.py this module needs torch and transformers only, so an export can carry it.

Shape letters: R rows, N columns that are new, C columns of the cache, D width, H heads, d width of a head.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from .functions_glm import rotate_pairs
from .modeling_glm import MlcGlmAttention, MlcGlmBlock, MlcGlmModel, attend, rotation_tables


class MlcGlmCache:
    """Room for `columns` tokens a row.

    Attributes:
        used: columns that were read; the same for all rows, so a short row's Part A is followed by columns that nobody
            sees.
    """

    def __init__(self, model: MlcGlmModel, rows: int, columns: int) -> None:
        config = model.config
        heads = config.num_attention_heads
        shape = (2, rows, heads, columns, config.hidden_size // heads)
        weight = model.final_norm.weight
        self.used = 0
        self._blocks = [weight.new_zeros(shape) for _ in range(config.num_hidden_layers)]
        self._is_token_RC = torch.zeros(rows, columns, dtype=torch.bool, device=weight.device)

    def select(self, rows: Tensor) -> None:
        """Keep these rows, int64 (new R,), in this order; one may be named more than once."""
        for number, block in enumerate(self._blocks):
            self._blocks[number] = block.index_select(1, rows)
        self._is_token_RC = self._is_token_RC.index_select(0, rows)

    def read(
        self,
        model: MlcGlmModel,
        input_ids: Tensor,
        is_token: Tensor,
        positions: Tensor,
        block_positions: Tensor,
        *,
        part_a: bool,
    ) -> Tensor:
        """Take in more tokens.

        Args:
            model: the one that the cache was made for, in evaluation mode.
            input_ids: int64 (R, N).
            is_token: bool (R, N); what is none is seen by no other, and its state has no meaning.
            positions, block_positions: int64 (R, N), as in `MlcGlmModel.forward`.
            part_a: the new tokens all see one another; else each sees those before it. What was read before they see in
                both cases.

        Returns:
            (R, N, D) after the final norm.

        Raises:
            ValueError: there is no room for them.
        """
        rows, new = input_ids.shape
        first, self.used = self.used, self.used + new
        if self.used > self._is_token_RC.shape[1]:
            raise ValueError(f"the cache has {self._is_token_RC.shape[1]} columns; needed {self.used}")
        self._is_token_RC[:, first : self.used] = is_token
        may_see = self._is_token_RC[:, None, None, : self.used].expand(rows, 1, new, -1)
        if not part_a and new > 1:
            before = torch.ones(new, self.used, dtype=torch.bool, device=input_ids.device).tril(first)
            may_see = may_see & before
        states = model.embeddings(input_ids) * model.config.hidden_size**0.5
        tables = rotation_tables(positions.flatten(), block_positions.flatten(), model.config, states.dtype)
        for module, kept in zip(model.blocks, self._blocks, strict=True):
            block = cast(MlcGlmBlock, module)
            normed = block.attention_norm(states)
            states = states + self._attend(block.attention, normed, tables, kept, first, may_see)
            states = states + block.feed_forward(block.feed_forward_norm(states))
        final: Tensor = model.final_norm(states)
        return final

    def _attend(
        self,
        attention: MlcGlmAttention,
        states_RND: Tensor,
        tables: tuple[Tensor, Tensor],
        kept: Tensor,
        first: int,
        may_see: Tensor,
    ) -> Tensor:
        rows, new, width = states_RND.shape
        turned = rotate_pairs(attention.query_key(states_RND).view(rows * new, -1), *tables)
        # (pair member, query or key, head, d/2): see MlcGlmAttention.
        parts = turned.view(rows, new, 2, 2, attention.heads, -1).permute(3, 0, 4, 1, 2, 5)
        query, key = parts.reshape(2, rows, attention.heads, new, -1).unbind(0)
        kept[0, :, :, first : self.used] = key
        kept[1, :, :, first : self.used] = (
            attention.value(states_RND).view(rows, new, attention.heads, -1).transpose(1, 2)
        )
        keys, values = kept[:, :, :, : self.used].unbind(0)
        attended = attend(query, keys, values, may_see).transpose(1, 2).reshape(rows, new, width)
        output: Tensor = attention.output(attended)
        return output
