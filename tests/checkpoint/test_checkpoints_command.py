"""`mlc checkpoints`: what it shows, what it deletes and what it never deletes."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recipes_for_tests import train_recipe
from small_checkpoints import random_tensors, with_moments, write_checkpoint

from mlc import cli
from mlc.checkpoint.command import prune
from mlc.checkpoint.fence import Fence

FORK = multiprocessing.get_context("fork")
WEIGHTS = random_tensors({"a": (3, 4), "b": (5,)})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run with checkpoints of steps 10, 20, 30 and 40."""
    return write_run(tmp_path / "run", (10, 20, 30, 40))


def write_run(run: Path, steps: tuple[int, ...]) -> Path:
    for step in steps:
        write_checkpoint(run, step, WEIGHTS, with_moments(WEIGHTS))
    (run / "recipe.toml").write_text(train_recipe(checkpoint={"keep_every": 20}).to_toml())
    return run


def mlc(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["mlc", "checkpoints", *map(str, arguments)])
    with pytest.raises(SystemExit) as ending:
        cli.main()
    output = capsys.readouterr()
    return int(ending.value.code or 0), output.out + output.err


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda *arguments: mlc(capsys, monkeypatch, *arguments)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_list_shows_every_folder(run: Path, tmp_path: Path, command: Any) -> None:
    (run / "checkpoints" / "step-00000050").mkdir()
    (run / "checkpoints" / "damaged-step-00000005").mkdir()
    flip(run / "checkpoints" / "step-00000020" / "complete.json")
    code, output = command("list", run, "--json", tmp_path / "list.json")
    assert code == 0
    lines = [line.split() for line in output.splitlines()]
    rows = {words[0]: words[1:] for words in lines if words and words[0].startswith("step-") and ":" not in words[0]}
    assert sorted(rows) == [f"step-000000{step}" for step in (10, 20, 30, 40, 50)]
    assert (rows["step-00000010"][:2], rows["step-00000010"][-1]) == (["80", "1,000"], "complete")
    assert rows["step-00000020"] == rows["step-00000050"] == ["unusable"]
    assert "step-00000020: complete.json cannot be read; found JSONDecodeError" in output
    assert "step-00000050: incomplete: no complete.json" in output
    assert "set aside: damaged-step-00000005" in output
    content = json.loads((tmp_path / "list.json").read_text())
    assert content["damaged"] == ["damaged-step-00000005"]
    first, second, *_, last = content["checkpoints"]
    sizes = [path.stat().st_size for path in (run / "checkpoints" / "step-00000010").rglob("*") if path.is_file()]
    record = (run / "checkpoints" / "step-00000010" / "complete.json").stat().st_size
    assert first["bytes"] == sum(sizes) - record
    assert {key: first[key] for key in ("step", "samples", "tokens", "world_size", "zero_stage", "problem")} == {
        "step": 10, "samples": 80, "tokens": 1000, "world_size": 2, "zero_stage": 3, "problem": None
    }  # fmt: skip
    assert second["problem"]
    assert last["problem"]


def test_a_run_without_checkpoints_is_listed_and_another_folder_refused(tmp_path: Path, command: Any) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    assert command("list", tmp_path / "run") == (0, "no checkpoints\n")
    code, output = command("list", tmp_path)
    assert (code, "this is no run folder" in output) == (2, True)
    code, output = command("verify", tmp_path / "run")
    assert (code, "the run has no checkpoint" in output) == (1, True)
    code, output = command("list", tmp_path / "run", "--json", tmp_path / "nowhere" / "x.json")
    assert (code, "the folder does not exist" in output) == (2, True)


