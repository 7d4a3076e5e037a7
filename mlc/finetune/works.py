"""From a recipe to the work of its run.

In:  a validated recipe. Out: a `Work` (mlc.engine.work).
"""

from __future__ import annotations

from mlc.engine.work import Work
from mlc.finetune.recipe import FinetuneRecipe
from mlc.finetune.retrieval import RetrievalTraining
from mlc.finetune.work import Finetuning


def work_of(recipe: FinetuneRecipe) -> Work:
    """What trains a recipe's kind of task."""
    return RetrievalTraining(recipe) if recipe.task.kind == "retrieval" else Finetuning(recipe)
