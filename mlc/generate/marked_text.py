"""Texts with marked blanks, as Part A of a GLM, and the text once the blanks are filled.

In:  a text in which [MASK], [sMASK] or [gMASK] stand for what is missing.
Out: `MarkedText`: what stands between the marks; `BlankTokenizer` makes prompts of it and text of what was generated.

Pieces of a tokenizer begin with the space before a word, so in training a blank took the space before it along. A space
before a mark is therefore left to the model, which says whether a new word begins; one after a mark is the text's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from mlc.data.manifest import TokenizerKind
from mlc.data.text import clean_text
from mlc.data.tokenizer_json import open_tokenizer_json
from mlc.errors import DataError
from mlc.model.decoding_glm import BlankPrompt
from mlc.tasks.tokenizers import plain_encoder

MARKS = ("[MASK]", "[sMASK]", "[gMASK]")
TO_THE_END = "[gMASK]"
_MARK = re.compile("|".join(map(re.escape, MARKS)))
_MISSPELLED = re.compile(r"\[\s*\w?mask(?:s|ed)?\s*\]", re.IGNORECASE)
_NEEDED = "[MASK] for some words, [sMASK] for a sentence, [gMASK] for the rest of a text"
_ANCHORS = "qxa0.,:;!)"
"""Characters to stand before text that goes on behind a blank; letters first, which mark what follows as inside a
word."""


@dataclass(frozen=True)
class MarkedText:
    """A text cut at its marks.

    Attributes:
        segments: cleaned text between the marks, with its spaces; one more than marks.
        marks: of `MARKS`.
        where: for messages.
    """

    segments: tuple[str, ...]
    marks: tuple[str, ...]
    where: str

    def fill(self, contents: Sequence[str]) -> str:
        """The text with `contents` in the blanks; one that begins a word begins with a space."""
        text = self.segments[0]
        for content, segment in zip(contents, self.segments[1:], strict=True):
            text = text.rstrip(" ") + content + segment
        return text.strip(" ")


def read_marks(text: str, where: str) -> MarkedText:
    """Clean a text and cut it at its marks; one without marks is to be continued, as if it ended with [gMASK].

    Args:
        text: any.
        where: file and line, for messages.

    Raises:
        DataError: nothing is left of the text, a mark is misspelled, or [gMASK] does not end it.
    """
    clean = clean_text(text)
    if not clean:
        raise DataError(
            "the text is empty",
            where=where,
            hint="leave the line out; [gMASK] alone asks for a text out of nothing",
        )
    for found in _MISSPELLED.finditer(clean):
        if found[0] not in MARKS:
            raise DataError(
                f"the mark of a blank is misspelled, at character {found.start() + 1}",
                found=found[0],
                needed=_NEEDED,
                where=where,
            )
    marks = tuple(_MARK.findall(clean))
    segments = tuple(_MARK.split(clean))
    if not marks:
        return MarkedText((clean, ""), (TO_THE_END,), where)
    if TO_THE_END in marks[:-1] or (marks[-1] == TO_THE_END and segments[-1].strip()):
        raise DataError(
            "[gMASK] stands for the rest of a text, and something follows it",
            found=clean[clean.index(TO_THE_END) :][:60],
            needed="[MASK] or [sMASK] amid text",
            where=where,
        )
    return MarkedText(segments, marks, where)


class BlankTokenizer:
    """The tokenizer of a run, for texts with blanks.

    Args:
        file: tokenizer.model or tokenizer.json.
        kind: which of them.
        special_ids: as in the manifest.

    Raises:
        CheckpointError: the file is missing or cannot be read.
    """

    def __init__(self, file: Path, kind: TokenizerKind, special_ids: Mapping[str, int]) -> None:
        self._special_ids = special_ids
        self._begin = plain_encoder(file, kind)
        opened = _tokenizer_json(file) if kind == "hugging_face" else _sentencepiece(file)
        self._inside, self._decode = opened

    def prompt(self, text: MarkedText) -> BlankPrompt:
        """Part A, [CLS] to [SEP], with the blanks from left to right."""
        (ids,) = self._begin([text.segments[0].rstrip(" ")])
        part_a, places = [self._special_ids["[CLS]"], *ids], []
        for number, mark in enumerate(text.marks, 1):
            places.append(len(part_a))
            part_a.append(self._special_ids[mark])
            segment = text.segments[number]
            part_a += self.inside(segment.rstrip(" ") if number < len(text.marks) else segment)
        return BlankPrompt((*part_a, self._special_ids["[SEP]"]), tuple(places))

    def inside(self, text: str) -> list[int]:
        """Ids of text that follows other text: it begins a word only where it begins with a space."""
        return self._inside(text) if text else []

    def text_of(self, tokens: Sequence[int]) -> str:
        """What was generated for a blank; it begins with a space where it begins a word."""
        (anchor,) = self._begin(["a"])
        before, both = self._decode(anchor), self._decode([*anchor, *tokens])
        return both.removeprefix(before)


def _sentencepiece(file: Path) -> tuple[Callable[[str], list[int]], Callable[[Sequence[int]], str]]:
    from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

    # `plain_encoder` opened the file before: it is a model.
    proto: Any = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(file.read_bytes())
    whole: Any = SentencePieceProcessor(model_proto=proto.SerializeToString())
    proto.normalizer_spec.add_dummy_prefix = False
    proto.normalizer_spec.remove_extra_whitespaces = False
    inside: Any = SentencePieceProcessor(model_proto=proto.SerializeToString())
    return inside.encode, lambda ids: str(whole.decode(list(ids)))


def _tokenizer_json(file: Path) -> tuple[Callable[[str], list[int]], Callable[[Sequence[int]], str]]:
    tokenizer: Any = open_tokenizer_json(file.read_text(encoding="utf-8"))

    def inside(text: str) -> list[int]:
        for anchor in _ANCHORS:
            found = tokenizer.encode(anchor + text, add_special_tokens=False)
            cuts = [
                place
                for place, (one, other) in enumerate(pairwise(found.offsets), 1)
                if one[1] <= 1 <= other[0] and place == sum(end <= 1 for _, end in found.offsets)
            ]
            if cuts:
                return list(found.ids[cuts[0] :])
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    return inside, lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=False))
