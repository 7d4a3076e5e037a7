"""Filling the blanks of Part A by a GLM, token by token: greedy or sampled; beams are in beam_glm.

In:  prompts (Part A and the places of its blanks), a backbone and its head.
Out: for every prompt, as often as asked for, the tokens of each blank and their log probability.

The layout is that of training: a blank begins with [sop], ends with [eop], which is predicted and never read; position
1 is the blank's place in Part A, position 2 counts 1, 2, ... within the blank (Du et al. 2022, section 2.1). Several
blanks are filled one after the other, each sees Part A and the blanks before it.

Shape letters: P prompts, R rows (prompts x samples), B blanks of a prompt at most, S steps, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from .cache_glm import MlcGlmCache
from .modeling_glm import MlcGlmModel

Head = Callable[[Tensor], Tensor]
"""States (R, D) to logits (R, V)."""


@dataclass(frozen=True)
class BlankPrompt:
    """A text with blanks.

    Attributes:
        part_a: token ids, [CLS] and [SEP] included.
        places: columns of `part_a` where the blanks are, in the order in which they are to be filled.
    """

    part_a: tuple[int, ...]
    places: tuple[int, ...]


@dataclass(frozen=True)
class BlankTokens:
    """Ids with a role in Part B.

    Attributes:
        start: [sop].
        end: [eop].
        banned: never generated, as other special tokens and rows of the embedding that no token has.
    """

    start: int
    end: int
    banned: tuple[int, ...] = ()


@dataclass(frozen=True)
class FilledBlank:
    """What was generated for one blank.

    Attributes:
        tokens: without [eop].
        log_probability: natural, of the tokens and of [eop] where it was reached; of the model itself, without the
            banned ids, before temperature, top-k and top-p.
        ended: [eop] came after the tokens; else they are as many as were allowed.
    """

    tokens: tuple[int, ...]
    log_probability: float
    ended: bool


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen.

    Attributes:
        max_new_tokens: of one blank, [eop] not counted.
        temperature: 0 = always the most probable token; else logits are divided by it and tokens drawn.
        top_k: only the k most probable tokens are drawn; 0 = all.
        top_p: only the fewest tokens whose probabilities sum to p are drawn; 1 = all.
        samples: fillings of each prompt.
        beams: 1 = none; else the width of a beam search, which draws nothing; the best `samples` are returned.
        length_penalty: beams are compared by log probability / length ** this, with [eop] counted (Wu et al. 2016,
            "Google's neural machine translation system", section 7, in the form of transformers).

    Raises:
        ValueError: a number is out of its range, or they contradict one another.
    """

    max_new_tokens: int = 40
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    samples: int = 1
    beams: int = 1
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        if min(self.max_new_tokens, self.samples, self.beams) < 1 or min(self.temperature, self.top_k) < 0:
            raise ValueError(f"a number is below its least value: {self}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1]; found {self.top_p}")
        if self.temperature == 0 and (self.top_k or self.top_p < 1):
            raise ValueError("top_k and top_p choose what is drawn from; needed: a temperature above 0")
        if self.beams > 1 and (self.temperature or self.samples > self.beams):
            raise ValueError("beams draw nothing and return at most as many samples; needed: temperature 0")
        if self.beams == 1 and self.temperature == 0 and self.samples > 1:
            raise ValueError("without a temperature or beams all samples are the same; needed: one of them")


class PartB:
    """Part A of some prompts, read once, and Part B as far as it has grown; one token a row and step.

    Args:
        backbone: in evaluation mode.
        head: scores the states of Part B.
        prompts: P of them.
        steps: how many there will be, at most.
        copies: rows of each prompt; Part A is read once for all of them.
    """

    def __init__(
        self, backbone: MlcGlmModel, head: Head, prompts: Sequence[BlankPrompt], steps: int, copies: int = 1
    ) -> None:
        self._backbone, self._head = backbone, head
        self.device = backbone.embeddings.weight.device
        longest = max(len(prompt.part_a) for prompt in prompts)
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt.part_a)] = torch.tensor(prompt.part_a)
        lengths = torch.tensor([len(prompt.part_a) for prompt in prompts], device=self.device)
        column = torch.arange(longest, device=self.device).expand(ids.shape)
        self._cache = MlcGlmCache(backbone, len(prompts), longest + steps)
        nothing = torch.zeros_like(column)
        self._cache.read(backbone, ids.to(self.device), column < lengths[:, None], column, nothing, part_a=True)
        if copies > 1:
            self.select(torch.arange(len(prompts), device=self.device).repeat_interleave(copies))

    def select(self, rows: Tensor) -> None:
        """Keep these rows, int64 (new R,), in this order."""
        self._cache.select(rows)

    def step(self, tokens: Tensor, places: Tensor, counts: Tensor, live: Tensor) -> Tensor:
        """Read one token a row.

        Args:
            tokens, places: int64 (R,), the token and the place of its blank in Part A.
            counts: int64 (R,), tokens of the blank before it: 0 for [sop].
            live: bool (R,); the tokens of other rows are not seen later.

        Returns:
            Logits (R, V) of the next token.
        """
        states = self._cache.read(
            self._backbone,
            tokens[:, None],
            live[:, None],
            places[:, None],
            counts[:, None] + 1,
            part_a=False,
        )
        return self._head(states[:, 0])


