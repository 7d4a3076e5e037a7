"""What a recipe says of its task beyond the kind.

In:  a recipe, its data.
Out: the `LearnedTask`, and the rows that it learns from.
"""

from __future__ import annotations

from typing import cast

from mlc.finetune.data import FinetuneData
from mlc.finetune.recipe import FinetuneRecipe
from mlc.tasks.examples import ClassificationExample, RankingExample, TranslationExample
from mlc.tasks.features_batch import TaskRows
from mlc.tasks.features_pieces import PieceEncoder
from mlc.tasks.learned.cloze import Cloze, cloze_settings
from mlc.tasks.learned.kinds import task_of
from mlc.tasks.learned.ranking import QueryGroups, RankingRows, Reranking, check_groups
from mlc.tasks.learned.task import LearnedTask, TaskSettings
from mlc.tasks.learned.translation import PartBTranslation
from mlc.tasks.learned.translation_settings import TranslationSettings, directions_of
from mlc.tasks.locate import ModelSource, read_description
from mlc.tasks.token_heads import check_part_b


def learned_task(recipe: FinetuneRecipe, data: FinetuneData) -> LearnedTask:
    """The task of a recipe.

    Raises:
        DataError: re-ranking, and a query has no wrong passage.
        RecipeError: a cloze, and its patterns or words do not fit the data.
    """
    kind, max_tokens = recipe.task.kind, recipe.data.max_tokens
    assert kind != "retrieval", "mlc.finetune.retrieval learns that"
    if kind == "reranking":
        for part in (data.train, data.dev, data.test):
            check_groups([cast(RankingExample, example) for example in part])
        return Reranking(TaskSettings("ranking", (), max_tokens, has_pairs=True), recipe.ranking.loss)
    if kind == "translation":
        section = recipe.translation
        settings = TranslationSettings(
            decoder=section.decoder,
            directions=directions_of([cast(TranslationExample, example) for example in data.train]),
            max_target_tokens=section.max_target_tokens,
            label_smoothing=section.label_smoothing,
            layers=section.layers,
            heads=section.heads,
            beams=section.beams,
        )
        return task_of(TaskSettings(kind, (), max_tokens, translation=settings))
    if recipe.cloze is not None:
        examples = [cast(ClassificationExample, example) for example in (*data.train, *data.dev, *data.test)]
        return task_of(cloze_settings(recipe.cloze, examples, recipe.task.labels, max_tokens))
    has_pairs = getattr(data.train[0], "text_pair", None) is not None
    return task_of(TaskSettings(recipe.task.data_kind, data.labels, max_tokens, has_pairs))


def on_model(task: LearnedTask, source: ModelSource, encoder: PieceEncoder, data: FinetuneData) -> LearnedTask:
    """The task with what it has to know of the model that it begins with.

    Raises:
        UsageError, RecipeError: the task writes into a blank, and the model has no Part B, or its tokenizer cannot take
            the words of a cloze.
    """
    if isinstance(task, PartBTranslation) and not _writes_blanks(source):
        check_part_b(source)
    if not isinstance(task, Cloze):
        return task
    task = task.with_start(source)
    task.check(encoder, [cast(ClassificationExample, example) for example in (*data.train, *data.dev, *data.test)])
    return task


def _writes_blanks(source: ModelSource) -> bool:
    """Whether it was fine-tuned to write into a blank."""
    if source.kind != "finetuned":
        return False
    task = read_description(source.folder)["task"]
    return bool(task.get("cloze")) or (task.get("translation") or {}).get("decoder") == "part_b"


def training_rows(recipe: FinetuneRecipe, rows: TaskRows) -> TaskRows:
    """What is learned from: the rows themselves, or for re-ranking groups of them."""
    if not isinstance(rows, RankingRows):
        return rows
    return QueryGroups(rows, recipe.ranking.negatives_per_query, recipe.run.seed)
