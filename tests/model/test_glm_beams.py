"""Beam search over one blank, against searches that compute everything anew."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from small_generators import IDS, PROMPTS, VOCABULARY, check_equal, generator_model

from mlc.model.decoding_glm import BlankPrompt, BlankTokens, Decoding, FilledBlank
from mlc.model.generation_glm import MlcGlmForBlankInfilling


def tiny_vocabulary() -> BlankTokens:
    """All but [eop] and four tokens are banned, so that every content can be tried."""
    return BlankTokens(IDS.start, IDS.end, tuple(i for i in range(VOCABULARY) if i not in (IDS.end, 11, 12, 13, 14)))


def worth_of_all(
    model: MlcGlmForBlankInfilling, prompt: BlankPrompt, longest: int, penalty: float
) -> dict[tuple[int, ...], float]:
    """What every content that ends is worth, by the full forward pass; those of `longest` tokens end where [eop] is the
    most probable token then."""
    ids, (place,), start = tiny_vocabulary(), prompt.places, len(prompt.part_a)
    found = {}
    for size in range(longest + 1):
        for content in itertools.product((11, 12, 13, 14), repeat=size):
            row = torch.tensor([[*prompt.part_a, IDS.start, *content]])
            places = torch.tensor([[*range(start), *[place] * (size + 1)]])
            counts = torch.tensor([[*[0] * start, *range(1, size + 2)]])
            logits = model(row, None, torch.tensor([start]), places, counts).logits[0, start:].clone()
            logits[:, list(ids.banned)] = -math.inf
            if size == longest and int(logits[-1].argmax()) != IDS.end:
                continue
            wanted = torch.tensor([*content, IDS.end])
            log_probability = float(logits.log_softmax(-1).gather(1, wanted[:, None]).sum())
            found[content] = log_probability / (size + 1) ** penalty
    return found


@pytest.mark.parametrize("penalty", [1.0, -1.0])
@torch.inference_mode()
def test_wide_enough_beams_find_the_best_of_all_contents(penalty: float) -> None:
    model, prompts = generator_model(), [BlankPrompt((2, 11, 4, 12, 3), (2,)), BlankPrompt((2, 12, 30, 5, 3), (3,))]
    decoding = Decoding(max_new_tokens=3, beams=100, samples=4, length_penalty=penalty)
    for prompt, found in zip(prompts, model.fill_blanks(prompts, tiny_vocabulary(), decoding), strict=True):
        every = worth_of_all(model, prompt, 3, penalty)
        best = sorted(every, key=lambda tokens: -every[tokens])[:4]
        assert [blank.tokens for (blank,) in found] == best
        for (blank,) in found:
            assert blank.ended
            worth = blank.log_probability / (len(blank.tokens) + 1) ** penalty
            assert worth == pytest.approx(every[blank.tokens], rel=1e-10)


def beams_anew(model: MlcGlmForBlankInfilling, prompt: BlankPrompt, decoding: Decoding) -> list[FilledBlank]:
    """Beam search by the full forward pass of every prefix, to the last step, with all hypotheses kept."""
    (place,), start, beams = prompt.places, len(prompt.part_a), decoding.beams
    going: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    found: list[FilledBlank] = []
    for count in range(decoding.max_new_tokens + 1):
        rows = torch.tensor([[*prompt.part_a, IDS.start, *content] for _, content in going])
        places = torch.tensor([[*range(start), *[place] * (count + 1)]]).expand(rows.shape)
        counts = torch.tensor([[*[0] * start, *range(1, count + 2)]]).expand(rows.shape)
        logits = model(rows, None, torch.full((len(rows),), start), places, counts).logits[:, -1].clone()
        logits[:, list(IDS.banned)] = -math.inf
        logs = logits.log_softmax(-1).tolist()
        if count == decoding.max_new_tokens:
            for (score, content), log in zip(going, logs, strict=True):
                ended = max(log) == log[IDS.end]
                found.append(FilledBlank(content, score + log[IDS.end] * ended, ended))
            break
        next_ones = [
            (score + value, content, token)
            for (score, content), log in zip(going, logs, strict=True)
            for token, value in enumerate(log)
        ]
        best = sorted(next_ones, reverse=True)[: 2 * beams]
        found += [FilledBlank(content, score, True) for score, content, token in best[:beams] if token == IDS.end]
        going = [(score, (*content, token)) for score, content, token in best if token != IDS.end][:beams]

    def worth(blank: FilledBlank) -> float:
        return blank.log_probability / (len(blank.tokens) + blank.ended) ** decoding.length_penalty

    return sorted(found, key=lambda blank: (not blank.ended, -worth(blank)))[: decoding.samples]


@pytest.mark.parametrize("seed", range(1, 7))
@torch.inference_mode()
def test_stopping_early_and_the_cache_do_not_change_what_beams_find(seed: int) -> None:
    model, penalty = generator_model(seed=seed), (0.0, 1.0, 2.0)[seed % 3]
    decoding = Decoding(max_new_tokens=6, beams=2, samples=2, length_penalty=penalty)
    prompts = [prompt for prompt in PROMPTS if len(prompt.places) == 1]
    for prompt, found in zip(prompts, model.fill_blanks(prompts, IDS, decoding), strict=True):
        for (blank,), expected in zip(found, beams_anew(model, prompt, decoding), strict=True):
            check_equal([blank], [expected], 1e-12)


@torch.inference_mode()
def test_beams_of_several_prompts_are_those_of_each_alone_and_better_than_greedy() -> None:
    prompts, better = [prompt for prompt in PROMPTS if len(prompt.places) == 1], 0
    decoding = Decoding(max_new_tokens=5, beams=4, samples=3, length_penalty=0.0)
    for seed in (1, 2, 3):
        model = generator_model(seed=seed)
        together = model.fill_blanks(prompts, IDS, decoding)
        greedy = model.fill_blanks(prompts, IDS, Decoding(max_new_tokens=5))
        for prompt, found, (filled,) in zip(prompts, together, greedy, strict=True):
            (alone,) = model.fill_blanks([prompt], IDS, decoding)
            for one, other in zip(found, alone, strict=True):
                check_equal(one, other, 1e-12)
            assert len({sample[0].tokens for sample in found}) == len(found) == 3
            better += found[0][0].ended and found[0][0].log_probability > filled[0].log_probability + 1e-9
    assert better  # greedy is not always best; a search that is greedy would find nothing better


def test_beams_without_an_end_are_cut() -> None:
    never = BlankTokens(IDS.start, IDS.end, (*IDS.banned, IDS.end))
    (found,) = generator_model().fill_blanks([PROMPTS[1]], never, Decoding(max_new_tokens=4, beams=3, samples=3))
    assert [(blank.ended, len(blank.tokens)) for (blank,) in found] == [(False, 4)] * 3