def test_verify_finds_every_difference_and_changes_nothing(run: Path, tmp_path: Path, command: Any) -> None:
    code, output = command("verify", run)
    assert code == 0
    assert output.count(": whole\n") == 4
    flip(run / "checkpoints" / "step-00000020" / "optimizer" / "state-00001-of-00002.safetensors")
    (run / "checkpoints" / "step-00000030" / "model" / "config.json").unlink()
    (run / "checkpoints" / "step-00000040" / "complete.json").unlink()
    before = names(run)
    code, output = command("verify", run, "--json", tmp_path / "verify.json")
    assert code == 1
    content = json.loads((tmp_path / "verify.json").read_text())
    assert content["whole"] is False
    problems = content["problems"]
    assert problems["step-00000010"] is None
    assert problems["step-00000020"].startswith("optimizer/state-00001-of-00002.safetensors has xxh3")
    assert problems["step-00000030"].startswith("model/config.json cannot be read")
    assert problems["step-00000040"] == "incomplete: no complete.json"
    assert all(f"{name}: {problem or 'whole'}\n" in output for name, problem in problems.items())
    assert names(run) == before
    assert command("verify", run, "--step", 10)[0] == 0
    assert command("verify", run, "--step", 20)[0] == 1
    code, output = command("verify", run, "--step", 11)
    assert (code, "no checkpoint of step 11" in output) == (1, True)


@settings(max_examples=30)
@given(
    steps=st.sets(st.integers(0, 60), min_size=1, max_size=8),
    incomplete=st.sets(st.integers(0, 60), max_size=4),
    keep_last=st.integers(1, 5),
    keep_every=st.integers(0, 20),
    damaged=st.booleans(),
)
def test_prune_keeps_what_it_says(
    steps: set[int], incomplete: set[int], keep_last: int, keep_every: int, damaged: bool
) -> None:
    with tempfile.TemporaryDirectory() as name:
        run = Path(name)
        kept = sorted(steps - incomplete)
        for step in kept:
            write_checkpoint(run, step, {"a": WEIGHTS["a"]})
        for step in incomplete:
            (run / "checkpoints" / f"step-{step:08d}" / "model").mkdir(parents=True)
        (run / "checkpoints" / "damaged-step-00000001").mkdir(parents=True)
        prune(run, keep_last=keep_last, keep_every=keep_every, damaged=damaged)
        expected = {step for step in kept[:-keep_last] if keep_every and step % keep_every == 0}
        expected |= set(kept[-keep_last:]) | (set() if damaged else incomplete)
        left = {f"step-{step:08d}" for step in expected} | (set() if damaged else {"damaged-step-00000001"})
        assert set(names(run)) == left
        if kept:
            assert f"step-{kept[-1]:08d}" in left


def test_prune_keeps_what_the_run_keeps_for_good(run: Path, tmp_path: Path, command: Any) -> None:
    code, output = command("prune", run, "--keep-last", 1, "--dry-run")
    assert (code, output.count("would delete")) == (0, 2)
    assert len(names(run)) == 4
    code, output = command("prune", run, "--keep-last", 1, "--json", tmp_path / "prune.json")
    assert code == 0
    assert names(run) == ["step-00000020", "step-00000040"]
    content = json.loads((tmp_path / "prune.json").read_text())
    assert list(content["folders"]) == ["step-00000010", "step-00000030"]
    assert min(content["folders"].values()) > 1000
    assert command("prune", run, "--keep-last", 1, "--keep-every", 0)[0] == 0
    assert names(run) == ["step-00000040"]


def test_prune_clears_up_after_one_that_was_killed(run: Path, command: Any) -> None:
    (run / "checkpoints" / ".pruned-x" / "step-00000001").mkdir(parents=True)
    assert command("prune", run, "--keep-last", 3)[0] == 0
    assert names(run) == [f"step-000000{step}" for step in (20, 30, 40)]


@pytest.mark.parametrize("file", ["complete.json", "model/weights-00000-of-00002.safetensors"])
def test_prune_does_not_leave_a_damaged_checkpoint_alone(run: Path, file: str, command: Any) -> None:
    flip(run / "checkpoints" / "step-00000040" / file)
    code, output = command("prune", run, "--keep-last", 1)
    assert code == 1
    assert "the newest checkpoint cannot be used" in output
    assert len(names(run)) == 4


