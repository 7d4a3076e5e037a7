"""`mlc logs`: what the ranks of a run said, start by start.

In:  a run folder with `logs/` and, for `--batch`, the batch script's own log.
Out: labelled lines on standard output, notes on standard error.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from launchers.log_files import GrowingFile, Reader, StartLog, read_tail, start_logs
from launchers.log_lines import Folder, Line, LineCutter, Said, format_ranks, parse_line, parse_ranks, printable
from launchers.run_files import folder_of_jobs, submission_folders
from launchers.run_state import RunState, read_run
from launchers.slurm import Job, SlurmError, jobs_by_id
from mlc.errors import UsageError

POLL_SECONDS = 0.2
LOOK_SECONDS = 1.0
"""How often --follow looks for a newer start and for the run's end."""
SETTLE_SECONDS, MOST_SETTLE_SECONDS = 1.0, 10.0
"""A run that has ended is followed until its log is quiet: training says that it ended before its ranks have."""
ASK_SECONDS = 15.0
"""How often --follow asks SLURM whether the job is still there."""
_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)


def logs(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    rank: Annotated[
        list[str] | None, typer.Option("--rank", metavar="RANKS", help="Only these, such as 0,3-5; repeatable.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as lines are written, until the run ends.")
    ] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="So many last lines of each start shown.")] = 100,
    start: Annotated[
        str | None, typer.Option("--start", metavar="N|all", help="A start by its number from 1, or all; the newest.")
    ] = None,
    batch: Annotated[bool, typer.Option("--batch", help="Also what the batch script itself said.")] = False,
) -> None:
    """Show what the ranks of a run said, with their numbers; what several say in a row is shown once.

    --follow goes on with the next start when the job comes back, and ends when the run has finished or its job is gone.
    """
    ranks = parse_ranks(rank or ())
    if not run.is_dir():
        raise UsageError("no such run folder", found=str(run), hint="mlc jobs")
    run = folder_of_jobs(run)
    found = start_logs(run)
    chosen = _chosen(found, start)
    if not found and not follow and not batch:
        raise UsageError(
            "no start of this run has written a log yet", where=str(run / "logs"), hint=f"mlc jobs {run}, or --follow"
        )
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a terminal that is not UTF-8
    printer = _Printer(ranks)
    if batch:
        printer.batch_log(_batch_log(run), lines, follow=follow)
    for number in chosen:
        printer.start_log(found[number], number + 1, lines, follow=follow)
    if follow:
        _follow(run, printer, known={log.path for log in found}, stays=start is not None and start != "all")
    sys.stdout.flush()


class _Printer:
    """Prints folded lines, and keeps the files that are followed."""

    def __init__(self, ranks: frozenset[int] | None) -> None:
        self._ranks = ranks
        self._colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        self.current: _Followed | None = None
        self.batch: _Followed | None = None

    def batch_log(self, path: Path | None, lines: int, *, follow: bool) -> None:
        """The last lines of a batch script's log."""
        if path is None:
            return
        tail = read_tail(path, lines, _batch_line)
        self._head(f"== batch script, {path}")
        self.show(tail.said, label="batch")
        if follow:
            self.batch = _Followed(GrowingFile(path, tail.end_bytes))
        elif tail.begun:
            self.show([Said((), printable(tail.begun.decode("utf-8", errors="replace")))], label="batch")

    def start_log(self, log: StartLog, number: int, lines: int, *, follow: bool) -> None:
        """A start's header and its last lines."""
        tail = read_tail(log.path, lines, self.reader)
        self._head(log.header(number))
        self.show(tail.said)
        begun = None if follow or not tail.begun or not lines else self.reader(tail.begun)
        if begun is not None:
            self.show([_as_said(begun)])
        if follow:
            self.current = _Followed(GrowingFile(log.path, tail.end_bytes))

    def next_start(self, log: StartLog, number: int) -> None:
        """Go over to the log of a newer start, from its beginning."""
        self.close()
        self._head(log.header(number))
        self.current = _Followed(GrowingFile(log.path))

    def reader(self, raw: bytes) -> Line | None:
        """A line of a rank that is asked for."""
        line = parse_line(raw)
        return line if self._ranks is None or line.rank in self._ranks else None

    def catch_up(self) -> bool:
        """Print what was appended to the files that are followed; false if there was nothing."""
        of_batch = self.batch.read(_batch_line) if self.batch is not None else []
        of_ranks = self.current.read(self.reader) if self.current is not None else []
        self.show(of_batch, label="batch")
        self.show(of_ranks)
        sys.stdout.flush()
        return bool(of_batch or of_ranks)

    def close(self) -> None:
        """Print what is left of the start that is followed, a last line without its end too."""
        if self.current is not None:
            self.show(self.current.read(self.reader))
            self.show(self.current.rest(self.reader))
            sys.stdout.flush()
        self.current = None

    def show(self, said: Iterable[Said], label: str = "no rank") -> None:
        """Print folded lines; `label` is for those without a rank."""
        for one in said:
            name = label if not one.ranks else f"rank{'s' if len(one.ranks) > 1 else ''} {format_ranks(one.ranks)}"
            if self._colour:
                colour = _COLOURS[min(one.ranks) % len(_COLOURS)] if len(one.ranks) == 1 else 1
                name = f"\x1b[{colour}m{name}\x1b[0m"
            sys.stdout.write(f"{name} | {one.text}\n")

    def _head(self, text: str) -> None:
        text = printable(text)
        sys.stdout.write(f"\x1b[1m{text}\x1b[0m\n" if self._colour else f"{text}\n")


