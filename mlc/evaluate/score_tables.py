"""Scores of several runs as one table: runs as rows, languages (or pairs of languages) as columns.

In:  results files: test.json of `mlc finetune` (or its run folder), --json files of `mlc evaluate` and of
     `mlc finetune --seeds`, results of `mlc evaluate suite` (JSON lines).
Out: `TableRow`s; a rich table; Markdown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from mlc.errors import DataError, UsageError
from mlc.evaluate.intervals import Score
from mlc.run_names import TEST_NAME

MEAN, ZERO_SHOT = "mean", "zero-shot"


@dataclass(frozen=True)
class TableRow:
    """One run on one task.

    Attributes:
        name: of the run.
        score: which score the cells are.
        cells: score by language, or by pair of languages.
        mean, zero_shot: over all languages, and over those that were not trained on; None = the file has none.
    """

    name: str
    score: str
    cells: Mapping[str, Score] = field(default_factory=dict)
    mean: Score | None = None
    zero_shot: Score | None = None


def read_rows(source: str, score: str = "") -> list[TableRow]:
    """Rows of one results file.

    Args:
        source: a file, or a folder with test.json in it; "NAME=FILE" gives the row another name.
        score: which one; "" = the file's main one.

    Raises:
        UsageError: there is no such file, or no such score in it.
        DataError: the file is no results file.
    """
    name, separator, path = source.partition("=")
    file = Path(path if separator else source)
    if file.is_dir():
        name = name if separator else file.name
        file = file / TEST_NAME
    elif not separator:
        name = file.parent.name if file.name == TEST_NAME else ""
    if not file.is_file():
        raise UsageError("there are no results", found=str(file), needed="a results file, or a run with test.json")
    contents = _contents(file)
    rows = [row for content in contents for row in _rows(content, name, score, str(file))]
    if separator and len(rows) > 1:
        return [TableRow(f"{name} {row.name}", row.score, row.cells, row.mean, row.zero_shot) for row in rows]
    return rows


def columns_of(rows: Sequence[TableRow]) -> list[str]:
    """Names of all cells, each once, in the order of the files; then the means that any row has."""
    found = list(dict.fromkeys(name for row in rows for name in row.cells))
    found += [MEAN] if any(row.mean for row in rows) else []
    return found + ([ZERO_SHOT] if any(row.zero_shot for row in rows) else [])


def cells_of(row: TableRow, columns: Sequence[str], intervals: bool) -> list[str]:
    """What stands in each column."""
    scores = {**row.cells, MEAN: row.mean, ZERO_SHOT: row.zero_shot}
    return [_cell(scores.get(column), intervals) for column in columns]


def titled(rows: Sequence[TableRow]) -> str:
    """What the cells are."""
    return ", ".join(dict.fromkeys(row.score for row in rows))


def rich_table(rows: Sequence[TableRow], *, intervals: bool = False, first: str = "run") -> Table:
    """A table for a terminal."""
    table = Table(title=titled(rows))
    columns = columns_of(rows)
    table.add_column(first, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(row.name, *cells_of(row, columns, intervals))
    return table


def markdown_table(rows: Sequence[TableRow], *, intervals: bool = False, first: str = "run") -> str:
    """A table for a page of documentation."""
    columns = columns_of(rows)
    lines = [[f"{first} ({titled(rows)})", *columns], ["---", *["---:"] * len(columns)]]
    lines += [[row.name, *cells_of(row, columns, intervals)] for row in rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def score_of(content: Mapping[str, Any] | None) -> Score | None:
    """A score as it stands in a file."""
    if content is None:
        return None
    return Score(content["value"], content.get("low"), content.get("high"), content.get("n"), content.get("sd"))


def task_row(content: Mapping[str, Any], name: str, score: str = "") -> TableRow:
    """The row of a `TaskResult.to_json()`; errors as in `read_rows`, KeyError where it is none."""
    scores = content["scores"]
    if score and score not in scores:
        raise UsageError("no such score", found=score, needed=", ".join(scores), where=f"{name}: --score")
    main = score or next(iter(scores), "")
    by: Mapping[str, Any] = content.get("by_language") or content.get("by_pair") or {}
    cells = {key: found for key, row in by.items() if (found := score_of(row.get(main))) is not None}
    return TableRow(
        name,
        f"{content['task']} {main}",
        cells,
        score_of(scores.get(main)),
        score_of(scores.get(f"{main}_zero_shot")),
    )


def _cell(score: Score | None, intervals: bool) -> str:
    if score is None:
        return ""
    return str(score if intervals or score.sd is not None else Score(score.value))


def _contents(file: Path) -> list[dict[str, Any]]:
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".jsonl":
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        return [json.loads(text)]
    except (OSError, ValueError) as error:
        raise DataError("the results cannot be read", found=str(error), where=str(file)) from None


def _rows(content: dict[str, Any], name: str, score: str, where: str) -> list[TableRow]:
    try:
        if "result" in content:  # a line of a suite
            own = " ".join(filter(None, (name, content["model_name"], content["item"])))
            return [task_row(content["result"], own, score)]
        if "series" in content:
            series = content["series"]
            return [_series_row(row, " ".join(filter(None, (name, row["name"]))), content["score"]) for row in series]
        if "macro" in content:
            return [_test_row(content, name, score, where)]
        return [task_row(content, name or content["model"], score)]
    except (KeyError, TypeError, AttributeError) as error:
        needed = f"{TEST_NAME}, or a file that --json or a suite wrote"
        raise DataError("this is no results file", found=repr(error), needed=needed, where=where) from None


def _series_row(row: Mapping[str, Any], name: str, score: str) -> TableRow:
    cells = {language: found for language, value in row["languages"].items() if (found := score_of(value)) is not None}
    return TableRow(name, score, cells, score_of(row["macro"]), score_of(row["zero_shot"]))


def _test_row(content: Mapping[str, Any], name: str, score: str, where: str) -> TableRow:
    if score in ("", content["score"]):
        return _series_row(content, name, content["score"])
    sets = content["sets"]
    if any(score not in found["scores"] for found in sets.values()):
        known = ", ".join(next(iter(sets.values()))["scores"])
        raise UsageError("no such score", found=score, needed=known, where=where)
    values = {language: found["scores"][score] for language, found in sets.items()}
    # The file has intervals of means for its main score alone.
    others = [value["value"] for language, value in values.items() if language not in content["trained"]]
    mean = Score(sum(value["value"] for value in values.values()) / len(values))
    zero_shot = Score(sum(others) / len(others)) if others and content["zero_shot"] else None
    cells = {language: found for language, value in values.items() if (found := score_of(value)) is not None}
    return TableRow(name, score, cells, mean, zero_shot)
