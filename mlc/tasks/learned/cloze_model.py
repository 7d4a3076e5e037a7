"""The GLM that scores the words of a verbalizer in a blank.

In:  rows of Part A with a blank and Part B with a word (mlc.tasks.learned.cloze_rows).
Out: a score of every class.

Its weights and their names are those of `MlcGlmForBlankInfilling`.
Letters: R examples, S rows of the model, L columns, N scored places, K words of an example, T tokens of a word,
C classes, V vocabulary.
"""

from __future__ import annotations

from typing import Any, Self, cast

import torch
from torch import Tensor
from transformers.modeling_outputs import MaskedLMOutput, SequenceClassifierOutput

from mlc.model.configuration_glm import MlcGlmConfig
from mlc.model.generation_glm import MlcGlmForBlankInfilling
from mlc.tasks.learned.cloze_settings import ClozeTokens
from mlc.tasks.locate import ModelSource, read_description
from mlc.tasks.token_heads import check_part_b, load_part_b


class MlcGlmForCloze(MlcGlmForBlankInfilling):
    """Blank infilling whose outputs are classes."""

    @classmethod
    def from_config(cls, config: MlcGlmConfig) -> Self:
        """A new model; as transformers' Auto classes have it."""
        return cls(config)

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        part_a_lengths: Tensor,
        position_ids: Tensor,
        block_position_ids: Tensor,
        logits_index: Tensor,
        token_places: Tensor,
        token_ids: Tensor,
        token_weights: Tensor,
        word_labels: Tensor,
    ) -> SequenceClassifierOutput:
        """Score every class of every example; gradients flow.

        Args:
            input_ids, attention_mask, part_a_lengths, position_ids, block_position_ids: (S, L) and (S,), as in
                `MlcGlmModel.forward`.
            logits_index: int64 (N,), places s * L + c whose states are scored.
            token_places: int64 (R, K, T), which of the N places predicts a token.
            token_ids: int64 (R, K, T), the token.
            token_weights: float (R, K, T), what its log probability counts in the word's; 0 where there is none.
            word_labels: int64 (R, K), the class of each word, -1 where there is none.

        Returns:
            logits (R, C), at least fp32: log of the sum over a class's words of exp(word's score), which is the log of
            the probability that the blank holds one of them. Equal for all classes where an example has no words.
        """
        scored = super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            part_a_lengths=part_a_lengths,
            position_ids=position_ids,
            block_position_ids=block_position_ids,
            logits_index=logits_index,
            return_dict=True,
        )
        logits_NV = cast(MaskedLMOutput, scored).logits
        total_N = logits_NV.logsumexp(-1)
        log_RKT = logits_NV[token_places, token_ids] - total_N[token_places]
        score_RK = (log_RKT * token_weights.to(log_RKT.dtype)).sum(-1)
        classes = torch.arange(self.config.num_labels, device=word_labels.device)
        of_class_RKC = word_labels[:, :, None] == classes
        lowest = torch.finfo(score_RK.dtype).min
        score_RC = score_RK[:, :, None].masked_fill(~of_class_RKC, lowest).logsumexp(1)
        return SequenceClassifierOutput(logits=score_RC)


def new_cloze_model(source: ModelSource, config: Any) -> MlcGlmForCloze:
    """The backbone and the head of Part B of a pre-trained GLM, in fp32.

    Args:
        source: that `check_part_b` takes.
        config: of the model, with labels and dropout.

    Raises:
        CheckpointError: the weights are missing or damaged.
    """
    model: MlcGlmForCloze = MlcGlmForCloze(config).float()
    model.load_state_dict(load_part_b(source).state_dict())
    return model


def part_b_tokens(source: ModelSource) -> ClozeTokens:
    """Ids of a model's blank, from its description.

    Raises:
        UsageError: the model has no Part B, or was not trained to fill one.
        CheckpointError: its description cannot be read.
    """
    if source.kind == "finetuned" and (cloze := read_description(source.folder)["task"].get("cloze")):
        return ClozeTokens(**cloze["tokens"])
    ids = check_part_b(source)["special_ids"]
    return ClozeTokens(ids["[MASK]"], ids["[sop]"], ids["[eop]"])
