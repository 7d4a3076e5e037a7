"""`mlc check gradients`: is the gradient that DeepSpeed hands to the optimizer that of the whole global batch?

In:  a training recipe; the ranks of this process.
Out: a table, perhaps a JSON file, and an exit code (0 = within tolerance, 1 = not).

Every objective of the recipe is checked alone, then all together, with the recipe's shards, ranks, micro-batches, ZeRO
file, precision and device: the gradient of step 0 on all ranks against one process in float64 (mlc.engine.reference).
What would make the check slow or random is made small or switched off, and said: depth, samples, dropout, the queue.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from torch import Tensor
from transformers import AutoConfig

from mlc.config import Section
from mlc.data.batches import BatchBuilder, MicroBatch, RankBatch
from mlc.data.corpus import Corpus
from mlc.distributed.agree import from_rank_0
from mlc.distributed.queue import QueuedPairs
from mlc.distributed.ranks import RankInfo
from mlc.engine.construct import build_engine, prepare_process, start_process_group
from mlc.engine.gradient_report import CheckedStep, ObjectiveResult, compare, print_report, write_report
from mlc.engine.preflight import check_run
from mlc.engine.reference import GlobalBatch, StepGradient, plain_model, reference_step
from mlc.engine.step import TERMS, TrainingStep, count_totals
from mlc.engine.step_metrics import objective_metrics
from mlc.errors import EXIT_FAILED, RecipeError, UsageError
from mlc.model.registration import register_auto_classes
from mlc.model.training_model import TrainingModel
from mlc.recipe import ModelSection, TrainRecipe

TOLERANCES = {"fp32": 1e-5, "bf16": 2e-2, "fp16": 1e-2}
"""Largest relative error by precision; reasons and measurements: docs/gradients.md."""
SAMPLES_PER_RANK = 64
QUEUED_PAIRS = 16
"""Of the made-up queue."""
FP16_ATTEMPTS = 24
"""Steps that may overflow: DeepSpeed starts at a loss scale of 2 ** 16 and halves it after each but the first."""


@dataclass(frozen=True)
class CheckSettings:
    """What the command line says.

    Attributes:
        samples: of the global batch; None = the recipe's, at most `SAMPLES_PER_RANK` a rank.
        layers: the model's depth, at most.
        tolerance: largest relative error; None = by precision.
        json_file: where the result is written; None = nowhere.
    """

    samples: int | None = None
    layers: int = 2
    tolerance: float | None = None
    json_file: Path | None = None


@dataclass(frozen=True)
class _Place:
    """What the checks of all objectives share."""

    ranks: RankInfo
    corpus: Corpus
    token_counts: Tensor
    device: torch.device
    queue_width: int
    """Of the made-up queue's embeddings; 0 = no queue."""
    tolerance: float


def check_gradients(recipe: TrainRecipe, ranks: RankInfo, settings: CheckSettings) -> int:
    """Check a recipe's gradients; a collective. Rank 0 prints, and writes `settings.json_file`.

    Returns:
        0, or 1 beyond tolerance; the same on every rank.

    Raises:
        MlcError: refused before a model was built, or rank 0 failed.
    """
    manifest = check_run(recipe, ranks.world_size)
    with tempfile.TemporaryDirectory(prefix="mlc-check-") as folder:
        small, notes = small_recipe(recipe, ranks.world_size, settings, Path(folder))
        device = prepare_process(small, ranks)
        corpus = Corpus(small.data, manifest, seed=small.run.seed)
        place = _Place(
            ranks,
            corpus,
            torch.from_numpy(corpus.token_counts(manifest.tokenizer.vocab_size)),
            device,
            queue_width=_width(small.model) if recipe.objectives.contrastive.queue.size else 0,
            tolerance=TOLERANCES[small.run.precision] if settings.tolerance is None else settings.tolerance,
        )
        start_process_group()
        try:
            return _check(small, place, notes, settings)
        finally:
            dist.destroy_process_group()


