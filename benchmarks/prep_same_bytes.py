"""The same bytes, however a build is done: processes, ranks, array tasks, kills, units in another order.

    python benchmarks/prep_same_bytes.py CORPUS --copies 2 --tokenizer-vocab 8000
    python benchmarks/prep_same_bytes.py CORPUS --languages en de --kills 2 --recipes plain  # a small one

CORPUS is a folder of <language>.jsonl.zst. A tokenizer is trained, then one process builds the shards; every other way
has to leave the same sha256 of every file and the same manifest (its timing fields lie in build.json, which alone may
differ). The first copy of the corpus is unpacked, so that units are ranges of lines as well as whole files. Where the
recipe is spelled in another way, its two digests in the manifest are not compared.

Kills: SIGKILL to the whole process group of `mlc prep build --workers 2`, at moments drawn evenly over the time that
such a build takes undisturbed. A moment is a stage and so many seconds in it, all starts together; so one build is
killed again and again on its way, and every stage is hit in proportion to its time.
Prints Markdown; exit code 1 on any difference.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from prep_runs import (
    Built,
    array_task,
    build_command,
    environment,
    failed,
    languages_of,
    link_corpus,
    mpirun,
    say,
    timed,
    toml_list,
    write_piece,
)

from data_prep.project import STAGE_NAMES, WORK_FOLDER
from mlc.data.manifest import MANIFEST_NAME

STAGES = ("start", *STAGE_NAMES, "finish")
"""Start: until the first stage. Finish: from the manifest on."""
SECONDS_BETWEEN_LOOKS = 0.005
MOST_STARTS = 3
"""Of builds that are over before they are killed, one after the other."""
CLEANING = """
[cleaning]
length = {{ smallest_characters = 20 }}
repetition = {{}}
language = {{}}
contamination = {{ paths = ["{evaluation}"] }}
[duplicates]
exact = true
near = true
"""


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    with tempfile.TemporaryDirectory(prefix="prep-same-bytes-", dir=options.scratch) as name:
        corpus = Corpus.make(options, Path(name) / "corpus")
        rows = []
        for kind in options.recipes:
            rows += Campaign(options, corpus, Path(name), kind).rows()
    print(table(rows))
    return 1 if any(row.difference for row in rows) else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--copies", type=int, default=2, help="of the corpus, at most 10")
    parser.add_argument("--languages", nargs="*", default=(), help="only these")
    parser.add_argument("--tokenizer-vocab", type=int, default=8000)
    parser.add_argument("--sample-megabytes", type=float, default=10, help="of text to train the tokenizer on")
    parser.add_argument("--unit-bytes", type=int, default=4 << 20, help="of the recipe; elsewhere a third of it")
    parser.add_argument("--recipes", nargs="+", choices=("plain", "cleaned"), default=("plain", "cleaned"))
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--ranks", type=int, nargs="*", default=(2, 4), help="of mpirun")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scratch", type=Path, help="folder for everything that is written")
    options = parser.parse_args(arguments)
    if not 1 <= options.copies <= 10:
        parser.error("--copies: 1 to 10, so that names and copies have one order")
    return options


@dataclass(frozen=True)
class Row:
    """One way to build: what it came to, compared with the first."""

    recipe: str
    way: str
    seconds: float
    files: int
    difference: str
    note: str = ""


@dataclass(frozen=True)
class Corpus:
    """Files of the build, and recipes that name them."""

    folder: Path
    languages: list[str]
    copies: int

    @classmethod
    def make(cls, options: argparse.Namespace, folder: Path) -> Corpus:
        languages = languages_of(options.corpus, options.languages)
        for language in languages:
            source = options.corpus / f"{language}.jsonl.zst"
            write_piece(source, folder / f"{language}.0.jsonl")
        link_corpus(options.corpus, folder, languages, options.copies, first=1)
        lines = (folder / f"{languages[0]}.0.jsonl").read_text(encoding="utf-8").split("\n")[:20]
        (folder / "evaluation.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return cls(folder, languages, options.copies)

    def in_one_table(self) -> str:
        path = toml_list([self.folder / "{language}.*"])
        return f"[[documents]]\nlanguages = {toml_list(self.languages)}\npaths = {path}\n"

    def in_many_tables(self) -> str:
        """A table a language, from the last on, and two globs in each that come to the same files."""
        globs = ["0.*", *(["[1-9].*"] if self.copies > 1 else [])]
        found = ""
        for language in reversed(self.languages):
            paths = toml_list(self.folder / f"{language}.{each}" for each in globs)
            found += f'[[documents]]\nlanguage = "{language}"\npaths = {paths}\n'
        return found


class Campaign:
    """All ways to build one recipe."""

    def __init__(self, options: argparse.Namespace, corpus: Corpus, folder: Path, kind: str) -> None:
        self._options, self._kind, self._folder = options, kind, folder
        self._recipe, self._spelled_otherwise = (folder / f"{kind}{name}.toml" for name in ("", "-otherwise"))
        settings = (
            f'[build]\noutput = "unset"\nunit_bytes = {options.unit_bytes}\n'
            f"[tokenizer]\nvocab_size = {options.tokenizer_vocab}\n"
            f"sample_bytes = {int(options.sample_megabytes * 1e6)}\n"
        )
        if kind == "cleaned":
            settings += CLEANING.format(evaluation=corpus.folder / "evaluation.jsonl")
        self._recipe.write_text(settings + corpus.in_one_table(), encoding="utf-8")
        self._spelled_otherwise.write_text(settings + corpus.in_many_tables(), encoding="utf-8")

    def rows(self) -> list[Row]:
        ways: dict[str, Callable[[Path], str]] = {"1 process": self._plain()}
        ways |= {f"mpirun -n {ranks}": self._plain(launcher=mpirun(ranks)) for ranks in self._options.ranks}
        ways["--workers 2"] = self._plain("--workers", "2")
        ways["3 tasks of a job array"] = self._array
        ways["1 process, begins at two thirds of the tasks"] = self._plain(environ=array_task(2, 3))
        if self._options.kills:
            ways[f"killed {self._options.kills} times and started again"] = self._killed
        other_units = f"build.unit_bytes={self._options.unit_bytes // 3}"
        otherwise = {
            "units of a third of the size": self._plain("--set", other_units),
            "tables in another order, other globs": self._plain(recipe=self._spelled_otherwise),
        }
        rows: list[Row] = []
        first: Built | None = None
        for way, build in {**ways, **otherwise}.items():
            output = self._folder / "out"
            started = time.monotonic()
            note = build(output)
            seconds, built = time.monotonic() - started, Built.of(output)
            first = first or built
            difference = first.difference(built, same_recipe=way not in otherwise)
            rows.append(Row(self._kind, way, seconds, built.shard_files, difference, note))
            say(f"{self._kind}: {way}: {seconds:.1f} s, {difference or 'the same'}")
            shutil.rmtree(output)
        return rows

    def _plain(
        self,
        *arguments: str,
        launcher: Sequence[str] = (),
        environ: dict[str, str] | None = None,
        recipe: Path | None = None,
    ) -> Callable[[Path], str]:
        """A way that is one command."""

        def build(output: Path) -> str:
            timed([*launcher, *build_command(recipe or self._recipe, output, *arguments)], environ)
            return ""

        return build

    def _array(self, output: Path) -> str:
        command = build_command(self._recipe, output)
        tasks = [
            subprocess.Popen(
                command,
                env=environment(array_task(number, 3)),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for number in range(3)
        ]
        printed = [task.communicate()[0] for task in tasks]
        if any(task.returncode for task in tasks):
            failed(command, *printed)
        return ""

    def _killed(self, output: Path) -> str:
        command = build_command(self._recipe, output, "--workers", "2")
        stages = undisturbed(command, output)
        shutil.rmtree(output)
        say(f"{self._kind}: undisturbed, seconds: {json.dumps({name: round(s, 1) for name, s in stages.items()})}")
        chance = random.Random(f"{self._options.seed} {self._kind}")
        moments = sorted(chance.uniform(0, sum(stages.values())) for _ in range(self._options.kills))
        hit = kill_at([place_in(stages, moment) for moment in moments], command, output)
        timed(command)
        return "hit " + ", ".join(f"{stage} {count}" for stage, count in collections.Counter(hit).items())


class Start:
    """A build in a process group of its own, and what it is doing; a context manager that lets nothing run on."""

    def __init__(self, command: Sequence[str], output: Path) -> None:
        self._command, self._output = command, output
        self._left_over = set(self._notes())
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self.process = subprocess.Popen(
            command, env=environment(), stdout=self._printed, stderr=subprocess.STDOUT, start_new_session=True
        )

    def is_over(self) -> bool:
        """Raises SystemExit where it has failed by itself."""
        if self.process.poll():
            self._printed.seek(0)
            failed(self._command, self._printed.read().decode(errors="replace"))
        return self.process.returncode is not None

    def stage(self) -> str:
        begun = {note.parent.name for note in self._notes() if note not in self._left_over}
        if (self._output / MANIFEST_NAME).exists():
            return "finish"
        return next((name for name in reversed(STAGE_NAMES) if name.replace(" ", "-") in begun), "start")

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.kill()
        self._printed.close()

    def _notes(self) -> list[Path]:
        """What processes count on the board; they write their first note when a stage begins."""
        try:
            return list((self._output / WORK_FOLDER / "board").glob("*/*.json"))
        except FileNotFoundError:  # cleared away meanwhile
            return []


def undisturbed(command: Sequence[str], output: Path) -> dict[str, float]:
    """Seconds of each stage of a build."""
    spent, then = dict.fromkeys(STAGES, 0.0), time.monotonic()
    with Start(command, output) as start:
        while not start.is_over():
            time.sleep(SECONDS_BETWEEN_LOOKS)
            now = time.monotonic()
            spent[start.stage()] += now - then
            then = now
    return spent


def place_in(stages: dict[str, float], moment: float) -> tuple[str, float]:
    """The stage of a moment of the whole build, and the seconds into it."""
    for name, seconds in stages.items():
        if moment < seconds:
            return name, moment
        moment -= seconds
    return "finish", 0.0


def kill_at(moments: Sequence[tuple[str, float]], command: Sequence[str], output: Path) -> list[str]:
    """Start a build and kill it at each moment; the stages that were hit."""
    spent = dict.fromkeys(STAGES, 0.0)
    hit: list[str] = []
    for number, (aim, seconds) in enumerate(moments, 1):
        for _ in range(MOST_STARTS):
            spent["start"] = 0.0  # every start goes through it anew
            with Start(command, output) as start:
                stage = _killed_in(start, aim, seconds, spent)
            if stage is not None:
                break
            say(f"kill {number} of {len(moments)}: the build was over before {seconds:.2f} s in {aim}; once more")
            shutil.rmtree(output)
            spent = dict.fromkeys(STAGES, 0.0)
        else:
            raise SystemExit(f"no build could be killed {seconds:.2f} s in {aim}")
        hit.append(stage)
        finished = len(list((output / WORK_FOLDER / "units").glob("*.json")))
        say(f"kill {number} of {len(moments)}: {stage}, {spent[stage]:.2f} s in it, {finished} units encoded")
    return hit


def _killed_in(start: Start, aim: str, seconds: float, spent: dict[str, float]) -> str | None:
    """Wait for the moment and kill; None: it was over before. `spent`: seconds in each stage, of all starts."""
    then = time.monotonic()
    while not start.is_over():
        stage, now = start.stage(), time.monotonic()
        spent[stage] += now - then
        then = now
        if STAGES.index(stage) > STAGES.index(aim) or (stage == aim and spent[stage] >= seconds):
            start.kill()
            return stage
        time.sleep(SECONDS_BETWEEN_LOOKS)
    return None


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = ["| recipe | built by | seconds | files | the bytes of one process |", "|---|---|---:|---:|---|"]
    for row in rows:
        note = f" ({row.note})" if row.note else ""
        lines.append(
            f"| {row.recipe} | {row.way}{note} | {row.seconds:.1f} | {row.files} | {row.difference or 'the same'} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
