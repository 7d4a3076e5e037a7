"""What may differ between a run and its continuation, and what follows for its plan.

In:  a verified checkpoint with the recipe it was saved with; the recipe, shards and ranks of this start.
Out: notes for people, or a refusal that names the keys; the ranks x micro-batches of this start.

Keys are of three kinds. Harmless ones do not touch what is computed, or touch only the order of floating-point sums.
Fixed ones would leave saved tensors or the meaning of the position behind. All others change what is learned from here
on: they are refused until `run.allow_changes` names them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mlc.checkpoint.record import Plan, Record
from mlc.config import read_recipe
from mlc.data.batches import check_batch_size
from mlc.engine.resume import Start
from mlc.engine.work import Work
from mlc.errors import RecipeError
from mlc.recipe import RunRecipe
from mlc.run_names import RECIPE_NAME

HARMLESS = (
    "run.folder",
    "run.resume",
    "run.allow_changes",
    "run.threads_per_rank",
    "run.time_limit_minutes",
    "run.stall_timeout_seconds",
    "data.micro_batches",
    "checkpoint",
    "divergence",
    "log",
    "deepspeed",
)
"""Keys and tables of every run that touch nothing, or only the order of floating-point sums."""


def check_changes(start: Start, work: Work) -> list[str]:
    """Compare what the checkpoint was trained on with what this start asks for.

    Args:
        start: where the run goes on.
        work: of this start.

    Returns:
        Accepted changes, a line each.

    Raises:
        RecipeError: one that is not accepted, with how to accept it where that is possible.
    """
    work.check_continuation(start)
    recipe, rules = work.recipe, work.rules
    saved, identity = start.record.identity, work.identity()
    before = _flat(json.loads(_saved_recipe(start, recipe).model_dump_json()))
    after = _flat(json.loads(recipe.model_dump_json()))
    _check_names(work, after)
    harmless = HARMLESS + rules.harmless
    changed = {
        key: f"{key} = {after.get(key)!r}, was {before.get(key)!r}"
        for key in _different(before, after)
        if not _within(key, harmless)
    }
    for name, (allowed_as, phrase) in rules.contents.items():
        if saved.get(name) != identity[name]:
            changed[allowed_as] = f"{phrase} {identity[name][:12]}, was {saved.get(name, 'none')[:12]}"
    fixed = [key for key in changed if _within(key, rules.fixed) and not _within(key, rules.not_fixed)]
    if fixed:
        raise RecipeError(
            "the run cannot go on with another " + " and another ".join(fixed),
            found="; ".join(changed[key] for key in fixed),
            needed="the same values",
            where=str(start.folder / RECIPE_NAME),
            hint="undo the change, or start a new run.folder",
        )
    refused = [key for key in changed if not _within(key, recipe.run.allow_changes)]
    if refused:
        names = json.dumps(sorted({*recipe.run.allow_changes, *refused}))
        raise RecipeError(
            "the recipe or its data differ from what this run was started with",
            found="; ".join(changed[key] for key in refused),
            needed="the same, or that you allow the change",
            where=str(start.folder / RECIPE_NAME),
            hint=f"undo the change, or allow it from here on: --set 'run.allow_changes={names}'",
        )
    return [f"changed, as run.allow_changes says: {line}" for line in changed.values()]


def plan_of(work: Work, world_size: int, start: Start | None) -> tuple[Plan, Plan]:
    """Ranks x micro-batches for this start, so that one forward pass holds no more samples than it did at first.

    The global batch is the recipe's on any number of ranks. The first start (and every one whose `data.micro_batches`
    is another than before) takes the recipe's number; others take as many as keep a micro-batch as large or smaller.

    Returns:
        The plan of this start, and the one it was derived from.

    Raises:
        RecipeError: too few samples for so many ranks, or an objective whose negatives depend on the plan.
    """
    recipe = work.recipe
    asked = Plan(world_size, recipe.data.micro_batches)
    asked_before = start is not None and _saved_recipe(start, recipe).data.micro_batches == asked.micro_batches
    first = start.record.first_plan if start is not None and asked_before else asked
    plan = first if first.world_size == world_size else work.next_plan(first, world_size)
    check_batch_size(recipe.data.samples_per_step, plan.micro_batches, world_size)
    return plan, first


def micro_batches_as_large(first: Plan, world_size: int, samples_per_step: int) -> Plan:
    """The plan whose micro-batches are as large as the first plan's, or smaller."""
    needed = -(-first.world_size * first.micro_batches // world_size)
    return Plan(world_size, max(1, min(needed, samples_per_step // world_size)))


def notes_on(record: Record, *, plan: Plan, zero_stage: int) -> list[str]:
    """Notes on what else is different from when the checkpoint was written; none of it changes what is learned."""
    notes = []
    if record.plan != plan:
        before = f"{record.plan.world_size} x {record.plan.micro_batches}"
        now = f"{plan.world_size} ranks x {plan.micro_batches} micro-batches"
        notes.append(f"{now}, was {before}: the same global batches in another order of sums")
    if record.zero_stage != zero_stage:
        notes.append(f"ZeRO {zero_stage}, was {record.zero_stage}")
    return notes


def _saved_recipe(start: Start, recipe: RunRecipe) -> RunRecipe:
    """Read anew, so that keys which a later version of the program brings have their defaults."""
    return read_recipe(start.folder / RECIPE_NAME, type(recipe))


def _check_names(work: Work, flat: Mapping[str, Any]) -> None:
    contents = [allowed_as for allowed_as, _ in work.rules.contents.values()]
    for name in work.recipe.run.allow_changes:
        if name not in contents and not any(_within(key, (name,)) for key in flat):
            raise RecipeError(
                "no such key or table",
                where="run.allow_changes",
                found=name,
                needed='a key such as "optimizer.learning_rate", a table such as "schedule", or '
                + " or ".join(f'"{name}"' for name in contents),
            )


def _different(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]


def _within(key: str, names: tuple[str, ...]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
