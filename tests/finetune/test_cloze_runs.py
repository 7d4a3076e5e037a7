"""Fine-tuning a GLM's blank infilling on real ranks: exactness, few shots, adapters, resuming, evaluation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from finetune_for_tests import finetune_recipe, finetune_table, make_encoder, saved_weights, write_classes
from small_models import GLM, make_checkpoint
from training_processes import TrainingServer
from typer.testing import CliRunner

from mlc.checkpoint.record import step_name
from mlc.cli import build_app
from mlc.engine.metrics import is_clock, read_metrics
from mlc.errors import DataError, MlcError, RecipeError, UsageError
from mlc.finetune.work import Finetuning
from mlc.model.saving import load_training_model
from mlc.tasks.learned.models import load_finetuned
from mlc.tasks.locate import find_model

Table = dict[str, Any]
STEPS = 4
STARTED = "checkpoints/step-00000003/model"
WORDING = {"pattern": "{text} It was [MASK].", "verbalizer": {"low": "the", "middle": ["on", "a"], "high": "Tuesday"}}
ONE_TOKEN = {"pattern": "[MASK] {text}", "verbalizer": {"low": "the", "middle": "on", "high": "a"}}


def recipe_of(folder: Path, **changes: Table) -> Table:
    table = finetune_table(folder, task={"kind": "cloze"}, schedule={"total_steps": STEPS}, **{"cloze": WORDING})
    for section, values in {"checkpoint": {"min_free_gib": 0.0}, **changes}.items():
        table[section] = values if section == "cloze" else {**table.get(section, {}), **values}
    table["data"]["max_tokens"] = 48
    return table


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a start, and every run that the tests look at."""
    folder = tmp_path_factory.mktemp("cloze")
    make_checkpoint(folder / "start", 3, max_tokens=48)
    write_classes(folder / "train.jsonl", 60)
    write_classes(folder / "dev.jsonl", 30, first=100)
    dev = str(folder / "dev.jsonl")
    learning = {"learning_rate": 1e-2, "layer_decay": 0.9}
    few = recipe_of(
        folder,
        cloze=ONE_TOKEN,
        freeze={"layers": 1},
        data={"shots": 8, "dev": [dev], "test": [dev]},
        optimizer=learning,
        schedule={"total_steps": 40},
        evaluation={"every_steps": 20},
    )
    adapters = {"lora": {"rank": 2}, "optimizer": {"learning_rate": 1e-2}}
    runs: list[tuple[str, int, Table]] = [
        ("one", 1, recipe_of(folder)),
        ("two", 2, recipe_of(folder)),
        ("in-parts", 1, recipe_of(folder, schedule={"kind": "constant", "total_steps": 2})),
        ("in-parts", 1, recipe_of(folder, run={"allow_changes": ["schedule"]})),
        ("lora", 1, recipe_of(folder, **adapters)),
        ("few", 1, few),
    ]
    with TrainingServer(folder / "printed") as server:
        for name, world_size, table in runs:
            recipe = folder / "recipe.toml"
            recipe.write_text(tomli_w.dumps(table))
            training = server.start(recipe, folder / name, world_size=world_size, command="finetune")
            assert training.wait() == [0] * world_size, training.text
    return folder


def weights(run: Path, step: int = STEPS) -> dict[str, torch.Tensor]:
    return saved_weights(run / "checkpoints" / step_name(step) / "model")


def test_two_ranks_take_the_steps_of_one(folder: Path) -> None:
    one, two = read_metrics(folder / "one"), read_metrics(folder / "two")
    for name in ("loss", "grad_norm"):
        # fp32 sums in another order; a loss or gradient of the wrong scale is off by a factor of two.
        np.testing.assert_allclose([row[name] for row in two], [row[name] for row in one], rtol=2e-5)
    assert len({row["loss"] for row in one}) == STEPS


def test_a_run_goes_on_bit_for_bit(folder: Path) -> None:
    unbroken, resumed = weights(folder / "one"), weights(folder / "in-parts")
    assert all(torch.equal(resumed[name], value) for name, value in unbroken.items())
    rows = [
        [{key: value for key, value in row.items() if not is_clock(key)} for row in read_metrics(folder / name)]
        for name in ("one", "in-parts")
    ]
    assert rows[0] == rows[1]


def test_frozen_layers_stay_and_part_b_learns(folder: Path) -> None:
    trained, _ = load_training_model(folder / "start" / STARTED)
    before = {f"model.{name}": value for name, value in trained.backbone.state_dict().items()}
    before |= {name: value for name, value in trained.state_dict().items() if name.startswith("glm_")}
    after = weights(folder / "few", 40)
    assert after.keys() - before.keys() <= {"lm_head.weight"}
    frozen = {name for name in before if ".embeddings." in name or ".blocks.0." in name}
    assert len(frozen) > 5
    for name, value in before.items():
        assert torch.equal(after[name], value) == (name in frozen), name


