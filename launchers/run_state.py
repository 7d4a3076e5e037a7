"""What a run folder says of its run, without SLURM and without reading more than the ends of large files.

In:  folders.
Out: run folders in them, and a `RunState` of each: progress, newest checkpoint, submission, starts and how they ended.

Files are read while others write them: what is missing, torn or no JSON counts as not there.
"""

from __future__ import annotations

import os
import socket
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from launchers.run_files import (
    BESIDE,
    as_number,
    as_seconds,
    as_text,
    as_whole,
    first_line,
    last_objects,
    number_in,
    numbered,
    parse_object,
    read_object,
    submission_folders,
)
from mlc.errors import EXIT_FAILED, EXIT_SAVED
from mlc.run_names import EXIT_NAME, METRICS_NAME, OWNER_NAME, RECIPE_NAME

RECENT_SECONDS = 600.0
"""A run that has written so recently counts as running, where no process and no job can be asked."""
CLOCK_SLACK_SECONDS = 5.0
"""Times come from the clocks of nodes and of the file server."""


@dataclass(frozen=True)
class Submission:
    """One `RUN/slurm/submit-*/submit.json`: what was asked for, and the jobs that came of it."""

    folder: Path
    kind: str
    job_ids: tuple[str, ...]
    nodes: str
    time: float


@dataclass(frozen=True)
class Event:
    """A line of events.jsonl.

    Attributes:
        time: in seconds since 1970.
        kind: "start", "end" or "bad node".
        job: as in names of logs: "123", or an array task, "123_4".
        restart: of the job, from 0.
        nodes, code, step: None where they do not belong to the kind.
        next: after an end: "done", "requeue" or "stop".
    """

    time: float
    kind: str
    job: str
    restart: int
    nodes: int | None
    hosts: str
    code: int | None
    step: int | None
    reason: str
    next: str


@dataclass(frozen=True)
class Exit:
    """exit.json: how training says it ended; `time` in seconds since 1970."""

    code: int
    reason: str
    step: int | None
    time: float


@dataclass(frozen=True)
class Owner:
    """owner.json: the newest start that trains. `started` in seconds since 1970; `job` is "" outside SLURM."""

    host: str
    pid: int
    job: str
    generation: int
    started: float


@dataclass(frozen=True)
class Progress:
    """The last whole line of metrics.jsonl. `interval_seconds`: since the line before; 0 where there is none."""

    step: int
    loss: float | None
    tokens_per_second: float | None
    time: float
    interval_seconds: float


