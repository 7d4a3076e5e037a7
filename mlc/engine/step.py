"""One optimizer step: the joint objective over a global batch, exactly, on any number of ranks and micro-batches.

In:  the DeepSpeed engine, this rank's share of the batch.
Out: the step's sums over all ranks.

J = sum over terms of weight x (sum over the global batch) / (global denominator). The denominators are counted over
all ranks before the first backward; each rank backpropagates W x its share, and the mean over ranks that DeepSpeed
takes of gradients is then the gradient of J (mlc.objectives.joint).

The contrast spans the global batch. With one micro-batch it is a part of the one forward pass. With more, a first pass
embeds them without a graph, the gradient of the contrast on the embeddings is taken, and a second pass backpropagates
it micro-batch by micro-batch together with the token objectives (Gao et al. 2021, "Scaling deep contrastive learning
batch size under memory limited setup", section 3): activations of one micro-batch at a time, whatever the batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from mlc.data.batches import MicroBatch, RankBatch
from mlc.data.randomness import hash_words
from mlc.distributed.gather import sum_over_ranks
from mlc.distributed.queue import QueuedPairs
from mlc.engine.contrast import ViewIds, Views, by_language, contrast_over_ranks
from mlc.engine.gradient_cosines import TermGradients
from mlc.engine.signals import NOTHING_HAPPENED, RankSignals
from mlc.model.perturbation import EmbeddingPerturbation
from mlc.objectives.info_nce import ContrastiveSums
from mlc.objectives.joint import Term, joint_loss
from mlc.objectives.token_losses import token_cross_entropy_sum
from mlc.recipe import TrainRecipe
from mlc.recipe_objectives import ObjectivesSection

TERMS = ("contrastive", "micro_batch_contrastive", "glm", "mlm", "language_adversary")
CONTRASTS = TERMS[:2]
ENCODER_INPUTS = ("input_ids", "lengths", "part_a_lengths", "positions", "block_positions")
HEAD_INPUTS = ("glm_index", "mlm_index")
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Totals:
    """Counts of one global batch over all ranks, known before its first backward.

    Attributes:
        denominators: of each term: valid pairs, predicted Part B tokens, masked tokens, embeddings whose language is
            guessed.
        tokens: real tokens fed, Part A and Part B.
        slots: the same with padding (what a backbone that pads computes on).
        squared_lengths: sum over texts of length squared.
        signals: on how many ranks each happened.
    """

    denominators: Mapping[str, float]
    tokens: int
    slots: int
    squared_lengths: int
    signals: RankSignals


@dataclass(frozen=True)
class StepSums:
    """Sums over all ranks and micro-batches of one step; what the metrics are made of.

    Attributes:
        loss, correct: by term, before division by the denominator.
        masked_negatives: candidates left out of the contrast as copies of a right answer.
        by_language: loss, right first guesses and count of the contrast by the anchor's language, (3, languages).
        temperature: of the contrast; None without one.
        perturbed: J on perturbed embeddings; 0 where that is off.
        seconds: of this rank.
    """

    loss: dict[str, float]
    correct: dict[str, float]
    masked_negatives: float
    by_language: Tensor
    temperature: float | None
    perturbed: float
    seconds: dict[str, float]


def count_totals(batch: RankBatch, *, device: torch.device, signals: RankSignals = NOTHING_HAPPENED) -> Totals:
    """Count a global batch with one collective, which also carries each rank's signals."""
    parts = batch.micro_batches
    pairs = float(sum(part.valid.sum() for part in parts))
    local = [
        pairs,
        pairs,
        float(sum(part.glm_weights.sum() for part in parts)),
        float(sum(part.mlm_weights.sum() for part in parts)),
        pairs + float(sum(part.pooled.sum() for part in parts)),
        float(sum(part.tokens for part in parts)),
        float(sum(part.input_ids.size for part in parts)),
        float(sum((part.lengths**2).sum() for part in parts)),
        *map(float, signals),
    ]
    counts = sum_over_ranks(torch.tensor(local, dtype=torch.float64, device=device)).tolist()
    terms = len(TERMS)
    tokens, slots, squared_lengths, *happened = map(int, counts[terms:])
    denominators = dict(zip(TERMS, counts[:terms], strict=True))
    return Totals(denominators, tokens, slots, squared_lengths, RankSignals(*happened))


