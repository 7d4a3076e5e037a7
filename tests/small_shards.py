"""Shards of random tokens, written by the project's own writer: enough for everything but tokenising."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mlc.data.indexed import ShardWriter, token_dtype
from mlc.data.manifest import SPECIAL_TOKENS, Manifest, ShardEntry, TokenizerInfo

VOCAB_SIZE = 200
LANGUAGES = ("aa", "bb", "cc")


def write_small_shards(
    folder: Path,
    *,
    documents: int = 60,
    pairs: int = 40,
    longest: int = 12,
    seed: int = 0,
    tokenizer: bytes = b"a tokenizer",
    vocab_size: int = VOCAB_SIZE,
    sequences: Sequence[int] = (1, 2, 3, 4),
) -> Manifest:
    """Documents in three languages that are translations of one another, and sentence pairs aa-bb.

    The last document of every language has no translation (group -1); every fifth pair repeats an earlier first side.
    `vocab_size` is what the manifest says; the tokens stay below `VOCAB_SIZE`. `sequences` are the sizes of documents,
    in turns.
    """
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(tokenizer)
    entries = []
    for language in LANGUAGES:
        texts = [_document(random, sequences[number % len(sequences)], longest) for number in range(documents)]
        groups = np.append(1000 + np.arange(documents - 1), -1)
        entries.append(_write(folder, "documents", (language,), [texts], groups))
    first = [_document(random, 1, longest) for _ in range(pairs)]
    first = [first[number - 1] if number % 5 == 4 else text for number, text in enumerate(first)]
    second = [_document(random, 1, longest) for _ in range(pairs)]
    entries.append(_write(folder, "pairs", LANGUAGES[:2], [first, second], 5000 + np.arange(pairs)))
    manifest = Manifest(
        folder=folder,
        tokenizer=TokenizerInfo(
            file="tokenizer.model",
            sha256=hashlib.sha256(tokenizer).hexdigest(),
            vocab_size=vocab_size,
            special_ids={name: number for number, name in enumerate(SPECIAL_TOKENS)},
        ),
        shards=tuple(entries),
    )
    manifest.write(folder)
    return manifest


def _document(random: np.random.Generator, sequences: int, longest: int) -> list[np.ndarray]:
    low = len(SPECIAL_TOKENS)
    return [
        random.integers(low, VOCAB_SIZE, size=random.integers(3, longest)).astype(token_dtype(VOCAB_SIZE))
        for _ in range(sequences)
    ]


def _write(
    folder: Path,
    kind: str,
    languages: Sequence[str],
    sides: Sequence[Sequence[list[np.ndarray]]],
    groups: np.ndarray,
) -> ShardEntry:
    name = f"{kind}/{'-'.join(languages)}"
    prefixes = [f"{name}.{language}" if len(languages) > 1 else name for language in languages]
    (folder / kind).mkdir(exist_ok=True)
    for prefix, documents in zip(prefixes, sides, strict=True):
        with ShardWriter(folder / prefix, token_dtype(VOCAB_SIZE)) as writer:
            for document in documents:
                writer.add_document(document)
    np.save(folder / f"{name}.groups.npy", groups.astype(np.int64))
    files = [f"{prefix}{suffix}" for prefix in prefixes for suffix in (".bin", ".idx")] + [f"{name}.groups.npy"]
    return ShardEntry(
        name=name,
        kind=kind,  # type: ignore[arg-type]
        languages=tuple(languages),
        prefixes=tuple(prefixes),
        documents=len(sides[0]),
        sequences=sum(len(document) for document in sides[0]),
        tokens=sum(len(sequence) for side in sides for document in side for sequence in document),
        files={
            file: {
                "bytes": (folder / file).stat().st_size,
                "sha256": hashlib.sha256((folder / file).read_bytes()).hexdigest(),
            }
            for file in files
        },
    )
