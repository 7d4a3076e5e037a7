"""A tokenizer.json opened so that any text is text: nothing is cut or padded, and no text spells a special token.

In:  the content of such a file.
Out: a `tokenizers.Tokenizer`; its `encode_batch_fast(texts, add_special_tokens=False)` gives the ids of shards.

The library can be told not to look for special tokens in text. But unigram and word-level models have "<s>" and the
like among their pieces, and would find them there. So these pieces are renamed: they begin with U+FDD0, which cleaned
text never holds (mlc.data.text). Ids stay.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

HIDDEN = "\ufdd0"


def open_tokenizer_json(content: str, *, whole_text_first: bool = False) -> Tokenizer:
    """Open a tokenizer.

    Args:
        content: of the file.
        whole_text_first: added tokens that are no special ones are looked for in normalised text, where they would
            otherwise part the text before.

    Raises:
        Exception: this is no tokenizer.json; of any kind, as the library's own errors are.
    """
    from tokenizers import Tokenizer

    table = json.loads(content)
    _hide_special_pieces(table)
    for token in table["added_tokens"] if whole_text_first else ():
        token["normalized"] = token["normalized"] or not token["special"]
    tokenizer = Tokenizer.from_str(json.dumps(table, ensure_ascii=False))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def shown_name(token: str) -> str:
    """What a special token is called in the file."""
    return token.removeprefix(HIDDEN)


def _hide_special_pieces(table: dict[str, Any]) -> None:
    model, added = table["model"], table.get("added_tokens") or []
    if model["type"] not in ("Unigram", "WordLevel"):
        return
    special = {token["content"] for token in added if token["special"]}
    if isinstance(model["vocab"], dict):
        special |= {model["unk_token"]} & set(model["vocab"])
        model["vocab"] = {_hidden(piece, special): number for piece, number in model["vocab"].items()}
        model["unk_token"] = _hidden(model["unk_token"], special)
    else:
        special |= {model["vocab"][model["unk_id"]][0]} if model.get("unk_id") is not None else set()
        model["vocab"] = [[_hidden(piece, special), score] for piece, score in model["vocab"]]
    for token in added:
        token["content"] = _hidden(token["content"], special)


def _hidden(piece: str, special: set[str]) -> str:
    return HIDDEN + piece if piece in special and not piece.startswith(HIDDEN) else piece
