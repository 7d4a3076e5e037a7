"""What a pre-trained model is good for: tasks fine-tuned on English, scored in many languages, from several starts.

    python benchmarks/downstream.py run --seeds 1,2,3 --jobs 2 \
        --start joint=runs/results/joint --start tokens=runs/results/tokens \
        --start scratch=runs/results/untrained/checkpoints/step-00000000

Each run is one `mlc finetune` of recipes/finetune_<task>.toml with another model.start, run.seed and run.folder. Runs
that are done are not repeated, and one that was stopped goes on, so the command can be typed again. So many as --jobs
says run side by side. The tables have the mean over seeds and the sample standard deviation, by language, of the score
that the recipe names.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

TASKS = ("sentiment", "topics", "ner", "xnli", "pawsx")
ROOT = Path("runs/downstream")
RECIPES = Path("recipes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("run", "table"))
    parser.add_argument("--start", action="append", default=[], metavar="NAME=MODEL")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no run after so many")
    arguments = parser.parse_args()
    if arguments.action == "table":
        for line in tables(arguments.tasks.split(",")):
            print(line)
        return
    starts = dict(start.split("=", 1) for start in arguments.start)
    deadline = time.monotonic() + 60 * arguments.minutes
    runs = [
        (name, model, task, int(seed))
        for seed in arguments.seeds.split(",")
        for task in arguments.tasks.split(",")
        for name, model in starts.items()
    ]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        codes = list(pool.map(lambda run: fine_tune(*run, deadline), runs))
    sys.exit(1 if any(codes) else 0)


def fine_tune(name: str, model: str, task: str, seed: int, deadline: float) -> int:
    """The exit code; 0 without a run where its result is there already or the deadline has passed."""
    folder = ROOT / name / task / f"seed-{seed}"
    if (folder / "test.json").is_file() or time.monotonic() > deadline:
        return 0
    started = time.monotonic()
    settings = (f"model.start={model}", f"run.seed={seed}", f"run.folder={folder}")
    command = [sys.executable, "-m", "mlc", "finetune", str(RECIPES / f"finetune_{task}.toml")]
    for setting in settings:
        command += ["--set", setting]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"seed-{seed}.log").open("a") as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    print(f"{folder}: exit code {code} after {time.monotonic() - started:.0f} s", flush=True)
    return code


def tables(tasks: list[str]) -> Iterator[str]:
    starts = sorted(path.name for path in ROOT.iterdir() if path.is_dir())
    for task in tasks:
        found = {start: results(start, task) for start in starts}
        found = {start: runs for start, runs in found.items() if runs}
        if not found:
            continue
        first = next(iter(found.values()))[0]
        columns = ["macro", "zero-shot", *first["languages"]]
        yield f"\n### {task}: {first['score']}\n"
        yield "| start | seeds | " + " | ".join(columns) + " |"
        yield "|---|---|" + "---|" * len(columns)
        for start, runs in found.items():
            cells = [cell([value_of(run, column) for run in runs]) for column in columns]
            yield f"| {start} | {len(runs)} | " + " | ".join(cells) + " |"


def results(start: str, task: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((ROOT / start / task).glob("seed-*/test.json"))]


def value_of(run: dict[str, Any], column: str) -> float:
    if column == "macro":
        return float(run["macro"]["value"])
    if column == "zero-shot":
        return float(run["zero_shot"]["value"])
    return float(run["languages"][column]["value"])


def cell(values: list[float]) -> str:
    mean = statistics.mean(values)
    return f"{mean:.3f}" if len(values) == 1 else f"{mean:.3f} ± {statistics.stdev(values):.3f}"


if __name__ == "__main__":
    main()
