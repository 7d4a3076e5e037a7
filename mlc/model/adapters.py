"""LoRA adapters around a model: put in, and merged into the weights.

In:  a model of transformers, or an encoder.
Out: the model wrapped by peft, or the encoder with adapters inside (Hu et al. 2022, "LoRA", section 4.1: W + alpha /
     rank * B A, B = 0 at first).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import pydantic
from torch import nn

from mlc.errors import CheckpointError, RecipeError

WRAPPED = "base_model.model."
"""Before the names of a model's parameters inside peft's wrapper."""


@dataclass(frozen=True)
class LoraSettings:
    """Shape of the adapters.

    Attributes:
        rank: of the product.
        alpha: the product is scaled by alpha / rank.
        dropout: of what the product reads, while training.
        targets: ends of the names of the linear layers that have one.
    """

    rank: pydantic.PositiveInt
    alpha: pydantic.PositiveFloat
    dropout: float
    targets: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """For mlc.json."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: object, where: str) -> Self | None:
        """From mlc.json; None where there are no adapters.

        Raises:
            CheckpointError: it does not describe adapters.
        """
        if content is None:
            return None
        try:
            return pydantic.TypeAdapter(cls).validate_python(content)
        except pydantic.ValidationError as error:
            raise CheckpointError('"lora" is refused', found=str(error), where=where) from None


def linear_layers(blocks: nn.Module) -> tuple[str, ...]:
    """Names of the linear layers of blocks, without what is before the last dot, sorted."""
    return tuple(
        sorted({n.rpartition(".")[2] for n, module in blocks.named_modules() if isinstance(module, nn.Linear)})
    )


def layers_in(model: nn.Module, blocks: nn.Module, targets: Sequence[str]) -> tuple[str, ...]:
    """Whole names in `model` of those linear layers of `blocks` whose names end in one of `targets`.

    For heads and decoders, whose layers have such names too.

    Raises:
        RecipeError: there are none.
    """
    own = {id(module) for module in blocks.modules() if isinstance(module, nn.Linear)}
    names = [name for name, module in model.named_modules() if id(module) in own]
    found = tuple(name for name in names if name.endswith(tuple(f".{target}" for target in targets)))
    if not found:
        raise _no_layers(", ".join(targets), names)
    return found


def add_adapters(model: Any, settings: LoraSettings, trained: Sequence[nn.Parameter]) -> Any:
    """Wrap a model; adapters and `trained` have gradients, nothing else.

    Args:
        model: whole, not sharded.
        settings: of the adapters.
        trained: the head's parameters.

    Raises:
        RecipeError: no layer has one of the names.
    """
    from peft import get_peft_model

    wrapped = _adapted(model, settings, get_peft_model)
    for parameter in trained:
        parameter.requires_grad_(True)
    return wrapped


def inject_adapters(encoder: nn.Module, settings: LoraSettings) -> Any:
    """Put adapters into an encoder, which stays the module that it is; they have gradients, nothing else in it.

    Args:
        encoder: whole, not sharded. An adapted layer's own weights are at "<layer>.base_layer" from now on.
        settings: of the adapters.

    Returns:
        For `merge_adapters`, which takes them out of `encoder` again.

    Raises:
        RecipeError: no layer has one of the names.
    """
    from peft import LoraModel

    return _adapted(encoder, settings, lambda model, config: LoraModel(model, config, "default"))


def merge_adapters(adapted: Any) -> Any:
    """The model without adapters, its weights with the products added, in fp32.

    Args:
        adapted: of `add_adapters` or `inject_adapters`.
    """
    return adapted.merge_and_unload()


def _adapted(model: Any, settings: LoraSettings, adapt: Callable[[Any, Any], Any]) -> Any:
    from peft import LoraConfig

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets),
        bias="none",
    )
    try:
        return adapt(model, config)
    except ValueError as error:
        known = sorted(name for name, module in model.named_modules() if isinstance(module, nn.Linear))
        raise _no_layers(str(error).splitlines()[0], known) from None


def _no_layers(found: str, known: Sequence[str]) -> RecipeError:
    return RecipeError(
        "the adapters cannot be put in", found=found, needed=f"ends of {', '.join(known)}", where="lora.targets"
    )
