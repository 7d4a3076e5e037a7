"""The model folder: weights as safetensors, the encoder's configuration, and what this project knows besides.

In:  a full state dict and its description, or such a folder.
Out: the folder, or a `TrainingModel` with its description.

    model.safetensors   the state dict of `TrainingModel` in fp32, without the tied head and what only losses use
    config.json         the encoder's configuration, as transformers saves it
    mlc.json            {"format": "mlc-model", "version": 1, "model": the recipe's section, "vocab_size",
                         "special_ids", "max_tokens", "tokenizer_sha256", "languages", "contrastive": whether a
                         contrast was trained}; more keys are kept as they are

Nothing here reads pickles: a model folder from elsewhere can't run code.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModel, PretrainedConfig

from mlc.errors import CheckpointError
from mlc.model.build import encoder_of, wrap_backbone
from mlc.model.registration import register_auto_classes
from mlc.model.training_model import TRAINING_ONLY, TrainingModel
from mlc.recipe import ModelSection

FORMAT, VERSION = "mlc-model", 1
WEIGHTS, CONFIG, INFO = "model.safetensors", "config.json", "mlc.json"
TIED = "lm_head.weight"
REQUIRED_INFO = ("model", "vocab_size", "special_ids", "max_tokens", "tokenizer_sha256", "languages", "contrastive")


def save_model_folder(
    folder: Path, state_dict: Mapping[str, Tensor], backbone_config: PretrainedConfig, info: Mapping[str, Any]
) -> None:
    """Write a model folder. Not atomic: whoever needs that writes to a temporary folder and renames it.

    Args:
        folder: made if missing; files in it are replaced.
        state_dict: of a `TrainingModel`, whole (not partitioned). Heads for training alone are left out.
        backbone_config: its `backbone_config`.
        info: the keys of mlc.json but "format" and "version".

    Raises:
        CheckpointError: a key of `info` is missing, or a tensor is empty, as a partitioned one is.
    """
    missing = [key for key in REQUIRED_INFO if key not in info]
    if missing:
        raise CheckpointError("the description of the model is incomplete", found=f"no {', '.join(missing)}")
    weights = {name: value for name, value in state_dict.items() if name != TIED and not name.startswith(TRAINING_ONLY)}
    empty = [name for name, value in weights.items() if not value.numel()]
    if empty:
        raise CheckpointError(
            "the state dict has empty tensors", found=", ".join(empty[:3]), needed="parameters gathered from all ranks"
        )
    folder.mkdir(parents=True, exist_ok=True)
    whole = {name: value.detach().to("cpu", torch.float32).contiguous() for name, value in weights.items()}
    safetensors.torch.save_file(_unshared(whole), folder / WEIGHTS, metadata={"format": "pt"})
    config = copy.deepcopy(backbone_config)
    config.dtype = torch.float32  # that of the file, not that of training
    config.save_pretrained(folder)
    text = json.dumps({"format": FORMAT, "version": VERSION, **info}, indent=2, ensure_ascii=False)
    (folder / INFO).write_text(text + "\n", encoding="utf-8")


def load_training_model(folder: Path) -> tuple[TrainingModel, dict[str, Any]]:
    """Read a model folder.

    Returns:
        The model in fp32, in evaluation mode, and the content of mlc.json.

    Raises:
        CheckpointError: a file is missing or damaged, of a newer version, or the weights don't fit the model.
    """
    info = read_info(folder)
    section = _section(info, folder)
    weights = _read_weights(folder)
    register_auto_classes()
    try:
        config = AutoConfig.from_pretrained(folder)
        backbone = encoder_of(AutoModel.from_config(config))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{CONFIG} can't be used", found=str(error), where=str(folder)) from None
    model = wrap_backbone(backbone, section, config)
    try:
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise CheckpointError("the weights don't fit the model", found=str(error), where=str(folder)) from None
    if missing or unexpected:
        raise CheckpointError(
            "the weights don't fit the model",
            found=f"missing {missing[:5]}, unexpected {unexpected[:5]}",
            where=str(folder / WEIGHTS),
        )
    return model.eval(), info


def read_info(folder: Path, required: Mapping[str, Sequence[str]] | None = None) -> dict[str, Any]:
    """The content of mlc.json; errors as in `load_training_model`.

    Args:
        folder: a model folder, or another one with an mlc.json.
        required: {format that is accepted: its keys}; None = a model folder's.
    """
    required = {FORMAT: REQUIRED_INFO} if required is None else required
    path = folder / INFO
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            "the description of the model can't be read",
            found=str(error),
            where=str(path),
            hint="name a folder that `mlc train` wrote: <run>/checkpoints/step-XXXXXXXX/model",
        ) from None
    if not isinstance(info, dict) or info.get("format") not in required:
        formats = " or ".join(f'"{name}"' for name in required)
        raise CheckpointError("this does not describe a model", needed=f'"format": {formats}', where=str(path))
    if info.get("version") != VERSION:
        raise CheckpointError(
            "the model folder has another version",
            found=info.get("version"),
            needed=str(VERSION),
            where=str(path),
            hint="read it with the version of mlc that wrote it",
        )
    missing = [key for key in required[info["format"]] if key not in info]
    if missing:
        raise CheckpointError("keys are missing", found=f"no {', '.join(missing)}", where=str(path))
    return info


def _section(info: Mapping[str, Any], folder: Path) -> ModelSection:
    try:
        return ModelSection.model_validate_json(json.dumps(info["model"]))
    except pydantic.ValidationError as error:
        raise CheckpointError('"model" is refused', found=str(error), where=str(folder / INFO)) from None


def _read_weights(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    if not path.is_file():
        others = sorted(file.name for file in folder.glob("*") if file.suffix in {".bin", ".pt", ".pth", ".ckpt"})
        raise CheckpointError(
            "there are no weights",
            found=f"only {', '.join(others)}: pickles are never read" if others else None,
            needed=WEIGHTS,
            where=str(folder),
        )
    try:
        weights: dict[str, Tensor] = safetensors.torch.load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError("the weights are damaged", found=str(error), where=str(path)) from None
    return weights


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies where two names share memory, which safetensors refuses: encoders with tied tables of their own."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        result[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return result
