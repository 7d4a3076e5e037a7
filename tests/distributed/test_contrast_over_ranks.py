"""The contrast with every feature, on 1 to 4 ranks: loss, counts and each gradient are those of the plain formula.

Random batches, uneven over ranks, with padding, copies, hard negatives and a queue; the same checker is run on known
mistakes, to show that it sees them.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from contrast_cases import ContrastCase, Solved, assert_same, hard_case, make_case, naive, on_this_rank
from ranks import run_on_ranks
from torch import Tensor

from mlc.distributed.gather import gather_rows_detached
from mlc.objectives.info_nce import InfoNceSettings
from mlc.objectives.tiles import TileSize

RANDOM_CASES = 120


def all_cases() -> list[ContrastCase]:
    """Every combination of the settings, each on random shapes; seeded, so every process makes the same."""
    choose = random.Random(17)
    combinations = [
        InfoNceSettings(symmetric, decoupled, margin, negatives, tile)  # type: ignore[arg-type]
        for symmetric in (True, False)
        for decoupled in (False, True)
        for margin in (0.0, 0.3)
        for negatives in ("all", "same_language", "cross_language")
        for tile in (TileSize(), TileSize(2, 3))
    ]
    return [hard_case()] + [
        make_case(
            number,
            pairs=choose.randint(1, 9),
            size=choose.randint(1, 5),
            kinds=choose.choice([2, 5, 1000]),
            groups=choose.choice([0, 2, 50]),
            further=(choose.choice([0, 1, 5]), choose.choice([0, 3])),
            share_valid=choose.choice([0.0, 0.5, 1.0]),
            temperature=choose.uniform(0.2, 2.0),
            settings=combinations[number % len(combinations)],
        )
        for number in range(RANDOM_CASES)
    ]


def solve_all() -> list[Solved]:
    return [on_this_rank(case) for case in all_cases()]


@pytest.fixture(scope="module", params=[1, 2, 3, 4], ids=lambda world_size: f"ranks{world_size}")
def solved(request: pytest.FixtureRequest) -> list[Solved]:
    """One start of the processes for all cases; sums over ranks are the same on all."""
    return run_on_ranks(solve_all, request.param)[0]


def test_every_gradient_is_that_of_the_formula(solved: list[Solved]) -> None:
    for found, case in zip(solved, all_cases(), strict=True):
        assert_same(found, naive(case), case)


def test_cases_hold_what_makes_them_hard() -> None:
    """Otherwise masks and further candidates could be ignored on both sides."""
    found = [naive(case) for case in all_cases()]
    assert sum(solution.masked > 0 for solution in found) > RANDOM_CASES / 3
    assert sum(bool(case.more_second) and bool(case.more_first) for case in all_cases()) > RANDOM_CASES / 6
    assert sum(solution.loss == 0 for solution in found) >= 3  # nothing valid, or nothing left to compare


def columns_of_this_rank_alone(x: Tensor) -> Tensor:
    return x


class GradientOfThisRankAlone(torch.autograd.Function):
    """Puts the columns together rightly, but keeps only the gradient that arose on this rank."""

    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        total = x.clone()
        dist.all_reduce(total.exp_())
        ctx.save_for_backward(x, total.log_())
        return total.clone()

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        x, total = ctx.saved_tensors
        return gradient * (x - total).exp()


def solve_with_mistakes() -> dict[str, Solved]:
    case = replace(hard_case(), settings=replace(hard_case().settings, negatives="all"))
    found = {"none": on_this_rank(case), "detached gather": on_this_rank(case, gather_rows_detached)}
    import contrast_cases

    right = contrast_cases.log_sum_exp_over_ranks
    for name, mistake in (
        ("columns of one rank", columns_of_this_rank_alone),
        ("column gradient of one rank", GradientOfThisRankAlone.apply),
    ):
        contrast_cases.log_sum_exp_over_ranks = mistake  # type: ignore[assignment]
        found[name] = on_this_rank(case)
    contrast_cases.log_sum_exp_over_ranks = right
    return found


def test_the_check_sees_known_mistakes() -> None:
    case = replace(hard_case(), settings=replace(hard_case().settings, negatives="all"))
    found, expected = run_on_ranks(solve_with_mistakes, 2)[0], naive(case)
    assert_same(found.pop("none"), expected, case)
    assert len(found) == 3
    for name, solution in found.items():
        with pytest.raises(AssertionError):
            assert_same(solution, expected, case)
        if name != "columns of one rank":  # why gradients are compared: the losses are right
            assert solution.loss == pytest.approx(expected.loss, rel=1e-10)
