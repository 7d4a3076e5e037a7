"""What a recipe says of its task beyond the kind.

In:  a recipe, its data.
Out: the `LearnedTask`, and the rows that it learns from.
"""

from __future__ import annotations

from typing import cast

from mlc.finetune.data import FinetuneData
from mlc.finetune.recipe import FinetuneRecipe
from mlc.tasks.examples import RankingExample
from mlc.tasks.features_batch import TaskRows
from mlc.tasks.learned.kinds import task_of
from mlc.tasks.learned.ranking import QueryGroups, RankingRows, Reranking, check_groups
from mlc.tasks.learned.task import LearnedTask, TaskSettings


def learned_task(recipe: FinetuneRecipe, data: FinetuneData) -> LearnedTask:
    """The task of a recipe.

    Raises:
        DataError: re-ranking, and a query has no wrong passage.
    """
    kind, max_tokens = recipe.task.kind, recipe.data.max_tokens
    assert kind != "retrieval", "mlc.finetune.retrieval learns that"
    if kind == "reranking":
        for part in (data.train, data.dev, data.test):
            check_groups([cast(RankingExample, example) for example in part])
        return Reranking(TaskSettings("ranking", (), max_tokens, has_pairs=True), recipe.ranking.loss)
    has_pairs = getattr(data.train[0], "text_pair", None) is not None
    return task_of(TaskSettings(kind, data.labels, max_tokens, has_pairs))


def training_rows(recipe: FinetuneRecipe, rows: TaskRows) -> TaskRows:
    """What is learned from: the rows themselves, or for re-ranking groups of them."""
    if not isinstance(rows, RankingRows):
        return rows
    return QueryGroups(rows, recipe.ranking.negatives_per_query, recipe.run.seed)
