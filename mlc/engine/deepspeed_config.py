"""The DeepSpeed configuration of a run: the file says how memory is sharded, the recipe owns everything else.

In:  a file of ds_configs/, the recipe, the number of ranks.
Out: the dictionary for `deepspeed.initialize`.

A key that the recipe owns is "auto" or absent in the file; anything else is a second owner, and refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlc.errors import RecipeError
from mlc.recipe import RunRecipe

OWNED_BY_RECIPE = {
    "train_batch_size": "data.samples_per_step",
    "train_micro_batch_size_per_gpu": "data.samples_per_step",
    "gradient_accumulation_steps": "data.micro_batches",
    "gradient_clipping": "optimizer.gradient_clipping",
    "optimizer": "optimizer",
    "scheduler": "schedule",
    "bf16": "run.precision",
    "fp16": "run.precision",
    "amp": "run.precision",
    "torch_autocast": "run.precision",
}
"""Key of the DeepSpeed file -> key of the recipe that decides it."""

STAGES = (1, 2, 3)


def deepspeed_config(recipe: RunRecipe, world_size: int) -> dict[str, Any]:
    """Read the recipe's DeepSpeed file and fill in what the recipe owns.

    Raises:
        RecipeError: the file is missing, is no JSON, contradicts the recipe, or has no ZeRO stage 1, 2 or 3.
    """
    path = Path(recipe.deepspeed.config)
    config = _read(path)
    for key, owner in OWNED_BY_RECIPE.items():
        value = config.pop(key, "auto")
        if value not in ("auto", {"enabled": "auto"}):
            raise RecipeError(
                f"{key} is set in the DeepSpeed file, but the recipe owns it ({owner})",
                found=f"{key} = {value!r}",
                needed='"auto", or no such key',
                where=str(path),
                hint=f'write "auto" for {key} in {path} and set {owner} in the recipe',
            )
    stage = config.get("zero_optimization", {}).get("stage")
    if stage not in STAGES:
        raise RecipeError(
            "no supported ZeRO stage", found=stage, needed="zero_optimization.stage 1, 2 or 3", where=str(path)
        )
    ranks_and_micro_batches = world_size * recipe.data.micro_batches
    return {
        **config,
        # DeepSpeed uses it for its own logging only: the loss carries its denominators (mlc.objectives.joint).
        "train_micro_batch_size_per_gpu": -(-recipe.data.samples_per_step // ranks_and_micro_batches),
        "gradient_accumulation_steps": recipe.backward_passes,
        "gradient_clipping": recipe.optimizer.gradient_clipping,
        "bf16": {"enabled": recipe.run.precision == "bf16"},
        "fp16": {"enabled": recipe.run.precision == "fp16"},
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(
            "the DeepSpeed file cannot be read",
            found=str(error),
            where="deepspeed.config",
            hint='set deepspeed.config to a file such as "ds_configs/zero3.json"; paths start at the working directory',
        ) from None
    except json.JSONDecodeError as error:
        raise RecipeError("the DeepSpeed file is not valid JSON", found=str(error), where=str(path)) from None
    if not isinstance(config, dict):
        raise RecipeError("the DeepSpeed file holds no JSON object", found=type(config).__name__, where=str(path))
    return config