def check_prompts(prompts: Sequence[BlankPrompt]) -> None:
    """Refuse a prompt that has no tokens, or a blank outside them.

    Raises:
        ValueError: there is one.
    """
    for number, prompt in enumerate(prompts):
        if not prompt.part_a or any(not 0 <= place < len(prompt.part_a) for place in prompt.places):
            raise ValueError(f"prompt {number} has {len(prompt.part_a)} tokens and blanks at {prompt.places}")


def fill_by_token(
    backbone: MlcGlmModel,
    head: Head,
    prompts: Sequence[BlankPrompt],
    ids: BlankTokens,
    decoding: Decoding,
    generators: Sequence[torch.Generator] | None = None,
) -> list[list[tuple[FilledBlank, ...]]]:
    """Fill all blanks, greedily or by drawing.

    Args:
        backbone, head: in evaluation mode.
        prompts: of any lengths and numbers of blanks.
        ids: of Part B.
        decoding: its beams are not looked at.
        generators: one a prompt, on the CPU, where tokens are drawn: what a prompt gets does not depend on the others
            but for rounding, nor on the device.

    Returns:
        For each prompt `decoding.samples` tuples of its blanks, in the order of `places`.
    """
    run = _Run(prompts, ids, decoding, _uniform(prompts, decoding, generators), backbone.embeddings.weight.device)
    if run.steps:
        part_b = PartB(backbone, head, prompts, run.steps, decoding.samples)
        ban, warp = banned_out(ids), _warpers(decoding)
        for step in range(run.steps):
            live_H = run.live_rows(part_b)
            if not live_H.any():
                break
            before = run.token_R[run.held]
            logits = part_b.step(before, run.place(), run.count_R[run.held], live_H)
            scores = ban(before[:, None], logits)
            run.take(step, live_H, _choose(warp(before[:, None], scores), run.uniform_RS, run.held, step), scores)
    return run.results()


def banned_out(ids: BlankTokens) -> LogitsProcessorList:
    """Takes the ids away that are never generated."""
    return LogitsProcessorList([SuppressTokensLogitsProcessor(ids.banned)] if ids.banned else [])


