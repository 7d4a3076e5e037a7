"""The GLM against a naive dense implementation, and the rules of blank-infilling attention."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mlc.model.configuration_glm import MlcGlmConfig
from mlc.model.initialise import initialise
from mlc.model.modeling_glm import MlcGlmModel, attend
from mlc.model.packing_glm import divide_rows, pack_rows

LENGTHS = torch.tensor([7, 12, 3, 12, 1, 9])
PART_A = torch.tensor([4, 12, 3, 5, 1, 2])


def small_model(seed: int = 0, dtype: torch.dtype = torch.float64, layers: int = 2) -> MlcGlmModel:
    config = MlcGlmConfig(
        vocab_size=50, hidden_size=24, num_hidden_layers=layers, num_attention_heads=3, intermediate_size=20
    )
    model = MlcGlmModel(config)
    initialise(model, seed)
    with torch.no_grad():  # branches as large as the stream they write to, so that every path matters
        for name, parameter in model.named_parameters():
            writes = name.endswith(("attention.output.weight", "feed_forward.down.weight"))
            parameter.mul_(1.3 if "norm" in name else 2 * layers if writes else 1)
            if "norm" in name:
                parameter.add_(torch.linspace(-0.3, 0.3, parameter.numel()))
    return model.to(dtype).eval()


def small_batch(seed: int = 0) -> dict[str, Tensor]:
    """Rows as blank infilling makes them: Part B repeats places of Part A and counts within its blanks."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = len(LENGTHS), int(LENGTHS.max()) + 2
    column = torch.arange(columns).expand(rows, columns)
    in_a = column < PART_A[:, None]
    return {
        "input_ids": torch.randint(0, 50, (rows, columns), generator=generator),
        "lengths": LENGTHS,
        "part_a_lengths": PART_A,
        "positions": torch.where(in_a, column, torch.randint(0, 5, (rows, columns), generator=generator)),
        "block_positions": torch.where(in_a, 0, 1 + column - PART_A[:, None]),
    }


