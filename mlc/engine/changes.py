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
from mlc.engine.saver import RECIPE
from mlc.errors import RecipeError
from mlc.recipe import TrainRecipe

SHARDS = "shards"
"""Names, in `run.allow_changes`, another content of the shards."""

HARMLESS = (
    "run.folder",
    "run.resume",
    "run.allow_changes",
    "run.threads_per_rank",
    "run.time_limit_minutes",
    "run.stall_timeout_seconds",
    "data.shards",
    "data.micro_batches",
    "checkpoint",
    "divergence",
    "log",
    "deepspeed",
)
"""Keys and tables. The shards are compared by content."""

FIXED = ("model", "data.samples_per_step")
"""The model's tensors are those of the checkpoint; sample numbers are multiples of the global batch."""

NOT_FIXED = ("model.dropout",)


def check_changes(start: Start, recipe: TrainRecipe, identity: Mapping[str, str]) -> list[str]:
    """Compare what the checkpoint was trained on with what this start asks for.

    Args:
        start: where the run goes on.
        recipe: of this start.
        identity: from `mlc.engine.preflight.run_identity`, of this start.

    Returns:
        Accepted changes, a line each.

    Raises:
        RecipeError: one that is not accepted, with how to accept it where that is possible.
    """
    saved = start.record.identity
    if saved["tokenizer"] != identity["tokenizer"]:
        raise RecipeError(
            "this run was trained on another tokenizer",
            found=f"tokenizer {identity['tokenizer'][:12]} in {recipe.data.shards}",
            needed=f"tokenizer {saved['tokenizer'][:12]}",
            where=recipe.run.folder,
            hint="point data.shards at shards of the run's own tokenizer, or start a new run.folder",
        )
    before = _flat(json.loads(_saved_recipe(start).model_dump_json()))
    after = _flat(json.loads(recipe.model_dump_json()))
    _check_names(recipe, after)
    changed = {key: f"{key} = {after.get(key)!r}, was {before.get(key)!r}" for key in _different(before, after)}
    if saved["shards"] != identity["shards"]:
        changed[SHARDS] = f"shards {identity['shards'][:12]} in {recipe.data.shards}, was {saved['shards'][:12]}"
    if saved["encoder"] != identity["encoder"]:
        changed["model.config"] = f"another content of {recipe.model.config}"
    fixed = [key for key in changed if _within(key, FIXED) and not _within(key, NOT_FIXED)]
    if fixed:
        raise RecipeError(
            "the run cannot go on with another " + " and another ".join(fixed),
            found="; ".join(changed[key] for key in fixed),
            needed="the same values",
            where=str(start.folder / RECIPE),
            hint="undo the change, or start a new run.folder",
        )
    refused = [key for key in changed if not _within(key, recipe.run.allow_changes)]
    if refused:
        names = json.dumps(sorted({*recipe.run.allow_changes, *refused}))
        raise RecipeError(
            "the recipe or its shards differ from what this run was started with",
            found="; ".join(changed[key] for key in refused),
            needed="the same, or that you allow the change",
            where=str(start.folder / RECIPE),
            hint=f"undo the change, or allow it from here on: --set 'run.allow_changes={names}'",
        )
    return [f"changed, as run.allow_changes says: {line}" for line in changed.values()]


def plan_of(recipe: TrainRecipe, world_size: int, start: Start | None) -> tuple[Plan, Plan]:
    """Ranks x micro-batches for this start, so that one forward pass holds no more samples than it did at first.

    The global batch is the recipe's on any number of ranks. The first start (and every one whose `data.micro_batches`
    is another than before) takes the recipe's number; others take as many as keep a micro-batch as large or smaller.

    Returns:
        The plan of this start, and the one it was derived from.

    Raises:
        RecipeError: too few samples for so many ranks, or an objective whose negatives depend on the plan.
    """
    samples, asked = recipe.data.samples_per_step, Plan(world_size, recipe.data.micro_batches)
    asked_before = start is not None and _saved_recipe(start).data.micro_batches == asked.micro_batches
    first = start.record.first_plan if start is not None and asked_before else asked
    if first.world_size == world_size:
        plan = first
    elif recipe.objectives.micro_batch_contrastive.weight:
        plan = _same_micro_batches(first, world_size)
    elif recipe.objectives.perturbation.weight or recipe.log.gradient_cosine_every:
        plan = Plan(world_size, 1)  # they need it
    else:
        needed = -(-first.world_size * first.micro_batches // world_size)
        plan = Plan(world_size, max(1, min(needed, samples // world_size)))
    check_batch_size(samples, plan.micro_batches, world_size)
    return plan, first


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


def _same_micro_batches(first: Plan, world_size: int) -> Plan:
    parts = first.world_size * first.micro_batches
    if parts % world_size:
        raise RecipeError(
            "objectives.micro_batch_contrastive takes its negatives from a micro-batch, and these would be other ones",
            found=f"{world_size} ranks",
            needed=f"a number of ranks that divides {parts}, the micro-batches of a step",
            hint="use objectives.contrastive, which is the same on any number of ranks",
        )
    return Plan(world_size, parts // world_size)


def _saved_recipe(start: Start) -> TrainRecipe:
    """Read anew, so that keys which a later version of the program brings have their defaults."""
    return read_recipe(start.folder / RECIPE, TrainRecipe)


def _check_names(recipe: TrainRecipe, flat: Mapping[str, Any]) -> None:
    for name in recipe.run.allow_changes:
        if name != SHARDS and not any(_within(key, (name,)) for key in flat):
            raise RecipeError(
                "no such key or table",
                where="run.allow_changes",
                found=name,
                needed=f'a key such as "optimizer.learning_rate", a table such as "schedule", or "{SHARDS}"',
            )


def _different(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return [
        key for key in sorted({*before, *after}) if before.get(key) != after.get(key) and not _within(key, HARMLESS)
    ]


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
