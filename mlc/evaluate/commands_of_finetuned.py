"""`mlc evaluate classification | regression | ner | qa | reranking | xnli | pawsx | sentiment | topics | fake-news`.

In:  the command line: a fine-tuned model, test data of its task.
Out: a table on standard output, JSON files where asked; MlcError goes up to mlc.cli, which owns exit codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.console import Console

from mlc.errors import UsageError
from mlc.evaluate.options import PRECISIONS, check_folder, evaluation_command, split_codes
from mlc.evaluate.results import TaskResult, print_result
from mlc.files import write_json
from mlc.languages import language_code

if TYPE_CHECKING:
    from mlc.evaluate.finetuned_tasks import FinetunedTask
    from mlc.tasks.encoder import Precision

app = typer.Typer()

SHOWN = 2
"""Scores in the table; the JSON file has all."""
COMPARED = ("against", "difference")


@dataclass(frozen=True, kw_only=True)
class FinetunedOptions:
    """Options of every task of fine-tuned models; each field is one option of its commands."""

    model: Annotated[str, typer.Option(help="Run folder of mlc finetune, a checkpoint of it, or an export.")]
    data: Annotated[
        list[str],
        typer.Option(help='Files, folders, globs, "{language}" places or hub:NAME; may be given several times.'),
    ]
    more: Annotated[list[str] | None, typer.Argument(metavar="[PATH]...", help="More data, as --data.")] = None
    languages: Annotated[
        str, typer.Option(help="Comma-separated: they fill {language}, or only these of --data are kept.")
    ] = ""
    rows: Annotated[str, typer.Option(metavar="A:B", help="Only these rows of each file, from 0; B is left out.")] = ":"
    columns: Annotated[
        str, typer.Option(help="Columns that have other names than usual: text=premise,label=gold, or by number.")
    ] = ""
    set_aside: Annotated[bool, typer.Option("--set-aside", help="Leave bad records out and count them.")] = False
    metric: Annotated[str, typer.Option(help="The score that counts. Default: the task's main one.")] = ""
    trained: Annotated[
        str, typer.Option(help="Languages trained on; zero-shot is the mean of the others. Default: as the model says.")
    ] = ""
    against: Annotated[str, typer.Option(help="A second model: adds the difference, by a paired bootstrap.")] = ""
    predictions: Annotated[
        Path | None, typer.Option(help="Write every example with its answer here, as JSON lines.")
    ] = None
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32"
    threads: Annotated[int | None, typer.Option(min=1, help="Intra-op threads. Default: torch's.")] = None
    batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of one batch, padding included. Default: by device.")
    ] = None
    resamples: Annotated[int, typer.Option(min=2, help="Bootstrap resamples of the intervals.")] = 1000
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every number here.")] = None

    @property
    def sources(self) -> tuple[str, ...]:
        """All of --data."""
        return (*self.data, *(self.more or ()))

    def check(self) -> None:
        """Refuse what can be refused before anything is read.

        Raises:
            UsageError: an unknown precision, or no folder for a file.
        """
        if self.precision not in PRECISIONS:
            raise UsageError(
                "no such precision", found=self.precision, needed=" or ".join(PRECISIONS), where="--precision"
            )
        check_folder(self.json_file, "--json")
        check_folder(self.predictions, "--predictions")


@evaluation_command(
    app,
    'mlc evaluate classification --model runs/topics --data "topics/{language}.test.jsonl" --languages de,fr',
    "mlc evaluate classification --model runs/new --against runs/old --data test.jsonl --json classes.json",
    options=FinetunedOptions,
)
def classification(options: FinetunedOptions) -> TaskResult:
    """Classes of texts, or of pairs of texts: accuracy, macro F1, Matthews correlation.

    Data: JSON lines of {"lang"?, "text", "text_pair"?, "label"}, or another form of docs/task_data.md.
    """
    from mlc.evaluate.finetuned_tasks import CLASSIFICATION

    return run_finetuned(CLASSIFICATION, options)


@evaluation_command(app, "mlc evaluate regression --model runs/sts --data sts.jsonl", options=FinetunedOptions)
def regression(options: FinetunedOptions) -> TaskResult:
    """Numbers of texts, or of pairs of texts: Spearman's and Pearson's correlation, mean squared error.

    Data: JSON lines of {"lang"?, "text", "text_pair"?, "score"}, or another form of docs/task_data.md.
    """
    from mlc.evaluate.finetuned_tasks import REGRESSION

    return run_finetuned(REGRESSION, options)


@evaluation_command(
    app,
    'mlc evaluate ner --model runs/wikiann --data "panx/{language}.dev.jsonl.zst" --languages de,fr,sw',
    "mlc evaluate ner --model runs/wikiann --data hub:unimelb-nlp/wikiann:de:test --predictions de.jsonl",
    options=FinetunedOptions,
)
def ner(options: FinetunedOptions) -> TaskResult:
    """Labels of words: F1 of entities as conlleval counts them (IOB2), or accuracy of words for other labels.

    Data: JSON lines of {"lang"?, "tokens", "labels"}, CoNLL, or another form of docs/task_data.md.
    """
    from mlc.evaluate.finetuned_tasks import NER

    return run_finetuned(NER, options)


@evaluation_command(
    app,
    'mlc evaluate qa --model runs/squad --data "xquad/xquad.{language}.json" --languages de,ru',
    options=FinetunedOptions,
)
def qa(options: FinetunedOptions) -> TaskResult:
    """Extractive question answering: F1 and exact match of answers, by the rules of MLQA.

    Data: SQuAD's JSON, or JSON lines of {"id", "lang"?, "question", "context", "answers"}.
    """
    from mlc.evaluate.finetuned_tasks import QA

    return run_finetuned(QA, options)


@evaluation_command(
    app,
    "mlc evaluate reranking --model runs/reranker --data passages.jsonl --metric ndcg@10",
    options=FinetunedOptions,
)
def reranking(options: FinetunedOptions) -> TaskResult:
    """Passages ordered by how well they answer a query: MRR, MAP, nDCG@k, recall@k.

    Data: JSON lines of {"lang"?, "query", "positives", "negatives"}, or another form of docs/task_data.md.
    """
    from mlc.evaluate.finetuned_tasks import RERANKING

    return run_finetuned(RERANKING, options)


@evaluation_command(
    app,
    'mlc evaluate xnli --model runs/xnli --data "xnli/{language}.dev.jsonl" --languages en,de,sw --rows 1990:',
    options=FinetunedOptions,
)
def xnli(options: FinetunedOptions) -> TaskResult:
    """XNLI: entailment, neutral or contradiction of two sentences (Conneau et al. 2018)."""
    from mlc.evaluate.finetuned_tasks import XNLI

    return run_finetuned(XNLI, options)


@evaluation_command(
    app,
    'mlc evaluate pawsx --model runs/pawsx --data "pawsx/{language}.dev.jsonl" --languages en,de,ja --rows 1500:',
    options=FinetunedOptions,
)
def pawsx(options: FinetunedOptions) -> TaskResult:
    """PAWS-X: are two sentences of the same words paraphrases, 1 or 0 (Yang et al. 2019)?"""
    from mlc.evaluate.finetuned_tasks import PAWSX

    return run_finetuned(PAWSX, options)


@evaluation_command(
    app,
    'mlc evaluate sentiment --model runs/sentiment --data "tweets/{language}.val.jsonl" --languages en,de,hi '
    "--metric macro_f1",
    options=FinetunedOptions,
)
def sentiment(options: FinetunedOptions) -> TaskResult:
    """Sentiment of single texts: negative, (neutral,) positive, or numbers of two, three or five classes."""
    from mlc.evaluate.finetuned_tasks import SENTIMENT

    return run_finetuned(SENTIMENT, options)


@evaluation_command(
    app, 'mlc evaluate topics --model runs/topics --data "sib200/*.dev.jsonl" --json topics.json',
    options=FinetunedOptions,
)  # fmt: skip
def topics(options: FinetunedOptions) -> TaskResult:
    """Topics of single texts, such as SIB-200 (Adelani et al. 2024)."""
    from mlc.evaluate.finetuned_tasks import TOPICS

    return run_finetuned(TOPICS, options)


@evaluation_command(
    app, "mlc evaluate fake-news --model runs/news --data news/test.jsonl", options=FinetunedOptions, name="fake-news"
)
def fake_news(options: FinetunedOptions) -> TaskResult:
    """True or false news, of one text or of a title and a text; any labels."""
    from mlc.evaluate.finetuned_tasks import FAKE_NEWS

    return run_finetuned(FAKE_NEWS, options)


def run_finetuned(task: FinetunedTask, options: FinetunedOptions, console: Console | None = None) -> TaskResult:
    """Score a fine-tuned model, print the table, write the files; bad input is refused before anything is answered.

    Args:
        console: where the table goes; None = standard output.

    Raises:
        MlcError: see `Predictor.load`, `check_model`, `read_examples` and `evaluate_finetuned`.
    """
    options.check()
    from mlc.evaluate.finetuned import ScoringSettings, evaluate_finetuned
    from mlc.evaluate.finetuned_tasks import check_model, read_examples
    from mlc.tasks.learned.predict import Predictor

    def load(model: str) -> Predictor:
        found = Predictor.load(model, precision=cast("Precision", options.precision), threads=options.threads)
        check_model(task, found.task.settings, model)
        return found

    examples, set_aside = read_examples(
        task.kind,
        options.sources,
        languages=options.languages,
        part=options.rows,
        columns=options.columns,
        sets_aside=options.set_aside,
    )
    predictor = load(options.model)
    trained = tuple(language_code(code) for code in split_codes(options.trained))
    result = evaluate_finetuned(
        predictor,
        examples,
        ScoringSettings(
            task=task.name,
            data=options.sources,
            metric=options.metric,
            trained=trained or None,
            resamples=options.resamples,
            batch_tokens=options.batch_tokens,
            set_aside=set_aside,
        ),
        model=options.model,
        against=(options.against, load(options.against)) if options.against else None,
        predictions=options.predictions,
    )
    return report_finetuned(result, options, console)


def report_finetuned(result: TaskResult, options: FinetunedOptions, console: Console | None = None) -> TaskResult:
    """Print a result (None = to standard output), and write its JSON file where one was asked for."""
    print_result(_shown(result), console or Console())
    if options.json_file is not None:
        write_json(options.json_file, result.to_json())
    return result


def _shown(result: TaskResult) -> TaskResult:
    """What fits into a terminal: the first scores and the comparison."""
    rows = result.by["language"]
    first: Sequence[str] = [name for name in next(iter(rows.values())) if name not in COMPARED][:SHOWN]
    if any(COMPARED[0] in row for row in rows.values()):
        first = [first[0], *COMPARED]
    overall = [f"{name}{ending}" for ending in ("", "_zero_shot") for name in first]
    return replace(
        result,
        scores={name: result.scores[name] for name in overall if name in result.scores},
        by={"language": {key: {name: row[name] for name in first} for key, row in rows.items()}},
    )
