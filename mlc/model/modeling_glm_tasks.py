"""The GLM with a task's head: classes of sequences, of tokens, spans that answer a question, masked tokens.

In:  token ids of right-padded rows (R, L), and labels.
Out: logits in at least fp32 and the loss, in the output classes of transformers.

The classes have the interfaces of transformers' own (BertForSequenceClassification and its like), with the backbone
under `model`, so that `from_pretrained` reads a plain backbone's folder, and MlcGlmModel reads theirs. Losses are those
of transformers. Like all *_glm.py this module needs torch and transformers only, so an export can carry it.

Shape letters: R rows, L columns, D width, C labels, V vocabulary.
"""

from __future__ import annotations

import copy
from typing import Any, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import (
    BaseModelOutput,
    MaskedLMOutput,
    ModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

from .configuration_glm import MlcGlmConfig
from .modeling_glm import MlcGlmModel, MlcGlmRMSNorm, initial_std


class MlcGlmTaskModel(PreTrainedModel):
    """A backbone under `model`; subclasses add a head and end their constructor with `post_init()`."""

    config_class = MlcGlmConfig
    base_model_prefix = "model"
    _no_split_modules = ["MlcGlmBlock"]  # noqa: RUF012 (transformers asks for a list)
    _keys_to_ignore_on_load_unexpected = [r"^(glm|mlm)_"]  # noqa: RUF012 (a list; token heads beside the backbone)
    _supports_sdpa = True

    def __init__(self, config: MlcGlmConfig) -> None:
        super().__init__(config)
        self.model = MlcGlmModel(config)

    def get_input_embeddings(self) -> nn.Module:
        """The token embeddings."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the token embeddings."""
        self.model.set_input_embeddings(value)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # As in MlcGlmModel, whose modules have no biases. mlc.model.initialise draws the same sizes by name.
        for name, parameter in module.named_parameters(recurse=False):
            std = initial_std(module, self.config)
            if isinstance(module, MlcGlmRMSNorm):
                init.ones_(parameter)
            elif name == "bias":
                init.zeros_(parameter)
            elif std is not None:
                init.normal_(parameter, mean=0.0, std=std)
            else:
                raise TypeError(f"no rule for the initial value of {type(module).__name__}.{name}")

    def _encode(
        self, input_ids: Tensor, attention_mask: Tensor | None, output_hidden_states: bool | None
    ) -> BaseModelOutput:
        """The backbone's output, (R, L, D) and 0 in the padding."""
        return self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )

    def _answer(self, output: ModelOutput, return_dict: bool | None) -> Any:
        use_dict = self.config.return_dict if return_dict is None else return_dict
        return output if use_dict else output.to_tuple()


