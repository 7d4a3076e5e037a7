"""A checkpoint as DeepSpeed's universal checkpoint, for those who train on with a plain DeepSpeed script.

In:  a verified checkpoint and the recipe of its run.
Out: a folder that `engine.load_checkpoint(OUT)` reads under ZeRO 1, 2 and 3 on any number of ranks.

    latest_universal                        name of the folder beside it
    step-00001000/
      mp_rank_00_model_states.pt            counters, for ZeRO 1 and 2
      zero_pp_rank_0_mp_rank_00_model_states.pt     the same, for ZeRO 3
      zero/optimizer_state.pt               step and settings of the optimizer
      zero/<parameter>/fp32.pt              and exp_avg.pt, exp_avg_sq.pt, step.pt where it is trained

The format is what deepspeed/checkpoint/ds_to_universal.py writes and engine.load_checkpoint reads (DeepSpeed 0.19.8).
Those files are pickles; nothing here reads them back.

What a plain DeepSpeed script has to do:

* Build a model whose parameters have the names and shapes of the checkpoint (`mlc.model`'s, or its own), put
  {"checkpoint": {"load_universal": true}} into its DeepSpeed configuration, and call
  `engine.load_checkpoint(OUT, load_lr_scheduler_states=False)`: a schedule's position is not in the checkpoint, as
  the learning rate is a function of the recipe and the step (`schedule`, mlc/engine/schedule.py).
* Set learning rate and weight decay of its own parameter groups; loading leaves them as they are. DeepSpeed copies
  settings by the number of a group (ZeRO 1 and 2) or those of the first to all (ZeRO 3), and the groups of the
  script are not known here. So only what is the same for all groups is written: betas and epsilon, where the recipe
  is there. The rest is in the recipe, which `load_checkpoint` returns as client_state["mlc"]["recipe"]: token
  embeddings (which the head is tied to) learn optimizer.embedding_learning_rate_scale times faster; vectors (norms,
  biases) have no weight decay. Gradient clipping is in DeepSpeed's configuration.
* Under ZeRO 3 with more than one parameter group and an optimizer of torch.optim, give every group a step counter
  of its own after loading, since DeepSpeed hands one and the same tensor to all of them:
  `for state in engine.optimizer.optimizer.state.values(): state["step"] = state["step"].clone()`.
* Load frozen parameters and buffers itself (from `mlc checkpoints convert --to safetensors`): DeepSpeed fills only
  what is trained.
* Do without the loss scale of fp16, which starts anew, and without the queue of negatives.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from mlc.checkpoint.record import Record
from mlc.errors import CheckpointError
from mlc.files import sync_file, sync_folder
from mlc.recipe import TrainRecipe
from mlc.tensor_files import PieceReader, read_whole

MOMENTS = ("exp_avg", "exp_avg_sq")
MODEL_STATES = ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_model_states.pt")
LATEST = "latest_universal"
BYTES_PER_VALUE = 4


def write_universal(
    weights: PieceReader,
    optimizer: PieceReader,
    record: Record,
    recipe: TrainRecipe | None,
    folder: Path,
    *,
    tag: str,
    progress: Callable[[int], None] = lambda count: None,
) -> int:
    """Write a universal checkpoint, one tensor in memory at a time; the module's header says how to load it.

    Args:
        weights, optimizer: of the checkpoint's files.
        record: of the checkpoint.
        recipe: of the run; None where it is not there any more.
        folder: an existing, empty one.
        tag: name of the folder to make inside.
        progress: told how many bytes of tensors were written.

    Returns:
        How many tensors were written.

    Raises:
        CheckpointError: the checkpoint holds no optimizer state, or a part of a tensor is missing.
        OSError: the disk is full, for one.
    """
    keys = optimizer.keys()
    trained = [name for name in record.parameters if f"{MOMENTS[0]}/{name}" in keys]
    if not trained:
        raise CheckpointError("the checkpoint holds no optimizer state", hint="convert it with --to safetensors")
    root, tensors = folder / tag, 0
    (root / "zero").mkdir(parents=True)
    for name, shape in record.parameters.items():
        parameter = root / "zero" / name
        parameter.mkdir()
        states = {"fp32": (weights, name)}
        if f"{MOMENTS[0]}/{name}" in keys:
            states |= {moment: (optimizer, f"{moment}/{name}") for moment in MOMENTS}
            _save(_steps(record), parameter / "step.pt")
        for state, (reader, key) in states.items():
            _save({"param": read_whole(reader, key, shape), "cat_dim": 0}, parameter / f"{state}.pt")
            progress(BYTES_PER_VALUE * math.prod(shape))
        tensors += len(states)
        sync_folder(parameter)
    _save(_optimizer_state(record, recipe, len(trained)), root / "zero" / "optimizer_state.pt")
    for name in MODEL_STATES:
        _save(_model_states(record, recipe), root / name)
    (folder / LATEST).write_text(tag)
    sync_file(folder / LATEST)
    for made in (root / "zero", root, folder):
        sync_folder(made)
    return tensors


def _optimizer_state(record: Record, recipe: TrainRecipe | None, groups: int) -> dict[str, Any]:
    """What belongs to the optimizer as a whole.

    Args:
        record, recipe: as in `write_universal`.
        groups: at least as many as a script may have: under ZeRO 1 and 2 DeepSpeed loads nothing for groups beyond
            those that it finds here, and says nothing.
    """
    settings = {} if recipe is None else {"betas": recipe.optimizer.betas, "eps": recipe.optimizer.epsilon}
    param_groups = [dict(settings) for _ in range(groups)]
    return {
        "ds_version": metadata.version("deepspeed"),
        "param_groups": param_groups,  # read by ZeRO 1 and 2
        "optimizer_state_dict": {"state": {0: {"step": _steps(record)}}, "param_groups": param_groups},  # by ZeRO 3
    }


def _model_states(record: Record, recipe: TrainRecipe | None) -> dict[str, Any]:
    """What DeepSpeed reads beside tensors; keys that it does not know come back as the client's state."""
    position = record.position
    return {
        "module": {},
        "lr_scheduler": None,
        "dp_world_size": record.plan.world_size,
        "mp_world_size": 1,
        "global_steps": position.step,
        "global_samples": position.samples,
        "skipped_steps": max(0, position.step - record.optimizer_steps),
        "mlc": {
            "position": asdict(position),
            "recipe": None if recipe is None else recipe.model_dump(mode="json"),
        },
    }


def _steps(record: Record) -> torch.Tensor:
    # A tensor in fp32, as torch.optim.AdamW keeps it: it adds in place, and so never to a number.
    return torch.tensor(float(record.optimizer_steps))


def _save(content: Mapping[str, Any] | torch.Tensor, path: Path) -> None:
    with path.open("xb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
