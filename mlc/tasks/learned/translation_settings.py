"""What a translation model has to know of its task, and how languages are told to it.

In:  nothing. Out: `TranslationSettings`, a part of `mlc.tasks.learned.task.TaskSettings`; tags and directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pydantic

from mlc.tasks.examples import TranslationExample

Decoder = Literal["encoder_decoder", "part_b"]


@dataclass(frozen=True)
class TranslationSettings:
    """How a model translates.

    Attributes:
        decoder: "part_b" = the GLM writes the translation into a blank; "encoder_decoder" = a transformer with cross
            attention beside the encoder.
        directions: that were trained, "de>en" from German into English, sorted.
        max_target_tokens: longest translation, its end token included.
        label_smoothing: share of the target's probability that is spread over the vocabulary (Szegedy et al. 2016,
            section 7).
        layers, heads: of the decoder beside the encoder; 0 = as many as the encoder has.
        beams: of development and test scores; 1 = greedy.
    """

    __pydantic_config__ = pydantic.ConfigDict(extra="forbid")

    decoder: Decoder
    directions: tuple[str, ...]
    max_target_tokens: pydantic.PositiveInt
    label_smoothing: float = 0.0
    layers: pydantic.NonNegativeInt = 0
    heads: pydantic.NonNegativeInt = 0
    beams: pydantic.PositiveInt = 1

    @property
    def most_tokens(self) -> int:
        """Tokens that a translation has at most, its end not counted."""
        return max(1, self.max_target_tokens - 1)

    @property
    def targets(self) -> tuple[str, ...]:
        """Languages that were written in training, sorted."""
        return tuple(sorted({direction.split(">")[1] for direction in self.directions}))


def direction(source: str, target: str) -> str:
    """The name of a direction; codes may have hyphens: "zh-Hant>de"."""
    return f"{source}>{target}"


def direction_of(example: TranslationExample) -> str:
    """Of an example."""
    return direction(example.place.language, example.target_language)


def directions_of(examples: Sequence[TranslationExample]) -> tuple[str, ...]:
    """Of examples, each once, sorted."""
    return tuple(sorted({direction_of(example) for example in examples}))


def tag(language: str) -> str:
    """What stands before a source text and says which language to write (Johnson et al. 2017, section 3).

    It is spelled as text, so any tokenizer takes it and no vocabulary grows.
    """
    return f"<2{language}>"
