"""What a model card states besides the model: scores, licence, and where the training data came from.

In:  JSON files of `mlc evaluate`, options of the command line, the recipe beside a checkpoint.
Out: `CardNotes`, and the training data as a JSON-serialisable dict, which mlc.json of an export keeps.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlc.checkpoint.record import checkpoint_folders, step_of
from mlc.data.manifest import Manifest
from mlc.errors import ShardError, UsageError
from mlc.run_names import RECIPE_NAME, TEST_NAME
from mlc.tasks.loading import LoadedModel
from mlc.tasks.locate import ModelSource

_COUNTS = ("step", "limit", "max_tokens", "texts", "cut", "seed", "threads", "batch_tokens")
"""Numbers in a result that are no scores."""
SOURCE_KEYS = ("kind", "view", "name", "weight", "share", "languages")


@dataclass(frozen=True)
class ScoreRow:
    """One score: of which task, on which data, of which model, and the interval where there is one."""

    task: str
    name: str
    value: float
    data: str
    model: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class CardNotes:
    """What the caller states.

    Attributes:
        license: identifier of the hub, such as "cc-by-4.0"; "" = none stated.
        data_note: a sentence about the training data and its licences.
        scores: as `read_scores` reads them.
    """

    license: str = ""
    data_note: str = ""
    scores: tuple[ScoreRow, ...] = ()


def read_scores(files: Sequence[Path]) -> tuple[ScoreRow, ...]:
    """The scores of results of `mlc evaluate ... --json FILE`.

    A file holds one result, a list of them, or an object with a list of them as "results". A result has "task" and
    either "scores" ({name: number, or {"value", "low", "high"}}) or its numbers at the top.

    Raises:
        UsageError: a file is none of these.
    """
    return tuple(row for file in files for result in _results(file) for row in _rows(result, file))


def training_data(loaded: LoadedModel) -> dict[str, Any] | None:
    """What is known of the data: what an export says, or the recipe beside a checkpoint and the shards it names.

    Returns:
        {"sources": [...], "samples_per_step", "total_steps"} of the recipe, "examples" of a fine-tuning, and of the
        shards, where they still lie there with the same hash, {"documents", "pairs", "tokens", "files"}; None where
        nothing is known.
    """
    kept = loaded.description.get("training_data")
    if kept is not None:
        return dict(kept)
    recipe = _read_recipe(loaded.source.folder.parent / RECIPE_NAME)
    data = recipe.get("data")
    if not isinstance(data, dict):
        return None
    sources = [{key: source[key] for key in SOURCE_KEYS if source.get(key)} for source in data.get("sources", ())]
    found: dict[str, Any] = {"sources": sources, "samples_per_step": data.get("samples_per_step")}
    found["total_steps"] = recipe.get("schedule", {}).get("total_steps")
    if "data" in loaded.description:
        found["examples"] = loaded.description["data"]["examples"]
    return {**found, **_shards(data.get("shards"), loaded.description.get("shards_sha256"))}


def kept_facts(saved: Mapping[str, Any], source: ModelSource, dtype: str) -> dict[str, Any]:
    """What an export's mlc.json says of its weights and of how they came about; another export's facts are kept.

    Args:
        saved: the mlc.json of what is exported.
        source: where that is.
        dtype: of the export.

    Returns:
        "dtype"; "rounded", the narrower dtypes that the weights went through; "step"; "start", what they began with,
        without the folders around it, which mean nothing elsewhere; "merged_lora"; "test", of `read_test`.
    """
    is_export, start = "formats" in saved, saved.get("start")
    if start and Path(start).is_absolute():
        start = Path(start).name
    rounded = [*saved.get("rounded", ()), *([dtype] if dtype != "fp32" else [])]
    return {
        "dtype": dtype,
        "rounded": list(dict.fromkeys(rounded)),
        "step": saved.get("step", source.step),
        "start": start,
        "merged_lora": saved.get("merged_lora" if is_export else "lora"),
        "test": saved.get("test") if is_export else read_test(source),
    }


def read_test(source: ModelSource) -> dict[str, Any] | None:
    """The scores of a checkpoint on its run's test data, if they are this checkpoint's.

    Returns:
        {"score": name, "languages": {code: {"value", "low", "high"}}, "macro", "zero_shot", "trained", "examples":
        {code: number}}; None where there are none.
    """
    run = source.folder.resolve().parent.parent.parent
    try:
        content = json.loads((run / TEST_NAME).read_text(encoding="utf-8"))
        step = content["step"]
        if step is None:  # nothing was scored on the way, so the last checkpoint is the one
            step = step_of(checkpoint_folders(run)[-1])
        if step != source.step:
            return None
        kept = {key: content[key] for key in ("score", "languages", "macro", "zero_shot", "trained")}
        return {**kept, "examples": {code: found["examples"] for code, found in content["sets"].items()}}
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None


def _results(file: Path) -> Iterator[Mapping[str, Any]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError("the scores cannot be read", found=str(error), where=f"--scores {file}") from None
    if isinstance(content, dict) and isinstance(content.get("results"), list):
        content = content["results"]
    for result in content if isinstance(content, list) else [content]:
        if not isinstance(result, dict) or not isinstance(result.get("task"), str):
            raise UsageError(
                "this is no result of an evaluation",
                needed='an object with "task", a list of them, or {"results": [...]}',
                where=f"--scores {file}",
                hint="mlc evaluate TASK --model MODEL --data PATH --json FILE",
            )
        yield result


def _rows(result: Mapping[str, Any], file: Path) -> Iterator[ScoreRow]:
    scores = result.get("scores", {key: value for key, value in result.items() if key not in _COUNTS})
    data = ", ".join(Path(str(path)).name for path in result.get("data", ()))
    model = _scored_model(result)
    count = 0
    for name, score in scores.items():
        parts = score if isinstance(score, dict) else {"value": score}
        value = _number(parts.get("value"))
        if value is not None:
            count += 1
            yield ScoreRow(
                result["task"], name, value, data, model, _number(parts.get("low")), _number(parts.get("high"))
            )
    if not count:
        raise UsageError("the result has no scores", found=f"task {result['task']}", where=f"--scores {file}")


def _scored_model(result: Mapping[str, Any]) -> str:
    """As short as it can be told: the name of the folder, and the step."""
    name = Path(str(result.get("model", ""))).name or "not recorded"
    step = result.get("step")
    return name if step is None else f"{name}, step {step}"


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _read_recipe(file: Path) -> dict[str, Any]:
    """Of any version: only what is found there is told."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _shards(folder: object, sha256: object) -> dict[str, Any]:
    if not isinstance(folder, str):
        return {}
    try:
        manifest = Manifest.read(folder)
    except (ShardError, OSError):
        return {}
    if manifest.sha256 != sha256:
        return {}
    totals = {
        kind: sum(entry.documents for entry in manifest.shards if entry.kind == kind) for kind in ("documents", "pairs")
    }
    files = sorted({Path(source).name for entry in manifest.shards for source in entry.sources})
    return {**totals, "tokens": sum(entry.tokens for entry in manifest.shards), "files": files}
