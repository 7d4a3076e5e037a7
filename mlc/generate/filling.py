"""Fill the blanks of texts with a trained model.

In:  a run or checkpoint that was trained with the GLM's objective, and texts with marks.
Out: for every text its fillings, with the pieces, their log probabilities, and whether they ended by themselves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch

from mlc.data.manifest import TOKENIZER_NAMES
from mlc.errors import DataError, UsageError
from mlc.generate.marked_text import MARKS, BlankTokenizer, MarkedText
from mlc.model.decoding_glm import BlankPrompt, BlankTokens, Decoding, FilledBlank
from mlc.model.generation_glm import MlcGlmForBlankInfilling
from mlc.tasks.encoder import batches_by_length
from mlc.tasks.loading import tokenizer_kind
from mlc.tasks.locate import ModelSource, find_model
from mlc.tasks.token_heads import check_part_b, load_part_b

Precision = Literal["fp32", "bf16"]
BATCH_TOKENS = 16384
"""Columns of the caches of one batch, over all its rows: it bounds memory, and enough rows share a step."""
_SHARES = dict(zip(MARKS, ("token_share", "sentence_share", "document_share"), strict=True))
_TOKEN_SHARE_ALONE = {"token_share": 1.0}  # what runs did that do not state the shares


@dataclass(frozen=True)
class Piece:
    """What fills one blank.

    Attributes:
        mark: of the blank.
        text: without spaces around it.
        tokens: ids, without [eop].
        log_probability: natural, see `FilledBlank`.
        ended: [eop] was reached.
    """

    mark: str
    text: str
    tokens: tuple[int, ...]
    log_probability: float
    ended: bool


@dataclass(frozen=True)
class FilledText:
    """A text with its blanks filled, and the pieces from left to right."""

    text: str
    pieces: tuple[Piece, ...]


class BlankFiller:
    """A model in evaluation mode with its tokenizer; `load` makes one.

    Attributes:
        max_tokens: longest Part A in training, [CLS] and [SEP] included.
        source: where the model is.
    """

    def __init__(
        self, model: MlcGlmForBlankInfilling, tokenizer: BlankTokenizer, source: ModelSource, info: Mapping[str, Any]
    ) -> None:
        special_ids = info["special_ids"]
        self._model, self._tokenizer = model, tokenizer
        self._objectives = info.get("objectives")
        end = special_ids["[eop]"]
        unused = range(info["vocab_size"], model.config.vocab_size)
        banned = (*(number for number in special_ids.values() if number != end), *unused)
        self._ids = BlankTokens(special_ids["[sop]"], end, banned)
        self.source, self.max_tokens = source, int(info["max_tokens"])

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        precision: Precision = "fp32",
        threads: int | None = None,
        device: str | None = None,
    ) -> Self:
        """Open a model for filling blanks.

        Args:
            model: run folder, checkpoint, or export with heads.
            precision: of the weights and states; probabilities are fp32 at least.
            threads: torch's intra-op threads of this process; None = as they are.
            device: torch device; None = a GPU where there is one.

        Raises:
            UsageError: the model has no Part B, or was not trained to fill one.
            CheckpointError: the checkpoint is missing or damaged.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        source = find_model(model)
        info = check_part_b(source)
        kind = tokenizer_kind(info)
        tokenizer = BlankTokenizer(source.folder / TOKENIZER_NAMES[kind], kind, info["special_ids"])
        infilling = load_part_b(source)
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        place = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(infilling.to(place, dtype), tokenizer, source, info)

    def untrained(self, texts: Sequence[MarkedText]) -> list[str]:
        """Marks among `texts` that the run, by its recipe, never trained; empty where the checkpoint does not say."""
        if not self._objectives:
            return []
        glm = self._objectives["glm"]
        shares = glm if any(name in glm for name in _SHARES.values()) else _TOKEN_SHARE_ALONE
        used = {mark for text in texts for mark in text.marks}
        return [mark for mark in MARKS if mark in used and not shares.get(_SHARES[mark], 0.0)]

    def prompts(self, texts: Sequence[MarkedText], decoding: Decoding) -> list[BlankPrompt]:
        """Tokenise and check; nothing is generated yet.

        Raises:
            DataError: a text is longer than the model was trained on, or has several blanks where there are beams.
            UsageError: blanks are to become longer than any text in training.
        """
        if decoding.max_new_tokens > self.max_tokens:
            raise UsageError(
                "a blank would be longer than the texts that the model was trained on",
                found=decoding.max_new_tokens,
                needed=f"<= {self.max_tokens}",
                where="--max-new-tokens",
            )
        prompts = [self._tokenizer.prompt(text) for text in texts]
        for text, prompt in zip(texts, prompts, strict=True):
            if len(prompt.part_a) > self.max_tokens:
                raise DataError(
                    "the text is longer than the model was trained on",
                    found=f"{len(prompt.part_a)} tokens, [CLS] and [SEP] included",
                    needed=f"<= {self.max_tokens}",
                    where=text.where,
                )
            if decoding.beams > 1 and len(text.marks) > 1:
                raise DataError(
                    "beam search fills one blank", found=f"{len(text.marks)} blanks", needed="one", where=text.where
                )
        return prompts

    def fill(
        self,
        texts: Sequence[MarkedText],
        prompts: Sequence[BlankPrompt],
        decoding: Decoding,
        *,
        seed: int = 0,
        progress: Callable[[int], object] = lambda texts: None,
    ) -> list[list[FilledText]]:
        """Fill all blanks.

        Args:
            texts: any number.
            prompts: of `prompts`.
            decoding: how tokens are chosen.
            seed: with a text's place among `texts` it fixes what is drawn for it.
            progress: called with the number of texts finished since the last call.

        Returns:
            The fillings of each text, in the order of the texts.
        """
        filled: list[list[FilledText]] = [[] for _ in texts]
        copies = max(decoding.samples, decoding.beams)
        columns = [len(p.part_a) + len(p.places) * (decoding.max_new_tokens + 1) for p in prompts]
        for numbers in batches_by_length([columns[n] * copies for n in range(len(prompts))], BATCH_TOKENS):
            generators = [_generator(seed, number) for number in numbers] if decoding.temperature else None
            found = self._model.fill_blanks([prompts[n] for n in numbers], self._ids, decoding, generators)
            for number, samples in zip(numbers, found, strict=True):
                filled[number] = [self._filled(texts[number], sample) for sample in samples]
            progress(len(numbers))
        return filled

    def _filled(self, text: MarkedText, blanks: Sequence[FilledBlank]) -> FilledText:
        contents = [self._tokenizer.text_of(blank.tokens) for blank in blanks]
        pieces = tuple(
            Piece(mark, content.strip(" "), blank.tokens, blank.log_probability, blank.ended)
            for mark, content, blank in zip(text.marks, contents, blanks, strict=True)
        )
        return FilledText(text.fill(contents), pieces)


def _generator(seed: int, number: int) -> torch.Generator:
    key = hashlib.sha256(f"{seed}:{number}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(key[:8], "little") >> 1)