class TrainingStep:
    """Takes optimizer steps.

    Args:
        engine: DeepSpeed engine whose accumulation steps are the recipe's backward passes a step.
        objectives: weights and settings.
        languages: number of languages in the corpus.
        seed: of the run.
        rank, world_size: of this process.
        device: where the model is.
    """

    def __init__(
        self,
        engine: Any,
        objectives: ObjectivesSection,
        *,
        languages: int,
        seed: int,
        rank: int,
        world_size: int,
        device: torch.device,
    ) -> None:
        self._engine, self._objectives, self._languages = engine, objectives, languages
        self._seed, self._rank, self._world_size, self._device = seed, rank, world_size, device
        self._perturbation: EmbeddingPerturbation | None = None
        if objectives.perturbation.weight:
            self._perturbation = EmbeddingPerturbation(engine.module, objectives.perturbation.size)

    @classmethod
    def of(cls, engine: Any, recipe: TrainRecipe, *, languages: int, device: torch.device) -> Self:
        """The steps of a recipe's run, on one of its ranks."""
        return cls(
            engine,
            recipe.objectives,
            languages=languages,
            seed=recipe.run.seed,
            rank=dist.get_rank(),
            world_size=dist.get_world_size(),
            device=device,
        )

    def take(self, batch: RankBatch, totals: Totals, queue: QueuedPairs | None = None) -> StepSums:
        """Forward, backward and update for one global batch; a collective.

        Args:
            batch: this rank's share.
            totals: from `count_totals` for the same batch.
            queue: further negatives for the contrast.
        """
        work = _Work(batch.step, totals, queue, _Counts(self._languages, self._device))
        micro_batches = [to_tensors(part, self._device) for part in batch.micro_batches]
        cached = None
        if self._objectives.contrastive.weight and len(micro_batches) > 1:
            cached = self._contrast_gradients(micro_batches, work)
        for number, tensors in enumerate(micro_batches):
            self._one_micro_batch(number, tensors, work, cached)
        return work.counts.over_ranks(work.seconds)

    def take_by_terms(
        self, batch: RankBatch, totals: Totals, queue: QueuedPairs | None = None
    ) -> tuple[StepSums, dict[str, float]]:
        """`take` with one forward and backward pass a term; needs ZeRO-3, one micro-batch, no perturbation.

        Returns:
            The sums, and norms and cosines of the terms' gradients (mlc.engine.gradient_cosines).
        """
        work = _Work(batch.step, totals, queue, _Counts(self._languages, self._device))
        (tensors,) = (to_tensors(part, self._device) for part in batch.micro_batches)
        names = [name for name in TERMS if getattr(self._objectives, name).weight]
        gradients = TermGradients(self._engine, names)

        def loss_of(name: str) -> Tensor:
            work.counts = _Counts(self._languages, self._device)
            terms = self._terms(self._forward(self._engine, tensors, work.step, 0), tensors, work, None)
            # The others with weight 0: every parameter's gradient is then of this pass.
            alone = {other: replace(term, weight=term.weight * (other == name)) for other, term in terms.items()}
            return joint_loss(alone, self._world_size)

        for name in names:
            gradients.before_term()
            self._backward(partial(loss_of, name), work, after_backward=gradients.after_backward)
        return work.counts.over_ranks(work.seconds), gradients.metrics()

    def _one_micro_batch(self, number: int, tensors: Tensors, work: _Work, cached: _ContrastGradients | None) -> None:
        def loss() -> Tensor:
            outputs = self._forward(self._engine, tensors, work.step, number)
            terms = self._terms(outputs, tensors, work, cached)
            total = joint_loss(terms, self._world_size) if terms else outputs["embeddings"].sum() * 0
            return total if cached is None else total + cached.surrogate(number, outputs, tensors)

        if self._perturbation is None:
            self._backward(loss, work)
            return
        with self._perturbation.recording():
            self._backward(loss, work)
        clean, work.counts = work.counts, _Counts(self._languages, self._device)
        with self._perturbation.applied(tensors["lengths"]):
            self._backward(lambda: self._objectives.perturbation.weight * loss(), work)
        clean.perturbed += work.counts.share_of_j(work.totals, self._objectives)
        work.counts = clean

    def _backward(
        self, loss: Callable[[], Tensor], work: _Work, after_backward: Callable[[], None] = lambda: None
    ) -> None:
        started = time.perf_counter()
        value = no_update_unless_finite(loss())
        forwarded = time.perf_counter()
        # Exactly one backward a forward: under ZeRO-3 a second one would silently lose gradients.
        self._engine.backward(value, scale_wrt_gas=False)
        backwarded = time.perf_counter()
        after_backward()
        self._engine.step()
        work.seconds["forward"] += forwarded - started
        work.seconds["backward"] += backwarded - forwarded
        work.seconds["optimizer"] += time.perf_counter() - backwarded

    def _forward(
        self, model: Any, tensors: Tensors, step: int, micro_batch: int, *, token_heads: bool = True
    ) -> Tensors:
        # Dropout is a function of (seed, step, rank, micro-batch): both passes drop the same, and no generator state
        # has to be saved.
        torch.manual_seed(hash_words(self._seed, "dropout", step, self._rank, micro_batch))
        names = ENCODER_INPUTS + (HEAD_INPUTS if token_heads else ())
        outputs: Tensors = model(**{name: tensors[name] for name in names})
        return outputs

    def _terms(
        self, outputs: Tensors, tensors: Tensors, work: _Work, cached: _ContrastGradients | None
    ) -> dict[str, Term]:
        """The terms of J that this forward pass carries, counted on the way."""
        objectives, terms = self._objectives, {}
        for name in CONTRASTS:
            section = getattr(objectives, name)
            if section.weight and cached is None:
                views, ids = Views.of(outputs["embeddings"], tensors), ViewIds.of(tensors)
                sums = self._contrast(name, views, ids, outputs.get("temperature"), work)
                terms[name] = Term(sums.loss, work.totals.denominators[name], section.weight)
        for name in ("glm", "mlm"):
            if getattr(objectives, name).weight:
                targets, weights = tensors[f"{name}_targets"], tensors[f"{name}_weights"]
                terms[name] = self._token_term(name, outputs[f"{name}_logits"], targets, weights, work)
        if objectives.language_adversary.weight:
            rows = torch.cat([tensors["first_row"], tensors["second_row"]])
            languages = torch.cat([tensors["first_language"], tensors["second_language"]]).clamp(min=0)
            weights = torch.cat([tensors["pooled"], tensors["valid"]]).float()
            logits = outputs["language_logits"][rows]
            terms["language_adversary"] = self._token_term("language_adversary", logits, languages, weights, work)
        return terms

    def _token_term(self, name: str, logits: Tensor, targets: Tensor, weights: Tensor, work: _Work) -> Term:
        sums = token_cross_entropy_sum(logits, targets, weights)
        work.counts.add(name, sums.loss, sums.correct)
        return Term(sums.loss, work.totals.denominators[name], getattr(self._objectives, name).weight)

    def _contrast(
        self, name: str, views: Views, ids: ViewIds, temperature: Tensor | None, work: _Work
    ) -> ContrastiveSums:
        section = getattr(self._objectives, name)
        chosen = section.temperature if temperature is None else temperature
        sums = contrast_over_ranks(views, ids, temperature=chosen, section=section, queue=work.queue, rank=self._rank)
        work.counts.add(name, sums.loss, sums.correct)
        work.counts.add_contrast(sums, ids, chosen)
        return sums

    def _contrast_gradients(self, micro_batches: list[Tensors], work: _Work) -> _ContrastGradients:
        """First pass: embeddings of all micro-batches without a graph, and J's gradient on them."""
        started = time.perf_counter()
        parts, temperature = [], None
        with torch.no_grad():
            for number, tensors in enumerate(micro_batches):
                # The module and not the engine, which would count the pass as one that a backward follows.
                outputs = self._forward(self._engine.module, tensors, work.step, number, token_heads=False)
                parts.append(Views.of(outputs["embeddings"], tensors))
                temperature = outputs.get("temperature")
        views = Views(*(tensor.requires_grad_() for tensor in Views.join(parts).tensors()))
        if temperature is not None:
            temperature = temperature.detach().requires_grad_()
        ids = ViewIds.join([ViewIds.of(tensors) for tensors in micro_batches])
        sums = self._contrast("contrastive", views, ids, temperature, work)
        term = Term(sums.loss, work.totals.denominators["contrastive"], self._objectives.contrastive.weight)
        loss = no_update_unless_finite(joint_loss({"contrastive": term}, self._world_size))
        loss.backward()  # type: ignore[no-untyped-call]
        work.seconds["forward"] += time.perf_counter() - started
        return _ContrastGradients(
            tuple(_gradient(tensor) for tensor in views.tensors()),
            None if temperature is None else _gradient(temperature),
            len(parts[0].first_nE),
        )