def small_recipe(
    recipe: TrainRecipe, world_size: int, settings: CheckSettings, folder: Path
) -> tuple[TrainRecipe, list[str]]:
    """The recipe as it is checked, and in words what was changed.

    Args:
        recipe: resolved recipe.
        world_size: number of ranks.
        settings: samples and layers.
        folder: where the configuration of a shallower Hugging Face encoder may be written; empty.

    Raises:
        RecipeError: the model comes with weights.
        UsageError: fewer samples than ranks x micro-batches.
    """
    least, notes = world_size * recipe.data.micro_batches, []
    samples = settings.samples or max(least, min(recipe.data.samples_per_step, SAMPLES_PER_RANK * world_size))
    if samples < least:
        raise UsageError("too few samples", found=f"--samples {samples}", needed=f"ranks x micro-batches = {least}")
    if samples != recipe.data.samples_per_step:
        notes.append(f"{samples} samples, not data.samples_per_step = {recipe.data.samples_per_step}")
    model = recipe.model
    if model.architecture == "glm":
        layers = min(model.layers, settings.layers)
        changes: dict[str, Any] = {"layers": layers, "dropout": 0.0}
        depth, dropout = model.layers, bool(model.dropout)
    else:
        layers, depth, dropout = _shallow_config(model, settings.layers, folder)
        changes = {"config": str(folder)}
    if layers != depth:
        notes.append(f"{layers} layers, not {depth}")
    if model.layer > layers:
        notes.append(f"model.layer = {layers}, not {model.layer}")
    if dropout:
        notes.append("no dropout")
    if recipe.start.model:
        notes.append("weights drawn, not those of start.model")
    if recipe.objectives.contrastive.queue.size:
        notes.append(f"a made-up queue of {QUEUED_PAIRS} pairs, not the momentum encoder's")
    small = _changed(recipe, "model", {**changes, "layer": min(model.layer, layers)})
    small = _changed(small, "data", {"samples_per_step": samples})
    contrastive = recipe.objectives.contrastive
    no_queue = contrastive.model_copy(update={"queue": contrastive.queue.model_copy(update={"size": 0})})
    return _changed(small, "objectives", {"contrastive": no_queue}), notes


def one_objective_each(recipe: TrainRecipe) -> dict[str, TrainRecipe]:
    """The recipe with one objective alone, by name, and last as it is, unless that would be the same once more."""
    objectives, found = recipe.objectives, {}
    on = [name for name in TERMS if getattr(objectives, name).weight]
    for kept in on:
        off = {name: _without_weight(getattr(objectives, name)) for name in (*on, "perturbation") if name != kept}
        # Joined views are rows of the token objectives; the others read rows of their own, which alone they have.
        join_views = objectives.join_views and kept in ("glm", "mlm")
        # Without validation: a recipe with the adversary alone is refused, as there would be nothing to train.
        found[kept] = _changed(recipe, "objectives", {**off, "join_views": join_views})
    if objectives.perturbation.weight:
        found["joint with perturbation"] = recipe
    elif len(on) > 1:
        found["joint"] = recipe
    return found


def _check(recipe: TrainRecipe, place: _Place, notes: list[str], settings: CheckSettings) -> int:
    """All objectives, one after the other."""
    console = Console() if place.ranks.rank == 0 else None
    results, stage, checks = [], 0, one_objective_each(recipe)
    for number, (objective, alone) in enumerate(checks.items(), start=1):
        if console is not None:
            console.print(f"checking {objective} ({number} of {len(checks)}) ...", highlight=False, soft_wrap=True)
        whole = _batch(alone, place, 0, 1, micro_batches=1).micro_batches[0]
        queue = _made_up_queue(whole, recipe.run.seed, place) if place.queue_width else None
        found, stage = _found(alone, place, queue)
        gc.collect()  # the engine holds references to itself
        results.append(_on_rank_0(objective, alone, place, whole, queue, found))
    passed = not any(result.problem for result in results)
    if console is not None:
        about = CheckedStep(
            world_size=place.ranks.world_size,
            zero_stage=stage,
            precision=recipe.run.precision,
            device=place.device.type,
            tolerance=place.tolerance,
            samples=recipe.data.samples_per_step,
            micro_batches=recipe.data.micro_batches,
            changed=tuple(notes),
        )
        print_report(console, about, results)
        if settings.json_file is not None:
            write_report(settings.json_file, about, results)
    # Nobody leaves before the result is written: a launcher ends the others as soon as one rank is gone.
    dist.barrier()
    return 0 if passed else EXIT_FAILED


