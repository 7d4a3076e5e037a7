"""Translation by `mlc finetune` on real ranks under ZeRO-3: exactness, scores on the way, evaluation, use."""

from __future__ import annotations

import json
import math
import tomllib
from pathlib import Path
from typing import Any, cast

import pytest
import tomli_w
import torch
from finetune_for_tests import make_encoder, saved_weights
from small_models import make_checkpoint
from training_processes import TrainingServer
from translation_for_tests import translation_table, write_pairs
from typer.testing import CliRunner

from mlc.checkpoint.record import step_name
from mlc.cli import build_app
from mlc.config import parse_recipe
from mlc.engine.metrics import read_lines, read_metrics
from mlc.errors import DataError, RecipeError, UsageError
from mlc.finetune.batches import FinetuneBatches
from mlc.finetune.data import read_data
from mlc.finetune.recipe import FinetuneRecipe
from mlc.finetune.tasks import learned_task
from mlc.finetune.work import Finetuning
from mlc.model.adapters import WRAPPED
from mlc.recipe import ModelSection
from mlc.tasks.examples import TranslationExample
from mlc.tasks.fast_tokenizer_of import open_fast_tokenizer
from mlc.tasks.features_pieces import PieceEncoder
from mlc.tasks.learned.models import HeadSettings, load_finetuned, new_model
from mlc.tasks.learned.predict import Predictor, to_device
from mlc.tasks.learned.translation_decoding import Translator
from mlc.tasks.locate import find_model

