"""A toy language pair, models that translate it, and recipes: made on the spot.

"de" is the words of "en" in reverse order, "fr" is each word twice with the first one first. No meaning, so a tiny
model learns them in seconds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from finetune_for_tests import finetune_table

WORDS = ["budget", "year", "committee", "agreed", "coming", "met", "Tuesday", "Haushalt", "Komitee", "kommende", "sich"]


def sentence(number: int) -> list[str]:
    """Three to five words."""
    random = np.random.default_rng(number)
    return [WORDS[place] for place in random.integers(0, len(WORDS), int(random.integers(3, 6)))]


def in_language(words: list[str], language: str) -> str:
    """The sentence as "en", "de" (reversed) or "fr" (rotated by one)."""
    turned = {"en": words, "de": words[::-1], "fr": words[1:] + words[:1]}
    return " ".join(turned[language])


def write_pairs(folder: Path, first: str, second: str, examples: int, *, start: int = 0) -> Path:
    """`folder`/first-second.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {language: in_language(sentence(number), language) for language in (first, second)}
        for number in range(start, start + examples)
    ]
    path = folder / f"{first}-{second}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def translation_table(folder: Path, start: Path, train: list[Path], **changes: dict[str, Any]) -> dict[str, Any]:
    """A recipe of translation."""
    table = finetune_table(
        folder,
        task={"kind": "translation"},
        model={"start": str(start)},
        data={"train": list(map(str, train)), "samples_per_step": 8, "max_tokens": 48},
        translation={"max_target_tokens": 24},
        checkpoint={"min_free_gib": 0.0},
    )
    for section, values in changes.items():
        table[section] = {**table.get(section, {}), **values}
    return table
