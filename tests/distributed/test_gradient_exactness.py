"""Promise 1: the ranks' averaged gradient is the single-process, full-batch gradient, for every objective.

The loss alone cannot show this: a wrong gather gives the same loss and another gradient. The same checker is run on
known mistakes, to show that it sees them.
"""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from ranks import run_on_ranks
from torch import Tensor
from toy_run import Case, Method, Outcome, reference, relative_error, run_methods

from mlc.distributed.gather import gather_rows_detached

# float64: only the order of sums differs, so about 1e-15 is expected; an error in the method shows at 1e-3 and above.
TOLERANCE = 1e-10

CASES = [
    Case("contrastive symmetric", 12, contrastive=1.0),
    Case("contrastive one-way", 12, contrastive=1.0, symmetric=False),
    Case("contrastive uneven", 10, contrastive=1.0),
    Case("contrastive copies symmetric", 12, contrastive=0.7, copies=True),
    Case("contrastive copies one-way uneven", 11, contrastive=0.7, symmetric=False, copies=True),
    Case("contrastive some without a partner", 10, contrastive=1.0, with_partner=0.6),
    Case("glm", 9, glm=1.3),
    Case("mlm", 9, mlm=0.4),
    Case("joint", 12, contrastive=1.0, glm=0.6, mlm=0.3, copies=True),
    Case("joint uneven", 9, contrastive=1.0, glm=0.6, mlm=0.3, copies=True, with_partner=0.8),
    Case("joint fewer samples than ranks", 3, contrastive=1.0, glm=0.6, mlm=0.3),
    Case("joint without pairs", 6, contrastive=1.0, glm=0.6, mlm=0.3, with_partner=0.0),
    Case("joint without tokens", 6, contrastive=1.0, glm=0.6, mlm=0.3, most_tokens=0),
]


@pytest.fixture(scope="module", params=[1, 2, 3, 4], ids=lambda world_size: f"ranks{world_size}")
def outcomes(request: pytest.FixtureRequest) -> dict[tuple[str, str], Outcome]:
    """One start of the processes for all cases; rank 0's view, as the averages are the same on all."""
    return run_on_ranks(run_methods, request.param, CASES, [Method()])[0]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_averaged_gradient_is_the_full_batch_gradient(case: Case, outcomes: dict[tuple[str, str], Outcome]) -> None:
    found, expected = outcomes[case.name, "exact"], reference(case)
    assert found.loss == pytest.approx(expected.loss, rel=TOLERANCE)
    assert relative_error(found.gradients, expected.gradients) <= TOLERANCE
    assert (found.correct, found.masked) == (expected.correct, expected.masked)


def test_cases_hold_what_their_names_say() -> None:
    """Otherwise the masks could be ignored on both sides."""
    for case in CASES:
        assert (reference(case).masked > 0) == case.copies, case.name


def candidates_without_gradient(x: Tensor) -> Tensor:
    return gather_rows_detached(x)


class LocalBackward(torch.autograd.Function):
    """Gives each rank only the gradient that it computed itself for its own rows."""

    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        return gather_rows_detached(x)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


def gather_with_local_backward(x: Tensor) -> Tensor:
    return LocalBackward.apply(x)


def times_world_size(world_size: int) -> float:
    return float(world_size)


def without_world_size(world_size: int) -> float:
    return 1.0 / world_size


MISTAKES = [
    Method("candidates carry no gradient", gather=candidates_without_gradient),
    Method("gather keeps only the local gradient", gather=gather_with_local_backward),
    Method("loss multiplied by the world size", loss_factor=times_world_size),
    Method("sum over ranks left to the mean", loss_factor=without_world_size),
    Method("denominators counted on each rank", local_denominators=True),
    Method("padding counts as a pair", padding_is_valid=True),
]
UNEVEN_JOINT = next(case for case in CASES if case.name == "joint uneven")


@pytest.fixture(scope="module")
def mistaken() -> dict[tuple[str, str], Outcome]:
    return run_on_ranks(run_methods, 2, [UNEVEN_JOINT], MISTAKES)[0]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_the_check_sees_known_mistakes(mistake: Method, mistaken: dict[tuple[str, str], Outcome]) -> None:
    found = mistaken[UNEVEN_JOINT.name, mistake.name]
    assert relative_error(found.gradients, reference(UNEVEN_JOINT).gradients) > 1e-3


def test_gather_mistakes_leave_the_loss_unchanged(mistaken: dict[tuple[str, str], Outcome]) -> None:
    """Why the gradients are compared: these two report the right loss to every digit."""
    expected = reference(UNEVEN_JOINT).loss
    for mistake in MISTAKES[:2]:
        assert mistaken[UNEVEN_JOINT.name, mistake.name].loss == pytest.approx(expected, rel=TOLERANCE)
