"""The tokenizer itself, of either kind: from a recipe's path, or as a manifest names it.

In:  a SentencePiece model, or a tokenizer.json of Hugging Face's tokenizers or a folder with one; or a manifest.
Out: what decides about ids (`ReferenceTokenizer`), and which files it is made of.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from data_prep.encoding import hugging_face
from data_prep.encoding.hugging_face import HuggingFaceTokenizer, is_hugging_face
from data_prep.tokenizer import Tokenizer
from mlc.data.manifest import TOKENIZER_NAMES, Manifest, TokenizerInfo, TokenizerKind
from mlc.errors import RecipeError
from mlc.files import write_atomically


class ReferenceTokenizer(Protocol):
    """What decides about ids: `data_prep.tokenizer.Tokenizer`, or `HuggingFaceTokenizer`."""

    file: Path
    special_ids: dict[str, int]
    vocab_size: int
    dtype: np.dtype[Any]

    def encode(self, texts: Sequence[str]) -> list[NDArray[Any]]:
        """Ids of each text."""
        ...

    def decode(self, ids: NDArray[Any]) -> str:
        """Text of ids; special tokens have none."""
        ...


def kind_of(path: Path) -> TokenizerKind:
    """What a recipe's path names; whether it can be read is not looked at."""
    return "hugging_face" if is_hugging_face(path) else "sentencepiece"


def open_tokenizer(path: Path) -> ReferenceTokenizer:
    """The tokenizer at a path.

    Raises:
        RecipeError: there is none, or it cannot be read.
    """
    return HuggingFaceTokenizer(path) if kind_of(path) == "hugging_face" else Tokenizer(path)


def tokenizer_of(manifest: Manifest) -> ReferenceTokenizer:
    """The tokenizer that a manifest names; errors as in `open_tokenizer`."""
    path = manifest.folder / manifest.tokenizer.file
    return HuggingFaceTokenizer(path) if manifest.tokenizer.kind == "hugging_face" else Tokenizer(path)


def files_of(path: Path) -> tuple[Path, ...]:
    """Every file of a tokenizer, the one that makes the ids first.

    Raises:
        RecipeError: a file is missing.
    """
    if kind_of(path) == "hugging_face":
        return hugging_face.tokenizer_files(path)
    if not path.is_file():
        raise RecipeError("no tokenizer here", found="no such file", needed="a SentencePiece model", where=str(path))
    return (path,)


def content_of(path: Path) -> list[str]:
    """sha256 of every file of a tokenizer, the one that makes the ids first; errors as in `files_of`."""
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files_of(path)]


def copy_tokenizer(source: Path, output: Path) -> TokenizerInfo:
    """Put a tokenizer's files into a folder under their usual names, the one that makes the ids last.

    Args:
        source: see `open_tokenizer`.
        output: exists.

    Returns:
        What a manifest in that folder says of it.

    Raises:
        RecipeError: it cannot be read.
    """
    tokenizer, kind = open_tokenizer(source), kind_of(source)
    first, *others = files_of(source)
    contents = {file.name: file.read_bytes() for file in others} | {TOKENIZER_NAMES[kind]: first.read_bytes()}
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    for name, content in contents.items():
        write_atomically(output / name, content)
    return TokenizerInfo(
        file=TOKENIZER_NAMES[kind],
        sha256=hashes.pop(TOKENIZER_NAMES[kind]),
        vocab_size=tokenizer.vocab_size,
        special_ids=tokenizer.special_ids,
        kind=kind,
        other_files=hashes,
    )
