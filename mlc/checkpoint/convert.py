"""A checkpoint in a form that other programs read.

In:  a checkpoint, written by any number of ranks.
Out: a model folder with whole weights in one safetensors file, or DeepSpeed's universal checkpoint
     (mlc.checkpoint.universal). One tensor is in memory at a time.

The files that are read are compared with their hashes first. The result is written under a hidden name beside its
place and renamed, so that it is whole or absent.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from mlc.checkpoint.record import RECORD_NAME, Record, complete_checkpoints
from mlc.checkpoint.universal import BYTES_PER_VALUE, MOMENTS, write_universal
from mlc.checkpoint.verify import damage
from mlc.config import is_finetune_recipe, read_recipe
from mlc.errors import CheckpointError, MlcError, UsageError
from mlc.files import sync_file, sync_folder, write_json
from mlc.recipe import TrainRecipe
from mlc.run_names import RECIPE_NAME
from mlc.tensor_files import Layout, PieceReader, read_whole, stream_tensors

Target = Literal["safetensors", "universal"]
Bar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Shows how far a long work has come: (what, bytes in all) -> a context that is told of every further part of them."""

MODEL, DESCRIPTION = "model/", "mlc.json"
WEIGHTS, STATES = "model/weights-", "optimizer/state-"
"""Beginnings of the names of the files that hold pieces."""
READ_FOR: dict[Target, tuple[str, ...]] = {"safetensors": (MODEL,), "universal": (MODEL, "optimizer/", RECIPE_NAME)}
"""Beginnings of the names of the files that a conversion reads."""


