"""Recipes: one TOML file a run, read into frozen, validated sections.

In:  a TOML file and `section.key=value` overrides from the command line.
Out: a `TrainRecipe` (or the `Section` another package declares, such as data_prep's), with every default filled in.

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
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

import pydantic
import tomli_w

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


class RunSection(Section):
    """Where a run lives and what makes it repeatable."""

    folder: str
    """Run folder: metrics, checkpoints, resolved recipe."""
    seed: NonNegative = 1
    """Seeds the data order, corruption, dropout and initial weights."""
    threads_per_rank: Positive = 1
    """Intra-op threads of each rank; part of the recipe because it fixes the order of floating-point sums."""
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    resume: Literal["auto", "never"] = "auto"
    """auto: continue from the newest complete checkpoint; never: refuse a folder that has one."""


class SourceSection(Section):
    """One source of samples: which shards, and how a sample is made from a document or a line pair."""

    kind: Literal["documents", "pairs"]
    view: Literal["spans", "translations", "text", "pair"]
    """spans: two spans of one document; translations: a document and the same document in another language;
    text: one text, no partner; pair: the two sides of a sentence pair."""
    languages: tuple[str, ...] = ()
    """Languages to take (for pairs: both sides must be listed); empty = every one in the manifest."""
    weight: Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)] = 1.0
    """Share of the samples drawn from this source, relative to the other sources."""

    @pydantic.model_validator(mode="after")
    def _view_fits_kind(self) -> Self:
        if (self.kind == "pairs") != (self.view == "pair"):
            raise ValueError(
                f'view = "{self.view}" does not fit kind = "{self.kind}": pairs have view "pair", '
                'documents have "spans", "translations" or "text"'
            )
        return self


class DataSection(Section):
    """What a global batch is made of."""

    shards: str
    """Folder with manifest.json, as `mlc prep build` writes it."""
    sources: Annotated[tuple[SourceSection, ...], pydantic.Field(min_length=1)]
    samples_per_step: Positive
    """The global batch N: samples (pairs, where the view has two sides) of one optimizer step, over all ranks."""
    micro_batches: Positive = 1
    """Backward passes a step (K). More than 1 is refused with a contrastive objective."""
    max_tokens: Annotated[int, pydantic.Field(ge=8)] = 128
    """Longest text in tokens, [CLS] and [SEP] included, before blanks are cut out of it."""
    min_span_tokens: Positive = 8
    """spans view: shortest span in tokens; documents with fewer than twice as many give both views the whole text."""
    language_exponent: Annotated[float, pydantic.Field(ge=0, le=1)] = 0.5
    """Languages are drawn in proportion to (documents in the language) ** language_exponent."""
    language_pure: bool = False
    """Every batch holds one language (or language pair) only; translations, as far as the documents exist in it."""

    @pydantic.model_validator(mode="after")
    def _spans_fit(self) -> Self:
        if self.min_span_tokens > self.max_tokens - 2 and any(source.view == "spans" for source in self.sources):
            raise ValueError(
                f"min_span_tokens = {self.min_span_tokens}, must be <= max_tokens - 2 = {self.max_tokens - 2}"
            )
        return self


class ModelSection(Section):
    """The encoder: this project's GLM, or any Hugging Face encoder."""

    architecture: Literal["glm", "huggingface"] = "glm"
    layers: Positive = 6
    hidden_size: Positive = 256
    heads: Positive = 4
    feed_forward_size: Positive = 1024
    dropout: Probability = 0.0
    path: str = ""
    """huggingface: folder or hub name; its weights are the start."""
    config: str = ""
    """huggingface: folder or config.json to build a model from scratch instead of `path`."""
    pooling: Literal["mean", "cls", "last"] = "mean"
    layer: int = -1
    """Layer whose states are pooled for the contrast: -1 = last, after the final norm; k = output of block k."""
    projection_size: NonNegative = 0
    """Linear projection of the pooled state; 0 = none."""

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.architecture == "huggingface" and bool(self.path) == bool(self.config):
            raise ValueError(
                'architecture = "huggingface" needs exactly one of path (weights) and config (from scratch)'
            )
        sizes = ("layers", "hidden_size", "heads", "feed_forward_size", "dropout")
        changed = [key for key in sizes if getattr(self, key) != type(self).model_fields[key].default]
        if self.architecture == "huggingface" and changed:
            raise ValueError(f"{', '.join(changed)}: a Hugging Face model's own configuration says so, leave it out")
        if self.architecture == "glm" and (self.path or self.config):
            raise ValueError('path and config belong to architecture = "huggingface"')
        if self.architecture == "glm" and self.hidden_size % self.heads:
            raise ValueError(f"hidden_size = {self.hidden_size} is not a multiple of heads = {self.heads}")
        if self.architecture == "glm" and self.hidden_size // self.heads % 4:
            raise ValueError(
                f"hidden_size / heads = {self.hidden_size // self.heads}, must be a multiple of 4 (2D rotary positions)"
            )
        if self.architecture == "glm" and not -1 <= self.layer <= self.layers:
            raise ValueError(f"layer = {self.layer}, must be -1 or 0..{self.layers}")
        return self


