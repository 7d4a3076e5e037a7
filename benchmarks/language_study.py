"""How retrieval follows what a model saw of each language: tables and a plot, by the language's tokens and pairs.

    mlc evaluate retrieval --model runs/results/joint --data data/eval/tatoeba --json joint.json
    mlc evaluate retrieval --model runs/results/tokens --data data/eval/tatoeba --json tokens.json
    python benchmarks/language_study.py runs/results/shards joint=joint.json tokens=tokens.json --plot languages.svg

Languages stand in three groups: the shards pair them with English; they have documents alone; neither. The plot is of
the first model and of languages with documents. Rank correlations are Spearman's, over languages.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from scipy.stats import spearmanr

from mlc.evaluate.plots import save_figure

ABSENT = "not in the shards"
COLOURS = {"pairs with English": "#1b6ca8", "documents alone": "#d98324"}


@dataclass(frozen=True)
class Language:
    """What the shards hold of a language, and its top-1 by model (mean of both directions)."""

    code: str
    tokens: int
    pairs: int
    candidates: int
    top1: Mapping[str, float]

    @property
    def group(self) -> str:
        if self.pairs:
            return "pairs with English"
        return "documents alone" if self.tokens else ABSENT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path, help="folder with manifest.json")
    parser.add_argument("results", nargs="+", metavar="NAME=FILE", help="of mlc evaluate retrieval --json")
    parser.add_argument("--plot", type=Path, help="SVG to write")
    options = parser.parse_args()
    files = dict(result.split("=", 1) for result in options.results)
    languages = read_languages(options.shards, {name: Path(file) for name, file in files.items()})
    for line in (*group_table(languages, list(files)), "", *correlations(languages, list(files)), ""):
        print(line)
    for line in language_table(languages, list(files)):
        print(line)
    if options.plot:
        draw(languages, next(iter(files)), options.plot)


def read_languages(shards: Path, files: Mapping[str, Path]) -> list[Language]:
    """Those that every result has, most tokens first."""
    tokens: dict[str, int] = {}
    pairs: dict[str, int] = {}
    for shard in json.loads((shards / "manifest.json").read_text())["shards"]:
        if shard["kind"] == "documents":
            tokens[shard["languages"][0]] = shard["tokens"]
        else:
            pairs[shard["languages"][1]] = shard["documents"]
    top1: dict[str, dict[str, float]] = {}
    candidates: dict[str, int] = {}
    for name, file in files.items():
        for pair in json.loads(file.read_text())["pairs"]:
            code = ({pair["first"], pair["second"]} - {"en"}).pop()
            top1.setdefault(code, {})[name] = pair["top1"]
            candidates[code] = pair["candidates"]
    found = [
        Language(code, tokens.get(code, 0), pairs.get(code, 0), candidates[code], scores)
        for code, scores in top1.items()
        if len(scores) == len(files)
    ]
    return sorted(found, key=lambda language: (-language.tokens, language.code))


def group_table(languages: Sequence[Language], models: Sequence[str]) -> Iterator[str]:
    yield f"| Tatoeba top-1 | languages | {' | '.join(models)} |"
    yield f"|{'---|' * (2 + len(models))}"
    for group in (*COLOURS, ABSENT, "all"):
        members = [language for language in languages if group in ("all", language.group)]
        means = [statistics.mean(member.top1[model] for member in members) for model in models]
        yield f"| {group} | {len(members)} | {' | '.join(f'{mean:.3f}' for mean in means)} |"


def correlations(languages: Sequence[Language], models: Sequence[str]) -> Iterator[str]:
    """With tokens, in every group that has documents."""
    for group in COLOURS:
        members = [language for language in languages if language.group == group]
        for model in models:
            found = spearmanr([member.tokens for member in members], [member.top1[model] for member in members])
            yield (
                f"{group}, {model}: rank correlation of top-1 with tokens {found.statistic:.2f} (p {found.pvalue:.3f})"
            )


def language_table(languages: Sequence[Language], models: Sequence[str]) -> Iterator[str]:
    yield f"| language | tokens | pairs | candidates | {' | '.join(models)} |"
    yield f"|{'---|' * (4 + len(models))}"
    for language in languages:
        scores = " | ".join(f"{language.top1[model]:.3f}" for model in models)
        yield f"| {language.code} | {language.tokens:,} | {language.pairs:,} | {language.candidates:,} | {scores} |"


def draw(languages: Sequence[Language], model: str, file: Path) -> None:
    """Top-1 against tokens of documents, one mark a language."""
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    for group, colour in COLOURS.items():
        members = [language for language in languages if language.group == group]
        points = [(member.tokens, member.top1[model]) for member in members]
        axes.scatter(*zip(*points, strict=True), color=colour, s=18, label=group)
        for point, member in zip(points, members, strict=True):
            axes.annotate(member.code, point, (3, 2), textcoords="offset points", fontsize=7, color=colour)
    axes.set_xscale("log")
    axes.set_xlabel("tokens of documents in the shards")
    axes.set_ylabel("Tatoeba top-1, mean of both directions")
    axes.set_title(f"{model}: retrieval by what was seen of a language", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    save_figure(figure, file)


if __name__ == "__main__":
    main()
