"""Retrieval and re-ranking on real ranks under ZeRO-3: gradients, ranks and micro-batches, resuming, scores, starts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
import torch.nn.functional as F
from finetune_for_tests import make_encoder, saved_weights
from ranking_for_tests import ranking_table, write_rankings
from small_models import make_checkpoint
from torch import Tensor
from training_processes import TrainingServer
from transformers import AutoModel, AutoTokenizer
from typer.testing import CliRunner

from mlc.checkpoint.record import Record, step_name
from mlc.cli import build_app
from mlc.config import parse_recipe
from mlc.data.batches import BatchBuilder
from mlc.engine.metrics import is_clock, read_metrics
from mlc.engine.start_from import find_start
from mlc.errors import RecipeError
from mlc.finetune.batches import FinetuneBatches
from mlc.finetune.recipe import FinetuneModelSection, FinetuneRecipe
from mlc.finetune.retrieval import RetrievalTraining, objectives_of
from mlc.finetune.retrieval_model import open_start
from mlc.finetune.work import Finetuning
from mlc.model.saving import load_training_model
from mlc.recipe import ModelSection
from mlc.tasks.encoder import Representation, TextEncoder
from mlc.tasks.examples import RankingExample
from mlc.tasks.learned.models import HeadSettings, load_finetuned, new_model
from mlc.tasks.locate import find_model
from mlc.tasks.scores_rankings import score_rankings
from mlc.tasks.task_files import read_task
from mlc.tensor_files import PieceReader, read_whole

KINDS = ("retrieval", "reranking")
BETA = 0.9
SPLIT = {"micro_batches": 2}
ALPHA = 8.0
GLM = ModelSection(layers=2, hidden_size=32, heads=4, feed_forward_size=48, pooling="attention", projection_size=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, starts, and every run that the tests look at."""
    folder = tmp_path_factory.mktemp("ranking")
    make_encoder(folder / "start")
    make_checkpoint(folder / "glm", 7, section=GLM, max_tokens=24)
    train = write_rankings(folder / "train.jsonl", 12, positives=2, negatives=4)
    dev = write_rankings(folder / "dev.jsonl", 10, first=100)
    scored = {"dev": [str(dev)], "test": [str(dev)], "train": [str(train)]}
    with TrainingServer(folder / "printed") as server:

        def run(name: str, world_size: int, kind: str, **changes: dict[str, Any]) -> None:
            recipe = folder / "recipe.toml"
            recipe.write_text(tomli_w.dumps(ranking_table(folder, kind, **changes)))
            training = server.start(recipe, folder / name, world_size=world_size, command="finetune")
            assert training.wait() == [0] * world_size, training.text

        two = {"data": {**scored, **SPLIT}, "evaluation": {"every_steps": 3}}
        for kind in KINDS:
            run(f"{kind}-one", 1, kind)
            run(f"{kind}-two", 2, kind, **two)
        resumed = folder / "retrieval-resumed"
        shutil.copytree(folder / "retrieval-two", resumed)
        for step in (4, 5, 6):
            shutil.rmtree(resumed / "checkpoints" / step_name(step))
        run(resumed.name, 2, "retrieval", **two)
        glm = {"model": {"start": str(folder / "glm")}, "schedule": {"total_steps": 2}}
        run("glm-start", 1, "retrieval", **glm)
        run("glm-frozen", 2, "retrieval", **glm, freeze={"layers": 1})
        adapted = {"model": glm["model"], "schedule": {"total_steps": 4}, "lora": {"rank": 2, "alpha": ALPHA}}
        run("glm-lora", 2, "retrieval", **two, **adapted)
        resumed = folder / "glm-lora-resumed"
        shutil.copytree(folder / "glm-lora", resumed)
        for step in (3, 4):
            shutil.rmtree(resumed / "checkpoints" / step_name(step))
        run(resumed.name, 2, "retrieval", **two, **adapted)
    return folder


