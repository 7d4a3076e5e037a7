"""Where the tokens of a batch of rows lie once the padding is gone, and how attention finds them.

In:  the lengths of the rows, and of their bidirectional parts.
Out: `PackedRows`: the index tensors between the padded (R, L) and the packed (T,) layout, and groups of rows of similar
     length with their attention masks. Built once a forward pass and shared by all blocks.

Shape letters: R rows, L columns, T tokens (the sum of the lengths), D width, H heads, d width of a head, S slots of
attention: over all groups, rows x heads x longest row of the group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

GROUP_COST_TOKENS = 256
"""What one more group of rows costs, in padded tokens of attention: it bounds the number of groups."""


@dataclass(frozen=True)
class AttentionGroup:
    """Rows that attend side by side, padded to the longest of them."""

    rows: int
    columns: int
    may_see_RLL: Tensor
    """bool (rows, 1, columns, columns): query i may see key j. No query is blind to every key, not even in padding."""


@dataclass(frozen=True)
class PackedRows:
    """Bookkeeping of T packed tokens: row after row, without padding."""

    columns: int
    """L of the padded layout."""
    lengths_R: Tensor
    part_a_lengths_R: Tensor
    row_T: Tensor
    column_T: Tensor
    groups: tuple[AttentionGroup, ...]
    slot_TH: Tensor
    """Where attention keeps head h of token t: groups one after the other, each laid out as (rows, heads, columns)."""
    slots: int

    @property
    def flat_T(self) -> Tensor:
        """Place of each token in the flattened (R, L) layout."""
        return self.row_T * self.columns + self.column_T

    @property
    def start_R(self) -> Tensor:
        """Index of the first token of each row."""
        return self.lengths_R.cumsum(0) - self.lengths_R

    @property
    def in_part_a_T(self) -> Tensor:
        """bool (T,): the token belongs to Part A."""
        return self.column_T < self.part_a_lengths_R[self.row_T]

    def tokens_at(self, flat_index_N: Tensor) -> Tensor:
        """Token indexes (N,) of places r * L + c of the padded layout; a place in the padding gives some token."""
        token_N = self.start_R[flat_index_N // self.columns] + flat_index_N % self.columns
        return token_N.clamp(max=self.row_T.shape[0] - 1)

    def unpack(self, states_TD: Tensor) -> Tensor:
        """States in the padded layout (R, L, D), 0 where there is no token."""
        rows, width = self.lengths_R.shape[0], states_TD.shape[1]
        padded = states_TD.new_zeros(rows * self.columns, width).index_copy(0, self.flat_T, states_TD)
        return padded.view(rows, self.columns, width)


def pack_rows(lengths_R: Tensor, part_a_lengths_R: Tensor, columns: int, heads: int) -> PackedRows:
    """Work out the packed layout. Waits once for the lengths, where they live on a device.

    Args:
        lengths_R: tokens of each row, 0..columns, at least one row and one token in all.
        part_a_lengths_R: tokens at the start of each row that see each other and nothing else, 0..length.
        columns: L of the padded layout.
        heads: attention heads.
    """
    device = lengths_R.device
    lengths_R, part_a_lengths_R = lengths_R.long(), part_a_lengths_R.long()
    column_L = torch.arange(columns, device=device)
    row_T, column_T = (column_L < lengths_R[:, None]).nonzero(as_tuple=True)

    lengths = lengths_R.tolist()
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    order_R = torch.tensor(order, device=device)
    groups, slots, first_slots, group_columns = [], 0, [0] * len(lengths), [0] * len(lengths)
    for first, last in pairwise(divide_rows([lengths[row] for row in order])):
        longest = max(lengths[order[first]], 1)
        column_G = column_L[:longest]
        # In Part B (i >= a) the last term is i + 1; in Part A (i < a) it never exceeds a.
        seen_GL = torch.maximum(part_a_lengths_R[order_R[first:last]][:, None], column_G + 1)
        groups.append(AttentionGroup(last - first, longest, (column_G < seen_GL[:, :, None])[:, None]))
        for row in order[first:last]:
            first_slots[row], group_columns[row] = slots, longest
            slots += heads * longest
    first_slot_R = torch.tensor(first_slots, device=device)
    group_columns_R = torch.tensor(group_columns, device=device)
    slot_TH = (first_slot_R[row_T] + column_T)[:, None] + group_columns_R[row_T][:, None] * torch.arange(
        heads, device=device
    )
    return PackedRows(columns, lengths_R, part_a_lengths_R, row_T, column_T, tuple(groups), slot_TH, slots)


def divide_rows(lengths: Sequence[int], group_cost: int = GROUP_COST_TOKENS) -> list[int]:
    """Borders of contiguous groups of rows, sorted from long to short, of least total cost.

    A group costs rows x longest (its padded tokens) plus `group_cost`. Returns [0, ..., len(lengths)].
    """
    # A border pays only where the length drops.
    drops = [0, *(i for i in range(1, len(lengths)) if lengths[i] < lengths[i - 1]), len(lengths)]
    best = [0.0] + [float("inf")] * (len(drops) - 1)
    came_from = [0] * len(drops)
    for end in range(1, len(drops)):
        for begin in range(end):
            cost = best[begin] + (drops[end] - drops[begin]) * lengths[drops[begin]] + group_cost
            if cost < best[end]:
                best[end], came_from[end] = cost, begin
    borders = [len(drops) - 1]
    while borders[-1] > 0:
        borders.append(came_from[borders[-1]])
    return [drops[border] for border in reversed(borders)]
