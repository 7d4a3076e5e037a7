"""InfoNCE in one process: values by hand, the naive formula on random shapes and masks, and what must not matter."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_objectives import Pair, naive_info_nce
from torch import Tensor

from mlc.objectives.info_nce import ContrastiveSums, PairIdentity, info_nce_sum


def plain_identity(rows: int) -> PairIdentity:
    index = torch.arange(rows)
    return PairIdentity(torch.full((rows,), -1), index, 1000 + index, torch.ones(rows, dtype=torch.bool))


def contrast(
    first: Tensor,
    second: Tensor,
    identity: PairIdentity | None = None,
    temperature: float | Tensor = 1.0,
    symmetric: bool = True,
    rows: Tensor | None = None,
) -> ContrastiveSums:
    """The local rows (all, unless `rows`) of a global batch that one process holds whole."""
    rows = torch.arange(len(first)) if rows is None else rows
    return info_nce_sum(
        first[rows],
        second[rows],
        first,
        second,
        own_index_N=rows,
        identity=identity or plain_identity(len(first)),
        temperature=temperature,
        symmetric=symmetric,
    )


# Similarities with first = identity matrix: sim[i, j] = second[j, i]
FIRST = torch.eye(2, dtype=torch.float64)
SECOND = torch.tensor([[2.0, 1.0], [3.0, 5.0]], dtype=torch.float64)  # sim = [[2, 3], [1, 5]]


def test_values_by_hand() -> None:
    one_way = math.log(1 + math.exp(3 - 2)) + math.log(1 + math.exp(1 - 5))
    other_way = math.log(1 + math.exp(1 - 2)) + math.log(1 + math.exp(3 - 5))
    found = contrast(FIRST, SECOND, symmetric=False)
    assert found.loss.item() == pytest.approx(one_way, rel=1e-14)
    assert (found.correct.item(), found.rows.item(), found.masked.item()) == (1, 2, 0)  # row 0 prefers candidate 1
    found = contrast(FIRST, SECOND)
    assert found.loss.item() == pytest.approx((one_way + other_way) / 2, rel=1e-14)
    assert (found.correct.item(), found.rows.item()) == (1.5, 2)
    half = contrast(FIRST, SECOND, temperature=0.5, symmetric=False)
    assert half.loss.item() == pytest.approx(math.log(1 + math.exp(2)) + math.log(1 + math.exp(-8)), rel=1e-14)


@pytest.mark.parametrize(
    ("change", "forward_masked", "backward_masked"),
    [
        ({"group": [4, 4]}, 2, 2),
        ({"group": [4, 5]}, 0, 0),
        ({"group": [-1, -1]}, 0, 0),
        ({"first_text": [9, 9]}, 2, 2),
        ({"second_text": [9, 9]}, 2, 2),
        # text 9 is the first view of pair 0 and the second view of pair 1: first 0 must not push second 1 away, nor
        # second 1 first 0; the other two similarities are between different texts
        ({"first_text": [9, 1], "second_text": [2, 9]}, 1, 1),
    ],
)
def test_copies_are_no_negatives(change: dict[str, list[int]], forward_masked: int, backward_masked: int) -> None:
    changed = replace(plain_identity(2), **{name: torch.tensor(values) for name, values in change.items()})
    forward = contrast(FIRST, SECOND, changed, symmetric=False)
    backward = contrast(SECOND, FIRST, changed.swapped(), symmetric=False)
    assert (forward.masked.item(), backward.masked.item()) == (forward_masked, backward_masked)
    assert contrast(FIRST, SECOND, changed).masked.item() == (forward_masked + backward_masked) / 2
    if forward_masked == 2:  # nothing but the partner left
        assert forward.loss.item() == 0
        assert forward.correct.item() == 2


def test_a_row_without_negatives_has_no_loss_and_no_gradient() -> None:
    first = torch.randn(1, 4, dtype=torch.float64, requires_grad=True)
    found = contrast(first, torch.randn(1, 4, dtype=torch.float64))
    found.loss.backward()
    assert found.loss.item() == 0
    assert torch.equal(first.grad, torch.zeros(1, 4))


def test_only_invalid_rows_give_zero_that_is_still_connected() -> None:
    first = torch.randn(3, 4, requires_grad=True)
    second = torch.randn(3, 4, requires_grad=True)
    identity = replace(plain_identity(3), valid=torch.zeros(3, dtype=torch.bool))
    found = contrast(first, second, identity)
    assert (found.loss.item(), found.correct.item(), found.rows.item(), found.masked.item()) == (0, 0, 0, 0)
    found.loss.backward()
    assert torch.equal(first.grad, torch.zeros(3, 4))
    assert torch.equal(second.grad, torch.zeros(3, 4))


def test_equal_scores_are_not_correct() -> None:
    """An encoder that maps every text to one point must not score: with `argmax`, or >=, it would."""
    found = contrast(torch.ones(4, 3), torch.ones(4, 3))
    assert found.correct.item() == 0
    assert found.loss.item() == pytest.approx(4 * math.log(4), rel=1e-6)  # fp32


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor, PairIdentity, Tensor, bool]:
    """A global batch with padding, copies of all kinds and a random share of local rows."""
    rows = draw(st.integers(1, 7))
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    size = draw(st.integers(1, 5))
    first, second = torch.randn(2, rows, size, generator=random, dtype=torch.float64)
    # few distinct numbers, so that groups and texts often repeat, on one side and across sides
    kinds = draw(st.sampled_from([2, 5, 1000]))
    texts = torch.randint(0, kinds, (2, rows), generator=random)
    group = torch.randint(-1, draw(st.sampled_from([0, 2, 50])), (rows,), generator=random)
    valid = torch.rand(rows, generator=random) < draw(st.sampled_from([0.5, 1.0]))
    local = torch.randperm(rows, generator=random)[: draw(st.integers(1, rows))]
    return first, second, PairIdentity(group, texts[0], texts[1], valid), local, draw(st.booleans())


@given(batches(), st.floats(0.2, 2.0))
@settings(max_examples=150, deadline=None)
def test_equals_the_formula_for_loss_gradient_and_counts(
    batch: tuple[Tensor, Tensor, PairIdentity, Tensor, bool], temperature: float
) -> None:
    """The whole batch as two ranks' rows (`local` and the rest): their sums are the naive loop over valid pairs."""
    first, second, identity, local, symmetric = batch
    rest = torch.tensor([i for i in range(len(first)) if i not in local.tolist()], dtype=torch.int64)
    leaves = [first.clone().requires_grad_(), second.clone().requires_grad_(), torch.tensor(temperature).double()]
    leaves[2].requires_grad_()
    shares = [contrast(leaves[0], leaves[1], identity, leaves[2], symmetric, rows) for rows in (local, rest)]
    (shares[0].loss + shares[1].loss).backward()

    naive = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    pairs = [
        Pair(
            naive[0][i], naive[1][i], *(int(x[i]) for x in (identity.group, identity.first_text, identity.second_text))
        )
        for i in range(len(first))
        if identity.valid[i]
    ]
    expected = naive_info_nce(pairs, naive[2], symmetric)
    (expected.loss + 0 * sum(leaf.sum() for leaf in naive)).backward()

    # float64; similarities / temperature reach about 100 here, which costs exp a few digits
    torch.testing.assert_close(shares[0].loss + shares[1].loss, expected.loss, rtol=1e-10, atol=1e-11)
    for leaf, wanted in zip(leaves, naive, strict=True):
        torch.testing.assert_close(leaf.grad, wanted.grad, rtol=1e-10, atol=1e-10)
    assert sum(share.correct.item() for share in shares) == expected.correct
    assert sum(share.masked.item() for share in shares) == expected.masked
    assert sum(share.rows.item() for share in shares) == len(pairs)


