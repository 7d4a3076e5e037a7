"""What `mlc` refuses, before any model is built: exit code 2 and a message that says what to do."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from recipes_for_tests import ROOT, recipe_table
from small_shards import write_small_shards

from mlc import cli

Edit = Callable[[dict[str, Any], Path], None]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "shards"
    write_small_shards(folder)
    return folder


def _run(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    def build(*_: object, **__: object) -> None:
        raise AssertionError("a model was built")

    monkeypatch.setattr("mlc.engine.construct.build_training_model", build)
    monkeypatch.setattr(sys, "argv", ["mlc", *arguments])
    for variable in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(SystemExit) as ending:
        cli.main()
    output = capsys.readouterr()
    return int(ending.value.code or 0), output.out + output.err


def _unknown_key(table: dict[str, Any], folder: Path) -> None:
    table["optimizer"]["learning_rat"] = 1.0


def _missing_shard(table: dict[str, Any], folder: Path) -> None:
    write_small_shards(folder / "incomplete")
    (folder / "incomplete" / "documents" / "bb.bin").unlink()
    table["data"]["shards"] = str(folder / "incomplete")


def _missing_tokenizer(table: dict[str, Any], folder: Path) -> None:
    write_small_shards(folder / "incomplete")
    (folder / "incomplete" / "tokenizer.model").unlink()
    table["data"]["shards"] = str(folder / "incomplete")


def _changed_tokenizer(table: dict[str, Any], folder: Path) -> None:
    write_small_shards(folder / "changed")
    (folder / "changed" / "tokenizer.model").write_bytes(b"another one")
    table["data"]["shards"] = str(folder / "changed")


def _no_shards(table: dict[str, Any], folder: Path) -> None:
    table["data"]["shards"] = str(folder / "nowhere")


def _small_batch(table: dict[str, Any], folder: Path) -> None:
    table["data"]["samples_per_step"] = 2
    table["data"]["micro_batches"] = 3
    table["objectives"]["contrastive"]["weight"] = 0.0


def _contradiction(table: dict[str, Any], folder: Path) -> None:
    content = json.loads((ROOT / "ds_configs" / "zero3.json").read_text())
    (folder / "zero.json").write_text(json.dumps({**content, "gradient_clipping": 5.0}))
    table["deepspeed"]["config"] = str(folder / "zero.json")


def _change(section: str, **values: Any) -> Edit:
    """An edit that replaces keys of one section."""

    def edit(table: dict[str, Any], folder: Path) -> None:
        table[section] = {**table.get(section, {}), **values}

    return edit


def _all(*edits: Edit) -> Edit:
    def edit(table: dict[str, Any], folder: Path) -> None:
        for one in edits:
            one(table, folder)

    return edit


def _stage_2(table: dict[str, Any], folder: Path) -> None:
    table["deepspeed"]["config"] = str(ROOT / "ds_configs" / "zero2.json")


QUEUE = {"weight": 1.0, "queue": {"size": 64}}


def _foreign_tokenizer(table: dict[str, Any], folder: Path) -> None:
    config = json.loads((ROOT / "recipes" / "encoders" / "xlm_roberta_tiny.json").read_text())
    model = folder / "bert"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({**config, "model_type": "bert", "vocab_size": 100}))
    table["model"] = {"architecture": "huggingface", "path": str(model)}
    table["objectives"]["glm"]["weight"] = 0.0


def _other_tokenizer(table: dict[str, Any], folder: Path) -> None:
    _foreign_tokenizer(table, folder)
    config = json.loads((folder / "bert" / "config.json").read_text())
    (folder / "bert" / "config.json").write_text(json.dumps({**config, "vocab_size": 200}))
    (folder / "bert" / "spiece.model").write_bytes(b"not the shards' tokenizer")


def _offset_ids(table: dict[str, Any], folder: Path) -> None:
    model = folder / "xlmr"
    model.mkdir()
    (model / "config.json").write_text((ROOT / "recipes" / "encoders" / "xlm_roberta_tiny.json").read_text())
    table["model"] = {"architecture": "huggingface", "path": str(model)}
    table["objectives"]["glm"]["weight"] = 0.0


REFUSALS: dict[str, tuple[Edit, list[str]]] = {
    "unknown key": (_unknown_key, ["unknown key optimizer.learning_rat; did you mean learning_rate?"]),
    "missing shard": (_missing_shard, ["bb.bin", "no such file", "next: mlc prep verify"]),
    "missing tokenizer": (_missing_tokenizer, ["tokenizer.model", "no such file"]),
    "changed tokenizer": (_changed_tokenizer, ["the shards' tokenizer is missing or another one"]),
    "no shards": (_no_shards, ["no finished shards here", "next: mlc prep build"]),
    "fewer samples than ranks": (_small_batch, ["samples_per_step = 2", "1 ranks x 3 micro-batches", "next: --set"]),
    "contradicting DeepSpeed file": (
        _contradiction,
        ["gradient_clipping = 5.0", 'needed "auto"', "the recipe owns it"],
    ),
    "two contrasts": (_change("objectives", micro_batch_contrastive={"weight": 1.0}), ["choose one"]),
    "queue below stage 3": (
        _all(_change("objectives", contrastive=QUEUE), _stage_2),
        ["needs ZeRO stage 3", "found stage 2", "next: --set deepspeed.config"],
    ),
    "queue smaller than the batch": (
        _change("objectives", contrastive={"weight": 1.0, "queue": {"size": 4}}),
        ["queue.size = 4", "data.samples_per_step = 8"],
    ),
    "queue without the contrast": (
        _change("objectives", contrastive={"weight": 0.0, "queue": {"size": 64}}),
        ["queue.size needs contrastive.weight > 0"],
    ),
    "hard negatives from nowhere": (
        _change("objectives", contrastive={"weight": 1.0, "hard_negatives": 2}),
        ["hard_negatives = 2", 'view = "ranked"'],
    ),
    "temperature out of its bounds": (
        _change("objectives", contrastive={"weight": 1.0, "learn_temperature": True, "temperature": 2.0}),
        ["temperature = 2.0", "strictly between temperature_bounds = [0.01, 1.0]"],
    ),
    "perturbation over micro-batches": (
        _all(_change("objectives", perturbation={"weight": 1.0}), _change("data", micro_batches=2)),
        ["objectives.perturbation needs data.micro_batches = 1, found 2"],
    ),
    "cosines over micro-batches": (
        _all(_change("log", gradient_cosine_every=5), _change("data", micro_batches=2)),
        ["log.gradient_cosine_every needs data.micro_batches = 1, found 2"],
    ),
    "cosines below stage 3": (_all(_change("log", gradient_cosine_every=5), _stage_2), ["stage 3", "found stage 2"]),
    "cosines with perturbation": (
        _all(_change("log", gradient_cosine_every=5), _change("objectives", perturbation={"weight": 1.0})),
        ["exclude each other"],
    ),
    "one language for the adversary": (
        _all(
            _change("objectives", language_adversary={"weight": 1.0}),
            _change("data", sources=[{"kind": "documents", "view": "spans", "languages": ["aa"]}]),
        ),
        ["the language adversary has nothing to tell apart", "found aa"],
    ),
    "joined views for nobody": (
        _change("objectives", join_views=True, glm={"weight": 0.0}, mlm={"weight": 0.0}),
        ["join_views needs glm.weight or mlm.weight"],
    ),
    "no kind of blank": (
        _change("objectives", glm={"weight": 1.0, "token_share": 0.0}),
        ["token_share, sentence_share and document_share are all 0"],
    ),
    "another vocabulary": (_foreign_tokenizer, ["found 200 ids", "needed at most 110 ids"]),
    "another tokenizer": (_other_tokenizer, ["found 200 ids", "another tokenizer than the model's"]),
    "offset ids": (
        _offset_ids,
        ["of type xlm-roberta", "or a model with SentencePiece's own ids", "next: build the shards with [tokenizer]"],
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_train_refuses(
    name: str, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    edit, expected = REFUSALS[name]
    table = recipe_table(run={"folder": str(tmp_path / "run")}, data={"shards": str(shards)})
    edit(table, tmp_path)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(tomli_w.dumps(table))
    code, output = _run(["train", str(recipe)], monkeypatch, capsys)
    assert code == 2, output
    for part in expected:
        assert part in output
    assert not (tmp_path / "run").exists()


def test_fewer_samples_than_ranks_is_refused_on_three_ranks(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The count of ranks comes from the launcher; no process has to wait for another to hear of it."""
    from recipes_for_tests import train_recipe

    from mlc.engine.preflight import check_run
    from mlc.errors import RecipeError

    recipe = train_recipe(data={"shards": str(shards), "samples_per_step": 2})
    with pytest.raises(RecipeError, match="samples_per_step = 2 on 3 ranks"):
        check_run(recipe, 3)