def rows(run: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if not is_clock(key)} for row in read_metrics(run)]


def first_gradient(run: Path) -> dict[str, Tensor]:
    """Adam's first moment after one step is (1 - beta) x the gradient."""
    checkpoint = run / "checkpoints" / step_name(1)
    shapes = Record.read(checkpoint).parameters
    with PieceReader(sorted((checkpoint / "optimizer").glob("state-*"))) as reader:
        saved = reader.keys()
        moments = {name: key for name in shapes if (key := f"exp_avg/{name}") in saved}
        return {name: read_whole(reader, key, shapes[name]) / (1 - BETA) for name, key in moments.items()}


def assert_gradients(found: dict[str, Tensor], model: torch.nn.Module, loss: Callable[[], Tensor], prefix: str) -> None:
    loss().backward()  # type: ignore[no-untyped-call]
    expected = {f"{prefix}{name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert len(expected) > 30
    largest = max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():
        # fp32 sums of some hundred products, in another order: 1e-6 of the largest gradient. A loss that is divided by
        # another count, or negatives of one rank alone, is off by some 10 %.
        assert torch.allclose(found[name], value, rtol=1e-4, atol=2e-5 * largest), name
    unseen = {name: value for name, value in found.items() if name not in expected}
    assert all(not value.any() for value in unseen.values()), list(unseen)


def examples(folder: Path, name: str) -> tuple[RankingExample, ...]:
    return read_task("ranking", folder / name).of(RankingExample)


def recipe_of(folder: Path, kind: str) -> FinetuneRecipe:
    return parse_recipe(ranking_table(folder, kind, run={"folder": str(folder / "new")}), FinetuneRecipe, where="test")


def test_first_gradient_of_retrieval_is_that_of_plain_info_nce(folder: Path) -> None:
    """The batch of one process, its loss as its formula reads."""
    recipe = recipe_of(folder, "retrieval")
    work = RetrievalTraining(recipe)
    work.check(1)
    work.open()
    special, objectives = work._start.special, objectives_of(recipe)
    sizes = {"seed": 1, "samples_per_step": 8, "micro_batches": 1, "rank": 0, "world_size": 1}
    (batch,) = BatchBuilder(work._samples, special, objectives, **sizes).build(0).micro_batches
    assert batch.hard_valid.all()
    model = AutoModel.from_pretrained(folder / "start", add_pooling_layer=False)
    ids, lengths = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.lengths)
    mask = torch.arange(ids.shape[1]) < lengths[:, None]

    def loss() -> Tensor:
        states = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state * mask[..., None]
        embeddings = F.normalize(states.sum(1) / lengths[:, None], dim=-1)
        candidates = embeddings[np.concatenate([batch.second_row, batch.hard_row.flatten()])]
        similarities = embeddings[batch.first_row] @ candidates.T
        return F.cross_entropy(similarities / recipe.ranking.temperature, torch.arange(8))

    run = folder / "retrieval-two"
    row = read_metrics(run)[0]
    assert (row["count"], row["masked_negatives"]) == (8, 0)
    assert row["loss"] == pytest.approx(float(loss().detach()), rel=1e-5)
    assert_gradients(first_gradient(run), model, loss, "backbone.")


def test_first_gradient_of_reranking_is_that_of_plain_cross_entropy(folder: Path) -> None:
    """The batch of one process, its loss as its formula reads."""
    work = Finetuning(recipe_of(folder, "reranking"))
    work.check(1)
    work.open()
    order = FinetuneBatches(work._train, seed=1, samples_per_step=8, micro_batches=1, rank=0, world_size=1)
    (part,) = order.build(0).micro_batches
    groups = part.arrays.targets["candidates"]
    assert groups.shape == (8, 3)
    model = new_model(find_model(folder / "start"), work._task, HeadSettings(seed=1))

    def loss() -> Tensor:
        logits = model(**{name: torch.from_numpy(array) for name, array in part.arrays.inputs.items()}).logits
        return F.cross_entropy(logits.squeeze(-1)[groups], torch.zeros(8, dtype=torch.long))

    run = folder / "reranking-two"
    assert read_metrics(run)[0]["loss"] == pytest.approx(float(loss().detach()), rel=1e-5)
    assert_gradients(first_gradient(run), model, loss, "")


