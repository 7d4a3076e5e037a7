"""Weights in 8 bits: every matrix as int8 with one scale a row, everything else as it was.

In:  the state dict of a model in floating point, or such a file.
Out: model.int8.safetensors, or the state dict in fp32, or the model around it.

For a matrix `name` (rows, columns) of the model the file holds

    name        int8 (rows, columns), -127..127
    name.scale  fp32 (rows,): weight = int8 x scale of its row

scale = largest magnitude of the row / 127, so no weight is off by more than half a scale. Tensors of another number of
dimensions are fp32. Metadata: {"format": "mlc-int8", "version": "1"}. This is the symmetric per-channel scheme without
zero points of Jacob et al. 2018 (arXiv:1712.05877), for weights only: nothing computes in int8.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from mlc.errors import CheckpointError

INT8_FILE = "model.int8.safetensors"
"""Another name than transformers looks for: it would read the integers as weights."""
SCALE = ".scale"
LARGEST = 127
_METADATA = {"format": "mlc-int8", "version": "1"}


def quantise_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix (rows, columns) as int8 (rows, columns) and scales fp32 (rows,); a row of zeros has scale 0."""
    wide = weight.detach().float()
    scale = wide.abs().amax(dim=1) / LARGEST
    integers = (wide / torch.where(scale > 0, scale, 1.0)[:, None]).round()
    return integers.to(torch.int8), scale


def write_int8(file: Path, weights: Mapping[str, Tensor]) -> None:
    """Write a state dict; of tensors that share their memory (tied weights) the first.

    Raises:
        CheckpointError: a weight is not finite.
        OSError: the file cannot be written.
    """
    stored: dict[str, Tensor] = {}
    seen: set[tuple[int, torch.Size]] = set()
    for name, weight in weights.items():
        place = (weight.data_ptr(), weight.shape)
        if place in seen:
            continue
        seen.add(place)
        if weight.is_floating_point() and not weight.isfinite().all():
            raise CheckpointError("a weight is not finite", found=name)
        if weight.ndim == 2 and weight.is_floating_point():
            stored[name], stored[name + SCALE] = quantise_rows(weight)
        else:
            stored[name] = weight.detach().float() if weight.is_floating_point() else weight.detach()
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, file, metadata=_METADATA)


def read_int8(file: Path) -> dict[str, Tensor]:
    """The state dict in fp32, without the copies that tied weights have.

    Raises:
        CheckpointError: the file is missing, damaged, or of another format.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            if opened.metadata() != _METADATA:
                raise CheckpointError(
                    "the weights are of another format", found=opened.metadata(), needed=str(_METADATA), where=str(file)
                )
            stored = {name: opened.get_tensor(name) for name in list(opened.keys())}
    except (OSError, SafetensorError) as error:
        raise CheckpointError("the weights cannot be read", found=str(error), where=str(file)) from None
    return {name: _whole(name, stored, file) for name in stored if not _is_scale(name, stored)}


def load_int8_model(folder: Path, auto_class: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model of a folder with config.json and model.int8.safetensors, dequantised to fp32.

    Args:
        folder: as `mlc export --dtype int8` writes it.
        auto_class: of transformers, such as AutoModel; it must know the model's type.

    Returns:
        The model in evaluation mode, and transformers' report of missing and unexpected keys.

    Raises:
        CheckpointError: as in `read_int8`.
        OSError, ValueError, KeyError: the configuration cannot be used.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    model_class = type(auto_class.from_config(config, trust_remote_code=False))
    model, report = model_class.from_pretrained(
        None, config=config, state_dict=read_int8(folder / INT8_FILE), dtype=torch.float32, output_loading_info=True
    )
    return model.eval(), report


def _is_scale(name: str, stored: Mapping[str, Tensor]) -> bool:
    matrix = stored.get(name.removesuffix(SCALE))
    return name.endswith(SCALE) and matrix is not None and matrix.dtype == torch.int8


def _whole(name: str, stored: Mapping[str, Tensor], file: Path) -> Tensor:
    tensor = stored[name]
    if tensor.dtype != torch.int8 or tensor.ndim != 2:
        return tensor
    scale = stored.get(name + SCALE)
    if scale is None or scale.shape != tensor.shape[:1]:
        raise CheckpointError("a matrix has no scales", found=name, needed=name + SCALE, where=str(file))
    return tensor.float() * scale.float()[:, None]
