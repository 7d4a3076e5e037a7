"""Queue of a study's runs: does the next unfinished one until all are done, and may be stopped at any time.

In:  `Run`s, and `Workers` who count, train and score (mlc's own in study_work.py, others in tests).
Out: in each run's folder study.json (definition, steps, seconds), recipe.toml, run/, log.txt, and at the end score.json
     or failure.json, each written whole or not at all; an exit code.

A run whose score.json is there is finished and never touched again. Whatever else a folder holds is gone on with:
`mlc train` continues from its newest complete checkpoint. Two queues cannot work on one study: the lock is held by the
queue and by the training it has started, so also by a training that outlives a killed queue.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, Protocol

from study_plan import Budget, Run, render_recipe

from mlc.errors import EXIT_FAILED, EXIT_SAVED, MlcError, RecipeError
from mlc.files import write_atomically, write_json

STUDY, RECIPE, SCORE, FAILURE, LOG, LOCK = (
    "study.json",
    "recipe.toml",
    "score.json",
    "failure.json",
    "log.txt",
    "queue.lock",
)
LAST_LINES = 60
"""torchrun's own account of a failure takes some thirty, and stands behind what the ranks said."""

Tick = Callable[[int | None], bool]
"""Called about once a second with the step (None = unknown); False = the queue wants to stop."""


@dataclass(frozen=True)
class Ending:
    """How a training ended; stopped = it can be gone on with."""

    kind: Literal["done", "stopped", "failed"]
    reason: str = ""


class Workers(Protocol):
    """Who does the work of a run."""

    def count(self, run: Run) -> Budget:
        """Steps of the run."""

    def train(self, run: Run, ranks: int, tick: Tick) -> Ending:
        """Start or continue `mlc train` on the run's recipe.toml."""

    def score(self, run: Run, tick: Tick) -> dict[str, Any] | None:
        """Scores of the trained run; None = stopped.

        Raises:
            MlcError: it cannot be scored.
        """


class Watcher(Protocol):
    """Who tells people what happens."""

    def say(self, line: str) -> None:
        """Something happened."""

    def show(self, line: str) -> None:
        """Where things stand right now."""


def run_queue(
    runs: Sequence[Run],
    workers: Workers,
    watcher: Watcher,
    *,
    ranks: int,
    keep_going: Callable[[], bool],
    now: Callable[[], float] = time.monotonic,
) -> int:
    """Do all unfinished runs in order.

    Args:
        ranks: of runs that begin now; one that was begun with others goes on with those.
        keep_going: false = save and stop.
        now: clock in seconds.

    Returns:
        0 all are finished; 1 some failed; 75 stopped, call again to go on.

    Raises:
        RecipeError: a folder belongs to another definition of its arm. Nothing was started.
    """
    for run in runs:
        check_unchanged(run)
    failed = 0
    for number, run in enumerate(runs, 1):
        if (run.folder / SCORE).exists():
            continue
        if not keep_going():
            return EXIT_SAVED
        pace = _Pace(runs, number, watcher, keep_going, now)
        try:
            ending = _do(run, workers, pace, ranks)
        except MlcError as error:
            ending = Ending("failed", str(error))
        if ending.kind == "stopped":
            watcher.say(f"{run.name}: stopped; the same command goes on from its newest checkpoint")
            return EXIT_SAVED
        if ending.kind == "failed":
            failed += 1
            run.folder.mkdir(parents=True, exist_ok=True)
            write_json(run.folder / FAILURE, {"reason": ending.reason, "last_lines": last_lines(run.folder / LOG)})
            watcher.say(f"{run.name}: failed: {ending.reason} (see {run.folder / FAILURE})")
        else:
            watcher.say(f"{run.name}: finished")
    if failed:
        watcher.say(f"{failed} of {len(runs)} runs failed; the same command tries them again")
    return EXIT_FAILED if failed else 0


def _do(run: Run, workers: Workers, pace: _Pace, ranks: int) -> Ending:
    (run.folder / FAILURE).unlink(missing_ok=True)
    facts = _begin(run, workers, ranks)
    if facts["ranks"] != ranks:
        pace.watcher.say(f"{run.name}: was begun on {facts['ranks']} ranks and goes on with them")
    pace.start(facts["steps"], facts["seconds"])
    started = pace.now()
    try:
        if not is_trained(run):
            ending = workers.train(run, facts["ranks"], pace.tick)
            if ending.kind != "done":
                return ending
        pace.stage = "scoring"
        scores = workers.score(run, pace.tick)
    finally:
        facts["seconds"] += pace.now() - started
        write_json(run.folder / STUDY, facts)
    if scores is None:
        return Ending("stopped")
    write_json(run.folder / SCORE, {**facts, **scores})
    return Ending("done")


def _begin(run: Run, workers: Workers, ranks: int) -> dict[str, Any]:
    """The content of study.json, made if this run is new; recipe.toml stands before it."""
    if (facts := read_json(run.folder / STUDY)) is not None:
        return facts
    budget = workers.count(run)
    run.folder.mkdir(parents=True, exist_ok=True)
    write_atomically(run.folder / RECIPE, render_recipe(run, budget.steps).to_toml().encode())
    facts = {"arm": run.arm, "seed": run.seed, "training": run.training_digest, "scoring": run.scoring_digest}
    facts |= {**asdict(budget), "ranks": ranks, "seconds": 0.0}
    write_json(run.folder / STUDY, facts)
    return facts


