"""`mlc evaluate suite | table`: many tasks in one command, and results of several runs side by side.

In:  the command line.
Out: a table on standard output (rich or Markdown), results files; MlcError goes up to mlc.cli, which owns exit codes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from mlc.errors import EXIT_FAILED, MlcError, UsageError
from mlc.evaluate.options import check_folder, examples_epilog
from mlc.files import write_json

if TYPE_CHECKING:
    from mlc.evaluate.score_tables import TableRow
    from mlc.evaluate.suite import SuiteItem

app = typer.Typer()

Markdown = Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")]
Intervals = Annotated[bool, typer.Option("--intervals", help="Print 95 % intervals, too.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the table here.")]


@app.command(epilog=examples_epilog(("mlc evaluate suite suite.toml", "mlc evaluate suite suite.toml --markdown")))
def suite(
    file: Annotated[Path, typer.Argument(metavar="SUITE.toml", help="Models and tasks: docs/evaluate.md.")],
    results: Annotated[Path | None, typer.Option(help="Results file. Default: as the suite says.")] = None,
    markdown: Markdown = False,
    intervals: Intervals = False,
    json_file: JsonFile = None,
) -> None:
    """Many tasks on one or more models: one results file, one table.

    What is finished is a line of the results file, so the same command goes on where it was stopped. A task that fails
    is named at the end, the others go on; exit code 1.
    """
    failures = run_suite(file, results, markdown=markdown, intervals=intervals, json_file=json_file)
    if failures:
        sys.exit(EXIT_FAILED)


@app.command(
    epilog=examples_epilog(
        (
            "mlc evaluate table runs/sent-joint runs/sent-mlm --markdown",
            "mlc evaluate table joint=a.json mlm=b.json --score macro_f1 --intervals",
        )
    )
)
def table(
    files: Annotated[
        list[str],
        typer.Argument(metavar="[NAME=]FILE...", help="Runs of mlc finetune, test.json, --json files, suite results."),
    ],
    score: Annotated[str, typer.Option(help="Which score. Default: each file's main one.")] = "",
    markdown: Markdown = False,
    intervals: Intervals = False,
    json_file: JsonFile = None,
) -> None:
    """Results of several runs as one table: runs as rows, languages as columns, then the means."""
    from mlc.evaluate.score_tables import read_rows

    check_folder(json_file, "--json")
    rows = [row for file in files for row in read_rows(file, score)]
    if not rows:
        raise UsageError("there are no results", found=", ".join(files))
    _show(rows, markdown, intervals, json_file)


def run_suite(
    file: Path,
    results: Path | None = None,
    *,
    markdown: bool = False,
    intervals: bool = False,
    json_file: Path | None = None,
) -> dict[str, str]:
    """Do what is not done yet of a suite, and print the table.

    Returns:
        What failed, by task and model, with the reason.

    Raises:
        RecipeError, UsageError: the suite, an option, or a model is refused; nothing has run then.
    """
    from mlc.evaluate.suite import read_results, read_suite, suite_rows
    from mlc.tasks.locate import find_model

    content, items = read_suite(file)
    target = results or Path(content.results)
    check_folder(target, "--results")
    check_folder(json_file, "--json")
    sources = {model: find_model(model) for model in dict.fromkeys(item.options.model for item in items)}
    done = read_results(target)
    progress = Console(stderr=True)
    found: dict[tuple[str, str], Any] = {}
    failures: dict[str, str] = {}
    for number, item in enumerate(items, 1):
        key, title = item.key(sources[item.options.model]), f"{item.name} of {item.model_name}"
        say = f"{number} of {len(items)}: {title}"
        if key not in done:
            progress.print(say, highlight=False, markup=False)
            done |= _run(item, key, title, target, failures)
        else:
            progress.print(f"{say}: done before", highlight=False, markup=False)
        if key in done:
            found[item.name, item.model_name] = done[key]["result"]
    _show(suite_rows(items, found), markdown, intervals, json_file, first="model")
    for title, reason in failures.items():
        progress.print(f"failed: {title}: {reason}", highlight=False, markup=False, soft_wrap=True)
    return failures


def _run(item: SuiteItem, key: str, title: str, target: Path, failures: dict[str, str]) -> dict[str, dict[str, Any]]:
    """The new line by its key; nothing where the task failed, which is noted."""
    from mlc.evaluate.suite import append_result

    try:
        result = item.run(item.options, **item.own)
    except MlcError as error:
        failures[title] = str(error)
        return {}
    return {key: append_result(target, item, key, result)}


def _show(rows: list[TableRow], markdown: bool, intervals: bool, json_file: Path | None, *, first: str = "run") -> None:
    from dataclasses import asdict

    from mlc.evaluate.score_tables import markdown_table, rich_table

    if markdown:
        print(markdown_table(rows, intervals=intervals, first=first), end="")
    else:
        Console().print(rich_table(rows, intervals=intervals, first=first))
    if json_file is not None:
        write_json(json_file, {"rows": [asdict(row) for row in rows]})
