"""The merge list of a SentencePiece BPE model, where a merge list gives the same ids.

In:  the bytes of a SentencePiece model.
Out: the content of a tokenizer.json for an engine that merges by rank; or `NoMergeList` with the reason why there is
     none.

SentencePiece (src/bpe_model.cc) joins, as long as it can, the two neighbours whose joined piece has the best score, the
leftmost where scores are equal. An engine with a merge list joins the two neighbours whose *pair* stands first in the
list, and leftmost. A piece can often be cut in several ways, so a list may order what SentencePiece does not. The two
agree on every text if

1. no two pieces that can be joined have the same score, and
2. every piece, taken as a text of its own, is joined to itself, by joins of falling scores.

Reason: take a text, joined by falling scores down to some score, and a stretch of it that spells the piece P, with no
join across its two ends so far. Inside, the same was joined as in P alone: a join that P alone does not have would
need a candidate of equal score that overlaps it, further left, which is one across the end. So if the stretch is down
to two parts when the score of P is reached, they are the two last parts of P alone: P is only ever joined from this one
pair, and the list needs no other. And P is not joined below its own score: by 2, it was joined before. So scores fall
in every text, all candidates of one piece are the same pair, and both engines take them from the left.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from sentencepiece import sentencepiece_model_pb2

MARK = "\u2581"  # SentencePiece writes a space as this character


class NoMergeList(Exception):
    """A model that cannot be written as a merge list with the same ids; the message says why."""


def merge_list_json(model: bytes) -> str:
    """The model in the format of tokenizer.json. Ids are its own; no special tokens are in it, so no text spells one.

    Raises:
        NoMergeList: it is not BPE with byte fallback and without normalisation, or breaks 1 or 2 above.
    """
    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(model)
    except Exception as error:  # protobuf's DecodeError has moved between modules
        raise NoMergeList(f"this is no SentencePiece model: {error}") from None
    _check_features(proto)
    kinds = sentencepiece_model_pb2.ModelProto.SentencePiece
    ids = {piece.piece: i for i, piece in enumerate(proto.pieces) if piece.type in (kinds.NORMAL, kinds.BYTE)}
    scores = {piece.piece: piece.score for piece in proto.pieces if piece.type == kinds.NORMAL}
    _check_pieces(scores)
    return _tokenizer_json(ids, _merges(scores), puts_space_first=bool(proto.normalizer_spec.add_dummy_prefix))


def _check_features(proto: Any) -> None:
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    kinds = sentencepiece_model_pb2.ModelProto.SentencePiece
    faults = {
        f"it is a {trainer.ModelType.Name(trainer.model_type).lower()} model": trainer.model_type != trainer.BPE,
        "it has no byte fallback": not trainer.byte_fallback,
        "it normalises text": bool(normalizer.precompiled_charsmap),
        "it removes extra spaces": normalizer.remove_extra_whitespaces,
        "it does not escape spaces": not normalizer.escape_whitespaces,
        "it puts the space after a word": trainer.treat_whitespace_as_suffix,
        "it has user-defined or unused pieces": any(
            piece.type in (kinds.USER_DEFINED, kinds.UNUSED) for piece in proto.pieces
        ),
        "it lacks some of the 256 byte pieces": sum(piece.type == kinds.BYTE for piece in proto.pieces) != 256,
    }
    for fault, found in faults.items():
        if found:
            raise NoMergeList(fault)


def _check_pieces(scores: Mapping[str, float]) -> None:
    if MARK not in scores:
        raise NoMergeList("it has no piece for a space")
    for piece in scores:
        if piece.startswith("<0x") and len(piece) == 6:
            raise NoMergeList(f"its piece {piece} reads like a byte")
        if " " in piece or not piece or not all(character in scores for character in piece):
            raise NoMergeList(f"its piece {piece!r} cannot be joined from characters that are pieces")


def _merges(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """The one pair that each piece is joined from, best score first."""
    merges, last = [], math.inf
    for piece in sorted((piece for piece in scores if len(piece) > 1), key=lambda piece: -scores[piece]):
        if not scores[piece] < last:
            raise NoMergeList(f"its piece {piece!r} has the score of another one")
        last = scores[piece]
        merges.append(_last_pair(piece, scores))
    return merges


def _last_pair(piece: str, scores: Mapping[str, float]) -> tuple[str, str]:
    """Join the piece's characters as SentencePiece does, down to two parts.

    Raises:
        NoMergeList: it gets stuck before, or a join has a better score than the one before it.
    """
    parts, last = list(piece), math.inf
    joined = [scores.get(left + right, -math.inf) for left, right in pairwise(parts)]
    while True:
        best = max(joined)
        if best == -math.inf or best > last:
            raise NoMergeList(f"its piece {piece!r} is not joined to itself by falling scores")
        if len(parts) == 2:
            return parts[0], parts[1]
        place, last = joined.index(best), best
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
        del joined[place]
        if place:
            joined[place - 1] = scores.get(parts[place - 1] + parts[place], -math.inf)
        if place < len(joined):
            joined[place] = scores.get(parts[place] + parts[place + 1], -math.inf)


def _tokenizer_json(ids: Mapping[str, int], merges: list[tuple[str, str]], *, puts_space_first: bool) -> str:
    steps: list[dict[str, object]] = [{"type": "Prepend", "prepend": MARK}] if puts_space_first else []
    steps.append({"type": "Replace", "pattern": {"String": " "}, "content": MARK})
    content: dict[str, object] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": ids,
            "merges": merges,
        },
    }
    return json.dumps(content, ensure_ascii=False)
