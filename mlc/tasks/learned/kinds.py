"""From the settings of a task to the task.

In:  `TaskSettings`. Out: a `LearnedTask`.
"""

from __future__ import annotations

from mlc.errors import UsageError
from mlc.tasks.learned.cloze import Cloze
from mlc.tasks.learned.ranking import Reranking
from mlc.tasks.learned.sequences import Classification, Regression
from mlc.tasks.learned.spans import QuestionAnswering
from mlc.tasks.learned.task import LearnedTask, TaskSettings
from mlc.tasks.learned.translation import translation_task
from mlc.tasks.learned.words import TokenClassification


def task_of(settings: TaskSettings) -> LearnedTask:
    """The task of a kind.

    Raises:
        UsageError: nothing is learned for this kind.
    """
    match settings.kind:
        case "classification":
            return Classification(settings) if settings.cloze is None else Cloze(settings)
        case "regression":
            return Regression(settings)
        case "token_classification":
            return TokenClassification(settings)
        case "question_answering":
            return QuestionAnswering(settings)
        case "ranking":
            return Reranking(settings)
        case "translation":
            return translation_task(settings)
    raise UsageError("no model is fine-tuned for this kind of task", found=settings.kind)
