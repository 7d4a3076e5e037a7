"""Learning rate as a pure function of the step, so that nothing about it needs saving."""

from __future__ import annotations

import math

from mlc.recipe import ScheduleSection


def learning_rate_factor(schedule: ScheduleSection, step: int) -> float:
    """Fraction of the peak learning rate at optimizer step `step`, counted from 0.

    Warm-up is linear and reaches 1 at its last step. Then: "constant"; "linear" or "cosine" (Loshchilov & Hutter 2017,
    eq. 5) down to `final_fraction` at the last step; "wsd" (Hu et al. 2024, MiniCPM, section 4.2) stays at 1 and falls
    linearly over the last `decay_steps`.
    """
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    start = schedule.total_steps - schedule.decay_steps if schedule.kind == "wsd" else schedule.warmup_steps
    progress = min(1.0, max(0.0, (step - start + 1) / max(1, schedule.total_steps - start)))
    floor = schedule.final_fraction
    match schedule.kind:
        case "constant":
            return 1.0
        case "cosine":
            return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2
        case _:
            return 1 - (1 - floor) * progress
