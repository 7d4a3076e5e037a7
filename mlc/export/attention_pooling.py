"""Attention pooling as a module of sentence-transformers, which has none. Exports carry this file along.

In:  token_embeddings (R, L, D) and attention_mask (R, L).
Out: sentence_embedding (R, D): the mean of the tokens' states with weights softmax(states @ query).

It needs torch and sentence-transformers only. That it lies in the export is why such a folder needs
`trust_remote_code=True`: sentence-transformers runs no other module's code without it.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from sentence_transformers.base.modules.module import Module
from torch import Tensor, nn


class AttentionPooling(Module):
    """Pools with a trained query (D,).

    Args:
        embedding_dimension: D.
    """

    config_keys = ["embedding_dimension"]  # noqa: RUF012 (sentence-transformers declares a list)

    def __init__(self, embedding_dimension: int) -> None:
        super().__init__()
        self.embedding_dimension = embedding_dimension
        self.query = nn.Parameter(torch.zeros(embedding_dimension))

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Add sentence_embedding, in the states' dtype; weights and sum are computed in fp32."""
        states: Tensor = features["token_embeddings"]
        wide = states.float()
        score = (wide @ self.query.float()).masked_fill(features["attention_mask"] == 0, -torch.inf)
        features["sentence_embedding"] = (wide * score.softmax(1).unsqueeze(-1)).sum(1).to(states.dtype)
        return features

    def get_embedding_dimension(self) -> int:
        """D."""
        return self.embedding_dimension

    def save(self, output_path: str, *_: Any, safe_serialization: bool = True, **__: Any) -> None:
        """Write config.json and model.safetensors."""
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=safe_serialization)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **options: Any) -> Self:
        """Read what `save` wrote; sentence-transformers says in `options` where from."""
        where = {
            key: options[key] for key in ("token", "cache_folder", "revision", "local_files_only") if key in options
        }
        pooling = cls(**cls.load_config(model_name_or_path, subfolder=subfolder, **where))
        pooling = cls.load_torch_weights(model_name_or_path, subfolder=subfolder, model=pooling, **where)
        return pooling
