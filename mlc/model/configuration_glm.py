"""Configuration of the GLM encoder.

In:  keyword arguments, or a saved config.json.
Out: a validated `MlcGlmConfig`. The module needs torch and transformers only, so an export can carry it along.
"""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig


class MlcGlmConfig(PretrainedConfig):
    """Shape of an `MlcGlmModel`.

    Args:
        vocab_size: rows of the embedding.
        hidden_size: width D of the residual stream; `hidden_size / num_attention_heads` must be a multiple of 4,
            because two halves of a head are rotated in pairs.
        num_hidden_layers: blocks.
        num_attention_heads: heads of every block.
        intermediate_size: width of the gate and of the up projection, each.
        hidden_dropout: probability with which a block's two branches lose an element while training.
        rms_norm_eps: added to the mean square before its root.
        rotary_base: wavelengths of the rotary positions lie between 2 pi and 2 pi times this.
        max_position_embeddings: longest row seen in training; informative, rotary positions have no limit.
        pad_token_id: fills rows on the right; its states are 0.
        classifier_pooling: what a sequence classifier reads: "mean" of all tokens' states, or the state of the first
            one ("cls").
        classifier_dropout: probability with which a task's head loses an element of what it reads while training;
            None = hidden_dropout.

    Raises:
        ValueError: a size is not positive, the heads do not divide the width as said above, or there is no such
            pooling.
    """

    model_type = "mlc_glm"
    tie_word_embeddings = True  # transformers asks for it: heads that score tokens use the embeddings

    def __init__(
        self,
        vocab_size: int = 32000,
        hidden_size: int = 256,
        num_hidden_layers: int = 6,
        num_attention_heads: int = 4,
        intermediate_size: int = 1024,
        hidden_dropout: float = 0.0,
        rms_norm_eps: float = 1e-6,
        rotary_base: float = 10000.0,
        max_position_embeddings: int = 512,
        pad_token_id: int = 0,
        classifier_pooling: str = "mean",
        classifier_dropout: float | None = None,
        **kwargs: Any,
    ) -> None:
        sizes = (vocab_size, hidden_size, num_hidden_layers, num_attention_heads, intermediate_size)
        if min(sizes) < 1:
            raise ValueError(f"every size of an MlcGlmConfig must be at least 1; found {sizes}")
        if hidden_size % (4 * num_attention_heads):
            raise ValueError(
                f"hidden_size = {hidden_size} must be a multiple of 4 x num_attention_heads = {4 * num_attention_heads}"
            )
        if classifier_pooling not in ("mean", "cls"):
            raise ValueError(f'classifier_pooling must be "mean" or "cls"; found {classifier_pooling!r}')
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.hidden_dropout = hidden_dropout
        self.rms_norm_eps = rms_norm_eps
        self.rotary_base = rotary_base
        self.max_position_embeddings = max_position_embeddings
        self.pad_token_id = pad_token_id
        self.classifier_pooling = classifier_pooling
        self.classifier_dropout = classifier_dropout
        super().__init__(**kwargs)

    def admit(self, tokens: int) -> None:
        """Make rows of `tokens` no longer than `max_position_embeddings`: programs that open an export cut to it."""
        self.max_position_embeddings = max(self.max_position_embeddings, tokens)
