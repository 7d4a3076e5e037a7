"""`complete.json`: what a checkpoint is, and what proves that it is whole.

In:  a checkpoint folder, or what is known at the end of a save.
Out: a `Record`; the checkpoint folders of a run.

The file is written last. A folder without it is no checkpoint, and a folder with it is one only if every file has the
size and the hash that stand in it (mlc.checkpoint.verify). It carries a checksum of itself and the step it was written
for, which must be the one in the folder's name: a checkpoint under another's name is refused.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Self

import pydantic
import xxhash

from mlc.config import NonNegative, Positive
from mlc.errors import CheckpointError, MlcError, RecipeError
from mlc.files import FileFacts, json_bytes, sync_folder

RECORD_NAME = "complete.json"
LATEST_NAME = "latest"
"""Beside the checkpoints, for people and scripts: the name of the newest."""
BEST_NAME = "best"
"""Beside the checkpoints of a run that scores them: the name of the best."""
VERSION = 2

_STEP_FOLDER = re.compile(r"step-([0-9]{8,})")


@dataclass(frozen=True)
class Position:
    """Where a run stands at an optimizer-step boundary; with the recipe and the shards it decides all that follows.

    Attributes:
        step: optimizer steps taken.
        batch: number of the next global batch; larger than `step` once batches were stepped over.
        samples, tokens: consumed so far, over all ranks.
    """

    step: NonNegative = 0
    batch: NonNegative = 0
    samples: NonNegative = 0
    tokens: NonNegative = 0


@dataclass(frozen=True)
class Plan:
    """How a global batch is divided.

    Attributes:
        world_size: ranks.
        micro_batches: backward passes of one rank in one optimizer step.
    """

    world_size: Positive
    micro_batches: Positive


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or str(path) != name or "\0" in name:
        raise ValueError("must be the path of a file inside the checkpoint")
    return name


FileName = Annotated[str, pydantic.AfterValidator(_inside)]


@dataclass(frozen=True)
class Record:
    """The content of `complete.json`.

    Attributes:
        position: where the run stood.
        plan: how batches were divided when this was written.
        first_plan: how they were divided at the run's first step.
        zero_stage: of DeepSpeed when this was written; any stage can read it.
        precision: in which the run computed: "fp32", "bf16" or "fp16".
        generation: of the start that wrote it (mlc.checkpoint.fence).
        identity: digests of what the run is trained on, by name.
        optimizer_steps: updates the optimizer has made; steps whose update was left out do not count.
        loss_scaler: state of the fp16 loss scaler; empty where there is none.
        skipped_batches: numbers of the global batches that were stepped over before `position`.
        parameters: shape of every parameter, by name.
        files: every file of the checkpoint but this one, by its path relative to the folder, with "/".
        bad_row: batches of the bad steps right before `position`, one after another (mlc.engine.divergence).
    """

    __pydantic_config__ = pydantic.ConfigDict(extra="forbid")

    position: Position
    plan: Plan
    first_plan: Plan
    zero_stage: NonNegative
    precision: str
    generation: NonNegative
    identity: dict[str, str]
    optimizer_steps: NonNegative
    loss_scaler: dict[str, float]
    skipped_batches: tuple[NonNegative, ...]
    parameters: dict[str, tuple[NonNegative, ...]]
    files: dict[FileName, FileFacts]
    bad_row: tuple[NonNegative, ...] = ()

    def to_bytes(self) -> bytes:
        """JSON with "version" and "xxh3": xxh3_64 of everything else, as `checksum` computes it."""
        content = {"version": VERSION, **dataclasses.asdict(self)}
        return json_bytes({**content, "xxh3": checksum(content)})

    def write(self, folder: Path) -> None:
        """Make a checkpoint complete: put this record into it, once the names of all its files are durable.

        Args:
            folder: exists and holds `files`, each of them synced. It is never created here, so that a process whose
                working folder was taken away (mlc.checkpoint.fence) cannot bring it back.

        Raises:
            OSError: the folder is gone, or the disk is full.
        """
        for subfolder in sorted({(folder / name).parent for name in self.files} - {folder}):
            sync_folder(subfolder)
        temporary = folder / f"{RECORD_NAME}.{uuid.uuid4().hex}.tmp"
        try:
            with temporary.open("xb") as file:
                file.write(self.to_bytes())
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, folder / RECORD_NAME)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(folder)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a checkpoint's record. Its files are not looked at.

        Raises:
            CheckpointError: there is none, its bytes have changed, or it is that of another step.
            RecipeError: the checkpoint is of another version; it is whole, but not for this program.
            OSError: it cannot be read for a reason that says nothing about its content, such as permissions.
        """
        path = folder / RECORD_NAME
        content = _read_json(path)
        if (version := content.pop("version", None)) != VERSION:
            raise RecipeError(
                "the checkpoint has another version",
                found=version,
                needed=str(VERSION),
                where=str(path),
                hint="continue with the version of mlc that wrote it",
            )
        try:
            record = pydantic.TypeAdapter(cls).validate_json(json.dumps(content), strict=True)
        except pydantic.ValidationError as error:
            raise CheckpointError(f"{RECORD_NAME} is no record", found=str(error), where=str(path)) from None
        if step_of(folder) != record.position.step:
            raise CheckpointError(
                "the folder does not have the name of the step it was written for",
                found=folder.name,
                needed=step_name(record.position.step),
                where=str(path),
            )
        return record


