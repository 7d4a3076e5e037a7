"""What a cluster does to a run: disks that fail, hung ranks, two copies alive, requests in the run folder.

Real processes on real file systems. Long versions with random moments: benchmarks/fault_injection.py and two_owners.py.
"""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import checkpoint_damage
import fault_injection
import pytest
import two_owners
from faults_for_tests import Fault, SmallDisk, failing_disk
from training_processes import (
    Training,
    TrainingServer,
    assert_same_end,
    final_checkpoint,
    wait_for_lines,
    wait_until,
    write_recipe,
)

from mlc.checkpoint.record import Record, checkpoint_folders, step_name
from mlc.checkpoint.verify import damage
from mlc.engine.metrics import read_metrics
from mlc.errors import EXIT_FAILED, EXIT_SAVED

TOTAL_STEPS = 14
EVERY_STEPS = 4
FREEZE = signal.SIGSTOP
WRITING = "mlc.tensor_files:stream_tensors"
"""Called twice by every rank in a save: weights, optimizer state."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(
        tmp_path_factory.mktemp("faults"),
        model={"dropout": 0.1},
        data={"samples_per_step": 6},
        schedule={"total_steps": TOTAL_STEPS, "warmup_steps": 2},
        checkpoint={"every_steps": EVERY_STEPS},
    )


@pytest.fixture(scope="module")
def unbroken(server: TrainingServer, recipe: Path) -> Path:
    run_folder = recipe.parent / "unbroken"
    training = server.start(recipe, run_folder)
    assert training.wait() == [0, 0], training.text
    return run_folder


def assert_whole(run_folder: Path, *steps: int) -> None:
    """The run has these checkpoints, each of them complete."""
    folders = checkpoint_folders(run_folder)
    assert [folder.name for folder in folders] == [step_name(step) for step in steps]
    assert [damage(folder, Record.read(folder)) for folder in folders] == [None] * len(folders)


def wait_until_frozen(training: Training, rank: int) -> None:
    wait_until(lambda: training[rank].is_frozen() or training.is_over, f"rank {rank} to reach its fault")
    assert not training.is_over, training.text


@pytest.mark.parametrize(
    "asynchronous", ["true", pytest.param("false", marks=pytest.mark.slow)], ids=["behind", "waiting"]
)
def test_a_disk_that_fills_up_during_a_save_ends_the_run(
    asynchronous: str, server: TrainingServer, recipe: Path, unbroken: Path, tmp_path: Path
) -> None:
    """on_failure = "stop". One rank's second file finds no space; after that there is space again, and a new start."""
    with SmallDisk(tmp_path / "disk", mib=4) as disk:
        run_folder = disk.folder / "run"
        frozen = Fault(rank=1, call=WRITING, number=4, signal=FREEZE)
        training = server.start(recipe, run_folder, f"checkpoint.asynchronous={asynchronous}", faults=[frozen])
        wait_until_frozen(training, 1)
        disk.fill()
        training.send(signal.SIGCONT)
        assert training.wait() == [EXIT_FAILED, EXIT_FAILED], training.text
        assert "No space left on device" in training[0].text
        assert "next: look at free space" in training[0].text
        assert "Traceback" not in training.text
        assert_whole(run_folder, EVERY_STEPS)
        disk.free()
        training = server.start(recipe, run_folder)
        assert training.wait() == [0, 0], training.text
        assert f"continues after step {EVERY_STEPS}" in training.text
        assert_same_end(run_folder, unbroken)


