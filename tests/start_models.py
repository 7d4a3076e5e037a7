"""Encoders of transformers made on the spot, and models of ours that start from what lies in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    EuroBertConfig,
    EuroBertModel,
    ModernBertConfig,
    ModernBertForMaskedLM,
    MT5Config,
    MT5Model,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from mlc.model import TrainingModel, build_training_model
from mlc.model.start import StartPlan, StartTarget, plan_start
from mlc.model.start_source import StartKind, StartSource
from mlc.model.start_table import same_rows
from mlc.recipe import ModelSection, StartSection

VOCABULARY = 60
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}


def saved(kind: str, folder: Path, **changes: Any) -> Any:
    """A small encoder, in evaluation mode, saved in `folder`; norms and biases are not what they start from."""
    torch.manual_seed(3)
    if kind == "eurobert":
        model: Any = EuroBertModel(
            EuroBertConfig(
                **SIZES, num_key_value_heads=1, mask_token_id=3, rms_norm_eps=1e-6, **{**_three(), **changes}
            )
        )
    elif kind == "modernbert":
        settings = {"hidden_activation": "silu", "norm_eps": 1e-6, **IDS, **changes}
        model = ModernBertForMaskedLM(ModernBertConfig(**SIZES, **settings))
    elif kind == "xlm-roberta":
        settings = {**SIZES, "max_position_embeddings": 40, "hidden_dropout_prob": 0.0, **changes}
        model = XLMRobertaModel(XLMRobertaConfig(**settings), add_pooling_layer=False)
    else:
        model = MT5Model(MT5Config(vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=2))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # ModernBERT's first block reads its embeddings' norm without another one: only a plain one is centred.
            if name != "model.embeddings.norm.weight":
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model.eval()


def _three() -> dict[str, int]:
    return {key: IDS[key] for key in ("pad_token_id", "bos_token_id", "eos_token_id")}


def ids_of(rows: int, columns: int) -> Tensor:
    return torch.randint(4, VOCABULARY, (rows, columns), generator=torch.Generator().manual_seed(0))


def target_of(model: TrainingModel, seed: int = 1) -> StartTarget:
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    table = next(name for name, parameter in model.named_parameters() if parameter is model.lm_head.weight)
    return StartTarget(model.backbone_config, shapes, table, seed)


def started(
    folder: Path,
    section: ModelSection,
    *,
    start: StartSection | None = None,
    kind: StartKind = "huggingface",
    info: dict[str, Any] | None = None,
    vocab_size: int = VOCABULARY,
    seed: int = 1,
) -> tuple[TrainingModel, StartPlan]:
    """A model with the weights of the start, in evaluation mode, and how they came there."""
    model = build_training_model(section, vocab_size, {"[PAD]": 0}, 32, seed)
    target = target_of(model)
    with StartSource(folder, kind, info or {}) as source:
        rows = same_rows(vocab_size, int(source.config.vocab_size))
        chosen = start or StartSection(model=str(folder))
        plan = plan_start(source, target, chosen, rows, same_vocabulary=True)
        values = model.state_dict()
        for name in target.shapes:
            value = plan.value(name)
            if value is not None:
                values[name].copy_(value)
    return model.eval(), plan