def _found(recipe: TrainRecipe, place: _Place, queue: QueuedPairs | None) -> tuple[StepGradient, int]:
    """The step as `mlc train` takes it: J and the gradient before the optimizer uses it (on rank 0), ZeRO's stage."""
    ranks, corpus = place.ranks, place.corpus
    engine = build_engine(
        recipe,
        ranks,
        vocab_size=corpus.manifest.tokenizer.vocab_size,
        special_ids=corpus.manifest.tokenizer.special_ids,
        token_counts=place.token_counts.numpy(),
        num_languages=len(corpus.languages),
        device=place.device,
    )
    gradients: dict[str, Tensor] = {}
    take_step = engine.step

    def step() -> None:
        if engine.is_gradient_accumulation_boundary():
            gradients.update(_read(engine, recipe.run.precision, keep=ranks.rank == 0))
        take_step()

    engine.step = step
    batch = _batch(recipe, place, ranks.rank, ranks.world_size, recipe.data.micro_batches)
    totals = count_totals(batch, device=place.device)
    training_step = TrainingStep.of(engine, recipe, languages=len(corpus.languages), device=place.device)
    # Only fp16's scaled gradients overflow. DeepSpeed skips such a step and lowers the scale: the weights are the same.
    for _ in range(FP16_ATTEMPTS if recipe.run.precision == "fp16" else 1):
        skipped = engine.skipped_steps
        sums = training_step.take(batch, totals, queue)
        if engine.skipped_steps == skipped:
            break
    loss = objective_metrics(recipe, totals, sums, corpus.languages)["loss"]
    stage = int(engine.zero_optimization_stage())
    engine.destroy()
    return StepGradient(loss, gradients), stage


def _read(engine: Any, precision: str, *, keep: bool) -> dict[str, Tensor]:
    """Full gradients as the optimizer will see them, on the CPU; a collective. Empty unless `keep`."""
    from deepspeed.utils import safe_get_full_grad

    scale = float(engine.optimizer.loss_scale) if precision == "fp16" else 1.0
    found = {}
    for name, parameter in engine.module.named_parameters():
        gradient = safe_get_full_grad(parameter)
        if keep and gradient is not None:
            found[name] = gradient.to("cpu", torch.float32, copy=True) / scale
    return found


def _on_rank_0(
    objective: str,
    recipe: TrainRecipe,
    place: _Place,
    whole: MicroBatch,
    queue: QueuedPairs | None,
    found: StepGradient,
) -> ObjectiveResult:
    """The reference and the comparison on rank 0, the result on every rank; a collective."""

    def result() -> ObjectiveResult:
        batch = GlobalBatch.of(whole, _part_of_sample(recipe, place), queue, place.device)
        model = plain_model(recipe, place.corpus, place.token_counts, place.device)
        step = reference_step(model, recipe.objectives, batch)
        expected = StepGradient(step.loss, {name: tensor.cpu() for name, tensor in step.gradients.items()})
        return compare(objective, found, expected, _groups(model), place.tolerance)

    return from_rank_0(result)


def _batch(recipe: TrainRecipe, place: _Place, rank: int, world_size: int, micro_batches: int) -> RankBatch:
    """What a rank of `world_size` does in step 0."""
    divided = _changed(recipe, "data", {"micro_batches": micro_batches})
    builder = BatchBuilder.of(divided, place.corpus, rank=rank, world_size=world_size)
    return builder.build(0)


