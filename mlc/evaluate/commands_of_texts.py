"""`mlc evaluate clusters | probe | latency`: tasks on single texts, or labelled ones.

In:  the command line (`EvaluationOptions` and options of each task).
Out: a table on standard output, and a JSON file where asked; MlcError goes up to mlc.cli, which owns exit codes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlc.errors import UsageError
from mlc.evaluate.options import Evaluation, EvaluationOptions, evaluation_command, parse_rows, report, split_codes
from mlc.evaluate.results import TaskResult

app = typer.Typer()


@evaluation_command(app, "mlc evaluate clusters --model runs/base --data sib200/ --json clusters.json")
def clusters(
    options: EvaluationOptions,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of k-means.")] = 5,
    number: Annotated[int | None, typer.Option("--clusters", min=2, help="Default: as many as labels.")] = None,
) -> TaskResult:
    """Topic clusters over languages: do clusters of embeddings follow the topic, or the language?

    Data: JSON lines of {"lang"?, "text", "label"}.
    """
    from mlc.evaluate.clusters import evaluate_clusters
    from mlc.evaluate.task_data import read_classification

    options.check()
    examples = read_classification(options.paths, languages=options.wanted_languages, rows=slice(options.limit))
    return report(evaluate_clusters(Evaluation.load(options), examples, seeds=seeds, clusters=number), options)


@evaluation_command(
    app,
    "mlc evaluate probe --model runs/base --train sib200/en.train.jsonl --data sib200/dev",
    "mlc evaluate probe --model runs/base --train sib200/en.train.jsonl --data sib200/dev --shots 8,32,128 --seeds 5",
    "mlc evaluate probe --model runs/base --train xnli/en.dev.jsonl --train-rows :1990 --data xnli --test-rows 1990:",
)
def probe(
    options: EvaluationOptions,
    train: Annotated[list[Path], typer.Option(help="Files or folders to train on; may be given several times.")],
    train_languages: Annotated[str, typer.Option(help="Only these of --train, comma-separated.")] = "",
    train_rows: Annotated[str, typer.Option(metavar="A:B", help="Only these rows of each training file.")] = ":",
    test_rows: Annotated[str, typer.Option(metavar="A:B", help="Only these rows of each file of --data.")] = ":",
    shots: Annotated[str, typer.Option(help="Also few examples of each label, comma-separated: 8,32,128.")] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Draws of few examples.")] = 5,
) -> TaskResult:
    """Frozen features with a linear probe: train on some languages, test on others (zero-shot transfer).

    Data: JSON lines of {"lang"?, "text", "text_pair"?, "label"}. Rows count from 0, and B is left out, as in Python.
    """
    from mlc.evaluate.probe import evaluate_probe
    from mlc.evaluate.task_data import read_classification

    options.check()
    few = _numbers(shots, "--shots")
    parts = parse_rows(train_rows, "--train-rows"), parse_rows(test_rows, "--test-rows")
    if options.limit is not None:
        raise UsageError("a probe takes rows of files", needed="--train-rows and --test-rows", where="--limit")
    training = read_classification(train, languages=split_codes(train_languages), rows=parts[0])
    test = read_classification(options.paths, languages=options.wanted_languages, rows=parts[1])
    return report(evaluate_probe(Evaluation.load(options), training, test, shots=few, seeds=seeds), options)


@evaluation_command(
    app,
    "mlc evaluate latency --model runs/base --data texts.txt --threads 1",
    "mlc evaluate latency --model runs/base --data corpus/dev --precisions fp32,int8 --limit 500 --json latency.json",
)
def latency(
    options: EvaluationOptions,
    precisions: Annotated[str, typer.Option(help="Which to time, comma-separated.")] = "fp32,bf16,int8",
    repeats: Annotated[int, typer.Option(min=1, help="Times that each text is encoded alone.")] = 1,
) -> TaskResult:
    """Latency: milliseconds of one text (p50, p99), texts a second in batches, in fp32, bf16 and int8.

    Data: lines of .txt files, or "text" of JSON lines. Give --limit: every text is encoded alone in every precision.
    """
    from mlc.evaluate.latency import check_precisions, evaluate_latency
    from mlc.evaluate.task_data import read_texts

    options.check()
    chosen = check_precisions(split_codes(precisions))
    texts = read_texts(options.paths, languages=options.wanted_languages, limit=options.limit)
    return report(evaluate_latency(options, texts, precisions=chosen, repeats=repeats), options)


def _numbers(text: str, option: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in split_codes(text))
    except ValueError:
        found = (0,)
    if any(number < 1 for number in found):
        raise UsageError("this is no list of numbers", found=text, needed="such as 8,32,128", where=option)
    return found
