"""Near-duplicates planted in real text: which are found, what else goes, and how fast, by 1 and 4 processes.

    python benchmarks/near_duplicates.py CORPUS                                  # CORPUS: <language>.jsonl.zst
    python benchmarks/near_duplicates.py CORPUS --datatrove ~/dt/bin/python      # an environment with datatrove

Two sets are made (near_duplicates_planted.py): one of copies with Jaccard similarity of 0.8 and more, and a harder one
with similarities spread evenly over 0.3 to 1. Each goes through `mlc prep build` with [duplicates] near = true in one
process and in four (`mpirun -n 4`), and without [duplicates] for its time.
What went is read from rejected/, what stayed from the shards' group numbers, and the two must agree.

datatrove's MinHash pipeline, all four stages with its default settings and its own word splitter for each language,
gets the same files as plain JSONL, in one process. MB are of UTF-8 text; its speed is that of its whole command. Its
environment needs datatrove, xxhash < 4, spacy, orjson; jieba for "zh" and pythainlp for "th".
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from near_duplicates_planted import UNRELATED, Amounts, Planted, write_set
from prep_runs import SUFFIX, Built, build_command, mpirun, timed, toml_list

from data_prep.encoding.training import ModelSettings, train_model
from mlc.data.manifest import group_number

LANGUAGES = ("en", "de", "fr", "es", "ru", "tr", "ar", "pl", "zh", "th")
HARDER_EDGES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 1.01)
DATATROVE_PROGRAM = """
import sys
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.word_tokenizers import SpaCyTokenizer
texts, scratch = sys.argv[1:3]
config = MinhashConfig()
for language in sys.argv[3:]:
    words = SpaCyTokenizer("zh") if language == "zh" else language  # under "zh" its table has one that splits nothing
    at = scratch + "/" + language
    reader = lambda: JsonlReader(texts, glob_pattern=language + ".jsonl")
    stages = (
        ([reader(), MinhashDedupSignature(at + "/signatures", config=config, language=words)], 1),
        ([MinhashDedupBuckets(at + "/signatures", at + "/buckets", config=config)], config.num_buckets),
        ([MinhashDedupCluster(at + "/buckets", at + "/removed", config=config)], 1),
        ([reader(), MinhashDedupFilter(at + "/removed"), JsonlWriter(at + "/kept", compression=None)], 1),
    )
    for number, (pipeline, tasks) in enumerate(stages):
        LocalPipelineExecutor(pipeline=pipeline, tasks=tasks, workers=1, logging_dir=at + "/logs" + str(number)).run()
"""

OFFLINE = {"HF_HUB_OFFLINE": "1"}

Gone = set[tuple[str, int]]
"""(language, line) of documents that went."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--languages", nargs="+", help=f"default: of {' '.join(LANGUAGES)} those that are there")
    parser.add_argument("--families", type=int, default=250, help="of each language: an original and its copies")
    parser.add_argument("--unrelated", type=int, default=500, help="other documents of each language")
    parser.add_argument("--vocabulary", type=int, default=16_000, help="of the tokenizer")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sets", nargs="+", choices=("planted", "harder"), default=["planted", "harder"])
    parser.add_argument("--datatrove", help="python of an environment with datatrove")
    parser.add_argument("--small", action="store_true", help="12 families, 20 others, a small tokenizer: seconds")
    options = parser.parse_args(arguments)
    if options.small:
        options.families, options.unrelated, options.vocabulary = 12, 20, 1000
    languages = options.languages or [name for name in LANGUAGES if (options.corpus / f"{name}{SUFFIX}").exists()]
    if not languages:
        raise SystemExit(f"no <language>{SUFFIX} in {options.corpus}")
    amounts = {
        "planted": Amounts(options.families, options.unrelated, most_copies=2, lowest=0.8, highest=1.0),
        "harder": Amounts(options.families, options.unrelated, most_copies=1, lowest=0.3, highest=1.0),
    }
    for name in options.sets:
        with tempfile.TemporaryDirectory() as folder:
            documents = write_set(options.corpus, languages, amounts[name], options.seed, Path(folder))
            bench = Bench(Path(folder), languages, documents, options.vocabulary)
            report(name, documents, bench.measure(options.datatrove), bench.megabytes)


