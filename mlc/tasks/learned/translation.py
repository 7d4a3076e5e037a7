"""Translation: a text in one language is written in another.

In:  texts with the languages to read and to write. Out: texts.
Letters: R rows, T columns of targets, N places to predict, V vocabulary.

One model serves many directions, since the tag before a source says which language to write; so it can also be asked
for directions that it was never shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mlc.errors import UsageError
from mlc.model.decoding_glm import BlankPrompt, BlankTokens, Decoding
from mlc.tasks.examples import TranslationExample
from mlc.tasks.features_batch import Array
from mlc.tasks.features_pieces import PieceEncoder, Progress
from mlc.tasks.learned.task import LossSums, TaskSettings, weighted_sum
from mlc.tasks.learned.translation_rows import (
    EncoderDecoderRows,
    PartBRows,
    WritableRows,
    encoder_decoder_rows,
    part_b_rows,
)
from mlc.tasks.learned.translation_settings import TranslationSettings
from mlc.tasks.scores import RESAMPLES, Scores
from mlc.tasks.scores_translation import score_translations

_NOTHING = -1
"""Fills the end of a written row."""


@dataclass(frozen=True)
class _Translation:
    """What both ways share."""

    settings: TaskSettings

    @property
    def translation(self) -> TranslationSettings:
        """Of this task."""
        assert self.settings.translation is not None
        return self.settings.translation

    @property
    def auto_class(self) -> Any:
        """AutoModelForSeq2SeqLM, of which the GLM with Part B is one."""
        from transformers import AutoModelForSeq2SeqLM

        return AutoModelForSeq2SeqLM

    def loss(self, outputs: Any, inputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> LossSums:
        """Cross entropy of target tokens, with smoothed labels where the settings say so."""
        del inputs
        logits = outputs.logits
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(0, -2)
        labels, weights = targets["labels"].flatten(), targets["weights"].flatten()
        smoothing = self.translation.label_smoothing
        losses = F.cross_entropy(wide, labels, reduction="none", label_smoothing=smoothing)
        correct = (wide.argmax(-1) == labels).to(wide.dtype)
        return LossSums(weighted_sum(losses, weights), weighted_sum(correct, weights))

    def predictions(self, outputs: Any) -> Array:
        """Not what is scored: translations are written token by token (`write`)."""
        raise UsageError("a translation is written, not read off one forward pass", found=type(outputs).__name__)

    def answers(
        self, rows: WritableRows, examples: Sequence[TranslationExample], predictions: Sequence[Array]
    ) -> list[str]:
        """Written ids as text."""
        del examples
        tokenizer = rows.encoder.tokenizer
        ids = [row[row != _NOTHING].tolist() for row in predictions]
        return [str(tokenizer.decode(row, skip_special_tokens=True)).strip() for row in ids]

    def gold(self, examples: Sequence[TranslationExample]) -> list[str]:
        """The translations."""
        return [example.target or "" for example in examples]

    def score(
        self, examples: Sequence[TranslationExample], answers: Sequence[str], *, resamples: int = RESAMPLES
    ) -> Scores:
        """chrF and BLEU; all examples have one target language."""
        return score_translations(self.gold(examples), answers, examples[0].target_language, resamples=resamples)


@dataclass(frozen=True)
class EncoderDecoderTranslation(_Translation):
    """By `transformers.EncoderDecoderModel` (Rothe et al. 2020): a decoder beside the pre-trained encoder."""

    def configure(self, config: Any) -> None:
        """Refuse a decoder that was made for shorter texts; mlc.tasks.learned.translation_models makes new ones."""
        if config.model_type == "encoder-decoder":
            room = int(config.decoder.max_position_embeddings)
            if room < self.translation.max_target_tokens:
                raise UsageError(
                    "the model's decoder was made for shorter translations", found=self.translation.max_target_tokens,
                    needed=f"<= {room}", where="translation.max_target_tokens",
                )  # fmt: skip

    def rows(
        self, encoder: PieceEncoder, examples: Sequence[TranslationExample], progress: Progress | None = None
    ) -> EncoderDecoderRows:
        """A row an example."""
        return encoder_decoder_rows(
            encoder, examples, self.translation, max_tokens=self.settings.max_tokens, progress=progress
        )

    def generation_config(self, model: Any, rows: EncoderDecoderRows, *, beams: int | None = None) -> Any:
        """How transformers' `generate` writes a translation; for the arguments see `write`."""
        from transformers import GenerationConfig

        return GenerationConfig(
            max_new_tokens=self.translation.most_tokens,
            num_beams=beams or self.translation.beams,
            decoder_start_token_id=rows.ids.start,
            eos_token_id=rows.ids.end,
            pad_token_id=rows.ids.pad,
            suppress_tokens=list(banned_ids(rows, model.config.decoder.vocab_size)) or None,
        )

    def write(
        self, model: Any, rows: EncoderDecoderRows, inputs: Mapping[str, Tensor], *, beams: int | None = None
    ) -> Array:
        """Translate a batch with a cache of keys and values.

        Args:
            model: in evaluation mode, whole on this rank.
            rows: that the batch is of.
            inputs: of `rows.batch`.
            beams: width of the search; 1 = greedy, None = as the settings say.

        Returns:
            (R, T) int64 ids without the end token, -1 behind each translation.
        """
        end = rows.ids.end
        written = model.generate(
            **{name: value for name, value in inputs.items() if name != "decoder_input_ids"},
            generation_config=self.generation_config(model, rows, beams=beams),
        )[:, 1:]
        after_end = (written == end).cumsum(1) > 0
        array: Array = torch.where(after_end, _NOTHING, written).cpu().numpy()
        return array


