"""`mlc jobs`: one table of runs and of their jobs.

In:  run folders, or folders that hold some; what SLURM knows of their jobs and of this user's.
Out: a table on standard output and a JSON file where asked; notes on standard error.
"""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from launchers.log_lines import printable
from launchers.run_files import find_runs
from launchers.run_state import RunState, read_run
from launchers.slurm import COMMENT_PREFIX, Job, SlurmError, accounted_jobs, jobs_by_id, my_jobs
from mlc.errors import UsageError
from mlc.files import write_json

DEFAULT_FOLDER = Path("runs")
OLD_SECONDS = 7 * 24 * 3600.0
"""A run that finished so long ago is not shown by default."""
PIPED_WIDTH = 1000
_JOB_ID = re.compile(r"[0-9]+(?:_[0-9]+)?")
_TOLD_BY_RUN = ("COMPLETED", "FAILED")
"""Ends of which the run folder says more than SLURM does."""


@dataclass(frozen=True)
class Row:
    """What the table says of a run, or of a job whose run folder was not given; None where it is not known."""

    run: str
    state: str
    job: str
    nodes: str
    hosts: str
    step: int | None = None
    total_steps: int | None = None
    loss: float | None = None
    tokens_per_second: float | None = None
    checkpoint_step: int | None = None
    checkpoint_age_seconds: float | None = None
    restarts: int | None = None
    last_end: str = ""
    last_time: float = 0.0


@dataclass(frozen=True)
class SlurmView:
    """What SLURM answered.

    Attributes:
        jobs: of this user and of the runs.
        asked: it did answer, so that what it does not know waits and runs no longer.
        note: why it did not.
    """

    jobs: tuple[Job, ...]
    asked: bool
    note: str = ""


def jobs(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="[FOLDER]...", help="Run folders, or folders that hold some; runs.")
    ] = None,
    wide: Annotated[bool, typer.Option("--wide", help="Also the names of the hosts.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Also runs that finished more than a week ago.")] = False,
    watch: Annotated[
        float | None, typer.Option("--watch", metavar="SECONDS", min=0.1, help="Show it again and again.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the result here.")] = None,
) -> None:
    """Show runs and jobs: state, nodes, step, loss, speed, last checkpoint, restarts, and why the last start ended.

    The state is SLURM's where SLURM knows the job, and the run folder's otherwise. Jobs of yours whose run folder lies
    elsewhere are shown too.
    """
    for folder in folders or ():
        if not folder.is_dir():
            raise UsageError("no such folder", found=str(folder), needed="a run folder, or one that holds some")
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise UsageError("the folder does not exist", found=str(json_file.parent), where="--json")
    while True:
        now = time.time()
        runs = [read_run(folder) for folder in find_runs(folders or [DEFAULT_FOLDER])]
        view = ask_slurm(runs)
        rows = rows_of(runs, view, now)
        shown = [row for row in rows if every or not _is_old(row, now)]
        _print(shown, len(rows) - len(shown), view.note, wide=wide, again=watch is not None)
        if json_file is not None:
            content: dict[str, Any] = {"time": now, "slurm": view.asked, "note": view.note}
            write_json(json_file, {**content, "rows": [asdict(row) for row in shown]})
        if watch is None:
            return
        time.sleep(watch)


def ask_slurm(runs: Sequence[RunState]) -> SlurmView:
    """One call of squeue for this user's jobs, one for what else the runs name, one of sacct for what both lack."""
    try:
        known = my_jobs()
        known += jobs_by_id(_unknown(runs, known))
    except SlurmError as error:
        return SlurmView((), False, f"{error.problem}: {error.found}")
    # A cluster without accounting says so here; the run folders then say how jobs ended.
    untold = [run for run in runs if run.state(time.time(), job_is_gone=True) == "ended without a word"]
    with contextlib.suppress(SlurmError):
        known += accounted_jobs(_unknown(untold, known))
    return SlurmView(tuple(known), True)


def rows_of(runs: Sequence[RunState], view: SlurmView, now: float) -> list[Row]:
    """A row for each run, then one for each active job of no run among them.

    Args:
        runs: in the order of the table.
        view: what SLURM says.
        now: seconds since 1970.
    """
    rows: list[Row] = []
    taken: set[str] = set()
    for run in runs:
        its = [job for job in view.jobs if _belongs(job, run)]
        taken.update(job.job_id for job in its)
        rows.append(_row(run, its, view, now))
    for job in view.jobs:
        if job.active and job.job_id not in taken and job.comment.startswith(COMMENT_PREFIX):
            folder = job.comment.removeprefix(COMMENT_PREFIX)
            rows.append(Row(folder, _active_state([job]), job.job_id, job.nodes, job.hosts, last_time=now))
    return rows


