"""Leaves an update out when the gradient is too long, before it can harm the weights.

In:  a DeepSpeed engine and the largest norm of a good gradient.
Out: after each step, whether its update was left out.

DeepSpeed 0.19.8 leaves out updates whose gradient is not finite, in every stage and precision. A finite one it clips
and applies, however long it was. It knows the norm before it calls the optimizer that it wraps, so a step of that
optimizer which does nothing leaves weights and moments as they were.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class UpdateGuard:
    """Stands before the step of the optimizer that DeepSpeed wraps.

    Args:
        engine: DeepSpeed engine.
        norm_limit: largest global L2 norm before clipping; 0 = any.
    """

    def __init__(self, engine: Any, norm_limit: float) -> None:
        self._zero, self._limit = engine.optimizer, norm_limit
        self._step: Callable[[], Any] = self._zero.optimizer.step
        self._too_long = False
        if norm_limit:
            self._zero.optimizer.step = self._step_if_short

    def begin(self) -> None:
        """A step begins."""
        self._too_long = False

    @property
    def left_out(self) -> bool:
        """Whether the update of the step just taken was left out, by DeepSpeed or for its length."""
        return self._too_long or bool(self._zero.overflow)

    def _step_if_short(self) -> None:
        # The norm is over all ranks, so all of them do the same.
        if float(self._zero._global_grad_norm) > self._limit:
            self._too_long = True
        else:
            self._step()
