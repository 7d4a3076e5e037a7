"""Recipes: one TOML file a run, read into frozen, validated sections.

In:  a TOML file and `section.key=value` overrides from the command line.
Out: the `Section` its reader declares (mlc.recipe.TrainRecipe, data_prep's), with every default filled in.

A recipe is refused whole before any work starts: an unknown key is an error that suggests the nearest known one, and a
value out of range names the key, the value found and the value needed. Paths are relative to the working directory.
Whatever a recipe owns (batch size, precision, clipping, learning rate, ...) has no second owner: the DeepSpeed file
says "auto" there (see mlc.engine.deepspeed_config).
"""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import pydantic

from mlc.errors import RecipeError

Positive = Annotated[int, pydantic.Field(gt=0)]
NonNegative = Annotated[int, pydantic.Field(ge=0)]
Weight = Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, pydantic.Field(gt=0, lt=1)]
PositiveFloat = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
Probability = Annotated[float, pydantic.Field(ge=0, lt=1)]

T = TypeVar("T", bound="Section")


class Section(pydantic.BaseModel):
    """A frozen table of a recipe; unknown keys are errors and numbers are not made from strings."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True)


def read_recipe(path: str | Path, section: type[T], overrides: Sequence[str] = ()) -> T:
    """Read and validate a recipe.

    Args:
        path: TOML file.
        section: the `Section` its top level must match.
        overrides: "section.key=value" strings; the value is read as TOML, and as a bare string where that fails.

    Raises:
        RecipeError: the file is missing or no TOML, or its content is refused; every complaint is listed.
    """
    table = _load(Path(path))
    for override in overrides:
        _apply_override(table, override)
    if "build" in table and "build" not in section.model_fields:
        raise RecipeError("this is a recipe for mlc prep build", where=str(path), hint=f"mlc prep build {path}")
    if "task" in table and "task" not in section.model_fields:
        raise RecipeError("this is a recipe for mlc finetune", where=str(path), hint=f"mlc finetune {path}")
    if "objectives" in table and "objectives" not in section.model_fields:
        raise RecipeError("this is a recipe for mlc train", where=str(path), hint=f"mlc train {path}")
    return parse_recipe(table, section, where=str(path))


def read_table(path: str | Path, name: str, section: type[T]) -> T:
    """Read and validate one table of a recipe of any kind; its defaults where it is not there.

    Raises:
        RecipeError: as of `read_recipe`.
    """
    return parse_recipe(_load(Path(path)).get(name, {}), section, where=f"{path}: {name}")


def is_finetune_recipe(path: str | Path) -> bool:
    """Whether a TOML file is a recipe of `mlc finetune`: it has a [task]. A file that cannot be read is none."""
    try:
        return "task" in tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return False


def parse_recipe(table: Mapping[str, Any], section: type[T], *, where: str) -> T:
    """Validate a table that is already in memory; errors as in `read_recipe`."""
    try:
        # JSON mode reads lists as tuples while still refusing "3" for 3.
        return section.model_validate_json(json.dumps(table))
    except pydantic.ValidationError as error:
        complaints = [_complaint(detail, section) for detail in error.errors()]
        raise RecipeError(
            "the recipe is refused:\n  - " + "\n  - ".join(complaints), where=where, hint=f"edit {where} and run again"
        ) from None
    except TypeError as error:  # a TOML date
        raise RecipeError("the recipe is refused", found=str(error), where=where) from None


def digest(value: Any) -> str:
    """sha256 (hex) of a JSON-serialisable value or a `Section`, independent of key order."""
    if isinstance(value, pydantic.BaseModel):
        value = json.loads(value.model_dump_json())
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _load(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError("the recipe cannot be read", found=str(error), where=str(path)) from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError("the recipe is not valid TOML", found=str(error), where=str(path)) from None


def _apply_override(table: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise RecipeError("--set cannot be read", found=override, needed="section.key=value", where="command line")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise RecipeError(f"--set: {part} is not a table", found=override, where="command line")
    table[parts[-1]] = value


def _complaint(detail: Any, section: type[Section]) -> str:
    location = tuple(detail["loc"])
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".") or "recipe"
    if detail["type"] == "extra_forbidden":
        known = _keys_at(section, location[:-1])
        near = difflib.get_close_matches(str(location[-1]), known, n=1)
        advice = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(sorted(known))}"
        return f"unknown key {key}; {advice}"
    if detail["type"] == "missing":
        return f"{key} is missing"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "value_error":
        return f"{key}: {message}"
    return f"{key} = {detail['input']!r}: {message[0].lower()}{message[1:]}"


def _keys_at(section: type[Section], location: Iterable[str | int]) -> list[str]:
    for part in location:
        if isinstance(part, int):
            continue
        field = section.model_fields.get(part)
        inner = _section_in(field.annotation) if field else None
        if inner is None:
            return []
        section = inner
    return list(section.model_fields)


def _section_in(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for argument in get_args(annotation):
        found = _section_in(argument)
        if found is not None:
            return found
    return None