@dataclass(frozen=True)
class RunState:
    """A run folder at one time.

    Attributes:
        submission: the newest one.
        events: of that submission, in order.
        exit: None where it is of a start before the newest one.
        checkpoint: step of the newest complete checkpoint, and when it was complete (seconds since 1970).
    """

    folder: Path
    submission: Submission | None
    events: tuple[Event, ...]
    exit: Exit | None
    owner: Owner | None
    progress: Progress | None
    total_steps: int | None
    checkpoint: tuple[int, float] | None

    @property
    def subject(self) -> Path:
        """What the run makes: its own folder, or shards."""
        return self.folder.with_name(self.folder.name.removesuffix(BESIDE)) if self.folder.name else self.folder

    @property
    def job_ids(self) -> tuple[str, ...]:
        """Of the newest submission; of a run submitted by hand, that of its newest start."""
        if self.submission is not None:
            return self.submission.job_ids
        return (self.owner.job,) if self.owner is not None and self.owner.job else ()

    @property
    def starts(self) -> list[Event]:
        """Starts of the newest submission's jobs."""
        return [event for event in self.events if event.kind == "start"]

    @property
    def restarts(self) -> int:
        """How often the newest submission started again; of a run without one, how often the run did."""
        if self.submission is None:
            return max(0, self.owner.generation - 1) if self.owner is not None else 0
        # A node can die before its start is written down.
        return max([len(self.starts) - 1, 0, *(event.restart for event in self.events)])

    @property
    def step(self) -> int | None:
        """Newest step known."""
        steps = [self.progress.step] if self.progress is not None else []
        if not steps:
            steps += [self.checkpoint[0]] if self.checkpoint is not None else []
            steps += [self.exit.step] if self.exit is not None and self.exit.step is not None else []
        return max(steps, default=None)

    @property
    def last_time(self) -> float:
        """When the run was last heard of, in seconds since 1970; 0 if never."""
        times = [part.time for part in (self.submission, self.exit, self.progress) if part is not None]
        times += [event.time for event in self.events[-1:]] + [self.owner.started if self.owner is not None else 0.0]
        return max(times)

    def last_end(self, *, ended: bool = False) -> str:
        """Why the run last ended, in one line; "" if it never did, as far as is known.

        Args:
            ended: it is known that nothing of the run is alive, so a newest start without an end has ended too.
        """
        ends = [event for event in self.events if event.kind in ("end", "bad node")]
        end, lost = (ends[-1] if ends else None), self._lost_start(ended)
        ending = self.exit
        if ending is not None and (end is None or ending.code not in (0, EXIT_SAVED) or ending.time > end.time):
            return first_line(ending.reason)
        if lost is not None and (end is None or lost.time > end.time):
            where = f" on {lost.hosts}" if lost.hosts else ""
            return f"start {self.starts.index(lost) + 1}{where} ended without a word"
        if end is None:
            return ""
        bad = f"bad node {end.hosts}: " if end.kind == "bad node" else ""
        return bad + first_line(end.reason or f"code {end.code}")

    def state(self, now: float, *, job_is_gone: bool = False) -> str:
        """One of: finished, saved, failed, running since ..., submitted, not started, ended without a word.

        Args:
            now: seconds since 1970.
            job_is_gone: SLURM says that no job of the run waits or runs.
        """
        code = self.exit.code if self.exit is not None else self._end_code()
        if code is not None:
            return {0: "finished", EXIT_SAVED: "saved"}.get(code, "failed")
        started = max(self.starts[-1].time if self.starts else 0.0, self.owner.started if self.owner else 0.0)
        if self.submission is not None and started + CLOCK_SLACK_SECONDS < self.submission.time:
            return "ended without a word" if job_is_gone else "submitted"
        if not started and self.progress is None:
            return "not started"
        if not job_is_gone and self._seems_alive(now, started):
            return f"running since {datetime.fromtimestamp(started, UTC):%m-%d %H:%M}" if started else "running"
        return "ended without a word"

    def _seems_alive(self, now: float, started: float) -> bool:
        owner, progress = self.owner, self.progress
        if owner is not None and owner.host == socket.gethostname() and owner.started + CLOCK_SLACK_SECONDS >= started:
            return _is_alive(owner.pid)
        quiet = now - max(started, progress.time if progress is not None else 0.0)
        return quiet < max(RECENT_SECONDS, 3 * progress.interval_seconds if progress is not None else 0.0)

    @property
    def _tasks_are_parallel(self) -> bool:
        """Tasks of an array then say nothing of one another; otherwise each continues the one before."""
        return self.submission is not None and self.submission.kind == "prep"

    def _end_code(self) -> int | None:
        """Code of the newest start's end, as the batch script has it; of parallel tasks the highest."""
        last_of_jobs = {event.job: event for event in self.events if event.kind in ("start", "end")}
        newest = list(last_of_jobs.values()) if self._tasks_are_parallel else self.events[-1:]
        if not newest or any(event.kind != "end" for event in newest):
            return None
        # Whatever began after the end is another start: a later submission, or one by hand.
        since = max(self.submission.time if self.submission else 0.0, self.owner.started if self.owner else 0.0)
        if max(event.time for event in newest) + CLOCK_SLACK_SECONDS < since:
            return None
        return max((EXIT_FAILED if event.code is None else event.code for event in newest), default=None)

    def _lost_start(self, ended: bool) -> Event | None:
        """The newest start without an end that another one followed, or that is known to have ended."""
        starts, ends = self.starts, {(event.job, event.restart) for event in self.events if event.kind == "end"}
        for number in range(len(starts) - 1, -1, -1):
            start = starts[number]
            later = [other for other in starts[number + 1 :] if other.job == start.job or not self._tasks_are_parallel]
            if (later or ended) and (start.job, start.restart) not in ends:
                return start
        return None