def test_texts_are_tokenised_as_by_the_start(folder: Path) -> None:
    start = open_start(find_model(folder / "start"), FinetuneModelSection(start=""), 48)
    texts = [example.query for example in examples(folder, "train.jsonl")]
    expected = AutoTokenizer.from_pretrained(folder / "start")(texts, truncation=True, max_length=48)["input_ids"]
    assert start.tokenizer(48).tokenize(texts).ids == expected


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_in_micro_batches_take_the_steps_of_one(folder: Path, kind: str) -> None:
    one, two = read_metrics(folder / f"{kind}-one"), read_metrics(folder / f"{kind}-two")
    for name in ("loss", "grad_norm"):
        # fp32 sums in another order; negatives of a rank or micro-batch alone change both by 10 % and more.
        np.testing.assert_allclose([row[name] for row in two], [row[name] for row in one], rtol=5e-5)
    assert one[-1]["loss"] < one[0]["loss"]


def test_a_resumed_run_draws_the_same_passages(folder: Path) -> None:
    unbroken, resumed = folder / "retrieval-two", folder / "retrieval-resumed"
    assert rows(unbroken) == rows(resumed)
    assert len(rows(unbroken)) == 6
    assert (unbroken / "scores.jsonl").read_text() == (resumed / "scores.jsonl").read_text()


@pytest.mark.parametrize("trained", ["retrieval-two", "glm-lora", "glm-lora-resumed"])
def test_the_saved_bi_encoder_scores_as_the_run_did(folder: Path, trained: str) -> None:
    run, data = folder / trained, examples(folder, "dev.jsonl")
    encoder = TextEncoder.load(run)
    assert encoder.max_tokens == 48
    passages = list(dict.fromkeys(text for e in data for text in (*e.positives, *e.negatives)))
    similarities = encoder.encode([e.query for e in data]) @ encoder.encode(passages).T
    relevance = [[float(text in e.positives) for text in passages] for e in data]
    test = json.loads((run / "test.json").read_text())
    for language in ("de", "en"):
        chosen = [place for place, e in enumerate(data) if e.place.language == language]
        own = score_rankings([relevance[place] for place in chosen], [similarities[place] for place in chosen])
        for name in ("mrr", "ndcg@10", "recall@1"):
            assert test["sets"][language]["scores"][name]["value"] == pytest.approx(own.scores[name].value)


def test_the_saved_cross_encoder_scores_as_the_run_did(folder: Path) -> None:
    run, data = folder / "reranking-two", examples(folder, "dev.jsonl")
    tuned = load_finetuned(find_model(run))
    scored = tuned.task.rows(tuned.encoder, data)
    with torch.inference_mode():
        batch = scored.batch(range(len(scored)))
        logits = tuned.model(**{name: torch.from_numpy(array) for name, array in batch.inputs.items()})
    answers = tuned.task.answers(scored, data, list(tuned.task.predictions(logits)))
    assert [len(answer) for answer in answers] == [4] * len(data)
    english = [place for place, example in enumerate(data) if example.place.language == "en"]
    own = tuned.task.score([data[place] for place in english], [answers[place] for place in english])
    test = json.loads((run / "test.json").read_text())
    assert test["sets"]["en"]["scores"]["mrr"]["value"] == pytest.approx(own.scores["mrr"].value)


