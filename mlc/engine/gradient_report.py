"""What `mlc check gradients` compares and how it says so.

In:  the gradient of a step by the training engine, and by the reference.
Out: relative errors and cosines, a table, a JSON file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mlc.engine.reference import StepGradient
from mlc.files import write_json

LEAST_COSINE = 0.999
FLOOR = 1e-3
"""What a group's or a parameter's error is at least divided by, as a share of the norm of the whole gradient: the error
of a gradient that is nearly 0 beside the others says nothing."""
PARTS = 10
"""A group's and a single parameter's error may be so many times the tolerance: rounding does not average out there."""
WIDTH = 120
"""Columns of the table where there is no terminal, such as in the log of a job."""


@dataclass(frozen=True)
class CheckedStep:
    """What was checked, and how.

    Attributes:
        world_size, zero_stage, precision, device: of the step.
        tolerance: largest relative error over all parameters.
        samples, micro_batches: of the global batch.
        changed: in words, how the recipe was made smaller.
    """

    world_size: int
    zero_stage: int
    precision: str
    device: str
    tolerance: float
    samples: int
    micro_batches: int
    changed: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Some parameters' gradients against the reference."""

    parameters: str
    relative_error: float
    """|found - expected| / |expected|, the latter at least `FLOOR` x the norm of the whole gradient."""
    cosine: float


@dataclass(frozen=True)
class ObjectiveResult:
    """What the check of one objective gave; the first comparison is over all parameters."""

    objective: str
    loss: float
    expected_loss: float
    comparisons: tuple[Comparison, ...]
    problem: str
    """Why it failed, in words; empty = it passed."""


def compare(
    objective: str, found: StepGradient, expected: StepGradient, group_of: Mapping[str, str], tolerance: float
) -> ObjectiveResult:
    """Compare two gradients: over all parameters, by group, and the worst parameter.

    Args:
        objective: what to call it.
        found, expected: gradients on the CPU; a parameter that one of them lacks has gradient 0 there.
        group_of: group of every parameter.
        tolerance: largest relative error.
    """
    products = {}
    for name in group_of:
        one, other = found.gradients.get(name), expected.gradients.get(name)
        if one is not None or other is not None:
            products[name] = _Products.of(one, other)
    total = _Products.sum(products.values())
    floor = FLOOR * math.sqrt(total.expected)
    comparisons = [total.compared("all", floor)]
    for group in dict.fromkeys(group_of.values()):
        part = _Products.sum(products[name] for name in products if group_of[name] == group)
        if part.found or part.expected:
            comparisons.append(part.compared(group, floor))
    single = [part.compared(name, floor) for name, part in products.items()]
    if single:
        worst = max(single, key=lambda comparison: comparison.relative_error)
        comparisons.append(Comparison(f"worst: {worst.parameters}", worst.relative_error, worst.cosine))
    problem = _problem(found.loss, expected.loss, comparisons, tolerance, empty=total.expected == 0)
    return ObjectiveResult(objective, found.loss, expected.loss, tuple(comparisons), problem)


@dataclass(frozen=True)
class _Products:
    """Sums over elements, in float64."""

    difference: float = 0.0
    found: float = 0.0
    expected: float = 0.0
    product: float = 0.0

    @classmethod
    def of(cls, found: Tensor | None, expected: Tensor | None) -> _Products:
        present = found if found is not None else expected
        assert present is not None
        nothing = torch.zeros(1, dtype=torch.float64)
        one, other = (nothing if x is None else x.double().flatten() for x in (found, expected))
        one, other = torch.broadcast_tensors(one, other)
        difference = one - other
        return cls(float(difference @ difference), float(one @ one), float(other @ other), float(one @ other))

    @classmethod
    def sum(cls, parts: Iterable[_Products]) -> _Products:
        columns = list(zip(*((p.difference, p.found, p.expected, p.product) for p in parts), strict=True))
        return cls(*map(sum, columns)) if columns else cls()

    def compared(self, parameters: str, floor: float) -> Comparison:
        """With the norm of what is expected raised to `floor`; infinite where a gradient is not finite."""
        norm, lengths = max(math.sqrt(self.expected), floor), math.sqrt(self.found * self.expected)
        error = math.sqrt(self.difference) / norm if norm else math.sqrt(self.difference)
        cosine = self.product / lengths if lengths else float(self.found == self.expected)
        if not (math.isfinite(error) and math.isfinite(cosine)):
            return Comparison(parameters, math.inf, 0.0)
        return Comparison(parameters, error, cosine)


def _problem(loss: float, expected: float, comparisons: list[Comparison], tolerance: float, *, empty: bool) -> str:
    if empty:
        return "nothing to compare: these samples give this objective no gradient; raise --samples"
    for place, comparison in enumerate(comparisons):
        most = tolerance * (PARTS if place else 1)
        if not comparison.relative_error <= most:
            return f"{comparison.parameters}: relative error {comparison.relative_error:.1e} > {most:.0e}"
    if comparisons[0].cosine < LEAST_COSINE:
        return f"cosine {comparisons[0].cosine:.6f} < {LEAST_COSINE}"
    if not abs(loss - expected) <= tolerance * abs(expected):
        return f"the losses differ by more than {tolerance:.0e}"
    return ""


def print_report(console: Console, about: CheckedStep, results: Sequence[ObjectiveResult]) -> None:
    """The table, and what it is of."""
    table = Table(title="gradient of step 0 against one process in float64", title_justify="left")
    for column in ("objective", "J", "parameters"):
        table.add_column(column, overflow="fold")
    for column in ("relative error", "cosine"):
        table.add_column(column, justify="right", no_wrap=True)
    for result in results:
        names = (result.objective, "FAILED" if result.problem else "passed")
        losses = (f"{result.loss:.5f}", f"of {result.expected_loss:.5f}")
        numbers = [(c.parameters, f"{c.relative_error:.1e}", f"{c.cosine:.6f}") for c in result.comparisons]
        for name, loss, number in zip_longest(names, losses, numbers, fillvalue=""):
            table.add_row(name, loss, *(number or ("", "", "")))
        table.add_section()
    if not console.is_terminal:
        console.width = max(console.width, WIDTH)
    console.print(table)
    facts = [
        f"world size {about.world_size}",
        f"ZeRO {about.zero_stage}",
        about.precision,
        about.device,
        f"{about.samples} samples",
        f"data.micro_batches = {about.micro_batches}",
        f"tolerance {about.tolerance:.0e}",
    ]
    console.print(", ".join(facts), highlight=False, soft_wrap=True)
    if about.changed:
        console.print("for this check: " + "; ".join(about.changed), highlight=False, soft_wrap=True)
    for result in results:
        if result.problem:
            console.print(f"FAILED: {result.objective}: {result.problem}", highlight=False, soft_wrap=True)
    if not any(result.problem for result in results):
        console.print("passed: every gradient is that of the whole global batch", highlight=False, soft_wrap=True)


def write_report(path: Path, about: CheckedStep, results: Sequence[ObjectiveResult]) -> None:
    """Write everything as JSON; a number that is not finite is null."""
    objectives = [
        {
            **asdict(result),
            "passed": not result.problem,
            "loss": _finite(result.loss),
            "comparisons": [
                {**asdict(comparison), "relative_error": _finite(comparison.relative_error)}
                for comparison in result.comparisons
            ],
        }
        for result in results
    ]
    passed = not any(result.problem for result in results)
    thresholds = {"least_cosine": LEAST_COSINE, "floor": FLOOR, "parts": PARTS}
    write_json(path, {"passed": passed, **asdict(about), **thresholds, "objectives": objectives})


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
