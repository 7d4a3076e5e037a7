"""What a retrieval run found, as a table for people and as JSON for programs.

In:  `PairScore`s and the facts of the run.
Out: rich renderables and a JSON-serialisable dict.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from mlc.evaluate.intervals import Bootstrap, Score
from mlc.evaluate.results import Scores, new_key, scores_json
from mlc.evaluate.retrieval import PairScore, mean_mrr, mean_top1

MAX_TABLE_ROWS = 150
"""More pairs than this are shown as means of each language and a matrix."""
MIN_MATRIX_LANGUAGES = 4


@dataclass(frozen=True)
class RetrievalReport:
    """One run of `mlc evaluate retrieval`.

    Attributes:
        representation: layer (0 = embeddings), pooling, projection.
        texts, cut: different texts encoded, and how many of them were longer than `max_tokens`.
        dev_top1: {layer: mean top-1 on the dev split} where the layer was chosen there.
        scoring: cosine, csls or margin.
        bootstrap: how intervals are made.
    """

    model: str
    checkpoint: str
    step: int | None
    representation: dict[str, Any]
    data: tuple[str, ...]
    limit: int | None
    precision: str
    max_tokens: int
    texts: int
    cut: int
    pairs: tuple[PairScore, ...]
    dev: tuple[str, ...] = ()
    dev_top1: dict[int, float] | None = None
    skipped_checkpoints: tuple[str, ...] = ()
    scoring: str = "cosine"
    bootstrap: Bootstrap = field(default_factory=Bootstrap)

    @cached_property
    def scores(self) -> Scores:
        """top1 and mrr, means over pairs; lines are resampled, each with its two directions, within their pair."""
        values = [line_values(pair) for pair in self.pairs]
        return {
            name: self.bootstrap.mean_of_means([value_N2[:, column] for value_N2 in values])
            for column, name in enumerate(("top1", "mrr"))
        }

    @cached_property
    def by_pair(self) -> dict[str, Scores]:
        """The same of every pair: {"de-en": ...}; a pair that was read twice is "de-en (2)"."""
        found: dict[str, Scores] = {}
        for pair in self.pairs:
            value_N2, key = line_values(pair), new_key("-".join(pair.languages), found)
            draws_G2 = self.bootstrap.means(value_N2)
            found[key] = {
                "top1": self.bootstrap.score(pair.top1, draws_G2[:, 0], pair.candidates),
                "mrr": self.bootstrap.score(pair.mrr, draws_G2[:, 1], pair.candidates),
            }
        return found

    def to_json(self) -> dict[str, Any]:
        """Everything; shares are 0..1."""
        head = {key: value for key, value in asdict(self).items() if key != "pairs"}
        return {
            "task": "retrieval",
            **head,
            "pairs": [_pair_json(pair) for pair in self.pairs],
            "mean_top1": mean_top1(self.pairs),
            "mean_mrr": mean_mrr(self.pairs),
            "candidates": sum(pair.candidates for pair in self.pairs),
            "scores": scores_json(self.scores),
            "by_pair": {key: scores_json(row) for key, row in self.by_pair.items()},
        }


def line_values(pair: PairScore) -> NDArray[np.float64]:
    """(N, 2): whether each line is found, and 1 / its rank; means of both directions."""
    rank_2N = np.stack(pair.ranks)
    return np.stack([(rank_2N == 1).mean(axis=0), (1.0 / rank_2N).mean(axis=0)], axis=1)


def directions(pairs: Sequence[PairScore]) -> dict[tuple[str, str], float]:
    """Top-1 of each (asking, answering) language; the mean where several pairs have the same languages."""
    cells: dict[tuple[str, str], list[float]] = defaultdict(list)
    for pair in pairs:
        first, second = pair.languages
        cells[first, second].append(pair.forward.top1)
        cells[second, first].append(pair.backward.top1)
    return {languages: float(np.mean(values)) for languages, values in cells.items()}


def print_report(report: RetrievalReport, console: Console) -> None:
    """Print the table (or its summary), and every fact that limits what the numbers say."""
    languages = sorted({language for pair in report.pairs for language in pair.languages})
    if len(report.pairs) <= MAX_TABLE_ROWS:
        console.print(_pair_table(report.pairs, report.scoring))
    else:
        console.print(_language_table(report.pairs))
    if len(languages) >= MIN_MATRIX_LANGUAGES and len(report.pairs) > len(languages):
        console.print("\ntop-1 in %, query language down, candidate language across:")
        for line in _matrix(report.pairs, languages):
            console.print(line, soft_wrap=True, highlight=False, markup=False)
    for note in _notes(report):
        console.print(note, soft_wrap=True, highlight=False, markup=False)


def _pair_json(pair: PairScore) -> dict[str, Any]:
    first, second = pair.languages
    return {
        "first": first,
        "second": second,
        "origin": pair.origin,
        "forward_top1": pair.forward.top1,
        "backward_top1": pair.backward.top1,
        "forward_mrr": pair.forward.mrr,
        "backward_mrr": pair.backward.mrr,
        "top1": pair.top1,
        "mrr": pair.mrr,
        "candidates": pair.candidates,
        "repeated_texts": list(pair.repeated_texts),
        "repeated_ids": pair.repeated_ids,
    }


def _pair_table(pairs: Sequence[PairScore], scoring: str) -> Table:
    table = Table(title=f"Retrieval ({scoring}), %")
    table.add_column("pair")
    for heading in ("→ top-1", "← top-1", "MRR", "candidates"):
        table.add_column(heading, justify="right")
    for pair in pairs:
        table.add_row(
            "-".join(pair.languages),
            _percent(pair.forward.top1),
            _percent(pair.backward.top1),
            _percent(pair.mrr),
            str(pair.candidates),
        )
    table.add_section()
    table.add_row(
        f"mean of {len(pairs)}",
        _percent(float(np.mean([pair.forward.top1 for pair in pairs]))),
        _percent(float(np.mean([pair.backward.top1 for pair in pairs]))),
        _percent(mean_mrr(pairs)),
        str(sum(pair.candidates for pair in pairs)),
    )
    return table


def _language_table(pairs: Sequence[PairScore]) -> Table:
    asking, answering, mrr = defaultdict(list), defaultdict(list), defaultdict(list)
    for pair in pairs:
        first, second = pair.languages
        for query, answer, score in ((first, second, pair.forward), (second, first, pair.backward)):
            asking[query].append(score.top1)
            answering[answer].append(score.top1)
            mrr[query].append(score.mrr)
    table = Table(title=f"Retrieval, %, means over the {len(pairs)} pairs")
    table.add_column("language")
    for heading in ("asking top-1", "answering top-1", "asking MRR", "pairs"):
        table.add_column(heading, justify="right")
    for language in sorted(asking):
        figures = [_percent(float(np.mean(values[language]))) for values in (asking, answering, mrr)]
        table.add_row(language, *figures, str(len(asking[language])))
    table.add_section()
    table.add_row("mean", _percent(mean_top1(pairs)), _percent(mean_top1(pairs)), _percent(mean_mrr(pairs)), "")
    return table


def _matrix(pairs: Sequence[PairScore], languages: Sequence[str]) -> Iterator[str]:
    cells = directions(pairs)
    width = max(3, *map(len, languages)) + 1
    yield " " * width + "".join(f"{language:>{width}}" for language in languages)
    for query in languages:
        row = (f"{100 * cells[query, a]:.0f}" if (query, a) in cells else "·" for a in languages)
        yield f"{query:<{width}}" + "".join(f"{cell:>{width}}" for cell in row)


def _notes(report: RetrievalReport) -> Iterator[str]:
    chosen = report.representation
    step = f", step {report.step}" if report.step is not None else ""
    yield (
        f"model {report.checkpoint}{step}: layer {chosen['layer']}, {chosen['pooling']} pooling, "
        f"{'with' if chosen['projection'] else 'without'} projection, {report.precision}"
    )
    yield f"mean {report.scoring} top-1 {_interval(report.scores['top1'])}, MRR {_interval(report.scores['mrr'])}"
    if report.skipped_checkpoints:
        yield f"skipped, not complete: {', '.join(report.skipped_checkpoints)}"
    if report.dev_top1 is not None:
        figures = ", ".join(f"{layer}: {100 * top1:.1f}" for layer, top1 in report.dev_top1.items())
        yield f"layer chosen on {', '.join(report.dev)} (mean top-1 of each layer: {figures})"
    if report.cut:
        yield (
            f"{report.cut} of {report.texts} texts ({100 * report.cut / report.texts:.1f} %) are longer than "
            f"{report.max_tokens} tokens and were cut"
        )
    repeated = sum(sum(pair.repeated_texts) for pair in report.pairs)
    if repeated:
        yield f"{repeated} candidates repeat the words of another one of their list; such a pair counts as not found"
    if sum(pair.repeated_ids for pair in report.pairs):
        yield "documents whose id occurs twice in one language: the first one was taken"


def _interval(score: Score) -> str:
    return f"{_percent(score.value)} [{_percent(score.low or 0)}, {_percent(score.high or 0)}] %"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
