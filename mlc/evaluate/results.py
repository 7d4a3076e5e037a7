"""What a task found, in one shape for all tasks: JSON for programs, a table for people.

In:  scores and the facts of the run.
Out: a JSON-serialisable dict, rich renderables.

{"task", "model", "checkpoint", "step", "representation", "precision", "max_tokens", "texts", "cut", "data",
 "scores": {name: {"value", "low", "high", "n"}}, "by_<what>": {key: {name: {...}}}, further keys of the task}
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from mlc.evaluate.intervals import Score

Scores = Mapping[str, Score]


@dataclass(frozen=True)
class ModelFacts:
    """What was scored.

    Attributes:
        model: as the user named it; checkpoint: the folder or name it stands for.
        step: optimizer step, where known.
        representation: layer (0 = embeddings), pooling, projection; empty for a fine-tuned model.
        texts, cut: different texts encoded, and how many of them were longer than `max_tokens`.
        skipped_checkpoints: newer ones that are not whole.
    """

    model: str
    checkpoint: str
    step: int | None
    representation: Mapping[str, Any]
    precision: str
    max_tokens: int
    texts: int
    cut: int
    skipped_checkpoints: tuple[str, ...] = ()


@dataclass(frozen=True)
class TaskResult:
    """One run of one task.

    Attributes:
        scores: the task's own figures, the main one first.
        by: {"language" or "pair" or ...: {key: figures}}; becomes "by_language" in JSON.
        details: further keys of the JSON file.
        notes: sentences that limit what the figures say.
    """

    task: str
    facts: ModelFacts
    data: tuple[str, ...]
    scores: Scores
    by: Mapping[str, Mapping[str, Scores]] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Everything; shares are 0..1."""
        return {
            "task": self.task,
            **asdict(self.facts),
            "data": list(self.data),
            "scores": scores_json(self.scores),
            **{f"by_{what}": {key: scores_json(row) for key, row in rows.items()} for what, rows in self.by.items()},
            **self.details,
            "notes": list(self.notes),
        }


def new_key(name: str, known: Collection[str]) -> str:
    """The name of a row; "de-en (2)" where the same name was there before: two files may have the same languages."""
    seen = sum(key == name or key.startswith(f"{name} (") for key in known)
    return f"{name} ({seen + 1})" if seen else name


def scores_json(scores: Scores) -> dict[str, dict[str, Any]]:
    """{name: {"value", "low", "high", "n"}}, and "sd" where the value is a mean over seeds."""
    return {
        name: {key: value for key, value in asdict(score).items() if key != "sd" or value is not None}
        for name, score in scores.items()
    }


def print_result(result: TaskResult, console: Console) -> None:
    """Print a table for each way the figures are split, the overall ones below, and every note."""
    for what, rows in result.by.items():
        console.print(_table(f"{result.task} by {what}", what, rows))
    console.print(_table(result.task, "score", {name: {"value": score} for name, score in result.scores.items()}))
    for note in [*model_notes(result.facts), *result.notes]:
        console.print(note, soft_wrap=True, highlight=False, markup=False)


def model_notes(facts: ModelFacts) -> Iterator[str]:
    """Sentences about the model, and about texts that did not fit into it."""
    chosen = facts.representation
    step = f", step {facts.step}" if facts.step is not None else ""
    read = "as it was fine-tuned"
    if chosen:
        projection = "with" if chosen["projection"] else "without"
        read = f"layer {chosen['layer']}, {chosen['pooling']} pooling, {projection} projection"
    yield f"model {facts.checkpoint}{step}: {read}, {facts.precision}"
    if facts.skipped_checkpoints:
        yield f"skipped, not complete: {', '.join(facts.skipped_checkpoints)}"
    if facts.cut and chosen:
        yield (
            f"{facts.cut} of {facts.texts} texts ({100 * facts.cut / facts.texts:.1f} %) are longer than "
            f"{facts.max_tokens} tokens and were cut"
        )


def _table(title: str, first: str, rows: Mapping[str, Scores]) -> Table:
    table = Table(title=title)
    table.add_column(first)
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    for name in [*names, "n"]:
        table.add_column(name, justify="right")
    for key, row in rows.items():
        cells = [str(row[name]) if name in row else "" for name in names]
        table.add_row(key or "not known", *cells, _counts(row.values()))
    return table


def _counts(scores: Sequence[Score] | Any) -> str:
    return ", ".join(dict.fromkeys(str(score.n) for score in scores if score.n is not None))
