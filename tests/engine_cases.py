"""Steps of the real engine on made-up shards, and the same steps by one plain process in float64.

The reference writes J out with the losses of naive_objectives; it shares with the engine the model's forward pass and
the batch of one rank, and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import torch
from naive_objectives import Further, Pair, naive_info_nce, naive_token_loss
from recipes_for_tests import ROOT, train_recipe
from torch import Tensor, nn

from mlc.data.batches import BatchBuilder, MicroBatch, RankBatch, longest_row
from mlc.data.corpus import Corpus
from mlc.data.manifest import Manifest
from mlc.distributed.queue import QueuedPairs
from mlc.recipe import TrainRecipe
from mlc.recipe_objectives import InfoNceSection

QUEUED_PAIRS = 9
INPUTS = ("input_ids", "lengths", "part_a_lengths", "positions", "block_positions", "glm_index", "mlm_index")
OFF: dict[str, Any] = {"contrastive": {"weight": 0.0}, "glm": {"weight": 0.0}, "mlm": {"weight": 0.0}}
SOURCES = [
    {"kind": "documents", "view": "translations"},
    {"kind": "pairs", "view": "pair"},
    {"kind": "documents", "view": "text", "weight": 0.5},
]
RANKED = [*SOURCES, {"kind": "documents", "view": "ranked", "weight": 2.0}]


@dataclass(frozen=True)
class EngineCase:
    """One recipe; its objectives are added to a joint one of weights 1, 0.5 and 0.25."""

    name: str
    objectives: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    precision: str = "fp32"
    queue: bool = False
    by_terms: bool = False
    """The step of log.gradient_cosine_every."""
    stages: tuple[int, ...] = (3,)
    world_sizes: tuple[int, ...] = (2, 3)

    @property
    def micro_batch_negatives(self) -> bool:
        return "micro_batch_contrastive" in self.objectives

    def recipe(self, shards: str, stage: int) -> TrainRecipe:
        weights = {"contrastive": {"weight": 1.0}, "glm": {"weight": 0.5}, "mlm": {"weight": 0.25}}
        return train_recipe(
            run={"precision": self.precision},
            data={"shards": shards, "samples_per_step": 40, "sources": SOURCES, **self.data},
            model={"projection_size": 16, **self.model},
            objectives={**weights, **self.objectives},
            optimizer={"learning_rate": 1e-12, "gradient_clipping": 0.0},
            deepspeed={"config": str(ROOT / "ds_configs" / f"zero{stage}.json")},
        )


ALL_STAGES, ALL_SIZES = (1, 2, 3), (1, 2, 3, 4)
LEARNED = {"weight": 1.0, "learn_temperature": True, "temperature": 0.2}
CASES = [
    EngineCase("joint", stages=ALL_STAGES, world_sizes=ALL_SIZES),
    EngineCase("joint in bf16", precision="bf16", stages=ALL_STAGES),
    EngineCase(
        "negatives of the micro-batch",
        {**OFF, "micro_batch_contrastive": {"weight": 1.0}, "mlm": {"weight": 0.25}},
        {"micro_batches": 3},
        stages=(2, 3),
    ),
    EngineCase("two passes over 4 micro-batches", {}, {"micro_batches": 4}, world_sizes=(1, 4)),
    EngineCase("contrastive one-way", {**OFF, "contrastive": {"weight": 1.0, "symmetric": False}}, stages=ALL_STAGES),
    EngineCase("glm", {**OFF, "glm": {"weight": 1.0}}, stages=ALL_STAGES),
    EngineCase("mlm", {**OFF, "mlm": {"weight": 1.0}}, stages=ALL_STAGES),
    EngineCase("tokens in 3 micro-batches", {"contrastive": {"weight": 0.0}}, {"micro_batches": 3}, stages=ALL_STAGES),
    EngineCase(
        "two passes over 2 micro-batches",
        {"contrastive": LEARNED},
        {"micro_batches": 2},
        stages=ALL_STAGES,
        world_sizes=ALL_SIZES,
    ),
    EngineCase("two passes over 4 micro-batches in bf16", {}, {"micro_batches": 4}, precision="bf16"),
    EngineCase("two passes, contrast alone", {**OFF, "contrastive": {"weight": 1.0}}, {"micro_batches": 3}),
    EngineCase("learned temperature", {"contrastive": LEARNED}, stages=ALL_STAGES),
    EngineCase("decoupled with a margin", {"contrastive": {"weight": 1.0, "decoupled": True, "margin": 0.2}}),
    EngineCase("negatives of the same language", {"contrastive": {"weight": 1.0, "negatives": "same_language"}}),
    EngineCase("negatives of other languages", {"contrastive": {"weight": 1.0, "negatives": "cross_language"}}),
    EngineCase("hard negatives", {"contrastive": {"weight": 1.0, "hard_negatives": 2}}, {"sources": RANKED}),
    EngineCase("queue", queue=True),
    EngineCase(
        "queue and hard negatives in two passes",
        {"contrastive": {**LEARNED, "hard_negatives": 1, "negatives": "same_language"}},
        {"sources": RANKED, "micro_batches": 2},
        queue=True,
    ),
    EngineCase("clean contrast", {"contrastive": {"weight": 1.0, "clean_text": True}}),
    EngineCase("joined views", {"join_views": True}, {"micro_batches": 2}),
    EngineCase(
        "all kinds of blanks",
        {"glm": {"weight": 0.5, "token_share": 0.4, "sentence_share": 0.3, "document_share": 0.3}},
    ),
    EngineCase("attention pooling", model={"pooling": "attention"}),
    EngineCase("contrast at layer 1", model={"layer": 1}, data={"micro_batches": 2}),
    EngineCase("language adversary", {"language_adversary": {"weight": 0.3, "reversal": 0.7, "hidden_size": 8}}),
    EngineCase(
        "language adversary in two passes",
        {"language_adversary": {"weight": 0.3, "hidden_size": 8}},
        {"micro_batches": 2},
        stages=(2, 3),
    ),
    EngineCase("term by term", by_terms=True, queue=True),
    EngineCase("term by term in bf16", by_terms=True, precision="bf16"),
    EngineCase("perturbed embeddings", {"perturbation": {"weight": 0.5, "size": 0.3}}, stages=ALL_STAGES),
]


def rank_batch(recipe: TrainRecipe, manifest: Manifest, rank: int, world_size: int) -> RankBatch:
    corpus = Corpus(recipe.data, manifest, seed=recipe.run.seed)
    builder = BatchBuilder.of(recipe, corpus, rank=rank, world_size=world_size)
    return builder.build(0)


def whole_batch(recipe: TrainRecipe, manifest: Manifest) -> MicroBatch:
    """The global batch as one micro-batch of one rank."""
    one = recipe.model_copy(update={"data": recipe.data.model_copy(update={"micro_batches": 1})})
    (batch,) = rank_batch(one, manifest, 0, 1).micro_batches
    return batch


def queued_pairs(batch: MicroBatch, width: int) -> QueuedPairs:
    """A made-up queue that shares some groups and texts with the batch; the same in every process."""
    random = torch.Generator().manual_seed(11)

    def some(*columns: Any) -> Tensor:
        known = torch.cat([torch.from_numpy(column) for column in columns])
        chosen = known[torch.randint(0, len(known), (QUEUED_PAIRS,), generator=random)]
        return torch.where(torch.rand(QUEUED_PAIRS, generator=random) < 0.3, chosen, 10**9 + torch.arange(QUEUED_PAIRS))

    first, second = torch.nn.functional.normalize(torch.randn(2, QUEUED_PAIRS, width, generator=random), dim=-1)
    languages = torch.randint(0, 3, (2, QUEUED_PAIRS), generator=random)
    return QueuedPairs(
        first_QE=first,
        second_QE=second,
        group=some(batch.group),
        first_text=some(batch.first_text, batch.second_text),
        second_text=some(batch.first_text, batch.second_text),
        first_language=languages[0],
        second_language=languages[1],
        valid=torch.rand(QUEUED_PAIRS, generator=random) < 0.8,
        step=torch.zeros(QUEUED_PAIRS, dtype=torch.int64),
    )


@dataclass(frozen=True)
class Step:
    """What a step gave: losses by term, and the gradient by parameter."""

    losses: dict[str, float]
    gradients: dict[str, Tensor]
    cosines: dict[str, float] = field(default_factory=dict)
    """Norms and cosines of the terms' gradients."""


