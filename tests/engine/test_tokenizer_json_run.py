"""Runs on shards of Hugging Face tokenizers: trained, resumed, scored, converted, exported, opened by transformers."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from hugging_face_tokenizers import KINDS, make_tokenizer
from recipes_for_tests import recipe_table
from small_corpus import WORDS, build_in, text, write_corpus
from tokenizers import Tokenizer
from training_processes import TrainingServer
from transformers import AutoModel, AutoTokenizer, XLMRobertaConfig, XLMRobertaModel

from data_prep.encoding.hugging_face import HuggingFaceTokenizer
from mlc.checkpoint.convert import convert
from mlc.config import parse_recipe
from mlc.data.manifest import Manifest
from mlc.data.text import clean_text
from mlc.engine.preflight import check_run
from mlc.errors import CheckpointError, RecipeError
from mlc.evaluate.command import run_retrieval
from mlc.export.hugging_face import MAX_DIFFERENCE, export_model
from mlc.model import register_auto_classes
from mlc.recipe import TrainRecipe
from mlc.tasks.encoder import TextEncoder

FILES = {"tokenizer.json", "tokenizer_config.json"}
TEXTS = [
    *(text(language, number, 9) for language in WORDS for number in range(3)),
    "",
    " Two \n lines\tand <s> [MASK] ",
]
XLMR = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


@dataclass(frozen=True)
class Trained:
    kind: str
    home: Path
    manifest: Manifest

    @property
    def run(self) -> Path:
        return self.home / "run"

    @property
    def reference(self) -> HuggingFaceTokenizer:
        return HuggingFaceTokenizer(self.home / "tokenizer")


def recipe_for(kind: str, home: Path) -> dict[str, Any]:
    table = recipe_table(
        run={"folder": str(home / "run")},
        data={"shards": str(home / "shards")},
        objectives={"mlm": {"weight": 0.5, "whole_word": True}},
        schedule={"total_steps": 4, "warmup_steps": 1},
        checkpoint={"every_steps": 2},
    )
    if kind == "xlmr":
        XLMRobertaConfig(max_position_embeddings=64, **XLMR).save_pretrained(home / "config")
        table["model"] = {"architecture": "huggingface", "config": str(home / "config")}
        table["objectives"]["glm"]["weight"] = 0.0
    return table


@pytest.fixture(
    scope="module", params=[kind if kind == "xlmr" else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def trained(
    request: pytest.FixtureRequest, server: TrainingServer, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    """Four steps on one rank."""
    kind, home = request.param, tmp_path_factory.mktemp(request.param)
    make_tokenizer(kind, home / "tokenizer")
    recipe = (write_corpus(home) / "prep.toml").read_text()
    (home / "prep.toml").write_text(recipe.replace("vocab_size = 360", f'path = "{home}/tokenizer"'))
    manifest = build_in(home, "shards")
    (home / "recipe.toml").write_text(tomli_w.dumps(recipe_for(kind, home)))
    started = server.start(home / "recipe.toml", home / "run", world_size=1)
    assert started.wait() == [0], started.text
    return Trained(kind, home, manifest)


def checkpoint(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def test_checkpoints_carry_the_tokenizer_and_go_on_exactly(trained: Trained, server: TrainingServer) -> None:
    last = checkpoint(trained.run, 4)
    for name in FILES:
        assert (last / "model" / name).read_bytes() == (trained.home / "shards" / name).read_bytes()
    assert not (last / "model" / "tokenizer.model").exists()
    again = trained.home / "again"
    shutil.copytree(trained.run, again, ignore=shutil.ignore_patterns("step-00000004"))
    started = server.start(trained.home / "recipe.toml", again, world_size=1)
    assert started.wait() == [0], started.text
    assert "continues after step 2" in started.text
    for folder in ("model", "optimizer"):
        (weights,) = (last / folder).glob("*-of-*")
        assert (checkpoint(again, 4) / folder / weights.name).read_bytes() == weights.read_bytes()


def test_texts_are_encoded_as_the_shards_were(trained: Trained) -> None:
    encoder, ids = TextEncoder.load(trained.run, device="cpu"), trained.manifest.tokenizer.special_ids
    found = encoder.model.tokenizer.tokenize(TEXTS).ids
    needed = [plain.tolist() for plain in trained.reference.encode([clean_text(text) for text in TEXTS])]
    assert found == [[ids["[CLS]"], *plain[: encoder.max_tokens - 2], ids["[SEP]"]] for plain in needed]
    english, _ = trained.manifest.open(trained.manifest.entry("pairs/en-de"))
    of_shard = english.sequence(3).tolist()[: encoder.max_tokens - 2]
    assert encoder.model.tokenizer.tokenize([text("en", 3, 8)]).ids[0][1:-1] == of_shard
    assert encoder.model.tokenizer.pad_id == ids["[PAD]"]


def test_retrieval_is_scored(trained: Trained) -> None:
    rows = [{"de": text("de", i, 8), "en": text("en", i, 8)} for i in range(12)]
    (trained.home / "de-en.jsonl").write_text("\n".join(map(json.dumps, rows)))
    report = run_retrieval(str(trained.run), [trained.home / "de-en.jsonl"], json_file=trained.home / "scores.json")
    assert report.step == 4
    assert json.loads((trained.home / "scores.json").read_text())


def test_a_converted_model_carries_the_tokenizer(trained: Trained) -> None:
    out = trained.home / "whole"
    convert(trained.run, out, "safetensors")
    assert {path.name for path in out.iterdir()} == {"config.json", "mlc.json", "model.safetensors", *FILES}
    needed = TextEncoder.load(trained.run, device="cpu").encode(TEXTS)
    np.testing.assert_allclose(TextEncoder.load(out, device="cpu").encode(TEXTS), needed, atol=MAX_DIFFERENCE)


def test_an_export_has_the_ids_and_embeddings_of_the_run(trained: Trained) -> None:
    out = trained.home / "export"
    report = export_model(trained.run, out, sample=TEXTS)
    assert report.max_difference <= MAX_DIFFERENCE
    encoder = TextEncoder.load(trained.run, device="cpu")
    register_auto_classes()
    tokenizer = AutoTokenizer.from_pretrained(out)
    model = AutoModel.from_pretrained(out).eval()
    batch = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    needed = encoder.model.tokenizer.tokenize(TEXTS).ids
    lengths = batch["attention_mask"].sum(1).tolist()
    assert [row[:length] for row, length in zip(batch["input_ids"].tolist(), lengths, strict=True)] == needed
    with torch.inference_mode():
        states = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    pooled = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    np.testing.assert_allclose(pooled.numpy(), encoder.encode(TEXTS), atol=MAX_DIFFERENCE)


def test_a_changed_tokenizer_is_noticed(trained: Trained, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(checkpoint(trained.run, 4) / "model", model)
    (model / "tokenizer.json").write_bytes((model / "tokenizer.json").read_bytes() + b"\n")
    with pytest.raises(CheckpointError, match="not the one of the training data"):
        export_model(model, tmp_path / "out")
    (model / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"this is no tokenizer\.json"):
        TextEncoder.load(model)
    (model / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"needed the run's tokenizer\.json"):
        TextEncoder.load(model)
    info = json.loads((model / "mlc.json").read_text())
    (model / "mlc.json").write_text(json.dumps({**info, "tokenizer_kind": "of tomorrow"}))
    with pytest.raises(CheckpointError, match="found of tomorrow"):
        TextEncoder.load(model)


def recipe_from_weights(home: Path, shards: Path, tokenizer: Path | None) -> TrainRecipe:
    """A run that starts from the weights of an XLM-R whose folder holds a tokenizer."""
    model = home / "xlmr"
    XLMRobertaModel(XLMRobertaConfig(vocab_size=420, max_position_embeddings=64, **XLMR)).save_pretrained(model)
    if tokenizer is not None:
        opened = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
        opened.enable_truncation(64)  # saved again by a program that cuts: the ids are the same
        opened.save(str(model / "tokenizer.json"))
    table = recipe_table(run={"folder": str(home / "run")}, data={"shards": str(shards)})
    table["model"] = {"architecture": "huggingface", "path": str(model)}
    table["objectives"]["glm"]["weight"] = 0.0
    return parse_recipe(table, TrainRecipe, where="test")


def test_weights_whose_ids_are_those_of_the_shards_are_accepted(trained: Trained, tmp_path: Path) -> None:
    """XLM-R's weights too, whose ids are not those of its SentencePiece model: its tokenizer.json has them."""
    shards = trained.home / "shards"
    assert check_run(recipe_from_weights(tmp_path, shards, trained.home / "tokenizer"), 1) == trained.manifest
    other = make_tokenizer(trained.kind, tmp_path / "other", vocab_size=400)
    with pytest.raises(RecipeError, match="another tokenizer than the model's"):
        check_run(recipe_from_weights(tmp_path, shards, other), 1)
    (tmp_path / "xlmr" / "tokenizer.json").write_text("[]")
    with pytest.raises(RecipeError, match=r"no tokenizer\.json can be read"):
        check_run(recipe_from_weights(tmp_path, shards, None), 1)