@pytest.mark.parametrize(
    "asynchronous", ["true", pytest.param("false", marks=pytest.mark.slow)], ids=["behind", "waiting"]
)
def test_training_goes_on_over_a_full_disk(
    asynchronous: str, server: TrainingServer, recipe: Path, unbroken: Path, tmp_path: Path
) -> None:
    """on_failure = "continue". The save at step 8 fails, then there is space again; no metric is lost."""
    with SmallDisk(tmp_path / "disk", mib=4) as disk:
        run_folder = disk.folder / "run"
        full = Fault(rank=0, call=WRITING, number=4, signal=FREEZE)
        empty = Fault(rank=1, call="mlc.engine.step:TrainingStep.take", number=11, signal=FREEZE)
        training = server.start(
            recipe,
            run_folder,
            f"checkpoint.asynchronous={asynchronous}",
            'checkpoint.on_failure="continue"',
            faults=[full, empty],
        )
        wait_until_frozen(training, 0)
        disk.fill()
        training[0].send(signal.SIGCONT)
        wait_until_frozen(training, 1)
        wait_until(lambda: "training goes on" in training[0].text, "the report of the failure")
        assert_whole(run_folder, EVERY_STEPS)
        disk.free()
        training[1].send(signal.SIGCONT)
        assert training.wait() == [0, 0], training.text
        assert_whole(run_folder, 3 * EVERY_STEPS, TOTAL_STEPS)
        assert_same_end(run_folder, unbroken)


def test_a_disk_that_turns_read_only(server: TrainingServer, recipe: Path, tmp_path: Path) -> None:
    """In the middle of a save, under open files, with on_failure = "continue": nothing can be saved, so it ends."""
    with failing_disk(tmp_path / "disk") as fail:
        run_folder = tmp_path / "disk" / "run"
        frozen = Fault(rank=1, call=WRITING, number=4, signal=FREEZE)
        training = server.start(recipe, run_folder, 'checkpoint.on_failure="continue"', faults=[frozen])
        wait_until_frozen(training, 1)
        fail()
        training.send(signal.SIGCONT)
        assert training.wait() == [EXIT_FAILED, EXIT_FAILED], training.text
        assert "training goes on" in training[0].text
        assert "Read-only file system" in training[0].text.partition("training goes on")[2]
        assert "Traceback" not in training.text
        assert_whole(run_folder, EVERY_STEPS)


def test_a_limit_that_only_a_write_meets(server: TrainingServer, recipe: Path, unbroken: Path, tmp_path: Path) -> None:
    """As with a quota: the disk has space, and the kernel refuses what this rank writes nevertheless."""
    run_folder, no_more = tmp_path / "run", Fault(rank=1, largest_file_bytes=300)
    training = server.start(
        recipe, run_folder, 'checkpoint.on_failure="continue"', "log.samples=true", faults=[no_more]
    )
    assert training.wait() == [EXIT_FAILED, EXIT_FAILED], training.text
    assert training[0].text.count("training goes on") == (TOTAL_STEPS - 1) // EVERY_STEPS
    assert "rank 1" in training[0].text
    assert "File too large" in training[0].text
    assert "Traceback" not in training.text
    assert_whole(run_folder)
    assert json.loads((run_folder / "exit.json").read_text())["code"] == EXIT_FAILED
    assert [line["step"] for line in read_metrics(run_folder)] == list(range(1, TOTAL_STEPS + 1))
    training = server.start(recipe, run_folder)
    assert training.wait() == [0, 0], training.text
    assert_same_end(run_folder, unbroken)


MOMENTS = {
    "rank 0 before complete.json": Fault(0, "mlc.checkpoint.record:Record.write", number=2, signal=FREEZE),
    "rank 0 before the rename": Fault(
        0, "mlc.checkpoint.fence:Fence.place", argument=f"checkpoints/{step_name(8)}", signal=FREEZE
    ),
    "rank 1 writes its part": Fault(1, WRITING, number=4, signal=FREEZE),
    "rank 0 in a step": Fault(0, "deepspeed.runtime.engine:DeepSpeedEngine.step", number=7, signal=FREEZE),
    "rank 0 before its first save": Fault(0, "mlc.checkpoint.fence:Fence.check", signal=FREEZE),
}
QUICK_MOMENT = "rank 0 before the rename"


