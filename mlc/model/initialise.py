"""Initial weights as a function of (seed, parameter name) and of nothing else.

In:  a module, a seed.
Out: the same module, every parameter (or those chosen) drawn anew: the same values in whatever order the module was
     built, on whatever device, over however many ranks its parameters are partitioned.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from mlc.model.configuration_glm import MlcGlmConfig
from mlc.model.heads import AttentionPooling, BoundedTemperature
from mlc.model.modeling_glm import initial_std
from mlc.model.training_model import TrainingModel

Gathered = Callable[[nn.Parameter], AbstractContextManager[object]]
"""Makes a partitioned parameter whole inside the context and gives every rank its part back at the end."""

DEFAULT_STD = 0.02


def whole(parameter: nn.Parameter) -> AbstractContextManager[object]:
    """The `Gathered` of parameters that are not partitioned."""
    del parameter
    return nullcontext()


@torch.no_grad()
def initialise(
    module: nn.Module,
    seed: int,
    *,
    gathered: Gathered = whole,
    include: Callable[[str], bool] = lambda name: True,
) -> None:
    """Draw the initial value of every parameter of `module`.

    Norms start at 1. Biases, the query of attention pooling and the parameter of a learned temperature start at 0.
    Everything else is normal, with the deviation `initial_std` gives it inside a GLM, the `initializer_range` inside
    another transformers model, and 1 / sqrt(inputs) in the heads. The row of an embedding that stands for padding is 0.
    A parameter that has several names counts by its first one.

    Args:
        module: its names, from `named_parameters()`, are part of the values.
        seed: of the run.
        gathered: where parameters are partitioned, the context in which one is whole and writable on every rank.
        include: names for which this is False keep their values.
    """
    done: set[int] = set()
    for owner_name, owner, config in _owners(module):
        for own_name, parameter in owner.named_parameters(recurse=False):
            name = f"{owner_name}.{own_name}" if owner_name else own_name
            if id(parameter) in done:
                continue
            done.add(id(parameter))
            if include(name):
                with gathered(parameter):
                    parameter.copy_(_initial_value(owner, own_name, config, parameter.shape, seed, name))


@torch.no_grad()
def start_from_frequencies(
    model: TrainingModel,
    counts_V: Tensor,
    *,
    blank_end: int,
    mean_blank_tokens: float,
    gathered: Gathered = whole,
) -> None:
    """Start the heads' biases at the log frequency of every token, so that training begins where unigrams end.

    Args:
        model: with new weights.
        counts_V: how often each token was counted in the run's own texts; a vocabulary that the model has padded with
            more rows counts 0 there.
        blank_end: id of [eop], which ends every blank of Part B and never stands in a text.
        mean_blank_tokens: tokens of a blank.
    """
    rows = model.backbone.get_input_embeddings().num_embeddings  # type: ignore[operator]
    smoothed_V = torch.nn.functional.pad(counts_V.double(), (0, rows - len(counts_V))) + 0.5
    frequency_V = smoothed_V / smoothed_V.sum()
    glm_V = frequency_V * mean_blank_tokens / (mean_blank_tokens + 1)
    glm_V[blank_end] = 1 / (mean_blank_tokens + 1)
    for module, values_V in ((model.mlm_bias, frequency_V), (model.glm_bias, glm_V)):
        with gathered(module.bias):
            module.bias.copy_(values_V.log())


def draw(shape: torch.Size | tuple[int, ...], std: float, seed: int, name: str) -> Tensor:
    """Normal fp32 values of `shape`, a function of the arguments alone."""
    key = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    # 63 bits: a generator takes any unsigned 64-bit seed, but reports signed ones.
    generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "little") >> 1)
    # Not torch.empty: under deepspeed.zero.Init that is in the model's precision, in which other values are drawn.
    return torch.normal(0.0, std, tuple(shape), generator=generator, dtype=torch.float32)


def _owners(module: nn.Module) -> list[tuple[str, nn.Module, object]]:
    """(name, module, configuration of the transformers model it is part of) in the order of `named_modules`."""
    configs: dict[str, object] = {}
    owners = []
    for name, part in module.named_modules():
        inherited = configs.get(name.rpartition(".")[0]) if name else None
        configs[name] = getattr(part, "config", None) or inherited
        owners.append((name, part, configs[name]))
    return owners


def _std(owner: nn.Module, config: object) -> float:
    if isinstance(config, MlcGlmConfig):
        std = initial_std(owner, config)
    elif config is None and isinstance(owner, nn.Linear):  # the heads of a TrainingModel
        std = float(owner.in_features**-0.5)
    else:
        std = getattr(config, "initializer_range", None)
    return std or DEFAULT_STD


def _initial_value(owner: nn.Module, own_name: str, config: object, shape: torch.Size, seed: int, name: str) -> Tensor:
    if own_name == "bias" or own_name.endswith("_bias") or isinstance(owner, AttentionPooling | BoundedTemperature):
        return torch.zeros(shape)
    if "norm" in type(owner).__name__.lower():
        return torch.ones(shape)
    value = draw(shape, _std(owner, config), seed, name)
    padding_row = getattr(owner, "padding_idx", None)
    if isinstance(owner, nn.Embedding) and padding_row is not None:
        value[padding_row] = 0.0
    return value
