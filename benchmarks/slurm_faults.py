"""What can happen to a job on a SLURM cluster: does the run come back, how soon, and what is lost.

    python benchmarks/slurm_faults.py --folder /tmp/slurm-faults                # all of it, about an hour on two cores
    python benchmarks/slurm_faults.py --folder /tmp/slurm-faults --only preempted node_power_off
    python benchmarks/slurm_faults.py --folder /tmp/slurm-faults --list

A cluster of 4 real slurmd of 2 CPUs each is made on this machine (tests/slurm/slurm_cluster.py: root and Debian's SLURM
packages are needed), with a small disk of its own for the runs. Every case is a run that `mlc submit` starts, one
thing that happens to it, and what must come of it: the job comes back by itself and completes; with 8 ranks again all
metrics and the final weights are those of the undisturbed run, bit for bit; with 6 ranks nearly the same losses; no
more steps are taken again than lie between two checkpoints.

Prints a row of Markdown for each case as soon as it is done and appends it to FOLDER/results.jsonl; cases that are in
there are not run again. Exit code 1 if a case fails.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "slurm"))

from slurm_cluster import SlurmCluster
from slurm_faults_cases import CASES, Case
from slurm_runs import EVERY_STEPS, SlurmRun, SlurmRuns

from mlc.engine.compare import compare_runs

DISK_MEGABYTES = 400
CHECKPOINTS = {"every_steps": EVERY_STEPS, "keep_last": 2, "on_failure": "continue", "min_free_gib": 0.0}
"""A disk has to be full before a save fails."""
STEP = re.compile(r"^ *0: step \d", re.MULTILINE)
LOSS_TOLERANCE = 2e-2
"""bf16 on another number of ranks: sums in another order, over some forty updates."""


@dataclass(frozen=True)
class Row:
    """What came of a case.

    Attributes:
        hit: what was going on at that moment: "step" or "save".
        seconds_to_first_step: from the fault to the first new step that was logged; None where the job did not have to
            come back.
        steps_lost: that were logged and had to be taken again.
        ranks: of each start.
        problem: empty where everything was as it must be.
    """

    case: str
    hit: str
    seconds_to_first_step: float | None
    steps_lost: int
    ranks: list[int]
    end: str
    problem: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for everything that is written")
    parser.add_argument("--only", nargs="+", choices=[case.name for case in CASES], help="these cases")
    parser.add_argument("--list", action="store_true", help="what cases there are")
    parser.add_argument("--minutes", type=float, default=0.0, help="begin no case after so many; 0 = no limit")
    options = parser.parse_args(arguments)
    if options.list:
        print("\n".join(f"{case.name:28} {case.what}" for case in CASES))
        return 0
    wanted = [case for case in CASES if options.only is None or case.name in options.only]
    bench = Bench(options.folder.resolve())
    return bench.run(wanted, 60 * options.minutes)


class Bench:
    """A cluster, a disk, an undisturbed run, and one run after the other."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._results = folder, folder / "results.jsonl"

    def run(self, cases: list[Case], limit_seconds: float) -> int:
        """All cases that have no row yet; exit code."""
        started = time.monotonic()
        disk = self._folder / "disk"
        disk.mkdir(parents=True, exist_ok=True)
        # Mounted before the hosts are there, so that all of them see it.
        if not disk.is_mount():
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={DISK_MEGABYTES}m", "tmpfs", str(disk)], check=True, timeout=10
            )
        done = {row.case: row for row in self._rows()}
        print("| case | hit in a | starts (ranks) | from fault to first new step, s | steps taken again | end |")
        print("|---|---|---|---:|---:|---|")
        try:
            with SlurmCluster(self._folder / "c", name="faults", subnet="10.76.0") as cluster:
                runs = SlurmRuns(cluster, disk)
                undisturbed = disk / "undisturbed"
                if not (undisturbed / "exit.json").exists():
                    runs.torchrun("undisturbed", 8, checkpoint=CHECKPOINTS)
                for case in cases:
                    if case.name not in done and not 0 < limit_seconds < time.monotonic() - started:
                        done[case.name] = self._row(case, runs, undisturbed)
                        self._write(done[case.name])
                    if case.name in done:
                        show(done[case.name])
        finally:
            subprocess.run(["umount", str(disk)], check=False, timeout=10)
        return int(any(row.problem for row in done.values()))

    def _row(self, case: Case, runs: SlurmRuns, undisturbed: Path) -> Row:
        cluster = runs.cluster
        cluster.settle()
        run = runs.submit(
            case.name.replace("_", "-"),
            *case.options,
            site=runs.site(**case.site),
            checkpoint=CHECKPOINTS,
        )
        hit, lost, seconds = "step", 0, None
        problem = ""
        try:
            run.wait_for_step(case.at_step)
            if case.in_save:
                hit = "save" if wait_for_save(run) else "step"
            before, starts = run.step(), len(run.events("start"))
            struck = time.monotonic()
            case.strike(cluster, run)
            if case.comes_back:
                wait_for_new_step(run, starts)
                seconds = round(time.monotonic() - struck, 1)
                lost = max(0, before - int(run.events("start")[starts]["step"]))
            case.afterwards(cluster, run)
            run.wait_for_end()
            problem = self._problem(run, undisturbed, lost)
        except Exception as error:  # a case that fails is a row, and the others go on
            problem = f"{type(error).__name__}: {error}"
        ranks = [int(start["ranks"]) for start in run.events("start")]
        return Row(case.name, hit, seconds, lost, ranks, _end(run), problem)

    def _problem(self, run: SlurmRun, undisturbed: Path, lost: int) -> str:
        if lost > EVERY_STEPS:
            return f"{lost} steps were lost"
        if {int(start["ranks"]) for start in run.events("start")} == {8}:
            return compare_runs(run.folder, undisturbed).difference or ""
        return losses_differ(run.folder, undisturbed)

    def _rows(self) -> list[Row]:
        lines = self._results.read_text().splitlines() if self._results.exists() else []
        return [Row(**json.loads(line)) for line in lines]

    def _write(self, row: Row) -> None:
        with self._results.open("a") as file:
            file.write(json.dumps(asdict(row)) + "\n")


