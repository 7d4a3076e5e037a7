"""`mlc prep`: build, verify and inspect shards, and make others of them, from the command line.

In:  arguments.
Out: tables on the terminal, JSON where it is asked for; errors as `MlcError`, which the caller turns into exit codes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data_prep.build import BuildResult, build_shards
from data_prep.encoding.reference import tokenizer_of
from data_prep.inspection import length_histogram, sample_texts
from data_prep.progress import Progress, RichProgress
from data_prep.ranks import Ranks, find_ranks
from data_prep.recipe import PrepRecipe
from data_prep.shard_commands import add_shard_commands, bar
from data_prep.token_report import PLOT_NAME, read_report, report_table
from data_prep.verify import find_faults, total_bytes
from mlc.config import read_recipe
from mlc.data.manifest import Manifest, ShardEntry
from mlc.errors import MlcError
from mlc.files import write_json

app = typer.Typer(name="prep", help="Turn text into verified shards, once.", no_args_is_help=True)

add_shard_commands(app)

JsonOption = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the results as JSON too.")]
ShardsArgument = Annotated[Path, typer.Argument(metavar="SHARDS", help="Folder with manifest.json.")]


@app.command("build", epilog="Example: mpirun -n 8 mlc prep build recipes/demo_prep.toml")
def _build_command(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="TOML file; see docs/data_prep.md.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe: build.output=shards")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another build in the output folder.")] = False,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes to start on this machine.")] = 1,
    json_path: JsonOption = None,
) -> None:
    """Read, clean and tokenise a corpus into shards.

    With --workers, under mpirun -n N or srun, or as a job array: the shards are the same to the byte. After a failure
    the same command goes on where the build was. A finished build of the same recipe and files is left as it is.

    mlc prep build recipes/demo_prep.toml --set tokenizer.vocab_size=32000
    """
    build(recipe, overrides or (), overwrite, json_path, workers)


@app.command("verify", epilog="Example: mlc prep verify shards --json faults.json")
def _verify_command(
    shards: ShardsArgument,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Processes that read.")] = 1,
    json_path: JsonOption = None,
) -> None:
    """Read every byte of a build and compare it with its manifest; exit code 1 lists every fault."""
    verify(shards, json_path, jobs)


@app.command("inspect", epilog="Example: mlc prep inspect shards --samples 5 --shard documents/de")
def _inspect_command(
    shards: ShardsArgument,
    samples: Annotated[int, typer.Option(min=0, help="Documents of each shard to show.")] = 2,
    shard: Annotated[list[str] | None, typer.Option(help="Only this shard; may be given again.")] = None,
    json_path: JsonOption = None,
) -> None:
    """Show what a build holds: a table, some documents as text, and how long they are."""
    inspect(shards, samples, tuple(shard or ()), json_path)


def build(
    recipe_path: Path,
    overrides: list[str] | tuple[str, ...] = (),
    overwrite: bool = False,
    json_path: Path | None = None,
    workers: int = 1,
) -> BuildResult:
    """`mlc prep build`.

    Raises:
        MlcError: RecipeError (2) before work starts, DataError (1) where the text cannot be used.
    """
    ranks = find_ranks(os.environ)
    recipe = ranks.on_first(lambda: read_recipe(recipe_path, PrepRecipe, overrides))
    console = Console()
    with _progress(console, ranks) as progress:
        result = build_shards(recipe, str(recipe_path), ranks, overwrite, progress, workers)
    if ranks.rank == 0:
        manifest = result.manifest
        console.print(_table(manifest, manifest.shards))
        _show_report(console, manifest)
        seconds = f" in {manifest.timing.get('seconds', 0):.1f} s" if result.built else ""
        console.print(
            f"{'built' if result.built else 'up to date'}{seconds}: {escape(str(manifest.folder))}", highlight=False
        )
        _report(json_path, {"status": "built" if result.built else "up_to_date", **_summary(manifest)})
    return result


def verify(shards: Path, json_path: Path | None = None, jobs: int = 1) -> None:
    """`mlc prep verify`.

    Raises:
        MlcError: (1) with every fault, after the JSON was written; ShardError (2): there is no readable manifest.
    """
    console = Console()
    manifest = Manifest.read(shards)
    with bar("verifying", total_bytes(manifest)) as on_bytes:
        faults = find_faults(manifest, jobs=jobs, on_bytes=on_bytes)
    _report(json_path, {"faults": faults, **_summary(manifest)})
    if faults:
        raise MlcError(
            f"{len(faults)} fault{'s' if len(faults) > 1 else ''}:\n  - " + "\n  - ".join(faults),
            where=str(shards),
            hint="mlc prep build RECIPE --overwrite",
        )
    console.print(f"no fault in {len(manifest.shards)} shards, manifest {manifest.sha256[:12]}", highlight=False)


def inspect(shards: Path, samples: int = 2, names: tuple[str, ...] = (), json_path: Path | None = None) -> None:
    """`mlc prep inspect`.

    Raises:
        ShardError: (2) there is no readable manifest, a shard is damaged, or there is none of that name.
    """
    console = Console()
    manifest = Manifest.read(shards)
    entries = [manifest.entry(name) for name in names] or list(manifest.shards)
    tokenizer = tokenizer_of(manifest)
    console.print(_table(manifest, entries))
    if not names:
        _show_report(console, manifest)
    details: dict[str, Any] = {}
    for entry in entries:
        texts = sample_texts(manifest, entry, tokenizer, samples)
        histograms = {
            prefix: length_histogram(shard.document_lengths)
            for prefix, shard in zip(entry.prefixes, manifest.open(entry), strict=True)
        }
        details[entry.name] = {"samples": texts, "document_lengths": {name: dict(h) for name, h in histograms.items()}}
        for prefix, histogram in histograms.items():
            console.print(_histogram_table(prefix, histogram))
        for sides in texts:
            for language, text in zip(entry.languages, sides, strict=True):
                console.print(f"[bold]{language}[/bold] {escape(text)}", highlight=False)
    _report(json_path, {**_summary(manifest), "details": details})


def _progress(console: Console, ranks: Ranks) -> Progress:
    if ranks.rank != 0 or not console.is_terminal:
        return Progress()
    if ranks.size > 1:
        return RichProgress(console, f"rank 0 of {ranks.size}", redraws_per_second=0.5)
    return RichProgress(console)


def _table(manifest: Manifest, entries: tuple[ShardEntry, ...] | list[ShardEntry]) -> Table:
    table = Table(box=box.SIMPLE, title=f"{manifest.tokenizer.vocab_size:,} ids, manifest {manifest.sha256[:12]}")
    table.add_column("shard")
    for name in ("documents", "sequences", "tokens", "tokens/byte", "dropped"):
        table.add_column(name, justify="right")
    for entry in entries:
        density = f"{entry.tokens / entry.text_bytes:.3f}" if entry.text_bytes else "-"
        counts = [f"{count:,}" for count in (entry.documents, entry.sequences, entry.tokens)]
        table.add_row(entry.name, *counts, density, f"{sum(entry.dropped.values()):,}")
    return table


def _show_report(console: Console, manifest: Manifest) -> None:
    counts = read_report(manifest.folder)
    if counts:
        console.print(report_table(counts))
        console.print(f"tokens a language: {escape(str(manifest.folder / PLOT_NAME))}", highlight=False)


def _histogram_table(prefix: str, histogram: list[tuple[str, int]]) -> Table:
    table = Table(box=None, title=f"{prefix}: tokens a document", title_justify="left", show_header=False)
    table.add_column(justify="right")
    table.add_column(justify="right")
    table.add_column()
    largest = max((count for _, count in histogram), default=1) or 1
    for lengths, count in histogram:
        table.add_row(lengths, f"{count:,}", "█" * round(40 * count / largest))
    return table


def _summary(manifest: Manifest) -> dict[str, Any]:
    return {
        "folder": str(manifest.folder),
        "manifest_sha256": manifest.sha256,
        "vocab_size": manifest.tokenizer.vocab_size,
        "timing": manifest.timing,
        "shards": [
            {
                "name": entry.name,
                "documents": entry.documents,
                "sequences": entry.sequences,
                "tokens": entry.tokens,
                "text_bytes": entry.text_bytes,
                "dropped": entry.dropped,
            }
            for entry in manifest.shards
        ],
    }


def _report(path: Path | None, content: dict[str, Any]) -> None:
    if path is not None:
        write_json(path, content)
