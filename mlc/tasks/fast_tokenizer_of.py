"""The fast tokenizer of any model this project can read, with the model's longest input.

In:  where a model is (mlc.tasks.locate).
Out: a `transformers.PreTrainedTokenizerFast`; its ids are those of `mlc.tasks.encoder.TextEncoder`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlc.data.manifest import TOKENIZER_NAMES
from mlc.errors import CheckpointError, MlcError, UsageError
from mlc.tasks.fast_tokenizer import convert_tokenizer
from mlc.tasks.fast_tokenizer_json import complete_tokenizer
from mlc.tasks.locate import ModelSource, read_description
from mlc.tasks.tokenizers import HuggingFaceTokenizer, check_length, position_limit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FEWEST_TOKENS = 3
"""[CLS], a token, [SEP]."""


def open_fast_tokenizer(source: ModelSource, *, max_tokens: int | None = None) -> PreTrainedTokenizerFast:
    """Open the tokenizer of what `find_model` found. It cuts on the right, and never runs code beside a model.

    Args:
        source: checkpoint, export, Hugging Face folder or hub name.
        max_tokens: longest input, special tokens included; None = as the model was trained, or as its files state it.

    Returns:
        A tokenizer whose `model_max_length` is the longest input.

    Raises:
        UsageError: `max_tokens` is too small.
        CheckpointError: the checkpoint's tokenizer is missing, or of an unknown kind.
        MlcError: there is no tokenizer, none of the library `tokenizers`, or the model takes less than `max_tokens`.
    """
    from mlc.model.registration import register_auto_classes

    if max_tokens is not None and max_tokens < FEWEST_TOKENS:
        raise UsageError("max_tokens is too small", found=max_tokens, needed="3 or more: [CLS], a token, [SEP]")
    register_auto_classes()
    config = _configuration(source)
    if source.kind == "huggingface":
        limit = HuggingFaceTokenizer(source.name, config, max_tokens).max_tokens
        tokenizer = _auto_tokenizer(source.name)
    else:
        description = read_description(source.folder)
        if config.model_type != "mlc_glm":  # the GLM's number is no limit: its positions are rotary
            check_length(max_tokens, position_limit(config), source.name)
        stated = description["task"]["max_tokens"] if source.kind == "finetuned" else description["max_tokens"]
        limit = max_tokens or int(stated)
        tokenizer = _of_checkpoint(source, description) if source.kind == "checkpoint" else _auto_tokenizer(source.name)
    tokenizer.model_max_length = limit
    tokenizer.truncation_side = "right"
    return tokenizer


def _configuration(source: ModelSource) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source.name, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        found = " ".join(str(error).split())[:300]
        raise MlcError("the model's configuration cannot be read", found=found, where=source.name) from None


def _of_checkpoint(source: ModelSource, description: Any) -> PreTrainedTokenizerFast:
    kind = description.get("tokenizer_kind", "sentencepiece")
    if kind not in TOKENIZER_NAMES:
        known = ", ".join(TOKENIZER_NAMES)
        raise CheckpointError("the tokenizer is of an unknown kind", found=kind, needed=known, where=source.name)
    file: Path = source.folder / TOKENIZER_NAMES[kind]
    convert = complete_tokenizer if kind == "hugging_face" else convert_tokenizer
    return convert(file, description["special_ids"])


def _auto_tokenizer(name: str) -> PreTrainedTokenizerFast:
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        found = " ".join(str(error).split())[:300]
        raise MlcError("the model's tokenizer cannot be loaded", found=found, where=name) from None
    if not tokenizer.is_fast:
        raise MlcError(
            "the model's tokenizer is not one of the library tokenizers",
            found=type(tokenizer).__name__,
            needed="a tokenizer.json beside the model: places of words and answers in the text are read off it",
            where=name,
            hint="save one where transformers can convert it: AutoTokenizer.from_pretrained(NAME).save_pretrained(NEW)",
        )
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # what transformers makes where the files are missing
        found = f"{len(tokenizer)} tokens, special ones all of them"
        raise MlcError("the model's tokenizer has no vocabulary", found=found, needed="a tokenizer.json", where=name)
    return tokenizer
