"""Any model of transformers with its tokenizer as a folder that its Auto class opens, checked.

In:  a `PreTrainedModel` (an encoder, or one of its heads: AutoModelForSequenceClassification and so on) and a fast
     tokenizer.
Out: config.json, weights, tokenizer files; of this project's own classes also their code, which
     `trust_remote_code=True` runs where this package is not installed.

`export_pretrained` is the whole way for a model with a head; exports of encoders use the parts
(mlc.export.hugging_face).
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
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from mlc.errors import MlcError, UsageError
from mlc.export.compare import Comparison, compare_tensors, limit_of
from mlc.export.folder import checked_folder, refuse_existing
from mlc.files import write_json
from mlc.model.int8_weights import INT8_FILE, load_int8_model, write_int8
from mlc.model.registration import register_auto_classes
from mlc.tasks.fast_tokenizer import SAMPLE_TEXTS
from mlc.tasks.locate import DESCRIPTION_FILE, EXPORT_FORMAT

Dtype = Literal["fp32", "bf16", "fp16", "int8"]
TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DTYPES = (*TORCH_DTYPES, "int8")
CARD = "README.md"
OWN_PACKAGE = "mlc."
_RELATIVE_IMPORT = re.compile(r"^\s*from \.(\w+) import", re.MULTILINE)
_HEAD = re.compile(r"For[A-Z]\w*$")


def export_pretrained(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    *,
    description: Mapping[str, Any],
    card: str,
    dtype: Dtype = "fp32",
    overwrite: bool = False,
    sample: Sequence[str] = (),
) -> list[Comparison]:
    """Write, open again by the Auto class, compare, and only then give the folder its name.

    Args:
        model: in fp32 on the CPU.
        tokenizer: a fast one; it pads on the right.
        out: folder to make.
        description: content of mlc.json; "format" and "version" are added.
        card: content of README.md.
        dtype: of the weights.
        overwrite: replace `out`, if it is an export.
        sample: texts to compare on, beside the built-in ones.

    Returns:
        What was compared: token ids, then the first output (logits, or states) of both models.

    Raises:
        UsageError: `out` exists.
        MlcError: the folder would not give the model's outputs; nothing is left behind.
    """
    out = out.expanduser().absolute()
    refuse_existing(out, overwrite=overwrite)
    with checked_folder(out) as partial:
        write_pretrained(model, partial, dtype)
        tokenizer.save_pretrained(partial)
        write_json(partial / DESCRIPTION_FILE, {**description, "format": EXPORT_FORMAT, "version": 1, "dtype": dtype})
        (partial / CARD).write_text(card, encoding="utf-8")
        texts = [text for text in (*SAMPLE_TEXTS, *sample) if text.strip()]
        return compare_pretrained(model, tokenizer, partial, texts, dtype)


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


def has_own_code(model: PreTrainedModel) -> bool:
    """Whether the model's class is this project's, so that others open it with `trust_remote_code=True` only."""
    return type(model).__module__.startswith(OWN_PACKAGE)


def auto_class_name(model_class: type) -> str:
    """The Auto class that opens a model class, by its name: AutoModelForX of MlcGlmForX, else AutoModel.

    Raises:
        UsageError: transformers has no Auto class of that name.
    """
    head = _HEAD.search(model_class.__name__)
    name = f"AutoModel{head.group() if head else ''}"
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


@torch.inference_mode()
def compare_pretrained(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, texts: Sequence[str], dtype: Dtype
) -> list[Comparison]:
    """Compare a folder with the model it was written from: token ids, then the first output, text by text.

    Raises:
        MlcError: they differ by more than the dtype's limit.
    """
    reopened = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    needed_ids = tokenizer(list(texts), verbose=False)["input_ids"]
    if reopened(list(texts), verbose=False)["input_ids"] != needed_ids:
        raise MlcError("the exported tokenizer gives other ids", where=str(folder))
    opened = open_pretrained(folder, getattr(transformers, auto_class_name(type(model))), dtype)
    model.eval()
    pairs = []
    for text in texts:
        batch = tokenizer([text], truncation=True, return_tensors="pt")
        needed, found = (which(**batch)[0].float().flatten() for which in (model, opened))
        pairs.append((needed, found))
    ids = Comparison("token ids", "transformers", len(texts), 0.0, None, 0.0)
    outputs = compare_tensors("outputs", "transformers", pairs, limit_of(dtype, "transformers"))
    return [ids, outputs]


def _write_code(model: PreTrainedModel, folder: Path) -> None:
    """Copy the modules of the model's classes and every module they import, and say in config.json where they are."""
    classes = {auto_class_name(found): found for found in (type(model.base_model), type(model))}
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
