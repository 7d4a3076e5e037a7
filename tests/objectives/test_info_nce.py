"""InfoNCE in one process: values by hand, the naive formula on random shapes and masks, and what must not matter."""

from __future__ import annotations

import math
from dataclasses import replace

import contrast_cases
import pytest
import torch
from contrast_cases import ContrastCase
from contrast_cases import contrast_cases as cases
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mlc.objectives.info_nce import ContrastiveSums, InfoNceSettings, PairIdentity, info_nce_sum
from mlc.objectives.negatives import Negatives
from mlc.objectives.tiles import TileSize


def plain_identity(rows: int) -> PairIdentity:
    index = torch.arange(rows)
    return PairIdentity(
        torch.full((rows,), -1), index, 1000 + index, 0 * index, 0 * index, torch.ones(rows, dtype=torch.bool)
    )


def contrast(
    first: Tensor,
    second: Tensor,
    identity: PairIdentity | None = None,
    temperature: float | Tensor = 1.0,
    symmetric: bool = True,
    tile: TileSize | None = None,
) -> ContrastiveSums:
    return info_nce_sum(
        first,
        second,
        second,
        own_index_N=torch.arange(len(first)),
        identity=identity or plain_identity(len(first)),
        temperature=temperature,
        settings=InfoNceSettings(symmetric=symmetric, tile=tile or TileSize()),
    )


def turned(identity: PairIdentity) -> PairIdentity:
    return replace(identity, first_text=identity.second_text, second_text=identity.first_text)


# Similarities with first = identity matrix: sim[i, j] = second[j, i]
FIRST = torch.eye(2, dtype=torch.float64)
SECOND = torch.tensor([[2.0, 1.0], [3.0, 5.0]], dtype=torch.float64)  # sim = [[2, 3], [1, 5]]


def test_values_by_hand() -> None:
    one_way = math.log(1 + math.exp(3 - 2)) + math.log(1 + math.exp(1 - 5))
    other_way = math.log(1 + math.exp(1 - 2)) + math.log(1 + math.exp(3 - 5))
    found = contrast(FIRST, SECOND, symmetric=False)
    assert found.loss.item() == pytest.approx(one_way, rel=1e-14)
    assert (found.correct.item(), found.rows.item(), found.masked.item()) == (1, 2, 0)  # row 0 prefers candidate 1
    assert found.directions[0].loss.sum().item() == pytest.approx(one_way, rel=1e-14)
    found = contrast(FIRST, SECOND)
    assert found.loss.item() == pytest.approx((one_way + other_way) / 2, rel=1e-14)
    assert (found.correct.item(), found.rows.item()) == (1.5, 2)
    assert [d.correct.tolist() for d in found.directions] == [[False, True], [True, True]]
    half = contrast(FIRST, SECOND, temperature=0.5, symmetric=False)
    assert half.loss.item() == pytest.approx(math.log(1 + math.exp(2)) + math.log(1 + math.exp(-8)), rel=1e-14)


def test_variants_by_hand() -> None:
    def loss(**settings: object) -> float:
        chosen = InfoNceSettings(symmetric=False, **settings)  # type: ignore[arg-type]
        sums = info_nce_sum(
            FIRST,
            SECOND,
            SECOND,
            own_index_N=torch.arange(2),
            identity=replace(plain_identity(2), second_language=torch.tensor([0, 1])),
            temperature=1.0,
            settings=chosen,
        )
        return sums.loss.item()

    assert loss(decoupled=True) == pytest.approx((3 - 2) + (1 - 5), rel=1e-14)
    with_margin = math.log(1 + math.exp(3 - 1.5)) + math.log(1 + math.exp(1 - 4.5))
    assert loss(margin=0.5) == pytest.approx(with_margin, rel=1e-14)
    assert loss(negatives="same_language") == 0  # the other answer is in another language
    assert loss(negatives="cross_language") == loss()


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
    backward = contrast(SECOND, FIRST, turned(changed), symmetric=False)
    assert (forward.masked.item(), backward.masked.item()) == (forward_masked, backward_masked)
    assert contrast(FIRST, SECOND, changed).masked.item() == (forward_masked + backward_masked) / 2
    if forward_masked == 2:  # nothing but the partner left
        assert forward.loss.item() == 0
        assert forward.correct.item() == 2


