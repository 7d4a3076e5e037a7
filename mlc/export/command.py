"""`mlc export`: a checkpoint as a folder for transformers.

In:  the command line.
Out: the folder, and a line of what was checked; MlcError goes up to mlc.cli, which owns exit codes.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mlc.errors import UsageError
from mlc.files import write_json


def export(
    model: Annotated[str, typer.Argument(metavar="RUN", help="Run folder (newest checkpoint) or a checkpoint.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it is an export.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write what was checked here.")] = None,
) -> None:
    """Write a checkpoint as a folder that transformers.AutoModel and AutoTokenizer open.

    It is opened again and compared with the checkpoint (equal token ids, embeddings within 1e-5) before it gets its
    name.

    Examples:

      $ mlc export runs/base exported/base

      $ mlc export runs/base/checkpoints/step-00001000 exported/base --overwrite
    """
    run_export(model, out, overwrite=overwrite, json_file=json_file)


def run_export(
    model: str, out: Path, *, overwrite: bool = False, json_file: Path | None = None, console: Console | None = None
) -> None:
    """Export and say what was checked; errors as in `export_model`."""
    from transformers.utils.logging import disable_progress_bar

    from mlc.export.hugging_face import export_model

    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise UsageError("the folder does not exist", found=str(json_file.parent), where="--json")
    disable_progress_bar()  # transformers' own: they tell of single files
    report = export_model(model, out, overwrite=overwrite)
    say = console or Console()
    if report.skipped:
        say.print(f"skipped, not complete: {', '.join(report.skipped)}", markup=False, highlight=False)
    say.print(
        f"{report.folder}: from {report.checkpoint}; token ids equal on {report.texts_compared} texts, "
        f"embeddings differ by at most {report.max_difference:.1g}",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )
    if json_file is not None:
        content = {**asdict(report), "folder": str(report.folder)}
        write_json(json_file, content)
