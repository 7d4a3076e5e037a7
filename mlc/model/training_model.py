"""What is trained: an encoder, pooling, and the heads of the objectives.

In:  token ids of right-padded rows with lengths, Part A lengths, two positions a token, and the places to predict.
Out: a unit vector for each row, and logits at the places; the objectives turn them into losses.

One forward pass serves all objectives, and always runs every module in the same order: under ZeRO-3 a module's
parameters are gathered by a collective when it is called. For the same reason modules are only ever called, and nobody
reads another module's parameters.

Shape letters: R rows, L columns, T tokens without padding, D width, E width of the embeddings, V vocabulary,
N predicted tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig

from mlc.model.heads import AttentionPooling, BoundedTemperature, LanguageAdversary
from mlc.model.modeling_glm import MlcGlmModel
from mlc.model.modeling_glm_tasks import MlcGlmHeadTransform, MlcGlmTokenBias

Pooling = Literal["mean", "cls", "last", "attention"]

TRAINING_ONLY = ("temperature.", "language_adversary.")
"""Beginnings of the names of parameters that only the losses use: checkpoints keep them for resuming, a model that is
loaded, and `save_model_folder`, leave them out."""


class TiedHead(nn.Module):
    """Logits from the weights of the input embeddings.

    The parameter belongs to the embeddings, which also save and load it; it is held here so that calling this module
    gathers it under ZeRO-3.
    """

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, states_ND: Tensor) -> Tensor:
        """(N, D) -> logits (N, V)."""
        return F.linear(states_ND, self.weight)

    def _save_to_state_dict(self, *args: object, **kwargs: object) -> None:
        pass

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        pass


class TrainingModel(nn.Module):
    """An encoder with pooling and heads.

    Args:
        backbone: the GLM, or an encoder of transformers whose embeddings are as wide as its states.
        backbone_config: what a model is built from whose encoder is `backbone`; its own configuration, unless it is
            half of an encoder-decoder.
        pooling: how Part A becomes one vector: the mean of its tokens, its first token, its last one, or a mean with
            learned weights.
        layer: whose states are pooled: 0 = embeddings, k = output of block k, -1 = the last, after the final norm.
        projection_size: width E of the embeddings; 0 = no projection, E = D.
        temperature: of the contrast, where it is learned; like the next, for training alone.
        language_adversary: guesses languages from embeddings of width E.
    """

    def __init__(
        self,
        backbone: nn.Module,
        backbone_config: PretrainedConfig,
        *,
        pooling: Pooling,
        layer: int,
        projection_size: int,
        temperature: BoundedTemperature | None = None,
        language_adversary: LanguageAdversary | None = None,
    ) -> None:
        super().__init__()
        width = int(backbone_config.hidden_size)
        self.backbone = backbone
        self.backbone_config = backbone_config
        self.pooling: Pooling = pooling
        self.layer = layer
        self.attention_pooling = AttentionPooling(width) if pooling == "attention" else None
        self.projection = nn.Linear(width, projection_size, bias=False) if projection_size else None
        self.glm_transform, self.mlm_transform = MlcGlmHeadTransform(width), MlcGlmHeadTransform(width)
        embeddings = backbone.get_input_embeddings()  # type: ignore[operator]
        self.lm_head = TiedHead(embeddings.weight)
        rows = int(embeddings.num_embeddings)
        self.glm_bias, self.mlm_bias = MlcGlmTokenBias(rows), MlcGlmTokenBias(rows)
        self.temperature, self.language_adversary = temperature, language_adversary

    def forward(
        self,
        input_ids: Tensor,
        lengths: Tensor,
        part_a_lengths: Tensor,
        positions: Tensor,
        block_positions: Tensor,
        glm_index: Tensor | None = None,
        mlm_index: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Encode a batch.

        Args:
            input_ids: int (R, L), right-padded.
            lengths: int (R,), tokens of each row.
            part_a_lengths: int (R,), tokens of Part A. An encoder other than the GLM sees nothing else.
            positions: int (R, L), place in the text; the GLM alone uses it.
            block_positions: int (R, L), place in the blank; the GLM alone uses it.
            glm_index: int64 (G,), places r * L + c whose states predict a Part B token. Only the GLM has a Part B; the
                head runs for every encoder.
            mlm_index: int64 (M,), places of masked tokens.

        Returns:
            "embeddings" (R, E), unit norm, at least fp32; "glm_logits" (G, V) and "mlm_logits" (M, V), each where its
            index is given; "temperature" (1,), at least fp32, where it is learned; "language_logits" (R, languages),
            where there is an adversary. A row without Part A has an embedding without meaning.
        """
        if isinstance(self.backbone, MlcGlmModel):
            packed = self.backbone.forward_packed(
                input_ids, lengths, part_a_lengths, positions, block_positions, self.layer
            )
            rows, states_TD, layer_TD = packed.rows, packed.states_TD, packed.layer_TD
            start_R, row_T, pooled_T = rows.start_R, rows.row_T, rows.in_part_a_T
            tokens_at: Callable[[Tensor], Tensor] = rows.tokens_at
        else:
            states_TD, layer_TD = self._run_hugging_face(input_ids, part_a_lengths)
            columns = input_ids.shape[1]
            start_R = torch.arange(input_ids.shape[0], device=input_ids.device) * columns
            place_T = torch.arange(input_ids.numel(), device=input_ids.device)
            row_T = place_T // columns
            pooled_T = place_T % columns < part_a_lengths[row_T]
            tokens_at = _same

        outputs = {"embeddings": self._embed(layer_TD, start_R, row_T, pooled_T, part_a_lengths)}
        if glm_index is not None:
            blanked_ND = states_TD.index_select(0, tokens_at(glm_index))
            outputs["glm_logits"] = self.glm_bias(self.lm_head(self.glm_transform(blanked_ND)))
        if mlm_index is not None:
            masked_ND = states_TD.index_select(0, tokens_at(mlm_index))
            outputs["mlm_logits"] = self.mlm_bias(self.lm_head(self.mlm_transform(masked_ND)))
        if self.temperature is not None:
            outputs["temperature"] = self.temperature()
        if self.language_adversary is not None:
            outputs["language_logits"] = self.language_adversary(outputs["embeddings"])
        return outputs

    def _run_hugging_face(self, input_ids: Tensor, part_a_lengths: Tensor) -> tuple[Tensor, Tensor]:
        column_L = torch.arange(input_ids.shape[1], device=input_ids.device)
        output = self.backbone(
            input_ids=input_ids,
            attention_mask=(column_L < part_a_lengths[:, None]).long(),
            output_hidden_states=self.layer != -1,
            return_dict=True,
        )
        states = output.last_hidden_state
        layer = states if self.layer == -1 else output.hidden_states[self.layer]
        return states.flatten(0, 1), layer.flatten(0, 1)

    def _embed(
        self, states_TD: Tensor, start_R: Tensor, row_T: Tensor, pooled_T: Tensor, part_a_lengths: Tensor
    ) -> Tensor:
        """Pool, project, normalise: (T, D) -> (R, E)."""
        wide = torch.promote_types(states_TD.dtype, torch.float32)
        if self.pooling in ("mean", "attention"):
            if self.attention_pooling is None:
                weight_T = pooled_T / part_a_lengths.to(wide).clamp(min=1)[row_T]
            else:
                weight_T = self.attention_pooling(states_TD, row_T, pooled_T, len(start_R))
            sums_RD = torch.zeros(len(start_R), states_TD.shape[1], dtype=wide, device=states_TD.device)
            pooled_RD = sums_RD.index_add(0, row_T, states_TD.to(wide) * weight_T[:, None].to(wide))
        else:
            offset_R = torch.zeros_like(start_R) if self.pooling == "cls" else part_a_lengths - 1
            token_R = (start_R + offset_R).clamp(0, len(states_TD) - 1)
            pooled_RD = states_TD.index_select(0, token_R).to(wide)
        if self.projection is not None:
            pooled_RD = self.projection(pooled_RD.to(states_TD.dtype)).to(wide)
        return F.normalize(pooled_RD, dim=-1)


def _same(index: Tensor) -> Tensor:
    return index
