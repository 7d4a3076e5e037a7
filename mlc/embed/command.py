"""`mlc embed`: texts to vectors on disk, on as many ranks as started it.

In:  the command line, and the environment of a launcher.
Out: .npy, Parquet or a folder of parts (mlc.embed.work), a summary on standard output; MlcError goes up to mlc.cli.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console

from mlc.errors import MlcError, UsageError

if TYPE_CHECKING:
    from mlc.distributed.ranks import RankInfo
    from mlc.embed.inputs import Source
    from mlc.embed.opening import ModelChoice
    from mlc.embed.work import Done, Place, Progress, Settings

STANDARD_INPUT = "-"
CHOICES = {
    "--format": ("npy", "parquet"),
    "--precision": ("fp32", "bf16"),
    "--dtype": ("float32", "float16"),
    "--bad-lines": ("refuse", "keep"),
}
EXAMPLES = (
    "mlc embed runs/base corpus.txt --out vectors.npy",
    "mlc embed exported/base news.jsonl.zst --column body --out news.parquet",
    "torchrun --nproc-per-node 8 -m mlc embed exported/base corpus/*.jsonl.gz --out vectors/",
    "cut -f 2 pairs.tsv | mlc embed exported/base --out second.npy --threads 2",
)


def embed(
    model: Annotated[str, typer.Argument(help="Run folder, checkpoint, export, Hugging Face folder or name.")],
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[INPUT]...", help="Files of lines or .jsonl, plain, .gz or .zst; none = stdin."),
    ] = None,
    out: Annotated[Path, typer.Option(help="FILE.npy, FILE.parquet, or a folder of parts.")] = ...,  # type: ignore[assignment]
    column: Annotated[str, typer.Option(help='Field of the text in JSON lines. Default: "text" of .jsonl.')] = "",
    id_column: Annotated[str, typer.Option(help="Field carried along as id, where records have it.")] = "id",
    language_column: Annotated[str, typer.Option(help="Field carried along as language.")] = "lang",
    file_format: Annotated[str, typer.Option("--format", help="Of a folder's parts: npy or parquet.")] = "",
    text: Annotated[bool, typer.Option("--text/--no-text", help="Keep texts in Parquet.")] = True,
    dtype: Annotated[str, typer.Option(help="Of the vectors on disk: float32 or float16.")] = "float32",
    precision: Annotated[str, typer.Option(help="Of the computation: fp32 or bf16.")] = "fp32",
    bad_lines: Annotated[str, typer.Option(help="Lines without a text: refuse, or keep (a row of zeros).")] = "refuse",
    layer: Annotated[int | None, typer.Option(help="-1 = last, 0 = embeddings, k = block k. Default: trained.")] = None,
    pooling: Annotated[str, typer.Option(help="mean, cls, last or attention. Default: as trained.")] = "",
    projection: Annotated[
        bool | None, typer.Option("--projection/--no-projection", help="Apply the projection. Default: as trained.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=3, help="Longest text. Default: as trained.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of each rank. Default: torch's.")] = None,
    batch_tokens: Annotated[int, typer.Option(min=0, help="Tokens of a batch with padding; 0 = by the device.")] = 0,
    unit_texts: Annotated[int, typer.Option(min=1, help="Texts of a part: what a kill loses at most.")] = 4096,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the manifest here too.")] = None,
) -> None:
    """Turn texts into unit vectors: row k is text k.

    Started alone it is one rank; torchrun, srun and mpirun start more, which share the work. Started again with the
    same arguments it does what is missing.
    """
    from mlc.distributed.ranks import find_ranks
    from mlc.embed.inputs import InputForm
    from mlc.embed.opening import ModelChoice
    from mlc.embed.work import FILE_FORMS, Settings, check_place, place_of

    chosen = {"--format": file_format, "--precision": precision, "--dtype": dtype, "--bad-lines": bad_lines}
    for option, value in chosen.items():
        if value and value not in CHOICES[option]:
            raise UsageError("no such choice", found=value, needed=" or ".join(CHOICES[option]), where=option)
    place, stated = place_of(out), FILE_FORMS.get(out.suffix)
    check_place(place)
    if stated and file_format and stated != file_format:
        raise UsageError("the name says another form", found=file_format, needed=stated, where="--format")
    ranks = find_ranks(os.environ)
    settings = Settings(
        form=cast(Any, stated or file_format or "npy"),
        precision=cast(Any, precision),
        dtype=cast(Any, dtype),
        batch_tokens=batch_tokens,
        unit_rows=unit_texts,
        with_text=text and (stated or file_format) == "parquet",
        bad_lines=cast(Any, bad_lines),
        input=InputForm(column or None, id_column, language_column),
    )
    choice = ModelChoice(model, layer, pooling or None, projection, max_tokens, threads)
    with _sources(inputs or [], place, ranks, bool(column)) as sources:
        run_embed(choice, sources, place, settings, ranks, json_file)


def run_embed(
    choice: ModelChoice,
    sources: Sequence[Source],
    place: Place,
    settings: Settings,
    ranks: RankInfo,
    json_file: Path | None = None,
) -> Done:
    """Plan, do this rank's part, and say what came of it.

    Raises:
        MlcError: see `open_model`, `plan_work` and `do_work`; or the vectors cannot be written.
    """
    from mlc.embed.opening import open_model
    from mlc.embed.work import do_work, plan_work, with_defaults
    from mlc.files import write_json

    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise UsageError("the folder does not exist", found=str(json_file.parent), where="--json")
    encoder, identity = open_model(choice, precision=settings.precision, local_rank=ranks.local_rank)
    settings = with_defaults(settings, encoder)
    start = time.monotonic()
    try:
        plan = plan_work(place, sources, settings, identity, choice.model)
        share = sum(plan.rows_of(unit) for unit in range(ranks.rank, len(plan.units), ranks.world_size))
        with _progress(ranks, share) as progress:
            done = do_work(
                place, sources, plan, settings, encoder,
                rank=ranks.rank, world_size=ranks.world_size, progress=progress,
            )  # fmt: skip
    except OSError as error:
        raise MlcError("the vectors cannot be written", found=str(error), where=str(place.out)) from None
    _report(done, place, ranks, time.monotonic() - start)
    if json_file is not None and done.manifest is not None:
        write_json(json_file, done.manifest)
    return done


@contextmanager
def _sources(inputs: Sequence[Path], place: Place, ranks: RankInfo, is_json: bool) -> Iterator[list[Source]]:
    """What there is to read; standard input as a file beside the result, since it is read several times."""
    from mlc.embed.inputs import Source, find_sources

    files = [path for path in inputs if str(path) != STANDARD_INPUT]
    if files:
        if len(files) != len(inputs):
            raise UsageError("standard input and files cannot be mixed", found="-", where="INPUT")
        yield find_sources(files)
        return
    if ranks.world_size > 1:
        raise UsageError(
            "standard input cannot be shared by ranks", found=f"{ranks.world_size} ranks", needed="files", where="INPUT"
        )
    if sys.stdin.isatty():
        raise UsageError("there is no input", needed="files, or texts on standard input", where="INPUT")
    place.out.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.out.absolute().parent, prefix=f".{place.out.name}.stdin-") as folder:
        file = Path(folder) / ("stdin.jsonl" if is_json else "stdin.txt")
        with file.open("wb") as spool:
            shutil.copyfileobj(sys.stdin.buffer, spool)
        yield [Source(file, STANDARD_INPUT)]


@contextmanager
def _progress(ranks: RankInfo, rows: int) -> Iterator[Progress]:
    """A bar on rank 0's standard error, over its own share."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    columns = (
        SpinnerColumn(), TextColumn("embedding"), BarColumn(), MofNCompleteColumn(),
        TextColumn("texts {task.fields[speed]}"), TimeRemainingColumn(),
    )  # fmt: skip
    console = Console(stderr=True, quiet=ranks.rank != 0)
    with Progress(*columns, console=console, transient=True) as bar:
        task, start, done = bar.add_task("embedding", total=rows, speed=""), time.monotonic(), 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            bar.update(task, advance=count, speed=f"{done / max(1e-9, time.monotonic() - start):.0f}/s")

        yield advance


def _report(done: Done, place: Place, ranks: RankInfo, seconds: float) -> None:
    who = f"rank {ranks.rank}: " if ranks.world_size > 1 else ""
    speed = f", {done.rows_here / seconds:.0f} texts/s" if done.rows_here else ""
    print(f"{who}{done.rows_here} texts in {seconds:.1f} s{speed}; {done.units_here} of {done.units} parts")
    if done.manifest is None:
        print(f"{who}{done.units_missing} parts are other ranks' to do; the last to finish writes {place.out}")
        return
    counts = done.manifest["counts"]
    print(f"{place.out}: {counts['rows']} rows x {done.manifest['model']['width']}")
    notes = {
        "cut": f"texts cut to {done.manifest['model']['max_tokens']} tokens",
        "empty": "empty texts, whose vector is that of [CLS] [SEP]",
        "bad": "lines without a text, whose vector is 0: " + ", ".join(done.manifest["bad_places"]),
    }
    for name, note in notes.items():
        if counts[name]:
            print(f"{counts[name]} {note}")
    if done.manifest["blank_lines"]:
        print(f"{done.manifest['blank_lines']} blank lines between records, which have no row")
