"""Learning rates at their landmarks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlc.engine.schedule import learning_rate_factor
from mlc.recipe import ScheduleSection

KINDS = st.sampled_from(["constant", "linear", "cosine", "wsd"])


def _schedule(kind: str, total: int = 100, warmup: int = 10, floor: float = 0.1) -> ScheduleSection:
    decay = 20 if kind == "wsd" else 0
    return ScheduleSection(kind=kind, total_steps=total, warmup_steps=warmup, decay_steps=decay, final_fraction=floor)


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine", "wsd"])
def test_warmup_is_linear_and_reaches_the_peak(kind: str) -> None:
    factors = [learning_rate_factor(_schedule(kind), step) for step in range(10)]
    assert factors == pytest.approx([(step + 1) / 10 for step in range(10)])


@pytest.mark.parametrize(("kind", "at"), [("linear", 54), ("cosine", 54), ("wsd", 89)])
def test_half_way_down_and_at_the_end(kind: str, at: int) -> None:
    schedule = _schedule(kind)
    assert learning_rate_factor(schedule, at) == pytest.approx(0.55)
    assert learning_rate_factor(schedule, 99) == pytest.approx(0.1)


def test_wsd_is_flat_before_it_falls() -> None:
    schedule = _schedule("wsd")
    assert {learning_rate_factor(schedule, step) for step in range(10, 80)} == {1.0}
    assert learning_rate_factor(schedule, 80) < 1


@given(kind=KINDS, step=st.integers(10, 98))
def test_it_never_rises_after_the_warmup(kind: str, step: int) -> None:
    schedule = _schedule(kind)
    assert learning_rate_factor(schedule, step + 1) <= learning_rate_factor(schedule, step) <= 1
