"""What follows from a recipe and the number of its examples: steps, and where a run that goes on finds its model.

In:  a recipe.
Out: its schedule with a number of steps; the model folder of its newest checkpoint.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mlc.checkpoint.record import checkpoint_folders
from mlc.errors import RecipeError
from mlc.finetune.recipe import FinetuneRecipe, FinetuneScheduleSection
from mlc.tasks.locate import ModelSource, find_model, read_description


def steps_per_epoch(recipe: FinetuneRecipe, examples: int) -> int:
    """Optimizer steps in which every example comes once, the last one filled up from the next epoch."""
    return max(1, -(-examples // recipe.data.samples_per_step))


def resolved_schedule(recipe: FinetuneRecipe, examples: int) -> FinetuneScheduleSection:
    """The schedule with its number of steps.

    Raises:
        RecipeError: warm-up and decay are longer than the run.
    """
    schedule = recipe.schedule
    steps = schedule.total_steps or max(1, round(schedule.epochs * steps_per_epoch(recipe, examples)))
    warmup = schedule.warmup_steps or int(schedule.warmup_fraction * steps)
    if warmup + schedule.decay_steps > steps:
        raise RecipeError(
            "the warm-up is longer than the run",
            found=f"{warmup} of {steps} steps",
            where="schedule",
            hint="--set schedule.warmup_steps=0, or more epochs",
        )
    return schedule.model_copy(
        update={"total_steps": steps, "warmup_steps": warmup, "epochs": 0.0, "warmup_fraction": 0.0}
    )


def model_to_open(recipe: FinetuneRecipe, kind: Literal["finetuned", "checkpoint"]) -> ModelSource:
    """The model folder of the run's newest checkpoint, whose tokenizer is the run's; before the first one the start.

    Args:
        kind: as what the run saves its model.
    """
    for folder in reversed(checkpoint_folders(Path(recipe.run.folder))):
        if (folder / "model" / "mlc.json").is_file() and read_description(folder / "model"):
            return ModelSource(kind, str(folder / "model"))
    return find_model(recipe.model.start)
