"""The GLM as a generator: it fills the blanks of a text, or continues one.

In:  Part A with blanks, or rows of Part A and Part B as training has them.
Out: what the blanks held (`fill_blanks`, with a cache of keys and values), or logits at given places (`forward`, which
     computes everything anew).

Like all *_glm.py this module needs torch and transformers only, so an export can carry it.

Shape letters: R rows, L columns, V vocabulary, N places.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.modeling_outputs import MaskedLMOutput

from .beam_glm import fill_by_beams
from .configuration_glm import MlcGlmConfig
from .decoding_glm import BlankPrompt, BlankTokens, Decoding, FilledBlank, check_prompts, fill_by_token
from .modeling_glm_tasks import MlcGlmHeadTransform, MlcGlmTiedHeadModel, MlcGlmTokenBias, at_least_fp32


class MlcGlmForBlankInfilling(MlcGlmTiedHeadModel):
    """The backbone and the head that training scores Part B with; `from_training_model` carries both over."""

    def __init__(self, config: MlcGlmConfig) -> None:
        super().__init__(config)
        self.glm_transform = MlcGlmHeadTransform(config.hidden_size)
        self.glm_bias = MlcGlmTokenBias(config.vocab_size)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        part_a_lengths: Tensor | None = None,
        position_ids: Tensor | None = None,
        block_position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        logits_index: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> MaskedLMOutput | tuple[Any, ...]:
        """Score the next token of Part B; gradients flow.

        Args:
            input_ids, attention_mask, part_a_lengths, position_ids, block_position_ids: as in `MlcGlmModel.forward`.
            labels: int64, the next token, -100 where none is asked for: (R, L), or (N,) with `logits_index`.
            logits_index: int64 (N,), places r * L + c to score; default: all.
            return_dict: False for a tuple.

        Returns:
            logits (N, V), or (R, L, V) for all places, in at least fp32; loss where there are labels: mean cross
            entropy over the places with one.
        """
        states = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            part_a_lengths=part_a_lengths,
            position_ids=position_ids,
            block_position_ids=block_position_ids,
            return_dict=True,
        ).last_hidden_state
        if logits_index is not None:
            states = states.flatten(0, 1).index_select(0, logits_index)
        logits = self.score(states)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, -2), labels.flatten())
        return self._answer(MaskedLMOutput(loss=loss, logits=logits), return_dict)

    def score(self, states: Tensor) -> Tensor:
        """Logits (..., V) of the backbone's states (..., D), in at least fp32."""
        return at_least_fp32(self.glm_bias(self.lm_head(self.glm_transform(states))))

    def fill(
        self,
        part_a: Sequence[int],
        *,
        blank: int,
        start: int,
        end: int,
        banned: Sequence[int] = (),
        max_new_tokens: int = 40,
    ) -> list[list[int]]:
        """Fill the blanks of one text with the most probable tokens: `fill_blanks` in plain numbers.

        Args:
            part_a: token ids, [CLS] and [SEP] included.
            blank, start, end: ids of [MASK] (or [sMASK], [gMASK]), [sop] and [eop].
            banned: ids that are never generated.
            max_new_tokens: of one blank.

        Returns:
            Tokens of each blank, from left to right, without [eop].
        """
        prompt = BlankPrompt(tuple(part_a), tuple(place for place, token in enumerate(part_a) if token == blank))
        ids = BlankTokens(start, end, tuple(banned))
        ((sample,),) = self.fill_blanks([prompt], ids, Decoding(max_new_tokens=max_new_tokens))
        return [list(found.tokens) for found in sample]

    @torch.inference_mode()
    def fill_blanks(
        self,
        prompts: Sequence[BlankPrompt],
        ids: BlankTokens,
        decoding: Decoding,
        generators: Sequence[torch.Generator] | None = None,
    ) -> list[list[tuple[FilledBlank, ...]]]:
        """Generate what the blanks hold. The model must be in evaluation mode.

        Args:
            prompts: of any lengths; they are computed side by side. A prompt's blanks are filled in the order that it
                names them in.
            ids: of Part B.
            decoding: greedy, drawn, or by beams, which take prompts with one blank.
            generators: one a prompt, on the CPU; needed where tokens are drawn.

        Returns:
            For each prompt its samples, for each sample its blanks in the order of `places`.

        Raises:
            ValueError: a blank lies outside its text, beams and several blanks, or generators are missing.
        """
        check_prompts(prompts)
        if not prompts:
            return []
        if decoding.beams > 1:
            return fill_by_beams(self.model, self.score, prompts, ids, decoding)
        return fill_by_token(self.model, self.score, prompts, ids, decoding, generators)
