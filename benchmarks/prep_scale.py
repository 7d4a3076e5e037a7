"""Whole builds as the input grows: memory of the parent and of a worker, time of 1, 3 and 10 times the corpus, 2 ranks.

    python benchmarks/prep_scale.py CORPUS --tokenizer tokenizer.model                    # everything, about 40 minutes
    python benchmarks/prep_scale.py CORPUS --tokenizer tokenizer.model --parts memory --copies 1 --languages en de
    python benchmarks/prep_scale.py CORPUS --tokenizer tokenizer.model --parts time --rounds 5

CORPUS is a folder of <language>.jsonl.zst; `--copies` times it, under other names, is the largest input, and the first
tenth of every language the smallest. Cleaning is off, the tokenizer is there already, `mlc prep build --workers 2`.

memory: peak resident memory (VmHWM) of the command itself and of its largest worker, as the kernel counts it. The
    command's may grow by 1.2 from the smallest to the largest input.
files: the same of a file with one line of 1 GiB, which is set aside as too_long, and of one large file of JSON lines,
    plain and as .gz, which cannot be entered in its middle and so is one unit.
time: the corpus once, three and ten times (`--copies`), and the last under 1 and 2 ranks, by turns; medians.

Prints Markdown; exit code 1 where a limit is passed: 1.2 of memory, 10 times the time for 10 times the corpus, 1.8 of
speed with 2 ranks. Times mean little on a machine that does something else as well.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from prep_runs import (
    build_command,
    environment,
    failed,
    languages_of,
    link_corpus,
    mpirun,
    say,
    text_bytes,
    timed,
    toml_list,
    write_piece,
)

from mlc.data.manifest import MANIFEST_NAME

SMALLEST_SHARE = 0.1
SECONDS_BETWEEN_LOOKS = 0.01
MEMORY_LIMIT, SPEED_LIMIT = 1.2, 1.8
SMALL_FILE = "small.jsonl"


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    with tempfile.TemporaryDirectory(prefix="prep-scale-", dir=options.scratch) as name:
        scale = Scale(options, Path(name))
        reports = [{"memory": scale.memory, "files": scale.files, "time": scale.time}[part]() for part in options.parts]
    passed = [text for report in reports for text in report.passed]
    print("\n\n".join("\n".join(report.lines) for report in reports))
    print("".join(f"\nLIMIT PASSED: {text}" for text in passed))
    return 1 if passed else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True, help="a SentencePiece model")
    parser.add_argument("--parts", nargs="+", choices=("memory", "files", "time"), default=("memory", "files", "time"))
    parser.add_argument("--copies", type=int, default=10, help="of the corpus in the largest input")
    parser.add_argument("--languages", nargs="*", default=(), help="only these")
    parser.add_argument("--line-megabytes", type=int, default=1024, help="MiB of the long line")
    parser.add_argument("--file-megabytes", type=int, default=1000, help="MB of text in the large files, about")
    parser.add_argument("--rounds", type=int, default=3, help="of times")
    parser.add_argument("--scratch", type=Path, help="folder for everything that is written")
    return parser.parse_args(arguments)


@dataclass(frozen=True)
class Report:
    """Lines of Markdown, and limits that were passed."""

    lines: list[str]
    passed: list[str]


@dataclass(frozen=True)
class Peak:
    """Peak resident memory in MiB: of the command, and of the largest process it has started."""

    parent: float
    worker: float


class Scale:
    """Inputs of several sizes, and what is measured on them."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._options, self._folder = options, folder
        self._output = folder / "out"
        self._languages = languages_of(options.corpus, options.languages)

    def memory(self) -> Report:
        """Peak memory for the first tenth of the corpus, all of it, and its copies."""
        inputs = {"a tenth": self._tenth(), "the corpus": self._copies(1)}
        inputs[f"{self._options.copies} times"] = self._copies(self._options.copies)
        lines = ["| input | MB of text | command, MiB | largest worker, MiB |", "|---|---:|---:|---:|"]
        parents = []
        for name, recipe in inputs.items():
            peak, megabytes = self._peak_of(recipe)
            parents.append(peak.parent)
            lines.append(f"| {name} | {megabytes:,.0f} | {peak.parent:.0f} | {peak.worker:.0f} |")
        growth = parents[-1] / parents[0]
        lines.append(f"\nThe command's peak grows by {growth:.2f} (limit {MEMORY_LIMIT}).")
        return Report(lines, [f"memory grows by {growth:.2f}"] if growth > MEMORY_LIMIT else [])

    def files(self) -> Report:
        """Peak memory for files that are large in themselves; beside a small one, so that there are two units."""
        corpus = self._folder / "files"
        write_piece(self._source(self._languages[0]), corpus / SMALL_FILE, 0.1)
        found = {}
        for name, make in {
            f"one line of {self._options.line_megabytes} MiB": self._write_long_line,
            "one large file, plain": self._write_large,
            "one large file, .gz": self._write_gzip,
        }.items():
            path = make(corpus)
            peak, megabytes = self._peak_of(self._recipe(corpus, [path.name, SMALL_FILE], ["en"]))
            found[name] = (path.stat().st_size / 1e6, megabytes, peak, self._dropped)
            path.unlink()
        lines = [
            "| file | MB on disk | MB of text used | command, MiB | largest worker, MiB | set aside |",
            "|---|---:|---:|---:|---:|---|",
        ]
        for name, (on_disk, megabytes, peak, dropped) in found.items():
            lines.append(
                f"| {name} | {on_disk:,.0f} | {megabytes:,.0f} | {peak.parent:.0f} | {peak.worker:.0f} | {dropped} |"
            )
        first = next(iter(found.values()))
        return Report(lines, [] if first[3] == "too_long 1" else [f"a line of 1 GiB was counted as {first[3]}"])

    def time(self) -> Report:
        """Seconds of one and more times the corpus, and of ranks."""
        copies = sorted({1, min(3, self._options.copies), self._options.copies})
        recipes = {count: self._copies(count) for count in copies}
        rows: dict[str, Callable[[], float]] = {
            f"{count} x, 2 workers": lambda recipe=recipe: self._seconds(recipe, "--workers", "2")  # type: ignore[misc]
            for count, recipe in recipes.items()
        }
        largest = recipes[copies[-1]]
        rows |= {
            f"{copies[-1]} x, 1 rank": lambda: self._seconds(largest),
            f"{copies[-1]} x, 2 ranks": lambda: self._seconds(largest, launcher=mpirun(2)),
        }
        seconds: dict[str, list[float]] = {name: [] for name in rows}
        for number in range(self._options.rounds):
            for name, measure in rows.items():
                seconds[name].append(measure())
                say(f"round {number + 1} of {self._options.rounds}: {name}: {seconds[name][-1]:.1f} s")
        middle = {name: statistics.median(found) for name, found in seconds.items()}
        growth = middle[f"{copies[-1]} x, 2 workers"] / middle["1 x, 2 workers"]
        gain = middle[f"{copies[-1]} x, 1 rank"] / middle[f"{copies[-1]} x, 2 ranks"]
        lines = ["| corpus | median seconds | of the rounds |", "|---|---:|---|"]
        for name, found in seconds.items():
            lines.append(f"| {name} | {middle[name]:.1f} | {', '.join(f'{each:.1f}' for each in sorted(found))} |")
        lines.append(f"\n{copies[-1]} times the corpus takes {growth:.2f} times as long (limit {copies[-1]}).")
        lines.append(f"2 ranks are {gain:.2f} times as fast as 1 (limit {SPEED_LIMIT}).")
        passed = [f"{growth:.2f} times the time"] if growth > copies[-1] else []
        return Report(lines, passed + ([f"2 ranks: {gain:.2f}"] if gain < SPEED_LIMIT else []))

    def _source(self, language: str) -> Path:
        path: Path = self._options.corpus / f"{language}.jsonl.zst"
        return path

    def _tenth(self) -> Path:
        folder = self._folder / "tenth"
        for language in self._languages:
            write_piece(self._source(language), folder / f"{language}.0.jsonl.zst", SMALLEST_SHARE)
        return self._recipe(folder, ["{language}.*"], self._languages)

    def _copies(self, count: int) -> Path:
        folder = self._folder / f"copies-{count}"
        if not folder.exists():
            link_corpus(self._options.corpus, folder, self._languages, count)
        return self._recipe(folder, ["{language}.*"], self._languages)

    def _recipe(self, folder: Path, names: Sequence[str], languages: Sequence[str]) -> Path:
        path = folder.with_suffix(".toml")
        one = len(languages) == 1 and "{language}" not in names[0]
        which = f'language = "{languages[0]}"' if one else f"languages = {toml_list(languages)}"
        path.write_text(
            '[build]\noutput = "unset"\nmax_rejected_fraction = 0.5\n'
            f"[tokenizer]\npath = {json.dumps(str(self._options.tokenizer.resolve()))}\n"
            f"[[documents]]\n{which}\npaths = {toml_list(folder / name for name in names)}\n",
            encoding="utf-8",
        )
        return path

    def _seconds(self, recipe: Path, *arguments: str, launcher: Sequence[str] = ()) -> float:
        seconds = timed([*launcher, *build_command(recipe, self._output, *arguments)])
        shutil.rmtree(self._output)
        return seconds

    def _peak_of(self, recipe: Path) -> tuple[Peak, float]:
        """Of a build with two workers; and the MB of text in it."""
        peak = peak_memory(build_command(recipe, self._output, "--workers", "2"))
        megabytes = text_bytes(self._output) / 1e6
        dropped = [entry["dropped"] for entry in json.loads((self._output / MANIFEST_NAME).read_bytes())["shards"]]
        self._dropped = ", ".join(f"{reason} {count}" for counts in dropped for reason, count in counts.items())
        shutil.rmtree(self._output)
        say(f"{recipe.stem}: {megabytes:,.0f} MB of text: {peak.parent:.0f} and {peak.worker:.0f} MiB")
        return peak, megabytes

    def _write_long_line(self, folder: Path) -> Path:
        """NUL bytes that take no room on the disk, between two records."""
        path, size = folder / "line.jsonl", self._options.line_megabytes << 20
        with path.open("wb") as file:
            file.write(b'{"text": "first"}\n')
            file.truncate(size)
            file.seek(size)
            file.write(b'\n{"text": "last"}\n')
        return path

    def _write_large(self, folder: Path) -> Path:
        path = folder / "large.jsonl"
        piece = folder / "piece"
        with path.open("wb") as out:
            while out.tell() < self._options.file_megabytes * 1e6:
                for language in self._languages:
                    write_piece(self._source(language), piece)
                    out.write(piece.read_bytes())
                    if out.tell() >= self._options.file_megabytes * 1e6:
                        break
        piece.unlink()
        return path

    def _write_gzip(self, folder: Path) -> Path:
        plain = self._write_large(folder)
        path = plain.with_suffix(".jsonl.gz")
        with plain.open("rb") as source, gzip.open(path, "wb", compresslevel=1) as target:
            shutil.copyfileobj(source, target, 1 << 20)
        plain.unlink()
        return path