def _row(run: RunState, its: Sequence[Job], view: SlurmView, now: float) -> Row:
    active = sorted((job for job in its if job.active), key=lambda job: job.state == "PENDING")
    ended = sorted((job for job in its if not job.active), key=lambda job: int(job.raw_id or 0))
    newest = next(iter(active or ended[-1:]), None)
    gone = view.asked and not active and bool(run.job_ids)
    state = _active_state(active) if active else _ended_state(run.state(now, job_is_gone=gone), newest)
    start, progress, checkpoint = next(iter(run.starts[-1:]), None), run.progress, run.checkpoint
    asked_nodes = run.submission.nodes if run.submission is not None else ""
    started_nodes = str(start.nodes) if start is not None and start.nodes else ""
    job = start.job if start is not None else ",".join(run.job_ids)
    return Row(
        str(run.subject),
        state,
        newest.job_id if newest is not None else job,
        (newest.nodes if newest is not None else "") or started_nodes or asked_nodes,
        (newest.hosts if newest is not None else "") or ("" if active or start is None else start.hosts),
        run.step,
        run.total_steps,
        progress.loss if progress is not None else None,
        progress.tokens_per_second if progress is not None else None,
        checkpoint[0] if checkpoint is not None else None,
        max(0.0, now - checkpoint[1]) if checkpoint is not None else None,
        run.restarts,
        run.last_end(ended=gone or (not active and state == "ended without a word")),
        run.last_time,
    )


def _ended_state(of_run: str, ended: Job | None) -> str:
    """SLURM's word where the run folder does not know better, such as "timeout" or "node fail"."""
    if ended is None or of_run == "finished":
        return of_run
    if ended.state in _TOLD_BY_RUN and of_run in ("saved", "failed"):
        return of_run
    return ended.state.lower().replace("_", " ")


def _active_state(active: Sequence[Job]) -> str:
    """SLURM's words in lower case; of an array with several tasks at work, their number."""
    running = sum(job.state == "RUNNING" for job in active)
    if running > 1:
        return f"{running} running" + (", more pending" if active[-1].state == "PENDING" else "")
    word = active[0].state.lower().replace("_", " ")
    return f"{word} ({active[0].reason})" if active[0].reason and active[0].state != "RUNNING" else word


def _belongs(job: Job, run: RunState) -> bool:
    if not {job.job_id, job.raw_id, job.array_id}.isdisjoint(run.job_ids):
        return True
    # Submitted earlier, or not by `mlc submit`; what ended long ago says nothing of the run as it is now.
    named = job.comment.removeprefix(COMMENT_PREFIX)
    return job.active and named != job.comment and Path(named).absolute() == run.subject.absolute()


def _unknown(runs: Sequence[RunState], known: Sequence[Job]) -> list[str]:
    seen = {name for job in known for name in (job.job_id, job.raw_id, job.array_id)}
    return sorted({job for run in runs for job in run.job_ids if job not in seen and _JOB_ID.fullmatch(job)})


def _is_old(row: Row, now: float) -> bool:
    return row.state == "finished" and now - row.last_time > OLD_SECONDS


def _print(rows: Sequence[Row], hidden: int, note: str, *, wide: bool, again: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a terminal that is not UTF-8
    console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name, justify in _columns(wide).items():
        # Paths and reasons are wrapped where the terminal is too narrow; numbers never are.
        wraps = name in ("run", "state", "hosts", "last end")
        table.add_column(name, justify=justify, no_wrap=not wraps, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in _cells(row, wide)))
    if again and console.is_terminal:
        console.clear()
    console.print(table if rows else "no runs and no jobs", highlight=False)
    if again and not console.is_terminal:
        print(flush=True)
    if hidden:
        print(f"{hidden} runs that finished more than a week ago are not shown: --all", file=sys.stderr)
    if note:
        print(f"states are those of the run folders: {note}", file=sys.stderr)


def _columns(wide: bool) -> dict[str, Literal["left", "right"]]:
    columns: dict[str, Literal["left", "right"]] = {"run": "left", "state": "left", "job": "left", "nodes": "right"}
    if wide:
        columns["hosts"] = "left"
    columns |= {"step": "right", "loss": "right", "tokens/s": "right", "checkpoint": "right", "restarts": "right"}
    return {**columns, "last end": "left"}


def _cells(row: Row, wide: bool) -> list[str]:
    of_total = f"/{row.total_steps:,}" if row.total_steps is not None else ""
    saved = f"{row.checkpoint_step:,}" if row.checkpoint_step is not None else ""
    if row.checkpoint_age_seconds is not None:
        saved += f", {_age(row.checkpoint_age_seconds)} ago"
    return [
        *(row.run, row.state, row.job, row.nodes),
        *([row.hosts] if wide else []),
        f"{row.step:,}{of_total}" if row.step is not None else (f"0{of_total}" if of_total else ""),
        f"{row.loss:.4f}" if row.loss is not None else "",
        f"{row.tokens_per_second:,.0f}" if row.tokens_per_second is not None else "",
        saved,
        str(row.restarts) if row.restarts is not None else "",
        row.last_end,
    ]


def _age(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
