"""Any model of transformers as a folder that its Auto class opens.

In:  a `PreTrainedModel`: an encoder, or one with a head (AutoModelForSequenceClassification and so on).
Out: config.json and weights; of this project's own classes also their code, which `trust_remote_code=True` runs where
     this package is not installed.

Exports of encoders (mlc.export.hugging_face) and of fine-tuned models (mlc.export.finetuned) are made with it.
"""

from __future__ import annotations

import copy
import inspect
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from transformers import PreTrainedModel

from mlc.errors import MlcError, UsageError
from mlc.files import write_json
from mlc.model.int8_weights import INT8_FILE, load_int8_model, write_int8
from mlc.model.registration import register_auto_classes

Dtype = Literal["fp32", "bf16", "fp16", "int8"]
TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DTYPES = (*TORCH_DTYPES, "int8")
CARD = "README.md"
OWN_PACKAGE = "mlc."
OTHER_AUTO_CLASSES = {"MlcGlmForBlankInfilling": "AutoModelForSeq2SeqLM"}
"""Of classes that are not named after theirs."""
_RELATIVE_IMPORT = re.compile(r"^\s*from \.(\w+) import", re.MULTILINE)
_HEAD = re.compile(r"For[A-Z]\w*$")


def write_pretrained(model: PreTrainedModel, folder: Path, dtype: Dtype = "fp32") -> None:
    """Write config.json, the weights and, for this project's classes, their code.

    Args:
        model: in fp32; it is not changed.
        folder: exists.
        dtype: bf16 and fp16 round every floating-point weight; int8 writes model.int8.safetensors, which transformers
            does not open (mlc.model.int8_weights).

    Raises:
        MlcError: the model's code is not self-contained.
    """
    if dtype == "int8":
        model.config.save_pretrained(folder)
        write_int8(folder / INT8_FILE, model.state_dict())
        _change_config(folder, {"architectures": [type(model).__name__], "dtype": "float32"})
    elif dtype == "fp32":
        model.save_pretrained(folder)
    else:
        copy.deepcopy(model).to(TORCH_DTYPES[dtype]).save_pretrained(folder)
    if has_own_code(model):
        _write_code(model, folder)


def write_pretrained_heads(models: Sequence[PreTrainedModel], folder: Path, dtype: Dtype) -> None:
    """Write one model with several heads; the Auto class of each opens it with its head, AutoModel without any.

    Args:
        models: of this project, in fp32, with the same backbone.
        folder: exists.
        dtype: any but int8, which transformers does not open.

    Raises:
        MlcError: the model's code is not self-contained.
    """
    first, *others = (copy.deepcopy(model).to(TORCH_DTYPES[dtype]) for model in models)
    own = first.state_dict()
    more = {name: value for other in others for name, value in other.state_dict().items() if name not in own}
    first.save_pretrained(folder, state_dict=own | more)
    _change_config(folder, {"architectures": [type(model).__name__ for model in models]})
    _write_code(first, folder, *others)


def has_own_code(model: PreTrainedModel) -> bool:
    """Whether the model's class is this project's, so that others open it with `trust_remote_code=True` only."""
    return type(model).__module__.startswith(OWN_PACKAGE)


def auto_class_name(model_class: type) -> str:
    """The Auto class that opens a model class, by its name: AutoModelForX of MlcGlmForX, else AutoModel.

    Raises:
        UsageError: transformers has no Auto class of that name.
    """
    head = _HEAD.search(model_class.__name__)
    name = OTHER_AUTO_CLASSES.get(model_class.__name__, f"AutoModel{head.group() if head else ''}")
    if not hasattr(transformers, name):
        raise UsageError("no Auto class of transformers opens this model", found=model_class.__name__, needed=name)
    return name


def open_pretrained(folder: Path, auto_class: Any, dtype: Dtype) -> PreTrainedModel:
    """What a reader gets: the model in the dtype it is stored in (int8: dequantised to fp32), in evaluation mode."""
    register_auto_classes()
    if dtype == "int8":
        return load_int8_model(folder, auto_class)[0]
    opened: PreTrainedModel = auto_class.from_pretrained(folder, trust_remote_code=False, use_safetensors=True)
    if opened.dtype != TORCH_DTYPES[dtype]:
        raise MlcError("the weights have another dtype than was asked for", found=str(opened.dtype), needed=dtype)
    return opened.eval()


def _write_code(model: PreTrainedModel, folder: Path, *others: PreTrainedModel) -> None:
    """Copy the modules of the models' classes and every module they import, and say in config.json where they are."""
    classes = {auto_class_name(found): found for found in (type(model.base_model), *map(type, (model, *others)))}
    config_class = type(model.config)
    _copy_modules([*classes.values(), config_class], folder)
    auto_map = {"AutoConfig": config_class, **classes}
    _change_config(folder, {"auto_map": {name: f"{_module(cls)}.{cls.__name__}" for name, cls in auto_map.items()}})


def _copy_modules(classes: Iterable[type], folder: Path) -> None:
    files = [Path(inspect.getfile(cls)) for cls in classes]
    package = files[0].parent
    waiting, copied = [file.stem for file in files], set()
    while waiting:
        name = waiting.pop()
        if name in copied:
            continue
        copied.add(name)
        code = (package / f"{name}.py").read_text(encoding="utf-8")
        if re.search(r"^\s*(from|import) mlc\b", code, re.MULTILINE):
            raise MlcError("the model's code is not self-contained", found="an import of mlc", where=f"{name}.py")
        (folder / f"{name}.py").write_text(code, encoding="utf-8")
        waiting += _RELATIVE_IMPORT.findall(code)


def _module(cls: type) -> str:
    return Path(inspect.getfile(cls)).stem


def _change_config(folder: Path, changes: Mapping[str, Any]) -> None:
    file = folder / "config.json"
    write_json(file, {**json.loads(file.read_text(encoding="utf-8")), **changes})