class _Run:
    """Where every row is; `held` are the rows that the cache still holds."""

    def __init__(
        self,
        prompts: Sequence[BlankPrompt],
        ids: BlankTokens,
        decoding: Decoding,
        uniform_RS: Tensor | None,
        device: torch.device,
    ) -> None:
        self._ids, self._limit, self._samples = ids, decoding.max_new_tokens, decoding.samples
        numbers = [len(prompt.places) for prompt in prompts for _ in range(decoding.samples)]
        rows, most = len(numbers), max(numbers, default=0)
        self.steps = most * (decoding.max_new_tokens + 1)
        self.uniform_RS = None if uniform_RS is None else uniform_RS.to(device)
        self.blanks_R = torch.tensor(numbers, dtype=torch.long, device=device)
        padded = [
            prompt.places + (0,) * (most - len(prompt.places)) for prompt in prompts for _ in range(self._samples)
        ]
        self._places_RB = torch.tensor(padded, dtype=torch.long, device=device).view(rows, most)
        self.held = torch.arange(rows, device=device)
        self.blank_R, self.count_R = torch.zeros_like(self.blanks_R), torch.zeros_like(self.blanks_R)
        self.token_R = torch.full_like(self.blanks_R, ids.start)
        self._chosen_RS = self.blanks_R.new_full((rows, self.steps), -1)
        self._blank_RS = self._chosen_RS.clone()
        self._log_RB = torch.zeros(rows, most, dtype=torch.float64, device=device)
        self._ended_RB = torch.zeros(rows, most, dtype=torch.bool, device=device)

    def live_rows(self, part_b: PartB) -> Tensor:
        """bool (held,): rows with blanks left. Once they are half of those held, the others leave the cache."""
        live_H = self.blank_R[self.held] < self.blanks_R[self.held]
        if 0 < 2 * int(live_H.sum()) <= len(live_H):
            part_b.select(live_H.nonzero().flatten())
            self.held = self.held[live_H]
            live_H = live_H[live_H]
        return live_H

    def place(self) -> Tensor:
        """(held,): places of the blanks that are being filled; any, where none is."""
        return self._places_RB[self.held, self.blank_R[self.held].clamp(max=self._places_RB.shape[1] - 1)]

    def take(self, step: int, live_H: Tensor, chosen_H: Tensor, scores_HV: Tensor) -> None:
        """Move on by the tokens that were chosen for the rows held."""
        rows, chosen = self.held[live_H], chosen_H[live_H]
        log_V = scores_HV[live_H].double().log_softmax(-1)
        blank, full = self.blank_R[rows], self.count_R[rows] == self._limit
        ended = chosen == self._ids.end
        # After the last token that is allowed one more is asked for: only [eop] counts there.
        cut = full & ~ended
        content = ~ended & ~cut
        self._log_RB[rows, blank] += torch.where(cut, 0.0, log_V.gather(1, chosen[:, None])[:, 0])
        self._ended_RB[rows, blank] = ended
        self._chosen_RS[rows, step] = torch.where(content, chosen, -1)
        self._blank_RS[rows, step] = blank
        self.count_R[rows] = torch.where(content, self.count_R[rows] + 1, 0)
        self.blank_R[rows] += (~content).long()
        self.token_R[rows] = torch.where(content, chosen, self._ids.start)

    def results(self) -> list[list[tuple[FilledBlank, ...]]]:
        """By prompt and sample."""
        tokens: list[list[list[int]]] = [[[] for _ in range(number)] for number in self.blanks_R.tolist()]
        for row, (chosen, blanks) in enumerate(zip(self._chosen_RS.tolist(), self._blank_RS.tolist(), strict=True)):
            for token, blank in zip(chosen, blanks, strict=True):
                if token >= 0:
                    tokens[row][blank].append(token)
        logs, ends = self._log_RB.tolist(), self._ended_RB.tolist()
        rows = [
            tuple(FilledBlank(tuple(content), logs[row][b], ends[row][b]) for b, content in enumerate(contents))
            for row, contents in enumerate(tokens)
        ]
        return [rows[first : first + self._samples] for first in range(0, len(rows), self._samples)]


def _warpers(decoding: Decoding) -> LogitsProcessorList:
    steps: list[object] = []
    if decoding.temperature:
        steps.append(TemperatureLogitsWarper(float(decoding.temperature)))
    if decoding.top_k:
        steps.append(TopKLogitsWarper(decoding.top_k))
    if decoding.top_p < 1:
        steps.append(TopPLogitsWarper(decoding.top_p))
    return LogitsProcessorList(steps)


def _uniform(
    prompts: Sequence[BlankPrompt], decoding: Decoding, generators: Sequence[torch.Generator] | None
) -> Tensor | None:
    """(R, S) numbers from [0, 1), drawn at once, so that no row's depend on when others end."""
    if not decoding.temperature:
        return None
    if generators is None or len(generators) != len(prompts):
        raise ValueError("to draw tokens, needed: one generator for each prompt")
    most = max((len(prompt.places) for prompt in prompts), default=0) * (decoding.max_new_tokens + 1)
    uniform = torch.zeros(len(prompts), decoding.samples, most, dtype=torch.float64)
    for number, (prompt, generator) in enumerate(zip(prompts, generators, strict=True)):
        steps = len(prompt.places) * (decoding.max_new_tokens + 1)
        uniform[number, :, :steps] = torch.rand(decoding.samples, steps, dtype=torch.float64, generator=generator)
    return uniform.flatten(0, 1)


def _choose(scores_HV: Tensor, uniform_RS: Tensor | None, held: Tensor, step: int) -> Tensor:
    """The best token, or the one in whose share of [0, 1) the row's number lies."""
    if uniform_RS is None:
        return scores_HV.argmax(-1)
    edge_HV = scores_HV.double().softmax(-1).cumsum(-1)
    wanted_H1 = uniform_RS[held, step, None] * edge_HV[:, -1:]
    return torch.searchsorted(edge_HV, wanted_H1, right=True)[:, 0].clamp(max=scores_HV.shape[1] - 1)
