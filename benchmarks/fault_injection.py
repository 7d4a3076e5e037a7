"""SIGKILL of a random rank at random moments of a long run, many of them inside a save; what is left must go on.

    python benchmarks/fault_injection.py --folder runs/faults --kills 200 --in-saves 100
    python benchmarks/fault_injection.py --folder runs/faults --summary

After every kill all ranks of that start have to end by themselves within --seconds-to-end; every checkpoint in place
has to be whole; the next start has to go on after the newest of them. A finished run has to be equal to one that
nothing disturbed: all metrics but clocks, every byte of the last checkpoint's tensors. Then the next run begins.

Each rank is a process that runs `mlc train`. It is forked from one that has imported everything, so that a kill costs
seconds. To see what a kill hits, all ranks are stopped (SIGSTOP) at the chosen moment; a kill counts as inside a save
if a checkpoint lies unfinished in the working folder then. The script may be interrupted at any time: it goes on where
it was, and the kills of all invocations add up in kills.jsonl.
"""

from __future__ import annotations

import argparse
import collections
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fault_runs import (
    BEGUN,
    SECONDS_TO_GIVE_UP,
    Moment,
    Series,
    Training,
    TrainingServer,
    checkpoints,
    ended_with,
    last_step,
    parser_of,
    step_of,
    wait,
)

SECONDS_OF_A_START = 3.0
"""Kills in the first so many seconds hit anything from the first line of the program on."""
SECONDS_OF_TRAINING = 2.0
SECONDS_OF_A_SAVE = 0.04


def main(arguments: Sequence[str] | None = None) -> int:
    return Campaign(parse(arguments)).main()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--kills", type=int, default=200, help="until there are so many in kills.jsonl")
    parser.add_argument("--in-saves", type=int, default=100, help="and so many of them inside a save")
    parser.add_argument("--minutes", type=float, default=0.0, help="stop after so many; 0 = when all is done")
    parser.add_argument("--seconds-to-end", type=float, default=90.0, help="for the ranks that are left after a kill")
    return parser.parse_args(arguments)


