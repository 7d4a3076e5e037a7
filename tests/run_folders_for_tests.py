"""Run folders as training and batch scripts write them, without either."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

LISTEN_TO_CONTROL_C = (shutil.which("env") or "env", "--default-signal=INT")
"""Before a command: a runner that was started in the background ignores SIGINT, and hands that on to its children."""


def iso(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def write_submission(
    run: Path, number: int, *, time: float, job_ids: Sequence[str] = ("123",), kind: str = "train", nodes: str = "2-4"
) -> Path:
    folder = run / "slurm" / f"submit-{number:05d}"
    folder.mkdir(parents=True)
    content = {"kind": kind, "job_ids": list(job_ids), "submitted": iso(time), "nodes": nodes, "ranks_per_node": 2}
    (folder / "submit.json").write_text(json.dumps(content))
    (folder / "recipe.toml").write_text("[schedule]\ntotal_steps = 400\n")
    return folder


def write_event(submission: Path, event: str, *, time: float, job: str = "123", restart: int = 0, **more: Any) -> None:
    line = {"time": iso(time), "event": event, "job": job, "restart": restart, **more}
    with (submission / "events.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def write_metrics(run: Path, lines: Sequence[Mapping[str, object]], torn: str = "") -> None:
    run.mkdir(parents=True, exist_ok=True)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + torn)


def metrics_line(step: int, time: float) -> dict[str, object]:
    return {"step": step, "loss": 8.0 - step / 100, "tokens_per_second": 1000.0 + step, "time": time}


def write_checkpoint_folder(run: Path, step: int, *, time: float, complete: bool = True) -> None:
    folder = run / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    if complete:
        write_at(folder / "complete.json", {}, time=time)


def write_exit(run: Path, code: int, reason: str, step: int | None, *, time: float) -> None:
    run.mkdir(parents=True, exist_ok=True)
    write_at(run / "exit.json", {"code": code, "reason": reason, "step": step}, time=time)


def write_owner(run: Path, *, time: float, host: str = "n1", pid: int = 17, generation: int = 1, **more: Any) -> None:
    run.mkdir(parents=True, exist_ok=True)
    content = {"host": host, "pid": pid, "generation": generation, "started": iso(time), **more}
    write_at(run / "owner.json", content, time=time)


def write_at(path: Path, content: Mapping[str, object], *, time: float) -> None:
    """A file that was last changed at `time`."""
    path.write_text(json.dumps(content))
    os.utime(path, (time, time))
