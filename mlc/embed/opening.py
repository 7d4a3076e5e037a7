"""A model opened for embedding, together with what identifies its vectors.

In:  MODEL and what of its states becomes the vector.
Out: a `TextEncoder` and its identity (mlc.embed.identity).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from mlc.embed.identity import model_identity
from mlc.tasks.encoder import Precision, TextEncoder, choose_representation
from mlc.tasks.loading import load_model
from mlc.tasks.locate import find_model


@dataclass(frozen=True)
class ModelChoice:
    """Which model, and what of it; None = as it was trained.

    Attributes:
        model: run folder, checkpoint, export, Hugging Face folder or hub name.
        threads: torch's intra-op threads of this process; None = as they are.
    """

    model: str
    layer: int | None = None
    pooling: str | None = None
    projection: bool | None = None
    max_tokens: int | None = None
    threads: int | None = None


def open_model(
    choice: ModelChoice, *, precision: Precision = "fp32", local_rank: int = 0
) -> tuple[TextEncoder, dict[str, Any]]:
    """Load a model; on a node with GPUs each local rank takes one.

    Raises:
        MlcError: see `load_model` and `TextEncoder`.
    """
    disable_progress_bar()  # transformers' own: they tell of single files
    if choice.threads is not None:
        torch.set_num_threads(choice.threads)
    loaded = load_model(find_model(choice.model), max_tokens=choice.max_tokens)
    chosen = choose_representation(loaded, layer=choice.layer, pooling=choice.pooling, projection=choice.projection)
    encoder = TextEncoder(loaded, chosen, device="cpu")  # refuses a representation that the model lacks
    identity = model_identity(loaded, chosen, encoder.step)
    device = f"cuda:{local_rank % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
    return TextEncoder.of_loaded(loaded, chosen, precision=precision, device=device), identity
