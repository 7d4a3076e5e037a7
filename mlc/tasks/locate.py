"""What a user means by MODEL: a run, a checkpoint, an export, or a Hugging Face model.

In:  a path or a hub name.
Out: a `ModelSource`: the folder that holds the weights, and how it is to be read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mlc.checkpoint.record import BEST_NAME, RECORD_NAME, Record, checkpoint_folders, step_of
from mlc.checkpoint.verify import damage
from mlc.errors import CheckpointError, UsageError
from mlc.model import saving
from mlc.model.saving import FORMAT, INFO, REQUIRED_INFO, read_info
from mlc.run_names import RECIPE_NAME

EXPORT_FORMAT, FINETUNED_FORMAT = saving.EXPORT_FORMAT, saving.FINETUNED_FORMAT
FORMATS = {FORMAT: REQUIRED_INFO, EXPORT_FORMAT: saving.EXPORT_INFO, FINETUNED_FORMAT: saving.FINETUNED_INFO}
DESCRIPTION_FILE = INFO
MODEL_FILES = "model/"
"""Beginning of the names of a checkpoint's files that make up its model."""
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class ModelSource:
    """Where a model is.

    Attributes:
        kind: checkpoint = as `mlc train` saves a model; finetuned = as `mlc finetune` does; export = as `mlc export`
            writes it; huggingface = other.
        name: folder of the weights, or a hub name.
        step: optimizer step of a checkpoint, where its folder's name tells.
        skipped: newer checkpoints that are not whole.
    """

    kind: Literal["checkpoint", "finetuned", "export", "huggingface"]
    name: str
    step: int | None = None
    skipped: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """`name` as a path."""
        return Path(self.name)


def find_model(model: str | Path) -> ModelSource:
    """Resolve MODEL: a run's best or newest whole checkpoint, a checkpoint, an export, a Hugging Face folder or name.

    A checkpoint's model is compared with the sizes and hashes in its complete.json; what training alone reads is not.

    Raises:
        UsageError: it is none of these.
        CheckpointError: a run without a whole checkpoint, or a checkpoint that is not complete or damaged.
        RecipeError: a checkpoint of another version of the format.
    """
    path = Path(model).expanduser()
    if not path.exists():
        # runs/typo also looks like a hub name; a folder "runs" here tells that it is none.
        is_hub_name = _HUB_NAME.fullmatch(str(model)) and not ("/" in str(model) and path.parent.is_dir())
        if is_hub_name:
            return ModelSource("huggingface", str(model))
        raise UsageError("no such model", found=str(model), needed=_NEEDED)
    if not path.is_dir():
        raise UsageError("a model is a folder", found=str(path), needed=_NEEDED)
    try:
        if step_of(path) is not None or (path / RECORD_NAME).is_file():
            return _checkpoint(path)
        if (path / "checkpoints").is_dir() or (path / RECIPE_NAME).is_file():
            return _newest_checkpoint(path)
    except OSError as error:  # nothing is known of the checkpoint: an older one must not be taken for the newest
        raise CheckpointError("the checkpoint cannot be read", found=str(error), where=str(path)) from None
    if (path / DESCRIPTION_FILE).is_file():
        return ModelSource(_kind(path), str(path), step_of(path.resolve().parent))
    if (path / "config.json").is_file():
        return ModelSource("huggingface", str(path))
    raise UsageError("the folder holds no model", found=str(path), needed=_NEEDED)


_NEEDED = (
    "a run folder (with checkpoints/), a checkpoint (step-00001000), an export, "
    "or a Hugging Face folder (with config.json) or name"
)


def read_description(folder: Path) -> dict[str, Any]:
    """The mlc.json of a model folder or an export.

    Raises:
        CheckpointError: it is missing, damaged, or of a format or version this program does not read.
    """
    return read_info(folder, FORMATS)


def _checkpoint(folder: Path, skipped: tuple[str, ...] = ()) -> ModelSource:
    if step_of(folder) is None:
        folder = folder.resolve()  # "." and a link have another name than the folder, which tells its step
    record = Record.read(folder)
    files = {name: facts for name, facts in record.files.items() if name.startswith(MODEL_FILES)}
    found = damage(folder, replace(record, files=files))
    if found is not None:
        raise CheckpointError(
            "the checkpoint is damaged",
            found=found,
            where=str(folder),
            hint="give the run folder instead: its newest whole checkpoint is found by itself",
        )
    return ModelSource(_kind(folder / "model"), str(folder / "model"), record.position.step, skipped)


def _kind(folder: Path) -> Literal["checkpoint", "finetuned", "export"]:
    found = read_description(folder)["format"]
    if found == EXPORT_FORMAT:
        return "export"
    return "finetuned" if found == FINETUNED_FORMAT else "checkpoint"


def _newest_checkpoint(run: Path) -> ModelSource:
    skipped: list[str] = []
    reasons: list[str] = []
    for folder in _newest_first(run):
        try:
            return _checkpoint(folder, tuple(skipped))
        except CheckpointError as error:
            skipped.append(folder.name)
            reasons.append(f"{folder.name}: {error.problem}")
    raise CheckpointError(
        "the run has no complete checkpoint",
        found="; ".join(reasons) or "none",
        where=str(run / "checkpoints"),
        hint="let the run reach its first checkpoint: mlc train RECIPE",
    )


def _newest_first(run: Path) -> list[Path]:
    """A run's checkpoints; before them the best one, where the run scored them on the way (mlc.finetune.trial)."""
    folders = checkpoint_folders(run)[::-1]
    best = run / "checkpoints" / BEST_NAME
    name = best.read_text(encoding="utf-8").strip() if best.is_file() else ""
    return sorted(folders, key=lambda folder: folder.name != name)
