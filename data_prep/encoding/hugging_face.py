"""A tokenizer of Hugging Face's `tokenizers` library as the shards' tokenizer.

In:  a folder with tokenizer.json, and tokenizer_config.json where the special tokens have roles; or the former alone.
Out: ids of texts without the special tokens that it would put around them, and the ids of `SPECIAL_TOKENS`.

Text that spells a special token ("<s>") is encoded as text, as in every tokenizer of this project. Special tokens that
the tokenizer lacks get ids after its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlc.data.indexed import token_dtype
from mlc.data.manifest import SPECIAL_TOKENS
from mlc.data.tokenizer_json import open_tokenizer_json, shown_name
from mlc.errors import RecipeError

FILE_NAME = "tokenizer.json"
CONFIG_NAME = "tokenizer_config.json"

_ROLES = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "bos_token": "[CLS]",
    "sep_token": "[SEP]",
    "eos_token": "[SEP]",
    "mask_token": "[MLM]",
}
"""The first of two roles that is filled gives the id: BERT's family has cls and sep, others bos and eos alone."""

_OTHER_SPELLINGS = {
    "[PAD]": "<pad>",
    "[UNK]": "<unk>",
    "[CLS]": "<s>",
    "[SEP]": "</s>",
    "[MLM]": "<mask>",
    "[sop]": "<sop>",
    "[eop]": "<eop>",
}
"""Of RoBERTa's family and of GLM, for folders without tokenizer_config.json."""


def is_hugging_face(path: Path) -> bool:
    """Whether the path is a folder or a .json file: a SentencePiece model is neither."""
    return path.is_dir() or path.suffix == ".json"


def tokenizer_files(path: Path) -> tuple[Path, ...]:
    """What has to be copied for a tokenizer to stay whole, the file that makes the ids first.

    Raises:
        RecipeError: there is no tokenizer.json.
    """
    file = path / FILE_NAME if path.is_dir() else path
    if not file.is_file():
        raise RecipeError(
            "no tokenizer here",
            found=", ".join(sorted(found.name for found in path.iterdir())[:5]) if path.is_dir() else "no such file",
            needed=FILE_NAME,
            where=str(path),
            hint="a tokenizer of transformers writes it: AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER)",
        )
    config = file.with_name(CONFIG_NAME)
    return (file, config) if config.is_file() else (file,)


class HuggingFaceTokenizer:
    """A tokenizer.json.

    Attributes:
        file: the tokenizer.json.
        special_ids: {name: id} of `SPECIAL_TOKENS`.
        vocab_size: its largest id and the special tokens after it; ids are below it.
        dtype: that the ids are stored in.

    Raises:
        RecipeError: it is missing or no tokenizer.
    """

    def __init__(self, path: Path) -> None:
        self.file, *configs = tokenizer_files(path)
        try:
            self._tokenizer: Any = open_tokenizer_json(self.file.read_text(encoding="utf-8"))
            config = dict(json.loads(configs[0].read_text(encoding="utf-8"))) if configs else {}
        except Exception as error:  # tokenizers raises Exception itself
            raise RecipeError("no tokenizer can be read", found=str(error), where=str(self.file)) from None
        self.special_ids, self.vocab_size = self._find_specials(config)
        self.dtype = token_dtype(self.vocab_size)

    def encode(self, texts: Sequence[str]) -> list[NDArray[Any]]:
        """Ids of each text, without special tokens."""
        # Processes are the parallelism here; threads of this library would take the cores of other workers.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        found = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        ids = [encoding.ids for encoding in found]
        ends = np.cumsum([len(each) for each in ids])
        flat = np.fromiter(chain.from_iterable(ids), dtype=self.dtype, count=int(ends[-1]) if len(ends) else 0)
        return np.split(flat, ends[:-1]) if len(ends) else []

    def decode(self, ids: NDArray[Any]) -> str:
        """Text of ids; special tokens have none."""
        special = set(self.special_ids.values())
        text: str = self._tokenizer.decode([token for token in ids.tolist() if token not in special])
        return text

    def byte_ids(self) -> list[int]:
        """Ids of the pieces <0x00> to <0xFF>, where the model falls back on bytes."""
        content = json.loads(self._tokenizer.to_str())
        if not content["model"].get("byte_fallback"):
            return []
        found = [self._tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in range(256)]
        return [i for i in found if i is not None]

    def without_special_tokens(self) -> str:
        """The tokenizer.json without its special tokens, for an engine that would find them in text."""
        content = json.loads(self._tokenizer.to_str())
        content["added_tokens"] = [token for token in content["added_tokens"] if not token["special"]]
        content["post_processor"] = None
        return json.dumps(content, ensure_ascii=False)

    def _find_specials(self, config: Mapping[str, Any]) -> tuple[dict[str, int], int]:
        tokens = self._tokenizer.get_added_tokens_decoder().items()
        added = {shown_name(token.content): i for i, token in tokens if token.special}
        known: dict[str, int] = {}
        for name, content in _candidates(config):
            if content in added and added[content] not in known.values():
                known.setdefault(name, added[content])
        ids = self._tokenizer.get_vocab(with_added_tokens=True).values()
        model = json.loads(self._tokenizer.to_str())["model"]
        unknown = model.get("unk_id", self._tokenizer.token_to_id(str(model.get("unk_token"))))  # Unigram has an id
        if unknown is not None and unknown not in known.values():
            known.setdefault("[UNK]", unknown)
        first_free = max(ids, default=-1) + 1
        missing = [name for name in SPECIAL_TOKENS if name not in known]
        known.update({name: first_free + i for i, name in enumerate(missing)})
        return {name: known[name] for name in SPECIAL_TOKENS}, first_free + len(missing)


def _candidates(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(Our name, the token's text), roles before texts: BERT's "[MASK]" is what masked language modelling needs."""
    for role, name in _ROLES.items():
        token = config.get(role)
        content = token.get("content") if isinstance(token, Mapping) else token
        if isinstance(content, str):
            yield name, content
    for name in SPECIAL_TOKENS:
        yield name, name
        if name in _OTHER_SPELLINGS:
            yield name, _OTHER_SPELLINGS[name]