def test_prune_refuses_what_is_not_clear(run: Path, command: Any) -> None:
    for arguments, expected in (
        ([], "nothing to delete was named"),
        (["--keep-every", 10, "--damaged"], "needed --keep-last N with it"),
        (["--keep-last", 0], "Invalid value"),
    ):
        code, output = command("prune", run, *arguments)
        assert (code, expected in output) == (2, True)
    (run / "recipe.toml").unlink()
    code, output = command("prune", run, "--keep-last", 1)
    assert (code, "it is not known which checkpoints the run keeps" in output) == (2, True)
    assert len(names(run)) == 4


def _own(run: Path, ready: Connection, end: Connection) -> None:
    Fence.take(run, {"job": "17"})
    ready.send(os.getpid())
    end.recv()


def test_prune_refuses_while_the_run_is_alive(run: Path, command: Any) -> None:
    ready, ready_there = FORK.Pipe(duplex=False)
    end_there, end = FORK.Pipe(duplex=False)
    owner = FORK.Process(target=_own, args=(run, ready_there, end_there), daemon=True)
    owner.start()
    pid = ready.recv()
    code, output = command("prune", run, "--keep-last", 1)
    assert code == 2
    assert f"the run seems to be in progress; found process {pid} on " in output
    (run / "attempts" / "attempt-00000002").mkdir()  # of a start that was killed before it could say who it is
    assert command("prune", run, "--keep-last", 1)[0] == 2
    assert len(names(run)) == 4
    assert command("prune", run, "--keep-last", 3, "--force")[0] == 0
    assert len(names(run)) == 3
    end.send(None)
    owner.join()
    assert command("prune", run, "--keep-last", 1)[0] == 0
    assert names(run) == ["step-00000020", "step-00000040"]


@pytest.mark.parametrize("written", ["attempt", "metrics.jsonl", "nothing"])
def test_a_run_on_another_host_is_judged_by_what_it_writes(run: Path, written: str, command: Any) -> None:
    fence = Fence.take(run, {})
    owner = json.loads((fence.work / "owner.json").read_text())
    (fence.work / "owner.json").write_text(json.dumps({**owner, "host": "elsewhere"}))
    (run / "metrics.jsonl").touch()
    for name, path in (("attempt", fence.work), ("metrics.jsonl", run / "metrics.jsonl")):
        seconds = time.time() - (500 if written == name else 700)
        os.utime(path, (seconds, seconds))
    code, output = command("prune", run, "--keep-last", 1)
    assert (code, "on elsewhere" in output) == ((0, False) if written == "nothing" else (2, True))
    assert len(names(run)) == (2 if written == "nothing" else 4)


def test_convert_from_the_command_line(run: Path, tmp_path: Path, command: Any) -> None:
    out = tmp_path / "out"
    code, output = command("convert", run, out, "--to", "universal", "--json", tmp_path / "c.json")
    assert code == 0
    assert "6 tensors" in output
    assert "the checkpoint has no recipe.toml" in output
    content = json.loads((tmp_path / "c.json").read_text())
    assert (content["step"], content["target"], content["folder"]) == (40, "universal", str(out))
    code, output = command("convert", run, out)
    assert (code, "the folder exists" in output) == (2, True)
    code, output = command("convert", run, tmp_path / "new", "--to", "zip")
    assert (code, "needed safetensors or universal" in output) == (2, True)
    flip(run / "checkpoints" / "step-00000010" / "model" / "mlc.json")
    code, output = command("convert", run / "checkpoints" / "step-00000010", tmp_path / "new")
    assert (code, "model/mlc.json has xxh3" in output) == (1, True)
    assert not (tmp_path / "new").exists()


def test_the_command_line_starts_without_torch() -> None:
    program = "import sys, mlc.cli; mlc.cli.build_app(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0