@dataclass(frozen=True)
class Result:
    """Of one program on one set.

    Attributes:
        gone: what went.
        first_stays: whether the first document of every family is there.
        speeds: {what is timed: MB/s}.
    """

    gone: Gone
    first_stays: bool
    speeds: dict[str, float]


class Bench:
    """One set, and every program that looks for its duplicates."""

    def __init__(self, folder: Path, languages: list[str], documents: list[Planted], vocabulary: int) -> None:
        self._folder, self._languages, self._documents = folder, languages, documents
        files = [folder / f"{language}.jsonl" for language in languages]
        texts = [json.loads(line)["text"] for file in files for line in file.read_text("utf-8").splitlines()]
        self.megabytes = sum(len(text.encode()) for text in texts) / 1e6
        settings = ModelSettings(
            kind="bpe", vocab_size=vocabulary, character_coverage=0.98, split_digits=True, max_piece_characters=16
        )
        sample = [line for text in texts[:: max(1, len(texts) // 500)] for line in text.split("\n")]
        (folder / "tokenizer.model").write_bytes(train_model(sample, settings))

    def measure(self, datatrove: str | None) -> dict[str, Result]:
        """Builds of 1 and of 4 processes, whose files must be equal, and what `datatrove`, a python, finds."""
        plain_seconds = self._build("without", near=False)
        seconds = self._build("one", near=True)
        self._build("four", near=True, four=True)
        difference = Built.of(self._folder / "one").difference(Built.of(self._folder / "four"))
        if difference:
            raise SystemExit(f"the builds of 1 and of 4 processes differ: {difference}")
        gone = self._gone(self._folder / "one")
        speeds = {
            "near-duplicates alone": self.megabytes / max(1e-9, seconds - plain_seconds),
            "whole build": self.megabytes / seconds,
        }
        found = {"mlc prep build": Result(gone, self._first_stays(gone), speeds)}
        if datatrove:
            found["datatrove"] = self._measure_datatrove(datatrove)
        return found

    def _build(self, output: str, near: bool, four: bool = False) -> float:
        recipe = self._folder / f"{output}.toml"
        recipe.write_text(
            f'[build]\nunit_bytes = 500_000\n[tokenizer]\npath = "{self._folder / "tokenizer.model"}"\n'
            f"[duplicates]\nnear = {str(near).lower()}\n[[documents]]\nlanguages = {toml_list(self._languages)}\n"
            f'paths = ["{self._folder}/{{language}}.jsonl"]\n',
            encoding="utf-8",
        )
        return timed([*(mpirun(4) if four else ()), *build_command(recipe, self._folder / output)], OFFLINE)

    def _gone(self, output: Path) -> Gone:
        """What rejected/ lists; the shards must hold exactly the rest, in order."""
        gone: Gone = set()
        for language in self._languages:
            listed = output / "rejected" / "documents" / f"{language}.jsonl"
            rows = [json.loads(line) for line in listed.read_text("utf-8").splitlines()] if listed.exists() else []
            if any(row["reason"] != "near_duplicate" for row in rows):
                raise SystemExit(f"{listed}: something else than a near-duplicate")
            gone |= {(language, row["line"]) for row in rows}
            lines = [document.line for document in self._documents if document.language == language]
            kept = [group_number(str(line)) for line in lines if (language, line) not in gone]
            if np.load(output / "documents" / f"{language}.groups.npy").tolist() != kept:
                raise SystemExit(f"{language}: what stays and what went are not the whole")
        return gone

    def _measure_datatrove(self, python: str) -> Result:
        scratch = self._folder / "datatrove"
        started = [python, "-c", DATATROVE_PROGRAM, str(self._folder), str(scratch)]
        seconds = timed([*started, *self._languages], OFFLINE)
        kept: Gone = set()
        for language in self._languages:
            for path in (scratch / language / "kept").glob("*.jsonl"):
                kept |= {(language, int(json.loads(line)["id"])) for line in path.read_text("utf-8").splitlines()}
        gone = {(document.language, document.line) for document in self._documents} - kept
        return Result(gone, self._first_stays(gone), {"whole": self.megabytes / seconds})

    def _first_stays(self, gone: Gone) -> bool:
        firsts: dict[int, Planted] = {}
        for document in self._documents:  # in the order of the files
            if document.family != UNRELATED:
                firsts.setdefault(document.family, document)
        return not any((first.language, first.line) in gone for first in firsts.values())


@dataclass(frozen=True)
class Score:
    """Recall of the copies; precision: the share of what went that was a copy, or an original whose copy stayed."""

    recall: float
    precision: float


def score(documents: Sequence[Planted], gone: Gone) -> Score:
    """Of each family one document is to stay, whichever."""
    members, went = defaultdict(int), defaultdict(int)
    for document in documents:
        members[document.family] += 1
        went[document.family] += (document.language, document.line) in gone
    right = sum(min(went[family], members[family] - 1) for family in members if family != UNRELATED)
    to_go = sum(members[family] - 1 for family in members if family != UNRELATED)
    return Score(right / max(1, to_go), right / max(1, sum(went.values())))


def report(name: str, documents: Sequence[Planted], results: dict[str, Result], megabytes: float) -> None:
    """Markdown."""
    copies = [document for document in documents if document.kind]
    languages = len({document.language for document in documents})
    similarities = [copy.similarity for copy in copies]
    print(
        f"\n{name}: {len(documents):,} documents, {megabytes:.1f} MB of text in {languages} languages, {len(copies):,} "
        f"copies with J {min(similarities):.2f} to {max(similarities):.2f}; 1 and 4 processes: the same bytes\n"
    )
    show = _report_planted if name == "planted" else _report_harder
    show(documents, copies, results)
    print()
    for program, result in results.items():
        speeds = ", ".join(f"{what} {speed:.1f} MB/s" for what, speed in result.speeds.items())
        print(f"* {program}: {speeds}; the first of every family stays: {'yes' if result.first_stays else 'no'}")


def _report_planted(documents: Sequence[Planted], copies: Sequence[Planted], results: dict[str, Result]) -> None:
    kinds = sorted({copy.kind for copy in copies})
    print(f"| | recall | precision | {' | '.join(f'recall, {kind}' for kind in kinds)} |")
    print("|---|---:|---:|" + "---:|" * len(kinds))
    for program, result in results.items():
        all_in_all = score(documents, result.gone)
        shares = []
        for kind in kinds:
            families = {copy.family for copy in copies if copy.kind == kind}
            alone = [document for document in documents if document.family in families]
            shares.append(f"{score(alone, result.gone).recall:.3f}")
        print(f"| {program} | {all_in_all.recall:.4f} | {all_in_all.precision:.4f} | {' | '.join(shares)} |")


def _report_harder(documents: Sequence[Planted], copies: Sequence[Planted], results: dict[str, Result]) -> None:
    similarity = {copy.family: copy.similarity for copy in copies}
    edges = list(itertools.pairwise(HARDER_EDGES))
    names = " | ".join(f"{low} to {min(1, high)}" for low, high in edges)
    print(f"| | recall of J >= 0.8 | of what goes, J >= 0.8 | J >= 0.7 | share that goes, J {names} |")
    print("|---|---:|---:|---:|" + "---:|" * len(edges))
    for program, result in results.items():
        went = [(d.family, similarity.get(d.family, 0.0)) for d in documents if (d.language, d.line) in result.gone]
        found = {family for family, _ in went}

        def share(belongs: Callable[[float], bool], found: set[int] = found) -> str:
            families = [family for family, value in similarity.items() if belongs(value)]
            return f"{sum(family in found for family in families) / max(1, len(families)):.3f}"

        cells = [share(lambda value: value >= 0.8)]
        for least in (0.8, 0.7):
            cells.append(f"{sum(value >= least for _, value in went) / max(1, len(went)):.3f}")
        for low, high in edges:
            cells.append(share(lambda value, low=low, high=high: low <= value < high))
        print(f"| {program} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
