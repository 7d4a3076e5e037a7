"""The training recipe: sections of `mlc train`'s TOML file.

In:  the tables of a recipe, through mlc.config.
Out: a frozen, validated `TrainRecipe`; combinations that have no meaning are refused with the keys that make them.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

import pydantic
import tomli_w

from mlc.config import NonNegative, Positive, PositiveFloat, Probability, Section
from mlc.recipe_objectives import ObjectivesSection


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
    allow_changes: tuple[str, ...] = ()
    """Keys or tables ("optimizer", "schedule.total_steps", "shards") that may differ from what the run was started
    with; docs/checkpoints.md lists which can."""
    time_limit_minutes: Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)] = 0.0
    """Save and end this start (exit code 75) before so many minutes have passed; 0 = no limit."""
    stall_timeout_seconds: PositiveFloat = 1800.0
    """A rank that gets no further for so long logs the stacks of its threads and ends."""


class SourceSection(Section):
    """One source of samples: which shards, and how a sample is made from a document or a line pair."""

    kind: Literal["documents", "pairs"]
    view: Literal["spans", "translations", "text", "ranked", "pair"]
    """spans: two spans of one document; translations: a document and the same document in another language;
    text: one text, no partner; ranked: a document's first line, its second line as the partner, the others as hard
    negatives; pair: the two sides of a sentence pair."""
    languages: tuple[str, ...] = ()
    """Languages to take (for pairs: both sides must be listed); empty = every one in the manifest."""
    weight: Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)] = 1.0
    """Share of the samples drawn from this source, relative to the other sources."""

    @pydantic.model_validator(mode="after")
    def _view_fits_kind(self) -> Self:
        if (self.kind == "pairs") != (self.view == "pair"):
            raise ValueError(
                f'view = "{self.view}" does not fit kind = "{self.kind}": pairs have view "pair", '
                'documents have "spans", "translations", "text" or "ranked"'
            )
        return self


class BatchSection(Section):
    """How large a step is."""

    samples_per_step: Positive
    """The global batch N: samples (pairs, where the view has two sides) of one optimizer step, over all ranks."""
    micro_batches: Positive = 1
    """Backward passes a step (K). With objectives.contrastive a step of more than one has two passes, and the contrast
    still spans the global batch (Gao et al. 2021, "Scaling deep contrastive learning batch size", section 3)."""


class DataSection(BatchSection):
    """What a global batch is made of."""

    shards: str
    """Folder with manifest.json, as `mlc prep build` writes it."""
    sources: Annotated[tuple[SourceSection, ...], pydantic.Field(min_length=1)]
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
    pooling: Literal["mean", "cls", "last", "attention"] = "mean"
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


class StartSection(Section):
    """Which trained model a new run's first weights come from (docs/initialisation.md). A run that goes on from a
    checkpoint of its own does not read it any more."""

    model: str = ""
    """A run (its newest checkpoint), a checkpoint, an export, or a Hugging Face encoder's folder or hub name; empty =
    all weights are drawn."""
    layers: Literal["copy", "stack", "interleave"] = "copy"
    """copy: as many blocks as the start has; stack: block i + L from block i; interleave: each block several times in
    a row."""
    added_blocks: Literal["zero", "copy"] = "zero"
    """zero: blocks that the start does not have write 0 to the residual stream at first, so that the function stays;
    copy: they are copies."""
    vocabulary: Literal["same", "carry"] = "same"
    """same: the shards' tokenizer must be the start's; carry: it may be another, and embeddings are carried over."""
    heads: bool = True
    """Carry the token heads, the projection and the query of attention pooling too, where the start has them."""

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Self:
        keys = [key for key in type(self).model_fields if key != "model"]
        changed = [key for key in keys if getattr(self, key) != type(self).model_fields[key].default]
        if changed and not self.model:
            raise ValueError(f"{', '.join(changed)}: without start.model there is nothing to carry")
        if self.layers == "copy" and self.added_blocks == "copy":
            raise ValueError('added_blocks = "copy" needs layers = "stack" or "interleave": "copy" adds no blocks')
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
    """When the run is saved, how, and what is kept."""

    every_steps: Positive = 1000
    keep_last: Positive = 2
    """Complete checkpoints to keep; the one of `at_start` counts too."""
    keep_every: NonNegative = 0
    """Also keep every checkpoint whose step is a multiple of this; 0 = none."""
    at_start: bool = False
    """Also save before the first step, to score the untrained model."""
    asynchronous: bool = True
    """Write while training goes on, from a copy in host memory of 12 bytes a parameter over all ranks (with a queue
    16)."""
    on_failure: Literal["stop", "continue"] = "stop"
    """When a checkpoint cannot be written (disk full, quota, read-only): end the run, or train on and try again at the
    next one. The checkpoints before stay whole either way."""
    min_free_gib: Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)] = 1.0
    """A save does not begin unless so much of the disk stays free after it."""


class DivergenceSection(Section):
    """What happens after a bad step: its loss or gradient is not finite, or the gradient's norm is over the limit.

    The update is left out. After too many in a row the run goes back to its last checkpoint and steps over the batches
    of the bad steps from then on; after too many returns to one checkpoint it stops.
    """

    gradient_norm_limit: Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)] = 0.0
    """Largest global L2 norm of the gradient, before clipping, of a good step; 0 = any finite one."""
    skip_updates: NonNegative = 2
    """Bad steps in a row whose update is left out and nothing else happens."""
    roll_backs: NonNegative = 2
    """Returns to one and the same checkpoint."""


class LogSection(Section):
    """What is written on the way."""

    every_steps: Positive = 10
    tensorboard: bool = True
    gradient_cosine_every: NonNegative = 0
    """Log the cosines between the terms' gradients every so many steps; such a step costs one forward and backward a
    term. 0 = never."""
    samples: bool = False
    """Every rank notes the numbers of the samples it trains on, in samples/."""


class RunRecipe(Section):
    """What every run has, whatever it trains."""

    run: RunSection
    data: BatchSection
    optimizer: OptimizerSection
    schedule: ScheduleSection
    deepspeed: DeepSpeedSection = DeepSpeedSection()
    checkpoint: CheckpointSection = CheckpointSection()
    divergence: DivergenceSection = DivergenceSection()
    log: LogSection = LogSection()

    @property
    def backward_passes(self) -> int:
        """Forward and backward passes of one optimizer step that carry gradient."""
        return self.data.micro_batches

    def to_toml(self) -> str:
        """The resolved recipe, every default written out."""
        # TOML has no null; a key that is left out is read as None again.
        return tomli_w.dumps(json.loads(self.model_dump_json(exclude_none=True)), multiline_strings=True)


class TrainRecipe(RunRecipe):
    """Everything `mlc train` needs."""

    data: DataSection
    model: ModelSection = ModelSection()
    start: StartSection = StartSection()
    objectives: ObjectivesSection

    @pydantic.model_validator(mode="after")
    def _one_start(self) -> Self:
        if self.start.model and self.model.path:
            raise ValueError(
                "start.model and model.path are two starts: leave one out (an encoder of transformers that starts from "
                "a run has model.config)"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _objectives_fit(self) -> Self:
        objectives, views = self.objectives, {source.view for source in self.data.sources}
        contrast = objectives.info_nce
        if contrast and views == {"text"}:
            raise ValueError('a contrastive objective needs a source whose view has two sides; every view is "text"')
        if contrast and contrast.hard_negatives and "ranked" not in views:
            raise ValueError(
                f'hard_negatives = {contrast.hard_negatives} needs a source with view = "ranked": '
                "no other view brings hard negatives"
            )
        if objectives.glm.weight and self.model.architecture != "glm":
            raise ValueError('objectives.glm needs model.architecture = "glm": only the GLM has a Part B')
        queue = objectives.contrastive.queue
        if 0 < queue.size < self.data.samples_per_step:
            raise ValueError(
                f"objectives.contrastive.queue.size = {queue.size}, must be 0 or at least "
                f"data.samples_per_step = {self.data.samples_per_step}: every step adds a whole batch"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _one_pass_where_needed(self) -> Self:
        if self.data.micro_batches == 1:
            return self
        needs = {
            "objectives.perturbation": self.objectives.perturbation.weight,
            "log.gradient_cosine_every": self.log.gradient_cosine_every,
        }
        for key, value in needs.items():
            if value:
                raise ValueError(f"{key} needs data.micro_batches = 1, found {self.data.micro_batches}")
        return self

    @pydantic.model_validator(mode="after")
    def _cosines_between_terms(self) -> Self:
        if self.log.gradient_cosine_every and self.objectives.perturbation.weight:
            raise ValueError("log.gradient_cosine_every and objectives.perturbation exclude each other")
        return self

    @property
    def backward_passes(self) -> int:
        """Forward and backward passes of one optimizer step that carry gradient."""
        return self.data.micro_batches * (2 if self.objectives.perturbation.weight else 1)
