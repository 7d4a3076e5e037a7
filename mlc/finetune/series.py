"""One recipe with several seeds, and with several numbers of shots: runs one after another, and their table.

In:  a recipe of `mlc finetune`, seeds, shots.
Out: a run folder for each in the recipe's run.folder; means and standard deviations over seeds.

Every run is a process of its own: DeepSpeed cannot be set up twice in one. What is finished is not run again, so the
same command goes on where a series was stopped.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from mlc.config import read_recipe
from mlc.distributed.ranks import RankInfo
from mlc.errors import EXIT_FAILED, CheckpointError, UsageError
from mlc.files import write_json
from mlc.finetune.recipe import FinetuneRecipe
from mlc.run_names import EXIT_NAME, RECIPE_NAME, TEST_NAME

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
"""What asks a run to save and stop (docs/checkpoints.md)."""
_MAY_DIFFER = ("run.allow_changes", "schedule.total_steps", "schedule.epochs", "schedule.warmup_steps",
               "schedule.warmup_fraction")  # fmt: skip
"""A run writes these down as they came out, or they change nothing of what it learned."""


@dataclass(frozen=True)
class Member:
    """One run of a series.

    Attributes:
        shots: examples a class, 0 = all; None = as the recipe says.
        recipe: resolved.
        overrides: that make it of the recipe's file.
    """

    seed: int
    shots: int | None
    recipe: FinetuneRecipe
    overrides: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Of the run."""
        return Path(self.recipe.run.folder)


@dataclass(frozen=True)
class SeedScore:
    """A score over seeds.

    Attributes:
        value: the mean.
        sd: sample standard deviation; None for one seed.
        n: number of seeds.
    """

    value: float
    sd: float | None
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f}" if self.sd is None else f"{self.value:.3f} ± {self.sd:.3f}"


@dataclass(frozen=True)
class SeriesRow:
    """Runs that differ in nothing but their seed.

    Attributes:
        name: such as "8 shots".
        zero_shot: over languages that were not trained on; None where there are none.
    """

    name: str
    shots: int | None
    seeds: tuple[int, ...]
    languages: Mapping[str, SeedScore]
    macro: SeedScore
    zero_shot: SeedScore | None


def plan_series(file: Path, overrides: Sequence[str], seeds: Sequence[int], shots: Sequence[int] = ()) -> list[Member]:
    """The runs of a series, fewest shots first; their recipes are checked.

    Args:
        file: the recipe; its run.folder becomes the folder of the series.
        overrides: "section.key=value", of all runs.
        seeds: different ones, 0 or more.
        shots: examples a class, 0 = all; none = as the recipe says.

    Raises:
        UsageError: the same seed or number twice, or there is no test data to compare runs on.
        RecipeError: the recipe is refused.
    """
    for found, option in ((seeds, "--seeds"), (shots, "--shots")):
        if len(set(found)) != len(found) or any(number < 0 for number in found):
            raise UsageError("a series takes each number once, none below 0", found=str(list(found)), where=option)
    folder = Path(read_recipe(file, FinetuneRecipe, overrides).run.folder)
    members = []
    numbers: list[int | None] = [*sorted(shots, key=lambda number: number or sys.maxsize)]
    for number in numbers or [None]:
        for seed in seeds:
            name = f"seed-{seed}" + ("" if number is None else f"-shots-{number or 'all'}")
            own = [f"run.seed={seed}", f"run.folder={json.dumps(str(folder / name))}"]
            own += [] if number is None else [f"data.shots={number}"]
            changed = (*overrides, *own)
            members.append(Member(seed, number, read_recipe(file, FinetuneRecipe, changed), changed))
    if not members[0].recipe.data.test:
        raise UsageError("runs of a series are compared on test data", needed="data.test", where=str(file))
    return members


def check_alone(ranks: RankInfo) -> None:
    """Refuse to start runs from one rank of several, or from inside torchrun.

    Raises:
        UsageError: it is so.
    """
    if ranks.world_size > 1 or ranks.launcher == "environment":
        raise UsageError(
            "a series starts its runs by itself, one after another on one rank each",
            found=f"{ranks.world_size} ranks by {ranks.launcher}",
            needed="one process, without a launcher",
            hint="for runs of more ranks: for seed in 1 2 3; do torchrun --nproc-per-node 2 -m mlc finetune "
            "RECIPE.toml --set run.seed=$seed --set run.folder=FOLDER/seed-$seed || break; done\n"
            "  then, for the table: mlc finetune RECIPE.toml --set run.folder=FOLDER --seeds 1,2,3",
        )


def run_series(file: Path, members: Sequence[Member], progress: Console) -> int:
    """Run what is not finished.

    Args:
        file: the recipe.
        progress: for people.

    Returns:
        0, or the exit code of the first run that failed or was stopped; later ones were not started then.

    Raises:
        UsageError: a finished run was of another recipe.
    """
    finished = [is_finished(member) for member in members]
    for number, (member, done) in enumerate(zip(members, finished, strict=True), 1):
        shots = "" if member.shots is None else f", {shots_name(member.shots)}"
        what = f"{number} of {len(members)}: seed {member.seed}{shots}, {member.folder}"
        progress.print(f"{what}: finished before" if done else what, highlight=False, markup=False, soft_wrap=True)
        if done:
            continue
        code = _run(file, member)
        if code:
            goes_on = "the same command goes on from here"
            progress.print(f"ended with code {code}; {goes_on}", highlight=False, markup=False, soft_wrap=True)
            return code
    return 0


