"""Which candidates are negatives of which anchors, decided tile by tile from vectors of ids.

In:  who the anchors and the candidates are.
Out: `Negatives.leave_out_`, which sets the logits of a tile that are no negatives to -inf.
Letters: N anchors (rows), C candidates (columns), r x c one tile.

A candidate that is another copy of the right answer is no negative: one of the same group (a document, or its
translations), one with the right answer's text, one whose partner has the anchor's text, and the anchor's own text on
the answering side. Seen from the other direction, candidates as anchors, these rules are the same. No array of N x C is
ever made: few rows have such copies at all, and only theirs are compared.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TextIds:
    """Who some texts are, as anchors or as candidates; all of one length."""

    group: Tensor
    """int64: texts with the same number >= 0 are never negatives of one another; -1 = no group."""
    text: Tensor
    """int64 >= 0: hash of the text."""
    partner: Tensor
    """int64: hash of the text it belongs with; -1 = none."""
    valid: Tensor
    """bool: False = padding: never an anchor, never a candidate."""

    def __len__(self) -> int:
        return len(self.group)


@dataclass(frozen=True)
class ChosenLanguages:
    """Negatives by language: of the anchors' right answers [N], of the candidates [C]."""

    answer_N: Tensor
    candidate_C: Tensor
    same: bool
    """True: only negatives in the right answer's language; False: only those in another one."""


class Negatives:
    """What is left out of the matrix anchors x candidates.

    Args:
        anchors: N of them.
        candidates: C of them.
        own_index_N: the column that is the row's right answer; None = the right answers are not among the candidates.
        languages: to keep negatives of some languages only; None = all.
    """

    def __init__(
        self,
        anchors: TextIds,
        candidates: TextIds,
        *,
        own_index_N: Tensor | None = None,
        languages: ChosenLanguages | None = None,
    ) -> None:
        self._anchors, self._candidates, self.own_index_N = anchors, candidates, own_index_N
        self._languages = languages
        self._has_copies_N = self._rows_with_copies()
        self._any_invalid = bool((~anchors.valid).any() | (~candidates.valid).any())

    def leave_out_(self, logits_rc: Tensor, r: slice, c: slice) -> Tensor:
        """Set what is no negative to -inf, in place.

        Returns:
            How many candidates were left out as copies of a right answer, shape (); own pairs, padding and languages
            are not counted.
        """
        self._leave_out_own_(logits_rc, r, c)
        copies = logits_rc.new_zeros((), dtype=torch.float64)
        here = self._has_copies_N[r].nonzero().squeeze(1)
        if len(here):
            copy_rc = self._copies(here + r.start, c)
            chosen_rc = logits_rc[here]
            counted_rc = copy_rc & (chosen_rc > -torch.inf)  # the own pair is out already
            counted_rc &= self._anchors.valid[r][here, None] & self._candidates.valid[c]
            copies = counted_rc.sum(dtype=torch.float64)
            logits_rc[here] = chosen_rc.masked_fill_(copy_rc, -torch.inf)
        if self._any_invalid:
            logits_rc.masked_fill_(~self._anchors.valid[r, None], -torch.inf)
            logits_rc.masked_fill_(~self._candidates.valid[c], -torch.inf)
        if self._languages is not None:
            same_rc = self._languages.answer_N[r, None] == self._languages.candidate_C[c]
            logits_rc.masked_fill_(~same_rc if self._languages.same else same_rc, -torch.inf)
        return copies

    def _leave_out_own_(self, logits_rc: Tensor, r: slice, c: slice) -> None:
        if self.own_index_N is None:
            return
        own_r = self.own_index_N[r] - c.start
        row = ((own_r >= 0) & (own_r < logits_rc.shape[1])).nonzero().squeeze(1)
        logits_rc[row, own_r[row]] = -torch.inf

    def _copies(self, row: Tensor, c: slice) -> Tensor:
        """bool (rows, c): the candidate is a copy of the row's right answer, or the row's own text."""
        anchors, candidates = self._anchors, self._candidates
        group, text, partner = (ids[row, None] for ids in (anchors.group, anchors.text, anchors.partner))
        copy_rc = (group == candidates.group[c]) & (group >= 0)
        copy_rc |= partner == candidates.text[c]
        copy_rc |= text == candidates.text[c]
        return copy_rc.logical_or_(text == candidates.partner[c])

    def _rows_with_copies(self) -> Tensor:
        """bool (N,): some candidate other than the own one is a copy."""
        anchors, candidates, own = self._anchors, self._candidates, self.own_index_N
        found_N = torch.zeros_like(anchors.valid)
        for of_anchor, of_candidate in (
            (anchors.group, candidates.group),
            (anchors.partner, candidates.text),
            (anchors.text, candidates.text),
            (anchors.text, candidates.partner),
        ):
            # Of equal length and apart from each other, so that padding and "none" meet nothing.
            sought_N = of_anchor.masked_fill(~anchors.valid | (of_anchor < 0), -2)
            offered_C = of_candidate.masked_fill(~candidates.valid | (of_candidate < 0), -3)
            count_N = _count_equal(sought_N, offered_C)
            if own is not None:
                count_N -= (sought_N == offered_C[own]).to(count_N.dtype)
            found_N |= count_N > 0
        return found_N


def _count_equal(sought_N: Tensor, offered_C: Tensor) -> Tensor:
    """How many of `offered_C` equal each of `sought_N`, in O((N + C) log C)."""
    ordered_C = offered_C.sort().values
    return torch.searchsorted(ordered_C, sought_N, right=True) - torch.searchsorted(ordered_C, sought_N)
