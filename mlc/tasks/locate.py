"""What a user means by MODEL: a run, a checkpoint, an export, or a Hugging Face model.

In:  a path or a hub name.
Out: a `ModelSource`: the folder that holds the weights, and how it is to be read.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import xxhash

from mlc.errors import CheckpointError, UsageError
from mlc.model.saving import FORMAT, INFO, REQUIRED_INFO, read_info

EXPORT_FORMAT = "mlc-export"
EXPORT_INFO = ("contrast", "max_tokens", "special_ids", "vocab_size")
DESCRIPTION_FILE = INFO
COMPLETE_FILE = "complete.json"
_STEP_FOLDER = re.compile(r"step-(\d+)")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class ModelSource:
    """Where a model is.

    Attributes:
        kind: checkpoint = weights as `mlc train` saves them; export = as `mlc export` writes them; huggingface = other.
        name: folder of the weights, or a hub name.
        step: optimizer step of a checkpoint, where its folder's name tells.
        skipped: newer checkpoints that are not complete.
    """

    kind: Literal["checkpoint", "export", "huggingface"]
    name: str
    step: int | None = None
    skipped: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """`name` as a path."""
        return Path(self.name)


def find_model(model: str | Path) -> ModelSource:
    """Resolve MODEL: a run's newest complete checkpoint, a checkpoint, an export, a Hugging Face folder or hub name.

    Raises:
        UsageError: it is none of these.
        CheckpointError: a run without a complete checkpoint, or a checkpoint that is not complete.
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
    if (path / "checkpoints").is_dir() or (path / "recipe.toml").is_file():
        return _newest_checkpoint(path)
    if _STEP_FOLDER.fullmatch(path.name) or (path / COMPLETE_FILE).is_file():
        if not is_complete(path):
            raise CheckpointError(
                f"the checkpoint is not complete (no {COMPLETE_FILE}, or files that differ from it)",
                where=str(path),
                hint="give the run folder instead: its newest complete checkpoint is found by itself",
            )
        return ModelSource("checkpoint", str(path / "model"), _step(path))
    if (path / DESCRIPTION_FILE).is_file():
        if read_description(path).get("format") == EXPORT_FORMAT:
            return ModelSource("export", str(path))
        return ModelSource("checkpoint", str(path), _step(path.parent))
    if (path / "config.json").is_file():
        return ModelSource("huggingface", str(path))
    raise UsageError("the folder holds no model", found=str(path), needed=_NEEDED)


_NEEDED = (
    "a run folder (with checkpoints/), a checkpoint (step-00001000), an export, "
    "or a Hugging Face folder (with config.json) or name"
)


def is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end and its model is whole.

    `complete.json` is written last; where it states sizes and hashes (xxh3) of files under model/, they are checked.
    """
    try:
        content = json.loads((checkpoint / COMPLETE_FILE).read_text(encoding="utf-8"))
        files: dict[str, dict[str, Any]] = content.get("files", {})
        model_files = {name: facts for name, facts in files.items() if name.startswith("model/")}
        return (checkpoint / "model" / DESCRIPTION_FILE).is_file() and all(
            (checkpoint / name).stat().st_size == facts["bytes"] and _hash(checkpoint / name) == facts["xxh3"]
            for name, facts in model_files.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def read_description(folder: Path) -> dict[str, Any]:
    """The mlc.json of a model folder or an export.

    Raises:
        CheckpointError: it is missing, damaged, or of a format or version this program does not read.
    """
    return read_info(folder, {FORMAT: REQUIRED_INFO, EXPORT_FORMAT: EXPORT_INFO})


def _newest_checkpoint(run: Path) -> ModelSource:
    folders = [f for f in (run / "checkpoints").glob("step-*") if _STEP_FOLDER.fullmatch(f.name) and f.is_dir()]
    skipped: list[str] = []
    for folder in sorted(folders, key=lambda f: _step(f) or 0, reverse=True):
        if is_complete(folder):
            return ModelSource("checkpoint", str(folder / "model"), _step(folder), tuple(skipped))
        skipped.append(folder.name)
    raise CheckpointError(
        "the run has no complete checkpoint",
        found=f"incomplete: {', '.join(skipped)}" if skipped else "none",
        where=str(run / "checkpoints"),
        hint="let the run reach its first checkpoint: mlc train RECIPE",
    )


def _step(folder: Path) -> int | None:
    match = _STEP_FOLDER.fullmatch(folder.name)
    return int(match.group(1)) if match else None


def _hash(file: Path) -> str:
    digest = xxhash.xxh3_64()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
