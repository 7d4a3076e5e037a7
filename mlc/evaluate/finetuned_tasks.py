"""Which tasks `mlc evaluate` has for fine-tuned models, what each expects of a model, and how its data are read.

In:  a fine-tuned model, sources of test data (docs/task_data.md).
Out: examples with gold answers, in the languages and rows that were asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlc.errors import UsageError
from mlc.evaluate.options import parse_rows, split_codes
from mlc.evaluate.task_data import check_languages
from mlc.languages import language_code
from mlc.tasks.example_sets import rows
from mlc.tasks.examples import TaskExample, TaskKind
from mlc.tasks.learned.task import TaskSettings
from mlc.tasks.task_files import read_task

PLACE = "{language}"


@dataclass(frozen=True)
class FinetunedTask:
    """A task by the name that people look for.

    Attributes:
        kind: of its examples.
        label_sets: sets of labels that data of this name have; none = any labels.
        pairs: whether examples have two texts; None = either.
    """

    name: str
    kind: TaskKind
    label_sets: tuple[frozenset[str], ...] = ()
    pairs: bool | None = None


XNLI = FinetunedTask(
    "xnli",
    "classification",
    (frozenset({"entailment", "neutral", "contradiction"}), frozenset({"0", "1", "2"})),
    pairs=True,
)
PAWSX = FinetunedTask("pawsx", "classification", (frozenset({"0", "1"}),), pairs=True)
SENTIMENT = FinetunedTask(
    "sentiment",
    "classification",
    (
        frozenset({"negative", "neutral", "positive"}),
        frozenset({"negative", "positive"}),
        *(frozenset(map(str, range(first, last))) for first, last in ((0, 2), (0, 3), (0, 5), (1, 6))),
    ),
    pairs=False,
)
TOPICS = FinetunedTask("topics", "classification", pairs=False)
FAKE_NEWS = FinetunedTask("fake-news", "classification")
CLASSIFICATION = FinetunedTask("classification", "classification")
REGRESSION = FinetunedTask("regression", "regression")
NER = FinetunedTask("ner", "token_classification")
QA = FinetunedTask("qa", "question_answering")
RERANKING = FinetunedTask("reranking", "ranking")


def check_model(task: FinetunedTask, found: TaskSettings, where: str) -> None:
    """Refuse a model that was fine-tuned for something else.

    Args:
        where: the model.

    Raises:
        UsageError: it was; the command for what it was fine-tuned for is named.
    """
    general = {one.kind: one.name for one in (CLASSIFICATION, REGRESSION, NER, QA, RERANKING)}
    hint = f"mlc evaluate {general[found.kind]} --model {where} --data ..." if found.kind in general else None
    if found.kind != task.kind:
        raise UsageError(
            f"the model was fine-tuned for another kind of task than {task.name}",
            found=found.kind, needed=task.kind, where=where, hint=hint,
        )  # fmt: skip
    if task.label_sets and frozenset(found.labels) not in task.label_sets:
        needed = " or ".join(", ".join(sorted(labels)) for labels in task.label_sets)
        raise UsageError(
            f"the model has other labels than {task.name}",
            found=", ".join(found.labels), needed=needed, where=where, hint=hint,
        )  # fmt: skip
    if task.pairs is not None and found.has_pairs != task.pairs:
        names = ("one text", "two texts")
        raise UsageError(
            f"the model reads examples of another form than {task.name}",
            found=names[found.has_pairs], needed=names[task.pairs], where=where, hint=hint,
        )  # fmt: skip


def read_examples(
    kind: TaskKind,
    sources: Sequence[str],
    *,
    languages: str = "",
    part: str = ":",
    columns: str = "",
    sets_aside: bool = False,
) -> tuple[tuple[TaskExample, ...], dict[str, int]]:
    """Examples with gold answers, and how many records were set aside for each problem.

    Args:
        sources: files, folders, globs, "{language}" places, "hub:NAME[:CONFIG][:SPLIT]".
        languages: comma-separated; they fill "{language}", or keep these of what the sources hold.
        part: rows of every file, "A:B".
        columns: "ROLE=COLUMN,...", by name or by number from 1.
        sets_aside: leave bad records out and count them, instead of refusing the first.

    Raises:
        UsageError, DataError: see `mlc.tasks.task_files.read_task`; or nothing is left.
    """
    chosen = parse_rows(part, "--rows")
    codes = split_codes(languages)
    fills = any(PLACE in source for source in sources)
    found = read_task(
        kind,
        sources,
        columns=parse_columns(columns),
        languages=codes if fills else (),
        limit=chosen.stop,
        bad_records="set_aside" if sets_aside else "refuse",
    )
    examples = rows(found.examples, chosen.start or 0, chosen.stop)
    if codes and not fills:
        check_languages({example.place.language for example in found.examples}, codes)
        kept = {language_code(code) for code in codes}
        examples = tuple(example for example in examples if example.place.language in kept)
    missing = {example.place.language for example in found.examples} - {e.place.language for e in examples}
    if not examples or (missing and not (codes and not fills)):
        raise UsageError(
            "no rows are left",
            found=f"--rows {part}" + (f" in {', '.join(sorted(missing))}" if examples else ""),
            needed=f"rows among the first {max(example.place.record for example in found.examples) + 1}",
        )
    return examples, dict(found.problems().most_common())


def parse_columns(text: str) -> Mapping[str, str | int] | None:
    """ "text=premise,label=3" -> {"text": "premise", "label": 3}; None where nothing is said.

    Raises:
        UsageError: it cannot be read.
    """
    columns: dict[str, str | int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        role, separator, column = (side.strip() for side in part.partition("="))
        if not (role and separator and column):
            raise UsageError("--columns cannot be read", found=part, needed="ROLE=COLUMN", where="--columns")
        columns[role] = int(column) if column.isdigit() else column
    return columns or None
