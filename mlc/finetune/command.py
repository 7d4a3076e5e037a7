"""`mlc finetune`: a pre-trained model, a task, its data.

In:  the command line.
Out: a run folder; MlcError goes up to mlc.cli, which owns exit codes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer


def finetune(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.toml", help="Recipe of the run.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a key of the recipe; repeatable."),
    ] = None,
) -> None:
    """Fine-tune a model; continue from the run's newest complete checkpoint if there is one.

    Started alone it is one rank; torchrun, deepspeed, mpirun and srun start more, as with mlc train. The run folder
    gets scores.jsonl (development data) and test.json (test data, with the best checkpoint).
    """
    from mlc.config import read_recipe
    from mlc.distributed.ranks import find_ranks
    from mlc.finetune.recipe import FinetuneRecipe

    resolved = read_recipe(recipe, FinetuneRecipe, overrides or ())
    ranks = find_ranks(os.environ)
    from mlc.engine.attempt import run_work
    from mlc.finetune.work import Finetuning

    sys.exit(run_work(Finetuning(resolved), ranks, ends_process=True))
