"""The DeepSpeed file and the recipe: one owner for every fact."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from recipes_for_tests import train_recipe

from mlc.engine.deepspeed_config import OWNED_BY_RECIPE, deepspeed_config
from mlc.errors import RecipeError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["zero1", "zero2", "zero3", "zero3_offload"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_file_serves_every_precision(name: str, precision: str) -> None:
    recipe = train_recipe(run={"precision": precision}, deepspeed={"config": str(ROOT / "ds_configs" / f"{name}.json")})
    config = deepspeed_config(recipe, 2)
    assert config["zero_optimization"]["stage"] == int(name[4])
    assert config["bf16"]["enabled"] == (precision == "bf16")
    assert config["fp16"]["enabled"] == (precision == "fp16")
    assert config["gradient_clipping"] == recipe.optimizer.gradient_clipping
    assert "auto" not in json.dumps(config)


@pytest.mark.parametrize("key", sorted(OWNED_BY_RECIPE))
def test_a_second_owner_is_refused(key: str, tmp_path: Path) -> None:
    file = tmp_path / "zero.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 3}, key: 7}))
    with pytest.raises(RecipeError, match=rf"{key} = 7.*auto") as error:
        deepspeed_config(train_recipe(deepspeed={"config": str(file)}), 1)
    assert OWNED_BY_RECIPE[key] in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "no JSON object"),
        ("{}", "ZeRO stage"),
        ('{"zero_optimization": {"stage": 0}}', "found 0"),
    ],
)
def test_a_bad_file_is_refused(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "zero.json"
    file.write_text(content)
    with pytest.raises(RecipeError, match=message):
        deepspeed_config(train_recipe(deepspeed={"config": str(file)}), 1)


def test_a_missing_file_is_refused() -> None:
    with pytest.raises(RecipeError, match="No such file"):
        deepspeed_config(train_recipe(deepspeed={"config": "nowhere.json"}), 1)
