"""Checkpoints that are complete or absent.

In:  the DeepSpeed engine, the queue of negatives where there is one, and the position of the run.
Out: `checkpoints/step-00001000/`: DeepSpeed's sharded files, the queue and its momentum encoder, `model/` (safetensors,
     for everything but training), and `complete.json` with sizes and hashes, written last.

All ranks write into a hidden partial folder; after a barrier rank 0 syncs and hashes every file, writes
`complete.json`, and renames the folder. A kill at any instant leaves either no new folder or a complete one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import xxhash

from mlc.engine.momentum import MomentumQueue
from mlc.errors import CheckpointError, RecipeError
from mlc.files import sync_folder, write_json
from mlc.model.saving import save_model_folder

COMPLETE_NAME = "complete.json"
PARTIAL_PREFIX = ".partial-"
FORMAT_VERSION = 1
HASH_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Position:
    """Where a run stands at an optimizer-step boundary; with the recipe and the shards it decides all that follows.

    Attributes:
        step: optimizer steps taken.
        samples, tokens: consumed so far, over all ranks.
    """

    step: int = 0
    samples: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class SavedRun:
    """A complete checkpoint that was verified.

    Attributes:
        identity: digests of what the run was trained on.
        world_size: ranks that wrote it.
    """

    folder: Path
    position: Position
    identity: dict[str, str]
    world_size: int


def step_name(step: int) -> str:
    """Folder name of a step's checkpoint."""
    return f"step-{step:08d}"


def save_checkpoint(
    engine: Any,
    run_folder: Path,
    position: Position,
    identity: Mapping[str, str],
    model_info: Mapping[str, Any],
    *,
    tokenizer: Path,
    keep_last: int,
    queue: MomentumQueue | None = None,
) -> Path:
    """Save the run at `position`; a collective.

    Args:
        engine: DeepSpeed engine at a step boundary.
        run_folder: the run's folder.
        position: what has been consumed.
        identity: digests that a resume must match (recipe, shards).
        model_info: content of `model/mlc.json`.
        tokenizer: SentencePiece model to put beside the weights.
        keep_last: complete checkpoints to keep; older ones are deleted after the new one is in place.
        queue: the run's queue of negatives with its momentum encoder.

    Returns:
        The finished folder.
    """
    root = run_folder / "checkpoints"
    final, partial = root / step_name(position.step), root / (PARTIAL_PREFIX + step_name(position.step))
    rank = dist.get_rank()
    if rank == 0:
        for leftover in root.glob(f"{PARTIAL_PREFIX}*"):
            shutil.rmtree(leftover)
        partial.mkdir(parents=True)
    dist.barrier()
    engine.save_checkpoint(str(root), tag=partial.name, save_latest=False, client_state={"step": position.step})
    if queue is not None:
        queue.save(partial)
    weights = full_weights(engine)
    if rank == 0:
        backbone_config = engine.module.backbone_config
        save_model_folder(partial / "model", weights, backbone_config, dict(model_info))
        shutil.copyfile(tokenizer, partial / "model" / "tokenizer.model")
    dist.barrier()
    if rank == 0:
        for path in (*root.glob("zero_to_*.py"), *partial.glob("zero_to_*.py")):
            path.unlink()  # DeepSpeed's conversion scripts: model/ already holds the whole weights
        _complete(partial, position, identity)
        if final.exists():
            _remove(final)
        os.replace(partial, final)
        sync_folder(root)
        for old in set(root.glob("step-*")) - set(complete_checkpoints(run_folder)[-keep_last:]):
            _remove(old)
    dist.barrier()
    return final


def full_weights(engine: Any) -> dict[str, torch.Tensor]:
    """The fp32 master weights, whole, by name, on rank 0's CPU memory (empty elsewhere); a collective.

    One parameter is gathered at a time. A tied parameter comes once, under its first name.
    """
    from deepspeed.utils import safe_get_full_fp32_param

    weights: dict[str, torch.Tensor] = {}
    for name, parameter in engine.module.named_parameters():
        whole = safe_get_full_fp32_param(parameter)
        if dist.get_rank() == 0:
            if whole is None:  # frozen: the optimizer has no master copy
                whole = parameter.detach().float()
            weights[name] = whole.detach().cpu().clone()
    return weights


def complete_checkpoints(run_folder: Path) -> list[Path]:
    """Folders with a readable `complete.json`, oldest first."""
    folders = sorted((run_folder / "checkpoints").glob("step-*"))
    return [folder for folder in folders if (folder / COMPLETE_NAME).is_file()]