def steps_of_engine(shards: str, cases: list[EngineCase]) -> dict[tuple[str, int], Step]:
    """On every rank: each case in each of its stages, with full gradients."""
    from deepspeed.utils import safe_get_full_grad

    from mlc.distributed.ranks import find_ranks
    from mlc.engine.construct import engine_for, prepare_process, start_process_group
    from mlc.engine.step import TrainingStep, count_totals

    ranks, manifest, found = find_ranks(os.environ), Manifest.read(shards), {}
    for case in cases:
        for stage in case.stages:
            recipe = case.recipe(shards, stage)
            device = prepare_process(recipe, ranks)
            if not torch.distributed.is_initialized():
                start_process_group()
            corpus = Corpus(recipe.data, manifest, seed=recipe.run.seed)
            engine = engine_for(recipe, ranks, corpus, device)
            gradients: dict[str, Tensor] = {}
            take_step = engine.step

            def step(engine: Any = engine, gradients: dict = gradients, take_step: Callable = take_step) -> None:
                # At the last backward of the step, before the optimizer drops them.
                if engine.is_gradient_accumulation_boundary():
                    for name, parameter in engine.module.named_parameters():
                        gradient = safe_get_full_grad(parameter)
                        if gradient is not None:
                            gradients[name] = gradient.clone()
                take_step()

            engine.step = step
            batch = rank_batch(recipe, manifest, ranks.rank, ranks.world_size)
            totals = count_totals(batch, device=device)
            queue = queued_pairs(whole_batch(recipe, manifest), 16) if case.queue else None
            step_taker = TrainingStep.of(engine, recipe, languages=len(corpus.languages), device=device)
            cosines: dict[str, float] = {}
            if case.by_terms:
                sums, cosines = step_taker.take_by_terms(batch, totals, queue)
            else:
                sums = step_taker.take(batch, totals, queue)
            losses = {name: sums.loss[name] / max(1.0, count) for name, count in totals.denominators.items()}
            found[case.name, stage] = Step({**losses, "perturbation": sums.perturbed}, gradients, cosines)
            engine.destroy()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    return found