class Campaign(Series):
    """Kills until there are enough."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options, "kill")

    def go_on(self, server: TrainingServer) -> None:
        deadline = time.monotonic() + 60 * self.options.minutes if self.options.minutes else float("inf")
        unbroken = self.unbroken(server)
        while time.monotonic() < deadline:
            finished = len(self.log.all("finished"))
            run_folder, enough = self.folder / f"run-{finished + 1:04d}", self._is_enough()
            if enough and not run_folder.exists():
                break
            self._one_start(server, run_folder, unbroken, kill=not enough)

    def _is_enough(self) -> bool:
        kills = self.log.all("kill")
        return len(kills) >= self.options.kills and sum(kill["in_save"] for kill in kills) >= self.options.in_saves

    def _one_start(self, server: TrainingServer, run_folder: Path, unbroken: Path, *, kill: bool) -> None:
        """Start a run, kill a rank of it or let it finish, and look at what is left."""
        whole = [step_of(folder) for folder in checkpoints(run_folder)]
        expected = whole[-1] if whole else None
        aim = self._aim()
        with ended_with(server.start(self.recipe, run_folder, world_size=self.options.ranks)) as training:
            started = time.monotonic()
            killed = self._wait_and_kill(training, run_folder, aim, expected or 0) if kill else None
            ending = time.monotonic()
            codes = training.wait(self.options.seconds_to_end if killed else SECONDS_TO_GIVE_UP)
            facts: dict[str, Any] = {"run": run_folder.name, "aim": aim, "codes": codes}
            if killed is not None:
                rank, moment, at = killed
                facts |= {"rank": rank, "seconds": round(at - started, 4), "in_save": moment.save is not None}
                facts |= {**vars(moment), "seconds_to_end": round(time.monotonic() - ending, 3)}
                self.log.add("kill", **facts)
                self._say(facts)
        self._check_start(run_folder, training, expected)
        if killed is None:
            self._check_end(run_folder, unbroken, training, codes)
        elif None in codes:
            self.violation(run_folder, f"ranks did not end by themselves: {codes}", training)
        self.check_whole(run_folder, training)

    def _aim(self) -> str:
        """What the next kill is to hit: a save, as long as these are fewer than asked for, in most cases."""
        kills = self.log.all("kill")
        missing = self.options.in_saves - sum(kill["in_save"] for kill in kills)
        left = max(1, self.options.kills - len(kills))
        if self.random.random() < min(1.0, max(0.0, 1.2 * missing / left)):
            return "save"
        return self.random.choice(["start", "training", "training"])

    def _wait_and_kill(
        self, training: Training, run_folder: Path, aim: str, first_step: int
    ) -> tuple[int, Moment, float] | None:
        """Stop all ranks at a moment, kill one of them, let the others go on; None = the run was over before."""
        if aim != "start":
            wait(training, lambda: BEGUN in training[0].text and last_step(run_folder) > first_step)
        self.pass_time(training, SECONDS_OF_A_START if aim == "start" else SECONDS_OF_TRAINING)
        while not training.is_over:
            if aim == "save":
                wait(training, lambda: Moment.of(run_folder).save is not None)
                self.pass_time(training, SECONDS_OF_A_SAVE)
            training.freeze()
            at, moment = time.monotonic(), Moment.of(run_folder)
            alive = [rank for rank, code in enumerate(training.codes) if code is None]
            if alive and (aim != "save" or moment.save is not None):
                rank = self.random.choice(alive)
                training[rank].send(signal.SIGKILL)
                training[rank].wait()
                training.send(signal.SIGCONT)
                return rank, moment, at
            training.send(signal.SIGCONT)
        return None

    def _check_start(self, run_folder: Path, training: Training, expected: int | None) -> None:
        """Whether it began where it had to, as far as it said so before it was killed."""
        begun = next((line for line in training[0].text.splitlines() if BEGUN in line), None)
        if begun is not None:
            wanted = "a new run" if expected is None else f"continues after step {expected},"
            self.log.add("start", run=run_folder.name, after_step=expected, as_expected=wanted in begun)
            if wanted not in begun:
                self.violation(run_folder, f"needed {wanted}, found {begun}", training)
        if "is not used, and set aside" in training.text:
            self.violation(run_folder, "a kill has left a damaged checkpoint", training)

    def _check_end(self, run_folder: Path, unbroken: Path, training: Training, codes: list[int | None]) -> None:
        if codes != [0] * self.options.ranks:
            self.log.add("lost", run=run_folder.name, codes=codes)
            self.violation(run_folder, f"it ended by itself with {codes}", training)
            return
        self.compare(run_folder, unbroken, training)

    def _say(self, facts: dict[str, Any]) -> None:
        where = f"inside the save of {facts['save']} ({facts['files']} files)" if facts["in_save"] else "outside a save"
        print(
            f"kill {len(self.log.all('kill'))}: rank {facts['rank']} after {facts['seconds']:.2f} s, step "
            f"{facts['step']}, {where}; all ended after {facts['seconds_to_end']:.2f} s",
            flush=True,
        )

    def summarise(self) -> int:
        """Print what all invocations have seen; the exit code."""
        kills, starts = self.log.all("kill"), self.log.all("start")
        in_saves = [kill for kill in kills if kill["in_save"]]
        times_to_end = sorted(kill["seconds_to_end"] for kill in kills)
        seen = {
            "kills": len(kills),
            "kills_inside_a_save": len(in_saves),
            "of_these_by_files_written": dict(sorted(collections.Counter(kill["files"] for kill in in_saves).items())),
            "of_these_with_complete_json": sum(kill["described"] for kill in in_saves),
            "kills_by_rank": dict(sorted(collections.Counter(kill["rank"] for kill in kills).items())),
            "kills_by_aim": dict(sorted(collections.Counter(kill["aim"] for kill in kills).items())),
            "median_seconds_until_all_ranks_had_ended": times_to_end[len(times_to_end) // 2] if kills else None,
            "longest_seconds_until_all_ranks_had_ended": times_to_end[-1] if kills else None,
            "starts_that_said_where_they_began": len(starts),
            "of_these_at_the_newest_checkpoint": sum(start["as_expected"] for start in starts),
        }
        return self.report(seen)


if __name__ == "__main__":
    sys.exit(main())