class _Followed:
    """A file that is followed, line by line."""

    def __init__(self, file: GrowingFile) -> None:
        self._file = file
        self._cutter, self._folder = LineCutter(), Folder()

    def read(self, reader: Reader) -> list[Said]:
        """All that was appended since the last time."""
        said = []
        while block := self._file.read():
            if self._file.is_new:  # the line that had begun will not go on
                said += self.rest(reader)
            said += self._feed(self._cutter.feed(block), reader)
        # Nothing more at the moment: other ranks that say the same later are shown later.
        return [one for one in (*said, self._folder.flush()) if one is not None]

    def rest(self, reader: Reader) -> list[Said]:
        """The line that was begun, as far as it came."""
        begun = self._cutter.flush()
        said = self._feed([begun] if begun else [], reader)
        return [one for one in (*said, self._folder.flush()) if one is not None]

    def _feed(self, lines: list[bytes], reader: Reader) -> list[Said]:
        read = [line for line in map(reader, lines) if line is not None]
        return [said for said in map(self._folder.feed, read) if said is not None]


def _follow(run: Path, printer: _Printer, known: set[Path], *, stays: bool) -> None:
    """Print what is appended until the run has ended. `stays`: one start was asked for, so no newer one is shown."""
    slurm = _SlurmWatch()
    if printer.current is None:
        _note("no start has written a log yet; waiting")
    next_look = 0.0
    while True:
        ending = None
        if time.monotonic() >= next_look:
            next_look = time.monotonic() + LOOK_SECONDS
            state = read_run(run)
            ending = _ending(state, slurm.jobs_of(state))
            for number, log in enumerate(start_logs(run)):
                if log.path not in known and not stays:
                    printer.next_start(log, number + 1)
                known.add(log.path)
        printer.catch_up()
        if ending is not None:
            break
        time.sleep(POLL_SECONDS)
    quiet_since = began = time.monotonic()
    while time.monotonic() < min(quiet_since + SETTLE_SECONDS, began + MOST_SETTLE_SECONDS):
        time.sleep(POLL_SECONDS)
        quiet_since = time.monotonic() if printer.catch_up() else quiet_since
    printer.close()
    _note(ending)


def _ending(run: RunState, jobs: list[Job] | None) -> str | None:
    """How a run ended, or None while it goes on or may come back. `jobs`: None where SLURM has not answered."""
    if run.exit is not None and run.exit.code == 0:
        return f"the run has finished: {run.last_end()}"
    last = run.events[-1] if run.events else None
    if last is not None and last.kind == "end" and last.next in ("done", "stop") and "_" not in last.job:
        return f"job {last.job} has ended and does not come back: {run.last_end()}"
    if jobs is not None and run.job_ids and not any(job.active for job in jobs):
        word = f" ({jobs[-1].state})" if jobs else ""
        why = run.last_end(ended=True)
        return f"job {', '.join(run.job_ids)} is gone{word}" + (f": {why}" if why else "")
    return None


class _SlurmWatch:
    """Asks SLURM about jobs now and then, in a thread: lines go on while the controller does not answer."""

    def __init__(self) -> None:
        self._answers: queue.SimpleQueue[tuple[tuple[str, ...], list[Job] | None, str]] = queue.SimpleQueue()
        self._next_ask = 0.0
        self._asking = False
        self._told = ""

    def jobs_of(self, run: RunState) -> list[Job] | None:
        """What SLURM has answered about the run's jobs since the last call; None if nothing."""
        if not self._answers.empty():
            ids, jobs, problem = self._answers.get()
            self._asking = False
            self._next_ask = time.monotonic() + ASK_SECONDS
            if problem and problem != self._told:
                self._told = problem
                _note(f"whether the job is still there is not known: {problem}")
            return jobs if ids == run.job_ids else None
        if not self._asking and run.job_ids and time.monotonic() >= self._next_ask:
            self._asking = True
            threading.Thread(target=self._ask, args=(run.job_ids,), daemon=True).start()
        return None

    def _ask(self, ids: tuple[str, ...]) -> None:
        try:
            self._answers.put((ids, jobs_by_id(ids), ""))
        except SlurmError as error:
            self._answers.put((ids, None, f"{error.problem}: {error.found}"))


def _chosen(found: list[StartLog], start: str | None) -> list[int]:
    """Indexes of the starts to show."""
    if start is None:
        return [len(found) - 1] if found else []
    if start == "all":
        return list(range(len(found)))
    if not start.isdecimal() or not 1 <= int(start) <= len(found):
        needed = f"a number from 1 to {len(found)}, or all" if found else "a start that has written a log"
        raise UsageError("no such start", found=start, needed=needed, where="--start")
    return [int(start) - 1]


def _batch_log(run: Path) -> Path | None:
    """Of the newest submission; it may not be written yet."""
    return next((submitted / "batch.log" for submitted in reversed(submission_folders(run))), None)


def _batch_line(raw: bytes) -> Line:
    return Line(None, printable(raw.decode("utf-8", errors="replace")))


def _as_said(line: Line) -> Said:
    return Said(() if line.rank is None else (line.rank,), line.text)


def _note(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)