def naive_states(model: MlcGlmModel, batch: dict[str, Tensor], row: int) -> list[Tensor]:
    """All layers of one row (length, D), written from the definition: loops, explicit masks, complex rotations."""
    weight = dict(model.named_parameters())
    config = model.config
    heads, half = config.num_attention_heads, config.hidden_size // config.num_attention_heads // 2
    length, part_a = int(batch["lengths"][row]), int(batch["part_a_lengths"][row])

    def norm(x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + config.rms_norm_eps).sqrt() * weight[name]

    def turned(pairs: list[Tensor], token: int) -> Tensor:
        """Rotate one head of one token: pair k is the complex number pairs[0][k] + i pairs[1][k]."""
        first, second = int(batch["positions"][row, token]), int(batch["block_positions"][row, token])
        numbers = []
        for k in range(half):
            wave = config.rotary_base ** (-(k % (half // 2)) / (half // 2))
            angle = (first if k < half // 2 else second) * wave
            turn = torch.tensor(complex(math.cos(angle), math.sin(angle)), dtype=torch.complex128)
            numbers.append(torch.complex(pairs[0][k], pairs[1][k]) * turn)
        return torch.stack(numbers)

    x = weight["embeddings.weight"][batch["input_ids"][row, :length]] * math.sqrt(config.hidden_size)
    layers = [x]
    for block in range(config.num_hidden_layers):
        prefix = f"blocks.{block}."
        normed = norm(x, prefix + "attention_norm.weight")
        query_key = (normed @ weight[prefix + "attention.query_key.weight"].T).view(length, 2, 2, heads, half)
        value = (normed @ weight[prefix + "attention.value.weight"].T).view(length, heads, 2 * half)
        attended = []
        for i in range(length):
            for h in range(heads):
                visible = [j for j in range(length) if j < part_a or (i >= part_a and j <= i)]
                query = turned([query_key[i, 0, 0, h], query_key[i, 1, 0, h]], i)
                keys = [turned([query_key[j, 0, 1, h], query_key[j, 1, 1, h]], j) for j in visible]
                scores = torch.stack([(query * key.conj()).real.sum() for key in keys]) / math.sqrt(2 * half)
                share = scores.exp() / scores.exp().sum()
                attended.append(sum(share[n] * value[j, h] for n, j in enumerate(visible)))
        x = x + torch.stack(attended).view(length, -1) @ weight[prefix + "attention.output.weight"].T
        normed = norm(x, prefix + "feed_forward_norm.weight")
        gate, up = (normed @ weight[prefix + "feed_forward.gate_up.weight"].T).chunk(2, -1)
        x = x + (gate * torch.sigmoid(gate) * up) @ weight[prefix + "feed_forward.down.weight"].T
        layers.append(x)
    return [*layers[:-1], norm(x, "final_norm.weight")]


def probe(shape: torch.Size) -> Tensor:
    """Weights of a scalar loss that no symmetry can cancel."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def test_states_and_gradients_equal_the_naive_model() -> None:
    model, batch = small_model(), small_batch()
    packed = model.forward_packed(**batch, layer=1)
    expected = [naive_states(model, batch, row) for row in range(len(LENGTHS))]
    last, middle = torch.cat([layers[-1] for layers in expected]), torch.cat([layers[1] for layers in expected])
    # fp64 on both sides, sums of at most a few dozen terms: only the order of summation differs.
    torch.testing.assert_close(packed.states_TD, last, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(packed.layer_TD, middle, rtol=1e-10, atol=1e-10)

    parameters = dict(model.named_parameters())
    weight, middle_weight = probe(last.shape), probe(middle.shape).flip(0)
    loss = (packed.states_TD * weight).sum() + (packed.layer_TD * middle_weight).sum()
    expected_loss = (last * weight).sum() + (middle * middle_weight).sum()
    found = torch.autograd.grad(loss, list(parameters.values()))
    wanted = torch.autograd.grad(expected_loss, list(parameters.values()))
    for name, gradient, reference in zip(parameters, found, wanted, strict=True):
        assert reference.abs().max() > 1e-3, f"{name}: the probe does not see this parameter"
        torch.testing.assert_close(gradient, reference, rtol=1e-10, atol=1e-10, msg=name)


def test_part_a_is_blind_to_part_b() -> None:
    model, batch = small_model(), small_batch()
    before = model.forward_packed(**batch)
    in_b = torch.arange(batch["input_ids"].shape[1]) >= PART_A[:, None]
    changed = dict(batch)
    for key in ("input_ids", "positions", "block_positions"):
        changed[key] = torch.where(in_b, (batch[key] + 3) % 50, batch[key])
    after = model.forward_packed(**changed)
    in_a_T = before.rows.in_part_a_T
    # Bit for bit: the terms that differ enter with weight exactly 0.
    assert torch.equal(before.states_TD[in_a_T], after.states_TD[in_a_T])
    assert not torch.isclose(before.states_TD[~in_a_T], after.states_TD[~in_a_T]).all(-1).any()


def test_part_b_sees_part_a_and_its_own_past_only() -> None:
    model, batch = small_model(), small_batch()
    row, length, part_a = 3, int(LENGTHS[3]), int(PART_A[3])
    embedded = {}

    def keep(module: torch.nn.Module, arguments: object, output: Tensor) -> Tensor:
        embedded["x"] = output.detach().requires_grad_()
        return embedded["x"]

    handle = model.embeddings.register_forward_hook(keep)
    packed = model.forward_packed(**batch)
    handle.remove()
    start = int(packed.rows.start_R[row])
    for i in range(length):
        (gradient,) = torch.autograd.grad(packed.states_TD[start + i].sum(), embedded["x"], retain_graph=True)
        seen = set(gradient.abs().sum(-1).nonzero().flatten().tolist())
        last = part_a if i < part_a else i + 1
        assert seen == set(range(start, start + last)), f"token {i} of a row with {part_a} tokens of Part A"


@settings(max_examples=15)
@given(st.permutations(range(len(LENGTHS))), st.integers(0, 4))
def test_padding_and_the_order_of_rows_do_not_matter(order: list[int], extra: int) -> None:
    model, batch = small_model(), small_batch()
    states = model.forward_packed(**batch)
    expected = states.rows.unpack(states.states_TD)
    moved = {key: value[order] for key, value in batch.items()}
    for key in ("input_ids", "positions", "block_positions"):
        moved[key] = torch.nn.functional.pad(moved[key], (0, extra), value=7)
    states = model.forward_packed(**moved)
    found = states.rows.unpack(states.states_TD)
    # Rows may be multiplied in other groups, in fp64.
    torch.testing.assert_close(found[:, : expected.shape[1]], expected[order], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("which", ["positions", "block_positions"])
def test_both_positions_matter_and_only_their_differences(which: str) -> None:
    model, batch = small_model(), small_batch()
    before = model.forward_packed(**batch)
    shifted = model.forward_packed(**{**batch, which: batch[which] + 5})
    torch.testing.assert_close(before.states_TD, shifted.states_TD, rtol=1e-9, atol=1e-9)
    scattered = model.forward_packed(**{**batch, which: batch[which].flip(1) * 2})
    long_T = LENGTHS[before.rows.row_T] > 1
    assert not torch.isclose(before.states_TD[long_T], scattered.states_TD[long_T]).all(-1).any()


def test_one_text_alone_equals_that_text_in_a_batch_in_bf16() -> None:
    model, batch = small_model(dtype=torch.bfloat16), small_batch()
    together = model.forward_packed(**batch)
    padded = together.rows.unpack(together.states_TD)
    alone = model.forward_packed(**{key: value[1:2] for key, value in batch.items()})
    # Two blocks with weights ten times their usual size, each result rounded to 8 bits.
    torch.testing.assert_close(padded[1, :12], alone.states_TD, rtol=0.1, atol=0.1)


def test_a_row_without_tokens_and_one_without_part_a() -> None:
    model, batch = small_model(), small_batch()
    batch |= {"lengths": torch.tensor([7, 12, 0, 12, 1, 9]), "part_a_lengths": torch.tensor([0, 12, 0, 5, 1, 2])}
    packed = model.forward_packed(**batch)
    assert packed.states_TD.shape == (41, 24)
    torch.testing.assert_close(packed.states_TD[:7], naive_states(model, batch, 0)[-1], rtol=1e-10, atol=1e-10)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=30), st.integers(0, 60))
def test_dividing_rows_is_never_worse_than_not_dividing(lengths: list[int], group_cost: int) -> None:
    lengths = sorted(lengths, reverse=True)
    borders = divide_rows(lengths, group_cost)
    assert borders[0] == 0
    assert borders[-1] == len(lengths)
    assert borders == sorted(set(borders))
    cost = sum((end - begin) * lengths[begin] + group_cost for begin, end in pairwise(borders))
    assert cost <= len(lengths) * lengths[0] + group_cost
    if group_cost == 0:
        assert cost == sum(lengths)  # every row only as wide as itself


@given(st.lists(st.integers(0, 12), min_size=1, max_size=9).filter(any), st.integers(1, 3))
def test_every_head_of_every_token_has_a_slot_of_its_own(lengths: list[int], heads: int) -> None:
    rows = pack_rows(torch.tensor(lengths), torch.tensor(lengths), columns=12, heads=heads)
    slots = rows.slot_TH.flatten().tolist()
    assert len(set(slots)) == sum(lengths) * heads
    assert max(slots) < rows.slots == sum(group.rows * heads * group.columns for group in rows.groups)
    flat = torch.tensor([row * 12 + column for row, length in enumerate(lengths) for column in range(length)])
    assert rows.tokens_at(flat).tolist() == list(range(sum(lengths)))


def test_attention_on_cpu_equals_the_kernel_used_elsewhere() -> None:
    generator = torch.Generator().manual_seed(4)
    query, key, value = (torch.randn(3, 2, 7, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    rows = pack_rows(torch.tensor([7, 7, 7]), torch.tensor([7, 2, 0]), columns=7, heads=2)
    mask = rows.groups[0].may_see_RLL
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1.0)
    torch.testing.assert_close(attend(query, key, value, mask), expected, rtol=1e-12, atol=1e-12)