def plain_model(recipe: TrainRecipe, manifest: Manifest) -> nn.Module:
    """The model of a run with its initial weights, fp32, without DeepSpeed."""
    from mlc.model.build import build_training_model
    from mlc.model.initialise import start_from_frequencies

    corpus = Corpus(recipe.data, manifest, seed=recipe.run.seed)
    model = build_training_model(
        recipe.model,
        vocab_size=manifest.tokenizer.vocab_size,
        special_ids=manifest.tokenizer.special_ids,
        max_positions=longest_row(recipe.data, recipe.objectives),
        seed=recipe.run.seed,
        objectives=recipe.objectives,
        num_languages=len(corpus.languages),
    )
    start_from_frequencies(
        model,
        torch.from_numpy(corpus.token_counts(manifest.tokenizer.vocab_size)),
        blank_end=manifest.tokenizer.special_ids["[eop]"],
        mean_blank_tokens=recipe.objectives.glm.mean_span_tokens,
    )
    return model


def reference_step(case: EngineCase, manifest: Manifest, world_size: int) -> Step:
    """One process, the whole batch at once, float64, the formulas; `world_size` is that of the engine."""
    recipe = case.recipe(str(manifest.folder), 3)
    batch = whole_batch(recipe, manifest)
    queue = queued_pairs(batch, 16) if case.queue else None
    model = plain_model(recipe, manifest).double()
    if case.precision == "bf16":  # the weights that the engine computes with, so that only its arithmetic differs
        for parameter in model.parameters():
            parameter.data = parameter.data.bfloat16().double()
    weight = recipe.objectives.perturbation.weight
    together = _negatives_of(recipe, manifest, world_size)
    cosines: dict[str, float] = {}
    if not weight:
        losses = _losses(recipe, model, batch, queue, together)
        cosines = _norms_and_cosines(recipe, losses, list(model.parameters())) if case.by_terms else {}
        _joint(recipe, losses).backward()
    else:
        embedding = model.backbone.get_input_embeddings()  # type: ignore[union-attr, operator]
        with _seen(embedding) as seen:
            losses = _losses(recipe, model, batch, queue, together)
        _joint(recipe, losses).backward()
        step = _steps_along_gradient(seen[0], batch.lengths.tolist(), recipe.objectives.perturbation.size)
        handle = embedding.register_forward_hook(lambda module, inputs, output: output + step)
        perturbed = _joint(recipe, _losses(recipe, model, batch, queue, together))
        handle.remove()
        (weight * perturbed).backward()
        losses["perturbation"] = perturbed
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return Step({name: float(loss.detach()) for name, loss in losses.items()}, gradients, cosines)


