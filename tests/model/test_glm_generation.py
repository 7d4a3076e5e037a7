"""Filling blanks with a cache of keys and values: equal to computing everything anew, in training's layout."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_glm import plain_states, plain_token_logits
from small_generators import IDS, PROMPTS, SPECIAL, VOCABULARY, check_equal, generator_model, trained_model
from torch import Tensor

from mlc.data.corruption import CorruptedText, Text, corrupt
from mlc.data.rows import pad_rows
from mlc.model import MlcGlmConfig
from mlc.model.cache_glm import MlcGlmCache
from mlc.model.decoding_glm import BlankPrompt, Decoding, FilledBlank, PartB
from mlc.model.generation_glm import MlcGlmForBlankInfilling
from mlc.model.modeling_glm import MlcGlmModel
from mlc.recipe_objectives import BlankKind, BlankSection

BLANKS = BlankSection(weight=1.0, mask_fraction=0.4, mean_span_tokens=2.0)
EXACT = {torch.float64: 1e-12, torch.float32: 1e-5}
"""Relative to logits of order 1: only the order of sums differs, over at most 24 terms a product and 3 blocks."""


def corrupted(kind: BlankKind, size: int, seed: int) -> CorruptedText:
    random = np.random.default_rng(seed)
    tokens = SPECIAL.ordinary(random, size)
    ends = np.unique([*random.integers(1, size + 1, 3), size])
    text = Text(tokens, ends, np.array([size]))
    return corrupt(text, random, SPECIAL, blanks=BLANKS, masks=None, kind=kind)


def cached_logits(model: MlcGlmForBlankInfilling, rows: Sequence[CorruptedText]) -> list[Tensor]:
    """Part B of training's rows read one token a step, all rows side by side: logits (length of Part B, V) a row."""
    prompts = [BlankPrompt(tuple(row.tokens[: row.part_a_length].tolist()), ()) for row in rows]
    lengths = torch.tensor([len(row.tokens) - row.part_a_length for row in rows])
    part_b = PartB(model.model, model.score, prompts, int(lengths.max()))
    steps = []
    for step in range(int(lengths.max())):
        columns = [row.part_a_length + min(step, len(row.tokens) - row.part_a_length - 1) for row in rows]

        def at(name: str, columns: list[int] = columns) -> Tensor:
            return torch.tensor([getattr(row, name)[column] for row, column in zip(rows, columns, strict=True)])

        steps.append(part_b.step(at("tokens"), at("positions"), at("block_positions") - 1, step < lengths))
    stacked = torch.stack(steps, 1)
    return [stacked[row, :length] for row, length in enumerate(lengths.tolist())]


@pytest.mark.parametrize("dtype", list(EXACT))
@pytest.mark.parametrize("kind", ["token", "sentence", "document"])
@torch.inference_mode()
def test_logits_of_trainings_rows_are_the_same_with_the_cache_and_without(kind: BlankKind, dtype: torch.dtype) -> None:
    model, trained = generator_model(dtype), trained_model().to(dtype)
    rows = [corrupted(kind, size, seed) for seed, size in enumerate((1, 9, 30, 17, 24))]
    batch = {key: torch.from_numpy(value) for key, value in pad_rows(rows, 0).items()}
    inputs = {key: batch[key] for key in ("input_ids", "lengths", "part_a_lengths", "positions", "block_positions")}
    expected = trained(**inputs, glm_index=batch["glm_index"])["glm_logits"]
    mask = (torch.arange(batch["input_ids"].shape[1]) < batch["lengths"][:, None]).long()
    anew = model(
        batch["input_ids"],
        mask,
        batch["part_a_lengths"],
        batch["positions"],
        batch["block_positions"],
        logits_index=batch["glm_index"],
        labels=batch["glm_targets"],
    )
    found = torch.cat(cached_logits(model, rows))
    assert len(found) == len(batch["glm_targets"]) > 15
    torch.testing.assert_close(anew.logits, expected, rtol=EXACT[dtype], atol=EXACT[dtype])
    torch.testing.assert_close(found, expected, rtol=EXACT[dtype], atol=EXACT[dtype])
    wide = F.cross_entropy(expected.double(), batch["glm_targets"])
    torch.testing.assert_close(anew.loss.double(), wide, rtol=1e-6, atol=0)


