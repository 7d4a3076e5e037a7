"""The recipe of `mlc finetune`: what is learned, from which model, on which data.

In:  the tables of a recipe, through mlc.config.
Out: a frozen, validated `FinetuneRecipe`.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import pydantic

from mlc.config import NonNegative, Positive, PositiveFloat, Probability, Section
from mlc.recipe import BatchSection, OptimizerSection, RunRecipe, ScheduleSection
from mlc.tasks.examples import TaskKind
from mlc.tasks.learned.cloze_settings import ClozeSection

Rows = Annotated[tuple[NonNegative, NonNegative], pydantic.Field(min_length=2)]
"""First row and end of a range; an end of 0 is the last row."""
ALL_ROWS: Rows = (0, 0)


class TaskSection(Section):
    """What is learned."""

    kind: Literal[
        "classification",
        "regression",
        "token_classification",
        "question_answering",
        "reranking",
        "retrieval",
        "translation",
        "cloze",
    ]
    labels: tuple[str, ...] = ()
    """Classes in the order of the outputs; empty = those of the training data, sorted."""
    columns: dict[str, str | int] = pydantic.Field(default_factory=dict)
    """Columns of the data by role, where they have other names than usual: docs/task_data.md."""
    bad_records: Literal["refuse", "set_aside"] = "refuse"
    """What happens to a line that cannot be used: the run is refused, or the line is counted and left out."""

    @property
    def data_kind(self) -> TaskKind:
        """As what the data is read (mlc.tasks.task_files)."""
        match self.kind:
            case "reranking" | "retrieval":
                return "ranking"
            case "cloze":
                return "classification"
            case kind:
                return kind


class RankingSection(Section):
    """What a query is compared with: reranking and retrieval (docs/retrieval_training.md)."""

    negatives_per_query: NonNegative = 7
    """Wrong passages that a query brings along, at most; others of its wrong ones every epoch."""
    loss: Literal["softmax", "binary"] = "softmax"
    """reranking: softmax = the right passage among the group, binary = every passage by itself."""
    temperature: PositiveFloat = 0.05
    """retrieval: divides the cosines."""
    symmetric: bool = False
    """retrieval: mean of both directions; false = a query looks for its passage only."""


class TranslationSection(Section):
    """How a text is written in another language (docs/translation.md)."""

    decoder: Literal["encoder_decoder", "part_b"] = "encoder_decoder"
    """encoder_decoder: a new decoder with cross attention beside any encoder. part_b: the GLM itself, which fills a
    blank behind the source."""
    both_directions: bool = False
    """Every pair of the data is also read the other way round, in all its parts."""
    max_target_tokens: Annotated[int, pydantic.Field(ge=2)] = 128
    """Longest translation in tokens, its end included; longer ones are cut."""
    label_smoothing: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.0
    """Share of the target's probability that is spread over the vocabulary (Szegedy et al. 2016, section 7)."""
    layers: NonNegative = 0
    """encoder_decoder: of the decoder; 0 = as many as the encoder has."""
    heads: NonNegative = 0
    """encoder_decoder: of the decoder; 0 = as many as the encoder has."""
    beams: Positive = 1
    """Of development and test scores; 1 = greedy."""


class FinetuneModelSection(Section):
    """The model that is fine-tuned."""

    start: str
    """MODEL: run folder, checkpoint, export, Hugging Face folder or hub name. A checkpoint of the run itself goes
    before it."""
    dropout: Probability | None = None
    """Of all layers and of the head; None = as the model was configured."""
    pooling: Literal["mean", "cls"] = "mean"
    """What a sequence classifier on the GLM reads; other models have heads of their own. For retrieval, what becomes of
    the states of a start that was never trained with a contrast."""


class FinetuneDataSection(BatchSection):
    """Where examples come from: files, folders, globs, `{language}` patterns or hub:NAME (docs/task_data.md)."""

    train: Annotated[tuple[str, ...], pydantic.Field(min_length=1)]
    dev: tuple[str, ...] = ()
    """Chooses the best checkpoint, and when to stop early."""
    test: tuple[str, ...] = ()
    """Scored once, with the best checkpoint, by language."""
    train_languages: tuple[str, ...] = ()
    """Fill `{language}` in `train`."""
    dev_languages: tuple[str, ...] = ()
    test_languages: tuple[str, ...] = ()
    train_rows: Rows = ALL_ROWS
    """Of every file: first row and end, [0, 1990]; an end of 0 is the last row."""
    dev_rows: Rows = ALL_ROWS
    test_rows: Rows = ALL_ROWS
    max_tokens: Annotated[int, pydantic.Field(ge=8)] = 128
    """Longest row in tokens, special ones included. Texts are cut there; sentences of words and contexts of questions
    go on in further rows."""
    shots: NonNegative = 0
    """So many training examples of every class, drawn by `run.seed`; 0 = all."""


class FreezeSection(Section):
    """What keeps its weights."""

    embeddings: bool = False
    layers: NonNegative = 0
    """So many blocks from the bottom; more than 0 freezes the embeddings too."""
    encoder: bool = False
    """Everything but the head."""
    unfreeze_every_steps: NonNegative = 0
    """Gradual unfreezing (Howard & Ruder 2018, section 3.3): the head learns at once, and every so many steps one
    layer more, from the top. 0 = all at once."""

    @pydantic.model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.encoder and (self.layers or self.embeddings or self.unfreeze_every_steps):
            raise ValueError("encoder = true freezes embeddings and all layers already: leave the other keys out")
        return self


