"""What made a vector: enough to tell whether two vectors are of one space.

In:  a loaded model and what of its states becomes the vector.
Out: a JSON object. A checkpoint and its export give the same one; precision is no part of it.
"""

from __future__ import annotations

import struct
from typing import Any

import torch
import xxhash

from mlc.tasks.encoder import Representation, describe
from mlc.tasks.fast_tokenizer import SAMPLE_TEXTS
from mlc.tasks.loading import LoadedModel

SPACE_KEYS = ("digest", "representation", "width")
"""Vectors with equal values here may be compared; a longest input of its own does not make another space."""
FIRST_IDS = 7
"""Token ids of a word that are part of the digest: what stays where texts are cut to 8 tokens or more."""


def model_identity(loaded: LoadedModel, representation: Representation, step: int | None) -> dict[str, Any]:
    """Digest, step, representation, width and longest input.

    Args:
        loaded: in fp32, as `load_model` returns it.
        representation: what becomes the vector.
        step: of the checkpoint, where known.

    Returns:
        digest: xxh3_128 of the weights that make the vector (fp32 bytes by name) and of the token ids of sample texts
        in many scripts, in hexadecimal.
    """
    digest = xxhash.xxh3_128()
    tensors = {f"backbone.{name}": tensor.detach() for name, tensor in loaded.backbone.named_parameters()}
    if representation.projection and loaded.projection is not None:
        tensors["projection"] = loaded.projection.weight.detach()
    if representation.pooling == "attention" and loaded.pooling_query is not None:
        tensors["query"] = loaded.pooling_query
    for name in sorted(tensors):
        values = tensors[name].to("cpu", torch.float32).contiguous()
        digest.update(f"{name} {tuple(values.shape)}\n".encode())
        digest.update(values.numpy().data)
    words = [word for text in SAMPLE_TEXTS for word in text.split()]
    for ids in loaded.tokenizer.tokenize(words).ids:
        kept = ids[:FIRST_IDS]
        digest.update(struct.pack(f"<{len(kept)}q", *kept))
    width = loaded.width if not representation.projection else _projected(loaded)
    return {
        "digest": digest.hexdigest(),
        "step": step,
        "representation": dict(describe(representation, loaded.layers)),
        "width": width,
        "max_tokens": loaded.tokenizer.max_tokens,
    }


def _projected(loaded: LoadedModel) -> int:
    assert loaded.projection is not None
    return int(loaded.projection.out_features)


def same_space(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether vectors of two models may be compared."""
    return all(first[key] == second[key] for key in SPACE_KEYS)