@torch.inference_mode()
def test_a_row_alone_is_the_plain_computation() -> None:
    model, row = generator_model(), corrupted("token", 26, 7)
    weight = dict(model.named_parameters())
    inside = {name.removeprefix("model."): value for name, value in weight.items()}
    ids, positions, counts = (torch.from_numpy(a) for a in (row.tokens, row.positions, row.block_positions))
    states = plain_states(inside, model.config, ids, positions, counts, row.part_a_length)
    expected = plain_token_logits(weight, "glm", states[row.part_a_length :])
    (found,) = cached_logits(model, [row])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@settings(max_examples=15)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.lists(st.integers(1, 7), min_size=3, max_size=3))
@torch.inference_mode()
def test_part_b_can_be_read_in_pieces_of_any_size(pieces: list[int], part_a: list[int]) -> None:
    """Earlier blanks whose contents are given are read at once."""
    model = generator_model()
    generator = torch.Generator().manual_seed(len(pieces))
    longest, total = max(part_a), sum(pieces)
    lengths = torch.tensor(part_a)
    column = torch.arange(longest).expand(3, longest)
    ids_a = torch.randint(0, VOCABULARY, (3, longest), generator=generator)
    ids_b = torch.randint(0, VOCABULARY, (3, total), generator=generator)
    places, counts = torch.zeros(3, total, dtype=torch.long), torch.arange(1, total + 1).expand(3, total)
    states = []
    for sizes in (pieces, [1] * total):
        cache = MlcGlmCache(model.model, 3, longest + total)
        cache.read(model.model, ids_a, column < lengths[:, None], column, torch.zeros_like(column), part_a=True)
        read = [
            cache.read(model.model, *(t[:, end - n : end] for t in (ids_b, ids_b >= 0, places, counts)), part_a=False)
            for n, end in zip(sizes, itertools.accumulate(sizes), strict=True)
        ]
        states.append(torch.cat(read, 1))
    torch.testing.assert_close(states[0], states[1], rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="needed"):
        cache.read(model.model, ids_b, ids_b >= 0, places, counts, part_a=False)


def fill_anew(model: MlcGlmForBlankInfilling, prompt: BlankPrompt, decoding: Decoding) -> tuple[FilledBlank, ...]:
    """Greedy filling by the full forward pass of every prefix."""
    part_a = list(prompt.part_a)
    ids, places, counts = list(part_a), list(range(len(part_a))), [0] * len(part_a)
    filled = []
    for place in prompt.places:
        content: list[int] = []
        log_probability, ended, token = 0.0, False, IDS.start
        while True:
            ids, places, counts = [*ids, token], [*places, place], [*counts, len(content) + 1]
            row = [torch.tensor([values]) for values in (ids, places, counts)]
            logits = model(row[0], None, torch.tensor([len(part_a)]), row[1], row[2]).logits[0, -1].double()
            logits[list(IDS.banned)] = -math.inf
            token = int(logits.argmax())
            ended = token == IDS.end
            if ended or len(content) < decoding.max_new_tokens:
                log_probability += float(logits.log_softmax(0)[token])
            if ended or len(content) == decoding.max_new_tokens:
                break
            content.append(token)
        filled.append(FilledBlank(tuple(content), log_probability, ended))
    return tuple(filled)


