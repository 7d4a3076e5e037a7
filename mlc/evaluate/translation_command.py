"""`mlc evaluate translation`: a fine-tuned model on one direction.

In:  the command line.
Out: a table on standard output, a JSON file and the translations where asked; MlcError goes up to mlc.cli.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mlc.errors import UsageError
from mlc.evaluate.options import check_folder, examples_epilog
from mlc.evaluate.results import print_result
from mlc.files import write_atomically, write_json
from mlc.languages import language_code

app = typer.Typer()

EXAMPLES = (
    "mlc evaluate translation --model runs/de-en-fr --data test/de-fr.jsonl --source de --target fr --beams 4",
    "mlc evaluate translation --model runs/de-en-fr --data 'test/newstest.{de,en}' --source de --target en --wait-k 3",
)


@app.command(epilog=examples_epilog(EXAMPLES))
def translation(
    model: Annotated[str, typer.Option(help="Run folder of mlc finetune, or a checkpoint of it.")],
    data: Annotated[list[str], typer.Option(help="Parallel texts; may be given several times: docs/task_data.md.")],
    source: Annotated[str, typer.Option(help="Language to read, such as de.")],
    target: Annotated[str, typer.Option(help="Language to write, such as en.")],
    beams: Annotated[int, typer.Option(min=1, help="Width of the beam search; 1 = greedy.")] = 1,
    wait_k: Annotated[
        str, typer.Option(metavar="K", help="Simultaneous: the first word after K source words; inf = after all.")
    ] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N examples of the direction.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Intra-op threads. Default: torch's.")] = None,
    resamples: Annotated[int, typer.Option(min=2, help="Bootstrap resamples of the intervals.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the resamples.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the translations here, a line each.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every number here.")] = None,
) -> None:
    """Translation of one direction: chrF and BLEU; with --wait-k also how far it lags behind.

    A direction that was not trained is labelled as zero-resource. Data that has the pair the other way round is turned.
    """
    from transformers.utils.logging import disable_progress_bar

    simultaneous, wait = _waiting(wait_k, beams)
    check_folder(json_file, "--json")
    check_folder(out, "--out")
    from mlc.evaluate.translation import TranslationQuestion, evaluate_translation, read_direction
    from mlc.tasks.learned.translation_decoding import Translator

    examples, others = read_direction(data, source, target, limit)
    question = TranslationQuestion(
        model=model,
        data=tuple(data),
        source=language_code(source),
        target=language_code(target),
        beams=beams,
        simultaneous=simultaneous,
        wait=wait,
        resamples=resamples,
        seed=seed,
    )
    disable_progress_bar()  # transformers' own: they tell of single files
    result, translations = evaluate_translation(
        Translator.load(model, threads=threads), examples, question, others=others
    )
    print_result(result, Console())
    if out is not None:
        write_atomically(out, "".join(" ".join(text.splitlines()) + "\n" for text in translations).encode())
    if json_file is not None:
        write_json(json_file, result.to_json())


def _waiting(text: str, beams: int) -> tuple[bool, int | None]:
    """Whether words are written while the source is read, and k (None = infinity)."""
    if not text:
        return False, None
    if beams > 1:
        raise UsageError("what was written is not taken back: no beams", found=f"--beams {beams}", where="--wait-k")
    if text == "inf":
        return True, None
    if not text.isdecimal() or int(text) < 1:
        raise UsageError("no such k", found=text, needed="a number from 1 on, or inf", where="--wait-k")
    return True, int(text)