class ContrastiveSection(Section):
    """InfoNCE between the two views of a sample, with the negatives of every rank."""

    weight: Weight = 0.0
    temperature: PositiveFloat = 0.05
    symmetric: bool = True
    """Mean of both directions; false = first view to second view only."""


class BlankSection(Section):
    """GLM blank infilling (Du et al. 2022, section 2.1)."""

    weight: Weight = 0.0
    mask_fraction: Fraction = 0.15
    mean_span_tokens: PositiveFloat = 3.0
    """Mean of the Poisson distribution of span lengths."""


class MaskSection(Section):
    """Masked language modelling (Devlin et al. 2019, section 3.1)."""

    weight: Weight = 0.0
    mask_fraction: Fraction = 0.15
    replace_by_mask: Annotated[float, pydantic.Field(ge=0, le=1)] = 0.8
    replace_by_random: Annotated[float, pydantic.Field(ge=0, le=1)] = 0.1

    @pydantic.model_validator(mode="after")
    def _shares(self) -> Self:
        if self.replace_by_mask + self.replace_by_random > 1:
            raise ValueError(
                f"replace_by_mask + replace_by_random = {self.replace_by_mask + self.replace_by_random}, must be <= 1"
            )
        return self


class ObjectivesSection(Section):
    """J = sum over objectives of weight x (its sum over the global batch) / (its global count)."""

    contrastive: ContrastiveSection = ContrastiveSection()
    glm: BlankSection = BlankSection()
    mlm: MaskSection = MaskSection()

    @pydantic.model_validator(mode="after")
    def _any(self) -> Self:
        if not (self.contrastive.weight or self.glm.weight or self.mlm.weight):
            raise ValueError("every weight is 0: give contrastive.weight, glm.weight or mlm.weight a positive value")
        return self


