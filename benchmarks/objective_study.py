"""Does it help? Arms of a training recipe on equally much text, as a queue of runs that can be stopped at any time.

    python benchmarks/objective_study.py run recipes/study_objectives.toml              # all unfinished runs
    python benchmarks/objective_study.py run recipes/study_objectives.toml --minutes 60 # as far as an hour goes
    python benchmarks/objective_study.py table recipes/study_objectives.toml            # Markdown
    python benchmarks/objective_study.py plot recipes/study_objectives.toml study.svg

`run` does the next unfinished runs, continues half-done ones, and scores them. Stop it by Ctrl-C, SIGTERM or a power
cut, and start it again: finished runs are never done again, a half-done one goes on from its newest checkpoint.

Exit codes of `run`: 0 every run is finished, 1 some failed, 2 refused, 75 stopped with runs left.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from study_plan import Run, Study, plan_runs, read_study
from study_queue import lock, run_queue
from study_table import collect, plot, table

from mlc.data.manifest import Manifest
from mlc.errors import MlcError, UsageError
from mlc.files import write_atomically


def main() -> None:
    try:
        sys.exit(command(sys.argv[1:]))
    except MlcError as error:
        print(f"objective_study: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def command(arguments: Sequence[str]) -> int:
    """Run a command line; returns the exit code.

    Raises:
        MlcError: refused.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="do the next unfinished runs")
    run.add_argument("--only", metavar="ARM", action="append", help="only this arm; repeatable")
    run.add_argument("--minutes", type=float, help="save and stop after so many minutes")
    run.add_argument("--ranks", type=int, default=2, help="processes of a training (default 2)")
    shown = {"table": "print the results as Markdown", "plot": "draw the results"}
    for name, parts in {
        "run": run,
        **{key: commands.add_parser(key, help=text) for key, text in shown.items()},
    }.items():
        parts.add_argument("study", type=Path, metavar="STUDY.toml")
        if name == "plot":
            parts.add_argument("out", type=Path, metavar="OUT.svg")
    options = parser.parse_args(arguments)
    if options.command == "plot" and options.out.suffix != ".svg":
        raise UsageError("the plot is written as SVG", found=str(options.out), needed="a name that ends in .svg")
    study = read_study(options.study)
    runs = plan_runs(study)
    if options.command == "run":
        return _run(study, _chosen(runs, options.only), options.ranks, options.minutes)
    if options.command == "table":
        print("\n".join(table(collect(runs))))
    else:
        write_atomically(options.out, plot(collect(runs), f"Study {study.study.name}").encode())
    return 0


def _run(study: Study, runs: Sequence[Run], ranks: int, minutes: float | None) -> int:
    # Imported here: tables and plots need no torch.
    from study_work import ConsoleWatcher, ProcessWorkers, Stop

    _check_tokenizers(study, runs)
    with ExitStack() as stack:
        held = stack.enter_context(lock(Path(study.study.folder) / study.study.name))
        watcher = ConsoleWatcher(stack)
        stop = Stop(minutes, watcher.say)
        return run_queue(runs, ProcessWorkers(study, held), watcher, ranks=ranks, keep_going=stop.keep_going)


def _chosen(runs: Sequence[Run], only: Sequence[str] | None) -> list[Run]:
    unknown = sorted(set(only or ()) - {run.arm for run in runs})
    if unknown:
        arms = ", ".join(dict.fromkeys(run.arm for run in runs))
        raise UsageError("no such arm", found=", ".join(unknown), needed=f"some of {arms}", where="--only")
    return [run for run in runs if not only or run.arm in only]


def _check_tokenizers(study: Study, runs: Sequence[Run]) -> None:
    """Before hours of training, not after: the held-out shards speak the language of the training shards."""
    heldout = Manifest.read(study.score.heldout).tokenizer.sha256
    for shards in {run.recipe.data.shards for run in runs}:
        if Manifest.read(shards).tokenizer.sha256 != heldout:
            raise UsageError(
                "the held-out shards have another tokenizer than the training shards",
                found=study.score.heldout,
                needed=f"tokenizer.path = that of {shards}",
                hint="build the held-out shards again",
            )


if __name__ == "__main__":
    main()