def test_adapters_leave_the_backbone_alone_and_merge(folder: Path) -> None:
    trained, _ = load_training_model(folder / "start" / STARTED)
    backbone = trained.backbone.state_dict()
    after = {name.replace(".base_layer", ""): value for name, value in weights(folder / "lora").items()}
    assert all(torch.equal(after[f"base_model.model.model.{name}"], value) for name, value in backbone.items())
    loaded = load_finetuned(find_model(folder / "lora"))
    merged = dict(loaded.model.named_parameters())
    assert not torch.equal(merged["model.blocks.0.attention.value.weight"], backbone["blocks.0.attention.value.weight"])
    assert merged["model.embeddings.weight"] is loaded.model.lm_head.weight
    assert not torch.equal(merged["glm_bias.bias"], trained.state_dict()["glm_bias.bias"])


def evaluate(*arguments: str) -> Any:
    return CliRunner().invoke(build_app(), ["evaluate", "cloze", *arguments, "--threads", "1"])


def test_few_shots_are_learned_and_evaluated_alike(folder: Path, tmp_path: Path) -> None:
    test = json.loads((folder / "few" / "test.json").read_text())
    assert test["macro"]["value"] > 0.9  # a third by chance; the first word says the class
    dev, out = str(folder / "dev.jsonl"), str(tmp_path / "out.json")
    found = evaluate("--model", str(folder / "few"), "--data", dev, "--json", out)
    assert found.exit_code == 0, found.output
    report = json.loads(Path(out).read_text())
    assert report["scores"]["accuracy"]["value"] == pytest.approx(test["macro"]["value"])
    # Other words in the same blank: what was learned is of the words, so the classes are lost.
    (tmp_path / "words.toml").write_text(
        tomli_w.dumps({**ONE_TOKEN, "verbalizer": {"low": "on", "middle": "a", "high": "the"}})
    )
    words = ("--verbalizer", str(tmp_path / "words.toml"))
    found = evaluate("--model", str(folder / "few"), "--data", dev, "--json", out, *words)
    assert found.exit_code == 0, found.output
    assert json.loads(Path(out).read_text())["scores"]["accuracy"]["value"] < 0.1


def test_zero_shot_evaluation_of_a_pretrained_model(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "words.toml").write_text(tomli_w.dumps({"verbalizer": WORDING["verbalizer"]}))
    dev, out = str(folder / "dev.jsonl"), str(tmp_path / "out.json")
    given = ("--model", str(folder / "start"), "--data", dev, "--verbalizer", str(tmp_path / "words.toml"))
    found = evaluate(*given, "--pattern", str(WORDING["pattern"]), "--json", out)
    assert found.exit_code == 0, found.output
    report = json.loads(Path(out).read_text())
    assert report["task"] == "cloze"
    assert report["scores"]["accuracy"]["n"] == 30
    assert "accuracy_zero_shot" not in report["scores"]
    refused = evaluate(*given)
    assert isinstance(refused.exception, RecipeError)
    assert "pattern is missing" in str(refused.exception)
    bare = evaluate("--model", str(folder / "start"), "--data", dev)
    assert isinstance(bare.exception, UsageError)
    assert "--verbalizer" in str(bare.exception)
    half = evaluate("--model", str(folder / "few"), "--data", dev, "--pattern", "{text} [MASK]")
    assert isinstance(half.exception, UsageError)


def refusal(folder: Path, **changes: Table) -> MlcError:
    table = recipe_of(folder, **changes)
    work = Finetuning(finetune_recipe(folder, **{**table, "run": {"folder": str(folder / "new")}}))
    with pytest.raises(MlcError) as refused:
        work.check(1)
    return refused.value


def test_models_without_part_b_are_refused(folder: Path, tmp_path: Path) -> None:
    make_encoder(tmp_path / "xlmr")
    assert "no Part B" in str(refusal(folder, model={"start": str(tmp_path / "xlmr")}))
    untrained = tmp_path / "untrained"
    shutil.copytree(folder / "start" / STARTED, untrained)
    info = json.loads((untrained / "mlc.json").read_text())
    (untrained / "mlc.json").write_text(json.dumps({**info, "objectives": {"glm": {"weight": 0.0}}}))
    assert "not trained to fill blanks" in str(refusal(folder, model={"start": str(untrained)}))
    other = {**info, "model": {**GLM.model_dump(mode="json"), "architecture": "huggingface"}}
    (untrained / "mlc.json").write_text(json.dumps(other))
    assert "no Part B" in str(refusal(folder, model={"start": str(untrained)}))


def test_labels_without_words_are_refused(folder: Path) -> None:
    lacking = {**WORDING, "verbalizer": {"low": "the", "middle": "on"}}
    found = refusal(folder, cloze=lacking)
    assert isinstance(found, DataError)
    assert "high" in str(found)
    assert "train.jsonl:3" in str(found)
    pair = refusal(folder, cloze={**WORDING, "pattern": "{text} [MASK] {text_pair}"})
    assert "train.jsonl:1" in str(pair)


@pytest.mark.parametrize("kind", ["cloze", "classification"])
def test_kind_and_wording_need_each_other(folder: Path, kind: str) -> None:
    table = recipe_of(folder)
    table["task"] = {"kind": kind}
    if kind == "cloze":
        del table["cloze"]
    with pytest.raises(RecipeError, match="need each other"):
        finetune_recipe(folder, **table)