def wait_for_save(run: SlurmRun, seconds: float = 120.0) -> bool:
    """Until a checkpoint lies unfinished in the run's working folder; False where none was seen in time."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if any(run.folder.glob("attempts/attempt-*/step-*")):
            return True
        time.sleep(0.002)
    return False


def wait_for_new_step(run: SlurmRun, starts: int) -> None:
    """Until a start behind the first `starts` ones has logged a step: each has a log of its own."""

    def there() -> bool:
        return any(STEP.search(run.log_of(start)) for start in run.events("start")[starts:])

    run.wait(there, "the first new step")


def losses_differ(folder: Path, undisturbed: Path) -> str:
    """What differs where the numbers of ranks do; the samples of a step are a matter of the step alone."""
    lines = [
        [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        for path in (folder, undisturbed)
    ]
    if [line["step"] for line in lines[0]] != [line["step"] for line in lines[1]]:
        return "other steps were logged"
    for one, other in zip(*lines, strict=True):
        if one["samples"] != other["samples"] or abs(one["loss"] - other["loss"]) > LOSS_TOLERANCE * abs(other["loss"]):
            return f"step {one['step']}: loss {one['loss']} against {other['loss']}"
    return ""


def _end(run: SlurmRun) -> str:
    return f"{run.state()}, step {run.step()}"


def show(row: Row) -> None:
    """One row of the table."""
    seconds = "" if row.seconds_to_first_step is None else f"{row.seconds_to_first_step:.0f}"
    end = row.problem.replace("\n", " ")[:200] or row.end
    print(
        f"| {row.case} | {row.hit} | {', '.join(map(str, row.ranks))} | {seconds} | {row.steps_lost} | {end} |",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