def test_a_start_with_pooling_and_projection_keeps_them(folder: Path) -> None:
    before, after = TextEncoder.load(folder / "glm"), TextEncoder.load(folder / "glm-start")
    assert after.representation == before.representation == Representation(-1, "attention", projection=True)
    texts = ["the old stone bridge", "der alte Baum"]
    assert before.encode(texts).shape == after.encode(texts).shape == (2, GLM.projection_size)
    assert np.abs(before.encode(texts) - after.encode(texts)).max() > 1e-3
    assert before.model.tokenizer.tokenize(texts) == after.model.tokenizer.tokenize(texts)


@pytest.mark.parametrize("run", ["glm-start", "glm-frozen"])
def test_a_bi_encoder_on_longer_rows_than_its_start_says_so(folder: Path, run: str) -> None:
    """Programs that open an export cut texts to this number; the start's is 24."""
    saved = json.loads((find_model(folder / run).folder / "config.json").read_text())
    assert saved["max_position_embeddings"] == 48


def test_frozen_layers_of_a_bi_encoder_stay_bit_identical(folder: Path) -> None:
    """Under ZeRO-3 on two ranks; its token heads are never trained."""
    before, after = (
        load_training_model(find_model(folder / name).folder)[0].state_dict() for name in ("glm", "glm-frozen")
    )
    parts = ("backbone.embeddings.", "backbone.blocks.0.", "glm_", "mlm_")
    frozen = {name for name in before if name.startswith(parts)}
    assert len(frozen) > 10
    for name, value in before.items():
        assert torch.equal(after[name], value) == (name in frozen), name


def test_adapters_of_a_bi_encoder_leave_its_weights_alone_and_merge(folder: Path) -> None:
    """Under ZeRO-3 on two ranks, with candidates of both; resumed from the middle."""
    before, merged = (
        load_training_model(find_model(folder / name).folder)[0].state_dict() for name in ("glm", "glm-lora")
    )
    after = saved_weights(find_model(folder / "glm-lora").folder)
    assert merged.keys() == before.keys()
    adapted = {name.replace("base_layer.", "") for name in after if ".base_layer.weight" in name}
    assert len(adapted) > 6
    for name, value in before.items():
        if name.startswith("backbone."):
            layer, _, end = name.rpartition(".")
            kept = after[f"{layer}.base_layer.{end}" if name in adapted else name]
            assert torch.equal(kept, value), name
        if name in adapted:
            first, second = (after[f"{layer}.lora_{part}.default.weight"] for part in "AB")
            assert second.any(), name
            assert torch.equal(merged[name], value + second @ first * (ALPHA / 2)), name
    # What is no part of the encoder learns as without adapters.
    assert not torch.equal(after["projection.weight"], before["projection.weight"])
    resumed = saved_weights(find_model(folder / "glm-lora-resumed").folder)
    assert rows(folder / "glm-lora-resumed") == rows(folder / "glm-lora")
    assert resumed.keys() == after.keys()
    assert all(torch.equal(resumed[name], value) for name, value in after.items())


def test_pre_training_starts_from_no_adapters(folder: Path) -> None:
    with pytest.raises(RecipeError, match="adapters of rank 2") as caught:
        find_start(str(folder / "glm-lora"))
    assert "mlc export" in str(caught.value)
    assert find_start(str(folder / "glm-start")).kind == "checkpoint"


def test_an_exports_card_says_what_the_bi_encoder_was_trained_from_and_scores(folder: Path, tmp_path: Path) -> None:
    run = folder / "glm-lora"
    for model, out in ((run, tmp_path / "out"), (tmp_path / "out", tmp_path / "again")):
        done = CliRunner().invoke(build_app(), ["export", str(model), str(out)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        card = (out / "README.md").read_text()
        scores = json.loads((run / "test.json").read_text())["sets"]
        assert set(scores) == {"de", "en"}
        for fact in (
            "* Trained from: `glm`, with adapters of rank 2, merged",
            "* 12 examples of fine-tuning",
            "* sha256 of the examples: `",
            "| language | mrr | examples | trained on |",
            f"| de | {scores['de']['scores']['mrr']['value']:.3f} (",
        ):
            assert fact in card, fact
