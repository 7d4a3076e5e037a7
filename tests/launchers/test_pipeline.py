"""Pipelines: stages in order, refused whole, and each one's job waits for those it names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from recipes_for_tests import ROOT, recipe_table
from small_shards import write_small_shards
from submissions_for_tests import NotingClients, call_mlc, tree

from launchers.pipeline import read_pipeline, requests_of
from launchers.settings import Resources, Site
from mlc.errors import RecipeError

FIRST = {"name": "first", "kind": "command", "command": ["true"], "folder": "first"}
SECOND = {**FIRST, "name": "second", "folder": "second", "after": ["first"]}
TRAIN = {"name": "train", "kind": "train", "recipe": "run.toml", "after": ["first"]}
PREP = {"name": "prep", "kind": "prep", "recipe": "prep.toml"}


def write(path: Path, *stages: dict[str, Any], **more: Any) -> Path:
    path.write_bytes(tomli_w.dumps({"stage": list(stages), **more}).encode())
    return path


@pytest.mark.parametrize(
    ("stages", "complaint"),
    [
        ([], "stage"),
        ([SECOND, FIRST], "stage second waits for first, which is no stage above it"),
        ([{**FIRST, "after": ["first"]}], "stage first waits for first, which is no stage above it"),
        ([FIRST, {**SECOND, "after": ["frist"]}], "stage second waits for frist, which is no stage above it"),
        ([FIRST, FIRST], "two stages are called first"),
        ([{**FIRST, "comand": ["x"]}], "did you mean command?"),
        ([{"name": "a", "kind": "command"}], "stage a is of kind command and needs command and folder"),
        ([{"name": "a", "kind": "train"}], "stage a is of kind train and needs recipe"),
        ([{**FIRST, "recipe": "x", "tasks": 3}], "stage first is of kind command and has no recipe or tasks"),
        ([{**PREP, "folder": "x"}], "stage prep is of kind prep and has no folder"),
        ([{**PREP, "start": "torchrun"}], "start is one of ('srun', 'mpi')"),
        ([{**PREP, "kind": "train", "start": "mpi"}], "start is one of ('srun', 'torchrun')"),
        ([{**PREP, "kind": "train", "tasks": 2}], "tasks belong to prep"),
        ([{**FIRST, "name": "a b"}], "name"),
        ([{**FIRST, "kind": "finetune"}], "kind"),
    ],
)
def test_pipelines_that_are_refused(stages: list[dict[str, Any]], complaint: str, tmp_path: Path) -> None:
    path = write(tmp_path / "pipeline.toml", *stages)
    with pytest.raises(RecipeError) as refusal:
        read_pipeline(path)
    assert complaint in str(refusal.value)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize(
    "last",
    [
        {**TRAIN, "set": ["optimizer.learning_rat=1"]},
        {**TRAIN, "recipe": "nowhere.toml"},
        {**TRAIN, "after": [], "set": ["data.shards=nowhere"]},
        {**SECOND, "resources": {"nodes": "4-2"}},
        {**SECOND, "resources": {"node": "4"}},
        {**SECOND, "folder": "back\\slash"},
        {**SECOND, "command": ["a\0b"]},
    ],
    ids=str,
)
def test_a_stage_that_is_refused_keeps_all_from_being_submitted(
    last: dict[str, Any], clients: NotingClients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_small_shards(tmp_path / "shards")
    (tmp_path / "run.toml").write_bytes(tomli_w.dumps(recipe_table()).encode())
    write(tmp_path / "pipeline.toml", FIRST, last)
    before = tree(tmp_path)
    assert call_mlc(["submit", "--pipeline", "pipeline.toml"], monkeypatch) == 2
    assert not clients.calls()
    assert tree(tmp_path) == before


def test_every_job_waits_for_those_that_its_stage_names(
    clients: NotingClients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Shards are not asked for: the run waits for whatever makes them.
    (tmp_path / "run.toml").write_bytes(tomli_w.dumps(recipe_table()).encode())
    write(tmp_path / "pipeline.toml", FIRST, TRAIN, {**SECOND, "after": ["first", "train"]})
    assert call_mlc(["submit", "--site", str(write_site(tmp_path)), "--pipeline", "pipeline.toml"], monkeypatch) == 0
    assert re.findall(r"^job 17: (\w+)", capsys.readouterr().out, re.MULTILINE) == ["command", "train", "command"]
    found = {}
    for name in ("first", "run", "second"):
        folder = tmp_path / name / "slurm" / "submit-00001"
        found[name] = re.findall(r"^#SBATCH --dependency=(.*)$", (folder / "job.sbatch").read_text(), re.MULTILINE)
        assert json.loads((folder / "submit.json").read_text())["job_ids"] == ["17"]
    assert found == {"first": [], "run": ["afterok:17"], "second": ["afterok:17:17"]}


def write_site(folder: Path) -> Path:
    path = folder / "site.toml"
    path.write_text("[resources]\ngpus_per_node = 8\npartition = 'gpu'\n")
    return path


def test_a_stages_resources_come_before_the_sites_and_prep_takes_no_gpus(
    clients: NotingClients, tmp_path: Path
) -> None:
    (tmp_path / "prep.toml").write_text(
        '[build]\noutput="o"\n[tokenizer]\nvocab_size=300\n[[documents]]\nlanguage="en"\npaths=["x"]\n'
    )
    site = Site(resources=Resources(gpus_per_node=8, partition="gpu", time="10:00"))
    stages = (FIRST, PREP, {**PREP, "name": "with", "resources": {"gpus_per_node": 1, "partition": "cpu"}})
    pipeline = read_pipeline(write(tmp_path / "pipeline.toml", *stages))
    found = {name: request.resources for name, request in requests_of(pipeline, site, {})}
    assert [(each.gpus_per_node, each.partition, each.time) for each in found.values()] == [
        (8, "gpu", "10:00"),
        (0, "gpu", "10:00"),
        (1, "cpu", "10:00"),
    ]


def test_the_shipped_pipeline_is_shown_by_a_dry_run(
    clients: NotingClients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("recipes", "ds_configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    before = set(tmp_path.iterdir())
    options = ["--site", str(write_site(tmp_path.parent)), "--dry-run"]
    assert call_mlc(["submit", *options, "--pipeline", "recipes/demo_pipeline.toml"], monkeypatch) == 0
    printed = capsys.readouterr().out
    assert re.findall(r"^# ==== stage (\w+)$", printed, re.MULTILINE) == ["corpus", "shards", "joint", "retrieval"]
    waits = re.findall(r"^#SBATCH --dependency=afterok:JOB_OF_(\w+)$", printed, re.MULTILINE)
    assert waits == ["corpus", "shards", "joint"]
    assert "--gpus-per-node" not in printed
    assert set(tmp_path.iterdir()) == before
    assert not clients.calls()
