"""The `mlc` command: parses, calls the package that owns the work, and turns errors into exit codes.

Exit codes: 0 done, 1 failed, 2 bad usage or recipe, 75 saved on request (start the same command again).
Packages are imported when their command runs, so `mlc --help` is immediate.
"""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mlc.errors import EXIT_FAILED, MlcError, RecipeError, UsageError

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a key of the recipe; repeatable."),
]
Recipe = Annotated[Path, typer.Argument(metavar="RECIPE.toml", help="Recipe of the run.")]


def build_app() -> typer.Typer:
    """All commands."""
    app = typer.Typer(
        name="mlc",
        help="Multilingual contrastive pre-training of General Language Models.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )
    app.callback()(_options)
    # Sub-applications bring their own help and examples; importing them costs no torch.
    _add_training(app, "Shards and pre-training")
    _add_uses(app, "What a model is for")
    _add_cluster(app, "On a cluster")
    return app


def _add_training(app: typer.Typer, panel: str) -> None:
    from data_prep.command import app as prep
    from mlc.checkpoint.command import app as checkpoints

    app.add_typer(prep, name="prep", rich_help_panel=panel)
    app.command(
        "train",
        epilog=_examples(
            "mlc train recipes/demo_joint.toml",
            "torchrun --nproc-per-node 2 -m mlc train recipes/demo_joint.toml",
            "mpirun -n 2 mlc train recipes/demo_joint.toml --set schedule.total_steps=100",
        ),
        rich_help_panel=panel,
    )(_train)
    app.add_typer(checkpoints, name="checkpoints", rich_help_panel=panel)
    check = typer.Typer(help="Check a recipe, its gradients, or what two runs came to.", no_args_is_help=True)
    check.command("recipe", epilog=_examples("mlc check recipe recipes/seed_glm.toml"))(_check_recipe)
    check.command("identical", epilog=_examples("mlc check identical runs/a runs/b"))(_check_identical)
    check.command(
        "gradients",
        epilog=_examples(
            "mlc check gradients recipes/demo_joint.toml",
            "torchrun --nproc-per-node 2 -m mlc check gradients recipes/demo_joint.toml --json gradients.json",
            "srun -n 8 mlc check gradients recipes/demo_joint.toml --set run.precision=fp32",
        ),
    )(_check_gradients)
    _add_cluster_check(check)
    app.add_typer(check, name="check", rich_help_panel=panel)


def _add_uses(app: typer.Typer, panel: str) -> None:
    from mlc.embed.command import EXAMPLES as EMBED_EXAMPLES
    from mlc.embed.command import embed
    from mlc.embed.search_command import app as search
    from mlc.evaluate.command import app as evaluate
    from mlc.export.command import EXAMPLES as EXPORT_EXAMPLES
    from mlc.export.command import export
    from mlc.finetune.command import finetune
    from mlc.finetune.mine_command import EXAMPLES as MINE_EXAMPLES
    from mlc.finetune.mine_command import mine
    from mlc.generate.command import EXAMPLES as GENERATE_EXAMPLES
    from mlc.generate.command import generate
    from mlc.generate.translation import EXAMPLES as TRANSLATE_EXAMPLES
    from mlc.generate.translation import translate

    app.command(
        "finetune",
        epilog=_examples(
            "mlc finetune recipes/finetune_sentiment.toml",
            "torchrun --nproc-per-node 2 -m mlc finetune recipes/finetune_sentiment.toml --set run.seed=2",
            "mlc finetune recipes/finetune_topics.toml --seeds 1,2,3,4,5 --shots 8,32",
        ),
        rich_help_panel=panel,
    )(finetune)
    app.command("mine", epilog=_examples(*MINE_EXAMPLES), rich_help_panel=panel)(mine)
    app.add_typer(evaluate, name="evaluate", rich_help_panel=panel)
    app.command("embed", epilog=_examples(*EMBED_EXAMPLES), rich_help_panel=panel)(embed)
    app.add_typer(search, name="search", rich_help_panel=panel)
    app.command("generate", epilog=_examples(*GENERATE_EXAMPLES), rich_help_panel=panel)(generate)
    app.command("translate", epilog=_examples(*TRANSLATE_EXAMPLES), rich_help_panel=panel)(translate)
    app.command("export", epilog=_examples(*EXPORT_EXAMPLES), rich_help_panel=panel)(export)


def _add_cluster(app: typer.Typer, panel: str) -> None:
    from launchers.command import app as submit
    from launchers.jobs import jobs
    from launchers.logs import logs

    app.add_typer(submit, name="submit", rich_help_panel=panel)
    app.command(
        "jobs",
        epilog=_examples(
            "mlc jobs", "mlc jobs runs/base --wide", "mlc jobs --watch 10", "mlc jobs --all --json jobs.json"
        ),
        rich_help_panel=panel,
    )(jobs)
    app.command(
        "logs",
        epilog=_examples(
            "mlc logs runs/base",
            "mlc logs runs/base --follow",
            "mlc logs runs/base --rank 0,3-5 --start all --lines 20",
        ),
        rich_help_panel=panel,
    )(logs)


def main() -> None:
    """Entry point of the console script."""
    try:
        build_app()()
    except MlcError as error:
        # A refused recipe is the same on every rank: one of them speaks. Files may look different from each.
        if not isinstance(error, (RecipeError, UsageError)) or _rank() == 0:
            print(f"mlc: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)


def _options(local_rank: Annotated[int | None, typer.Option("--local_rank", hidden=True)] = None) -> None:
    """Multilingual contrastive pre-training of General Language Models."""
    del local_rank  # DeepSpeed's launcher adds it to every command; the rank is read from the environment


def _train(recipe: Recipe, overrides: Overrides = None) -> None:
    """Train a recipe; continue from its newest complete checkpoint if there is one.

    Started alone it is one rank; torchrun, deepspeed, mpirun and srun start more. SIGTERM, SIGINT or SIGUSR2 to a rank
    saves and ends with exit code 75; which signals each launcher passes on to its ranks: docs/checkpoints.md.
    """
    from mlc.config import read_recipe
    from mlc.distributed.ranks import find_ranks
    from mlc.recipe import TrainRecipe

    resolved = read_recipe(recipe, TrainRecipe, overrides or ())
    ranks = find_ranks(os.environ)
    from mlc.engine.train import train

    sys.exit(train(resolved, ranks, ends_process=True))


def _check_recipe(recipe: Recipe, overrides: Overrides = None) -> None:
    """Validate a recipe, of mlc train or mlc finetune, and print it with every default written out."""
    from mlc.config import is_finetune_recipe, read_recipe
    from mlc.finetune.recipe import FinetuneRecipe
    from mlc.recipe import RunRecipe, TrainRecipe

    section: type[RunRecipe] = FinetuneRecipe if is_finetune_recipe(recipe) else TrainRecipe
    print(read_recipe(recipe, section, overrides or ()).to_toml(), end="")


def _check_identical(
    first: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    second: Annotated[Path, typer.Argument(metavar="OTHER", help="Another one.")],
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result here.")] = None,
) -> None:
    """Compare two runs bit by bit: every metric but clocks, and the final weights. Exit code 1 if they differ."""
    from mlc.engine.compare import compare_runs
    from mlc.files import write_json

    result = compare_runs(first, second)
    if json_file is not None:
        write_json(json_file, {"identical": result.difference is None, **asdict(result)})
    print(result.difference or f"identical: {result.steps} logged steps and the final weights")
    sys.exit(EXIT_FAILED if result.difference else 0)


def _check_gradients(
    recipe: Recipe,
    overrides: Overrides = None,
    samples: Annotated[
        int | None,
        typer.Option("--samples", min=1, help="Global batch; default: the recipe's, at most 64 a rank."),
    ] = None,
    layers: Annotated[int, typer.Option("--layers", min=1, help="Depth of the model, at most.")] = 2,
    tolerance: Annotated[
        float | None,
        typer.Option("--tolerance", help="Largest relative error; default: 1e-5 in fp32, 2e-2 in bf16, 1e-2 in fp16."),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result here.")] = None,
) -> None:
    """Compare the gradient of a recipe's first step with one process in float64. Exit code 1 if they differ.

    Every objective alone, then all together, on the ranks, shards, ZeRO file, precision and device of the recipe; start
    it as you start mlc train. Takes minutes and leaves the run folder alone: docs/gradients.md.
    """
    from mlc.config import read_recipe
    from mlc.distributed.ranks import find_ranks
    from mlc.recipe import TrainRecipe

    resolved = read_recipe(recipe, TrainRecipe, overrides or ())
    ranks = find_ranks(os.environ)
    from mlc.engine.check_gradients import CheckSettings, check_gradients

    sys.exit(check_gradients(resolved, ranks, CheckSettings(samples, layers, tolerance, json_file)))


def _add_cluster_check(check: typer.Typer) -> None:
    from launchers.node_check.command import check_cluster

    hosts = '--hosts "$(scontrol show hostnames | paste -sd, -)"'
    check.command(
        "cluster",
        epilog=_examples(
            "mlc check cluster --folder /tmp/check",
            f"srun --ntasks-per-node=1 mlc check cluster --folder runs/check-1 {hosts} --gpus 8 --min-memory-gb 64",
        ),
    )(check_cluster)


def _examples(*commands: str) -> str:
    return "[bold]Examples:[/bold]\n\n" + "\n\n".join(f"  $ {command}" for command in commands)


def _rank() -> int:
    from mlc.distributed.ranks import guess_rank

    return guess_rank(os.environ)
