"""Weights and tokenizer of a `ModelSource`, from safetensors only.

In:  where a model is (mlc.tasks.locate).
Out: a `LoadedModel`: backbone, pooling query, projection, tokenizer, and what its contrast was trained on.

A pickle is never opened, and no code that lies beside a model is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModel

from mlc.data.manifest import TOKENIZER_NAMES, TokenizerKind
from mlc.errors import CheckpointError, MlcError, UsageError
from mlc.model.build import encoder_of
from mlc.model.configuration_glm import MlcGlmConfig
from mlc.model.int8_weights import INT8_FILE, load_int8_model
from mlc.model.registration import register_auto_classes
from mlc.model.saving import load_training_model
from mlc.tasks.learned.models import load_finetuned
from mlc.tasks.locate import ModelSource, read_description
from mlc.tasks.tokenizers import HuggingFaceTokenizer, RunTokenizer, TextTokenizer, check_length, position_limit

PROJECTION_FILE = "projection.safetensors"
PROJECTION_KEY = "weight"
QUERY_FILE = "attention_pooling.safetensors"
QUERY_KEY = "query"


@dataclass(frozen=True)
class LoadedModel:
    """A model in fp32 on the CPU.

    Attributes:
        backbone: takes input_ids and attention_mask (R, L), returns last_hidden_state and hidden_states.
        config: configuration of the model whose encoder is `backbone`.
        projection: linear map of the pooled state; None where none was trained.
        pooling_query: of attention pooling, (D,); None where none was trained.
        layers: blocks of the backbone; `hidden_states` has one more.
        width: D.
        contrast: {"layer", "pooling", "projection"} that a contrast was trained on; None where there was no contrast.
        description: the folder's mlc.json; empty for a Hugging Face model.
    """

    source: ModelSource
    backbone: nn.Module
    config: Any
    projection: nn.Linear | None
    tokenizer: TextTokenizer
    layers: int
    width: int
    contrast: dict[str, Any] | None = None
    pooling_query: Tensor | None = None
    description: Mapping[str, Any] = field(default_factory=dict)


def load_model(source: ModelSource, *, max_tokens: int | None = None) -> LoadedModel:
    """Load what `find_model` found.

    Args:
        max_tokens: longest input; None = as the model was trained.

    Raises:
        CheckpointError: a file is missing or damaged.
        MlcError: there are no safetensors, transformers cannot build the model, or it states that it takes less than
            `max_tokens`.
    """
    if max_tokens is not None and max_tokens < 3:
        raise UsageError("max_tokens is too small", found=max_tokens, needed="3 or more: [CLS], a token, [SEP]")
    loaders = {
        "checkpoint": _load_checkpoint,
        "finetuned": _load_finetuned,
        "export": _load_export,
        "huggingface": _load_hugging_face,
    }
    return loaders[source.kind](source, max_tokens)


def _load_checkpoint(source: ModelSource, max_tokens: int | None) -> LoadedModel:
    model, description = load_training_model(source.folder)
    section = description["model"]
    contrast = None
    if description["contrastive"]:
        contrast = {
            "layer": section["layer"],
            "pooling": section["pooling"],
            "projection": model.projection is not None,
        }
    return LoadedModel(
        source=source,
        backbone=model.backbone,
        config=model.backbone_config,
        projection=model.projection if contrast else None,
        tokenizer=_own_tokenizer(source.folder, description, model.backbone_config, max_tokens),
        layers=model.backbone_config.num_hidden_layers,
        width=model.backbone_config.hidden_size,
        contrast=contrast,
        pooling_query=model.attention_pooling.query.detach() if contrast and model.attention_pooling else None,
        description=description,
    )


def _load_export(source: ModelSource, max_tokens: int | None) -> LoadedModel:
    description = read_description(source.folder)
    backbone = _auto_model(source.name)
    contrast = description["contrast"]
    projection, query = None, None
    if contrast and contrast["projection"]:
        projection = _projection_of(_read_tensor(source.folder / PROJECTION_FILE, PROJECTION_KEY))
    if contrast and contrast["pooling"] == "attention":
        query = _read_tensor(source.folder / QUERY_FILE, QUERY_KEY)
    return LoadedModel(
        source=source,
        backbone=backbone,
        config=backbone.config,
        projection=projection,
        tokenizer=_own_tokenizer(source.folder, description, backbone.config, max_tokens),
        layers=backbone.config.num_hidden_layers,
        width=backbone.config.hidden_size,
        contrast=contrast,
        pooling_query=query,
        description=description,
    )


def _load_finetuned(source: ModelSource, max_tokens: int | None) -> LoadedModel:
    """The encoder under a task's head: nothing says any more how its states are to be pooled."""
    finetuned = load_finetuned(source)
    backbone = encoder_of(getattr(finetuned.model, finetuned.model.base_model_prefix))
    return LoadedModel(
        source=source,
        backbone=backbone,
        config=finetuned.model.config,
        projection=None,
        tokenizer=HuggingFaceTokenizer(source.name, finetuned.model.config, max_tokens),
        layers=finetuned.model.config.num_hidden_layers,
        width=finetuned.model.config.hidden_size,
        description=finetuned.description,
    )


