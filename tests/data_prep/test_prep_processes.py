"""One build by many processes, however they were started, killed or started again: the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_corpus import build_in, text

import data_prep.build
from data_prep.command import build
from data_prep.plan import plan_shards
from data_prep.recipe import PrepRecipe
from data_prep.units import plan_units
from mlc.config import read_recipe
from mlc.data.manifest import Manifest
from mlc.errors import DataError, MlcError, ShardError

SETTINGS = (
    "build.unit_bytes=700",
    "duplicates.exact=true",
    "duplicates.near=true",
    "cleaning.length.smallest_characters=5",
)
"""Many units, and every stage but that of evaluation sets."""


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "build.json"
    }


@pytest.fixture
def larger(corpus: Path) -> Path:
    """With a plain file of many units, bad lines and repeated documents."""
    rows = [json.dumps({"id": f"m{i}", "text": text("en", i % 90, 30)}) for i in range(120)]
    for place in (20, 60, 100):
        rows[place] = '{"id": "broken'
    (corpus / "corpus/plain.jsonl").write_text("\n".join(rows) + "\n")
    recipe = (corpus / "prep.toml").read_text()
    (corpus / "prep.toml").write_text(
        recipe + f'\n[[documents]]\nlanguage = "en"\npaths = ["{corpus}/corpus/plain.jsonl"]\n'
    )
    return corpus


def arguments(corpus: Path, output: str, *overrides: str) -> list[str]:
    command = [sys.executable, "-m", "mlc", "prep", "build", str(corpus / "prep.toml")]
    for override in (f"build.output={corpus / output}", "build.max_rejected_fraction=0.05", *SETTINGS, *overrides):
        command += ["--set", override]
    return command


def build_alone(corpus: Path, output: str) -> Manifest:
    return build_in(corpus, output, "build.max_rejected_fraction=0.05", *SETTINGS)


def test_every_stage_does_something(larger: Path) -> None:
    manifest = build_alone(larger, "out")
    entry = manifest.entry("documents/en")
    assert entry.dropped == {"broken_json": 3, "exact_duplicate": 28}
    assert entry.documents == 42 + 120 - 31
    plans = plan_shards(read_recipe(larger / "prep.toml", PrepRecipe), "prep.toml")
    assert len(plan_units(plans, 700)[plans[1].name]) > 10
    rows = [json.loads(line) for line in (larger / "out/rejected/documents/en.jsonl").read_text().splitlines()]
    assert [row["line"] for row in rows if row["reason"] == "broken_json"] == [21, 61, 101]
    assert not (larger / "out/.work").exists()


@pytest.mark.slow
def test_workers_and_job_arrays_write_the_bytes_of_one_process(larger: Path) -> None:
    build_alone(larger, "alone")
    done = subprocess.run([*arguments(larger, "pool"), "--workers", "3"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert hashes(larger / "pool") == hashes(larger / "alone")
    ways = {
        "array": ({"SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "0"}, "SLURM_ARRAY_TASK_ID"),
        "srun": ({"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "3"}, "SLURM_PROCID"),
    }
    for way, (environ, number_name) in ways.items():
        tasks = [
            subprocess.Popen(
                arguments(larger, way),
                env={**os.environ, **environ, number_name: str(number)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for number in range(3)
        ]
        outputs = [task.communicate(timeout=120)[0] for task in tasks]
        assert [task.returncode for task in tasks] == [0, 0, 0], outputs
        assert hashes(larger / way) == hashes(larger / "alone")


@pytest.mark.slow
def test_killed_at_random_moments_and_started_again(larger: Path) -> None:
    build_alone(larger, "alone")
    generator, kills = random.Random(1), 0
    for _ in range(4):
        process = subprocess.Popen(
            [*arguments(larger, "killed"), "--workers", "2"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            process.wait(generator.uniform(1.0, 4.0))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
    assert kills > 0
    build_in(larger, "killed", "build.max_rejected_fraction=0.05", *SETTINGS)
    assert hashes(larger / "killed") == hashes(larger / "alone")


def test_units_of_another_size_are_the_same_shards(larger: Path) -> None:
    """But for the tokenizer's sample where a language has more text than it takes, which is not so here."""
    one = build_alone(larger, "one")
    other = build_in(larger, "other", "build.max_rejected_fraction=0.05", *SETTINGS[1:])
    assert [entry.files for entry in one.shards] == [entry.files for entry in other.shards]


def test_a_source_that_changes_on_the_way_is_refused(larger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from data_prep import stages

    real = stages.Stages.encode

    def encode(self: stages.Stages) -> list[stages.Task]:
        with (larger / "corpus/plain.jsonl").open("a") as file:
            file.write('{"text": "one more"}\n')
        return real(self)

    monkeypatch.setattr(stages.Stages, "encode", encode)
    with pytest.raises(DataError, match="a source file has changed since this build began"):
        build_alone(larger, "out")
    monkeypatch.undo()
    assert build_alone(larger, "out").entry("documents/en").documents == 42 + 121 - 31


def test_the_failure_of_one_ends_the_others(corpus: Path) -> None:
    (corpus / "corpus/en-de.jsonl").write_text("{broken\n" * 30)
    with pytest.raises(MlcError, match=r"pairs/en-de has no usable record|records of pairs/en-de") as error:
        build(corpus / "prep.toml", ["build.unit_bytes=700"], workers=2)
    assert "another process" not in str(error.value)


def test_a_unit_whose_files_were_damaged_is_done_again(larger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = ("build.max_rejected_fraction=0.05", *SETTINGS)
    whole = build_in(larger, "whole", *overrides)

    def fail(*arguments: object) -> None:
        raise MlcError("on purpose")

    with monkeypatch.context() as patched:
        patched.setattr("data_prep.stages.join_shard", fail)
        with pytest.raises(MlcError, match="on purpose"):
            build_in(larger, "out", *overrides)
    next((larger / "out/.work/units").glob("*.bin")).unlink()
    with pytest.raises(ShardError, match="missing or damaged"):
        build_in(larger, "out", *overrides)
    assert build_in(larger, "out", *overrides).sha256 == whole.sha256


def test_a_late_process_does_not_build_again(larger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has seen no manifest, then the others finish and clear their work away, then it looks for something to do."""
    overrides = ("build.max_rejected_fraction=0.05", *SETTINGS)
    plan, encoded = data_prep.build.plan_units, []

    def meanwhile(*arguments: Any) -> Any:
        monkeypatch.setattr("data_prep.build.plan_units", plan)
        build_in(larger, "out", *overrides)
        monkeypatch.setattr("data_prep.stages.encode_unit", encoded.append)
        return plan(*arguments)

    monkeypatch.setattr("data_prep.build.plan_units", meanwhile)
    late = build_in(larger, "out", *overrides)
    assert late.sha256 == Manifest.read(larger / "out").sha256
    assert encoded == []
    assert not (larger / "out/.work").exists()
