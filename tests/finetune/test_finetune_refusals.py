"""What a fine-tuning run refuses before any work, with the place and the next step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from finetune_for_tests import finetune_recipe, finetune_table, make_encoder, write_classes, write_words

from mlc.config import parse_recipe, read_recipe
from mlc.errors import MlcError, RecipeError
from mlc.finetune.recipe import FinetuneRecipe
from mlc.finetune.work import Finetuning
from mlc.recipe import TrainRecipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refusals")
    make_encoder(folder / "start")
    write_classes(folder / "train.jsonl", 30)
    return folder


def refusal(folder: Path, **changes: dict[str, Any]) -> MlcError:
    with pytest.raises(MlcError) as found:
        prepare(finetune_recipe(folder, **changes))
    return found.value


def prepare(recipe: FinetuneRecipe) -> None:
    """Everything before DeepSpeed."""
    work = Finetuning(recipe)
    work.check(1)
    work.open()
    work._model(None)


def lines(path: Path, *records: dict[str, Any]) -> list[str]:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return [str(path)]


def test_a_label_that_training_never_saw_is_refused_with_its_line(folder: Path) -> None:
    dev = lines(folder / "dev.jsonl", {"text": "a", "label": "low"}, {"text": "b", "label": "lowest"})
    error = refusal(folder, data={"dev": dev})
    assert "lowest" in str(error)
    assert "dev.jsonl:2" in str(error)


def test_an_empty_text_is_refused_with_its_line(folder: Path) -> None:
    train = lines(folder / "empty.jsonl", {"text": "a", "label": "low"}, {"text": " ", "label": "high"})
    assert "empty.jsonl:2" in str(refusal(folder, data={"train": train}))


def test_words_and_labels_must_be_as_many(folder: Path) -> None:
    train = lines(folder / "odd.jsonl", {"tokens": ["a", "b"], "labels": ["O"]})
    error = refusal(folder, task={"kind": "token_classification"}, data={"train": train})
    assert "odd.jsonl:1" in str(error)


def test_data_of_another_kind_is_refused(folder: Path) -> None:
    words = str(write_words(folder / "words.jsonl"))
    assert "token_classification" in str(refusal(folder, data={"train": [words]}))


def test_bad_records_can_be_set_aside_and_are_told(folder: Path) -> None:
    good = [{"text": f"t {number}", "label": "low" if number % 2 else "high"} for number in range(200)]
    train = lines(folder / "mostly.jsonl", *good, {"text": "", "label": "low"})
    work = Finetuning(finetune_recipe(folder, task={"bad_records": "set_aside"}, data={"train": train}))
    work.check(1)
    notes = "\n".join(work._data.notes())
    assert "1 records were set aside" in notes
    assert "mostly.jsonl:201" in notes


def test_long_texts_are_cut_and_told(folder: Path) -> None:
    work = Finetuning(finetune_recipe(folder, data={"max_tokens": 12}))
    work.check(1)
    work.open()
    assert "rows were cut to data.max_tokens = 12" in work._cuts()[0]


def test_more_tokens_than_the_model_takes(folder: Path) -> None:
    assert "65" in str(refusal(folder, data={"max_tokens": 65}))


def test_an_unknown_score(folder: Path) -> None:
    dev = [str(folder / "train.jsonl")]
    error = refusal(folder, data={"dev": dev}, evaluation={"metric": "bleu"})
    assert error.where == "evaluation.metric"
    assert "macro_f1" in str(error.needed)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schedule": {"epochs": 1.0}}, "exactly one of total_steps and epochs"),
        ({"evaluation": {"patience": 1}}, "needs data.dev"),
        ({"lora": {"rank": 2}, "freeze": {"encoder": True}}, "leave freeze out"),
        ({"freeze": {"encoder": True, "layers": 1}}, "leave the other keys out"),
        ({"task": {"kind": "regression"}, "data": {"shots": 4}}, "has none"),
    ],
)
def test_keys_that_do_not_fit_together(folder: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        parse_recipe(finetune_table(folder, **changes), FinetuneRecipe, where="test")


def test_more_frozen_layers_than_there_are(folder: Path) -> None:
    assert refusal(folder, freeze={"layers": 3}).needed == "0..2"


def test_adapters_need_layers_of_their_name(folder: Path) -> None:
    assert refusal(folder, lora={"rank": 2, "targets": ["nowhere"]}).where == "lora.targets"


def test_recipes_of_other_commands_name_theirs(folder: Path, tmp_path: Path) -> None:
    import tomli_w

    path = tmp_path / "recipe.toml"
    path.write_text(tomli_w.dumps(finetune_table(folder)))
    with pytest.raises(RecipeError) as found:
        read_recipe(path, TrainRecipe)
    assert found.value.hint == f"mlc finetune {path}"
