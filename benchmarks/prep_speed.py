"""A whole build of shards against its tokenizer alone and against other programs, in MB of UTF-8 text a second.

    python benchmarks/prep_speed.py CORPUS --tokenizer tokenizer.model --copies 10       # CORPUS: <language>.jsonl.zst
    python benchmarks/prep_speed.py CORPUS --tokenizer tokenizer.model --datatrove ~/dt/bin/python
    python benchmarks/prep_speed.py CORPUS --tokenizer tokenizer.model --datatrove ~/dt/bin/python --cleaning

Every row is a whole command with its start, its reading and its hashing. `--copies` links the corpus under different
names, so that a build has as many files. The tokenizer alone encodes text that lies in memory, in two processes, on the
same cores. Hugging Face's `datasets.map` and datatrove's `DocumentTokenizer` get the beginning of the corpus, of
`--others-megabytes`, as two files; datatrove runs in an environment of its own (it needs other versions of libraries).

With `--cleaning` the build normalises, filters by length, repetition and language, and removes exact and
near-duplicates; datatrove filters by length and repetition and removes near-duplicates by MinHash in its four stages.
It need not normalise, nor identify languages (its model would have to be downloaded); all text is English to it.
The build gets the corpus once then: copies would all be duplicates.
Rounds are gone through by turns; medians are shown.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import tokenizer_speed
import zstandard
from prep_runs import build_command, languages_of, link_corpus, text_bytes, timed, toml_list

from data_prep.encoding.merge_list import merge_list_json

DATASETS_PROGRAM = """
import sys
from datasets import load_dataset
from tokenizers import Tokenizer
def encode(batch):
    return {"ids": [found.ids for found in tokenizer.encode_batch(batch["text"], add_special_tokens=False)]}
tokenizer = Tokenizer.from_file(sys.argv[2])
data = load_dataset("json", data_files=sys.argv[1] + "/*.jsonl", split="train", cache_dir=sys.argv[3])
data.map(encode, batched=True, num_proc=2, remove_columns=data.column_names)
"""
DATATROVE_PROGRAM = """
import sys
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer
LocalPipelineExecutor(
    pipeline=[
        JsonlReader(sys.argv[1], glob_pattern="*.jsonl"),
        DocumentTokenizer(sys.argv[3] + "/tokens", tokenizer_name_or_path=sys.argv[2], shuffle_documents=False),
    ],
    tasks=2,
    workers=2,
    logging_dir=sys.argv[3] + "/logs",
).run()
"""
DATATROVE_CLEANING_PROGRAM = """
import sys
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.filters import GopherRepetitionFilter, LambdaFilter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer
from datatrove.pipeline.writers import JsonlWriter
texts, tokenizer, scratch = sys.argv[1:4]
config = MinhashConfig()
kept = scratch + "/kept"
stages = (
    (
        [
            JsonlReader(texts, glob_pattern="*.jsonl"),
            LambdaFilter(lambda document: 20 <= len(document.text) <= 1_000_000),
            GopherRepetitionFilter(),
            JsonlWriter(kept, compression=None),
        ],
        2,
    ),
    ([JsonlReader(kept), MinhashDedupSignature(scratch + "/signatures", config=config)], 2),
    ([MinhashDedupBuckets(scratch + "/signatures", scratch + "/buckets", config=config)], config.num_buckets),
    ([MinhashDedupCluster(scratch + "/buckets", scratch + "/removed", config=config)], 1),
    (
        [
            JsonlReader(kept),
            MinhashDedupFilter(scratch + "/removed"),
            DocumentTokenizer(scratch + "/tokens", tokenizer_name_or_path=tokenizer, shuffle_documents=False),
        ],
        2,
    ),
)
for number, (pipeline, tasks) in enumerate(stages):
    LocalPipelineExecutor(pipeline=pipeline, tasks=tasks, workers=2, logging_dir=f"{scratch}/logs{number}").run()
