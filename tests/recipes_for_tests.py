"""Recipes that tests start from; every test states what it changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlc.config import parse_recipe
from mlc.recipe import TrainRecipe

ROOT = Path(__file__).resolve().parent.parent


def recipe_table(**changes: dict[str, Any]) -> dict[str, Any]:
    """A small joint run; `changes` are merged section by section."""
    table: dict[str, Any] = {
        "run": {"folder": "run", "precision": "fp32"},
        "data": {
            "shards": "shards",
            "samples_per_step": 8,
            "max_tokens": 32,
            "sources": [{"kind": "documents", "view": "translations"}],
        },
        "model": {"layers": 2, "hidden_size": 32, "heads": 2, "feed_forward_size": 64},
        "objectives": {"contrastive": {"weight": 1.0}, "glm": {"weight": 0.5}, "mlm": {"weight": 0.5}},
        "optimizer": {"learning_rate": 1e-3},
        "schedule": {"total_steps": 6, "warmup_steps": 2},
        "deepspeed": {"config": str(ROOT / "ds_configs" / "zero3.json")},
        "log": {"every_steps": 1, "tensorboard": False},
    }
    for section, values in changes.items():
        table[section] = {**table.get(section, {}), **values}
    return table


def train_recipe(**changes: dict[str, Any]) -> TrainRecipe:
    """`recipe_table`, validated."""
    return parse_recipe(recipe_table(**changes), TrainRecipe, where="test")