@pytest.mark.parametrize(
    "moment", [QUICK_MOMENT, *(pytest.param(m, marks=pytest.mark.slow) for m in MOMENTS if m != QUICK_MOMENT)]
)
def test_a_copy_that_was_cut_off_commits_nothing(
    moment: str, server: TrainingServer, recipe: Path, unbroken: Path, tmp_path: Path
) -> None:
    """All its ranks are stopped; a second copy takes over and saves; then the first goes on."""
    run_folder = tmp_path / "run"
    fault = MOMENTS[moment]
    first = server.start(recipe, run_folder, faults=[fault])
    wait_until_frozen(first, fault.rank or 0)
    first.freeze()
    # The second one stops too: after a save of its own, so that the first meets an owner that is still alive.
    pause = Fault(0, "mlc.engine.step:TrainingStep.take", number=7, signal=FREEZE)
    second = server.start(recipe, run_folder, faults=[pause])
    wait_until_frozen(second, 0)
    before = tree(run_folder)
    first.send(signal.SIGCONT)
    assert first.wait() == [EXIT_FAILED, EXIT_FAILED], first.text
    assert "a newer start of this run owns its folder" in first.text, first.text
    assert tree(run_folder) == before
    second.send(signal.SIGCONT)
    assert second.wait() == [0, 0], second.text
    assert_same_end(run_folder, unbroken)
    assert [Record.read(folder).generation for folder in checkpoint_folders(run_folder)] == [2, 2]


def test_of_two_copies_that_are_both_alive_the_older_ends(server: TrainingServer, recipe: Path, tmp_path: Path) -> None:
    run_folder = tmp_path / "run"
    # Neither would end by itself: the older is alive when it is followed, however long the newer takes to start.
    first = server.start(recipe, run_folder, "schedule.total_steps=100000")
    wait_for_lines(run_folder, 1, first)
    second = server.start(recipe, run_folder, "schedule.total_steps=100000")
    assert first.wait() == [EXIT_FAILED, EXIT_FAILED], first.text
    assert "a newer start of this run owns its folder" in first[0].text
    wait_for_lines(run_folder, len(read_metrics(run_folder)) + EVERY_STEPS, second)
    (run_folder / "stop").touch()
    assert second.wait() == [EXIT_SAVED, EXIT_SAVED], second.text
    assert json.loads((run_folder / "owner.json").read_text())["generation"] == 2
    ending = json.loads((run_folder / "exit.json").read_text())
    assert [line["step"] for line in read_metrics(run_folder)] == list(range(1, ending["step"] + 1))


def test_a_hung_rank_ends_all_others(server: TrainingServer, recipe: Path, tmp_path: Path) -> None:
    run_folder, timeout_seconds = tmp_path / "run", 6.0
    hang = Fault(rank=1, call="mlc.engine.step:TrainingStep.take", number=4, signal=FREEZE)
    training = server.start(recipe, run_folder, f"run.stall_timeout_seconds={timeout_seconds}", faults=[hang])
    wait_until_frozen(training, 1)
    hung = time.monotonic()
    assert training[0].wait() == EXIT_FAILED, training.text
    assert timeout_seconds - 1 < time.monotonic() - hung < timeout_seconds + 30
    report = (run_folder / "stalled-rank-00000.txt").read_text()
    assert "rank 0" in report
    assert "it was at: step 4" in report
    assert "mlc/engine/step.py" in report
    assert "torch/distributed/distributed_c10d.py" in report
    ending = json.loads((run_folder / "exit.json").read_text())
    assert ending["code"] == EXIT_FAILED
    assert "got no further" in ending["reason"]
    training[1].send(signal.SIGCONT)
    assert training.wait(60) == [EXIT_FAILED, EXIT_FAILED], training.text


def test_requests_in_the_run_folder(server: TrainingServer, recipe: Path, tmp_path: Path) -> None:
    run_folder = tmp_path / "run"
    training = server.start(recipe, run_folder, "schedule.total_steps=1000", "checkpoint.every_steps=1000")
    wait_for_lines(run_folder, 2, training)
    (run_folder / "save").touch()
    wait_until(lambda: bool(checkpoint_folders(run_folder)) or training.is_over, "a checkpoint")
    wait_until(lambda: not (run_folder / "save").exists(), "the request to be gone")
    (saved,) = checkpoint_folders(run_folder)
    step = Record.read(saved).position.step
    wait_for_lines(run_folder, step + 2, training)
    (run_folder / "stop").touch()
    assert training.wait() == [EXIT_SAVED, EXIT_SAVED], training.text
    assert not (run_folder / "stop").exists()
    ending = json.loads((run_folder / "exit.json").read_text())
    assert "file stop" in ending["reason"]
    assert final_checkpoint(run_folder).name == step_name(ending["step"]) != saved.name
    assert read_metrics(run_folder)[-1]["step"] == ending["step"]