@pytest.mark.parametrize("dtype", list(EXACT))
@torch.inference_mode()
def test_greedy_filling_is_that_of_full_recomputation(dtype: torch.dtype) -> None:
    lengths, ends = set(), set()
    for seed in (1, 2, 3, 4):
        model, decoding = generator_model(dtype, seed), Decoding(max_new_tokens=6)
        found = model.fill_blanks(PROMPTS, IDS, decoding)
        for prompt, (filled,) in zip(PROMPTS, found, strict=True):
            check_equal(filled, fill_anew(model, prompt, decoding), EXACT[dtype])
            lengths |= {len(blank.tokens) for blank in filled}
            ends |= {blank.ended for blank in filled}
            assert not {token for blank in filled for token in blank.tokens} & {*IDS.banned, IDS.end}
    assert len(lengths) > 3  # blanks that end at different times, some by [eop] and some not
    assert ends == {True, False}


@torch.inference_mode()
def test_later_blanks_see_earlier_ones_in_the_order_asked_for() -> None:
    model = generator_model(seed=2)
    forward, backward = BlankPrompt((2, 4, 12, 4, 3), (1, 3)), BlankPrompt((2, 4, 12, 4, 3), (3, 1))
    (((first, second),), ((last, before),)) = model.fill_blanks([forward, backward], IDS, Decoding(max_new_tokens=5))
    # What is filled first sees Part A alone; what is filled second sees it too, so its probabilities are others.
    (((alone,),),) = model.fill_blanks([BlankPrompt(forward.part_a, (1,))], IDS, Decoding(max_new_tokens=5))
    assert first.tokens == alone.tokens
    assert first.log_probability == pytest.approx(alone.log_probability, rel=1e-12)
    assert before.log_probability != pytest.approx(first.log_probability, rel=1e-3)
    assert second.log_probability != pytest.approx(last.log_probability, rel=1e-3)


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(1000 * seed + number) for number in range(count)]


@torch.inference_mode()
def test_samples_depend_on_their_own_generator_alone() -> None:
    model, decoding = generator_model(), Decoding(max_new_tokens=6, temperature=1.3, top_k=20, top_p=0.9, samples=4)
    together = model.fill_blanks(PROMPTS, IDS, decoding, generators(len(PROMPTS)))
    assert together == model.fill_blanks(PROMPTS, IDS, decoding, generators(len(PROMPTS)))
    assert together != model.fill_blanks(PROMPTS, IDS, decoding, generators(len(PROMPTS), seed=1))
    for number, prompt in enumerate(PROMPTS):
        (alone,) = model.fill_blanks([prompt], IDS, decoding, [generators(len(PROMPTS))[number]])
        for found, expected in zip(together[number], alone, strict=True):
            check_equal(found, expected, 1e-12)
        assert not prompt.places or len({tuple(blank.tokens for blank in sample) for sample in alone}) > 1


@torch.inference_mode()
def test_tokens_are_drawn_with_the_probabilities_of_the_warped_model() -> None:
    model, draws = generator_model(), 4000
    prompt = BlankPrompt((2, 11, 4, 12, 3), (2,))
    logits = model(
        torch.tensor([[*prompt.part_a, IDS.start]]),
        None,
        torch.tensor([5]),
        torch.tensor([[0, 1, 2, 3, 4, 2]]),
        torch.tensor([[0, 0, 0, 0, 0, 1]]),
    ).logits[0, -1]
    logits[list(IDS.banned)] = -math.inf
    kept = (logits / 0.8).topk(5)
    expected = torch.zeros(VOCABULARY, dtype=torch.float64)
    expected[kept.indices] = kept.values.softmax(0)
    decoding = Decoding(max_new_tokens=1, temperature=0.8, top_k=5, samples=draws)
    (samples,) = model.fill_blanks([prompt], IDS, decoding, generators(1))
    counts = torch.zeros(VOCABULARY, dtype=torch.float64)
    for (blank,) in samples:
        counts[blank.tokens[0] if blank.tokens else IDS.end] += 1
    assert not counts[expected == 0].any()
    # Five standard errors of a frequency; the seed is fixed.
    assert ((counts / draws - expected).abs() <= 5 * (expected * (1 - expected) / draws).sqrt()).all()
    assert int((expected > 0.05).sum()) >= 3


