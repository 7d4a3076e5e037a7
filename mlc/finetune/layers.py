"""Which layer a parameter belongs to, and what follows: what is frozen, and how fast the others learn.

In:  a model of transformers with a head, or an encoder that is trained for retrieval; the recipe's sections.
Out: parameters with requires_grad set, and parameter groups.

Depths: 0 = embeddings, k = block k of the encoder, number of blocks + 1 = everything else (final norm, head).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from mlc.errors import RecipeError
from mlc.finetune.recipe import FinetuneOptimizerSection, FreezeSection
from mlc.model.training_model import TrainingModel

ADAPTER_MARK = "lora_"
"""Part of the names of LoRA's matrices in peft."""


def number_of_layers(config: Any) -> int:
    """How many blocks the encoder has."""
    return int(getattr(config, "encoder", config).num_hidden_layers)


def blocks_of(model: nn.Module, layers: int) -> nn.ModuleList:
    """The encoder's blocks: the module list of so many.

    Raises:
        RecipeError: there is none, or more than one.
    """
    modules = _base(model).modules()
    found = [module for module in modules if isinstance(module, nn.ModuleList) and len(module) == layers]
    if len(found) != 1:
        raise RecipeError(
            "the model's blocks cannot be told from its other parts",
            found=f"{len(found)} lists of {layers} modules",
            needed="one",
            where="freeze, lora or optimizer.layer_decay",
            hint="leave these out for this model",
        )
    return found[0]


def depths(model: nn.Module, config: Any) -> dict[int, int]:
    """{id of a parameter: its depth}."""
    layers = number_of_layers(config)
    found = {id(parameter): layers + 1 for parameter in model.parameters()}
    for number, block in enumerate(blocks_of(model, layers)):
        found |= {id(parameter): number + 1 for parameter in block.parameters()}
    for module in _embeddings(model):
        found |= {id(parameter): 0 for parameter in module.parameters()}
    return found


def head_of(model: nn.Module) -> set[int]:
    """Ids of the parameters of the task's head: all that the model has besides its encoder and adapters."""
    base = {id(parameter) for parameter in _base(model).parameters()}
    return {
        id(parameter)
        for name, parameter in model.named_parameters()
        if id(parameter) not in base and ADAPTER_MARK not in name
    }


def freeze(model: nn.Module, config: Any, section: FreezeSection) -> None:
    """Take the gradient from what keeps its weights.

    Raises:
        RecipeError: more layers than the model has.
    """
    layers = number_of_layers(config)
    if config.is_encoder_decoder and getattr(_base(model), "pooler", None) is not None:
        _base(model).pooler.requires_grad_(False)  # a decoder does not read it
    if section.layers > layers:
        raise RecipeError("there are not so many layers", found=section.layers, needed=f"0..{layers}", where="freeze")
    if not (section.embeddings or section.layers or section.encoder):
        return
    depth, head = depths(model, config), head_of(model)
    for name, parameter in model.named_parameters():
        if id(parameter) in head or ADAPTER_MARK in name:
            continue
        lowest = section.layers if section.layers else (0 if section.embeddings else -1)
        if section.encoder or depth[id(parameter)] <= lowest:
            parameter.requires_grad_(False)


def parameter_groups(
    model: nn.Module, config: Any, optimizer: FinetuneOptimizerSection, freezing: FreezeSection
) -> list[dict[str, Any]]:
    """Groups of AdamW: by weight decay (matrices only), learning rate, and the step from which they learn.

    Call it before parameters are sharded, or under ZeRO-3 after: a sharded parameter's own shape is in ds_shape.

    Returns:
        Groups with "params", "weight_decay", "learning_rate_scale" and "first_step".

    Raises:
        RecipeError: everything is frozen.
    """
    plain = optimizer.layer_decay == 1 and optimizer.embedding_learning_rate_scale == 1
    uniform = plain and not freezing.unfreeze_every_steps
    layers = number_of_layers(config)
    depth = {} if uniform else depths(model, config)
    head, embeddings = head_of(model), {id(p) for module in _embeddings(model) for p in module.parameters()}
    groups: dict[tuple[float, float, int], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        key = id(parameter)
        below_top = 0 if uniform or key in head else layers + 1 - depth[key]
        scale = optimizer.layer_decay**below_top
        if key in head:
            scale *= optimizer.head_learning_rate_scale
        if key in embeddings:
            scale *= optimizer.embedding_learning_rate_scale
        is_matrix = len(getattr(parameter, "ds_shape", parameter.shape)) >= 2
        decay = optimizer.weight_decay if is_matrix else 0.0
        groups.setdefault((decay, scale, below_top * freezing.unfreeze_every_steps), []).append(parameter)
    if not groups:
        raise RecipeError("nothing is left to learn", found="all parameters frozen", where="freeze")
    return [
        {"params": parameters, "weight_decay": decay, "learning_rate_scale": scale, "first_step": first_step}
        for (decay, scale, first_step), parameters in groups.items()
    ]


def _embeddings(model: nn.Module) -> Iterator[nn.Module]:
    """What comes before the blocks: the modules around the token embeddings that are no blocks."""
    base = _base(model)
    yield getattr(base, "embeddings", None) or base.get_input_embeddings()


def _base(model: Any) -> Any:
    """The pre-trained encoder: inside a model with a head, with a decoder, one trained for retrieval, or itself."""
    inner = _inner(model)
    if isinstance(inner, TrainingModel):
        return inner.backbone
    return inner.get_encoder() if inner.config.is_encoder_decoder else getattr(inner, inner.base_model_prefix, inner)


def _inner(model: Any) -> Any:
    """The model inside peft's wrapper, or itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