class MlcGlmForSequenceClassification(MlcGlmTaskModel):
    """Classes, or numbers, of a row: pooled states, dropout, one linear layer.

    RoBERTa's head has a dense layer with tanh more, which makes something of a [CLS] that pre-training left untrained.
    Here pre-training compared the very mean that is pooled. A linear layer reads it as it is: languages stay as well
    aligned in it as they were, few examples have few new weights to settle, and with a frozen backbone the same model
    is a linear probe.
    """

    def __init__(self, config: MlcGlmConfig) -> None:
        super().__init__(config)
        self.dropout = _head_dropout(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> SequenceClassifierOutput | tuple[Any, ...]:
        """Classify right-padded rows.

        Args:
            input_ids: int (R, L).
            attention_mask: (R, L), 1 for tokens and 0 for the padding on the right; default: no padding.
            token_type_ids: what tokenizers add for other models; not used.
            labels: (R,) int64 classes, (R,) or (R, C) numbers, or (R, C) of 0.0 and 1.0, by `config.problem_type`;
                where that is None it is guessed as transformers does and then kept.
            output_hidden_states: also return every layer's states.
            return_dict: False for a tuple.

        Returns:
            logits (R, C), and loss where there are labels: mean squared error, cross entropy, or binary cross entropy.
        """
        del token_type_ids
        encoded = self._encode(input_ids, attention_mask, output_hidden_states)
        pooled_RD = self.dropout(self._pool(encoded.last_hidden_state, attention_mask))
        logits_RC = at_least_fp32(self.classifier(pooled_RD))
        loss = None if labels is None else self.loss_function(labels, logits_RC, self.config)
        output = SequenceClassifierOutput(loss=loss, logits=logits_RC, hidden_states=encoded.hidden_states)
        return self._answer(output, return_dict)

    def _pool(self, states_RLD: Tensor, attention_mask: Tensor | None) -> Tensor:
        if self.config.classifier_pooling == "cls":
            return states_RLD[:, 0]
        # States are 0 in the padding.
        sums_RD = at_least_fp32(states_RLD).sum(1)
        if attention_mask is None:
            mean_RD = sums_RD / states_RLD.shape[1]
        else:
            mean_RD = sums_RD / attention_mask.sum(1, keepdim=True).clamp(min=1)
        return mean_RD.to(states_RLD.dtype)


class MlcGlmForTokenClassification(MlcGlmTaskModel):
    """Classes of every token: dropout, one linear layer."""

    def __init__(self, config: MlcGlmConfig) -> None:
        super().__init__(config)
        self.dropout = _head_dropout(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> TokenClassifierOutput | tuple[Any, ...]:
        """Classify the tokens of right-padded rows.

        Args:
            input_ids, attention_mask, token_type_ids, output_hidden_states, return_dict: as in
                `MlcGlmForSequenceClassification.forward`.
            labels: int64 (R, L), -100 where no class is asked for, as in the padding.

        Returns:
            logits (R, L, C), and loss where there are labels: mean cross entropy over the tokens with a label.
        """
        del token_type_ids
        encoded = self._encode(input_ids, attention_mask, output_hidden_states)
        logits_RLC = at_least_fp32(self.classifier(self.dropout(encoded.last_hidden_state)))
        loss = None if labels is None else self.loss_function(logits_RLC, labels, self.config)
        output = TokenClassifierOutput(loss=loss, logits=logits_RLC, hidden_states=encoded.hidden_states)
        return self._answer(output, return_dict)


class MlcGlmForQuestionAnswering(MlcGlmTaskModel):
    """First and last token of an answer within its row: one linear layer with two outputs (Devlin et al. 2019, 4.2)."""

    def __init__(self, config: MlcGlmConfig) -> None:
        super().__init__(config)
        self.dropout = _head_dropout(config)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> QuestionAnsweringModelOutput | tuple[Any, ...]:
        """Score every token as the first and as the last one of the answer.

        Args:
            input_ids, attention_mask, token_type_ids, output_hidden_states, return_dict: as in
                `MlcGlmForSequenceClassification.forward`.
            start_positions, end_positions: int64 (R,), columns; L or more = this row has no answer within it, and no
                part in the loss. Both or neither.

        Returns:
            start_logits and end_logits (R, L), of which the padding has the lowest number there is, so that it takes no
            part in the softmax (BERT's logits there do); loss where the positions are given: the mean of both cross
            entropies.
        """
        del token_type_ids
        encoded = self._encode(input_ids, attention_mask, output_hidden_states)
        logits_RL2 = at_least_fp32(self.qa_outputs(self.dropout(encoded.last_hidden_state)))
        if attention_mask is not None:
            logits_RL2 = logits_RL2.masked_fill(~attention_mask.bool()[:, :, None], torch.finfo(logits_RL2.dtype).min)
        start_RL, end_RL = logits_RL2[..., 0].contiguous(), logits_RL2[..., 1].contiguous()
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = self.loss_function(start_RL, end_RL, start_positions, end_positions)
        output = QuestionAnsweringModelOutput(
            loss=loss, start_logits=start_RL, end_logits=end_RL, hidden_states=encoded.hidden_states
        )
        return self._answer(output, return_dict)


class MlcGlmHeadTransform(nn.Module):
    """What states pass before the tied head (Devlin et al. 2019): dense, GELU, norm.

    Each token objective has its own. It sets the size of the logits, so that embeddings which grow under the contrast
    do not blow them up.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.norm = MlcGlmRMSNorm(width, epsilon=1e-6)

    def forward(self, states: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return cast(Tensor, self.norm(F.gelu(self.dense(states))))


class MlcGlmTokenBias(nn.Module):
    """What a token is worth before any state is looked at; it starts at the log of the token's frequency.

    Without it, states would have to carry the frequencies of tokens in a direction they all share, and a large common
    component makes all texts alike to the contrast.
    """

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, logits: Tensor) -> Tensor:
        """(..., V) -> (..., V)."""
        return logits + self.bias


class MlcGlmTiedHeadModel(MlcGlmTaskModel):
    """A model that scores tokens by the embeddings; names of weights are those of mlc's `TrainingModel`."""

    _tied_weights_keys = {"lm_head.weight": "model.embeddings.weight"}  # noqa: RUF012 (transformers asks for a dict)

    def __init__(self, config: MlcGlmConfig) -> None:
        super().__init__(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def get_output_embeddings(self) -> nn.Module:
        """The layer that scores tokens."""
        return self.lm_head

    @classmethod
    def from_training_model(cls, trained: nn.Module) -> Self:
        """The same backbone and the same head with weights of their own, in evaluation mode.

        Args:
            trained: mlc's `TrainingModel` around an `MlcGlmModel`, whole, in any dtype, which is kept.

        Raises:
            ValueError: its backbone is another one.
        """
        if not isinstance(trained.backbone, MlcGlmModel):
            raise ValueError(f"the backbone must be an MlcGlmModel; found {type(trained.backbone).__name__}")
        model = cls(copy.deepcopy(trained.backbone.config)).to(trained.backbone.dtype)
        weights = trained.state_dict()
        renamed = {name: name.replace("model.", "backbone.", 1) for name in model.state_dict()}
        renamed["lm_head.weight"] = "backbone.embeddings.weight"
        model.load_state_dict({name: weights[origin] for name, origin in renamed.items()})
        return cast(Self, model.eval())


class MlcGlmForMaskedLM(MlcGlmTiedHeadModel):
    """Tokens behind [MLM]: the head of masked language modelling that training had."""

    def __init__(self, config: MlcGlmConfig) -> None:
        super().__init__(config)
        self.mlm_transform = MlcGlmHeadTransform(config.hidden_size)
        self.mlm_bias = MlcGlmTokenBias(config.vocab_size)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> MaskedLMOutput | tuple[Any, ...]:
        """Score the vocabulary at every token.

        Args:
            input_ids, attention_mask, token_type_ids, output_hidden_states, return_dict: as in
                `MlcGlmForSequenceClassification.forward`.
            labels: int64 (R, L), the token at masked places and -100 elsewhere.

        Returns:
            logits (R, L, V), and loss where there are labels: mean cross entropy over the places with one.
        """
        del token_type_ids
        encoded = self._encode(input_ids, attention_mask, output_hidden_states)
        logits_RLV = at_least_fp32(self.mlm_bias(self.lm_head(self.mlm_transform(encoded.last_hidden_state))))
        loss = None if labels is None else self.loss_function(logits_RLV, labels, self.config.vocab_size)
        output = MaskedLMOutput(loss=loss, logits=logits_RLV, hidden_states=encoded.hidden_states)
        return self._answer(output, return_dict)


def _head_dropout(config: MlcGlmConfig) -> nn.Dropout:
    return nn.Dropout(config.hidden_dropout if config.classifier_dropout is None else config.classifier_dropout)


def at_least_fp32(values: Tensor) -> Tensor:
    """The same numbers, in fp32 where they were narrower."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
