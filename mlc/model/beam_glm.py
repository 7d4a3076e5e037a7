"""Beam search over the contents of one blank of a GLM's Part A.

In:  prompts with one blank each. Out: for each the best fillings, best first.

A hypothesis is worth its log probability / length ** penalty, [eop] counted. As in transformers, among the 2 K best
continuations of K beams those that end and are among the best K become hypotheses, and the best K that do not end go
on. The search stops where no beam can become better than the K hypotheses that a prompt has. Beams that have all the
tokens that are allowed end where [eop] is the most probable token then; else they are cut, and count less than any that
ended: what they are worth lacks the price of an end.

Shape letters: P prompts, K beams, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .decoding_glm import BlankPrompt, BlankTokens, Decoding, FilledBlank, Head, PartB, banned_out
from .modeling_glm import MlcGlmModel


def fill_by_beams(
    backbone: MlcGlmModel, head: Head, prompts: Sequence[BlankPrompt], ids: BlankTokens, decoding: Decoding
) -> list[list[tuple[FilledBlank, ...]]]:
    """Fill the blank of every prompt.

    Args:
        backbone, head: in evaluation mode.
        prompts: each with exactly one blank.
        ids: of Part B.
        decoding: beams, samples, max_new_tokens and length_penalty count.

    Returns:
        For each prompt the best `decoding.samples` fillings, fewer where there are not so many.

    Raises:
        ValueError: a prompt has another number of blanks.
    """
    if any(len(prompt.places) != 1 for prompt in prompts):
        raise ValueError("beam search fills one blank; needed: prompts with exactly one")
    if not prompts:
        return []
    beams, limit = decoding.beams, decoding.max_new_tokens
    part_b = PartB(backbone, head, prompts, limit + 1, beams)
    ban, device, rows = banned_out(ids), part_b.device, len(prompts) * beams
    places = torch.tensor([p.places[0] for p in prompts for _ in range(beams)], device=device)
    score_PK = torch.full((len(prompts), beams), -math.inf, dtype=torch.float64, device=device)
    score_PK[:, 0] = 0.0  # all beams start alike: one of them counts
    tokens = torch.full((rows,), ids.start, device=device)
    said = torch.empty(rows, 0, dtype=torch.long, device=device)
    searches = [_Hypotheses(decoding) for _ in prompts]
    for count in range(limit + 1):
        live = torch.tensor([not search.done for search in searches for _ in range(beams)], device=device)
        logits = part_b.step(tokens, places, torch.full_like(tokens, count), live)
        log_PKV = ban(tokens[:, None], logits).double().log_softmax(-1).view(len(prompts), beams, -1)
        if count == limit:
            _finish(searches, score_PK, log_PKV, said, ids.end)
            break
        origin, tokens, score_PK = _go_on(searches, score_PK, log_PKV, said, ids.end)
        said = torch.cat([said[origin], tokens[:, None]], 1)
        if all(search.done for search in searches):
            break
        if not torch.equal(origin, torch.arange(rows, device=device)):
            part_b.select(origin)
    return [search.best() for search in searches]


class _Hypotheses:
    """Finished fillings of one prompt, at most as many as there are beams."""

    def __init__(self, decoding: Decoding) -> None:
        self._decoding = decoding
        self._found: list[tuple[float, FilledBlank]] = []
        self.done = False

    def add(self, filled: FilledBlank) -> None:
        """Keep it if it is among the best."""
        worth = self._worth(filled.log_probability, len(filled.tokens) + filled.ended)
        self._found.append((worth, filled))
        self._found.sort(key=lambda entry: (not entry[1].ended, -entry[0]))
        del self._found[self._decoding.beams :]

    def look_ahead(self, highest: float, length: int) -> None:
        """Done, if nothing that begins with `highest` and has `length` tokens or more can be kept."""
        lengths = (length, self._decoding.max_new_tokens + 1)
        possible = max(self._worth(highest, ahead) for ahead in lengths)
        full = len(self._found) == self._decoding.beams
        self.done = highest == -math.inf or (full and possible <= self._found[-1][0])

    def best(self) -> list[tuple[FilledBlank, ...]]:
        """As many as were asked for."""
        return [(filled,) for _, filled in self._found[: self._decoding.samples]]

    def _worth(self, log_probability: float, length: int) -> float:
        return log_probability / float(max(length, 1) ** self._decoding.length_penalty)


def _go_on(
    searches: Sequence[_Hypotheses], score_PK: Tensor, log_PKV: Tensor, said: Tensor, end: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows that go on, (P * K,), with their next tokens and new scores; what ends is put among the hypotheses."""
    beams, vocabulary = log_PKV.shape[1:]
    total = (score_PK[:, :, None] + log_PKV).flatten(1)
    highest, index = total.topk(min(2 * beams, total.shape[1]), dim=1)
    origins, tokens, scores = [], [], []
    for number, (search, values, places) in enumerate(zip(searches, highest.tolist(), index.tolist(), strict=True)):
        going: list[tuple[int, int, float]] = []
        for rank, (value, place) in enumerate(zip(values, places, strict=True)):
            row, token = number * beams + place // vocabulary, place % vocabulary
            if token != end:
                going.append((row, token, value))
            elif rank < beams and value > -math.inf and not search.done:
                search.add(FilledBlank(tuple(said[row].tolist()), value, ended=True))
        # With very few tokens in the vocabulary there may be fewer.
        going = (going + [(number * beams, end, -math.inf)] * beams)[:beams]
        if not search.done:
            search.look_ahead(going[0][2], said.shape[1] + 2)
        origins += [row for row, _, _ in going]
        tokens += [token for _, token, _ in going]
        scores += [value for _, _, value in going]
    device = said.device
    return (
        torch.tensor(origins, device=device),
        torch.tensor(tokens, device=device),
        torch.tensor(scores, dtype=torch.float64, device=device).view(score_PK.shape),
    )


def _finish(searches: Sequence[_Hypotheses], score_PK: Tensor, log_PKV: Tensor, said: Tensor, end: int) -> None:
    """Beams with all the tokens that are allowed: they end where [eop] is what comes next, else they are cut."""
    beams = log_PKV.shape[1]
    ends, scores = (log_PKV.argmax(-1) == end).tolist(), score_PK.tolist()
    log_end = log_PKV[:, :, end].tolist()
    for number, search in enumerate(searches):
        for beam in range(beams):
            score = scores[number][beam]
            if search.done or score == -math.inf:
                continue
            ended = ends[number][beam]
            tokens = tuple(said[number * beams + beam].tolist())
            search.add(FilledBlank(tokens, score + log_end[number][beam] if ended else score, ended))