def _part_of_sample(recipe: TrainRecipe, place: _Place) -> dict[int, int]:
    """Number of the micro-batch that holds each sample, on whichever rank; only one objective asks for it."""
    if not recipe.objectives.micro_batch_contrastive.weight:
        return {}
    found = {}
    for rank in range(place.ranks.world_size):
        batch = _batch(recipe, place, rank, place.ranks.world_size, recipe.data.micro_batches)
        for number, part in enumerate(batch.micro_batches):
            found.update(dict.fromkeys(part.samples.tolist(), number))
    return found


def _made_up_queue(batch: MicroBatch, seed: int, place: _Place) -> QueuedPairs:
    """Random embeddings; some pairs share groups and texts with the batch. The same on every rank."""
    random = torch.Generator().manual_seed(seed)

    def some(*columns: Any) -> Tensor:
        known = torch.cat([torch.from_numpy(column) for column in columns])
        chosen = known[torch.randint(0, len(known), (QUEUED_PAIRS,), generator=random)]
        new = 2**62 + torch.arange(QUEUED_PAIRS)
        return torch.where(torch.rand(QUEUED_PAIRS, generator=random) < 0.25, chosen, new)

    vectors = torch.randn(2, QUEUED_PAIRS, place.queue_width, generator=random)
    first, second = torch.nn.functional.normalize(vectors, dim=-1)
    languages = torch.randint(0, len(place.corpus.languages), (2, QUEUED_PAIRS), generator=random)
    pairs = {
        "first_QE": first,
        "second_QE": second,
        "group": some(batch.group),
        "first_text": some(batch.first_text, batch.second_text),
        "second_text": some(batch.first_text, batch.second_text),
        "first_language": languages[0],
        "second_language": languages[1],
        "valid": torch.rand(QUEUED_PAIRS, generator=random) < 0.9,
        "step": torch.full((QUEUED_PAIRS,), -1),
    }
    return QueuedPairs(**{name: tensor.to(place.device) for name, tensor in pairs.items()})


def _groups(model: TrainingModel) -> dict[str, str]:
    """Parameter -> embeddings (with the head tied to them), encoder or heads."""
    tied = model.lm_head.weight
    return {
        name: "embeddings" if parameter is tied else "encoder" if name.startswith("backbone.") else "heads"
        for name, parameter in model.named_parameters()
    }


def _shallow_config(model: ModelSection, layers: int, folder: Path) -> tuple[int, int, bool]:
    """Write the configuration of a Hugging Face encoder with fewer layers and without dropout.

    Returns:
        Its layers, those of the recipe's encoder, and whether that had dropout.

    Raises:
        RecipeError: the model comes with weights, or there is no such configuration.
    """
    if model.path:
        raise RecipeError(
            "a model that comes with weights cannot be made shallower",
            found=model.path,
            needed="model.config instead of model.path",
            where="model.path",
            hint=f"--set model.path= --set model.config={model.path} checks that encoder with new weights instead",
        )
    register_auto_classes()
    try:
        config = AutoConfig.from_pretrained(model.config)
    except (OSError, ValueError, KeyError) as error:
        raise RecipeError("no configuration can be read", found=str(error), where="model.config") from None
    depth = int(config.num_hidden_layers)
    config.num_hidden_layers = min(depth, layers)
    if getattr(config, "layer_types", None):  # one entry a layer
        config.layer_types = config.layer_types[: config.num_hidden_layers]
    dropout = [key for key, value in config.to_dict().items() if "drop" in key and isinstance(value, float) and value]
    for key in dropout:
        setattr(config, key, 0.0)
    config.save_pretrained(folder)
    return config.num_hidden_layers, depth, bool(dropout)


def _width(model: ModelSection) -> int:
    """Of the embeddings that the contrast compares."""
    if model.projection_size or model.architecture == "glm":
        return model.projection_size or model.hidden_size
    return int(AutoConfig.from_pretrained(model.config).hidden_size)


def _changed(recipe: TrainRecipe, section: str, values: Mapping[str, Any]) -> TrainRecipe:
    return recipe.model_copy(update={section: getattr(recipe, section).model_copy(update=values)})


def _without_weight(section: Section) -> Section:
    return section.model_copy(update={"weight": 0.0})
