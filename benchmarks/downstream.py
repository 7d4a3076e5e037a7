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

from matplotlib.figure import Figure

from mlc.evaluate.plots import save_figure

TASKS = ("sentiment", "topics", "ner", "xnli", "pawsx")
MEANS = {"macro": "mean", "zero_shot": "mean of those not trained on"}
ROOT = Path("runs/downstream")
RECIPES = Path("recipes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("run", "table"))
    parser.add_argument("--start", action="append", default=[], metavar="NAME=MODEL")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--plot", type=Path, help="SVG of the zero-shot means to write, with table")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no run after so many")
    arguments = parser.parse_args()
    if arguments.action == "table":
        for line in tables(arguments.tasks.split(",")):
            print(line)
        if arguments.plot:
            draw(arguments.tasks.split(","), arguments.plot)
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
    """A table a task: languages as rows, starts as columns."""
    for task, found in runs_of(tasks).items():
        first = next(iter(found.values()))[0]
        seeds = ", ".join(f"{start} {len(runs)}" for start, runs in found.items())
        yield f"\n### {task}: {first['score']}\n\nSeeds: {seeds}.\n"
        yield f"| language | {' | '.join(found)} |"
        yield f"|{'---|' * (1 + len(found))}"
        for row in (*MEANS, *first["languages"]):
            cells = [cell([value_of(run, row) for run in runs]) for runs in found.values()]
            yield f"| {MEANS.get(row, row)} | {' | '.join(cells)} |"


def draw(tasks: list[str], file: Path) -> None:
    """Zero-shot means as bars, with the standard deviation over seeds."""
    found = runs_of(tasks)
    starts = list(dict.fromkeys(start for of_task in found.values() for start in of_task))
    width = 0.8 / len(starts)
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for number, start in enumerate(starts):
        values = [[value_of(run, "zero_shot") for run in of_task[start]] for of_task in found.values()]
        places = [place + (number - (len(starts) - 1) / 2) * width for place in range(len(found))]
        deviations = [statistics.stdev(runs) if len(runs) > 1 else 0 for runs in values]
        axes.bar(places, [statistics.mean(runs) for runs in values], width * 0.92, yerr=deviations, label=start)
    axes.set_xticks(range(len(found)), [f"{task}\n{first_score(of_task)}" for task, of_task in found.items()])
    axes.set_title("Mean over languages that were not trained on", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    save_figure(figure, file)


def runs_of(tasks: list[str]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """{task: {start: results of its seeds}}, of what is there."""
    starts = sorted(path.name for path in ROOT.iterdir() if path.is_dir())
    found = {task: {start: runs for start in starts if (runs := results(start, task))} for task in tasks}
    return {task: of_task for task, of_task in found.items() if of_task}


def first_score(of_task: dict[str, list[dict[str, Any]]]) -> str:
    return str(next(iter(of_task.values()))[0]["score"])


def results(start: str, task: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((ROOT / start / task).glob("seed-*/test.json"))]


def value_of(run: dict[str, Any], row: str) -> float:
    return float((run if row in MEANS else run["languages"])[row]["value"])


def cell(values: list[float]) -> str:
    mean = statistics.mean(values)
    return f"{mean:.3f}" if len(values) == 1 else f"{mean:.3f} ± {statistics.stdev(values):.3f}"


if __name__ == "__main__":
    main()