@dataclass(frozen=True)
class Conversion:
    """What was written.

    Attributes:
        checkpoint: where it came from.
        step: of the checkpoint.
        tensors: how many.
        bytes: of all files.
        recipe: whether the recipe and settings of the optimizer went along.
    """

    checkpoint: str
    step: int
    target: Target
    folder: str
    tensors: int
    bytes: int
    recipe: bool = False


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that is meant: the folder itself, or the newest complete one of a run.

    Raises:
        UsageError: it is neither.
        CheckpointError: the run has no complete checkpoint.
    """
    if (path / RECORD_NAME).is_file():
        return path
    if (path / "checkpoints").is_dir():
        if complete := complete_checkpoints(path):
            return complete[-1]
        raise CheckpointError("the run has no complete checkpoint", where=str(path / "checkpoints"))
    raise UsageError(
        "this is no complete checkpoint",
        found=str(path),
        needed=f"a folder such as RUN/checkpoints/step-00001000, with {RECORD_NAME} in it, or a run folder",
    )


def _no_bar(what: str, total_bytes: int) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda count: None)


def convert(checkpoint: Path, out: Path, target: Target, *, bar: Bar = _no_bar) -> Conversion:
    """Verify and convert a checkpoint.

    Args:
        checkpoint: its folder, or that of a run.
        out: folder to make.
        target: safetensors = a model folder, as `mlc evaluate --model` takes it; universal = see `write_universal`.
        bar: see `Bar`.

    Raises:
        UsageError: `out` exists, or there is no checkpoint.
        CheckpointError: the checkpoint is damaged.
        RecipeError: it is of another version, or (universal) the run's recipe.toml is refused.
        MlcError: the disk is full, or cannot be written.
    """
    folder, out = find_checkpoint(checkpoint.expanduser()), out.expanduser().absolute()
    if out.exists():
        raise UsageError("the folder exists", found=str(out), where="OUT", hint="choose another, or delete it")
    record = _verified(folder, READ_FOR[target], bar)
    if target == "safetensors":
        return _to_safetensors(folder, record, out, bar)
    return _to_universal(folder, record, out, bar)


def _verified(folder: Path, beginnings: tuple[str, ...], bar: Bar) -> Record:
    """The record of a checkpoint whose files under `beginnings` are what it says."""
    try:
        record = Record.read(folder)
        files = {name: facts for name, facts in record.files.items() if name.startswith(beginnings)}
        with bar("checking", sum(facts.bytes for facts in files.values())) as advance:
            found = damage(folder, replace(record, files=files), progress=advance)
    except OSError as error:
        raise CheckpointError("the checkpoint cannot be read", found=str(error), where=str(folder)) from None
    if found is not None:
        raise CheckpointError("the checkpoint is damaged", found=found, where=str(folder))
    return record


def _to_safetensors(folder: Path, record: Record, out: Path, bar: Bar) -> Conversion:
    source = folder / "model"
    info, shapes = _description(source / DESCRIPTION)
    layout = {name: Layout(torch.float32, shape) for name, shape in shapes.items()}
    size = sum(tensor.bytes for tensor in layout.values())
    with _new_folder(out, size) as made, PieceReader(_files(folder, record, WEIGHTS)) as weights:
        with bar("writing", size) as advance:
            stream_tensors(
                made / "model.safetensors",
                layout,
                lambda name: read_whole(weights, name, shapes[name]),
                progress=advance,
            )
        write_json(made / DESCRIPTION, info)
        for name in _others(record):
            shutil.copyfile(source / name, made / name)
            sync_file(made / name)
    return Conversion(str(folder), record.position.step, "safetensors", str(out), len(shapes), _bytes_in(out))


def _others(record: Record) -> list[str]:
    """Files of the model that are neither weights nor mlc.json: its configuration and its tokenizer."""
    names = [name.removeprefix(MODEL) for name in sorted(record.files) if name.startswith(MODEL)]
    return [name for name in names if name != DESCRIPTION and not name.startswith(WEIGHTS.removeprefix(MODEL))]


def _files(folder: Path, record: Record, beginning: str) -> list[Path]:
    return [folder / name for name in sorted(record.files) if name.startswith(beginning)]


def _description(path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """mlc.json of a whole model folder, and the shapes that the one of a checkpoint has besides."""
    info = json.loads(path.read_text(encoding="utf-8"))
    if "parameters" not in info:
        raise CheckpointError('the description of the model has no "parameters"', where=str(path))
    return info, {name: tuple(shape) for name, shape in info.pop("parameters").items()}


def _to_universal(folder: Path, record: Record, out: Path, bar: Bar) -> Conversion:
    if RECIPE_NAME in record.files and is_finetune_recipe(folder / RECIPE_NAME):
        raise UsageError(
            "only checkpoints of pre-training are converted to DeepSpeed's universal format",
            found=str(folder),
            hint=f"mlc checkpoints convert {folder} OUT --to safetensors",
        )
    recipe = read_recipe(folder / RECIPE_NAME, TrainRecipe) if RECIPE_NAME in record.files else None
    with (
        PieceReader(_files(folder, record, WEIGHTS)) as weights,
        PieceReader(_files(folder, record, STATES)) as optimizer,
    ):
        size = _universal_bytes(record.parameters, optimizer.keys())
        with _new_folder(out, size) as made, bar("writing", size) as advance:
            tensors = write_universal(weights, optimizer, record, recipe, made, tag=folder.name, progress=advance)
    return Conversion(
        str(folder), record.position.step, "universal", str(out), tensors, _bytes_in(out), recipe is not None
    )


def _universal_bytes(parameters: Mapping[str, tuple[int, ...]], optimizer_keys: set[str]) -> int:
    moments = (f"{moment}/{name}" for name in parameters for moment in MOMENTS)
    names = [*parameters, *(key.partition("/")[2] for key in moments if key in optimizer_keys)]
    return sum(BYTES_PER_VALUE * math.prod(parameters[name]) for name in names)


@contextmanager
def _new_folder(out: Path, size: int) -> Iterator[Path]:
    """A folder that gets the name `out` at the end; nothing is left of it where that is not reached.

    Args:
        out: does not exist.
        size: bytes it will hold, about.

    Raises:
        MlcError: there is too little space, or the disk cannot be written.
    """
    partial = out.with_name(f".{out.name}.partial-{uuid.uuid4().hex[:8]}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(out.parent).free
        if free < size:
            raise MlcError(
                "there is too little space on the disk",
                found=f"{free / 2**30:.1f} GiB free",
                needed=f"{size / 2**30:.1f} GiB",
                where=str(out),
            )
        partial.mkdir()
        yield partial
        sync_folder(partial)
        os.rename(partial, out)
        sync_folder(out.parent)
    except OSError as error:
        raise MlcError("the checkpoint cannot be converted", found=str(error), where=str(out)) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
