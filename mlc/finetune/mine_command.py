"""`mlc mine`: hard negatives for retrieval and re-ranking.

In:  the command line.
Out: JSON lines {"lang", "query", "positives", "negatives"}; MlcError goes up to mlc.cli, which owns exit codes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from mlc.errors import DataError, UsageError

if TYPE_CHECKING:
    from mlc.finetune.mining import MiningSettings
    from mlc.tasks.encoder import Progress, TextEncoder
    from mlc.tasks.examples import RankingExample

EXAMPLES = (
    "mlc mine runs/base --data pairs.jsonl --out mined.jsonl",
    "mlc mine runs/retrieval --data pairs.jsonl --passages corpus.txt.zst --out mined.jsonl --negatives 15",
    "mlc mine exported/base --data pairs.jsonl --out mined.jsonl --random --first-rank 10 --last-rank 200 --seed 2",
)


def mine(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Run, checkpoint, export, Hugging Face folder or name.")
    ],
    data: Annotated[list[str], typer.Option(help="Queries with right passages; repeatable. docs/task_data.md.")],
    out: Annotated[Path, typer.Option(help="JSON lines with negatives.")],
    passages: Annotated[
        list[Path] | None,
        typer.Option(help="More passages: lines of text, or .jsonl with {text}; .gz and .zst too. Repeatable."),
    ] = None,
    negatives: Annotated[int, typer.Option(min=1, help="Negatives of a query, at most.")] = 7,
    share: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Leave out what has this share of the right passage's cosine or more."),
    ] = 0.95,
    first_rank: Annotated[int, typer.Option(min=1, help="First rank that is taken, from 1.")] = 1,
    last_rank: Annotated[int, typer.Option(min=1, help="Last one.")] = 100,
    at_random: Annotated[
        bool, typer.Option("--random", help="Draw from these ranks; else the first are taken.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw.")] = 1,
    bare: Annotated[str, typer.Option(help="Queries for which nothing is found: keep or drop.")] = "keep",
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    threads: Annotated[int | None, typer.Option(min=1, help="Intra-op threads. Default: torch's.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=3, help="Longest text. Default: as trained.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the counts here.")] = None,
) -> None:
    """Find wrong passages that the model takes for right ones, among all passages of the data.

    Right passages, copies of them and whatever is nearly as similar as they are is left out, and counted. Negatives
    that the data brings are passages like others. The same input gives the same output.
    """
    from mlc.finetune.mining import MiningSettings

    if last_rank < first_rank:
        raise UsageError("the range of ranks is empty", found=f"{first_rank}..{last_rank}", where="--last-rank")
    for name, value, known in (("--bare", bare, ("keep", "drop")), ("--precision", precision, ("fp32", "bf16"))):
        if value not in known:
            raise UsageError("no such choice", found=value, needed=" or ".join(known), where=name)
    settings = MiningSettings(negatives, share, first_rank, last_rank, at_random, seed)
    examples = _read(data)
    if any(Path(source).exists() and out.exists() and out.samefile(source) for source in data):
        raise UsageError("the output is the input", found=str(out), needed="another file", where="--out")
    more = _more(passages or [])
    from mlc.tasks.encoder import Precision, TextEncoder

    encoder = TextEncoder.load(model, precision=cast(Precision, precision), threads=threads, max_tokens=max_tokens)
    counts = _mine(encoder, examples, more, settings, out, drops_bare=bare == "drop")
    if json_file is not None:
        from mlc.files import write_json

        write_json(json_file, counts)
    print(
        f"{out}: {counts['written']:,} of {counts['queries']:,} queries, {counts['negatives']:,} negatives from "
        f"{counts['passages']:,} passages; left out: {counts['left_out_near']:,} nearly as similar as a right passage, "
        f"{counts['left_out_copies']:,} copies; fewer than {negatives} negatives: {counts['short']:,} queries, "
        f"none: {counts['without']:,} ({'left out' if bare == 'drop' else 'kept'}); {counts['cut']:,} texts were cut"
    )


def _mine(
    encoder: TextEncoder,
    examples: Sequence[RankingExample],
    more: Sequence[str],
    settings: MiningSettings,
    out: Path,
    *,
    drops_bare: bool,
) -> dict[str, int]:
    from mlc.files import new_file
    from mlc.finetune.mining import mine as choose
    from mlc.finetune.mining import passage_pool

    pool = passage_pool(examples, more)
    with _progress("passages", len(pool.texts)) as progress:
        passages = encoder.encode(pool.texts, progress=progress)
    cut = encoder.counts.cut
    with _progress("queries", len(examples)) as progress:
        queries = encoder.encode([example.query for example in examples], progress=progress)
    cut += encoder.counts.cut
    with _progress("search", len(examples)) as progress:
        mined = choose(queries, passages, pool, settings, progress)
    written = 0
    with new_file(out) as file:
        for example, found in zip(examples, mined.negatives, strict=True):
            if drops_bare and not len(found):
                continue
            language = {"lang": example.place.language} if example.place.language else {}
            texts = [pool.texts[place] for place in found.tolist()]
            record = {**language, "query": example.query, "positives": list(example.positives), "negatives": texts}
            file.write((json.dumps(record, ensure_ascii=False) + "\n").encode())
            written += 1
    return {
        "queries": len(examples),
        "written": written,
        "passages": len(pool.texts),
        "negatives": sum(map(len, mined.negatives)),
        "left_out_near": mined.near,
        "left_out_copies": mined.copies,
        "short": mined.short,
        "without": mined.without,
        "cut": cut,
    }


def _read(sources: Sequence[str]) -> Sequence[RankingExample]:
    from mlc.tasks.examples import RankingExample
    from mlc.tasks.task_files import read_task

    return read_task("ranking", list(sources)).of(RankingExample)


def _more(files: Sequence[Path]) -> list[str]:
    from mlc.data.text import clean_text
    from mlc.tasks.text_files import plain_name, read_lines, read_records

    texts: list[str] = []
    for file in files:
        if not file.is_file():
            raise UsageError("no such file", found=str(file), where="--passages")
        is_json = plain_name(file).endswith((".jsonl", ".ndjson"))
        found = ((n, r.get("text")) for n, r in read_records(file)) if is_json else read_lines(file)
        for number, text in found:
            if not isinstance(text, str) or not clean_text(text):
                needed = '{"text": "..."}' if is_json else "a line of text"
                raise DataError("a passage has no text", found=repr(text), needed=needed, where=f"{file}:{number}")
            texts.append(text)
    return texts


@contextmanager
def _progress(name: str, total: int) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(name, total=total)
        yield lambda count: bars.advance(task, count)