def is_finished(member: Member) -> bool:
    """Whether a run ended by itself.

    Raises:
        UsageError: it did, with another recipe.
    """
    ended = _read(member.folder / EXIT_NAME)
    if ended is None or ended.get("code") != 0 or not (member.folder / TEST_NAME).is_file():
        return False
    try:
        stated = tomllib.loads((member.folder / RECIPE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError("the run's recipe cannot be read", found=str(error), where=str(member.folder)) from None
    before, now = _flat(stated), _flat(tomllib.loads(member.recipe.to_toml()))
    for key in sorted({*before, *now} - set(_MAY_DIFFER)):
        if before.get(key) != now.get(key):
            raise UsageError(
                "the series has a finished run of another recipe",
                found=f"{key} = {before.get(key)!r}",
                needed=repr(now.get(key)),
                where=str(member.folder),
                hint="--set run.folder=ANOTHER",
            )
    return True


def series_rows(members: Sequence[Member]) -> tuple[str, list[SeriesRow]]:
    """The name of the score, and a row for each number of shots.

    Raises:
        CheckpointError: a run has no test.json, or one of another score or other languages.
    """
    rows: dict[int | None, list[tuple[Member, dict[str, Any]]]] = {}
    for member in members:
        test = _read(member.folder / TEST_NAME)
        if test is None:
            raise CheckpointError("the run has no scores", where=str(member.folder / TEST_NAME))
        rows.setdefault(member.shots, []).append((member, test))
    first = next(iter(rows.values()))[0][1]
    for member, test in (pair for found in rows.values() for pair in found):
        if (test["score"], list(test["languages"])) != (first["score"], list(first["languages"])):
            found = f"{test['score']} of {', '.join(test['languages'])}"
            needed = f"{first['score']} of {', '.join(first['languages'])}"
            raise CheckpointError(
                "the runs were scored on different data", found=found, needed=needed, where=str(member.folder)
            )
    return str(first["score"]), [_row(shots, found) for shots, found in rows.items()]


def over_seeds(values: Sequence[float]) -> SeedScore:
    """Mean and sample standard deviation (n - 1)."""
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return SeedScore(float(np.mean(values)), sd, len(values))


def series_table(score: str, rows: Sequence[SeriesRow]) -> Table:
    """Languages, their mean, and the mean of those that were not trained on."""
    table = Table(title=f"{score}, mean ± standard deviation over {len(rows[0].seeds)} seeds")
    with_zero_shot = any(row.zero_shot for row in rows)
    table.add_column("")
    for name in (*rows[0].languages, "mean", *(["zero-shot"] if with_zero_shot else [])):
        table.add_column(name, justify="right")
    for row in rows:
        cells = [*row.languages.values(), row.macro, *([row.zero_shot] if with_zero_shot else [])]
        table.add_row(row.name, *["" if cell is None else str(cell) for cell in cells])
    return table


def write_series(file: Path, score: str, rows: Sequence[SeriesRow]) -> None:
    """Write {"score", "series": [{"name", "shots", "seeds", "languages", "macro", "zero_shot"}]}.

    Raises:
        OSError: the file cannot be written.
    """
    write_json(file, {"score": score, "series": [asdict(row) for row in rows]})


def shots_name(shots: int | None) -> str:
    """ "8 shots"; "all examples" for 0."""
    if shots is None:
        return "runs"
    return f"{shots} shots" if shots else "all examples"


def _row(shots: int | None, found: Sequence[tuple[Member, Mapping[str, Any]]]) -> SeriesRow:
    tests = [test for _, test in found]
    has_zero_shot = all(test["zero_shot"] for test in tests)
    return SeriesRow(
        shots_name(shots),
        shots,
        tuple(member.seed for member, _ in found),
        {name: over_seeds([test["languages"][name]["value"] for test in tests]) for name in tests[0]["languages"]},
        over_seeds([test["macro"]["value"] for test in tests]),
        over_seeds([test["zero_shot"]["value"] for test in tests]) if has_zero_shot else None,
    )


def _run(file: Path, member: Member) -> int:
    """Exit code of one run; what asks this process to stop is passed on to it."""
    command = [sys.executable, "-m", "mlc", "finetune", str(file)]
    for override in member.overrides:
        command += ["--set", override]
    started: list[subprocess.Popen[bytes]] = []
    with passing_on(started):
        # In a group of its own, so that a terminal's interrupt reaches it once, by way of this process.
        started.append(subprocess.Popen(command, process_group=0))
        code = started[0].wait()
    return code if code >= 0 else EXIT_FAILED


@contextmanager
def passing_on(started: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Pass signals on to a process; the first one that comes before it is there ends this one."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        del frame
        if not started:
            sys.exit(EXIT_FAILED)
        started[0].send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _read(file: Path) -> dict[str, Any] | None:
    """A JSON object; None where there is no such file."""
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CheckpointError("the file cannot be read", found=str(error), where=str(file)) from None
    return content


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"run.seed": 1, ...}."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found
