"""Runs of `mlc train` that start from another model, as real processes: from a run, deeper, with another tokenizer."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from faults_for_tests import Fault
from recipes_for_tests import ROOT, train_recipe
from sentencepiece import SentencePieceProcessor
from small_models import train_tokenizer
from small_shards import write_small_shards
from start_models import saved
from torch import Tensor
from training_processes import TrainingServer, assert_same_end, final_checkpoint, write_recipe

from mlc.checkpoint.record import step_name
from mlc.data.manifest import Manifest
from mlc.engine.check_gradients import CheckSettings, small_recipe
from mlc.engine.pretraining import Pretraining
from mlc.engine.start_from import check_start, find_start, verified
from mlc.errors import EXIT_SAVED, CheckpointError, MlcError, RecipeError
from mlc.model.saving import WeightReader, read_info
from mlc.tensor_files import PieceReader, read_whole

STEPS = 4
MODEL = {"layers": 2, "hidden_size": 32, "heads": 2, "feed_forward_size": 64}
BASE: dict[str, dict[str, Any]] = {
    "run": {"precision": "bf16"},
    "model": {**MODEL, "projection_size": 8},
    "schedule": {"kind": "constant", "total_steps": 3, "warmup_steps": 0},
    "checkpoint": {"at_start": True, "every_steps": 100},
}


def weights_of(checkpoint: Path) -> dict[str, Tensor]:
    with WeightReader(checkpoint / "model", read_info(checkpoint / "model")) as reader:
        return {name: reader.read(name) for name in reader.shapes}


def at_start(run: Path) -> Path:
    return run / "checkpoints" / step_name(0)


@dataclass(frozen=True)
class Grown:
    """A run, and others that start from it with twice its blocks."""

    base: Path
    unbroken: Path
    broken: Path
    other_ranks: Path
    text: str


@pytest.fixture(scope="module")
def grown(server: TrainingServer, tmp_path_factory: pytest.TempPathFactory) -> Grown:
    folder = tmp_path_factory.mktemp("grown")
    runs = Grown(*(folder / name for name in ("base", "unbroken", "broken", "other")), text="")
    training = server.start(write_recipe(folder, **BASE), runs.base, world_size=2)
    assert training.wait() == [0, 0], training.text
    deep = {
        **BASE,
        "run": {"precision": "bf16", "seed": 7},
        "model": {**BASE["model"], "layers": 4},
        "start": {"model": str(runs.base), "layers": "stack"},
        "objectives": {"mlm": {"weight": 0.1}, "contrastive": {"weight": 1.0, "queue": {"size": 16}}},
        "schedule": {**BASE["schedule"], "total_steps": STEPS},
    }
    recipe = write_recipe(folder, **deep)
    training = server.start(recipe, runs.unbroken, world_size=2)
    assert training.wait() == [0, 0], training.text
    text = training.text
    no_queue = {**deep, "objectives": {"contrastive": {"weight": 1.0}}, "schedule": BASE["schedule"]}
    training = server.start(
        write_recipe(folder, **no_queue),
        runs.other_ranks,
        f"deepspeed.config={ROOT}/ds_configs/zero2.json",
        world_size=1,
    )
    assert training.wait() == [0], training.text
    stop = Fault(0, "mlc.engine.step:TrainingStep.take", number=2, signal=signal.SIGTERM)
    training = server.start(recipe, runs.broken, world_size=2, faults=[stop])
    assert training.wait() == [EXIT_SAVED] * 2, training.text
    shutil.move(runs.base, folder / "elsewhere")  # what it started from is gone
    training = server.start(recipe, runs.broken, world_size=2)
    assert training.wait() == [0, 0], training.text
    assert "starts from" not in training.text
    return Grown(folder / "elsewhere", runs.unbroken, runs.broken, runs.other_ranks, text)


def test_a_run_starts_with_the_weights_of_another_whatever_its_ranks_and_stage(grown: Grown) -> None:
    base = weights_of(final_checkpoint(grown.base))
    first, other = weights_of(at_start(grown.unbroken)), weights_of(at_start(grown.other_ranks))
    assert first.keys() == other.keys()
    for name, value in first.items():
        assert torch.equal(value, other[name]), name
    # fp32 master weights, of which bf16 would lose bits.
    assert not torch.equal(base["backbone.embeddings.weight"], base["backbone.embeddings.weight"].bfloat16().float())
    for name, value in first.items():
        number = int(name.split(".")[2]) if ".blocks." in name else 0
        if number < 2:
            assert torch.equal(value, base[name]), name
        elif name.endswith(("output.weight", "down.weight")):
            assert not value.any(), name
        else:
            assert torch.equal(value, base[name.replace(f".{number}.", f".{number - 2}.")]), name
    assert first["mlm_bias.bias"].std() > 0


def test_the_queues_encoder_starts_there_too(grown: Grown) -> None:
    first = weights_of(at_start(grown.unbroken))
    with PieceReader(sorted((at_start(grown.unbroken) / "queue").glob("momentum-*"))) as average:
        for name in average.keys():  # noqa: SIM118 (it is no mapping)
            assert torch.equal(read_whole(average, name, first[name].shape), first[name]), name


def test_a_run_goes_on_when_its_start_is_gone_as_if_never_stopped(grown: Grown) -> None:
    assert_same_end(grown.broken, grown.unbroken)


def test_the_report_is_printed_and_written(grown: Grown) -> None:
    report = json.loads((grown.unbroken / "start.json").read_text())
    assert report["values"]["new"] == 0
    assert report["layers"] == "4 from 2 (stack, added blocks write 0)"
    assert report["parameters"]["backbone.blocks.3.feed_forward.down.weight"]["how"] == "zero"
    assert report["parameters"]["backbone.blocks.3.feed_forward.gate_up.weight"] == {
        "how": "exact",
        "from": ["backbone.blocks.1.feed_forward.gate_up.weight"],
        "note": "",
    }
    assert "blocks: 4 from 2 (stack, added blocks write 0)" in grown.text


def test_another_start_is_no_change_that_a_run_can_make(grown: Grown, server: TrainingServer) -> None:
    recipe = grown.unbroken.parent / "again.toml"
    shutil.copy(final_checkpoint(grown.unbroken) / "recipe.toml", recipe)
    training = server.start(recipe, grown.unbroken, f"start.model={grown.broken}", world_size=1)
    assert training.wait() != [0]
    assert "the run cannot go on with another start.model" in training.text


def test_shared_tokens_keep_their_embeddings_through_a_change_of_tokenizer(
    server: TrainingServer, tmp_path: Path
) -> None:
    old, new = (
        write_small_shards(
            tmp_path / f"shards-{size}",
            tokenizer=train_tokenizer(tmp_path / f"{size}.model", vocab_size=size).read_bytes(),
            vocab_size=size,
        )
        for size in (440, 500)
    )
    changes = {**BASE, "data": {"shards": str(old.folder), "samples_per_step": 4}}
    training = server.start(write_recipe(tmp_path, **changes), tmp_path / "base", world_size=1)
    assert training.wait() == [0], training.text
    changed = {
        **changes,
        "data": {"shards": str(new.folder), "samples_per_step": 4},
        "start": {"model": str(tmp_path / "base"), "vocabulary": "carry"},
    }
    training = server.start(write_recipe(tmp_path, **changed), tmp_path / "changed", world_size=2)
    assert training.wait() == [0, 0], training.text
    table = weights_of(final_checkpoint(tmp_path / "base"))["backbone.embeddings.weight"]
    carried = weights_of(at_start(tmp_path / "changed"))
    pieces = [SentencePieceProcessor(str(m.folder / m.tokenizer.file)) for m in (old, new)]
    shared = 0
    for number in range(pieces[1].vocab_size()):
        before = pieces[0].piece_to_id(pieces[1].id_to_piece(number))
        if before != pieces[0].unk_id() or number == pieces[1].unk_id():
            assert torch.equal(carried["backbone.embeddings.weight"][number], table[before])
            shared += 1
    report = json.loads((tmp_path / "changed" / "start.json").read_text())
    assert report["tokens"]["same"] + report["tokens"]["special"] == shared > 100
    assert sum(report["tokens"].values()) == len(carried["backbone.embeddings.weight"])
    assert report["parameters"]["mlm_bias.bias"]["how"] == "new"
    assert report["parameters"]["mlm_transform.dense.weight"]["how"] == "exact"


@pytest.mark.slow
def test_an_encoder_of_transformers_goes_on_from_a_run(server: TrainingServer, tmp_path: Path) -> None:
    saved("xlm-roberta", tmp_path / "xlmr", vocab_size=200)
    table = {
        **BASE,
        "model": {"architecture": "huggingface", "config": str(tmp_path / "xlmr")},
        "objectives": {"glm": {"weight": 0.0}},
    }
    # recipe_table merges: the sizes of its GLM have to go.
    recipe = write_recipe(tmp_path, **table)
    text = recipe.read_text()
    for key in ("layers = 2\n", "hidden_size = 32\n", "heads = 2\n", "feed_forward_size = 64\n"):
        text = text.replace(key, "")
    recipe.write_text(text)
    training = server.start(recipe, tmp_path / "base", world_size=1)
    assert training.wait() == [0], training.text
    training = server.start(recipe, tmp_path / "next", f"start.model={tmp_path / 'base'}", "run.seed=5", world_size=1)
    assert training.wait() == [0], training.text
    base, first = weights_of(final_checkpoint(tmp_path / "base")), weights_of(at_start(tmp_path / "next"))
    assert all(torch.equal(first[name], base[name]) for name in first)


Refusal = tuple[dict[str, dict[str, Any]], str]


def _refusals(folder: Path, base: Path) -> dict[str, Refusal]:
    return {
        "no such model": ({"start": {"model": str(folder / "typo")}}, "there is no such model"),
        "no model in it": ({"start": {"model": str(folder / "shards")}}, "there is no model to start from"),
        "no checkpoint": ({"start": {"model": str(folder / "empty")}}, "has no complete checkpoint"),
        "another tokenizer": (
            {"start": {"model": str(base)}, "data": {"shards": str(folder / "others")}},
            "another tokenizer than the start's",
        ),
        "not carried": (
            {"start": {"model": str(base), "vocabulary": "carry"}},  # these shards' tokenizer is none
            "the start's tokenizer cannot be used",
        ),
        "another width": (
            {"start": {"model": str(base)}, "model": {"hidden_size": 64}},
            "hidden_size 32 in the start; needed model.hidden_size = 64",
        ),
        "another depth": (
            {"start": {"model": str(base)}, "model": {"layers": 3}},
            "found model.layers = 3, the start has 2",
        ),
        "another projection": (
            {"start": {"model": str(base)}, "model": {"projection_size": 4}},
            "projection.weight",
        ),
    }


def test_starts_that_cannot_be_are_refused_before_a_model_is_built(grown: Grown, tmp_path: Path) -> None:
    write_small_shards(tmp_path / "shards")
    write_small_shards(tmp_path / "others", tokenizer=b"another tokenizer")
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    for name, (changes, complaint) in _refusals(tmp_path, grown.base).items():
        model = {"projection_size": 8, **changes.get("model", {})}
        data = {"shards": str(tmp_path / "shards"), **changes.get("data", {})}
        run = {"folder": str(tmp_path / "run")}
        recipe = train_recipe(**{**changes, "model": model, "data": data, "run": run})
        with pytest.raises(MlcError) as caught:
            Pretraining(recipe).check(1)
        assert complaint in str(caught.value), name
        assert caught.value.exit_code == 2, name


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"start": {"layers": "stack"}}, "layers: without start.model there is nothing to carry"),
        ({"start": {"model": "x", "added_blocks": "copy"}}, '"copy" adds no blocks'),
    ],
    ids=str,
)
def test_keys_without_meaning_are_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        train_recipe(**changes)


def test_a_damaged_start_is_refused_with_the_file(grown: Grown, tmp_path: Path) -> None:
    shutil.copytree(final_checkpoint(grown.base), tmp_path / step_name(3))
    file = sorted((tmp_path / step_name(3) / "model").glob("weights-*"))[0]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="the checkpoint to start from is damaged") as caught:
        verified(find_start(str(tmp_path / step_name(3))))
    assert file.name in str(caught.value)
    assert verified(find_start(str(grown.base))).checkpoint == final_checkpoint(grown.base)


def test_a_name_of_the_hub_is_read_from_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tmp_path / "models--some--encoder"
    saved("eurobert", repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = find_start("some/encoder")
    assert (found.kind, found.folder.name) == ("huggingface", "abc")
    with pytest.raises(RecipeError, match="neither here nor on the hub"):
        find_start("some/other")


def test_gradients_are_checked_with_drawn_weights(tmp_path: Path) -> None:
    recipe = train_recipe(start={"model": "somewhere"}, model={"layers": 4})
    _, notes = small_recipe(recipe, 1, CheckSettings(), tmp_path)
    assert "weights drawn, not those of start.model" in notes


def test_the_check_reads_no_weights(grown: Grown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a tensor was read")

    manifest = write_small_shards(tmp_path / "shards")
    recipe = train_recipe(start={"model": str(grown.base)}, model={"projection_size": 8})
    read: Callable[..., Any] = refuse
    monkeypatch.setattr("mlc.model.start_source.StartSource.read", read)
    check_start(recipe, Manifest.read(manifest.folder))
