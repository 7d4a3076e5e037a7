"""Saves and loads an engine as `mlc train` does, for tests that have no run."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from mlc.checkpoint.fence import Fence
from mlc.checkpoint.record import Plan, Position, Record, step_name
from mlc.distributed.agree import from_rank_0
from mlc.engine.divergence import DivergenceGuard, SkippedBatches
from mlc.engine.engine_state import EngineState
from mlc.engine.resume import Start, load
from mlc.engine.saver import CheckpointSaver, RunFacts
from mlc.model.saving import REQUIRED_INFO, write_description
from mlc.recipe import CheckpointSection, DivergenceSection


def no_guard() -> DivergenceGuard:
    return DivergenceGuard(DivergenceSection(), SkippedBatches(), precision="fp32")


def saver_of(
    engine: Any, run_folder: Path, *, queue: Any = None, section: CheckpointSection | None = None
) -> CheckpointSaver:
    """A saver that owns `run_folder`; a collective."""
    fences: list[Fence] = []
    tokenizer = run_folder / "tokenizer.model"

    def take_over() -> None:
        run_folder.mkdir(parents=True, exist_ok=True)
        tokenizer.write_bytes(b"a tokenizer")
        fences.append(Fence.take(run_folder, {}))

    from_rank_0(take_over)

    def write_model_files(folder: Path, stated: Mapping[str, Any]) -> None:
        shutil.copyfile(tokenizer, folder / tokenizer.name)
        write_description(folder, engine.module.backbone_config, {**dict.fromkeys(REQUIRED_INFO), **stated})

    plan = Plan(dist.get_world_size(), 1)
    facts = RunFacts(
        identity={},
        plan=plan,
        first_plan=plan,
        precision="fp32",
        recipe="",
        model_files=write_model_files,
    )
    return CheckpointSaver(
        run_folder,
        EngineState(engine),
        queue,
        section or CheckpointSection(min_free_gib=0.0),
        facts,
        fence=fences[0] if fences else None,
        beat=lambda doing: None,
        say=lambda line: None,
    )


def save_run(engine: Any, run_folder: Path, step: int, *, queue: Any = None) -> Path:
    """One whole save; returns the checkpoint."""
    saver = saver_of(engine, run_folder, queue=queue)
    saver.save(Position(step=step), no_guard(), must_succeed=True, behind=False)
    saver.close()
    return run_folder / "checkpoints" / step_name(step)


def load_run(engine: Any, folder: Path, *, queue: Any = None) -> bool:
    """Load a checkpoint without looking for damage."""
    return load(Start(folder, Record.read(folder)), EngineState(engine), queue)


def full_weights(engine: Any) -> dict[str, torch.Tensor]:
    """The fp32 master weights, whole, by name, on rank 0; a collective."""
    from deepspeed.utils import safe_get_full_fp32_param

    weights = {}
    for name, parameter in engine.module.named_parameters():
        whole = safe_get_full_fp32_param(parameter)
        if dist.get_rank() == 0:
            weights[name] = whole.detach().cpu().clone()
    return weights
