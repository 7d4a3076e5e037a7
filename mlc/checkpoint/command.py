"""`mlc checkpoints`: list, verify, prune and convert the checkpoints of a run.

In:  the command line.
Out: tables on standard output, and a JSON file where asked; MlcError goes up to mlc.cli, which owns exit codes.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from mlc.checkpoint.fence import ATTEMPTS_NAME
from mlc.checkpoint.record import (
    BEST_NAME,
    RECORD_NAME,
    Record,
    checkpoint_folders,
    complete_checkpoints,
    is_amid_bad_steps,
    step_of,
)
from mlc.checkpoint.retention import remove, superseded
from mlc.checkpoint.verify import damage
from mlc.config import read_table
from mlc.errors import EXIT_FAILED, CheckpointError, MlcError, UsageError
from mlc.files import write_json
from mlc.recipe import CheckpointSection
from mlc.run_names import METRICS_NAME, OWNER_NAME, RECIPE_NAME

app = typer.Typer(no_args_is_help=True, help="List, verify, prune or convert the checkpoints of a run.")

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the result here.")]
COLUMNS: dict[str, Literal["left", "right"]] = {
    "checkpoint": "left",
    "samples": "right",
    "tokens": "right",
    "size": "right",
    "ranks": "right",
    "written (UTC)": "left",
    "state": "left",
}
TARGETS = ("safetensors", "universal")
RECENT_SECONDS = 600.0
"""A run on another host that has written so recently counts as in progress."""
_TRASH = ".pruned-"


def _examples(*commands: str) -> str:
    return "[bold]Examples:[/bold]\n\n" + "\n\n".join(f"  $ {command}" for command in commands)


@app.command("list", epilog=_examples("mlc checkpoints list runs/base", "mlc checkpoints list runs/base --json c.json"))
def list_checkpoints(run: Run, json_file: JsonFile = None) -> None:
    """Show the checkpoints of a run. Only complete.json is read: `verify` compares the files with it."""
    _check_arguments(run, json_file)
    entries, damaged = [Entry.read(folder) for folder in checkpoint_folders(run)], _damaged_folders(run)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name, justify in COLUMNS.items():
        table.add_column(name, justify=justify, no_wrap=True)
    for entry in entries:
        table.add_row(entry.folder.name, *entry.cells(), "unusable" if entry.problem else "complete")
    Console().print(table if entries else "no checkpoints", highlight=False)
    for entry in entries:
        if entry.problem:
            print(f"{entry.folder.name}: {entry.problem}")
    for folder in damaged:
        print(f"set aside: {folder.name}")
    if json_file is not None:
        checkpoints = [entry.to_json() for entry in entries]
        write_json(json_file, {"run": str(run), "checkpoints": checkpoints, "damaged": [f.name for f in damaged]})


@app.command(
    epilog=_examples("mlc checkpoints verify runs/base", "mlc checkpoints verify runs/base --step 1000 --json v.json")
)
def verify(
    run: Run,
    step: Annotated[int | None, typer.Option(min=0, help="Only the checkpoint of this step.")] = None,
    json_file: JsonFile = None,
) -> None:
    """Read every byte and compare it with the sizes and hashes in complete.json. Exit code 1 if anything differs.

    Nothing is changed: damaged checkpoints are set aside by the next start of the run.
    """
    _check_arguments(run, json_file)
    folders = [folder for folder in checkpoint_folders(run) if step in (None, step_of(folder))]
    if not folders:
        which = "no checkpoint" if step is None else f"no checkpoint of step {step}"
        raise CheckpointError(f"the run has {which}", where=str(run), hint=f"mlc checkpoints list {run}")
    problems: dict[str, str | None] = {}
    for folder in folders:
        problems[folder.name] = _problem_of(Entry.read(folder))
        print(f"{folder.name}: {problems[folder.name] or 'whole'}", flush=True)
    if json_file is not None:
        write_json(json_file, {"run": str(run), "whole": not any(problems.values()), "problems": problems})
    if any(problems.values()):
        sys.exit(EXIT_FAILED)


@app.command(
    epilog=_examples(
        "mlc checkpoints prune runs/base --keep-last 1 --dry-run",
        "mlc checkpoints prune runs/base --keep-last 2 --keep-every 10000",
        "mlc checkpoints prune runs/base --damaged",
    )
)
def prune(
    run: Run,
    keep_last: Annotated[int | None, typer.Option(min=1, help="Delete all but so many newest checkpoints.")] = None,
    keep_every: Annotated[
        int | None,
        typer.Option(min=0, help="But keep those of steps that are a multiple of this; 0 = none. Default: the run's."),
    ] = None,
    damaged: Annotated[bool, typer.Option("--damaged", help="Delete damaged-* and incomplete step-* folders.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Even if the run seems to be in progress.")] = False,
    json_file: JsonFile = None,
) -> None:
    """Delete checkpoints, never the newest complete one; before others go, that one is verified.

    A run in progress deletes as its recipe says. This is for afterwards, and refuses until then.
    """
    _check_arguments(run, json_file)
    if keep_last is None and not damaged:
        raise UsageError("nothing to delete was named", needed="--keep-last N or --damaged")
    if keep_last is None and keep_every is not None:
        raise UsageError("--keep-every makes exceptions from --keep-last", needed="--keep-last N with it")
    complete = complete_checkpoints(run)
    doomed: list[Path] = []
    if keep_last is not None:
        every = _keep_every_of(run) if keep_every is None else keep_every
        amid = [folder for folder in complete if is_amid_bad_steps(folder)]
        doomed += superseded(complete, keep_last=keep_last, keep_every=every, also=_best_of(run), amid_bad_steps=amid)
    sound = len(doomed)
    if damaged:
        doomed += [*_damaged_folders(run), *(f for f in checkpoint_folders(run) if f not in complete)]
    if doomed and not dry_run:
        if not force:
            _refuse_while_in_progress(run)
        if sound:
            _check_newest(complete[-1])
    sizes = {folder.name: _bytes_in(folder) for folder in doomed}
    with nullcontext() if dry_run or not doomed else _trash(run) as trash:
        for folder in doomed:
            print(f"{'deleting' if trash else 'would delete'} {folder.name}, {decimal(sizes[folder.name])}", flush=True)
            if trash:
                remove(folder, trash)
    print(f"{len(sizes)} folders, {decimal(sum(sizes.values()))}", flush=True)
    if json_file is not None:
        write_json(json_file, {"run": str(run), "dry_run": dry_run, "folders": sizes})


@app.command(
    epilog=_examples(
        "mlc checkpoints convert runs/base/checkpoints/step-00001000 models/base",
        "mlc checkpoints convert runs/base universal/base --to universal",
    )
)
def convert(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A checkpoint, or a run: its newest one.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.")],
    to: Annotated[str, typer.Option("--to", help="safetensors or universal.")] = "safetensors",
    json_file: JsonFile = None,
) -> None:
    """Write a checkpoint in another form, with one tensor in memory at a time.

    safetensors: a model folder with whole fp32 weights, for mlc evaluate --model OUT and other programs.

    universal: weights and optimizer state as DeepSpeed's universal checkpoint, for a DeepSpeed script of your own. It
    configures "checkpoint": {"load_universal": true}, calls engine.load_checkpoint(OUT, load_lr_scheduler_states=False)
    and sets learning rates and weight decay itself; mlc/checkpoint/universal.py says what else.
    """
    if to not in TARGETS:
        raise UsageError("no such form", found=to, needed=" or ".join(TARGETS), where="--to")
    _check_json(json_file)
    from mlc.checkpoint.convert import convert as convert_checkpoint

    done = convert_checkpoint(checkpoint, out, "universal" if to == "universal" else "safetensors", bar=_bar)
    print(f"{done.folder}: {done.tensors} tensors, {decimal(done.bytes)}, from {done.checkpoint}", flush=True)
    if done.target == "universal" and not done.recipe:
        print("the checkpoint has no recipe.toml: set betas and epsilon in your script", flush=True)
    if json_file is not None:
        write_json(json_file, asdict(done))


@dataclass(frozen=True)
class Entry:
    """A step-* folder, and its record or why it has none that can be used."""

    folder: Path
    record: Record | None
    problem: str | None

    @classmethod
    def read(cls, folder: Path) -> Entry:
        """Whatever the folder holds."""
        if not (folder / RECORD_NAME).is_file():
            return cls(folder, None, f"incomplete: no {RECORD_NAME}")
        try:
            return cls(folder, Record.read(folder), None)
        except MlcError as error:
            found = "" if error.found is None else f"; found {str(error.found).splitlines()[0]}"
            return cls(folder, None, error.problem + found)
        except OSError as error:
            return cls(folder, None, f"{RECORD_NAME} cannot be read; found {error}")

    def cells(self) -> list[str]:
        """What the table shows, between name and state."""
        if self.record is None:
            return [""] * 5
        position, ranks = self.record.position, self.record.plan.world_size
        counts = [_short(position.samples), _short(position.tokens), decimal(self.bytes()), str(ranks)]
        return [*counts, self._written().isoformat(sep=" ")[:16]]

    def to_json(self) -> dict[str, Any]:
        """What the table shows, as numbers."""
        shown: dict[str, Any] = {"name": self.folder.name, "problem": self.problem}
        if self.record is not None:
            shown |= {
                **asdict(self.record.position),
                "bytes": self.bytes(),
                "world_size": self.record.plan.world_size,
                "zero_stage": self.record.zero_stage,
                "precision": self.record.precision,
                "written": self._written().isoformat(),
            }
        return shown

    def bytes(self) -> int:
        """As the record states them."""
        return sum(facts.bytes for facts in self.record.files.values()) if self.record else 0

    def _written(self) -> datetime:
        return datetime.fromtimestamp(int((self.folder / RECORD_NAME).stat().st_mtime), UTC)


def _problem_of(entry: Entry) -> str | None:
    if entry.record is None:
        return entry.problem
    try:
        with _bar(f"reading {entry.folder.name}", entry.bytes()) as advance:
            return damage(entry.folder, entry.record, progress=advance)
    except OSError as error:
        return f"cannot be read: {error}"


def _damaged_folders(run: Path) -> list[Path]:
    return sorted(path for path in (run / "checkpoints").glob("damaged-*") if path.is_dir())


def _keep_every_of(run: Path) -> int:
    path = run / RECIPE_NAME
    if not path.is_file():
        raise UsageError("it is not known which checkpoints the run keeps", needed="--keep-every", where=str(path))
    return read_table(path, "checkpoint", CheckpointSection).keep_every


def _best_of(run: Path) -> set[int]:
    """Step of the checkpoint that scored best, where the run scored them."""
    path = run / "checkpoints" / BEST_NAME
    step = step_of(Path(path.read_text(encoding="utf-8").strip())) if path.is_file() else None
    return set() if step is None else {step}


def _check_newest(newest: Path) -> None:
    """Refuse to delete older checkpoints where the newest one cannot take their place."""
    if problem := _problem_of(Entry.read(newest)):
        raise CheckpointError(
            f"the newest checkpoint cannot be used, so older ones are not deleted: {problem}",
            where=str(newest),
            hint="start the run again: it sets the damaged one aside and continues from the one before",
        )


@contextmanager
def _trash(run: Path) -> Iterator[Path]:
    """A folder beside the checkpoints for what is being deleted."""
    root = run / "checkpoints"
    try:
        with tempfile.TemporaryDirectory(prefix=_TRASH, dir=root) as name:
            for leftover in root.glob(f"{_TRASH}*"):  # of a prune that was killed
                if leftover != Path(name):
                    remove(leftover, Path(name))
            yield Path(name)
    except OSError as error:
        raise MlcError("not everything could be deleted", found=str(error), where=str(root)) from None


def _refuse_while_in_progress(run: Path) -> None:
    """Refuse where the run's newest start is alive, or may be.

    On this host its process tells. From another one there is only the time of what it writes.
    """
    attempts = [path for path in (run / ATTEMPTS_NAME).glob("attempt-*") if path.is_dir()]
    newest = max(attempts, default=run)
    owner = _read_owner(newest) or _read_owner(run)
    if owner is None:  # nothing that has begun to train
        return
    host, pid = owner
    if host == socket.gethostname():
        alive = _is_alive(pid)
    else:
        alive = any(_age_seconds(path) < RECENT_SECONDS for path in (newest, run / METRICS_NAME))
    if alive:
        raise UsageError(
            "the run seems to be in progress",
            found=f"process {pid} on {host}",
            where=str(run),
            hint="stop it first, or give --force if you know that it has ended",
        )


def _read_owner(folder: Path) -> tuple[str, int] | None:
    """Host and process of a start."""
    try:
        owner = json.loads((folder / OWNER_NAME).read_bytes())
        return str(owner["host"]), int(owner["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        return True
    return True


def _age_seconds(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return float("inf")


def _short(count: int) -> str:
    """1,234,567 as "1.23 M"."""
    for unit, size in (("T", 10**12), ("G", 10**9), ("M", 10**6)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count:,}"


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _check_arguments(run: Path, json_file: Path | None) -> None:
    if not (run / "checkpoints").is_dir():
        raise UsageError("this is no run folder", found=str(run), needed="a folder with checkpoints/ in it")
    _check_json(json_file)


def _check_json(json_file: Path | None) -> None:
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise UsageError("the folder does not exist", found=str(json_file.parent), where="--json")


@contextmanager
def _bar(what: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total_bytes)
        yield lambda done: bar.advance(task, done)
