"""`mlc translate`: a line of standard input, its translation on standard output.

In:  the command line, lines of text.
Out: as many lines; MlcError goes up to mlc.cli, which owns exit codes.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from mlc.errors import DataError
from mlc.languages import language_code

EXAMPLES = (
    "mlc translate runs/de-en --from de --to en < text.de > text.en",
    "mlc translate runs/de-en --from de --to en --beams 4 < text.de",
)


def translate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Run folder of mlc finetune, or a checkpoint of it.")],
    source: Annotated[str, typer.Option("--from", help="Language to read, such as de.")],
    target: Annotated[str, typer.Option("--to", help="Language to write, such as en.")],
    beams: Annotated[int, typer.Option(min=1, help="Width of the beam search; 1 = greedy.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="Intra-op threads. Default: torch's.")] = None,
) -> None:
    """Translate lines of standard input with a model that was fine-tuned to translate. A blank line stays blank."""
    say = Console(stderr=True)
    if sys.stdin.isatty():
        say.print("texts from standard input, a line each; Ctrl-D ends them", markup=False, highlight=False)
    lines = [line.strip() for line in sys.stdin.read().split("\n")]
    if lines and not lines[-1]:
        lines.pop()
    texts = [line for line in lines if line]
    if not texts:
        raise DataError("there are no texts", where="standard input")
    from transformers.utils.logging import disable_progress_bar

    from mlc.tasks.learned.translation_decoding import Translator

    disable_progress_bar()  # transformers' own: they tell of single files
    translator = Translator.load(model, threads=threads)
    if not translator.is_trained(language_code(source), language_code(target)):
        known = ", ".join(translator.settings.directions)
        say.print(f"zero-resource: {source}>{target} was never trained; trained were {known}", highlight=False)
    written = iter(translator.translate(texts, language_code(target), beams=beams))
    for line in lines:
        sys.stdout.write((" ".join(next(written).splitlines()) if line else "") + "\n")
    if translator.cut:
        most = translator.task.settings.max_tokens
        say.print(f"{translator.cut} texts are longer than {most} tokens and were cut", highlight=False)
