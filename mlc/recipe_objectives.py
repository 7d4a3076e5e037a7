"""The objectives of a training recipe: what each term of J is, and its weight.

In:  the `[objectives]` table of a recipe.
Out: frozen, validated sections. Combinations that have no meaning are refused here or in mlc.recipe.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import pydantic

from mlc.config import Fraction, NonNegative, Positive, PositiveFloat, Probability, Section, Weight

Share = Annotated[float, pydantic.Field(ge=0, le=1, allow_inf_nan=False)]
BlankKind = Literal["token", "sentence", "document"]


class QueueSection(Section):
    """Negatives of earlier steps, encoded by a momentum encoder (He et al. 2020, "MoCo", algorithm 1)."""

    size: NonNegative = 0
    """Pairs kept; 0 = no queue and no momentum encoder."""
    momentum: Probability = 0.999
    """The teacher's fp32 weights move by (1 - momentum) of the way to the student's after each step."""


class InfoNceSection(Section):
    """InfoNCE between the two views of a sample (van den Oord et al. 2018, eq. 4)."""

    weight: Weight = 0.0
    temperature: PositiveFloat = 0.05
    """Divides the cosines; where a learned one starts."""
    learn_temperature: bool = False
    temperature_bounds: tuple[PositiveFloat, PositiveFloat] = (0.01, 1.0)
    """A learned temperature stays strictly between them."""
    symmetric: bool = True
    """Mean of both directions; false = first view to second view only."""
    decoupled: bool = False
    """Leave the positive out of the denominator (Yeh et al. 2022, "Decoupled contrastive learning", eq. 6)."""
    margin: Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)] = 0.0
    """Taken off the positive's cosine (Yang et al. 2019, "Improving multilingual sentence embedding", eq. 4)."""
    negatives: Literal["all", "same_language", "cross_language"] = "all"
    """Which candidates are negatives: all; those in the right answer's language only, so that language tells nothing;
    those in other languages only."""
    hard_negatives: NonNegative = 0
    """Hard negatives a sample brings along, at most; from sources whose view is "ranked"."""
    clean_text: bool = False
    """The contrast reads rows of its own without blanks and masks; false = it reads the corrupted Part A."""

    @pydantic.field_validator("temperature_bounds", mode="before")
    @classmethod
    def _pair(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @pydantic.model_validator(mode="after")
    def _temperature_fits(self) -> Self:
        low, high = self.temperature_bounds
        if self.learn_temperature and not low < self.temperature < high:
            raise ValueError(
                f"temperature = {self.temperature}, must lie strictly between temperature_bounds = [{low}, {high}]"
            )
        return self


class ContrastiveSection(InfoNceSection):
    """InfoNCE with negatives from the global batch of every rank, whatever the micro-batches, and from a queue."""

    queue: QueueSection = QueueSection()


class BlankSection(Section):
    """GLM blank infilling (Du et al. 2022, section 2.1 and 2.2)."""

    weight: Weight = 0.0
    mask_fraction: Fraction = 0.15
    """Share of the tokens that token and sentence blanks take."""
    mean_span_tokens: PositiveFloat = 3.0
    """Mean of the Poisson distribution of the lengths of token blanks."""
    token_share: Share = 1.0
    """Share of the samples with [MASK] blanks: short spans. The three shares are relative to their sum."""
    sentence_share: Share = 0.0
    """Share of the samples with [sMASK] blanks: whole sentences. Such samples carry the GLM loss only, unless the
    contrast reads clean text."""
    document_share: Share = 0.0
    """Share of the samples with one [gMASK] blank: the end of the text. They too carry the GLM loss only."""
    shortest_document_blank: Share = 0.25
    """Shortest [gMASK] blank as a share of the text; its length is uniform from there to the whole text."""

    @pydantic.model_validator(mode="after")
    def _some_kind(self) -> Self:
        if self.token_share + self.sentence_share + self.document_share <= 0:
            raise ValueError("token_share, sentence_share and document_share are all 0, one must be positive")
        return self


class MaskSection(Section):
    """Masked language modelling (Devlin et al. 2019, section 3.1)."""

    weight: Weight = 0.0
    mask_fraction: Fraction = 0.15
    replace_by_mask: Share = 0.8
    replace_by_random: Share = 0.1
    whole_word: bool = False
    """Choose words, not pieces: all pieces of a chosen word are predicted."""

    @pydantic.model_validator(mode="after")
    def _shares(self) -> Self:
        if self.replace_by_mask + self.replace_by_random > 1:
            raise ValueError(
                f"replace_by_mask + replace_by_random = {self.replace_by_mask + self.replace_by_random}, must be <= 1"
            )
        return self


class LanguageAdversarySection(Section):
    """A discriminator that guesses the language of an embedding, behind a gradient-reversal layer: the encoder learns
    to leave it guessing (Ganin & Lempitsky 2015)."""

    weight: Weight = 0.0
    reversal: PositiveFloat = 1.0
    """The encoder gets -reversal times the discriminator's gradient."""
    hidden_size: Positive = 256


class PerturbationSection(Section):
    """The other objectives once more, on token embeddings moved a step along their own gradient (Miyato et al. 2017,
    eq. 3 and 5; "FGM"). Costs a second forward and backward a step."""

    weight: Weight = 0.0
    """Of the perturbed J beside the clean one."""
    size: PositiveFloat = 1.0
    """Length of the step of each text, as a multiple of the mean norm of its token embeddings."""


class ObjectivesSection(Section):
    """J = sum over objectives of weight x (its sum over the global batch) / (its global count)."""

    contrastive: ContrastiveSection = ContrastiveSection()
    micro_batch_contrastive: InfoNceSection = InfoNceSection()
    """InfoNCE with negatives from the same micro-batch alone (of every rank): another objective than `contrastive`, as
    it changes with data.micro_batches and with the number of ranks."""
    glm: BlankSection = BlankSection()
    mlm: MaskSection = MaskSection()
    join_views: bool = False
    """GLM and MLM see both views of a sample as one text: TLM (Conneau & Lample 2019, section 3.3) and blanks that can
    be filled from a translation. The contrast then reads clean rows of its own."""
    language_adversary: LanguageAdversarySection = LanguageAdversarySection()
    perturbation: PerturbationSection = PerturbationSection()

    @property
    def info_nce(self) -> InfoNceSection | None:
        """The contrast that is on, of the two there are; None = neither."""
        chosen = [section for section in (self.contrastive, self.micro_batch_contrastive) if section.weight]
        return chosen[0] if chosen else None

    @property
    def clean_contrast(self) -> bool:
        """Whether the contrast reads rows of its own."""
        return self.info_nce is not None and (self.info_nce.clean_text or self.join_views)

    @pydantic.model_validator(mode="after")
    def _any(self) -> Self:
        if self.contrastive.weight and self.micro_batch_contrastive.weight:
            raise ValueError("contrastive and micro_batch_contrastive both have a weight: choose one")
        if not (self.info_nce or self.glm.weight or self.mlm.weight):
            raise ValueError("every weight is 0: give contrastive.weight, glm.weight or mlm.weight a positive value")
        if self.join_views and not (self.glm.weight or self.mlm.weight):
            raise ValueError("join_views needs glm.weight or mlm.weight: it is about what they see")
        if self.contrastive.queue.size and not self.contrastive.weight:
            raise ValueError("contrastive.queue.size needs contrastive.weight > 0")
        return self
