"""A tokenizer.json of the shards as a tokenizer of transformers: as it was, with the special tokens it lacked.

In:  tokenizer.json and the ids of the special tokens, as the manifest has them.
Out: a `transformers.PreTrainedTokenizerFast` that cleans text as the shards were and adds [CLS] and [SEP].

Special tokens that a tokenizer lacks have ids after its own. A name that it uses for something else (BERT's "[MASK]" is
[MLM] here) is taken: the token that is added is then called "[mlc_MASK]". Special pieces of a unigram model begin with
U+FDD0, so that no text spells them: see mlc.data.tokenizer_json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, normalizers, processors

from mlc.data.tokenizer_json import open_tokenizer_json
from mlc.errors import MlcError
from mlc.tasks.fast_tokenizer import cleaning_steps, for_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def complete_tokenizer(
    file: Path, special_ids: Mapping[str, int], *, max_tokens: int | None = None
) -> PreTrainedTokenizerFast:
    """The fast tokenizer of a tokenizer.json.

    Args:
        file: the tokenizer.json.
        special_ids: token -> id, [CLS] and [SEP] among them, as in the manifest.
        max_tokens: `model_max_length` of the result, [CLS] and [SEP] included.

    Raises:
        MlcError: the file cannot be read, or tokens cannot be added with these ids.
    """
    content = _read(file)
    try:
        # Added tokens would otherwise part the text before it is cleaned, and the ends of every part be trimmed then.
        tokenizer: Any = open_tokenizer_json(content, whole_text_first=True)
    except Exception as error:  # tokenizers raises Exception itself
        raise MlcError("this is no tokenizer.json", found=str(error), where=str(file)) from None
    ordered = sorted(special_ids, key=lambda name: special_ids[name])
    names = {name: _token(tokenizer, name, special_ids[name], file) for name in ordered}
    own = tokenizer.normalizer
    tokenizer.normalizer = normalizers.Sequence([*cleaning_steps(), *([own] if own is not None else [])])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[
            {"id": name, "ids": [special_ids[name]], "tokens": [names[name]]} for name in ("[CLS]", "[SEP]")
        ],
    )
    return for_transformers(tokenizer, names, max_tokens)


def texts_with_added_tokens(file: Path) -> list[str]:
    """Texts to compare on besides the usual ones: each token that was added to the vocabulary, amid other text.

    Raises:
        MlcError: the file cannot be read.
    """
    try:
        names = [str(token["content"]) for token in json.loads(_read(file))["added_tokens"]]
    except (ValueError, TypeError, KeyError) as error:
        raise MlcError("this is no tokenizer.json", found=repr(error), where=str(file)) from None
    return [f"a {name} b{name}c" for name in names]


def _token(tokenizer: Any, name: str, token_id: int, file: Path) -> str:
    """What the tokenizer calls a special token, which is added where there is none of that id."""
    found: str | None = tokenizer.id_to_token(token_id)
    if found is not None:
        return found
    content = name if tokenizer.token_to_id(name) is None else f"[mlc_{name[1:-1]}]"
    tokenizer.add_special_tokens([AddedToken(content, normalized=False, special=True)])
    if tokenizer.token_to_id(content) != token_id:
        raise MlcError(
            "the special tokens cannot be added to the tokenizer: its ids have gaps",
            found=f"{content} as {tokenizer.token_to_id(content)}",
            needed=str(token_id),
            where=str(file),
        )
    return content


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise MlcError("the tokenizer cannot be read", found=str(error), where=str(file)) from None
