"""Models with a task's head: new ones on a pre-trained encoder, and fine-tuned ones as they were saved.

In:  where a model is (mlc.tasks.locate), a task.
Out: a model of transformers (one of its AutoModelFor... classes) in fp32 on the CPU.

A pickle is never opened, and no code that lies beside a model is run.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig

from mlc.errors import CheckpointError, MlcError, UsageError
from mlc.model.adapters import WRAPPED, LoraSettings, add_adapters, merge_adapters
from mlc.model.configuration_glm import MlcGlmConfig
from mlc.model.initialise import initialise
from mlc.model.int8_weights import INT8_FILE, read_int8
from mlc.model.registration import register_auto_classes
from mlc.model.saving import CONFIG, FINETUNED_FORMAT, INFO, VERSION, WeightReader, load_training_model
from mlc.tasks.fast_tokenizer_of import open_fast_tokenizer
from mlc.tasks.features_pieces import PieceEncoder
from mlc.tasks.learned.cloze_model import new_cloze_model
from mlc.tasks.learned.kinds import task_of
from mlc.tasks.learned.task import LearnedTask, TaskSettings
from mlc.tasks.learned.translation_models import new_encoder_decoder, new_part_b, writes_beside_encoder
from mlc.tasks.locate import ModelSource, read_description

_DROPOUTS = (
    "hidden_dropout",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "attention_dropout",
    "embedding_dropout",
    "mlp_dropout",
    "classifier_dropout",
)
"""Where configurations of encoders keep their rates of dropout."""


@dataclass(frozen=True)
class HeadSettings:
    """What a recipe says of a new head.

    Attributes:
        seed: of its initial weights.
        pooling: of a sequence classifier on the GLM.
        dropout: of all layers and the head; None = as the model was configured.
    """

    seed: int
    pooling: str = "mean"
    dropout: float | None = None


def configured(source: ModelSource, task: LearnedTask, head: HeadSettings) -> Any:
    """The configuration of the model that `new_model` builds.

    Raises:
        MlcError: there is none that transformers can read, or only half of the model is an encoder.
    """
    register_auto_classes()
    try:
        config = AutoConfig.from_pretrained(source.name, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        found = " ".join(str(error).split())[:300]
        raise MlcError("the model's configuration cannot be read", found=found, where=source.name) from None
    if config.is_encoder_decoder and not (writes_beside_encoder(task) and source.kind == "finetuned"):
        raise UsageError(
            "an encoder-decoder has no head for this task", found=config.model_type, needed="an encoder",
            where=source.name,
        )  # fmt: skip
    config = copy.deepcopy(config)
    task.configure(config)
    if isinstance(config, MlcGlmConfig):
        config.classifier_pooling = head.pooling
        config.admit(task.settings.max_tokens)
    if head.dropout is not None:
        set_dropout(config, head.dropout)
    return config


def set_dropout(config: Any, rate: float) -> None:
    """Give all layers and the head one rate of dropout."""
    for part in (config.encoder, config.decoder) if config.model_type == "encoder-decoder" else (config,):
        for name in _DROPOUTS:
            if hasattr(part, name):
                setattr(part, name, rate)


def new_model(source: ModelSource, task: LearnedTask, head: HeadSettings) -> Any:
    """A pre-trained encoder with a head for the task; new weights are a function of (seed, name).

    Where the folder of a Hugging Face model has a head of the right shape, that head is taken.

    Raises:
        CheckpointError, MlcError: the weights are missing, damaged, or do not fit.
    """
    config = configured(source, task, head)
    if writes_beside_encoder(task) and not config.is_encoder_decoder:
        assert task.settings.translation is not None
        return new_encoder_decoder(source, config, task.settings.translation, seed=head.seed).train()
    if source.kind != "finetuned" and task.settings.translation is not None:
        return new_part_b(source, config).train()
    if source.kind != "finetuned" and task.settings.cloze is not None:
        return new_cloze_model(source, config).train()
    if source.kind == "checkpoint":
        model = _around_backbone(source.folder, task, config)
        prefix = f"{model.base_model_prefix}."
        initialise(model, head.seed, include=lambda name: not name.startswith(prefix))
    else:
        name = source.name
        model, new = _from_folder(name, task, config) if source.kind != "finetuned" else _again(source, task, config)
        initialise(model, head.seed, include=lambda parameter: parameter in new)
    return model.train()


def _around_backbone(folder: Path, task: LearnedTask, config: Any) -> Any:
    trained, _ = load_training_model(folder)
    model = _built(task, config, str(folder))
    base = getattr(model, model.base_model_prefix)
    missing, unexpected = base.load_state_dict(trained.backbone.state_dict(), strict=False)
    if unexpected or any("pooler" not in name for name in missing):
        raise CheckpointError(
            "the weights don't fit the model", found=f"missing {missing[:3]}, unexpected {unexpected[:3]}",
            where=str(folder),
        )  # fmt: skip
    return model


def _again(source: ModelSource, task: LearnedTask, config: Any) -> tuple[Any, set[str]]:
    """A fine-tuned model for another task, or the same one: what has the same name and shape is taken."""
    before = load_finetuned(source).model.state_dict()
    model = _built(task, config, source.name)
    own = model.state_dict()
    fitting = {name: value for name, value in before.items() if name in own and value.shape == own[name].shape}
    model.load_state_dict(fitting, strict=False)
    return model, set(own) - set(fitting)


def _from_folder(name: str, task: LearnedTask, config: Any) -> tuple[Any, set[str]]:
    """The model of a folder or of the hub, and names of the parameters that were not there."""
    try:
        model, report = task.auto_class.from_pretrained(
            name,
            config=config,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        found = " ".join(str(error).split())[:300]
        needed = "an architecture that transformers knows with a head for this task, saved as safetensors"
        raise MlcError("transformers cannot load the model", found=found, needed=needed, where=name) from None
    new = {*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])}
    prefix = f"{model.base_model_prefix}."
    lost = sorted(key for key in new if key.startswith(prefix) and "pooler" not in key)
    if lost:
        raise MlcError("weights of the model are missing", found=f"no {', '.join(lost[:5])}", where=name)
    return model, new


def _built(task: LearnedTask, config: Any, where: str) -> Any:
    try:
        return task.auto_class.from_config(config).float()
    except (ValueError, KeyError, TypeError) as error:
        raise MlcError("transformers has no such head for this model", found=str(error)[:300], where=where) from None


@dataclass(frozen=True)
class FinetunedModel:
    """A fine-tuned model in evaluation mode; adapters are merged.

    Attributes:
        model: in fp32 on the CPU.
        description: its mlc.json.
    """

    source: ModelSource
    model: Any
    task: LearnedTask
    encoder: PieceEncoder
    description: Mapping[str, Any]


def load_finetuned(source: ModelSource) -> FinetunedModel:
    """Open what `find_model` found, if it was fine-tuned.

    Raises:
        UsageError: it was not.
        CheckpointError: a file is missing or damaged.
    """
    if source.kind != "finetuned":
        raise UsageError(
            "the model was not fine-tuned for a task",
            found=f"{source.kind} {source.name}",
            needed="a run of mlc finetune, or an export of one",
            hint="mlc finetune RECIPE.toml",
        )
    description = read_description(source.folder)
    task = task_of(TaskSettings.from_json(description["task"], str(source.folder / INFO)))
    model = empty_model(source.folder, task, LoraSettings.from_json(description["lora"], str(source.folder / INFO)))
    weights = _weights(source.folder, description)
    tied = set(getattr(model, "all_tied_weights_keys", {}) or {})
    missing, unexpected = model.load_state_dict(weights, strict=False)
    missing = [name for name in missing if name.removeprefix(WRAPPED) not in tied]
    if missing or unexpected:
        raise CheckpointError(
            "the weights don't fit the model", found=f"missing {missing[:3]}, unexpected {unexpected[:3]}",
            where=source.name,
        )  # fmt: skip
    if description["lora"] is not None:
        model = merge_adapters(model)
    encoder = PieceEncoder(open_fast_tokenizer(source, max_tokens=task.settings.max_tokens))
    return FinetunedModel(source, model.float().eval(), task, encoder, description)


def _weights(folder: Path, description: Mapping[str, Any]) -> dict[str, Any]:
    if (folder / INT8_FILE).is_file():
        return read_int8(folder / INT8_FILE)
    with WeightReader(folder, description) as reader:
        return {name: reader.read(name) for name in reader.shapes}


def empty_model(folder: Path, task: LearnedTask, lora: LoraSettings | None) -> Any:
    """The model that a fine-tuned folder's weights are of, with any weights.

    Raises:
        CheckpointError: config.json cannot be used.
    """
    register_auto_classes()
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        model = task.auto_class.from_config(config).float()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{CONFIG} can't be used", found=str(error), where=str(folder)) from None
    return model if lora is None else add_adapters(model, lora, ())


def write_finetuned_description(folder: Path, model_config: Any, info: Mapping[str, Any]) -> None:
    """Write config.json and mlc.json of a fine-tuned model's folder; they are not synced.

    Args:
        folder: exists.
        model_config: of the model.
        info: the keys of mlc.json but "format" and "version".

    Raises:
        OSError: a file cannot be written.
    """
    config = copy.deepcopy(model_config)
    config.dtype = torch.float32
    (folder / CONFIG).write_text(config.to_json_string(), encoding="utf-8")
    text = json.dumps({"format": FINETUNED_FORMAT, "version": VERSION, **info}, indent=2, ensure_ascii=False)
    (folder / INFO).write_text(text + "\n", encoding="utf-8")