@pytest.mark.parametrize("decoupled", [False, True])
def test_a_row_without_negatives_has_no_loss_and_no_gradient(decoupled: bool) -> None:
    first = torch.randn(1, 4, dtype=torch.float64, requires_grad=True)
    second = torch.randn(1, 4, dtype=torch.float64, requires_grad=True)
    temperature = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    found = info_nce_sum(
        first,
        second,
        second,
        own_index_N=torch.arange(1),
        identity=plain_identity(1),
        temperature=temperature,
        settings=InfoNceSettings(decoupled=decoupled),
    )
    found.loss.backward()
    assert found.loss.item() == 0
    assert torch.equal(first.grad, torch.zeros(1, 4))
    assert torch.equal(second.grad, torch.zeros(1, 4))
    assert temperature.grad.item() == 0


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


@given(cases())
@settings(max_examples=300)
def test_equals_the_formula_for_loss_gradients_and_counts(case: ContrastCase) -> None:
    contrast_cases.assert_same(contrast_cases.in_one_process(case), contrast_cases.naive(case), case)


@given(cases(), st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=100)
def test_tiles_do_not_matter(case: ContrastCase, rows: int, columns: int) -> None:
    tiled = replace(case, settings=replace(case.settings, tile=TileSize(rows, columns)))
    contrast_cases.assert_same(contrast_cases.in_one_process(tiled), contrast_cases.in_one_process(case), case)


@given(cases(), st.integers(0, 2**31))
@settings(max_examples=50)
def test_order_of_the_batch_does_not_matter(case: ContrastCase, seed: int) -> None:
    order = torch.randperm(len(case.first), generator=torch.Generator().manual_seed(seed))
    identity = PairIdentity(*(x[order] for x in vars(case.identity).values()))
    permuted = replace(case, first=case.first[order], second=case.second[order], identity=identity)
    found, expected = contrast_cases.in_one_process(permuted), contrast_cases.in_one_process(case)
    back = [gradient[order.argsort()] for gradient in found.gradients[:2]] + found.gradients[2:]
    contrast_cases.assert_same(replace(found, gradients=back), expected, case)


@given(cases(), st.integers(1, 4))
@settings(max_examples=50)
def test_padding_does_not_matter(case: ContrastCase, extra: int) -> None:
    """Padded rows score highest of all, share every group and text, and are local rows too: nothing changes."""
    padding = torch.full((extra, case.first.shape[1]), 30.0, dtype=torch.float64)
    columns = {name: torch.cat([x, x[:1].expand(extra)]) for name, x in vars(case.identity).items()}
    columns["valid"] = torch.cat([case.identity.valid, torch.zeros(extra, dtype=torch.bool)])
    padded = replace(
        case,
        first=torch.cat([case.first, padding]),
        second=torch.cat([case.second, padding]),
        identity=PairIdentity(**columns),
    )
    found, expected = contrast_cases.in_one_process(padded), contrast_cases.in_one_process(case)
    for gradient in found.gradients[:2]:
        assert not gradient[len(case.first) :].any()
    cut = [g[: len(case.first)] for g in found.gradients[:2]] + found.gradients[2:]
    contrast_cases.assert_same(replace(found, gradients=cut), expected, case)


class _ForgetsCopies(Negatives):
    def _rows_with_copies(self) -> Tensor:
        return torch.zeros_like(self._anchors.valid)


class _ForgetsPadding(Negatives):
    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self._any_invalid = False


class _ForgetsLanguages(Negatives):
    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **{**kwargs, "languages": None})  # type: ignore[arg-type]


@pytest.mark.parametrize("mutant", [_ForgetsCopies, _ForgetsPadding, _ForgetsLanguages])
def test_the_comparison_sees_forgotten_masks(mutant: type[Negatives], monkeypatch: pytest.MonkeyPatch) -> None:
    case = contrast_cases.hard_case()
    expected = contrast_cases.naive(case)
    contrast_cases.assert_same(contrast_cases.in_one_process(case), expected, case)
    monkeypatch.setattr("mlc.objectives.info_nce.Negatives", mutant)
    with pytest.raises(AssertionError):
        contrast_cases.assert_same(contrast_cases.in_one_process(case), expected, case)


def test_no_matrix_of_the_batch_is_stored() -> None:
    """The largest tensor between forward and backward is an embedding matrix, not rows x candidates."""
    first = torch.randn(2048, 4, requires_grad=True)
    stored: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        stored.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        contrast(first, first * 2, tile=TileSize(64, 64)).loss.backward()
    assert max(stored) <= first.numel()


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
    with pytest.raises(ValueError, match="first rows"):
        contrast(first, first[:2])
    with pytest.raises(ValueError, match="identity"):
        contrast(first, first, plain_identity(4))
    with pytest.raises(ValueError, match="bool"):
        contrast(first, first, replace(plain_identity(3), valid=torch.ones(3)))
