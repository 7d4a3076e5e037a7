"""Checkpoint folders made by hand: pieces of given tensors, dealt out to as many files as a run has ranks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mlc.checkpoint.record import Plan, Position, Record, step_name
from mlc.files import FileFacts, hash_file
from mlc.tensor_files import Piece, write_pieces

MOMENTS = ("exp_avg", "exp_avg_sq")


def random_tensors(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(shape, generator=generator) + 0.5 for name, shape in shapes.items()}


def with_moments(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Something for Adam's moments of every weight, other numbers than the weights."""
    return {f"{moment}/{name}": value / (3 + i) for i, moment in enumerate(MOMENTS) for name, value in weights.items()}


def write_checkpoint(
    run: Path,
    step: int,
    weights: Mapping[str, Tensor],
    moments: Mapping[str, Tensor] | None = None,
    *,
    world_size: int = 2,
    model_files: Mapping[str, bytes] | None = None,
    recipe: str | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    optimizer_steps: int | None = None,
) -> Path:
    """`run`/checkpoints/step-XXXXXXXX as `world_size` ranks write it.

    Args:
        moments: by "exp_avg/<parameter>" and "exp_avg_sq/<parameter>".
        model_files: of model/, but the weights; mlc.json gets the shapes.
        recipe: TOML.
        shapes: what record and mlc.json state; default: those of `weights`.
        optimizer_steps: default: `step`.
    """
    folder = run / "checkpoints" / step_name(step)
    (folder / "model").mkdir(parents=True)
    (folder / "optimizer").mkdir()
    for rank in range(world_size):
        name = f"{rank:05d}-of-{world_size:05d}.safetensors"
        write_pieces(folder / "model" / f"weights-{name}", pieces_of(weights, rank, world_size))
        write_pieces(folder / "optimizer" / f"state-{name}", pieces_of(moments or {}, rank, world_size))
    shapes = shapes or {name: tuple(tensor.shape) for name, tensor in weights.items()}
    files = {"config.json": b"{}", "tokenizer.model": b"a tokenizer", "mlc.json": b"{}", **(model_files or {})}
    files["mlc.json"] = json.dumps({**json.loads(files["mlc.json"]), "parameters": shapes}).encode()
    for name, content in files.items():
        (folder / "model" / name).write_bytes(content)
    if recipe is not None:
        (folder / "recipe.toml").write_text(recipe)
    written = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    Record(
        position=Position(step, step, 8 * step, 100 * step),
        plan=Plan(world_size, 1),
        first_plan=Plan(world_size, 1),
        zero_stage=3,
        precision="bf16",
        generation=1,
        identity={},
        optimizer_steps=step if optimizer_steps is None else optimizer_steps,
        loss_scaler={},
        skipped_batches=(),
        parameters=dict(shapes),
        files={name: FileFacts(path.stat().st_size, hash_file(path)) for name, path in written.items()},
    ).write(folder)
    return folder


def pieces_of(tensors: Mapping[str, Tensor], rank: int, world_size: int) -> list[Piece]:
    """One rank's pieces, cut as ZeRO-3 does: equal parts, rounded up, so that the last ranks may have nothing."""
    pieces = []
    for name, tensor in tensors.items():
        part = -(-tensor.numel() // world_size)
        pieces.append(Piece(name, rank * part, tensor.reshape(-1)[rank * part : (rank + 1) * part]))
    return pieces