def _load_hugging_face(source: ModelSource, max_tokens: int | None) -> LoadedModel:
    backbone = _auto_model(source.name)
    return LoadedModel(
        source=source,
        backbone=backbone,
        config=backbone.config,
        projection=None,
        tokenizer=HuggingFaceTokenizer(source.name, backbone.config, max_tokens),
        layers=backbone.config.num_hidden_layers,
        width=backbone.config.hidden_size,
    )


def tokenizer_kind(description: Mapping[str, Any]) -> TokenizerKind:
    """What kind of tokenizer lies beside an mlc.json; older ones do not say it.

    Raises:
        CheckpointError: a kind that this program does not know.
    """
    found = description.get("tokenizer_kind", "sentencepiece")
    for kind in TOKENIZER_NAMES:
        if kind == found:
            return kind
    raise CheckpointError("the tokenizer is of an unknown kind", found=found, needed=", ".join(TOKENIZER_NAMES))


def _own_tokenizer(folder: Path, description: Mapping[str, Any], config: Any, max_tokens: int | None) -> RunTokenizer:
    if config.model_type != MlcGlmConfig.model_type:  # the GLM's number is no limit: its positions are rotary
        check_length(max_tokens, position_limit(config), str(folder))
    kind = tokenizer_kind(description)
    return RunTokenizer(
        folder / TOKENIZER_NAMES[kind], kind, description["special_ids"], max_tokens or description["max_tokens"]
    )


def _read_tensor(file: Path, key: str) -> Tensor:
    try:
        tensor: Tensor = load_file(file)[key]
    except (OSError, SafetensorError, KeyError) as error:
        raise CheckpointError("what pools the states cannot be read", found=str(error), where=str(file)) from None
    return tensor


def _projection_of(weight: Tensor) -> nn.Linear:
    projection = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    with torch.no_grad():
        projection.weight.copy_(weight)
    return projection


def _auto_model(name: str) -> Any:
    """The encoder of any model transformers knows, or of an export, from its safetensors."""
    register_auto_classes()
    _refuse_pickles(Path(name))
    try:
        if (Path(name) / INT8_FILE).is_file():
            model, report = load_int8_model(Path(name), AutoModel)
        else:
            model, report = AutoModel.from_pretrained(
                name, use_safetensors=True, trust_remote_code=False, dtype=torch.float32, output_loading_info=True
            )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise MlcError(
            "transformers cannot load the model", found=" ".join(str(error).split())[:300], needed=_NEEDED, where=name
        ) from None
    # Poolers and decoders are not used here; anything else that was not in the files would be random.
    missing = sorted(key for key in report["missing_keys"] if "pooler" not in key and not key.startswith("decoder."))
    if missing:
        raise MlcError("weights of the model are missing", found=f"no {', '.join(missing[:5])}", where=name)
    return encoder_of(model)


_NEEDED = "an architecture that transformers knows, saved as safetensors"


def _refuse_pickles(folder: Path) -> None:
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    pickles = sorted(f.name for f in folder.iterdir() if f.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl"))
    raise MlcError(
        "the folder has no safetensors" + ("; pickles are not opened, they can run any code" if pickles else ""),
        found=", ".join(pickles) or "no weights",
        needed="model.safetensors",
        where=str(folder),
        hint="convert it where you trust it: AutoModel.from_pretrained(FOLDER).save_pretrained(NEW)",
    )