@dataclass(frozen=True)
class _ContrastGradients:
    """W x the gradient of the contrast on this rank's views, and on the temperature."""

    of_views: tuple[Tensor, ...]
    of_temperature: Tensor | None
    samples: int
    """Of a micro-batch."""

    def surrogate(self, micro_batch: int, outputs: Tensors, tensors: Tensors) -> Tensor:
        """A number whose gradient is that of the contrast, as far as it goes through this micro-batch."""
        part = slice(micro_batch * self.samples, (micro_batch + 1) * self.samples)
        views = Views.of(outputs["embeddings"], tensors)
        total = outputs["embeddings"].new_zeros(())
        for view, gradient in zip(views.tensors(), self.of_views, strict=True):
            total = total + (view * gradient[part]).sum()
        if self.of_temperature is not None:  # once a step; 0 keeps it in every graph
            total = total + (outputs["temperature"] * self.of_temperature).sum() * float(micro_batch == 0)
        return total


class _Counts:
    """This rank's sums of a step."""

    def __init__(self, languages: int, device: torch.device) -> None:
        self._loss = torch.zeros(len(TERMS), dtype=torch.float64, device=device)
        self._correct = torch.zeros_like(self._loss)
        self._masked = torch.zeros(1, dtype=torch.float64, device=device)
        self._by_language = torch.zeros(3, languages, dtype=torch.float64, device=device)
        self._temperature: float | Tensor | None = None
        self.perturbed = torch.zeros(1, dtype=torch.float64, device=device)

    def add(self, name: str, loss: Tensor, correct: Tensor) -> None:
        self._loss[TERMS.index(name)] += loss.detach()
        self._correct[TERMS.index(name)] += correct

    def add_contrast(self, sums: ContrastiveSums, ids: ViewIds, temperature: float | Tensor) -> None:
        self._masked += sums.masked
        self._by_language += by_language(sums, ids, self._by_language.shape[1])
        self._temperature = temperature.detach() if isinstance(temperature, Tensor) else temperature

    def share_of_j(self, totals: Totals, objectives: ObjectivesSection) -> Tensor:
        """What the sums so far add to J."""
        weights = [getattr(objectives, name).weight / max(1.0, count) for name, count in totals.denominators.items()]
        return self._loss @ self._loss.new_tensor(weights)

    def over_ranks(self, seconds: dict[str, float]) -> StepSums:
        """With one collective."""
        parts = [self._loss, self._correct, self._masked, self.perturbed, self._by_language.flatten()]
        summed = sum_over_ranks(torch.cat(parts)).cpu()
        loss, correct, masked, perturbed, languages = summed.split([len(part) for part in parts])
        return StepSums(
            loss=dict(zip(TERMS, loss.tolist(), strict=True)),
            correct=dict(zip(TERMS, correct.tolist(), strict=True)),
            masked_negatives=float(masked),
            by_language=languages.view_as(self._by_language),
            temperature=None if self._temperature is None else float(self._temperature),
            perturbed=float(perturbed),
            seconds=seconds,
        )


@dataclass
class _Work:
    """What the parts of one step share."""

    step: int
    totals: Totals
    queue: QueuedPairs | None
    counts: _Counts
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("forward", "backward", "optimizer"), 0.0))


def to_tensors(batch: MicroBatch, device: torch.device) -> Tensors:
    """What the model and the losses need of a batch, as tensors on `device`, by field name."""
    arrays = {name: getattr(batch, name) for name in batch.__slots__}
    return {
        name: torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)
        for name, array in arrays.items()
    }


def no_update_unless_finite(loss: Tensor) -> Tensor:
    """The loss; one that is not finite gets a gradient that is not, so that no rank makes an update of this step."""
    return loss * torch.where(torch.isfinite(loss.detach()), 1.0, torch.nan)


def _gradient(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
