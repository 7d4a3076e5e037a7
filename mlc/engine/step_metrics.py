"""The metrics of one step, from its sums.

In:  counts and sums over all ranks.
Out: flat objects of numbers, by the keys of docs/metrics.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mlc.engine.step import CONTRASTS, StepSums, Totals
from mlc.engine.throughput import peak_flops, step_flops
from mlc.recipe import TrainRecipe


def objective_metrics(recipe: TrainRecipe, totals: Totals, sums: StepSums, languages: Sequence[str]) -> dict[str, Any]:
    """J and its terms: losses, weights, counts, right guesses; for the contrast by language too."""
    objectives = recipe.objectives
    losses = {name: sums.loss[name] / max(1.0, count) for name, count in totals.denominators.items()}
    weights = {name: getattr(objectives, name).weight for name in losses}
    on = [name for name, weight in weights.items() if weight]
    metrics: dict[str, Any] = {"loss": sum(weights[name] * losses[name] for name in on)}
    for name in on:
        metrics[f"loss/{name}"] = losses[name]
        metrics[f"weight/{name}"] = weights[name]
        metrics[f"count/{name}"] = totals.denominators[name]
        metrics[f"accuracy/{name}"] = sums.correct[name] / max(1.0, totals.denominators[name])
    for name in set(on) & set(CONTRASTS):
        metrics["temperature"] = sums.temperature
        metrics["masked_negatives"] = sums.masked_negatives
        for language, (loss, correct, count) in zip(languages, sums.by_language.T.tolist(), strict=True):
            if count:  # the language was an anchor in this batch
                metrics[f"loss/{name}/{language}"] = loss / count
                metrics[f"accuracy/{name}/{language}"] = correct / count
                metrics[f"count/{name}/{language}"] = count
    if objectives.perturbation.weight:
        metrics["loss/perturbation"] = sums.perturbed
        metrics["weight/perturbation"] = objectives.perturbation.weight
        metrics["loss"] += objectives.perturbation.weight * sums.perturbed
    return metrics


def speed_metrics(
    recipe: TrainRecipe,
    totals: Totals,
    seconds: float,
    *,
    vocab_size: int,
    world_size: int,
    device: torch.device,
) -> dict[str, Any]:
    """Tokens and arithmetic a second, padding, memory.

    Args:
        recipe: of the run.
        totals: of the step.
        seconds: of the whole step.
        vocab_size: of the tokenizer.
        world_size: W.
        device: of this rank; the others have the same kind.
    """
    packed = recipe.model.architecture == "glm"  # the GLM computes on real tokens only
    metrics: dict[str, Any] = {
        "padding_fraction": 0.0 if packed else 1 - totals.tokens / totals.slots,
        "tokens_per_second": totals.tokens / seconds,
    }
    if packed:
        predicted = totals.denominators["glm"] + totals.denominators["mlm"]
        flops = step_flops(recipe.model, vocab_size, totals.tokens, totals.squared_lengths, predicted)
        flops *= recipe.backward_passes / recipe.data.micro_batches  # perturbed embeddings go through all of it again
        peak = peak_flops(device)
        metrics["tflops_per_second"] = flops / seconds / 1e12
        metrics["mfu"] = None if peak is None else flops / seconds / (peak * world_size)
    if device.type == "cuda":
        metrics["memory/peak_gib"] = round(torch.cuda.max_memory_allocated(device) / 2**30, 3)
    return metrics