STEPS = 3
ALPHA = 8.0
Table = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, starts, and runs on two ranks: Part B of the GLM, and a decoder beside an encoder, which may be adapted."""
    folder = tmp_path_factory.mktemp("translation-runs")
    make_checkpoint(folder / "glm", 1)
    make_encoder(folder / "xlmr")
    train = [write_pairs(folder / "train", "en", "de", 30), write_pairs(folder / "train", "en", "fr", 30)]
    dev = str(write_pairs(folder / "dev", "en", "de", 6, start=100))
    schedule = {"schedule": {"total_steps": STEPS}}
    smoothed = {"label_smoothing": 0.1}
    part_b = {"translation": {"decoder": "part_b", "both_directions": True, **smoothed}, **schedule}
    scored = {"translation": smoothed, "data": {"dev": [dev], "test": [dev]}, **schedule}
    tables: dict[str, Table] = {
        "two": translation_table(folder, folder / "glm", train, **part_b),
        "beside": translation_table(folder, folder / "xlmr", train, **scored),
        "adapted": translation_table(folder, folder / "xlmr", train, **scored, lora={"rank": 2, "alpha": ALPHA}),
    }
    with TrainingServer(folder / "printed") as server:
        for name, table in tables.items():
            (folder / f"{name}.toml").write_text(tomli_w.dumps(table))
        runs = [server.start(folder / f"{name}.toml", folder / name, command="finetune") for name in tables]
        for training in runs:
            assert training.wait() == [0, 0], training.text
    return folder


@pytest.mark.parametrize(("run", "start"), [("two", "glm"), ("beside", "xlmr")])
def test_a_step_on_two_ranks_is_that_of_one_process_without_deepspeed(folder: Path, run: str, start: str) -> None:
    recipe = parse_recipe(_table(folder / f"{run}.toml"), FinetuneRecipe, where="test")
    data = read_data(recipe)
    task, source = learned_task(recipe, data), find_model(folder / start)
    model = new_model(source, task, HeadSettings(recipe.run.seed))
    rows = task.rows(PieceEncoder(open_fast_tokenizer(source, max_tokens=48)), data.train)
    batches = FinetuneBatches(rows, seed=recipe.run.seed, samples_per_step=8, micro_batches=1, rank=0, world_size=1)
    arrays = batches.build(0).micro_batches[0].arrays
    inputs, targets = (to_device(part, torch.device("cpu")) for part in (arrays.inputs, arrays.targets))
    logits, labels, weights = model(**inputs).logits.flatten(0, -2), targets["labels"], targets["weights"]
    losses = torch.nn.functional.cross_entropy(logits, labels.flatten(), reduction="none", label_smoothing=0.1)
    loss = (losses * weights.flatten()).sum() / weights.sum()
    loss.backward()
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None))
    first = read_metrics(folder / run)[0]
    # fp32 sums in another order; means over ranks instead of over tokens would be off by percents.
    assert first["loss"] == pytest.approx(loss.item(), rel=2e-5)
    assert first["grad_norm"] == pytest.approx(norm, rel=2e-5)
    assert first["count"] == weights.sum()


def _table(file: Path) -> Table:
    return tomllib.loads(file.read_text())


def test_directions_are_scored_and_stated(folder: Path) -> None:
    run = folder / "beside"
    (line,) = read_lines(run / "scores.jsonl")[-1:]
    assert line["metric"] == "chrf"
    assert list(line["languages"]) == ["en>de"]
    assert json.loads((run / "test.json").read_text())["sets"]["en>de"]["examples"] == 6
    for name, directions in (("beside", ["en>de", "en>fr"]), ("two", ["de>en", "en>de", "en>fr", "fr>en"])):
        content = json.loads((folder / name / "checkpoints" / step_name(STEPS) / "model" / "mlc.json").read_text())
        assert content["task"]["translation"]["directions"] == directions
        assert set(content["languages"]) == {language for pair in directions for language in pair.split(">")}


@pytest.mark.parametrize("name", ["two", "beside"])
def test_a_checkpoint_opens_with_its_weights(folder: Path, name: str) -> None:
    loaded = load_finetuned(find_model(folder / name))
    before = new_model(find_model(folder / ("glm" if name == "two" else "xlmr")), loaded.task, HeadSettings(0))
    moved = [key for key, value in before.named_parameters() if not torch.equal(value, loaded.model.get_parameter(key))]
    kept = {key for key, _ in before.named_parameters()} - set(moved)
    assert all("pooler" in key for key in kept), kept


def test_adapters_in_an_encoder_with_a_decoder_beside_it(folder: Path) -> None:
    source = find_model(folder / "adapted")
    saved = {name.removeprefix(WRAPPED): value for name, value in saved_weights(source.folder).items()}
    loaded = load_finetuned(source)
    seed = parse_recipe(_table(folder / "adapted.toml"), FinetuneRecipe, where="test").run.seed
    before = new_model(find_model(folder / "xlmr"), loaded.task, HeadSettings(seed)).state_dict()
    merged = loaded.model.state_dict()
    adapted = {name.replace("base_layer.", "") for name in saved if ".base_layer.weight" in name}
    assert len(adapted) == 12  # of two blocks: query, key, value, output, and two of the feed-forward layer
    assert all(name.startswith("encoder.encoder.layer.") for name in adapted)
    for name in adapted:
        layer, _, end = name.rpartition(".")
        assert torch.equal(saved[f"{layer}.base_layer.{end}"], before[name]), name
        first, second = (saved[f"{layer}.lora_{part}.default.weight"] for part in "AB")
        assert second.any(), name
        assert torch.equal(merged[name], before[name] + second @ first * (ALPHA / 2)), name
    for name, value in before.items():
        if name.startswith("encoder.") and name not in adapted:
            assert torch.equal(merged[name], value), name
        if name.startswith("decoder.") and name.endswith("query.weight"):
            assert not torch.equal(merged[name], value), name
    # B = 0 at first: the first step computes what it does without adapters.
    assert read_metrics(folder / "adapted")[0]["loss"] == read_metrics(folder / "beside")[0]["loss"]


def test_a_checkpoint_with_adapters_scores_as_the_run_did(folder: Path) -> None:
    recipe = parse_recipe(_table(folder / "adapted.toml"), FinetuneRecipe, where="test")
    examples = [cast(TranslationExample, example) for example in read_data(recipe).test]
    predictor = Predictor.load(folder / "adapted", device="cpu")
    scores = predictor.finetuned.task.score(examples, predictor.predict(examples)).scores
    test = json.loads((folder / "adapted" / "test.json").read_text())
    assert test["sets"]["en>de"]["scores"]["chrf"]["value"] == pytest.approx(scores["chrf"].value)


def test_adapters_of_layers_that_the_encoder_lacks_are_refused(folder: Path) -> None:
    lora = {"rank": 2, "targets": ["crossattention.self.query"]}
    table = translation_table(folder, folder / "xlmr", [folder / "train" / "en-de.jsonl"], lora=lora)
    table["run"]["folder"] = str(folder / "refused")
    work = Finetuning(parse_recipe(table, FinetuneRecipe, where="test"))
    work.check(1)
    with pytest.raises(RecipeError, match=r"cannot be put in; found crossattention\.self\.query") as caught:
        work._model(None)
    assert "crossattention" not in str(caught.value).split("needed")[1]


def test_a_run_is_evaluated(folder: Path) -> None:
    arguments = ["evaluate", "translation", "--model", str(folder / "two"), "--resamples", "10"]
    data = write_pairs(folder / "other", "de", "fr", 5)
    found = {}
    for kind, more in (("offline", []), ("inf", ["--wait-k", "inf"]), ("three", ["--wait-k", "3"])):
        result = CliRunner().invoke(
            build_app(),
            [*arguments, "--data", str(data), "--source", "de", "--target", "fr", "--json", str(folder / "out.json"),
             "--out", str(folder / f"{kind}.txt"), *more],
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        assert "ZERO-RESOURCE" in result.output
        found[kind] = json.loads((folder / "out.json").read_text())
    assert found["offline"]["zero_resource"] is True
    assert found["offline"]["scores"]["chrf"] == found["inf"]["scores"]["chrf"]
    assert (folder / "offline.txt").read_text() == (folder / "inf.txt").read_text()
    assert found["inf"]["scores"]["AP"]["value"] == 1
    assert 0 < found["three"]["scores"]["AP"]["value"] <= 1
    result = CliRunner().invoke(
        build_app(), ["translate", str(folder / "two"), "--from", "de", "--to", "fr"], input="Haushalt sich\n\ncoming"
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 3
    assert result.stdout.split("\n")[1] == ""


def test_what_does_not_fit_is_refused(folder: Path) -> None:
    refused: list[tuple[Table, str]] = [
        ({"translation": {"decoder": "part_b", "layers": 2}}, "the GLM itself writes"),
        ({"task": {"kind": "regression"}, "translation": {"beams": 2}}, "no use for it"),
    ]
    for changes, message in refused:
        table = translation_table(folder, folder / "xlmr", [folder / "train" / "en-de.jsonl"], **changes)
        with pytest.raises(RecipeError, match=message):
            parse_recipe(table, FinetuneRecipe, where="test")
    unnamed = folder / "pairs.jsonl"
    unnamed.write_text('{"source": "a", "target": "b"}\n')
    recipe = parse_recipe(translation_table(folder, folder / "xlmr", [unnamed]), FinetuneRecipe, where="test")
    with pytest.raises(DataError, match="from which language"):
        read_data(recipe)
    recipe = parse_recipe(_table(folder / "two.toml"), FinetuneRecipe, where="test")
    data = read_data(recipe)
    with pytest.raises(UsageError, match="Part B"):
        new_model(find_model(folder / "xlmr"), learned_task(recipe, data), HeadSettings(0))


@pytest.mark.slow
@pytest.mark.parametrize(("decoder", "steps"), [("encoder_decoder", 400), ("part_b", 800)])
def test_a_toy_language_is_learned(tmp_path: Path, decoder: str, steps: int) -> None:
    section = ModelSection(layers=2, hidden_size=64, heads=4, feed_forward_size=128)
    make_checkpoint(tmp_path / "glm", 1, section=section)
    train, dev = (
        write_pairs(tmp_path / "train", "en", "de", 5000),
        write_pairs(tmp_path / "dev", "en", "de", 60, start=9000),
    )
    table = translation_table(
        tmp_path, tmp_path / "glm", [train], translation={"decoder": decoder},
        data={"test": [str(dev)], "samples_per_step": 32}, optimizer={"learning_rate": 3e-3},
        schedule={"kind": "cosine", "total_steps": steps, "warmup_steps": 20},
    )  # fmt: skip
    (tmp_path / "recipe.toml").write_text(tomli_w.dumps(table))
    with TrainingServer(tmp_path / "printed") as server:
        training = server.start(tmp_path / "recipe.toml", tmp_path / "run", world_size=1, command="finetune")
        assert training.wait() == [0], training.text
    scores = json.loads((tmp_path / "run" / "test.json").read_text())["sets"]["en>de"]["scores"]
    assert scores["bleu"]["value"] > 90
    found = Translator.load(tmp_path / "run", device="cpu")
    assert found.translate(["budget year committee"], "de") == ["committee year budget"]
    # The first word of the reverse is the last one of the source: who does not wait cannot know it.
    early = found.translate_simultaneously(["budget year committee"], "en", "de", wait=1)[0]
    assert early.text.split()[0] != "committee"
