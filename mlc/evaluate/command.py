"""`mlc evaluate TASK`: scores of a model on a downstream task.

In:  the command line.
Out: a table on standard output, and a JSON file where asked; MlcError goes up to mlc.cli, which owns exit codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console

from mlc.errors import UsageError
from mlc.evaluate.cloze_command import app as cloze_app
from mlc.evaluate.commands_of_finetuned import app as finetuned_app
from mlc.evaluate.commands_of_pairs import app as pairs_app
from mlc.evaluate.commands_of_results import app as results_app
from mlc.evaluate.commands_of_texts import app as texts_app
from mlc.evaluate.intervals import Bootstrap
from mlc.evaluate.options import PRECISIONS, check_choice, check_folder, examples_epilog, progress_bar
from mlc.evaluate.plots import check_plot, draw_heat_map
from mlc.evaluate.similarity import SCORINGS, Scoring
from mlc.evaluate.translation_command import app as translation_app
from mlc.files import write_json

if TYPE_CHECKING:
    from mlc.evaluate.report import RetrievalReport
    from mlc.tasks.encoder import Precision, TextEncoder
    from mlc.tasks.parallel_texts import ParallelTexts

app = typer.Typer(no_args_is_help=True, help="Score a model on a task.")
app.add_typer(pairs_app)  # without a name: its commands become commands of this one
app.add_typer(texts_app)
app.add_typer(finetuned_app)
app.add_typer(cloze_app)
app.add_typer(results_app)
app.add_typer(translation_app)

BEST = "best"


@app.callback()
def _tasks() -> None:
    """Score a model on a task."""


EXAMPLES = (
    "mlc evaluate retrieval --model runs/base --data tatoeba/",
    "mlc evaluate retrieval --model runs/base/checkpoints/step-00001000 --data dev/ --languages en,de --json out.json",
    "mlc evaluate retrieval --model xlm-r-base/ --data tatoeba/ --layer best --dev dev/",
    "mlc evaluate retrieval --model runs/base --data tatoeba/ --scoring margin --plot pairs.svg",
)


@app.command(epilog=examples_epilog(EXAMPLES))
def retrieval(
    model: Annotated[str, typer.Option(help="Run folder, checkpoint, export, Hugging Face folder or name.")],
    data: Annotated[list[Path], typer.Option(help="Files or folders of parallel texts; may be given several times.")],
    more: Annotated[list[Path] | None, typer.Argument(metavar="[PATH]...", help="More data, as --data.")] = None,
    languages: Annotated[str, typer.Option(help="Only these of --data, comma-separated: de,fr.")] = "",
    layer: Annotated[
        str, typer.Option(help='-1 = last, 0 = embeddings, k = block k, "best" = chosen on --dev. Default: as trained.')
    ] = "",
    dev: Annotated[list[Path] | None, typer.Option(help="Parallel texts that choose the layer.")] = None,
    pooling: Annotated[str, typer.Option(help="mean, cls, last or attention. Default: as trained.")] = "",
    projection: Annotated[
        bool | None, typer.Option("--projection/--no-projection", help="Apply the projection. Default: as trained.")
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    threads: Annotated[int | None, typer.Option(min=1, help="Intra-op threads. Default: torch's.")] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="Only the first N texts of each pair of languages.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=3, help="Longest text. Default: as trained.")] = None,
    batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of one batch, padding included. Default: by device.")
    ] = None,
    scoring: Annotated[str, typer.Option(help="cosine, csls or margin (ratio margin).")] = "cosine",
    resamples: Annotated[int, typer.Option(min=2, help="Bootstrap resamples of the intervals.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the resamples.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="Draw a heat map of language pairs: .svg or .png.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every number here.")] = None,
) -> None:
    """Translation retrieval: is a text's translation the nearest of all candidates?

    Data: <a>-<b>.jsonl with the two codes as keys, <a>-<b>.tsv with two columns, or a folder of <lang>.jsonl with id,
    lang and text, where an id shared by two languages is the same document; each plain, .gz or .zst.
    """
    run_retrieval(
        model,
        [*data, *(more or [])],
        languages=[code.strip() for code in languages.split(",") if code.strip()],
        layer=layer or None,
        dev=dev or [],
        pooling=pooling or None,
        projection=projection,
        precision=precision,
        threads=threads,
        limit=limit,
        max_tokens=max_tokens,
        batch_tokens=batch_tokens,
        scoring=scoring,
        bootstrap=Bootstrap(resamples, seed),
        plot=plot,
        json_file=json_file,
    )


def run_retrieval(
    model: str,
    data: Sequence[Path],
    *,
    languages: Sequence[str] = (),
    layer: str | int | None = None,
    dev: Sequence[Path] = (),
    pooling: str | None = None,
    projection: bool | None = None,
    precision: str = "fp32",
    threads: int | None = None,
    limit: int | None = None,
    max_tokens: int | None = None,
    batch_tokens: int | None = None,
    scoring: str = "cosine",
    bootstrap: Bootstrap = Bootstrap(),  # noqa: B008 (frozen)
    plot: Path | None = None,
    json_file: Path | None = None,
    console: Console | None = None,
) -> RetrievalReport:
    """Score a model, print the table, write the JSON file; what can be refused is refused before the model loads.

    Args:
        layer: a number, "best" (then `dev` chooses among mean-pooled layers without projection), or None = as trained.
        scoring: cosine, csls or margin.
        plot: .svg or .png of a heat map.
        console: where the table goes; None = standard output.

    Raises:
        MlcError: see `find_model`, `read_parallel_texts` and `TextEncoder.load`.
    """
    from transformers.utils.logging import disable_progress_bar

    from mlc.evaluate.report import directions, print_report
    from mlc.tasks.encoder import TextEncoder
    from mlc.tasks.parallel_texts import read_parallel_texts

    layer_number = _check_options(layer, dev, pooling, projection, precision, json_file)
    known_scoring = check_choice(scoring, SCORINGS, "--scoring")
    check_plot(plot)
    pairs = read_parallel_texts(data, languages=languages, limit=limit)
    dev_pairs = read_parallel_texts(dev, limit=limit) if dev else []
    disable_progress_bar()  # transformers' own: they tell of single files
    encoder = TextEncoder.load(
        model,
        layer=layer_number,
        pooling=pooling,
        projection=projection,
        precision=cast("Precision", precision),
        threads=threads,
        max_tokens=max_tokens,
    )
    report = score_encoder(
        encoder,
        pairs,
        dev_pairs,
        batch_tokens=batch_tokens,
        scoring=known_scoring,
        bootstrap=bootstrap,
        facts={"model": model, "data": tuple(map(str, data)), "dev": tuple(map(str, dev)), "limit": limit},
    )
    print_report(report, console or Console())
    if plot is not None:
        draw_heat_map(directions(report.pairs), plot, f"retrieval, {scoring} top-1 in %")
    if json_file is not None:
        write_json(json_file, report.to_json())
    return report


def score_encoder(
    encoder: TextEncoder,
    pairs: Sequence[ParallelTexts],
    dev_pairs: Sequence[ParallelTexts],
    *,
    batch_tokens: int | None,
    facts: dict[str, Any],
    scoring: Scoring = "cosine",
    bootstrap: Bootstrap = Bootstrap(),  # noqa: B008 (frozen)
) -> RetrievalReport:
    """Choose the layer where `dev_pairs` are given, then score `pairs`; progress goes to standard error."""
    from mlc.evaluate.report import RetrievalReport
    from mlc.evaluate.retrieval import best_layer, evaluate_retrieval, unique_texts
    from mlc.tasks.encoder import Representation, describe

    dev_top1 = None
    if dev_pairs:
        with progress_bar("dev", len(unique_texts(dev_pairs))) as advance:
            chosen, dev_top1 = best_layer(
                dev_pairs,
                lambda texts: encoder.encode_layers(texts, batch_tokens=batch_tokens, progress=advance),
                scoring,
            )
        encoder = encoder.with_representation(Representation(layer=chosen))
    with progress_bar("encoding", len(unique_texts(pairs))) as advance:
        scores = evaluate_retrieval(
            pairs, lambda texts: encoder.encode(texts, batch_tokens=batch_tokens, progress=advance), scoring
        )
    return RetrievalReport(
        checkpoint=encoder.model.source.name,
        step=encoder.step,
        representation=dict(describe(encoder.representation, encoder.model.layers)),
        precision=encoder.precision,
        max_tokens=encoder.max_tokens,
        texts=encoder.counts.texts,
        cut=encoder.counts.cut,
        pairs=tuple(scores),
        dev_top1=dev_top1,
        skipped_checkpoints=encoder.model.source.skipped,
        scoring=scoring,
        bootstrap=bootstrap,
        **facts,
    )


def _check_options(
    layer: str | int | None,
    dev: Sequence[Path],
    pooling: str | None,
    projection: bool | None,
    precision: str,
    json_file: Path | None,
) -> int | None:
    if precision not in PRECISIONS:
        raise UsageError("no such precision", found=precision, needed=" or ".join(PRECISIONS), where="--precision")
    check_folder(json_file, "--json")
    if layer == BEST:
        if not dev:
            raise UsageError("--layer best needs a dev split to choose on", needed="--dev PATH", where="--layer")
        if pooling not in (None, "mean") or projection:
            raise UsageError("--layer best compares mean-pooled layers without projection", where="--layer")
        return None
    if dev:
        raise UsageError("--dev only chooses a layer", needed="--layer best with it", where="--dev")
    if layer is None:
        return None
    try:
        return int(layer)
    except ValueError:
        raise UsageError("no such layer", found=layer, needed=f"a number or {BEST}", where="--layer") from None