@dataclass(frozen=True)
class PartBTranslation(_Translation):
    """By the GLM itself: the source is Part A, with a blank at its end, and the translation Part B."""

    def configure(self, config: Any) -> None:
        """Refuse what has no Part B."""
        if config.model_type != "mlc_glm":
            raise UsageError(
                "only the GLM has a Part B", found=config.model_type, needed="a run of mlc train with a GLM",
                where="translation.decoder", hint='translation.decoder = "encoder_decoder" works with any encoder',
            )  # fmt: skip

    def rows(
        self, encoder: PieceEncoder, examples: Sequence[TranslationExample], progress: Progress | None = None
    ) -> PartBRows:
        """A row an example."""
        return part_b_rows(encoder, examples, self.translation, max_tokens=self.settings.max_tokens, progress=progress)

    def write(self, model: Any, rows: PartBRows, inputs: Mapping[str, Tensor], *, beams: int | None = None) -> Array:
        """Translate a batch with a cache of keys and values; see `EncoderDecoderTranslation.write`."""
        prompts = [
            BlankPrompt(tuple(row[:length]), (length - 2,))
            for row, length in zip(inputs["input_ids"].tolist(), inputs["part_a_lengths"].tolist(), strict=True)
            if length > 1  # the others only fill up
        ]
        ids = BlankTokens(rows.ids.start, rows.ids.end, banned_ids(rows, model.config.vocab_size))
        decoding = Decoding(max_new_tokens=self.translation.most_tokens, beams=beams or self.translation.beams)
        found = [samples[0][0].tokens for samples in model.fill_blanks(prompts, ids, decoding)]
        written = np.full((len(found), max([1, *map(len, found)])), _NOTHING, dtype=np.int64)
        for row, tokens in zip(written, found, strict=True):
            row[: len(tokens)] = tokens
        return written


def translation_task(settings: TaskSettings) -> EncoderDecoderTranslation | PartBTranslation:
    """The task of the decoder that the settings name.

    Raises:
        UsageError: the settings say nothing of translation.
    """
    if settings.translation is None:
        raise UsageError("a translation model needs its settings", needed='"translation" in the task of mlc.json')
    if settings.translation.decoder == "part_b":
        return PartBTranslation(settings)
    return EncoderDecoderTranslation(settings)


def banned_ids(rows: WritableRows, vocab_size: int) -> tuple[int, ...]:
    """Ids that are never written: special tokens but the end, and rows of the embedding that no token has."""
    tokenizer = rows.encoder.tokenizer
    special = {*tokenizer.all_special_ids, rows.ids.start, rows.ids.pad, rows.ids.blank} - {rows.ids.end, -1}
    return (*sorted(special), *range(len(tokenizer), vocab_size))