@given(batches(), st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_order_of_the_batch_does_not_matter(
    batch: tuple[Tensor, Tensor, PairIdentity, Tensor, bool], seed: int
) -> None:
    first, second, identity, _, symmetric = batch
    order = torch.randperm(len(first), generator=torch.Generator().manual_seed(seed))
    permuted = PairIdentity(*(x[order] for x in vars(identity).values()))
    found = contrast(first[order], second[order], permuted, 0.5, symmetric)
    expected = contrast(first, second, identity, 0.5, symmetric)
    for name, value in vars(expected).items():
        torch.testing.assert_close(getattr(found, name), value, rtol=1e-12, atol=1e-12)  # order of sums


@given(batches(), st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_padding_does_not_matter(batch: tuple[Tensor, Tensor, PairIdentity, Tensor, bool], extra: int) -> None:
    """Padded rows score highest of all, share every group and text, and are local rows too: nothing changes."""
    first, second, identity, _, symmetric = batch
    padding = torch.full((extra, first.shape[1]), 30.0, dtype=torch.float64)
    padded = PairIdentity(
        *(torch.cat([x, x[:1].expand(extra)]) for x in (identity.group, identity.first_text, identity.second_text)),
        valid=torch.cat([identity.valid, torch.zeros(extra, dtype=torch.bool)]),
    )
    found = contrast(torch.cat([first, padding]), torch.cat([second, padding]), padded, 0.5, symmetric)
    expected = contrast(first, second, identity, 0.5, symmetric)
    for name, value in vars(expected).items():
        torch.testing.assert_close(getattr(found, name), value, rtol=1e-12, atol=1e-12)


def test_bf16_embeddings_are_compared_in_fp32_even_under_autocast() -> None:
    first, second = torch.randn(2, 64, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    expected = contrast(first.double(), second.double(), temperature=0.05).loss.item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = contrast(first.float(), second.float(), temperature=0.05).loss
    assert found.dtype is torch.float32
    # fp32 keeps 7 digits; a bf16 product would be off by about 1e-3
    assert found.item() == pytest.approx(expected, rel=1e-5)
    assert contrast(first, second, temperature=0.05).loss.item() == pytest.approx(expected, rel=1e-5)


def test_shapes_that_do_not_fit_are_refused() -> None:
    first = torch.randn(3, 2)
    with pytest.raises(ValueError, match="3 first candidates, 2 second"):
        contrast(first, first[:2], rows=torch.tensor([0]))
    with pytest.raises(ValueError, match="identity"):
        contrast(first, first, plain_identity(4))
    with pytest.raises(ValueError, match="bool"):
        contrast(first, first, replace(plain_identity(3), valid=torch.ones(3)))
