"""Fine-tuned models as they are saved, of random weights: nothing is trained."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from finetune_for_tests import make_encoder
from safetensors.torch import save_file

from mlc.model.saving import WEIGHTS
from mlc.tasks.examples import TaskKind
from mlc.tasks.learned.kinds import task_of
from mlc.tasks.learned.models import HeadSettings, new_model, write_finetuned_description
from mlc.tasks.learned.task import TaskSettings
from mlc.tasks.locate import find_model


def save_finetuned(
    folder: Path,
    kind: TaskKind,
    labels: tuple[str, ...] = (),
    *,
    pairs: bool = False,
    max_tokens: int = 32,
    seed: int = 0,
    trained: tuple[str, ...] = ("en",),
) -> Path:
    """A model folder of `mlc finetune` with a head whose answers differ from text to text."""
    start = make_encoder(folder.with_name(f"{folder.name}-start"), initializer_range=0.5)  # 0.2 answers all texts alike
    task = task_of(TaskSettings(kind, labels, max_tokens, pairs))
    model = new_model(find_model(start), task, HeadSettings(seed)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith(f"{model.base_model_prefix}."):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    folder.mkdir(parents=True)
    info = {"task": task.settings.to_json(), "start": str(start), "lora": None, "languages": list(trained), "step": 3}
    write_finetuned_description(folder, model.config, info)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / WEIGHTS)
    for file in start.iterdir():
        if file.name not in {entry.name for entry in folder.iterdir()}:
            shutil.copyfile(file, folder / file.name)
    return folder
