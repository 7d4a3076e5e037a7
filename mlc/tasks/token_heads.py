"""The heads of a GLM that score tokens: whether a model has one that was trained, and the model with it.

In:  where a model is (mlc.tasks.locate).
Out: `MlcGlmForBlankInfilling`, which predicts Part B, or `MlcGlmForMaskedLM`, which predicts what [MLM] stands for.

A checkpoint of `mlc train` has both; an export has those that `mlc export --heads` wrote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

from mlc.errors import CheckpointError, UsageError
from mlc.model.generation_glm import MlcGlmForBlankInfilling
from mlc.model.modeling_glm_tasks import MlcGlmForMaskedLM
from mlc.model.registration import register_auto_classes
from mlc.model.saving import load_training_model
from mlc.tasks.locate import ModelSource, read_description

Head = Literal["glm", "mlm"]
"""By the objective that trains it."""
HEAD_CLASSES: dict[Head, type[PreTrainedModel]] = {"glm": MlcGlmForBlankInfilling, "mlm": MlcGlmForMaskedLM}
HEADS_KEY = "heads"
"""Of an export's mlc.json: the heads that it has."""


def trained_heads(source: ModelSource, description: Mapping[str, Any]) -> tuple[Head, ...]:
    """The heads that a model has and that were trained.

    Args:
        source: of any kind.
        description: its mlc.json. One of a checkpoint that does not state its objectives counts as trained on all.
    """
    if source.kind == "export":
        kept = description.get(HEADS_KEY, ())
        return tuple(head for head in HEAD_CLASSES if head in kept)
    if source.kind != "checkpoint" or description["model"].get("architecture", "glm") != "glm":
        return ()
    objectives = description.get("objectives")
    if not objectives:
        return tuple(HEAD_CLASSES)
    return tuple(head for head in HEAD_CLASSES if objectives.get(head, {}).get("weight"))


def check_part_b(source: ModelSource) -> dict[str, Any]:
    """The mlc.json of a model that was trained to fill blanks.

    Raises:
        UsageError: the model has no Part B, or was not trained to fill one.
        CheckpointError: its description cannot be read.
    """
    if source.kind == "huggingface":
        raise _no_part_b(source, "a Hugging Face model")
    info = read_description(source.folder)
    if "glm" in trained_heads(source, info):
        return info
    if source.kind == "finetuned":
        raise _no_part_b(source, f"a model fine-tuned for {info['task']['kind']}")
    if source.kind == "export":
        raise _no_part_b(source, "an export without the head of Part B", hint="mlc export MODEL OUT --heads")
    if info["model"].get("architecture", "glm") != "glm":
        raise _no_part_b(source, f'architecture = "{info["model"]["architecture"]}"')
    raise UsageError(
        "the model was not trained to fill blanks",
        found="objectives.glm.weight = 0",
        needed="a weight above 0",
        where=source.name,
        hint="train with --set objectives.glm.weight=0.3",
    )


def load_heads(source: ModelSource, heads: Sequence[Head]) -> dict[Head, PreTrainedModel]:
    """The model with each of some of its `trained_heads`, in fp32, in evaluation mode.

    Raises:
        CheckpointError: the weights are missing, damaged, or do not fit.
    """
    if source.kind == "checkpoint":
        trained: Any = load_training_model(source.folder)[0]
        classes: dict[Head, Any] = {head: HEAD_CLASSES[head] for head in heads}
        return {head: model_class.from_training_model(trained) for head, model_class in classes.items()}
    register_auto_classes()
    return {head: _open_head(source, HEAD_CLASSES[head]) for head in heads}


def load_part_b(source: ModelSource) -> MlcGlmForBlankInfilling:
    """The model that fills blanks, of what `check_part_b` takes; see `load_heads`."""
    return cast(MlcGlmForBlankInfilling, load_heads(source, ("glm",))["glm"])


def _open_head(source: ModelSource, model_class: Any) -> PreTrainedModel:
    try:
        model, report = model_class.from_pretrained(
            source.name, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        found = " ".join(str(error).split())[:300]
        raise CheckpointError("the export cannot be read", found=found, where=source.name) from None
    if report["missing_keys"]:
        found = f"no {', '.join(sorted(report['missing_keys'])[:3])}"
        raise CheckpointError("weights of the model are missing", found=found, where=source.name)
    opened: PreTrainedModel = model.eval()
    return opened


def _no_part_b(source: ModelSource, found: str, hint: str = "") -> UsageError:
    return UsageError(
        "the model has no Part B to fill blanks with",
        found=found,
        needed="a GLM that was trained with objectives.glm.weight above 0: its run or checkpoint, or an export of it "
        "with --heads",
        where=source.name,
        hint=hint or "give the run folder: runs/base",
    )
