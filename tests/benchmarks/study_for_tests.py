"""Studies on shards of random tokens, and what a score file holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tomli_w
from recipes_for_tests import recipe_table
from small_shards import write_small_shards

TOKENS = 600


def write_small_study(home: Path) -> Path:
    """Two arms, two seeds; warm-up is 10 and the interval of checkpoints 20 of the base's 100 steps."""
    shards = home / "shards"
    write_small_shards(shards)
    base = recipe_table(
        data={"shards": str(shards)},
        schedule={"total_steps": 100, "warmup_steps": 10, "kind": "linear"},
        checkpoint={"every_steps": 20},
    )
    (home / "base.toml").write_text(tomli_w.dumps(base))
    write_study(home / "study.toml", study_table(home))
    return home / "study.toml"


def study_table(home: Path) -> dict[str, Any]:
    return {
        "study": {
            "name": "s",
            "base": str(home / "base.toml"),
            "folder": str(home / "runs"),
            "seeds": [1, 2],
            "text_tokens_per_run": TOKENS,
        },
        "score": {"retrieval": "texts", "languages": ["de"], "heldout": str(home / "shards")},
        "arms": {
            "mlm": {
                "title": "MLM",
                "set": {
                    "objectives": {"contrastive": {"weight": 0.0}, "glm": {"weight": 0.0}},
                    "data": {"sources": [{"kind": "documents", "view": "text"}]},
                },
            },
            "joint": {"title": "Joint"},
        },
    }


def write_study(path: Path, content: dict[str, Any]) -> None:
    path.write_text(tomli_w.dumps(content))


def a_score(top1: float, mlm: float | None = 5.0, glm: float | None = None) -> dict[str, Any]:
    losses = {"mlm": mlm, "glm": glm}
    return {
        "retrieval": {"top1": top1, "by_language": {"de": top1}, "layer": 2, "dev_top1": None},
        **{name: None if loss is None else {"loss": loss} for name, loss in losses.items()},
        "processed_tokens": 700,
        "training_seconds": 120.0,
    }


def edited(study_file: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    content = study_table(study_file.parent)
    edit(content)
    write_study(study_file, content)
