"""What the fault scripts share: small real runs on several ranks, a log of events, a look at checkpoints.

In:  a folder that a script owns.
Out: the run that nothing disturbed; events of all invocations, one JSON object a line, and their summary; whether a
     checkpoint is whole, told without the program's own code for that.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
import xxhash

from mlc.engine.compare import compare_runs
from mlc.engine.metrics import read_metrics

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from recipes_for_tests import recipe_table
from small_shards import write_small_shards
from training_processes import Training, TrainingServer

RECORD_NAME = "complete.json"
BEGUN = "samples a step"
"""In the line that a start prints before its first step."""
SECONDS_BETWEEN_LOOKS = 0.0005
SECONDS_TO_GIVE_UP = 600.0
STALL_TIMEOUT_SECONDS = 30.0
"""What a rank waits for one that died before the two were connected; later deaths are noticed at once."""


def write_recipe(folder: Path, *, total_steps: int, every_steps: int, queue: bool = True) -> Path:
    """A joint run with dropout, ZeRO-3, bf16, and asynchronous saves every few steps."""
    write_small_shards(folder / "shards")
    table = recipe_table(
        run={
            "folder": str(folder / "unset"),
            "precision": "bf16",
            "stall_timeout_seconds": STALL_TIMEOUT_SECONDS,
        },
        data={"shards": str(folder / "shards"), "samples_per_step": 4},
        model={"layers": 1, "hidden_size": 16, "feed_forward_size": 32, "dropout": 0.1},
        objectives={"contrastive": {"weight": 1.0, "queue": {"size": 16 if queue else 0, "momentum": 0.9}}},
        schedule={"total_steps": total_steps, "warmup_steps": 5},
        checkpoint={"every_steps": every_steps, "keep_last": 2, "min_free_gib": 0.0},
    )
    path = folder / "recipe.toml"
    path.write_text(tomli_w.dumps(table))
    return path


def unbroken_run(server: TrainingServer, recipe: Path, ranks: int, folder: Path) -> Path:
    """The run that nothing disturbed; made once. One that was not finished is made anew."""
    done = folder / "unbroken"
    if not done.exists():
        attempt = folder / f"unbroken-{time.time_ns()}"
        training = server.start(recipe, attempt, world_size=ranks)
        codes = training.wait(86400.0)
        if codes != [0] * ranks:
            raise RuntimeError(f"the undisturbed run ended with {codes}:\n{training.text}")
        attempt.rename(done)
    return done


@dataclass(frozen=True)
class Moment:
    """What the ranks were doing when all of them were stopped.

    Attributes:
        step: last step logged.
        save: unfinished checkpoint in the working folder; None = there was none.
        files: of it.
        described: whether its complete.json was there.
    """

    step: int
    save: str | None
    files: int = 0
    described: bool = False

    @classmethod
    def of(cls, run_folder: Path) -> Moment:
        step = last_step(run_folder)
        for folder in run_folder.glob("attempts/attempt-*/step-*"):
            # What the remover of old checkpoints has moved there has a longer name.
            if folder.name.count("-") == 1:
                names = [path.name for path in folder.rglob("*") if path.is_file()]
                return cls(step, folder.name, len(names), RECORD_NAME in names)
        return cls(step, None)


@contextmanager
def ended_with(training: Training) -> Iterator[Training]:
    """A start of which nothing is left afterwards."""
    try:
        yield training
    finally:
        training.kill()


class EventLog:
    """Events of all invocations of a script, appended as they happen."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, event: str, **facts: Any) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, "time": round(time.time(), 3), **facts}) + "\n")

    def all(self, *events: str) -> list[dict[str, Any]]:
        """In their order; a line torn by the end of the script is left out."""
        if not self._path.exists():
            return []
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
        found = [json.loads(line) for line in lines if line.endswith("\n")]
        return [event for event in found if event["event"] in events]


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """The arguments that both scripts have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="everything is kept here")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=400, help="length of a run")
    parser.add_argument("--every-steps", type=int, default=3, help="checkpoint.every_steps")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--summary", action="store_true", help="only say what has been seen so far")
    return parser


class Series:
    """Runs that are disturbed until there were enough events of a kind, over all invocations of a script.

    Args:
        options: of `parser_of`.
        counted: the kind of event; they are kept in <counted>s.jsonl.
    """

    def __init__(self, options: argparse.Namespace, counted: str) -> None:
        self.options, self.folder, self.recipe = options, options.folder, options.folder / "recipe.toml"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log = EventLog(self.folder / f"{counted}s.jsonl")
        self.random = random.Random(f"{options.seed} {len(self.log.all(counted))}")

    def main(self) -> int:
        """Go on until there are enough; the exit code."""
        if not self.options.summary:
            with TrainingServer(self.folder / "printed") as server:
                self.go_on(server)
        return self.summarise()

    def go_on(self, server: TrainingServer) -> None:
        raise NotImplementedError

    def summarise(self) -> int:
        raise NotImplementedError

    def unbroken(self, server: TrainingServer) -> Path:
        """The run that nothing disturbed, of the recipe that all runs of this folder have."""
        if not self.recipe.exists():
            write_recipe(self.folder, total_steps=self.options.steps, every_steps=self.options.every_steps)
        return unbroken_run(server, self.recipe, self.options.ranks, self.folder)

    def pass_time(self, training: Training, at_most_seconds: float) -> None:
        until = time.monotonic() + self.random.uniform(0.0, at_most_seconds)
        wait(training, lambda: time.monotonic() >= until)

    def compare(self, run_folder: Path, unbroken: Path, training: Training) -> None:
        """A run that has finished."""
        difference = difference_of(run_folder, unbroken)
        self.log.add("finished", run=run_folder.name, difference=difference)
        print(f"{run_folder.name} finished: {difference or 'equal to the undisturbed run, bit for bit'}", flush=True)
        if difference is not None:
            self.violation(run_folder, f"not equal to the undisturbed run: {difference}", training)

    def check_whole(self, run_folder: Path, training: Training) -> None:
        for problem in damaged_checkpoints(run_folder):
            self.violation(run_folder, f"in place, but not whole: {problem}", training)

    def violation(self, run_folder: Path, what: str, training: Training) -> None:
        self.log.add("violation", run=run_folder.name, what=what, printed=training.text[-8000:])
        print(f"VIOLATION in {run_folder.name}: {what}", flush=True)

    def report(self, seen: dict[str, Any]) -> int:
        """Print and keep what all invocations have seen; the exit code."""
        finished, violations = self.log.all("finished"), self.log.all("violation")
        summary = {
            **seen,
            "runs_finished": len(finished),
            "of_these_equal_to_the_undisturbed_run": sum(end["difference"] is None for end in finished),
            "violations": [violation["what"] for violation in violations],
        }
        print(json.dumps(summary, indent=2))
        (self.folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        return 1 if violations else 0


def problem_of(folder: Path) -> str | None:
    """What is wrong with a checkpoint; None = it is whole. As docs/checkpoints.md describes the format."""
    try:
        record = json.loads((folder / RECORD_NAME).read_bytes())
        checksum = record.pop("xxh3")
    except (OSError, ValueError, KeyError) as error:
        return f"{RECORD_NAME}: {error!r}"
    if xxhash.xxh3_64_hexdigest(json.dumps(record, sort_keys=True).encode()) != checksum:
        return f"{RECORD_NAME} is not what its checksum says"
    if folder.name != f"step-{record['position']['step']:08d}":
        return f"it is of step {record['position']['step']}"
    for name, facts in record["files"].items():
        try:
            content = (folder / name).read_bytes()
        except OSError as error:
            return f"{name}: {error!r}"
        if (len(content), xxhash.xxh3_64_hexdigest(content)) != (facts["bytes"], facts["xxh3"]):
            return f"{name} is not what its hash says"
    return None


def checkpoints(run_folder: Path) -> list[Path]:
    """Oldest first."""
    return sorted((run_folder / "checkpoints").glob("step-*"))


def damaged_checkpoints(run_folder: Path) -> list[str]:
    """What nothing may leave: a checkpoint in place that is not whole. The run may be in progress."""
    found = {folder: problem_of(folder) for folder in checkpoints(run_folder)}
    # One that is gone by now was removed, as a whole, while it was read.
    return [f"{folder.name}: {problem}" for folder, problem in found.items() if problem and folder.exists()]


def step_of(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def difference_of(run_folder: Path, unbroken: Path) -> str | None:
    """What differs between two finished runs: a metric but clocks, a byte of the last checkpoint's tensors."""
    difference = compare_runs(run_folder, unbroken).difference
    if difference is not None:
        return difference
    one, other = (checkpoints(folder)[-1] for folder in (run_folder, unbroken))
    names = sorted(path.relative_to(other) for path in other.rglob("*.safetensors"))
    return next((str(name) for name in names if (one / name).read_bytes() != (other / name).read_bytes()), None)


def wait(training: Training, happened: Callable[[], bool]) -> None:
    """Until it has, or the run is over."""
    deadline = time.monotonic() + SECONDS_TO_GIVE_UP
    while not happened() and not training.is_over and time.monotonic() < deadline:
        time.sleep(SECONDS_BETWEEN_LOOKS)


def last_step(run_folder: Path) -> int:
    lines = read_metrics(run_folder)
    return lines[-1]["step"] if lines else 0