def check_unchanged(run: Run) -> None:
    """Refuse a folder that was made by another definition of its run, and say what to delete.

    Raises:
        RecipeError: the recipe, the shards or the budget differ, or a finished run was scored in another way.
    """
    facts = read_json(run.folder / STUDY)
    if facts is not None and facts["training"] != run.training_digest:
        raise RecipeError(
            f"arm {run.arm} (its recipe, its base, its shards or its text tokens) is not what this run was made with",
            where=str(run.folder),
            hint=f"undo the change, or delete the run to do it again: rm -r {run.folder}",
        )
    score = read_json(run.folder / SCORE)
    if score is not None and score["scoring"] != run.scoring_digest:
        raise RecipeError(
            "this run was scored in another way than the study says now",
            where=str(run.folder),
            hint=f"undo the change, or score it again without training: rm {run.folder / SCORE}",
        )
    if facts is not None and facts["scoring"] != run.scoring_digest:
        write_json(run.folder / STUDY, {**facts, "scoring": run.scoring_digest})


def is_trained(run: Run) -> bool:
    """Whether `mlc train` has taken all of the run's steps."""
    facts, ending = read_json(run.folder / STUDY), read_json(run.folder / "run" / "exit.json")
    return bool(facts and ending and ending["code"] == 0 and ending["step"] == facts["steps"])


@contextmanager
def lock(folder: Path) -> Iterator[int]:
    """Hold the study's lock; yields its file descriptor, for a training to hold on to as well.

    Raises:
        MlcError: another queue, or a training of one that was killed, is at work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holders = os.pread(descriptor, 1000, 0).decode() or "unknown"
            raise MlcError(
                "a queue, or a training that a killed queue left behind, works on this study",
                found=f"processes {holders}",
                where=str(path),
                hint="wait for it, or end it: kill -TERM <process>",
            ) from None
        note_holders(descriptor, os.getpid())
        yield descriptor
    finally:
        os.close(descriptor)


def note_holders(descriptor: int, *processes: int) -> None:
    """Write into the lock's file which processes hold it, for whoever finds it locked."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, ", ".join(map(str, processes)).encode(), 0)


def read_json(path: Path) -> dict[str, Any] | None:
    """The file's content; None where there is no file."""
    if not path.exists():
        return None
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def last_lines(path: Path) -> list[str]:
    """The end of a log."""
    if not path.exists():
        return []
    return path.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]


class _Pace:
    """Where the queue stands while one run is at work, and how long the rest may take.

    Args:
        number: of the run that is at work, from 1.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        number: int,
        watcher: Watcher,
        keep_going: Callable[[], bool],
        now: Callable[[], float],
    ) -> None:
        self.runs, self.number, self.watcher, self.keep_going, self.now = runs, number, watcher, keep_going, now
        self.stage = "training"
        self.first_look: tuple[int, float] | None = None

    def start(self, steps: int, seconds_before: float) -> None:
        """The run begins, or goes on after `seconds_before` of earlier starts."""
        self.steps, self.seconds_before, self.started = steps, seconds_before, self.now()

    def tick(self, step: int | None) -> bool:
        """Show the line; returns whether to go on."""
        seconds = self.seconds_before + self.now() - self.started
        left = self._seconds_left(seconds, step)
        place = f"step {step} of {self.steps}" if self.stage == "training" else self.stage
        estimate = "time left unknown" if left is None else f"about {left / 60:.0f} min left"
        run = self.runs[self.number - 1]
        self.watcher.show(
            f"run {self.number} of {len(self.runs)}, {run.name}: {place}, {seconds / 60:.1f} min; {estimate}"
        )
        return self.keep_going()

    def _seconds_left(self, seconds: float, step: int | None) -> float | None:
        """This run at its own pace; runs to come as finished ones of their arm, else as finished ones on average."""
        finished: dict[str, list[float]] = {}
        for run in self.runs:
            if (score := read_json(run.folder / SCORE)) is not None:
                finished.setdefault(run.arm, []).append(score["seconds"])
        every = [value for values in finished.values() for value in values]
        seconds_per_step = self._seconds_per_step(step)
        if every:
            typical = fmean(every)
        elif seconds_per_step:
            typical = seconds_per_step * self.steps
        else:
            return None
        this, *others = self.runs[self.number - 1 :]
        if step is not None and seconds_per_step:
            left = seconds_per_step * (self.steps - step)
        else:
            left = max(0.0, fmean(finished.get(this.arm, [typical])) - seconds)
        unfinished = [run for run in others if not (run.folder / SCORE).exists()]
        return left + sum(fmean(finished.get(run.arm, [typical])) for run in unfinished)

    def _seconds_per_step(self, step: int | None) -> float | None:
        """Since this start first saw a step: what earlier starts took is not known if they were killed."""
        if not step:
            return None
        if self.first_look is None:
            self.first_look = step, self.now()
        first_step, first_seconds = self.first_look
        return (self.now() - first_seconds) / (step - first_step) if step > first_step else None