class OptimizerSection(Section):
    """AdamW (Loshchilov & Hutter 2019) and gradient clipping."""

    learning_rate: PositiveFloat
    """Peak learning rate."""
    embedding_learning_rate_scale: PositiveFloat = 1.0
    """The token embeddings (and the head tied to them) learn this many times faster. A matrix adds up as many small
    steps as it has inputs, an embedding row takes one alone: at one rate for both, wide models learn embeddings too
    slowly or matrices too fast (Yang et al. 2022, "Tensor Programs V", table 3)."""
    betas: tuple[Probability, Probability] = (0.9, 0.98)
    epsilon: PositiveFloat = 1e-8
    weight_decay: Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)] = 0.01
    """Applied to matrices only; norms, biases and other vectors have none."""
    gradient_clipping: Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)] = 1.0
    """Largest global L2 norm of the gradient; 0 = no clipping."""

    @pydantic.field_validator("betas", mode="before")
    @classmethod
    def _pair(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value


class ScheduleSection(Section):
    """Learning rate over optimizer steps."""

    kind: Literal["constant", "linear", "cosine", "wsd"] = "cosine"
    total_steps: Positive
    warmup_steps: NonNegative = 0
    decay_steps: NonNegative = 0
    """wsd only: length of the final linear decay."""
    final_fraction: Annotated[float, pydantic.Field(ge=0, le=1)] = 0.1
    """Learning rate at the end, as a fraction of the peak."""

    @pydantic.model_validator(mode="after")
    def _fits(self) -> Self:
        if self.warmup_steps + self.decay_steps > self.total_steps:
            raise ValueError(
                f"warmup_steps + decay_steps = {self.warmup_steps + self.decay_steps}, "
                f"must be <= total_steps = {self.total_steps}"
            )
        if self.kind == "wsd" and not self.decay_steps:
            raise ValueError('kind = "wsd" needs decay_steps > 0')
        if self.kind != "wsd" and self.decay_steps:
            raise ValueError(f'decay_steps belongs to kind = "wsd", not "{self.kind}"')
        return self


class DeepSpeedSection(Section):
    """Which DeepSpeed file: ZeRO stage, offload, communication."""

    config: str = "ds_configs/zero3.json"


class CheckpointSection(Section):
    """When the run is saved."""

    every_steps: Positive = 1000
    keep_last: Positive = 2
    """Complete checkpoints to keep; the one of `at_start` counts too."""
    at_start: bool = False
    """Also save before the first step, to score the untrained model."""


class LogSection(Section):
    """What is written on the way."""

    every_steps: Positive = 10
    tensorboard: bool = True


class TrainRecipe(Section):
    """Everything `mlc train` needs."""

    run: RunSection
    data: DataSection
    model: ModelSection = ModelSection()
    objectives: ObjectivesSection
    optimizer: OptimizerSection
    schedule: ScheduleSection
    deepspeed: DeepSpeedSection = DeepSpeedSection()
    checkpoint: CheckpointSection = CheckpointSection()
    log: LogSection = LogSection()

    @pydantic.model_validator(mode="after")
    def _objectives_fit(self) -> Self:
        if self.objectives.contrastive.weight and self.data.micro_batches > 1:
            raise ValueError(
                f"data.micro_batches = {self.data.micro_batches} with objectives.contrastive: the contrast spans the "
                "global batch, so it needs data.micro_batches = 1"
            )
        if self.objectives.contrastive.weight and all(source.view == "text" for source in self.data.sources):
            raise ValueError('objectives.contrastive needs a source whose view has two sides; every view is "text"')
        if self.objectives.glm.weight and self.model.architecture != "glm":
            raise ValueError('objectives.glm needs model.architecture = "glm": only the GLM has a Part B')
        return self

    def to_toml(self) -> str:
        """The resolved recipe, every default written out."""
        return tomli_w.dumps(json.loads(self.model_dump_json()), multiline_strings=True)


def read_recipe(path: str | Path, section: type[T], overrides: Sequence[str] = ()) -> T:
    """Read and validate a recipe.

    Args:
        path: TOML file.
        section: the `Section` its top level must match.
        overrides: "section.key=value" strings; the value is read as TOML, and as a bare string where that fails.

    Raises:
        RecipeError: the file is missing or no TOML, or its content is refused; every complaint is listed.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError("the recipe cannot be read", found=str(error), where=str(path)) from None
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError("the recipe is not valid TOML", found=str(error), where=str(path)) from None
    for override in overrides:
        _apply_override(table, override)
    if "build" in table and "build" not in section.model_fields:
        raise RecipeError("this is a recipe for mlc prep build", where=str(path), hint=f"mlc prep build {path}")
    return parse_recipe(table, section, where=str(path))


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