"""
CLEANING = """
[cleaning.length]
smallest_characters = 20
largest_characters = 1_000_000
[cleaning.repetition]
[cleaning.language]
[duplicates]
exact = true
near = true
"""
OFFLINE = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
NO_CLEANING = """
[normalise]
nfc = false
whitespace = false
control_characters = "keep"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True, help="a SentencePiece BPE model")
    parser.add_argument("--copies", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--others-megabytes", type=float, default=40)
    parser.add_argument("--alone-megabytes", type=float, default=200, help="of text in memory for the tokenizer alone")
    parser.add_argument("--datatrove", help="python of an environment with datatrove")
    parser.add_argument("--cleaning", action="store_true", help="with filters and duplicates; see above")
    options = parser.parse_args()
    if options.cleaning and options.copies > 1:
        raise SystemExit("--copies with --cleaning: copies of the corpus are all duplicates")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        rows: dict[str, Callable[[], float]] = {
            "mlc prep build --workers 2": lambda: bench.build("--workers", "2"),
            "mlc prep build": bench.build,
        }
        if not options.cleaning:
            rows |= {"tokenizer alone, 2 processes": bench.alone, "datasets.map, 2 processes": bench.datasets}
        if options.datatrove:
            rows["datatrove, 2 workers"] = bench.datatrove
        found: dict[str, list[float]] = {name: [] for name in rows}
        for _ in range(options.rounds):
            for name, measure in rows.items():
                found[name].append(measure())
        report(found, bench.text_megabytes)


class Bench:
    """The corpus in the forms that each program reads."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._options, self._folder = options, folder
        self._languages = languages_of(options.corpus)
        files = [options.corpus / f"{language}.jsonl.zst" for language in self._languages]
        link_corpus(options.corpus, folder, self._languages, options.copies)
        self._beginning = folder / "beginning"
        self._beginning.mkdir()
        self._others_megabytes = write_beginning(files, self._beginning, options.others_megabytes)
        (folder / "tokenizer.json").write_text(merge_list_json(options.tokenizer.read_bytes()), encoding="utf-8")
        chunks = tokenizer_speed.chunks_of(files, int(options.alone_megabytes * 1e6), 4 << 20)
        self._chunks = list(chunks)
        self.text_megabytes = 0.0
        self._megabytes_read = sum(map(text_megabytes, files))

    def build(self, *arguments: str) -> float:
        output, recipe = self._folder / "out", self._folder / "prep.toml"
        recipe.write_text(
            f'[build]\noutput = "unset"\n[tokenizer]\npath = "{self._options.tokenizer.resolve()}"\n'
            f"{CLEANING if self._options.cleaning else NO_CLEANING}"
            f"[[documents]]\nlanguages = {toml_list(self._languages)}\n"
            f"paths = {toml_list([self._folder / '{language}.*.jsonl.zst'])}\n",
            encoding="utf-8",
        )
        seconds = timed(build_command(recipe, output, *arguments))
        # Of what the build has read: what it has dropped is not in the shards, but was work all the same.
        self.text_megabytes = self._megabytes_read if self._options.cleaning else text_bytes(output) / 1e6
        shutil.rmtree(output)
        return self.text_megabytes / seconds

    def alone(self) -> float:
        row = next(row for row in tokenizer_speed.ROWS if "gigatoken" in row.name)
        return tokenizer_speed.speed(row, self._options.tokenizer, self._chunks, 2)

    def datasets(self) -> float:
        return self._other([sys.executable, "-c", DATASETS_PROGRAM, str(self._beginning)])

    def datatrove(self) -> float:
        program = DATATROVE_CLEANING_PROGRAM if self._options.cleaning else DATATROVE_PROGRAM
        return self._other([self._options.datatrove, "-c", program, str(self._beginning)])

    def _other(self, command: list[str]) -> float:
        with tempfile.TemporaryDirectory(dir=self._folder) as scratch:
            seconds = timed([*command, str(self._folder / "tokenizer.json"), scratch], OFFLINE)
            return self._others_megabytes / seconds


def write_beginning(files: list[Path], folder: Path, megabytes: float) -> float:
    """The first documents of every file as two plain JSONL files, one for each process; MB of text in them."""
    written = 0
    with (folder / "0.jsonl").open("wb") as even, (folder / "1.jsonl").open("wb") as odd:
        for path in files:
            taken = 0
            with path.open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
                for number, line in enumerate(stream.read().splitlines(keepends=True)):
                    if taken >= megabytes * 1e6 / len(files):
                        break
                    (odd if number % 2 else even).write(line)
                    taken += len(json.loads(line)["text"].encode())
            written += taken
    return written / 1e6


def text_megabytes(path: Path) -> float:
    """MB of UTF-8 text in a file."""
    with path.open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
        return sum(len(json.loads(line)["text"].encode()) for line in stream.read().splitlines()) / 1e6


def report(found: dict[str, list[float]], text_megabytes: float) -> None:
    """Markdown; ratios are of the build with two workers to the row."""
    middle = {name: statistics.median(speeds) for name, speeds in found.items()}
    print(f"{text_megabytes:,.0f} MB of text in the build\n\n| | MB/s | the build with 2 workers is |\n|---|---:|---|")
    for name, speed in middle.items():
        print(f"| {name} | {speed:.1f} | {middle['mlc prep build --workers 2'] / speed:.2f} x |")


if __name__ == "__main__":
    main()
