"""A small corpus of three languages with its recipe, and builds of it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import zstandard

from data_prep.command import build
from mlc.data.manifest import Manifest

WORDS = {
    "en": ["the", "tree", "house", "river", "stands", "near", "old", "stone", "bridge", "and", "small", "garden"],
    "de": ["der", "Baum", "Haus", "Fluss", "steht", "bei", "alter", "Brücke", "und", "kleinem", "Garten", "über"],
    "zh": ["树", "房子", "河", "站", "在", "旧", "石", "桥", "和", "小", "花园", "旁边"],
}


def text(language: str, seed: int, words: int) -> str:
    chosen = np.random.default_rng(seed).integers(0, len(WORDS[language]), words)
    return ("" if language == "zh" else " ").join(WORDS[language][i] for i in chosen)


def write_corpus(home: Path) -> Path:
    """Three languages of documents, plain, gzip and zstd, two of pairs; and a recipe."""
    folder = home / "corpus"
    folder.mkdir()
    for language in WORDS:
        rows = [
            {"id": f"doc-{i}", "text": "\n".join(text(language, 10 * i + line, 12) for line in range(3))}
            for i in range(0 if language == "en" else 5, 40)
        ]
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        (folder / f"{language}.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(content))
    (folder / "more.txt.gz").write_bytes(gzip.compress(b"First one. Second one!\n\nAnother document.\n", mtime=0))
    for language in ("de", "zh"):
        rows = [{"source": "s", "id": i, "en": text("en", i, 8), language: text(language, i, 8)} for i in range(30)]
        (folder / f"en-{language}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (home / "prep.toml").write_text(
        f"""
[build]
output = "{home}/out"
[tokenizer]
vocab_size = 360
[[documents]]
languages = ["en", "de", "zh"]
paths = ["{folder}/{{language}}.jsonl.zst"]
[[documents]]
language = "en"
paths = ["{folder}/more.txt.gz"]
sequences = "sentence"
[[pairs]]
first = "en"
seconds = ["de", "zh"]
paths = ["{folder}/en-{{second}}.jsonl"]
"""
    )
    return home


def build_in(corpus: Path, output: str = "out", *overrides: str, overwrite: bool = False) -> Manifest:
    return build(corpus / "prep.toml", [f"build.output={corpus / output}", *overrides], overwrite).manifest
