"""Fast tokenizers of every kind a model may have, made on the spot."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hugging_face_tokenizers import make_tokenizer
from small_models import SPECIAL_IDS, train_tokenizer
from transformers import AutoTokenizer

from mlc.tasks.fast_tokenizer import convert_tokenizer

KINDS = ("bert", "gpt2", "xlmr", "sentencepiece", "no prefix", "across words")
_SENTENCEPIECE: dict[str, dict[str, Any]] = {
    "sentencepiece": {},
    "no prefix": {"dummy_prefix": False},
    "across words": {"split_by_whitespace": False},
}


@cache
def fast_tokenizer(kind: str) -> Any:
    """Of Hugging Face, as AutoTokenizer opens them; of SentencePiece, as a checkpoint's is converted."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        if kind in _SENTENCEPIECE:
            file = train_tokenizer(folder / "tokenizer.model", **_SENTENCEPIECE[kind])
            return convert_tokenizer(file, SPECIAL_IDS)
        return AutoTokenizer.from_pretrained(hugging_face_folder(kind, folder))


def hugging_face_folder(kind: str, folder: Path) -> Path:
    """tokenizer.json and tokenizer_config.json, so that AutoTokenizer opens them."""
    make_tokenizer(kind, folder)
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text())
    if isinstance(config.get("mask_token"), dict):
        config["mask_token"] |= {"__type": "AddedToken"}
    file.write_text(json.dumps(config))
    return folder
