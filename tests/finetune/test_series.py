"""A series: runs by themselves, what is finished is left alone, what fails ends it, a table over seeds."""

from __future__ import annotations

import io
import json
import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from finetune_for_tests import finetune_table, make_encoder, write_classes
from rich.console import Console
from training_processes import environment, wait_until
from typer.testing import CliRunner

from mlc.cli import build_app
from mlc.distributed.ranks import RankInfo
from mlc.engine.metrics import read_metrics
from mlc.errors import CheckpointError, RecipeError, UsageError
from mlc.finetune.series import (
    Member,
    check_alone,
    is_finished,
    over_seeds,
    passing_on,
    plan_series,
    run_series,
    series_rows,
)
from mlc.tasks.scores import mean_over_languages
from mlc.tasks.scores_classes import score_classes

ALONE = RankInfo(0, 1, 0, 1, "127.0.0.1", 0, "single")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe."""
    folder = tmp_path_factory.mktemp("series")
    table = finetune_table(
        folder,
        data={"test": [str(folder / f"{language}.jsonl") for language in ("en", "de")]},
        schedule={"total_steps": 3},
        checkpoint={"min_free_gib": 0.0},
    )
    (folder / "recipe.toml").write_text(tomli_w.dumps(table))
    return folder


def members_of(folder: Path, seeds: list[int], shots: list[int], *overrides: str) -> list[Any]:
    return plan_series(folder / "recipe.toml", overrides, seeds, shots)


def finish(member: Member, right: dict[str, int]) -> dict[str, Any]:
    """What a finished run leaves; so many of ten answers are right in each language, and English was trained on."""
    member.folder.mkdir(parents=True)
    (member.folder / "recipe.toml").write_text(member.recipe.to_toml())
    (member.folder / "exit.json").write_text(json.dumps({"code": 0, "reason": "finished", "step": 3}))
    sets = {
        language: score_classes([0] * 10, [0] * count + [1] * (10 - count), ["a", "b"], resamples=10)
        for language, count in right.items()
    }
    test = mean_over_languages(sets, trained=["en"]).to_json()
    (member.folder / "test.json").write_text(json.dumps(test))
    return test


def test_runs_have_their_own_folder_seed_and_shots(folder: Path) -> None:
    run = folder / "run"
    found = members_of(folder, [3, 1], [0, 8, 4], "schedule.total_steps=2")
    assert [(member.seed, member.shots, member.folder) for member in found] == [
        (3, 4, run / "seed-3-shots-4"), (1, 4, run / "seed-1-shots-4"),
        (3, 8, run / "seed-3-shots-8"), (1, 8, run / "seed-1-shots-8"),
        (3, 0, run / "seed-3-shots-all"), (1, 0, run / "seed-1-shots-all"),
    ]  # fmt: skip
    assert all(member.recipe.run.seed == member.seed for member in found)
    assert all(member.recipe.data.shots == member.shots for member in found)
    assert all(member.recipe.schedule.total_steps == 2 for member in found)
    plain = members_of(folder, [5], [])
    assert [(member.folder, member.recipe.data.shots) for member in plain] == [(run / "seed-5", 0)]


def test_finished_runs_are_not_done_again_and_make_a_table(folder: Path, tmp_path: Path) -> None:
    right = {4: [(5, 2), (6, 4), (10, 9)], 0: [(8, 8), (8, 8), (8, 8)]}
    for member in members_of(folder, [1, 2, 3], [4, 0]):
        english, german = right[member.shots or 0][member.seed - 1]
        finish(member, {"de": german, "en": english})
        assert is_finished(member)
    file = tmp_path / "series.json"
    command = ["finetune", str(folder / "recipe.toml"), "--seeds", "1,2,3", "--shots", "0,4", "--json", str(file)]
    outcome = CliRunner().invoke(build_app(), command, env=environment(), catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    assert outcome.stderr.count("finished before") == 6
    found = json.loads(file.read_text())
    assert found["score"] == "accuracy"
    assert [(row["name"], row["seeds"]) for row in found["series"]] == [
        ("4 shots", [1, 2, 3]), ("all examples", [1, 2, 3]),
    ]  # fmt: skip
    expected = {"de": [0.2, 0.4, 0.9], "en": [0.5, 0.6, 1.0]}
    few, every = found["series"]
    for language, values in expected.items():
        score = few["languages"][language]
        assert score["value"] == pytest.approx(statistics.mean(values))
        assert score["sd"] == pytest.approx(statistics.stdev(values))
        assert score["n"] == 3
    assert few["zero_shot"] == pytest.approx(few["languages"]["de"])
    assert few["macro"]["sd"] == pytest.approx(statistics.stdev([0.35, 0.5, 0.95]))
    assert every["macro"] == pytest.approx({"value": 0.8, "sd": 0.0, "n": 3})
    assert "0.600 ± 0.312" in outcome.stdout
    assert over_seeds([0.5]).sd is None


def test_runs_that_cannot_be_compared_are_refused(folder: Path) -> None:
    members = members_of(folder, [1, 2], [], f"run.folder={folder / 'other'}")
    finish(members[0], {"de": 1, "en": 2})
    with pytest.raises(CheckpointError, match=r"seed-2/test.json: the run has no scores"):
        series_rows(members)
    finish(members[1], {"en": 2})
    with pytest.raises(CheckpointError, match="scored on different data; found accuracy of en; needed accuracy of de"):
        series_rows(members)
    changed = members_of(folder, [1], [], f"run.folder={folder / 'other'}", "optimizer.learning_rate=0.5")
    with pytest.raises(UsageError, match=r"another recipe; found optimizer.learning_rate = 0.001; needed 0.5"):
        is_finished(changed[0])
    (members[0].folder / "exit.json").write_text(json.dumps({"code": 75, "reason": "saved on request", "step": 2}))
    assert not is_finished(members[0])


def test_a_run_that_fails_ends_the_series_with_its_code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = members_of(folder, [7, 8], [])
    monkeypatch.setenv("WORLD_SIZE", "2")  # and no RANK: mlc finetune refuses that at once
    said = io.StringIO()
    assert run_series(folder / "recipe.toml", members, Console(file=said)) == 2
    assert "1 of 2: seed 7" in said.getvalue()
    assert "seed 8" not in said.getvalue()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
def test_signals_are_passed_on(number: signal.Signals) -> None:
    """A process that ends with code 75 when it is asked to; only the process of the test gets the signal."""
    code = f"import signal, sys; signal.signal({number.value}, lambda *_: sys.exit(75)); print(1, flush=True); input()"
    before = signal.getsignal(number)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0
    )
    with process, passing_on([process]):
        assert process.stdout is not None
        process.stdout.readline()
        os.kill(os.getpid(), number)
        assert process.wait(timeout=60) == 75
    assert signal.getsignal(number) is before


@pytest.mark.slow  # three starts of Python with everything it imports
def test_a_series_of_real_runs_is_stopped_and_goes_on(folder: Path) -> None:
    """SIGTERM to the series alone, during its first run: it saves, and the code says so."""
    make_encoder(folder / "start")
    write_classes(folder / "train.jsonl", 40)
    for language in ("en", "de"):
        write_classes(folder / f"{language}.jsonl", 20, language=language, first=100)
    run = folder / "real"
    command = [sys.executable, "-m", "mlc", "finetune", str(folder / "recipe.toml"), "--set", f"run.folder={run}"]
    command += ["--seeds", "1,2", "--shots", "4", "--set"]
    hours = [*command, "schedule.total_steps=1000000"]
    with subprocess.Popen(hours, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as series:
        first = run / "seed-1-shots-4"
        wait_until(lambda: len(read_metrics(first)) > 0 or series.poll() is not None, "a step")
        series.send_signal(signal.SIGTERM)
        _, printed = series.communicate(timeout=100)
    assert series.returncode == 75, printed.decode()
    assert json.loads((run / "seed-1-shots-4" / "exit.json").read_text())["code"] == 75
    assert not (run / "seed-2-shots-4").exists()

    step = read_metrics(run / "seed-1-shots-4")[-1]["step"]
    command += [f"schedule.total_steps={step + 2}", "--set", 'run.allow_changes=["schedule"]']
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [read_metrics(run / f"seed-{seed}-shots-4")[-1]["step"] for seed in (1, 2)] == [step + 2] * 2
    assert "4 shots" in done.stdout


def test_what_makes_no_series_is_refused(folder: Path) -> None:
    check_alone(ALONE)
    for ranks in (RankInfo(0, 2, 0, 2, "127.0.0.1", 1, "slurm"), RankInfo(0, 1, 0, 1, "127.0.0.1", 1, "environment")):
        with pytest.raises(UsageError, match=r"starts its runs by itself[\s\S]*next: for runs of more ranks"):
            check_alone(ranks)
    with pytest.raises(UsageError, match="each number once"):
        members_of(folder, [1, 1], [])
    with pytest.raises(RecipeError, match="shots"):
        members_of(folder, [1], [4], "task.kind=regression")
    with pytest.raises(UsageError, match="compared on test data"):
        members_of(folder, [1], [], "data.test=[]")
    for options, message in ((["--shots", "4"], "of a series"), (["--seeds", "one"], "no whole numbers")):
        with pytest.raises(UsageError, match=message):
            CliRunner().invoke(build_app(), ["finetune", str(folder / "recipe.toml"), *options], catch_exceptions=False)