def newest_checkpoint(run_folder: Path) -> SavedRun | None:
    """The newest complete checkpoint whose files have the stated sizes and hashes; damaged ones are set aside.

    Returns:
        None where there is none. Reads every byte: call it on one rank.
    """
    complete = complete_checkpoints(run_folder)
    for folder in sorted(set((run_folder / "checkpoints").glob("step-*")) - set(complete)):
        print(f"skipped {folder}: it has no {COMPLETE_NAME}", flush=True)
    for folder in reversed(complete):
        try:
            content = verify(folder)
        except CheckpointError as error:
            aside = folder.with_name(f"damaged-{folder.name}")
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(folder, aside)
            print(f"checkpoint set aside as {aside}: {error}", flush=True)
            continue
        return SavedRun(folder, Position(**content["position"]), content["identity"], content["world_size"])
    return None


def verify(folder: Path) -> dict[str, Any]:
    """Check every file that `complete.json` lists.

    Raises:
        CheckpointError: one is missing or changed.
        RecipeError: the checkpoint is of another version; it is whole, but not for this program.
    """
    path = folder / COMPLETE_NAME
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        stated = content.pop("xxh3")
        if stated != _digest(content):
            raise CheckpointError("complete.json does not match its own checksum", where=str(path))
        files: dict[str, dict[str, Any]] = content["files"]
        if content["version"] != FORMAT_VERSION:
            raise RecipeError(
                "the checkpoint has another version",
                found=content["version"],
                needed=str(FORMAT_VERSION),
                where=str(path),
                hint="continue the run with the version of mlc that wrote it",
            )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError("complete.json cannot be read", found=repr(error), where=str(path)) from None
    for name, facts in files.items():
        _verify_file(folder / name, facts)
    return content


def _verify_file(file: Path, facts: Mapping[str, Any]) -> None:
    problem = "a file of the checkpoint is damaged"
    try:
        size = file.stat().st_size
        if size != facts["bytes"]:
            raise CheckpointError(problem, found=f"{size} bytes", needed=f"{facts['bytes']} bytes", where=str(file))
        if (found := _hash_file(file)) != facts["xxh3"]:
            raise CheckpointError(problem, found=f"xxh3 {found}", needed=facts["xxh3"], where=str(file))
    except OSError as error:
        raise CheckpointError(problem, found=str(error), where=str(file)) from None


def load_checkpoint(engine: Any, folder: Path, *, queue: MomentumQueue | None = None) -> None:
    """Load weights and optimizer state from a verified checkpoint of the same world size; a collective.

    Args:
        engine: as it was built.
        folder: the checkpoint.
        queue: as it was built; None where the run has none.

    Raises:
        CheckpointError: DeepSpeed found nothing to load, or the queue's files are missing.
    """
    loaded, _ = engine.load_checkpoint(str(folder.parent), tag=folder.name)
    if loaded is None:
        raise CheckpointError("DeepSpeed could not load the checkpoint", where=str(folder))
    if queue is not None:
        queue.load(folder)


def _complete(folder: Path, position: Position, identity: Mapping[str, str]) -> None:
    written = len(list(folder.glob("*_optim_states.pt")))
    if written != dist.get_world_size():
        raise CheckpointError(
            "rank 0 does not see the files of every rank",
            found=f"optimizer states of {written} ranks",
            needed=str(dist.get_world_size()),
            where=str(folder),
            hint="put run.folder on a file system that all nodes share",
        )
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        _sync(path)
        files[str(path.relative_to(folder))] = {"bytes": path.stat().st_size, "xxh3": _hash_file(path)}
    content = {
        "version": FORMAT_VERSION,
        "world_size": dist.get_world_size(),
        "position": {"step": position.step, "samples": position.samples, "tokens": position.tokens},
        "identity": dict(identity),
        "files": files,
    }
    write_json(folder / COMPLETE_NAME, {**content, "xxh3": _digest(content)})


def _remove(checkpoint: Path) -> None:
    """Delete a checkpoint so that a kill half-way leaves none that looks complete."""
    (checkpoint / COMPLETE_NAME).unlink(missing_ok=True)
    shutil.rmtree(checkpoint)


def _digest(content: Mapping[str, Any]) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(content, sort_keys=True).encode())


def _hash_file(path: Path) -> str:
    digest = xxhash.xxh3_64()
    with path.open("rb") as file:
        while block := file.read(HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