def _norms_and_cosines(recipe: TrainRecipe, losses: Mapping[str, Tensor], parameters: list[Any]) -> dict[str, float]:
    flat = {}
    for name, loss in losses.items():
        weighted = getattr(recipe.objectives, name).weight * loss
        parts = torch.autograd.grad(weighted, parameters, retain_graph=True, allow_unused=True)
        flat[name] = torch.cat(
            [
                torch.zeros_like(p).flatten() if part is None else part.flatten()
                for p, part in zip(parameters, parts, strict=True)
            ]
        )
    found = {f"gradient_norm/{name}": float(gradient.norm()) for name, gradient in flat.items()}
    for one, other in combinations(flat, 2):
        cosine = torch.nn.functional.cosine_similarity(flat[one], flat[other], dim=0)
        found[f"gradient_cosine/{one}/{other}"] = float(cosine)
    return found


def one_graph_with_dropout(recipe: TrainRecipe, model: nn.Module, manifest: Manifest) -> Step:
    """All micro-batches of one process in one graph, fp32; what is dropped is decided micro-batch by micro-batch."""
    from mlc.data.randomness import hash_words

    model.zero_grad()
    parts, pairs = rank_batch(recipe, manifest, 0, 1).micro_batches, []
    for number, part in enumerate(parts):
        torch.manual_seed(hash_words(recipe.run.seed, "dropout", 0, 0, number))
        rows = model(**{name: torch.from_numpy(getattr(part, name)) for name in INPUTS})["embeddings"].double()
        names = ("group", "first_text", "second_text")
        pairs += [
            Pair(rows[part.first_row[n]], rows[part.second_row[n]], *(int(getattr(part, name)[n]) for name in names))
            for n in range(len(part.valid))
            if part.valid[n]
        ]
    section = recipe.objectives.contrastive
    loss = naive_info_nce(pairs, section.temperature, section.symmetric).loss / len(pairs)
    loss.backward()
    gradients = {name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None}
    return Step({"contrastive": float(loss.detach())}, gradients)