def test_the_time_limit(server: TrainingServer, recipe: Path, tmp_path: Path) -> None:
    run_folder, limit_seconds = tmp_path / "run", 5.0
    started = time.monotonic()
    training = server.start(
        recipe, run_folder, "schedule.total_steps=100000", f"run.time_limit_minutes={limit_seconds / 60}"
    )
    assert training.wait() == [EXIT_SAVED, EXIT_SAVED], training.text
    assert time.monotonic() - started < limit_seconds + 10
    ending = json.loads((run_folder / "exit.json").read_text())
    assert "time limit" in ending["reason"]
    assert final_checkpoint(run_folder).name == step_name(ending["step"])


@pytest.mark.slow
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_second_signal_in_the_middle_of_a_save_does_no_harm(
    second: signal.Signals, server: TrainingServer, recipe: Path, unbroken: Path, tmp_path: Path
) -> None:
    """Ctrl-C ends the rank, and with it the run; SIGTERM, which SLURM sends again, lets it end its save."""
    run_folder = tmp_path / "run"
    faults = [
        Fault(0, "mlc.engine.step:TrainingStep.take", number=6, signal=signal.SIGTERM),
        Fault(0, "mlc.checkpoint.record:Record.write", number=2, signal=second),
    ]
    training = server.start(recipe, run_folder, "checkpoint.asynchronous=false", faults=faults)
    if second is signal.SIGINT:
        assert training[0].wait() == -signal.SIGINT
        assert training.wait(60) == [-signal.SIGINT, EXIT_FAILED], training.text
        assert_whole(run_folder, EVERY_STEPS)
    else:
        assert training.wait() == [EXIT_SAVED, EXIT_SAVED], training.text
    training = server.start(recipe, run_folder)
    assert training.wait() == [0, 0], training.text
    assert_same_end(run_folder, unbroken)


@pytest.mark.slow
def test_a_few_random_kills(server: TrainingServer, tmp_path: Path) -> None:
    options = ["--kills", "3", "--in-saves", "2", "--steps", "24", "--folder", str(tmp_path)]
    campaign = fault_injection.Campaign(fault_injection.parse(options))
    campaign.go_on(server)
    assert campaign.summarise() == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["kills"] >= 3
    assert summary["kills_inside_a_save"] >= 2
    assert summary["runs_finished"] == summary["of_these_equal_to_the_undisturbed_run"] >= 1


@pytest.mark.slow
def test_a_few_random_takeovers(server: TrainingServer, tmp_path: Path) -> None:
    relay = two_owners.Relay(two_owners.parse(["--rounds", "4", "--steps", "60", "--folder", str(tmp_path)]))
    relay.go_on(server)
    assert relay.summarise() == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["older_copy_ended_by_the_fence"] >= 2
    assert summary["runs_finished"] == summary["of_these_equal_to_the_undisturbed_run"] >= 1


def test_random_damages_are_noticed_and_nothing_damaged_is_used(unbroken: Path, tmp_path: Path) -> None:
    result = checkpoint_damage.damage_many(unbroken, tmp_path / "copy", 80, seed=1)
    assert result["not_noticed"] == []
    assert result["used_nevertheless"] == []
    assert len(result["by_kind"]) > 10
    assert result["by_file"]["complete.json"] > 10


def tree(run_folder: Path) -> dict[str, bytes]:
    """Everything in place: all files but those in working folders."""
    paths = (path for path in run_folder.rglob("*") if path.is_file())
    names = {path.relative_to(run_folder).as_posix(): path for path in paths}
    return {name: path.read_bytes() for name, path in names.items() if not name.startswith("attempts/")}
