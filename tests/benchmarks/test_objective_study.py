"""The queue of a study: stopping and going on, failures, changed definitions; and one real run (slow)."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import objective_study
import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st
from recipes_for_tests import ROOT, recipe_table
from small_corpus import build_in, text, write_corpus
from small_shards import write_small_shards
from study_for_tests import TOKENS, a_score, edited, study_table, write_small_study, write_study
from study_plan import Budget, Run, plan_runs, read_study
from study_queue import Ending, Tick, lock, run_queue
from study_table import collect

from mlc.errors import MlcError, RecipeError

STEPS = 4


class FakeWorkers:
    """Trains one step a tick; `fails` names runs that fail, `folders` tells what was asked of them."""

    def __init__(self, fails: tuple[str, ...] = ()) -> None:
        self.fails, self.calls = fails, list[tuple[str, str]]()

    def count(self, run: Run) -> Budget:
        self.calls.append(("count", run.name))
        return Budget(STEPS, TOKENS)

    def train(self, run: Run, ranks: int, tick: Tick) -> Ending:
        self.calls.append(("train", run.name))
        folder = run.folder / "run"
        folder.mkdir(exist_ok=True)
        taken = folder / "taken"
        while (step := int(taken.read_text()) if taken.exists() else 0) < STEPS:
            if not tick(step):
                return Ending("stopped")
            if run.name in self.fails:
                (run.folder / "log.txt").write_text("one\ntwo\n")
                return Ending("failed", "out of paper")
            taken.write_text(str(step + 1))
        (folder / "exit.json").write_text(json.dumps({"code": 0, "reason": "finished", "step": STEPS}))
        return Ending("done")

    def score(self, run: Run, tick: Tick) -> dict[str, Any] | None:
        self.calls.append(("score", run.name))
        return a_score(0.1 * run.seed) if tick(None) else None

    def trained(self) -> list[str]:
        return [name for what, name in self.calls if what == "train"]


class Lines:
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.said, self.shown = list[str](), list[str]()

    def say(self, line: str) -> None:
        self.said.append(line)

    def show(self, line: str) -> None:
        self.shown.append(line)


def go_through(
    study_file: Path,
    workers: FakeWorkers,
    *,
    keep_going: Callable[[], bool] = lambda: True,
    lines: Lines | None = None,
    ranks: int = 2,
) -> int:
    clock = iter(range(10**6))
    return run_queue(
        plan_runs(read_study(study_file)),
        workers,
        lines or Lines(),
        ranks=ranks,
        keep_going=keep_going,
        now=lambda: 60.0 * next(clock),
    )


def answers(count: int) -> Callable[[], bool]:
    """True `count` times, then False."""
    left: Iterator[bool] = iter([True] * count)
    return lambda: next(left, False)


ORDER = ["mlm-seed1", "joint-seed1", "mlm-seed2", "joint-seed2"]


def test_every_run_is_done_once(study_file: Path) -> None:
    workers = FakeWorkers()
    assert go_through(study_file, workers) == 0
    assert workers.trained() == ORDER
    again = FakeWorkers()
    assert go_through(study_file, again) == 0
    assert again.calls == []


@settings(max_examples=30)
@given(ticks=st.integers(0, 25))
def test_a_queue_that_is_stopped_anywhere_goes_on_there(tmp_path_factory: pytest.TempPathFactory, ticks: int) -> None:
    """Each run needs STEPS + 2 answers: before it, at each step, and while it is scored."""
    home = tmp_path_factory.mktemp("study")
    write_small_study(home)
    first, second = FakeWorkers(), FakeWorkers()
    done, inside = divmod(ticks, STEPS + 2)
    assert go_through(home / "study.toml", first, keep_going=answers(ticks)) == (0 if done >= 4 else 75)
    assert first.trained() == ORDER[: done + bool(inside)]
    assert go_through(home / "study.toml", second) == 0
    scored_alone = [name for what, name in second.calls if what == "score" and name not in second.trained()]
    assert scored_alone == (ORDER[done : done + 1] if inside == STEPS + 1 else [])
    assert sorted(second.trained() + scored_alone) == sorted(ORDER[done:])
    # Steps are counted once a run, and no step is taken twice.
    counted = [name for what, name in first.calls + second.calls if what == "count"]
    assert counted == ORDER
    assert {(home / "runs" / "s" / name / "run" / "taken").read_text() for name in ORDER} == {str(STEPS)}


def test_a_failure_is_recorded_and_the_queue_goes_on(study_file: Path) -> None:
    lines = Lines()
    assert go_through(study_file, FakeWorkers(fails=("joint-seed1",)), lines=lines) == 1
    folder = study_file.parent / "runs" / "s"
    failure = json.loads((folder / "joint-seed1" / "failure.json").read_text())
    assert failure == {"reason": "out of paper", "last_lines": ["one", "two"]}
    assert "1 of 4 runs failed" in lines.said[-1]
    assert [(folder / name / "score.json").exists() for name in ORDER] == [True, False, True, True]
    retry = FakeWorkers()
    assert go_through(study_file, retry) == 0
    assert retry.trained() == ["joint-seed1"]
    assert not (folder / "joint-seed1" / "failure.json").exists()


def test_an_error_of_a_worker_is_a_failure(study_file: Path) -> None:
    class Blind(FakeWorkers):
        def count(self, run: Run) -> Budget:
            raise MlcError("the shards are gone")

    assert go_through(study_file, Blind()) == 1
    failure = study_file.parent / "runs" / "s" / "mlm-seed1" / "failure.json"
    assert json.loads(failure.read_text())["reason"] == "the shards are gone"


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "objective": (lambda t: t["arms"]["joint"].update(set={"objectives": {"glm": {"weight": 0.2}}}), "rm -r"),
    "all arms": (lambda t: t.update(set={"optimizer": {"learning_rate": 0.01}}), "rm -r"),
    "tokens": (lambda t: t["study"].update(text_tokens_per_run=TOKENS + 1), "rm -r"),
    "scoring": (lambda t: t["score"].update(heldout_texts=7), "score.json"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_definition_is_refused(study_file: Path, name: str) -> None:
    edit, hint = CHANGES[name]
    go_through(study_file, FakeWorkers())
    edited(study_file, edit)
    workers = FakeWorkers()
    with pytest.raises(RecipeError) as refused:
        go_through(study_file, workers)
    assert refused.value.hint is not None
    assert hint in refused.value.hint
    assert workers.calls == []
    with pytest.raises(RecipeError):
        collect(plan_runs(read_study(study_file)))


def test_changed_shards_are_refused(study_file: Path) -> None:
    go_through(study_file, FakeWorkers())
    write_small_shards(study_file.parent / "shards", seed=3)
    with pytest.raises(RecipeError, match="its shards"):
        go_through(study_file, FakeWorkers())


def test_titles_more_arms_and_logs_change_nothing(study_file: Path) -> None:
    go_through(study_file, FakeWorkers())

    def edit(content: dict[str, Any]) -> None:
        content["arms"]["joint"]["title"] = "Both"
        content["arms"]["new"] = {"title": "New", "set": {"objectives": {"glm": {"weight": 0.1}}}}
        content["set"] = {"log": {"every_steps": 3}, "checkpoint": {"every_steps": 7}}

    edited(study_file, edit)
    workers = FakeWorkers()
    assert go_through(study_file, workers) == 0
    assert workers.trained() == ["new-seed1", "new-seed2"]


def test_a_half_done_run_is_scored_as_the_study_says_now(study_file: Path) -> None:
    go_through(study_file, FakeWorkers(), keep_going=answers(2))
    edited(study_file, lambda t: t["score"].update(heldout_texts=7))
    assert go_through(study_file, FakeWorkers()) == 0
    assert go_through(study_file, FakeWorkers()) == 0  # refused, had the first run kept the old digest


def test_a_begun_run_keeps_its_number_of_ranks(study_file: Path) -> None:
    seen = []

    class Counting(FakeWorkers):
        def train(self, run: Run, ranks: int, tick: Tick) -> Ending:
            seen.append(ranks)
            return super().train(run, ranks, tick)

    go_through(study_file, Counting(), keep_going=answers(2))
    go_through(study_file, Counting(), ranks=4)
    assert seen == [2, 2, 4, 4, 4]


def test_time_left_is_that_of_finished_runs(study_file: Path) -> None:
    """The clock goes on a minute whenever it is looked at, so all runs take the same time."""
    lines = Lines()
    go_through(study_file, FakeWorkers(), lines=lines)
    first = [line for line in lines.shown if line.startswith("run 1 of 4, mlm-seed1")]
    assert "time left unknown" in first[0]
    assert "step 1 of 4" in first[1]
    assert "unknown" not in first[2]  # its own pace, once it has taken a step
    minutes = {json.loads(path.read_text())["seconds"] / 60 for path in study_file.parent.glob("runs/s/*/score.json")}
    (typical,) = minutes
    second = [line for line in lines.shown if line.startswith("run 2 of 4")]
    spent = float(second[0].split(", ")[2].split()[0])
    assert f"about {3 * typical - spent:.0f} min left" in second[0]


def test_two_queues_exclude_each_other(tmp_path: Path) -> None:
    with lock(tmp_path):
        other = f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r})\n"
        other += "from pathlib import Path\nfrom study_queue import lock\n"
        other += f"with lock(Path({str(tmp_path)!r})): pass"
        done = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert f"processes {os.getpid()}" in done.stderr
    with lock(tmp_path):
        pass


def test_table_and_plot_from_the_command_line(study_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert objective_study.command(["table", str(study_file)]) == 0
    assert "| MLM | 0 of 2 | - |" in capsys.readouterr().out
    go_through(study_file, FakeWorkers())
    assert objective_study.command(["table", str(study_file)]) == 0
    spread = math.sqrt(0.005)  # 0.1 and 0.2
    assert f"| Joint | 2 | 2 | 0.150 ± {spread:.3f} | 5.00 ± 0.00 | - |" in capsys.readouterr().out
    out = study_file.with_suffix(".svg")
    assert objective_study.command(["plot", str(study_file), str(out)]) == 0
    assert out.read_text().count("<circle") == 4 + 4
    with pytest.raises(MlcError, match="written as SVG"):
        objective_study.command(["plot", str(study_file), "out.png"])
    with pytest.raises(MlcError, match="no such arm"):
        objective_study.command(["run", str(study_file), "--only", "jont"])


# The real thing


@pytest.mark.slow
def test_a_real_study_is_stopped_and_goes_on(tmp_path: Path) -> None:
    """Ctrl-C while it trains: exit code 75; the same command again: every run trained to its end and scored."""
    study = real_study(tmp_path)
    command = [sys.executable, str(ROOT / "benchmarks" / "objective_study.py"), "run", str(study), "--ranks", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "runs" / "real" / "mlm-seed1" / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not metrics.exists() or not metrics.read_text():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)  # waits for a file that another process writes
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=120)[1]
    assert process.returncode == 75, output
    assert "stopped" in output
    assert json.loads((metrics.parent / "exit.json").read_text())["code"] == 75
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + (metrics.parents[1] / "log.txt").read_text()
    scores = {path.parent.name: json.loads(path.read_text()) for path in metrics.parents[2].glob("*/score.json")}
    assert set(scores) == {"mlm-seed1", "joint-seed1"}
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == list(range(1, scores["mlm-seed1"]["steps"] + 1))
    assert scores["mlm-seed1"]["retrieval"]["dev_top1"] is not None
    assert scores["joint-seed1"]["retrieval"]["dev_top1"] is None
    assert scores["mlm-seed1"]["glm"] is None
    assert scores["joint-seed1"]["glm"]["loss"] > 0


def real_study(home: Path) -> Path:
    build_in(write_corpus(home))
    shards = home / "out"
    base = recipe_table(
        data={"shards": str(shards), "sources": [{"kind": "pairs", "view": "pair"}], "samples_per_step": 4},
        schedule={"total_steps": 60, "warmup_steps": 6},
    )
    (home / "base.toml").write_text(tomli_w.dumps(base))
    lines = [{"en": text("en", 500 + i, 6), "de": text("de", 500 + i, 6)} for i in range(20)]
    (home / "en-de.jsonl").write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    content = study_table(home)
    content["study"] |= {"name": "real", "seeds": [1], "text_tokens_per_run": 6000}
    content["score"] |= {"retrieval": str(home / "en-de.jsonl"), "heldout": str(shards), "heldout_texts": 32}
    content["arms"]["mlm"]["set"].pop("data")
    write_study(home / "study.toml", content)
    return home / "study.toml"
