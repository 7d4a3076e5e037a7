"""What a new run can start from: a trained encoder's weights, read one by one.

In:  a folder: a model folder of `mlc train`, an export, or an encoder as transformers saves it (safetensors only).
Out: a `StartSource`: the encoder's configuration and its tensors under the names they have in a `TrainingModel`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModel, PretrainedConfig

from mlc.errors import CheckpointError
from mlc.model.registration import register_auto_classes
from mlc.model.saving import WeightReader

StartKind = Literal["checkpoint", "export", "huggingface"]

BACKBONE = "backbone."
SINGLE_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
BESIDE_EXPORT = {"projection.safetensors": "projection", "attention_pooling.safetensors": "attention_pooling"}
"""Files of an export beside its encoder, and what their tensors belong to in a `TrainingModel`."""
TOKEN_HEADS = ("glm_", "mlm_")
"""Beginnings of names in an export with heads, which are those of a `TrainingModel`."""
OLD_ENDINGS = {".gamma": ".weight", ".beta": ".bias"}
"""What the first BERT models call the two halves of a norm."""


class StartSource:
    """Weights to start from; a context manager, which closes the files.

    Args:
        folder: holds config.json and the weights.
        kind: checkpoint = a model folder (mlc.model.saving); export = as `mlc export` writes it; huggingface = any
            other.
        info: content of a model folder's mlc.json; read for a checkpoint alone.

    Attributes:
        folder: as given.
        config: of the encoder.
        shapes: of all tensors, by the name in a `TrainingModel`; the encoder's begin with "backbone.".

    Raises:
        CheckpointError: a file is missing or damaged, there are pickles only, or transformers does not know the model.
    """

    def __init__(self, folder: Path, kind: StartKind, info: Mapping[str, Any]) -> None:
        self.folder, self.kind = folder, kind
        self.config = read_config(folder)
        self.shapes: dict[str, tuple[int, ...]]
        self._places: dict[str, tuple[Any, str]] = {}
        self._reader: WeightReader | None = None
        with ExitStack() as stack:
            if kind == "checkpoint":
                self._reader = stack.enter_context(WeightReader(folder, info))
                self.shapes = dict(self._reader.shapes)
            else:
                self._places = self._open(stack)
                self.shapes = {
                    name: tuple(file.get_slice(key).get_shape()) for name, (file, key) in self._places.items()
                }
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def read(self, name: str) -> Tensor:
        """A whole tensor in fp32 on the CPU.

        Raises:
            CheckpointError: it is missing or cannot be read.
        """
        if name not in self.shapes:
            raise CheckpointError("a weight of the encoder is missing", found=f"no {name}", where=str(self.folder))
        if self._reader is not None:
            return self._reader.read(name).float()
        file, key = self._places[name]
        try:
            tensor: Tensor = file.get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise _damaged(self.folder, error) from None
        return tensor.to(torch.float32)

    def _open(self, stack: ExitStack) -> dict[str, tuple[Any, str]]:
        """{name in a TrainingModel: (open file, name there)}."""
        prefix = _base_prefix(self.config)
        places = {}
        for path in _weight_files(self.folder):
            file = _opened(path, stack)
            for key in list(file.keys()):
                is_head = self.kind == "export" and key.startswith(TOKEN_HEADS)
                places[key if is_head else BACKBONE + _plain_name(key, prefix)] = (file, key)
        for name, module in BESIDE_EXPORT.items():
            if self.kind == "export" and (self.folder / name).is_file():
                file = _opened(self.folder / name, stack)
                places |= {f"{module}.{key}": (file, key) for key in list(file.keys())}
        return places


def read_config(folder: Path) -> PretrainedConfig:
    """The configuration of the encoder in a folder.

    Raises:
        CheckpointError: there is none, or transformers does not know it.
    """
    register_auto_classes()
    try:
        return AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            "transformers cannot read the model's configuration",
            found=" ".join(str(error).split())[:300],
            needed="config.json of a model that it knows",
            where=str(folder),
        ) from None


def _base_prefix(config: PretrainedConfig) -> str:
    """What stands before the encoder's names in a model that was saved with a head ("roberta.")."""
    try:
        return f"{AutoModel._model_mapping[type(config)].base_model_prefix}."
    except (KeyError, AttributeError):
        return ""


def _plain_name(key: str, prefix: str) -> str:
    name = key.removeprefix(prefix)
    for old, new in OLD_ENDINGS.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _weight_files(folder: Path) -> list[Path]:
    if (folder / SINGLE_FILE).is_file():
        return [folder / SINGLE_FILE]
    index = folder / INDEX_FILE
    if index.is_file():
        try:
            return [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise _damaged(index, error) from None
    pickles = sorted(path.name for path in folder.glob("*") if path.suffix in {".bin", ".pt", ".pth", ".ckpt"})
    raise CheckpointError(
        "there are no weights",
        found=f"only {', '.join(pickles)}: pickles are never read" if pickles else None,
        needed=f"{SINGLE_FILE} or {INDEX_FILE}",
        where=str(folder),
    )


def _opened(path: Path, stack: ExitStack) -> Any:
    try:
        return stack.enter_context(safe_open(path, framework="pt"))
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError("the weights are damaged", found=str(error), where=str(path))
