"""`mlc evaluate cloze`: classes as words in a blank.

In:  the command line.
Out: a table on standard output, JSON files where asked; MlcError goes up to mlc.cli, which owns exit codes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from mlc.errors import UsageError
from mlc.evaluate.commands_of_finetuned import FinetunedOptions, report_finetuned
from mlc.evaluate.options import evaluation_command, split_codes
from mlc.evaluate.results import TaskResult
from mlc.languages import language_code

if TYPE_CHECKING:
    from mlc.tasks.encoder import Precision
    from mlc.tasks.examples import ClassificationExample

app = typer.Typer()


@evaluation_command(
    app,
    "mlc evaluate cloze --model runs/topics-cloze --data topics/test.jsonl",
    "mlc evaluate cloze --model runs/base --verbalizer topics.toml --data topics/test.jsonl --json cloze.json",
    'mlc evaluate cloze --model runs/base --pattern "{text} It was [MASK]." --verbalizer words.toml --data test.jsonl',
    options=FinetunedOptions,
)
def cloze(
    options: FinetunedOptions,
    pattern: Annotated[str, typer.Option(help="A text with {text}, {text_pair} and [MASK]. Default: the file's.")] = "",
    verbalizer: Annotated[
        Path | None,
        typer.Option(help="TOML with the keys of [cloze] of a recipe. Default: what the model was fine-tuned with."),
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=8, help="Longest row. Default: as trained.")] = None,
) -> TaskResult:
    """Classes as words in a blank of a GLM: fine-tuned so, or zero-shot by pre-training alone.

    Data: JSON lines of {"lang"?, "text", "text_pair"?, "label"}, or another form of docs/task_data.md.
    """
    options.check()
    if options.against:
        raise UsageError("a cloze is compared with no second model", found=options.against, where="--against")
    import torch

    from mlc.evaluate.cloze import load_cloze, read_wording
    from mlc.evaluate.finetuned import ScoringSettings, evaluate_finetuned
    from mlc.evaluate.finetuned_tasks import read_examples
    from mlc.tasks.learned.predict import Predictor
    from mlc.tasks.locate import find_model

    wording = read_wording(pattern, verbalizer)
    examples, set_aside = read_examples(
        "classification",
        options.sources,
        languages=options.languages,
        part=options.rows,
        columns=options.columns,
        sets_aside=options.set_aside,
    )
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    source = find_model(options.model)
    labelled = [cast("ClassificationExample", example) for example in examples]
    model = load_cloze(source, wording, labelled, max_tokens=max_tokens)
    stated = tuple(language_code(code) for code in split_codes(options.trained))
    learned = source.kind == "finetuned"
    result = evaluate_finetuned(
        Predictor(model, precision=cast("Precision", options.precision)),
        examples,
        ScoringSettings(
            task="cloze",
            data=options.sources,
            metric=options.metric,
            trained=stated or (None if learned else ()),  # languages of pre-training had no labels
            resamples=options.resamples,
            batch_tokens=options.batch_tokens,
            set_aside=set_aside,
        ),
        model=options.model,
        predictions=options.predictions,
    )
    return report_finetuned(result, options)
