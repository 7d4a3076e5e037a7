"""`mlc evaluate mining | sts | documents | alignment | passages`: tasks on texts that belong together.

In:  the command line (`EvaluationOptions` and options of each task).
Out: a table on standard output, and a JSON file where asked; MlcError goes up to mlc.cli, which owns exit codes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlc.errors import UsageError
from mlc.evaluate.options import Evaluation, EvaluationOptions, check_choice, check_folder, evaluation_command, report
from mlc.evaluate.plots import check_plot
from mlc.evaluate.results import TaskResult
from mlc.evaluate.similarity import SCORINGS

if TYPE_CHECKING:
    from mlc.evaluate.mining import Lists

app = typer.Typer()


@evaluation_command(
    app,
    "mlc evaluate mining --model runs/base --data tatoeba/deu-eng.jsonl",
    "mlc evaluate mining --model runs/base --data test.de test.en --gold test.gold --train-data train.de train.en "
    "--train-gold train.gold --out mined.tsv",
    "mlc evaluate mining --model runs/base --data news.de news.en --threshold 1.06 --out mined.tsv",
)
def mining(
    options: EvaluationOptions,
    gold: Annotated[Path | None, typer.Option(help="--data is two lists, id TAB text; this has id TAB id.")] = None,
    train_data: Annotated[
        list[Path] | None, typer.Option(help="Two lists that choose the threshold, --train-data A --train-data B.")
    ] = None,
    train_gold: Annotated[Path | None, typer.Option(help="Gold pairs of --train-data.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Use this one. Default: chosen by best F1.")] = None,
    parallel_share: Annotated[
        float, typer.Option(min=0.001, max=1, help="Of parallel texts: lines whose two sides both stay in the lists.")
    ] = 0.2,
    scoring: Annotated[str, typer.Option(help="margin (ratio margin), csls or cosine.")] = "margin",
    out: Annotated[Path | None, typer.Option(help="Write the mined pairs here: score, ids, texts, gold.")] = None,
) -> TaskResult:
    """Bitext mining: find the translations in two monolingual lists, as in BUCC.

    Data: two files of "id<TAB>text" with --gold, a file of "id<TAB>id"; or parallel texts as for retrieval, of which
    lists are made: a share of the lines stays in both lists, of all other lines one side is left out. Without
    --train-data or --threshold the threshold is chosen on one half of the lists and scores are of the other half.
    """
    from mlc.evaluate.mining import evaluate_mining

    options.check()
    known = check_choice(scoring, SCORINGS, "--scoring")
    check_folder(out, "--out")
    sets = _mining_lists(options, gold, train_data or [], train_gold, threshold, parallel_share, out)
    evaluation = Evaluation.load(options)
    return report(evaluate_mining(evaluation, sets, scoring=known, threshold=threshold, out=out), options)


def _mining_lists(
    options: EvaluationOptions,
    gold: Path | None,
    train_data: list[Path],
    train_gold: Path | None,
    threshold: float | None,
    parallel_share: float,
    out: Path | None,
) -> list[tuple[Lists, Lists | None]]:
    """(lists to score, lists that choose the threshold) of every pair of languages."""
    from mlc.evaluate.mining import comparable_lists, halves, read_lists
    from mlc.tasks.parallel_texts import read_parallel_texts

    if threshold is not None and (train_data or train_gold):
        raise UsageError("a threshold is given and to be chosen", needed="--threshold or --train-data", where="mining")
    if bool(train_data) != bool(train_gold) or len(train_data) not in (0, 2):
        raise UsageError("a threshold is chosen on two lists", needed="--train-data A --train-data B --train-gold G")
    train = read_lists(train_data[0], train_data[1], train_gold) if train_data else None
    lists_given = gold is not None or (len(options.paths) == 2 and not _named_like_pairs(options.paths))
    if not lists_given:
        texts = read_parallel_texts(options.paths, languages=options.wanted_languages, limit=options.limit)
        made = [comparable_lists(each, parallel_share, options.seed) for each in texts]
    elif options.limit or options.wanted_languages or len(options.paths) != 2:
        raise UsageError("lists are two whole files", needed="--data FIRST SECOND, without --limit and --languages")
    else:
        made = [read_lists(options.paths[0], options.paths[1], gold)]
    if gold is None and lists_given:
        if threshold is None and train is None:
            raise UsageError("lists without gold pairs need a threshold", needed="--threshold, --train-data or --gold")
        if out is None:
            raise UsageError("without gold pairs there is nothing to score", needed="--out FILE for the mined pairs")
    if threshold is None and train is None:
        return [halves(lists, options.seed) for lists in made]
    return [(lists, train) for lists in made]


def _named_like_pairs(paths: list[Path]) -> bool:
    from mlc.tasks.text_files import plain_name

    return any(path.is_dir() or plain_name(path).endswith((".jsonl", ".tsv")) for path in paths)


@evaluation_command(app, "mlc evaluate sts --model runs/base --data sts/ --json sts.json")
def sts(options: EvaluationOptions) -> TaskResult:
    """Semantic textual similarity: Spearman's and Pearson's correlation of the cosine with people's scores.

    Data: JSON lines of {"lang"?, "text", "text_pair", "score"}, or .tsv with the columns text, text, score.
    """
    from mlc.evaluate.sts import evaluate_sts
    from mlc.evaluate.task_data import read_scored_pairs

    options.check()
    examples = read_scored_pairs(options.paths, languages=options.wanted_languages, rows=slice(options.limit))
    return report(evaluate_sts(Evaluation.load(options), examples), options)


@evaluation_command(
    app,
    "mlc evaluate documents --model runs/base --data corpus/dev --languages de,en,fr",
    "mlc evaluate documents --model runs/base --data corpus/dev --pieces sentences --matching hungarian",
)
def documents(
    options: EvaluationOptions,
    pieces: Annotated[
        str, typer.Option(help="A long document is cut (whole), or the mean of windows or sentences.")
    ] = ("windows"),
    matching: Annotated[str, typer.Option(help="greedy (competitive linking) or hungarian.")] = "greedy",
) -> TaskResult:
    """Document matching: are documents matched 1-to-1 with their translations, among all of two languages?

    Data: <lang>.jsonl with {"id", "lang", "text"}; the same id in two languages is the same document, others have no
    counterpart and are candidates all the same.
    """
    from mlc.evaluate.documents import MATCHINGS, PIECES, evaluate_documents
    from mlc.evaluate.task_data import read_documents

    options.check()
    chosen = check_choice(pieces, PIECES, "--pieces"), check_choice(matching, MATCHINGS, "--matching")
    found, repeated = read_documents(options.paths, languages=options.wanted_languages, limit=options.limit)
    evaluation = Evaluation.load(options)
    result = evaluate_documents(evaluation, found, pieces=chosen[0], matching=chosen[1], repeated=repeated)
    return report(result, options)


@evaluation_command(app, "mlc evaluate alignment --model runs/base --data tatoeba/ --languages de,fr,tr")
def alignment(
    options: EvaluationOptions,
    texts_per_language: Annotated[int, typer.Option(min=10, help="Of the probe that guesses languages.")] = 200,
) -> TaskResult:
    """Alignment and uniformity of the space, and how much of the language can be read off an embedding.

    Data: parallel texts as for retrieval.
    """
    from mlc.evaluate.alignment import evaluate_alignment
    from mlc.tasks.parallel_texts import read_parallel_texts

    options.check()
    pairs = read_parallel_texts(options.paths, languages=options.wanted_languages, limit=options.limit)
    result = evaluate_alignment(Evaluation.load(options), pairs, texts_per_language=texts_per_language)
    return report(result, options)


@evaluation_command(
    app,
    "mlc evaluate passages --model runs/base --data xquad/ --plot xquad.svg",
    "mlc evaluate passages --model runs/base --data mlqa/ --languages de,en,es",
)
def passages(
    options: EvaluationOptions,
    plot: Annotated[Path | None, typer.Option(help="Draw a heat map of language pairs: .svg or .png.")] = None,
) -> TaskResult:
    """Passage retrieval across languages: questions of one language, passages of another.

    Data: SQuAD's JSON, one file a language (XQuAD) or a pair of languages (MLQA); or JSON lines of {"id", "lang",
    "question", "context"}. The same id in two languages is the same question.
    """
    from mlc.evaluate.passages import evaluate_passages, read_questions

    options.check()
    check_plot(plot)
    data = read_questions(options.paths, languages=options.wanted_languages, limit=options.limit)
    return report(evaluate_passages(Evaluation.load(options), data, plot=plot), options)
