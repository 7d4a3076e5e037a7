"""J of one global batch and its gradient, by one process in float64: what `mlc check gradients` compares with.

In:  the model without DeepSpeed, the whole global batch as one micro-batch, which samples share a micro-batch.
Out: J and its gradient by parameter.

The formulas are written out once more, with dense matrices and explicit masks. Nothing is shared with mlc.objectives
or with the training step: what is wrong there must not be wrong here too. The model's forward pass and the batch are
shared.
Letters: n = samples of the global batch, N = anchors, C = candidates, E = width of the embeddings, T = tokens,
D = width of the model, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from mlc.data.batches import MicroBatch, longest_row
from mlc.data.corpus import Corpus
from mlc.distributed.queue import QueuedPairs
from mlc.model.build import build_training_model
from mlc.model.initialise import start_from_frequencies
from mlc.model.training_model import TrainingModel
from mlc.recipe import TrainRecipe
from mlc.recipe_objectives import InfoNceSection, ObjectivesSection

INPUTS = ("input_ids", "lengths", "part_a_lengths", "positions", "block_positions", "glm_index", "mlm_index")
"""Fields of a micro-batch that the model reads."""

MODEL_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class StepGradient:
    """J of one global batch, and its gradient by parameter name; a parameter that is missing has none."""

    loss: float
    gradients: dict[str, Tensor]


@dataclass(frozen=True)
class Texts:
    """Embedded texts and who they are; ids are int64 of one length."""

    embedding_CE: Tensor
    group: Tensor
    text: Tensor
    partner: Tensor
    """Hash of the text it belongs with; -1 = none."""
    language: Tensor

    def take(self, index: Tensor) -> Texts:
        """Some of them; `index` holds places or flags."""
        return Texts(*(getattr(self, field.name)[index] for field in fields(self)))

    def beside(self, others: Sequence[Texts]) -> Texts:
        """These, then the others."""
        return Texts(*(torch.cat([getattr(texts, field.name) for texts in (self, *others)]) for field in fields(self)))


@dataclass(frozen=True)
class GlobalBatch:
    """Everything J is a function of, beside the model.

    Attributes:
        tensors: fields of the whole batch as one `MicroBatch`.
        part: (n,) number of the micro-batch that holds the sample, on whichever rank.
        queue: further pairs for the contrast.
    """

    tensors: Mapping[str, Tensor]
    part: Tensor
    queue: QueuedPairs | None

    @classmethod
    def of(
        cls, batch: MicroBatch, part_of_sample: Mapping[int, int], queue: QueuedPairs | None, device: torch.device
    ) -> GlobalBatch:
        """Of arrays; a sample that `part_of_sample` leaves out is in micro-batch 0."""
        tensors = {name: torch.from_numpy(getattr(batch, name)).to(device) for name in batch.__slots__}
        part = [part_of_sample.get(int(sample), 0) for sample in batch.samples]
        return cls(tensors, torch.tensor(part, device=device), queue)


def plain_model(recipe: TrainRecipe, corpus: Corpus, token_counts: Tensor, device: torch.device) -> TrainingModel:
    """The model of a run with its initial weights, in float64 and without DeepSpeed.

    Below fp32 they are first rounded to the precision of the run, as the run's own are: then what differs is
    arithmetic alone.

    Args:
        recipe: resolved recipe.
        corpus: of the run.
        token_counts: of the run's texts, (V,).
        device: where it is to be.
    """
    tokenizer = corpus.manifest.tokenizer
    model = build_training_model(
        recipe.model,
        vocab_size=tokenizer.vocab_size,
        special_ids=tokenizer.special_ids,
        max_positions=longest_row(recipe.data, recipe.objectives),
        seed=recipe.run.seed,
        objectives=recipe.objectives,
        num_languages=len(corpus.languages),
    )
    start_from_frequencies(
        model,
        token_counts,
        blank_end=tokenizer.special_ids["[eop]"],
        mean_blank_tokens=recipe.objectives.glm.mean_span_tokens,
    )
    return model.to(MODEL_DTYPES[recipe.run.precision]).to(device, torch.float64)


def reference_step(model: TrainingModel, objectives: ObjectivesSection, batch: GlobalBatch) -> StepGradient:
    """J and its gradient, the whole batch in one graph; with perturbation in two.

    Args:
        model: float64, no gradients yet.
        objectives: the recipe's section.
        batch: the global batch, where the model is.
    """
    inputs = {name: batch.tensors[name] for name in INPUTS}

    def joint() -> Tensor:
        terms = _terms(objectives, model(**inputs), batch)
        return torch.stack([getattr(objectives, name).weight * term for name, term in terms.items()]).sum()

    if objectives.perturbation.weight:
        loss = _with_perturbation(model, objectives, batch.tensors["lengths"].tolist(), joint)
    else:
        total = joint()
        total.backward()  # type: ignore[no-untyped-call]
        loss = float(total.detach())
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return StepGradient(loss, found)


def info_nce(
    first: Texts,
    second: Texts,
    section: InfoNceSection,
    temperature: float | Tensor,
    *,
    more_second: Sequence[Texts] = (),
    more_first: Sequence[Texts] = (),
) -> Tensor:
    """InfoNCE summed over pairs, mean of the directions if symmetric; formula: `mlc.recipe_objectives.InfoNceSection`.

    Args:
        first, second: the two views of N valid pairs.
        section: which InfoNCE.
        temperature: a tensor may carry gradient.
        more_second, more_first: further candidates for the first and for the second views.
    """
    forward = _one_direction(first, second, second.beside(more_second), section, temperature)
    if not section.symmetric:
        return forward
    return (forward + _one_direction(second, first, first.beside(more_first), section, temperature)) / 2


def _one_direction(
    anchors: Texts, answers: Texts, candidates: Texts, section: InfoNceSection, temperature: float | Tensor
) -> Tensor:
    """The first N candidates are the answers."""
    logits_NC = anchors.embedding_CE @ candidates.embedding_CE.T / temperature
    own_NC = torch.eye(*logits_NC.shape, dtype=torch.bool, device=logits_NC.device)
    group, text, partner = (ids[:, None] for ids in (anchors.group, anchors.text, anchors.partner))
    copy_NC = (group >= 0) & (group == candidates.group)
    copy_NC |= (partner == candidates.text) | (text == candidates.text) | (text == candidates.partner)
    negative_NC = ~own_NC & ~copy_NC
    same_language_NC = answers.language[:, None] == candidates.language
    if section.negatives == "same_language":
        negative_NC &= same_language_NC
    elif section.negatives == "cross_language":
        negative_NC &= ~same_language_NC
    logits_NC = logits_NC - own_NC * (section.margin / temperature)
    positive_N = logits_NC.diagonal()
    in_denominator_NC = negative_NC if section.decoupled else negative_NC | own_NC
    rows = negative_NC.any(dim=1).nonzero().squeeze(1)  # without a negative there is no loss
    denominator = logits_NC[rows].masked_fill(~in_denominator_NC[rows], -torch.inf).logsumexp(dim=1)
    return (denominator - positive_N[rows]).sum()


def _terms(objectives: ObjectivesSection, outputs: Mapping[str, Tensor], batch: GlobalBatch) -> dict[str, Tensor]:
    """Every term of J that is on: its sum over the global batch by its global count."""
    tensors, terms = batch.tensors, {}
    pairs = int(tensors["valid"].sum())
    if objectives.contrastive.weight:
        everything = torch.ones_like(tensors["valid"])
        terms["contrastive"] = _contrast(objectives.contrastive, outputs, batch, everything) / max(1, pairs)
    if objectives.micro_batch_contrastive.weight:
        parts = [batch.part == number for number in batch.part.unique()]
        sums = [_contrast(objectives.micro_batch_contrastive, outputs, batch, part) for part in parts]
        terms["micro_batch_contrastive"] = torch.stack(sums).sum() / max(1, pairs)
    for name in ("glm", "mlm"):
        if getattr(objectives, name).weight:
            real = tensors[f"{name}_weights"] > 0
            terms[name] = _mean_cross_entropy(outputs[f"{name}_logits"][real], tensors[f"{name}_targets"][real])
    if objectives.language_adversary.weight:
        pooled, valid = tensors["pooled"], tensors["valid"]
        rows = torch.cat([tensors["first_row"][pooled], tensors["second_row"][valid]])
        languages = torch.cat([tensors["first_language"][pooled], tensors["second_language"][valid]])
        terms["language_adversary"] = _mean_cross_entropy(outputs["language_logits"][rows], languages)
    return terms


def _mean_cross_entropy(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    right_N = logits_NV.gather(1, targets_N[:, None]).squeeze(1)
    return (logits_NV.logsumexp(dim=1) - right_N).sum() / max(1, len(targets_N))


def _contrast(section: InfoNceSection, outputs: Mapping[str, Tensor], batch: GlobalBatch, members: Tensor) -> Tensor:
    """InfoNCE summed over the valid pairs among `members`, which see one another and their hard negatives."""
    t, embeddings = batch.tensors, outputs["embeddings"]
    chosen = t["valid"] & members
    first = Texts(embeddings[t["first_row"]], t["group"], t["first_text"], t["second_text"], t["first_language"])
    second = Texts(embeddings[t["second_row"]], t["group"], t["second_text"], t["first_text"], t["second_language"])
    none = torch.full_like(t["hard_text"], -1)
    language = t["second_language"][:, None].expand_as(none)
    hard = Texts(embeddings[t["hard_row"]], none, t["hard_text"], none, language)
    more_second, more_first = [hard.take(t["hard_valid"] & members[:, None])], []
    if batch.queue is not None:
        q = batch.queue
        queued = (
            Texts(q.second_QE.to(embeddings), q.group, q.second_text, q.first_text, q.second_language),
            Texts(q.first_QE.to(embeddings), q.group, q.first_text, q.second_text, q.first_language),
        )
        more_second.append(queued[0].take(q.valid))
        more_first.append(queued[1].take(q.valid))
    temperature = outputs["temperature"][0] if section.learn_temperature else section.temperature
    return info_nce(
        first.take(chosen),
        second.take(chosen),
        section,
        temperature,
        more_second=more_second,
        more_first=more_first,
    )


def _with_perturbation(
    model: TrainingModel, objectives: ObjectivesSection, lengths: list[int], joint: Callable[[], Tensor]
) -> float:
    """J, and J once more on token embeddings moved along their gradient (Miyato et al. 2017, eq. 5); backward of both.

    Args:
        model: its parameters get the gradient of the sum.
        objectives: the recipe's section.
        lengths: tokens of each row that are looked up.
        joint: one forward pass to J.

    Returns:
        The sum.
    """
    embedding: nn.Module = model.backbone.get_input_embeddings()  # type: ignore[operator]
    section = objectives.perturbation
    with _output_of(embedding) as seen:
        clean = joint()
    clean.backward()  # type: ignore[no-untyped-call]
    step = _step_along_gradient(seen[0], lengths, section.size)
    handle = embedding.register_forward_hook(lambda module, inputs, output: output + step)
    try:
        perturbed = joint()
    finally:
        handle.remove()
    (section.weight * perturbed).backward()
    return float(clean.detach()) + section.weight * float(perturbed.detach())


@contextmanager
def _output_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """Outputs of a module, which will keep their gradients."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
        output.retain_grad()
        seen.append(output)

    handle = module.register_forward_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


def _step_along_gradient(states: Tensor, lengths: list[int], size: float) -> Tensor:
    """Row by row: size x the mean norm of its tokens, in the direction of the row's gradient.

    Args:
        states: token embeddings with their gradient, (T, D) without padding or (rows, columns, D) padded on the right.
        lengths: tokens of each row.
        size: of the step.
    """
    gradients = states.grad
    assert gradients is not None
    starts = [sum(lengths[:row]) for row in range(len(lengths))]
    step = torch.zeros_like(gradients)
    for row, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        place = slice(start, start + length) if states.ndim == 2 else (row, slice(0, length))
        mean_norm = states.detach()[place].norm(dim=-1).sum() / max(1, length)
        norm = gradients[place].norm()
        if norm > 0:
            step[place] = gradients[place] * (size * mean_norm / norm)
    return step