@torch.inference_mode()
def test_a_tiny_temperature_and_one_beam_are_greedy() -> None:
    model = generator_model()
    greedy = model.fill_blanks(PROMPTS, IDS, Decoding(max_new_tokens=5))
    cold = model.fill_blanks(PROMPTS, IDS, Decoding(max_new_tokens=5, temperature=1e-4), generators(len(PROMPTS)))
    assert [[[b.tokens for b in s] for s in p] for p in greedy] == [[[b.tokens for b in s] for s in p] for p in cold]


def test_gradients_of_the_full_forward_reach_everything() -> None:
    model = generator_model()
    row = corrupted("token", 20, 3)
    batch = {key: torch.from_numpy(value) for key, value in pad_rows([row], 0).items()}
    arguments = [batch[key] for key in ("part_a_lengths", "positions", "block_positions")]
    loss = model(
        batch["input_ids"], None, *arguments, logits_index=batch["glm_index"], labels=batch["glm_targets"]
    ).loss
    parameters = dict(model.named_parameters())
    inside = {name.removeprefix("model."): value for name, value in parameters.items()}
    ids, positions, counts = (torch.from_numpy(a) for a in (row.tokens, row.positions, row.block_positions))
    states = plain_states(inside, model.config, ids, positions, counts, row.part_a_length)
    logits = plain_token_logits(parameters, "glm", states[row.part_a_length :])
    wanted = torch.autograd.grad(F.cross_entropy(logits, batch["glm_targets"]), list(parameters.values()))
    found = torch.autograd.grad(loss, list(parameters.values()))
    for name, gradient, reference in zip(parameters, found, wanted, strict=True):
        assert reference.any(), name
        torch.testing.assert_close(gradient, reference, rtol=1e-9, atol=1e-11, msg=name)


def test_bf16_and_round_trip(tmp_path: Any) -> None:
    model = generator_model(torch.float32)
    model.save_pretrained(tmp_path)
    again = MlcGlmForBlankInfilling.from_pretrained(tmp_path).eval()
    decoding = Decoding(max_new_tokens=5)
    assert again.fill_blanks(PROMPTS, IDS, decoding) == model.fill_blanks(PROMPTS, IDS, decoding)
    narrow = generator_model(torch.bfloat16)
    assert narrow.score(torch.zeros(1, 24, dtype=torch.bfloat16)).dtype == torch.float32
    assert all(math.isfinite(b.log_probability) for ((*bs,),) in narrow.fill_blanks(PROMPTS, IDS, decoding) for b in bs)
    assert model.fill_blanks([], IDS, decoding) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_new_tokens": 0}, "least value"),
        ({"top_p": 0.0, "temperature": 1.0}, "top_p must lie"),
        ({"top_k": 3}, "temperature above 0"),
        ({"beams": 2, "temperature": 0.5}, "needed: temperature 0"),
        ({"beams": 2, "samples": 3}, "at most as many samples"),
        ({"samples": 3}, "the same"),
    ],
)
def test_settings_that_contradict_one_another_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Decoding(**changes)


def test_prompts_that_cannot_be_filled_are_refused() -> None:
    model = MlcGlmForBlankInfilling(
        MlcGlmConfig(vocab_size=20, hidden_size=8, num_attention_heads=2, num_hidden_layers=1)
    ).eval()
    assert isinstance(model.model, MlcGlmModel)
    for prompt in (BlankPrompt((2, 3), (2,)), BlankPrompt((), ())):
        with pytest.raises(ValueError, match="prompt 0 has"):
            model.fill_blanks([prompt], IDS, Decoding())
    with pytest.raises(ValueError, match="exactly one"):
        model.fill_blanks([BlankPrompt((2, 4, 4), (1, 2))], IDS, Decoding(beams=2))
    with pytest.raises(ValueError, match="one generator"):
        model.fill_blanks([BlankPrompt((2, 4, 3), (1,))], IDS, Decoding(temperature=1.0))