def read_run(folder: Path) -> RunState:
    """Whatever a run folder holds."""
    submission, events = _newest_submission(folder)
    ending = _read_exit(folder / EXIT_NAME)
    since = max([event.time for event in events if event.kind == "start"] + [submission.time if submission else 0.0])
    if ending is not None and ending.time + CLOCK_SLACK_SECONDS < since:
        ending = None
    return RunState(
        folder,
        submission,
        events,
        ending,
        _read_owner(folder / OWNER_NAME),
        _read_progress(folder / METRICS_NAME),
        _total_steps([folder / RECIPE_NAME, *([submission.folder / RECIPE_NAME] if submission else [])]),
        _newest_checkpoint(folder / "checkpoints"),
    )


def read_events(submission: Path) -> tuple[Event, ...]:
    """Lines of a submission's events.jsonl; what is torn or unknown is left out."""
    try:
        lines = (submission / "events.jsonl").read_bytes().split(b"\n")
    except OSError:
        return ()
    return tuple(event for event in map(_event, lines) if event is not None)


def _newest_submission(folder: Path) -> tuple[Submission | None, tuple[Event, ...]]:
    for submitted in reversed(submission_folders(folder)):
        content = read_object(submitted / "submit.json")
        if content is not None:
            ids = content.get("job_ids")
            job_ids = tuple(str(job) for job in ids) if isinstance(ids, list) else ()
            time = as_seconds(content.get("submitted")) or 0.0
            kind, nodes = as_text(content.get("kind")), as_text(content.get("nodes"))
            return Submission(submitted, kind, job_ids, nodes, time), read_events(submitted)
    return None, ()


def _event(line: bytes) -> Event | None:
    content = parse_object(line)
    if content is None or (time := as_seconds(content.get("time"))) is None:
        return None
    texts = [as_text(content.get(key)) for key in ("event", "job", "hosts", "reason", "next")]
    nodes, code, step = (as_whole(content.get(key)) for key in ("nodes", "code", "step"))
    kind, job, hosts, reason, following = texts
    return Event(time, kind, job, as_whole(content.get("restart")) or 0, nodes, hosts, code, step, reason, following)


def _read_exit(path: Path) -> Exit | None:
    content = read_object(path)
    if content is None or (code := as_whole(content.get("code"))) is None:
        return None
    try:
        return Exit(code, as_text(content.get("reason")), as_whole(content.get("step")), path.stat().st_mtime)
    except OSError:
        return None


def _read_owner(path: Path) -> Owner | None:
    content = read_object(path)
    if content is None:
        return None
    host, job = as_text(content.get("host")), as_text(content.get("job"))
    pid, generation = as_whole(content.get("pid")), as_whole(content.get("generation"))
    return Owner(host, pid or 0, job, generation or 1, as_seconds(content.get("started")) or 0.0)


def _read_progress(path: Path) -> Progress | None:
    lines = [line for line in last_objects(path, 2) if as_whole(line.get("step")) is not None]
    if not lines:
        return None
    last, times = lines[-1], [as_number(line.get("time")) or 0.0 for line in lines]
    interval = max(0.0, times[-1] - times[0])
    loss, speed = as_number(last.get("loss")), as_number(last.get("tokens_per_second"))
    return Progress(last["step"], loss, speed, times[-1], interval)


def _newest_checkpoint(folder: Path) -> tuple[int, float] | None:
    for checkpoint in reversed(numbered(folder, "step-")):
        try:
            return number_in(checkpoint.name), (checkpoint / "complete.json").stat().st_mtime
        except OSError:
            continue
    return None


def _total_steps(recipes: list[Path]) -> int | None:
    """From the newest of the recipes: a submission waits with a longer schedule, or a later start had one."""
    dated = []
    for path in recipes:
        try:
            schedule = tomllib.loads(path.read_text(encoding="utf-8")).get("schedule")
            dated.append((path.stat().st_mtime, schedule))
        except (OSError, ValueError):
            continue
    newest = max(dated, key=lambda entry: entry[0], default=(0.0, None))[1]
    return as_whole(newest.get("total_steps")) if isinstance(newest, dict) else None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:  # of another user
        return True
    except (OSError, OverflowError):
        return False
    return pid > 0