def _losses(
    recipe: TrainRecipe, model: nn.Module, batch: MicroBatch, queue: QueuedPairs | None, together: list[set[int]]
) -> dict[str, Tensor]:
    """Every term of J that is on, over the whole batch."""
    outputs = model(**{name: torch.from_numpy(getattr(batch, name)) for name in INPUTS})
    objectives, losses = recipe.objectives, {}
    embeddings = outputs["embeddings"]
    if objectives.contrastive.weight:
        real = [n for n in range(len(batch.valid)) if batch.valid[n]]
        losses["contrastive"] = _contrast(objectives.contrastive, outputs, batch, real, queue) / len(real)
    if objectives.micro_batch_contrastive.weight:
        groups = [
            [n for n in range(len(batch.valid)) if batch.valid[n] and batch.samples[n] in some] for some in together
        ]
        sums = [_contrast(objectives.micro_batch_contrastive, outputs, batch, members, None) for members in groups]
        losses["micro_batch_contrastive"] = torch.stack(sums).sum() / sum(map(len, groups))
    for name in ("glm", "mlm"):
        if getattr(objectives, name).weight:
            kept = getattr(batch, f"{name}_weights") > 0
            logits = [row for row, real in zip(outputs[f"{name}_logits"], kept, strict=True) if real]
            targets = getattr(batch, f"{name}_targets")[kept].tolist()
            losses[name] = naive_token_loss(logits, targets) / max(1, len(targets))
    if objectives.language_adversary.weight:
        guessed = [(batch.first_row[n], batch.first_language[n]) for n in range(len(batch.pooled)) if batch.pooled[n]]
        guessed += [(batch.second_row[n], batch.second_language[n]) for n in range(len(batch.valid)) if batch.valid[n]]
        logits = [outputs["language_logits"][row] for row, _ in guessed]
        assert len(embeddings) == len(outputs["language_logits"])
        losses["language_adversary"] = naive_token_loss(logits, [int(code) for _, code in guessed]) / len(guessed)
    return losses


def _negatives_of(recipe: TrainRecipe, manifest: Manifest, world_size: int) -> list[set[int]]:
    """Samples of the k-th micro-batches of all ranks, for every k."""
    batches = [rank_batch(recipe, manifest, rank, world_size).micro_batches for rank in range(world_size)]
    return [
        {int(sample) for of_rank in batches for sample in of_rank[number].samples if sample >= 0}
        for number in range(recipe.data.micro_batches)
    ]


def _contrast(
    section: InfoNceSection,
    outputs: Mapping[str, Tensor],
    batch: MicroBatch,
    real: list[int],
    queue: QueuedPairs | None,
) -> Tensor:
    """Sum over the pairs `real`, which are one another's negatives."""
    embeddings = outputs["embeddings"]
    names = ("group", "first_text", "second_text", "first_language", "second_language")
    pairs = [
        Pair(
            embeddings[batch.first_row[n]],
            embeddings[batch.second_row[n]],
            *(int(getattr(batch, name)[n]) for name in names),
        )
        for n in real
    ]
    more_second = [
        Further(embeddings[batch.hard_row[n, h]], -1, int(batch.hard_text[n, h]), -1, int(batch.second_language[n]))
        for n in real
        for h in range(batch.hard_row.shape[1])
        if batch.hard_valid[n, h]
    ]
    more_first = []
    for q in range(QUEUED_PAIRS if queue is not None else 0):
        assert queue is not None
        if queue.valid[q]:
            texts, group = (int(queue.first_text[q]), int(queue.second_text[q])), int(queue.group[q])
            more_second.append(
                Further(queue.second_QE[q].double(), group, texts[1], texts[0], int(queue.second_language[q]))
            )
            more_first.append(
                Further(queue.first_QE[q].double(), group, texts[0], texts[1], int(queue.first_language[q]))
            )
    sums = naive_info_nce(
        pairs,
        outputs["temperature"][0] if section.learn_temperature else section.temperature,
        section.symmetric,
        decoupled=section.decoupled,
        margin=section.margin,
        negatives=section.negatives,
        more_second=more_second,
        more_first=more_first,
    )
    return sums.loss


def _joint(recipe: TrainRecipe, losses: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([getattr(recipe.objectives, name).weight * loss for name, loss in losses.items()]).sum()


@contextmanager
def _seen(embedding: nn.Module) -> Iterator[list[Tensor]]:
    """The outputs of a module, which will keep their gradients."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
        output.retain_grad()
        seen.append(output)

    handle = embedding.register_forward_hook(keep)
    yield seen
    handle.remove()


def _steps_along_gradient(states_TD: Tensor, lengths: list[int], size: float) -> Tensor:
    assert states_TD.grad is not None
    steps = []
    for states, gradient in zip(states_TD.detach().split(lengths), states_TD.grad.split(lengths), strict=True):
        length = size * sum(float(state.norm()) for state in states) / len(states)
        norm = float(gradient.norm())
        steps.append(gradient * (length / norm) if norm else torch.zeros_like(gradient))
    return torch.cat(steps)
