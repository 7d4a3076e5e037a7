"""Two copies of one run, again and again: a newer one takes over, the older one is cut off or alive, and goes on.

    python benchmarks/two_owners.py --folder runs/owners --rounds 50
    python benchmarks/two_owners.py --folder runs/owners --summary

A round: the copy that owns the run is stopped (SIGSTOP) at a random moment, half of the times inside a save; or it is
left alone. A second copy is started. The first goes on at a random moment, before the second takes over or long after.
It has to end by itself with exit code 1 and say why; what it had in hand must not be put in place, and nothing of the
run may be damaged. The second one is then the first of the next round. A finished run has to be equal to one that
nothing disturbed, bit for bit. The script may be interrupted: rounds of all invocations add up in rounds.jsonl.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

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
    wait,
)

from mlc.checkpoint.record import Record
from mlc.errors import CheckpointError

KINDS = ("stopped in a save", "stopped", "rank 0 stopped", "alive")
FENCED = "a newer start of this run owns its folder"
SECONDS_TO_END = 60.0
SECONDS_OF_TRAINING = 2.0
SECONDS_OF_A_SAVE = 0.04
SECONDS_OF_A_TAKEOVER = 6.0
NO_STALL = "run.stall_timeout_seconds=3600"
"""A copy that was stopped for longer than the timeout is ended by its watchdog, and not by the fence."""


def main(arguments: Sequence[str] | None = None) -> int:
    return Relay(parse(arguments)).main()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=50, help="until there are so many in rounds.jsonl")
    return parser.parse_args(arguments)


class Relay(Series):
    """One owner after another."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options, "round")

    def go_on(self, server: TrainingServer) -> None:
        unbroken = self.unbroken(server)
        while len(self.log.all("round")) < self.options.rounds:
            run_folder = self.folder / f"run-{len(self.log.all('finished')) + 1:04d}"
            self._one_run(server, run_folder, unbroken)

    def _one_run(self, server: TrainingServer, run_folder: Path, unbroken: Path) -> None:
        """Rounds until the run is finished, or there were enough of them: then the last owner finishes it."""
        owner = self._start(server, run_folder)
        while len(self.log.all("round")) < self.options.rounds and not owner.is_over:
            owner = self._one_round(server, run_folder, owner)
        with ended_with(owner):
            if (codes := owner.wait(SECONDS_TO_GIVE_UP)) != [0] * self.options.ranks:
                self.log.add("finished", run=run_folder.name, difference=f"exit codes {codes}")
                self.violation(run_folder, f"the last owner ended with {codes}", owner)
                return
        self.compare(run_folder, unbroken, owner)

    def _start(self, server: TrainingServer, run_folder: Path) -> Training:
        return server.start(self.recipe, run_folder, NO_STALL, world_size=self.options.ranks)

    def _one_round(self, server: TrainingServer, run_folder: Path, older: Training) -> Training:
        kind = self.random.choice(KINDS)
        first_step = last_step(run_folder)
        wait(older, lambda: BEGUN in older[0].text and last_step(run_folder) > first_step)
        moment = self._stop(older, run_folder, kind)
        if older.is_over:
            return older
        newer = self._start(server, run_folder)
        # Before the newer one has taken over, while it does so, or after steps and saves of its own.
        self.pass_time(newer, SECONDS_OF_A_TAKEOVER)
        of_older = self._checkpoints_by_generation(run_folder)
        had_begun = BEGUN in newer[0].text
        older.send(signal.SIGCONT)
        going_on = time.monotonic()
        codes = older.wait(SECONDS_TO_END)
        seconds_to_end = time.monotonic() - going_on
        finished = codes == [0] * self.options.ranks
        facts = {
            "kind": kind,
            "step": moment.step,
            "save": moment.save,
            "newer_had_begun": had_begun,
            "codes": codes,
            "seconds_to_end": round(seconds_to_end, 3),
            "finished_before": finished,
        }
        self.log.add("round", run=run_folder.name, **facts)
        print(f"round {len(self.log.all('round'))}: {facts}", flush=True)
        wait(newer, lambda: BEGUN in newer[0].text)
        if not finished:
            if codes != [1] * self.options.ranks or FENCED not in older.text:
                self.violation(run_folder, f"the older copy ended with {codes}, and not for the newer one", older)
            if newer.is_over and newer.codes != [0] * self.options.ranks:
                self.violation(run_folder, f"the newer copy ended with {newer.codes}", newer)
        if had_begun:
            self._check_no_more(run_folder, of_older, older)
        self.check_whole(run_folder, older)
        return newer

    def _stop(self, training: Training, run_folder: Path, kind: str) -> Moment:
        self.pass_time(training, SECONDS_OF_TRAINING)
        while not training.is_over:
            if kind == "stopped in a save":
                wait(training, lambda: Moment.of(run_folder).save is not None)
                self.pass_time(training, SECONDS_OF_A_SAVE)
            if kind == "rank 0 stopped":
                training[0].freeze()
            elif kind != "alive":
                training.freeze()
            moment = Moment.of(run_folder)
            if kind != "stopped in a save" or moment.save is not None:
                return moment
            training.send(signal.SIGCONT)
        return Moment.of(run_folder)

    def _checkpoints_by_generation(self, run_folder: Path) -> dict[str, int]:
        found = {}
        for folder in checkpoints(run_folder):
            with contextlib.suppress(CheckpointError):  # removed meanwhile, because it is superseded
                found[folder.name] = Record.read(folder).generation
        return found

    def _check_no_more(self, run_folder: Path, before: dict[str, int], older: Training) -> None:
        """Once the newer copy trains, every new checkpoint is its own."""
        owner = json.loads((run_folder / "owner.json").read_text())["generation"]
        for name, generation in self._checkpoints_by_generation(run_folder).items():
            if name not in before and generation != owner:
                self.violation(run_folder, f"{name} is of start {generation}, and {owner} owns the run", older)

    def summarise(self) -> int:
        """Print what all invocations have seen; the exit code."""
        rounds = self.log.all("round")
        contested = [entry for entry in rounds if not entry["finished_before"]]
        seen = {
            "rounds": len(rounds),
            "older_copy_ended_by_the_fence": len(contested),
            "by_kind": dict(sorted(collections.Counter(entry["kind"] for entry in contested).items())),
            "stopped_inside_a_save": sum(entry["save"] is not None for entry in contested),
            "went_on_before_the_newer_one_trained": sum(not entry["newer_had_begun"] for entry in contested),
            "longest_seconds_to_end": max((entry["seconds_to_end"] for entry in contested), default=None),
        }
        return self.report(seen)


if __name__ == "__main__":
    sys.exit(main())
