"""Writes a corpus as files, and a summary beside them.

Comes in: a Corpus. Goes out: DIR/train/<lang>.jsonl, DIR/heldout/<lang>.jsonl and DIR/summary.json; with mixed formats
one language's training file is .jsonl.zst, another's .jsonl.gz, and the extra documents are plain text.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import zstandard

from data_prep.demo_corpus.corpus import Corpus, Record, least_difference

Formats = Literal["jsonl", "mixed"]

_MIXED_SUFFIXES = {"de": ".jsonl.zst", "es": ".jsonl.gz"}
_SUFFIXES = (".jsonl", ".jsonl.zst", ".jsonl.gz", "-extra.txt")


def write_corpus(corpus: Corpus, output: Path, formats: Formats = "jsonl") -> dict[str, Any]:
    """Writes the corpus under `output` (made where missing; an earlier corpus there is replaced).

    Returns:
        What summary.json holds: counts, seed, sizes and overlap by language.
    """
    for part, by_language in (("train", corpus.train), ("heldout", corpus.held_out)):
        folder = output / part
        folder.mkdir(parents=True, exist_ok=True)
        for language, records in by_language.items():
            for suffix in _SUFFIXES:
                (folder / f"{language}{suffix}").unlink(missing_ok=True)
            suffix = _MIXED_SUFFIXES.get(language, ".jsonl") if (formats, part) == ("mixed", "train") else ".jsonl"
            _write(folder / f"{language}{suffix}", _encoded(_json_lines(records), suffix))
    if corpus.extra:
        language = corpus.extra[0]["lang"]
        text = "\n\n".join(record["text"] for record in corpus.extra) + "\n"
        _write(output / "train" / f"{language}-extra.txt", text.encode())
    summary = summarise(corpus, formats)
    _write(output / "summary.json", (json.dumps(summary, indent=2, ensure_ascii=False) + "\n").encode())
    return summary


def summarise(corpus: Corpus, formats: Formats = "jsonl") -> dict[str, Any]:
    """Counts, seed, sizes and overlap by language, as plain JSON values."""
    return {
        "seed": corpus.seed,
        "formats": formats,
        "languages": list(corpus.train),
        "documents": len(corpus.train_plans),
        "sentences": sum(map(len, corpus.train_plans)),
        "held_out_documents": len(corpus.held_out_plans),
        "held_out_sentences": sum(map(len, corpus.held_out_plans)),
        "extra_documents": len(corpus.extra),
        "held_out_min_differing_concepts": least_difference(corpus.held_out_plans),
        "by_language": {language: asdict(report) for language, report in corpus.report().items()},
    }


def _json_lines(records: Sequence[Record]) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def _encoded(data: bytes, suffix: str) -> bytes:
    if suffix.endswith(".zst"):
        return zstandard.ZstdCompressor(level=3).compress(data)
    # mtime=0: the same corpus gives the same bytes.
    return gzip.compress(data, mtime=0) if suffix.endswith(".gz") else data


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    os.replace(partial, path)
