"""`mlc export`: a model as a folder for transformers, sentence-transformers or onnxruntime.

In:  the command line.
Out: the folder, and a line for each comparison; MlcError goes up to mlc.cli, which owns exit codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.console import Console

from mlc.errors import UsageError
from mlc.files import write_json

if TYPE_CHECKING:
    from mlc.export.transformers_folder import Dtype

DEFAULT_FORMAT = "transformers"
EXAMPLES = (
    "mlc export runs/base exported/base",
    "mlc export runs/base exported/base --format sentence-transformers --format onnx --overwrite",
    "mlc export exported/base exported/base-int8 --dtype int8",
    "mlc export runs/base exported/generator --heads",
    "mlc export runs/sentiment exported/sentiment --format transformers --format onnx",
    "mlc export runs/base exported/base --license cc-by-sa-4.0 --data-note 'Wikipedia of 2024.' --scores tatoeba.json",
)


def export(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Run (best or newest checkpoint), checkpoint, or export.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format", help="transformers, sentence-transformers or onnx; repeatable. Default: transformers."
        ),
    ] = None,
    dtype: Annotated[str, typer.Option(help="Of the safetensors: fp32, bf16, fp16 or int8.")] = "fp32",
    license_: Annotated[str, typer.Option("--license", help="Licence of the model, for its card: cc-by-4.0.")] = "",
    data_note: Annotated[str, typer.Option(help="A sentence on the training data and its licences.")] = "",
    scores: Annotated[
        list[Path] | None, typer.Option(help="Result of mlc evaluate (--json FILE) for the card; repeatable.")
    ] = None,
    heads: Annotated[
        bool, typer.Option("--heads", help="Of a pre-trained GLM: also the heads that fill blanks and masked tokens.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it is an export.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write what was checked here.")] = None,
) -> None:
    """Write a model as a folder that transformers, sentence-transformers or onnxruntime opens, with a model card.

    Every program that is to read it opens it and is compared with the model (equal token ids; embeddings, or logits of
    a fine-tuned model, within 1e-5, by onnxruntime within 1e-4) before it gets its name. Of a pre-trained model this is
    the encoder, with --heads also what scores tokens; of a fine-tuned one the best checkpoint with its head, adapters
    merged.
    """
    run_export(
        model,
        out,
        formats=formats or [DEFAULT_FORMAT],
        dtype=dtype,
        license_=license_,
        data_note=data_note,
        scores=scores or [],
        heads=heads,
        overwrite=overwrite,
        json_file=json_file,
    )


def run_export(
    model: str,
    out: Path,
    *,
    formats: Sequence[str] = (DEFAULT_FORMAT,),
    dtype: str = "fp32",
    license_: str = "",
    data_note: str = "",
    scores: Sequence[Path] = (),
    heads: bool = False,
    overwrite: bool = False,
    json_file: Path | None = None,
    console: Console | None = None,
) -> None:
    """Export and say what was checked; errors as in `export_model` and `read_scores`."""
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise UsageError("the folder does not exist", found=str(json_file.parent), where="--json")
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    from mlc.export.card_facts import CardNotes, read_scores
    from mlc.export.hugging_face import export_model

    disable_progress_bar()  # transformers' own: they tell of single files
    set_verbosity_error()  # of poolers, which encoders here do not have
    notes = CardNotes(license_, data_note, read_scores(scores))
    report = export_model(
        model, out, formats=formats, dtype=cast("Dtype", dtype), notes=notes, heads=heads, overwrite=overwrite
    )
    say = console or Console()
    lines = [f"skipped, not complete: {', '.join(report.skipped)}"] if report.skipped else []
    lines.append(
        f"{report.folder}: {', '.join(report.formats)}, {report.dtype}, {report.weight_bytes / 1e6:.1f} MB of weights, "
        f"from {report.checkpoint}"
    )
    for line in [*lines, *(f"  {comparison}" for comparison in report.comparisons)]:
        say.print(line, soft_wrap=True, markup=False, highlight=False)
    if json_file is not None:
        write_json(json_file, {**asdict(report), "folder": str(report.folder)})