def test_other_commands_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prep = str(ROOT / "recipes" / "demo_prep.toml")
    for arguments, expected in (
        (["train", "missing.toml"], "missing.toml: the recipe cannot be read"),
        (["check", "recipe", prep], "this is a recipe for mlc prep build"),
        (["check", "identical", str(tmp_path), str(tmp_path)], "this run folder has no metrics"),
        (["prep", "verify", str(tmp_path)], "no finished shards here"),
        (["train"], "Missing argument"),
    ):
        code, output = _run(arguments, monkeypatch, capsys)
        assert code == 2, output
        assert expected in output


def test_a_resolved_recipe_resolves_to_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in sorted((ROOT / "recipes").glob("*.toml")):
        if path.name.endswith(("_prep.toml", "_pipeline.toml")) or path.name in (
            "study_objectives.toml",
            "study_lambda.toml",
        ):
            continue
        monkeypatch.setattr(sys, "argv", ["mlc", "check", "recipe", str(path)])
        with pytest.raises(SystemExit):
            cli.main()
        resolved = capsys.readouterr().out
        again = tmp_path / path.name
        again.write_text(resolved)
        monkeypatch.setattr(sys, "argv", ["mlc", "check", "recipe", str(again)])
        with pytest.raises(SystemExit):
            cli.main()
        assert capsys.readouterr().out == resolved


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["train"],
        ["check", "recipe"],
        ["check", "identical"],
        ["check", "gradients"],
        ["prep", "build"],
        ["evaluate", "retrieval"],
        ["export"],
        ["checkpoints", "list"],
        ["checkpoints", "verify"],
        ["checkpoints", "prune"],
        ["checkpoints", "convert"],
    ],
    ids=" ".join,
)
def test_every_command_has_help_with_an_example(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, output = _run([*arguments, "--help"], monkeypatch, capsys)
    assert code == 0
    assert "Usage" in output
    if arguments:
        assert f"mlc {' '.join(arguments)} " in output.replace("\n", " ")
