"""A checkpoint as a folder that `transformers` opens.

In:  a run or one of its checkpoints (mlc.tasks.locate).
Out: config.json, model.safetensors, tokenizer.json with its configuration, tokenizer.model where the shards were made
     with one, mlc.json (what the contrast was trained on), projection.safetensors and attention_pooling.safetensors
     where there are such, README.md; for the GLM also its code, which `trust_remote_code=True` runs where this package
     is not installed.

An export is written into a hidden folder beside its place, opened again through transformers' Auto classes, compared
with the checkpoint, and only then renamed to its name. The GLM's classes are this package's in that check: the copied
code is not run (tests do that, in a process of its own).
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from mlc.data.manifest import TOKENIZER_NAMES
from mlc.errors import CheckpointError, MlcError, UsageError
from mlc.export.model_card import model_card
from mlc.files import sync_file, sync_folder, write_json
from mlc.model.build import encoder_of
from mlc.tasks.encoder import Representation, TextEncoder, choose_representation, pool_states
from mlc.tasks.fast_tokenizer import SAMPLE_TEXTS, check_same_ids, convert_tokenizer
from mlc.tasks.fast_tokenizer_json import complete_tokenizer, texts_with_added_tokens
from mlc.tasks.loading import (
    PROJECTION_FILE,
    PROJECTION_KEY,
    QUERY_FILE,
    QUERY_KEY,
    LoadedModel,
    load_model,
    tokenizer_kind,
)
from mlc.tasks.locate import DESCRIPTION_FILE, EXPORT_FORMAT, find_model, read_description

MAX_DIFFERENCE = 1e-5
"""Largest difference of an element of a unit vector: the weights are the same fp32 numbers, so only the order of
floating-point sums may differ (some 1e-7)."""

GLM_TYPE = "mlc_glm"
_RELATIVE_IMPORT = re.compile(r"^\s*from \.(\w+) import", re.MULTILINE)


@dataclass(frozen=True)
class ExportReport:
    """What was written and how it was checked.

    Attributes:
        max_difference: largest difference between an embedding of the checkpoint and of the export.
        texts_compared: texts on which the tokenizers gave the same ids.
        skipped: newer checkpoints that are not complete.
    """

    folder: Path
    checkpoint: str
    step: int | None
    representation: Representation
    max_difference: float
    texts_compared: int
    skipped: tuple[str, ...] = ()


def export_model(
    model: str | Path, out: str | Path, *, overwrite: bool = False, sample: Sequence[str] = ()
) -> ExportReport:
    """Write and check an export.

    Args:
        model: run folder or checkpoint.
        out: folder to make.
        overwrite: replace `out`, if it is an export.
        sample: texts, beside the built-in ones, on which tokenizers and embeddings are compared.

    Raises:
        UsageError: `out` exists, or `model` is no checkpoint of this project.
        CheckpointError: the checkpoint is missing or damaged.
        MlcError: the export would not give the checkpoint's ids or embeddings; nothing is left behind.
    """
    out = Path(out).expanduser().absolute()
    _refuse_existing(out, overwrite)
    source = find_model(model)
    if source.kind != "checkpoint":
        raise UsageError(
            "only checkpoints of this project are exported", found=f"{source.kind} {source.name}", where=str(model)
        )
    loaded = load_model(source)
    partial = out.with_name(f".{out.name}.partial-{uuid.uuid4().hex[:8]}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        _write_model(loaded, partial)
        compared = _write_tokenizer(loaded, partial, sample)
        _write_description(loaded, partial)
        difference = _compare(loaded, partial, [text for text in (*SAMPLE_TEXTS, *sample) if text.strip()])
        _put_in_place(partial, out)
    except OSError as error:
        raise MlcError("the export cannot be written", found=str(error), where=str(out)) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return ExportReport(
        folder=out,
        checkpoint=source.name,
        step=source.step,
        representation=choose_representation(loaded),
        max_difference=difference,
        texts_compared=compared,
        skipped=source.skipped,
    )


def _refuse_existing(out: Path, overwrite: bool) -> None:
    if not out.exists():
        return
    if not overwrite:
        raise UsageError("the folder exists", found=str(out), where="OUT", hint="choose another, or give --overwrite")
    try:
        is_export = read_description(out)["format"] == EXPORT_FORMAT
    except CheckpointError:
        is_export = False
    if not is_export:
        raise UsageError("--overwrite replaces exports only, and this is none", found=str(out), where="OUT")


def _put_in_place(partial: Path, out: Path) -> None:
    for file in partial.iterdir():
        shutil.copymode(partial / DESCRIPTION_FILE, file)  # safetensors makes files that only their owner can read
        sync_file(file)
    sync_folder(partial)
    if out.exists():
        old = out.with_name(f".{out.name}.old-{uuid.uuid4().hex[:8]}")
        os.replace(out, old)
        os.replace(partial, out)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.replace(partial, out)
    sync_folder(out.parent)


def _write_model(loaded: LoadedModel, folder: Path) -> None:
    _whole_model(loaded).save_pretrained(folder)
    if loaded.config.model_type == GLM_TYPE:
        _write_code(type(loaded.backbone), folder)
    if loaded.projection is not None:
        weight = loaded.projection.weight.detach().contiguous()
        save_file({PROJECTION_KEY: weight}, folder / PROJECTION_FILE, metadata={"format": "pt"})
    if loaded.pooling_query is not None:
        save_file({QUERY_KEY: loaded.pooling_query.contiguous()}, folder / QUERY_FILE, metadata={"format": "pt"})


def _whole_model(loaded: LoadedModel) -> Any:
    """What AutoModel opens: the backbone, or the encoder-decoder around it, whose decoder was never trained."""
    if not loaded.config.is_encoder_decoder:
        return loaded.backbone
    whole = AutoModel.from_config(loaded.config)
    whole.get_encoder().load_state_dict(loaded.backbone.state_dict())
    return whole


def _write_code(model_class: type, folder: Path) -> None:
    """Copy the module of the GLM and every module it imports, and say in config.json where the classes are."""
    package = Path(_module_file(model_class)).parent
    module = Path(_module_file(model_class)).stem
    configuration = Path(_module_file(model_class.config_class)).stem  # type: ignore[attr-defined]
    waiting, copied = [module, configuration], set()
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
    config_file = folder / "config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config["auto_map"] = {
        "AutoConfig": f"{configuration}.{model_class.config_class.__name__}",  # type: ignore[attr-defined]
        "AutoModel": f"{module}.{model_class.__name__}",
    }
    write_json(config_file, config)


def _module_file(cls: type) -> str:
    return inspect.getfile(cls)


def _write_tokenizer(loaded: LoadedModel, folder: Path, sample: Sequence[str]) -> int:
    kind = tokenizer_kind(loaded.description)
    model_file = loaded.source.folder / TOKENIZER_NAMES[kind]
    stated = loaded.description.get("tokenizer_sha256")
    found = hashlib.sha256(model_file.read_bytes()).hexdigest()
    if stated and stated != found:
        raise CheckpointError(
            "the tokenizer is not the one of the training data",
            found=f"sha256 {found[:12]}",
            needed=f"{stated[:12]}",
            where=str(model_file),
        )
    special_ids, max_tokens = loaded.description["special_ids"], loaded.description["max_tokens"]
    if kind == "hugging_face":
        complete_tokenizer(model_file, special_ids, max_tokens=max_tokens).save_pretrained(folder)
        sample = (*sample, *texts_with_added_tokens(model_file))
    else:
        convert_tokenizer(model_file, special_ids, max_tokens=max_tokens).save_pretrained(folder)
        shutil.copyfile(model_file, folder / model_file.name)
    reopened = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return check_same_ids(reopened, model_file, special_ids, sample, kind)


def _write_description(loaded: LoadedModel, folder: Path) -> None:
    saved = loaded.description
    description = {
        "format": EXPORT_FORMAT,
        "version": 1,
        "contrast": loaded.contrast,
        "max_tokens": saved["max_tokens"],
        "special_ids": saved["special_ids"],
        "tokenizer_sha256": saved.get("tokenizer_sha256"),
        "tokenizer_kind": tokenizer_kind(saved),
        "vocab_size": saved["vocab_size"],
        "languages": list(saved.get("languages", ())),
        "objectives": saved.get("objectives"),
        "step": saved.get("step", loaded.source.step),
        "identity": _identity(loaded),
    }
    write_json(folder / DESCRIPTION_FILE, description)
    card = model_card(
        description,
        choose_representation(loaded),
        layers=loaded.layers,
        width=loaded.width,
        own_code=loaded.config.model_type == GLM_TYPE,
        half=bool(loaded.config.is_encoder_decoder),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _identity(loaded: LoadedModel) -> dict[str, str]:
    """Digests of what the weights were made from, as far as the checkpoint states them."""
    stated = {"shards' manifest": "shards_sha256", "tokenizer": "tokenizer_sha256"}
    return {name: loaded.description[key] for name, key in stated.items() if loaded.description.get(key)}


def _compare(loaded: LoadedModel, folder: Path, texts: Sequence[str]) -> float:
    """Largest difference between the checkpoint's embeddings and those of the folder, opened by transformers and by us.

    The code that was copied for `trust_remote_code` is not run: the GLM's classes are the installed ones.
    """
    encoder = TextEncoder(loaded, choose_representation(loaded))
    needed = encoder.encode(texts)
    found = _encode_with_transformers(folder, encoder.representation, texts)
    again = TextEncoder.load(folder, device="cpu").encode(texts)
    difference = max(float(np.abs(vectors - needed).max()) for vectors in (found, again))
    if not difference <= MAX_DIFFERENCE:  # also true for nan
        raise MlcError(
            "the export does not give the checkpoint's embeddings",
            found=f"a difference of {difference:.2g}",
            needed=f"<= {MAX_DIFFERENCE:g}",
            where=str(loaded.source.folder),
        )
    return difference


@torch.inference_mode()
def _encode_with_transformers(
    folder: Path, representation: Representation, texts: Sequence[str]
) -> NDArray[np.float32]:
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model = AutoModel.from_pretrained(folder, trust_remote_code=False, use_safetensors=True).eval()
    model = encoder_of(model)
    query = load_file(folder / QUERY_FILE)[QUERY_KEY] if representation.pooling == "attention" else None
    vectors = []
    for text in texts:  # one by one: another batching than the encoder's
        batch = tokenizer([text], truncation=True, return_tensors="pt")
        output = model(**batch, output_hidden_states=True)
        layers = (*output.hidden_states[:-1], output.last_hidden_state)
        pooled = pool_states(
            layers[representation.layer], batch["attention_mask"].bool(), representation.pooling, query
        )
        if representation.projection:
            pooled = pooled @ load_file(folder / PROJECTION_FILE)[PROJECTION_KEY].T
        vectors.append(torch.nn.functional.normalize(pooled, dim=-1))
    result: NDArray[np.float32] = torch.cat(vectors).numpy()
    return result
