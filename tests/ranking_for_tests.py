"""Small data of retrieval and re-ranking, and recipes for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from finetune_for_tests import finetune_table
from small_corpus import text

LANGUAGES = ("en", "de")


def write_rankings(path: Path, examples: int, *, positives: int = 1, negatives: int = 3, first: int = 0) -> Path:
    """Queries whose right passages are they with other words behind, in {"lang", "query", "positives", "negatives"}."""
    lines = []
    for number in range(first, first + examples):
        language = LANGUAGES[number % 2]
        query = text(language, number, 5)
        right = [f"{query} {text(language, 1000 * k + number, 2 + k)}" for k in range(1, positives + 1)]
        wrong = [text(language, 10_000 * k + number, 4 + (number + k) % 4) for k in range(1, negatives + 1)]
        lines.append({"lang": language, "query": query, "positives": right, "negatives": wrong})
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


def ranking_table(folder: Path, kind: str, **changes: dict[str, Any]) -> dict[str, Any]:
    """A recipe for the start of `make_encoder(folder / "start")`, with a checkpoint after every step."""
    table = finetune_table(
        folder,
        task={"kind": kind},
        data={"max_tokens": 48},
        ranking={"negatives_per_query": 2},
        optimizer={"gradient_clipping": 0.0},
        checkpoint={"min_free_gib": 0.0, "every_steps": 1, "keep_every": 1},
    )
    return {**table, **{name: {**table.get(name, {}), **values} for name, values in changes.items()}}