def checksum(content: Mapping[str, Any]) -> str:
    """xxh3_64 (hexadecimal) of a JSON object, independent of white space and of the order of its keys.

    It is the same in every version of the format, so that a whole record of another version is not taken for a damaged
    one.
    """
    return str(xxhash.xxh3_64_hexdigest(json.dumps(content, sort_keys=True).encode()))


def step_name(step: int) -> str:
    """Folder name of a step's checkpoint: "step-00001000"."""
    return f"step-{step:08d}"


def step_of(folder: Path) -> int | None:
    """The step in a checkpoint folder's name; None where the name is not that of a step."""
    match = _STEP_FOLDER.fullmatch(folder.name)
    step = int(match[1]) if match else None
    return step if step is not None and step_name(step) == folder.name else None


def checkpoint_folders(run_folder: Path) -> list[Path]:
    """Every `checkpoints/step-*` folder of a run, complete or not, oldest first."""
    steps = {step_of(path): path for path in (run_folder / "checkpoints").glob("step-*") if path.is_dir()}
    return [steps[step] for step in sorted(step for step in steps if step is not None)]


def complete_checkpoints(run_folder: Path) -> list[Path]:
    """The folders that have a `complete.json`, oldest first. Nothing in them is read."""
    return [folder for folder in checkpoint_folders(run_folder) if (folder / RECORD_NAME).is_file()]


def is_amid_bad_steps(folder: Path) -> bool:
    """Whether a checkpoint was saved between bad steps: a run goes on from it, but does not return to it.

    False where its record cannot be read.
    """
    try:
        return bool(Record.read(folder).bad_row)
    except (MlcError, OSError):
        return False


def is_damage(error: OSError) -> bool:
    """Whether a failed read says that a file is damaged.

    It is missing, no file, or on a broken disk. Anything else (permissions, too many open files, a file server that
    does not answer) says nothing about its content, and a checkpoint must not be set aside for it.
    """
    return error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes().decode())
        whole = isinstance(content, dict) and content.pop("xxh3", None) == checksum(content)
    except OSError as error:
        if not is_damage(error):
            raise
        raise CheckpointError(f"{RECORD_NAME} cannot be read", found=str(error), where=str(path)) from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{RECORD_NAME} cannot be read", found=repr(error), where=str(path)) from None
    if not whole:
        raise CheckpointError(f"{RECORD_NAME} does not match its own checksum", where=str(path))
    return dict(content)
