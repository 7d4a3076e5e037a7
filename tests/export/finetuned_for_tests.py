"""Fine-tuned models as `mlc finetune` saves them, with random heads: nothing is trained here."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from finetune_for_tests import make_encoder
from small_checkpoints import write_checkpoint
from small_models import GLM, make_checkpoint

from mlc.model.adapters import LoraSettings, add_adapters, linear_layers
from mlc.tasks.examples import TaskKind
from mlc.tasks.fast_tokenizer_of import open_fast_tokenizer
from mlc.tasks.learned.kinds import task_of
from mlc.tasks.learned.models import HeadSettings, new_model, write_finetuned_description
from mlc.tasks.learned.task import TaskSettings
from mlc.tasks.learned.translation_settings import TranslationSettings
from mlc.tasks.locate import find_model

STEP, MAX_TOKENS = 6, 24
LABELS: dict[TaskKind, tuple[str, ...]] = {
    "classification": ("bad", "so so", "good"),
    "regression": (),
    "token_classification": ("B-LOC", "B-PER", "I-LOC", "I-PER", "O"),
    "question_answering": (),
    "ranking": (),
}
TEST_SETS: dict[str, Any] = {
    "step": None,
    "score": "accuracy",
    "languages": {
        "de": {"value": 0.625, "low": 0.5, "high": 0.75},
        "en": {"value": 0.875, "low": 0.75, "high": 1.0},
    },
    "macro": {"value": 0.75, "low": 0.7, "high": 0.8},
    "zero_shot": {"value": 0.625, "low": 0.5, "high": 0.75},
    "trained": ["en"],
    "sets": {"de": {"examples": 16}, "en": {"examples": 24}},
}
"""What mlc.finetune.trial writes, with made-up numbers."""


def make_finetuned(
    run: Path,
    kind: TaskKind,
    *,
    start: str = "glm",
    pairs: bool = False,
    lora: bool = False,
    step: int = STEP,
    translation: TranslationSettings | None = None,
) -> Path:
    """A run folder with a checkpoint and test.json; `start` is glm or xlmr."""
    begin = run.with_name(f"{run.name}-start")
    if start == "glm":
        make_checkpoint(begin, 1, section=GLM, max_tokens=MAX_TOKENS // 2)  # shorter texts than it is fine-tuned on
    else:
        make_encoder(begin, initializer_range=0.5 if translation else 0.2)  # with 0.2 all translations are alike
    source = find_model(begin)
    labels = LABELS.get(kind, ())
    task = task_of(TaskSettings(kind, labels, MAX_TOKENS, has_pairs=pairs, translation=translation))
    model = new_model(source, task, HeadSettings(seed=1))
    generator = torch.Generator().manual_seed(2)
    settings = None
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # heads start near 0, which hides their scale
            if "classifier" in name or "qa_outputs" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        if lora:
            settings = LoraSettings(4, 8.0, 0.0, linear_layers(model))
            model = add_adapters(model, settings, ())
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    with TemporaryDirectory() as name:
        info = {
            "task": task.settings.to_json(),
            "start": str(begin),
            "lora": None if settings is None else settings.to_json(),
            "languages": ["en"],
            "data": {"examples": 40, "sha256": "7" * 64},
        }
        write_finetuned_description(Path(name), model.config, info)
        open_fast_tokenizer(source, max_tokens=MAX_TOKENS).save_pretrained(name)
        files = {path.name: path.read_bytes() for path in Path(name).iterdir() if path.is_file()}
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    write_checkpoint(run, step, weights, model_files=files)
    (run / "test.json").write_text(json.dumps(TEST_SETS))
    return run
