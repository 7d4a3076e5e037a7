"""`mlc search`: an index over vectors of `mlc embed`, queries in any language, and how much an approximate one misses.

In:  the command line.
Out: an index folder; results as a table or JSON lines; MlcError goes up to mlc.cli, which owns exit codes.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console

from mlc.errors import EXIT_FAILED, DataError, UsageError

if TYPE_CHECKING:
    from mlc.embed.index import Hit, SearchIndex

app = typer.Typer(no_args_is_help=True, help="Search in vectors of mlc embed.")

Index = Annotated[Path, typer.Argument(metavar="INDEX", help="Folder of mlc search build.")]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the result here.")]
SHOWN_CHARACTERS = 160
SCORE_TOLERANCE = 1e-5
"""Scores so close are ties: two programs add up the same products in other orders."""


def _examples(*commands: str) -> str:
    return "[bold]Examples:[/bold]\n\n" + "\n\n".join(f"  $ {command}" for command in commands)


@app.command(
    epilog=_examples(
        "mlc search build news.parquet --out news.index",
        "mlc search build vectors/ --out vectors.index --kind hnsw",
    )
)
def build(
    vectors: Annotated[Path, typer.Argument(metavar="VECTORS", help="The --out of mlc embed.")],
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    kind: Annotated[str, typer.Option(help="exact, hnsw or ivf (the last two need FAISS).")] = "exact",
) -> None:
    """Make an index. Texts, ids and languages are shown in results where VECTORS is Parquet."""
    from mlc.embed.index import KINDS, build_index
    from mlc.embed.stored import open_vectors

    if kind not in KINDS:
        raise UsageError("no such kind", found=kind, needed=", ".join(KINDS), where="--kind")
    index = build_index(open_vectors(vectors), out, kind)
    left_out = index.manifest["left_out"]
    note = f"; {left_out} rows without a text are left out" if left_out else ""
    print(f"{out}: {kind}, {index.manifest['vectors']} vectors{note}")


@app.command(
    epilog=_examples(
        'mlc search query news.index --model runs/base --text "Wahlen in Frankreich" -k 5',
        "mlc search query news.index --model exported/base --json found.jsonl < questions.txt",
    )
)
def query(
    index: Index,
    model: Annotated[str, typer.Option(help="The model that made the vectors: a run, checkpoint, export, ...")],
    text: Annotated[list[str] | None, typer.Option(help="A query; repeatable. None = a line each of stdin.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Results of a query.")] = 10,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    threads: Annotated[int | None, typer.Option(min=1, help="Intra-op threads. Default: torch's.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write JSON lines here; - = standard output.")
    ] = None,
) -> None:
    """Find the texts whose vectors are nearest to those of the queries, in whatever language either is."""
    from mlc.embed.index import open_index
    from mlc.embed.opening import ModelChoice, open_model

    if precision not in ("fp32", "bf16"):
        raise UsageError("no such precision", found=precision, needed="fp32 or bf16", where="--precision")
    opened = open_index(index)
    texts = text or _lines_of_standard_input()
    empty = [number for number, found in enumerate(texts, 1) if not found.strip()]
    if empty or not texts:
        raise UsageError("a query is empty", found=f"query {empty[0]}" if empty else "no queries", needed="a text")
    wanted = opened.manifest["model"]["representation"]
    choice = ModelChoice(model, wanted["layer"], wanted["pooling"], wanted["projection"], threads=threads)
    encoder, identity = open_model(choice, precision=cast(Any, precision))
    opened.check_model(identity, model)
    scores, positions = opened.search(encoder.encode(texts), k)
    results = [opened.hits(row, places) for row, places in zip(scores, positions, strict=True)]
    if encoder.counts.cut:
        print(f"{encoder.counts.cut} queries cut to {encoder.max_tokens} tokens", file=sys.stderr)
    _write_results(texts, results, json_file)


@app.command(epilog=_examples("mlc search check vectors.index", "mlc search check vectors.index --at-least 0.95"))
def check(
    index: Index,
    k: Annotated[int, typer.Option("-k", min=1, help="Neighbours that are compared.")] = 10,
    queries: Annotated[int, typer.Option(min=1, help="Vectors of the index taken as queries.")] = 1000,
    at_least: Annotated[float, typer.Option(help="Exit code 1 below this recall.")] = 0.0,
    json_file: JsonFile = None,
) -> None:
    """Verify an index, and compare what it finds with an exact search.

    Queries are vectors of the index, which are not counted as their own neighbours. A neighbour whose score equals
    that of the last exact one counts as found.
    """
    from mlc.embed.index import open_index
    from mlc.files import write_json

    result = recall(open_index(index), k, queries)
    print(
        f"{index}: {result['kind']}, {result['vectors']} vectors; recall@{result['k']} {result['recall']:.4f} over "
        f"{result['queries']} queries; {result['milliseconds_exact']:.2f} ms a query exactly, "
        f"{result['milliseconds']:.2f} by the index"
    )
    if json_file is not None:
        write_json(json_file, result)
    if result["recall"] < at_least:
        print(f"mlc: the recall is below {at_least}", file=sys.stderr)
        sys.exit(EXIT_FAILED)


def recall(index: SearchIndex, k: int, queries: int, seed: int = 1) -> dict[str, Any]:
    """Share of the k nearest neighbours that the index finds, and milliseconds a query of both searches.

    Args:
        queries: how many vectors of the index, drawn with `seed`, are taken as queries.
    """
    import numpy as np

    from mlc.embed.nearest import search_exactly

    count = index.manifest["vectors"]
    if count < 2:
        raise UsageError("one vector has no neighbours", where=str(index.folder))
    own = np.sort(np.random.default_rng(seed).choice(count, min(queries, count), replace=False))
    k = min(k, count - 1)
    asked = np.asarray(index.vectors[own], dtype=np.float32)
    index.search(asked[:1], 1)  # files are opened
    start = time.perf_counter()
    exact_scores, exact_places = search_exactly(asked, index.vectors, k + 1)
    between = time.perf_counter()
    scores, places = index.search(asked, k + 1)
    end = time.perf_counter()
    found = 0
    for number, place in enumerate(own):
        others = exact_scores[number][exact_places[number] != place][:k]
        mine = scores[number][(places[number] != place) & (places[number] >= 0)][:k]
        found += int((mine >= others[-1] - SCORE_TOLERANCE).sum())
    return {
        "kind": index.kind,
        "vectors": count,
        "k": k,
        "queries": len(own),
        "recall": found / (k * len(own)),
        "milliseconds_exact": 1000 * (between - start) / len(own),
        "milliseconds": 1000 * (end - between) / len(own),
        "parameters": index.manifest["parameters"],
    }


def _lines_of_standard_input() -> list[str]:
    if sys.stdin.isatty():
        raise UsageError("there is no query", needed='--text "...", or lines on standard input')
    try:
        return sys.stdin.buffer.read().decode().splitlines()
    except UnicodeDecodeError as error:
        raise DataError("this is not UTF-8", found=str(error), where="standard input") from None


def _write_results(texts: list[str], results: list[list[Hit]], json_file: Path | None) -> None:
    if json_file is None:
        _print_table(texts, results)
        return
    lines = [
        json.dumps({"query": text, "results": [asdict(hit) for hit in hits]}, ensure_ascii=False) + "\n"
        for text, hits in zip(texts, results, strict=True)
    ]
    if str(json_file) == "-":
        sys.stdout.writelines(lines)
        return
    from mlc.files import write_atomically

    write_atomically(json_file, "".join(lines).encode())


def _print_table(texts: list[str], results: list[list[Hit]]) -> None:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for text, hits in zip(texts, results, strict=True):
        console.print(text, style="bold")
        for rank, hit in enumerate(hits, 1):
            shown = " ".join((hit.text or "").split())[:SHOWN_CHARACTERS]
            name = f"row {hit.row}" if hit.id is None else f"{hit.id} (row {hit.row})"
            console.print(f"{rank:4d}  {hit.score:.4f}  {hit.language or '-':3s}  {name}  {shown}")
