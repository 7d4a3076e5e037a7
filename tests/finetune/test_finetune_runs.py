"""Fine-tuning on real ranks under ZeRO-3: exactness, frozen parts, adapters, resuming, scores on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from finetune_for_tests import (
    finetune_table,
    make_encoder,
    saved_weights,
    write_classes,
    write_questions,
    write_scores,
    write_words,
)
from training_processes import TrainingServer
from transformers import AutoModelForSequenceClassification

from mlc.checkpoint.record import step_name
from mlc.engine.metrics import is_clock, read_lines, read_metrics
from mlc.model.adapters import LoraSettings, merge_adapters
from mlc.model.saving import read_info
from mlc.tasks.learned.models import empty_model, load_finetuned
from mlc.tasks.locate import FORMATS, find_model

STEPS = 6
Table = dict[str, Any]


def recipe_of(folder: Path, **changes: Table) -> Table:
    return finetune_table(folder, **{**changes, "checkpoint": {"min_free_gib": 0.0}})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a start, and every run that the tests look at: two starts of two ranks, one of one."""
    folder = tmp_path_factory.mktemp("finetune")
    make_encoder(folder / "start")
    write_classes(folder / "train.jsonl", 40)
    write_classes(folder / "dev.jsonl", 20, first=100)
    write_words(folder / "words.jsonl")
    write_questions(folder / "questions.jsonl")
    write_scores(folder / "scores.jsonl")
    scored = {"dev": [str(folder / "dev.jsonl")], "test": [str(folder / "dev.jsonl")]}
    frozen, constant = {"layers": 1}, {"kind": "constant"}
    gradual = {"unfreeze_every_steps": 2}
    patient = recipe_of(
        folder, data=scored, evaluation={"every_steps": 1, "patience": 2}, optimizer={"learning_rate": 1e-9}
    )
    runs: list[tuple[str, int, Table]] = [
        ("one", 1, recipe_of(folder)),
        ("two", 2, recipe_of(folder)),
        ("frozen", 2, recipe_of(folder, freeze=frozen)),
        ("frozen-in-parts", 2, recipe_of(folder, freeze=frozen, schedule={**constant, "total_steps": 3})),
        ("frozen-in-parts", 2, recipe_of(folder, freeze=frozen, run={"allow_changes": ["schedule"]})),
        ("lora", 2, recipe_of(folder, lora={"rank": 4, "alpha": 8.0}, optimizer={"learning_rate": 1e-2})),
        ("gradual-2", 1, recipe_of(folder, freeze=gradual, schedule={**constant, "total_steps": 2})),
        ("gradual-4", 1, recipe_of(folder, freeze=gradual, schedule={**constant, "total_steps": 4})),
        ("scored", 2, recipe_of(folder, data=scored, evaluation={"every_steps": 2})),
        ("patient", 1, patient),
        ("patient", 1, patient),
        *(
            (kind, 2, recipe_of(folder, task={"kind": kind}, data={"train": [path], "dev": [path], "test": [path]}))
            for kind, path in (
                ("token_classification", str(folder / "words.jsonl")),
                ("question_answering", str(folder / "questions.jsonl")),
                ("regression", str(folder / "scores.jsonl")),
            )
        ),
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


def start_weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(AutoModelForSequenceClassification.from_pretrained(folder / "start").state_dict())


def test_two_ranks_take_the_steps_of_one(folder: Path) -> None:
    one, two = read_metrics(folder / "one"), read_metrics(folder / "two")
    for name in ("loss", "grad_norm"):
        # fp32 sums in another order; a loss or gradient of the wrong scale is off by a factor of two.
        np.testing.assert_allclose([row[name] for row in two], [row[name] for row in one], rtol=2e-5)


def test_frozen_parts_stay_bit_identical_and_others_learn(folder: Path) -> None:
    before, after = start_weights(folder), weights(folder / "frozen")
    frozen = [name for name in before if ".embeddings." in name or ".layer.0." in name]
    assert len(frozen) > 10
    for name, value in before.items():
        assert torch.equal(after[name], value) == (name in frozen), name


def test_frozen_parts_stay_so_through_a_checkpoint(folder: Path) -> None:
    unbroken, resumed = weights(folder / "frozen"), weights(folder / "frozen-in-parts")
    assert all(torch.equal(resumed[name], value) for name, value in unbroken.items())
    rows = [
        [{key: value for key, value in row.items() if not is_clock(key)} for row in read_metrics(folder / name)]
        for name in ("frozen", "frozen-in-parts")
    ]
    assert rows[0] == rows[1]


def test_layers_unfreeze_from_the_top(folder: Path) -> None:
    before = start_weights(folder)

    def changed(run: str, step: int) -> set[str]:
        after = weights(folder / run, step)
        moved = {name for name, value in before.items() if not torch.equal(after[name], value)}
        return {part for part in ("classifier", "layer.1.", "layer.0.", "embeddings") if any(part in n for n in moved)}

    assert changed("gradual-2", 2) == {"classifier"}
    assert changed("gradual-4", 4) == {"classifier", "layer.1."}


def test_adapters_leave_the_encoder_alone_and_merge(folder: Path) -> None:
    before, after = start_weights(folder), weights(folder / "lora")
    inner = {name.removeprefix("base_model.model.").replace(".base_layer", ""): name for name in after}
    base = [name for name in before if name.startswith("roberta.")]
    assert all(torch.equal(after[inner[name]], before[name]) for name in base)
    adapters = {name: value for name, value in after.items() if "lora_B" in name}
    assert all(value.abs().sum() > 0 for value in adapters.values())
    # The head has a layer `dense` too, and learns as a whole.
    assert {name.split(".lora_B")[0].rpartition(".")[2] for name in adapters} == {"query", "key", "value", "dense"}
    assert all(".roberta.encoder.layer." in name for name in adapters)

    source = find_model(folder / "lora")
    settings = LoraSettings.from_json(read_info(source.folder, FORMATS)["lora"], "test")
    loaded = load_finetuned(source)
    wrapped = empty_model(source.folder, loaded.task, settings)
    wrapped.load_state_dict(after, strict=False)
    ids = torch.arange(5, 25).view(2, 10)
    with torch.inference_mode():
        apart = wrapped.eval()(input_ids=ids).logits
        together = loaded.model(input_ids=ids).logits
        without = AutoModelForSequenceClassification.from_pretrained(folder / "start").eval()(input_ids=ids).logits
    # W x + s B (A x) against (W + s B A) x: fp32 rounding of sums of 32 to 64 products.
    assert torch.allclose(apart, together, atol=1e-5)
    assert (together - without).abs().max() > 1e-2
    delta = wrapped.get_submodule("base_model.model.roberta.encoder.layer.0.attention.self.query")
    product = delta.base_layer.weight + 2.0 * delta.lora_B["default"].weight @ delta.lora_A["default"].weight
    merged = merge_adapters(wrapped).roberta.encoder.layer[0].attention.self.query.weight
    assert torch.equal(merged, product)


def test_scores_choose_the_best_checkpoint(folder: Path) -> None:
    run = folder / "scored"
    lines = read_lines(run / "scores.jsonl")
    assert [line["step"] for line in lines] == [2, 4, 6]
    best = max(lines, key=lambda line: (line["value"], -line["step"]))
    assert (run / "checkpoints" / "best").read_text().strip() == step_name(best["step"])
    assert find_model(run).step == best["step"]
    test = json.loads((run / "test.json").read_text())
    assert test["step"] == best["step"]
    assert test["macro"]["value"] == pytest.approx(best["value"])  # the same examples, once under the engine's ZeRO-3


def test_patience_ends_a_run_that_learns_nothing_and_it_stays_ended(folder: Path) -> None:
    run = folder / "patient"
    assert [line["step"] for line in read_lines(run / "scores.jsonl")] == [1, 2, 3]
    assert read_metrics(run)[-1]["step"] == 3
    assert "no better score" in json.loads((run / "exit.json").read_text())["reason"]


@pytest.mark.parametrize("kind", ["token_classification", "question_answering", "regression"])
def test_every_kind_learns_and_is_scored(folder: Path, kind: str) -> None:
    losses = [row["loss"] for row in read_metrics(folder / kind)]
    assert losses[-1] < losses[0]
    test = json.loads((folder / kind / "test.json").read_text())
    assert np.isfinite(test["macro"]["value"])
