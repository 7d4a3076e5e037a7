"""`mlc finetune`: a pre-trained model, a task, its data.

In:  the command line.
Out: a run folder; MlcError goes up to mlc.cli, which owns exit codes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mlc.errors import UsageError


def finetune(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.toml", help="Recipe of the run.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a key of the recipe; repeatable."),
    ] = None,
    seeds: Annotated[
        str, typer.Option(help="Run once with each seed, one after another: 1,2,3. Ends with a table over seeds.")
    ] = "",
    shots: Annotated[
        str, typer.Option(help="With --seeds: also with so many training examples a class: 8,32; 0 = all.")
    ] = "",
    json_file: Annotated[Path | None, typer.Option("--json", help="With --seeds: write the table here.")] = None,
) -> None:
    """Fine-tune a model; continue from the run's newest complete checkpoint if there is one.

    Started alone it is one rank; torchrun, deepspeed, mpirun and srun start more, as with mlc train. The run folder
    gets scores.jsonl (development data) and test.json (test data, with the best checkpoint). With --seeds the runs are
    folders in run.folder; finished ones are not run again, and one that fails or is stopped ends the series.
    """
    from mlc.config import read_recipe
    from mlc.distributed.ranks import find_ranks
    from mlc.finetune.recipe import FinetuneRecipe

    if seeds:
        sys.exit(_series(recipe, overrides or (), seeds, shots, json_file))
    if shots or json_file is not None:
        raise UsageError("--shots and --json are of a series", needed="--seeds with them", where="mlc finetune")
    resolved = read_recipe(recipe, FinetuneRecipe, overrides or ())
    ranks = find_ranks(os.environ)
    from mlc.engine.attempt import run_work
    from mlc.finetune.works import work_of

    sys.exit(run_work(work_of(resolved), ranks, ends_process=True))


def _series(recipe: Path, overrides: Sequence[str], seeds: str, shots: str, json_file: Path | None) -> int:
    """Run a series and print its table; the exit code."""
    from mlc.distributed.ranks import find_ranks
    from mlc.finetune.series import check_alone, plan_series, run_series, series_rows, series_table, write_series

    check_alone(find_ranks(os.environ))
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise UsageError("the folder does not exist", found=str(json_file.parent), where="--json")
    members = plan_series(recipe, overrides, _numbers(seeds, "--seeds"), _numbers(shots, "--shots"))
    code = run_series(recipe, members, Console(stderr=True))
    if code:
        return code
    score, rows = series_rows(members)
    Console().print(series_table(score, rows))
    if json_file is not None:
        write_series(json_file, score, rows)
    return 0


def _numbers(text: str, option: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UsageError("these are no whole numbers", found=text, needed="such as 1,2,3", where=option) from None
