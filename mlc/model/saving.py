"""The model folder: weights as safetensors, the encoder's configuration, and what this project knows besides.

In:  a full state dict and its description, or such a folder.
Out: the folder, or a `TrainingModel` with its description, or its weights one by one.

    model.safetensors   the state dict of `TrainingModel` in fp32, without the tied head and what only losses use
    config.json         the encoder's configuration, as transformers saves it
    mlc.json            {"format": "mlc-model", "version": 1, "model": the recipe's section, "vocab_size",
                         "special_ids", "max_tokens", "tokenizer_sha256", "languages", "contrastive": whether a
                         contrast was trained}; "lora" where adapters are beside the weights; more keys are kept
                         as they are

The model folder of a checkpoint has, instead of model.safetensors, one file for every rank that wrote it:

    weights-00000-of-00002.safetensors ...  pieces of the parameters and buffers (mlc.tensor_files), what only losses
                                            use among them; "parameters" in mlc.json has the shapes: {name: shape}

Nothing here reads pickles: a model folder from elsewhere can't run code.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pydantic
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModel, PretrainedConfig

from mlc.errors import CheckpointError
from mlc.model.adapters import LoraSettings, inject_adapters, merge_adapters
from mlc.model.build import encoder_of, wrap_backbone
from mlc.model.registration import register_auto_classes
from mlc.model.training_model import TRAINING_ONLY, TrainingModel
from mlc.recipe import ModelSection
from mlc.tensor_files import PieceReader, read_whole, write_tensors

FORMAT, VERSION = "mlc-model", 1
EXPORT_FORMAT, EXPORT_INFO = "mlc-export", ("contrast", "max_tokens", "special_ids", "vocab_size")
"""What stands in the mlc.json of an export, and keys that it has."""
FINETUNED_FORMAT, FINETUNED_INFO = "mlc-finetuned", ("task", "start", "lora", "languages")
"""Those of a model that was fine-tuned (mlc.tasks.learned.models)."""
WEIGHTS, CONFIG, INFO = "model.safetensors", "config.json", "mlc.json"
WEIGHT_PIECES = "weights-*-of-*.safetensors"
SHAPES = "parameters"
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
    weights = {name: value for name, value in state_dict.items() if _is_of_the_model(name)}
    empty = [name for name, value in weights.items() if not value.numel()]
    if empty:
        raise CheckpointError(
            "the state dict has empty tensors", found=", ".join(empty[:3]), needed="parameters gathered from all ranks"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_description(folder, backbone_config, info)
    (folder / WEIGHTS).unlink(missing_ok=True)
    write_tensors(folder / WEIGHTS, {name: value.to("cpu", torch.float32) for name, value in weights.items()})


def write_description(folder: Path, backbone_config: PretrainedConfig, info: Mapping[str, Any]) -> None:
    """Write config.json and mlc.json of a model folder; they are not synced.

    Args:
        folder: exists. It is not made: a folder that a newer start of a run took away must not come back.
        backbone_config: of the `TrainingModel`.
        info: the keys of mlc.json but "format" and "version"; with "parameters" where the weights are in pieces.

    Raises:
        CheckpointError: a key of `info` is missing.
        OSError: a file cannot be written.
    """
    missing = [key for key in REQUIRED_INFO if key not in info]
    if missing:
        raise CheckpointError("the description of the model is incomplete", found=f"no {', '.join(missing)}")
    config = copy.deepcopy(backbone_config)
    config.dtype = torch.float32  # that of the file, not that of training
    (folder / CONFIG).write_text(config.to_json_string(), encoding="utf-8")  # save_pretrained would make the folder
    text = json.dumps({"format": FORMAT, "version": VERSION, **info}, indent=2, ensure_ascii=False)
    (folder / INFO).write_text(text + "\n", encoding="utf-8")


def load_training_model(folder: Path) -> tuple[TrainingModel, dict[str, Any]]:
    """Read a model folder.

    Returns:
        The model in fp32, in evaluation mode, adapters merged, and the content of mlc.json.

    Raises:
        CheckpointError: a file is missing or damaged, of a newer version, or the weights don't fit the model.
    """
    info = read_info(folder)
    section = _section(info, folder)
    with WeightReader(folder, info) as reader:
        weights = {name: reader.read(name) for name in reader.shapes if _is_of_the_model(name)}
    register_auto_classes()
    try:
        config = AutoConfig.from_pretrained(folder)
        backbone = encoder_of(AutoModel.from_config(config))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{CONFIG} can't be used", found=str(error), where=str(folder)) from None
    model = wrap_backbone(backbone, section, config)
    lora = LoraSettings.from_json(info.get("lora"), str(folder / INFO))
    adapted = None if lora is None else inject_adapters(model.backbone, lora)
    try:
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise CheckpointError("the weights don't fit the model", found=str(error), where=str(folder)) from None
    if missing or unexpected:
        raise CheckpointError(
            "the weights don't fit the model",
            found=f"missing {missing[:5]}, unexpected {unexpected[:5]}",
            where=str(folder),
        )
    if adapted is not None:
        merge_adapters(adapted)
    return model.eval(), info


class WeightReader:
    """The weights of a model folder, one whole tensor at a time; a context manager, which closes the files.

    Args:
        folder: a model folder.
        info: content of its mlc.json.

    Attributes:
        shapes: of all tensors in it, by name; in a checkpoint also of those that only losses use.

    Raises:
        CheckpointError: there are no weights, a file of them is missing or damaged, or they are not those that
            mlc.json lists.
    """

    def __init__(self, folder: Path, info: Mapping[str, Any]) -> None:
        self._folder = folder
        self._whole: Any = None
        self._pieces: PieceReader | None = None
        self.shapes: dict[str, tuple[int, ...]]
        with ExitStack() as stack:
            if (folder / WEIGHTS).is_file():
                self.shapes = self._open_whole(stack)
            else:
                self._pieces = stack.enter_context(PieceReader(_weight_pieces(folder)))
                self.shapes = self._stated_shapes(info, self._pieces)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def read(self, name: str) -> Tensor:
        """A whole tensor on the CPU: fp32 from a checkpoint, else as stored; errors as in the class.

        It may be a view of the file, which lives as long as the tensor.
        """
        if self._pieces is not None:
            return read_whole(self._pieces, name, self.shapes[name])
        try:
            tensor: Tensor = self._whole.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise _damaged(self._folder / WEIGHTS, error) from None
        return tensor

    def _open_whole(self, stack: ExitStack) -> dict[str, tuple[int, ...]]:
        try:
            self._whole = stack.enter_context(safe_open(self._folder / WEIGHTS, framework="pt"))
            return {name: tuple(self._whole.get_slice(name).get_shape()) for name in list(self._whole.keys())}
        except (SafetensorError, OSError) as error:
            raise _damaged(self._folder / WEIGHTS, error) from None

    def _stated_shapes(self, info: Mapping[str, Any], pieces: PieceReader) -> dict[str, tuple[int, ...]]:
        where = str(self._folder / INFO)
        try:
            shapes = _SHAPES.validate_python(info.get(SHAPES))
        except pydantic.ValidationError as error:
            raise CheckpointError(f'"{SHAPES}" is refused', found=str(error), where=where) from None
        if unknown := sorted(pieces.keys() - shapes.keys()):
            raise CheckpointError(
                f'"{SHAPES}" does not list all weights', found=f"no {', '.join(unknown[:5])}", where=where
            )
        return shapes


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


_SHAPES = pydantic.TypeAdapter(dict[str, tuple[pydantic.NonNegativeInt, ...]])


def _is_of_the_model(name: str) -> bool:
    """Whether a weight belongs to the model itself: the tied head is stored with the embeddings."""
    return name != TIED and not name.startswith(TRAINING_ONLY)


def _weight_pieces(folder: Path) -> list[Path]:
    """The files of pieces, as many as their names say."""
    found = sorted(folder.glob(WEIGHT_PIECES))
    if not found:
        others = sorted(file.name for file in folder.glob("*") if file.suffix in {".bin", ".pt", ".pth", ".ckpt"})
        raise CheckpointError(
            "there are no weights",
            found=f"only {', '.join(others)}: pickles are never read" if others else None,
            needed=f"{WEIGHTS}, or {WEIGHT_PIECES}",
            where=str(folder),
        )
    needed = {f"weights-{rank:05d}-of-{len(found):05d}.safetensors" for rank in range(len(found))}
    if strange := sorted({path.name for path in found} - needed):
        raise CheckpointError(
            "files of weights are missing, or are not of one checkpoint",
            found=f"{len(found)} files, {strange[0]} among them",
            where=str(folder),
        )
    return found


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError("the weights are damaged", found=str(error), where=str(path))