def peak_memory(command: Sequence[str]) -> Peak:
    """Run a command to its end; the kernel's high-water mark of it and of its descendants, looked at all the time.

    What a process takes in its last 10 ms may be missed. Memory-mapped files count where they are resident.
    """
    with tempfile.TemporaryFile() as printed:
        process = subprocess.Popen(
            command, env=environment(), stdout=printed, stderr=subprocess.STDOUT, start_new_session=True
        )
        marks: dict[int, int] = {}
        try:
            while process.poll() is None:
                for pid in (process.pid, *_descendants(process.pid)):
                    marks[pid] = max(marks.get(pid, 0), _high_water_kib(pid))
                time.sleep(SECONDS_BETWEEN_LOOKS)
        except BaseException:  # an interrupt of this script, too
            os.killpg(process.pid, signal.SIGKILL)
            raise
        if process.returncode:
            printed.seek(0)
            failed(command, printed.read().decode(errors="replace"))
    parent = marks.pop(process.pid)
    return Peak(parent / 1024, max(marks.values(), default=0) / 1024)


def _descendants(pid: int) -> list[int]:
    children: list[int] = []
    with suppress(OSError):  # it ends meanwhile
        for thread in os.listdir(f"/proc/{pid}/task"):
            children += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    return children + [further for child in children for further in _descendants(child)]


def _high_water_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


if __name__ == "__main__":
    sys.exit(main())