class LoraSection(Section):
    """Low-rank adapters (Hu et al. 2022): the encoder's matrices stay, and learn a product of two thin ones beside."""

    rank: NonNegative = 0
    """0 = none."""
    alpha: PositiveFloat = 16.0
    """The product is scaled by alpha / rank."""
    dropout: Probability = 0.0
    targets: tuple[str, ...] = ()
    """Ends of the names of linear layers of the encoder's blocks; empty = all of them."""


class FinetuneOptimizerSection(OptimizerSection):
    """AdamW, with learning rates by depth."""

    layer_decay: Annotated[float, pydantic.Field(gt=0, le=1)] = 1.0
    """Every layer learns at this share of the rate of the one above it (Clark et al. 2020, "ELECTRA", appendix B)."""
    head_learning_rate_scale: PositiveFloat = 1.0
    """The new head learns this many times faster than the top layer."""


class FinetuneScheduleSection(ScheduleSection):
    """Learning rate over optimizer steps, whose number may follow from epochs."""

    total_steps: NonNegative = 0
    """0 = as many as `epochs` take."""
    epochs: Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)] = 0.0
    """Passes over the training data."""
    warmup_fraction: Probability = 0.0
    """Share of all steps; instead of warmup_steps."""

    @pydantic.model_validator(mode="after")
    def _fits(self) -> Self:
        if bool(self.total_steps) == bool(self.epochs):
            raise ValueError("needs exactly one of total_steps and epochs")
        if self.warmup_fraction and self.warmup_steps:
            raise ValueError("takes one of warmup_steps and warmup_fraction")
        if self.total_steps and self.warmup_steps + self.decay_steps > self.total_steps:
            raise ValueError(
                f"warmup_steps + decay_steps = {self.warmup_steps + self.decay_steps}, "
                f"must be <= total_steps = {self.total_steps}"
            )
        if (self.kind == "wsd") != bool(self.decay_steps):
            raise ValueError('kind = "wsd" needs decay_steps > 0, and no other kind takes any')
        return self


class EvaluationSection(Section):
    """When the model is scored on `data.dev`, and what for."""

    every_steps: NonNegative = 0
    """0 = at the end of every epoch, and at the end."""
    metric: str = ""
    """Which score decides; empty = the task's main one: accuracy, Spearman's rho, entity F1, answer F1."""
    patience: NonNegative = 0
    """Stop after so many scores in a row that are no better than the best; 0 = never."""
    batch_tokens: NonNegative = 0
    """Longest row x rows of one batch; 0 = by device."""


class FinetuneRecipe(RunRecipe):
    """Everything `mlc finetune` needs."""

    task: TaskSection
    model: FinetuneModelSection
    data: FinetuneDataSection
    ranking: RankingSection = RankingSection()
    cloze: ClozeSection | None = None
    """Patterns and words of task.kind = "cloze" (docs/cloze.md)."""
    translation: TranslationSection = TranslationSection()
    freeze: FreezeSection = FreezeSection()
    lora: LoraSection = LoraSection()
    optimizer: FinetuneOptimizerSection
    schedule: FinetuneScheduleSection
    evaluation: EvaluationSection = EvaluationSection()

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.evaluation.patience and not self.data.dev:
            raise ValueError("evaluation.patience needs data.dev: nothing else says whether the model still improves")
        if self.lora.rank and (self.freeze.encoder or self.freeze.unfreeze_every_steps):
            raise ValueError("lora freezes the encoder's own weights: leave freeze out")
        if self.data.shots and self.task.kind not in ("classification", "token_classification", "cloze"):
            raise ValueError(f'data.shots counts examples of a class; task.kind = "{self.task.kind}" has none')
        return self

    @pydantic.model_validator(mode="after")
    def _translation_fits(self) -> Self:
        if self.task.kind != "translation":
            if self.translation != TranslationSection():
                raise ValueError(f'[translation]: task.kind = "{self.task.kind}" has no use for it')
        elif self.translation.decoder == "part_b" and (self.translation.layers or self.translation.heads):
            raise ValueError('translation.layers and heads: with decoder = "part_b" the GLM itself writes')
        return self

    @pydantic.model_validator(mode="after")
    def _cloze_fits(self) -> Self:
        if (self.cloze is not None) != (self.task.kind == "cloze"):
            raise ValueError('task.kind = "cloze" and a table [cloze] need each other: docs/cloze.md')
        return self

    @pydantic.model_validator(mode="after")
    def _ranking_fits(self) -> Self:
        kind, default = self.task.kind, RankingSection()
        own: dict[str, tuple[str, ...]] = {
            "reranking": ("negatives_per_query", "loss"),
            "retrieval": ("negatives_per_query", "temperature", "symmetric"),
        }
        changed = [key for key in RankingSection.model_fields if getattr(self.ranking, key) != getattr(default, key)]
        strange = [f"ranking.{key}" for key in changed if key not in own.get(kind, ())]
        if strange:
            raise ValueError(f'{", ".join(strange)}: task.kind = "{kind}" has no use for it')
        if kind == "reranking" and not self.ranking.negatives_per_query:
            raise ValueError("ranking.negatives_per_query = 0: re-ranking learns from wrong passages, it needs one")
        return self

    @pydantic.model_validator(mode="after")
    def _retrieval_has_no_head(self) -> Self:
        if self.task.kind != "retrieval":
            return self
        set_keys = {
            "freeze.encoder": self.freeze.encoder,
            "optimizer.head_learning_rate_scale": self.optimizer.head_learning_rate_scale != 1,
        }
        strange = [key for key, is_set in set_keys.items() if is_set]
        if strange:
            raise ValueError(f'{", ".join(strange)}: task.kind = "retrieval" trains the encoder itself, without a head')
        return self
