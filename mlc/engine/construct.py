"""Builds what a run trains: the process group, the sharded model, its optimizer. The only door to DeepSpeed.

In:  a recipe, the ranks, the vocabulary.
Out: a `deepspeed.DeepSpeedEngine` around a `TrainingModel` whose initial weights are a function of (seed, name) alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from mlc.data.batches import longest_row
from mlc.data.corpus import Corpus
from mlc.distributed.ranks import RankInfo, export_ranks
from mlc.engine.deepspeed_config import deepspeed_config
from mlc.errors import RecipeError, UsageError
from mlc.model.build import build_training_model
from mlc.model.initialise import start_from_frequencies
from mlc.model.training_model import TrainingModel
from mlc.recipe import OptimizerSection, RunRecipe, TrainRecipe

COLLECTIVE_TIMEOUT = timedelta(hours=2)
"""The others wait in a collective while rank 0 hashes a checkpoint: minutes, for one of terabytes hours."""


def prepare_process(recipe: RunRecipe, ranks: RankInfo) -> torch.device:
    """Everything that has to be settled before DeepSpeed is imported or a tensor is made.

    Returns:
        The device of this rank.

    Raises:
        RecipeError: fp16 without an accelerator.
        UsageError: more ranks than GPUs on this node.
    """
    export_ranks(ranks, os.environ)
    # The recipe, not the launcher, decides the number of threads: it fixes the order of floating-point sums.
    torch.set_num_threads(recipe.run.threads_per_rank)
    if torch.cuda.is_available():
        return _choose_gpu(ranks)
    os.environ["DS_ACCELERATOR"] = "cpu"
    if recipe.run.precision == "fp16":
        raise RecipeError(
            "fp16 needs an accelerator, and this machine shows none",
            found='run.precision = "fp16"',
            needed='"bf16" or "fp32" on CPU',
            hint="--set run.precision=bf16",
        )
    return torch.device("cpu")


def _choose_gpu(ranks: RankInfo) -> torch.device:
    visible = torch.cuda.device_count()
    if visible != 1 and ranks.local_rank >= visible:
        raise UsageError(
            "more ranks than GPUs on this node",
            found=f"{ranks.local_world_size} ranks, {visible} GPUs visible to local rank {ranks.local_rank}",
            needed="one GPU a rank",
            hint="start as many ranks a node as it has GPUs",
        )
    # SLURM may show every task its own GPU alone, which is then number 0 in each.
    index = 0 if visible == 1 else ranks.local_rank
    export_ranks(replace(ranks, local_rank=index), os.environ)  # DeepSpeed takes its device from there
    torch.cuda.set_device(index)
    # Exact resume: kernels that add in no fixed order are replaced where torch can, and named where it cannot.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    return torch.device("cuda", index)


def start_process_group() -> None:
    """Connect the ranks: NCCL on GPUs, gloo on CPUs."""
    # DeepSpeed calls collectives by names that torch has renamed; nobody who trains can act on that.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    # Its only use is inference on CPU, and making it costs a C++ compiler and half a minute at the first start.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(
        dist_backend="nccl" if torch.cuda.is_available() else "gloo", verbose=False, timeout=COLLECTIVE_TIMEOUT
    )


def engine_for(recipe: TrainRecipe, ranks: RankInfo, corpus: Corpus, device: torch.device) -> Any:
    """`build_engine` for a recipe's run on its corpus."""
    tokenizer = corpus.manifest.tokenizer
    return build_engine(
        recipe,
        ranks,
        vocab_size=tokenizer.vocab_size,
        special_ids=tokenizer.special_ids,
        token_counts=corpus.token_counts(tokenizer.vocab_size),
        num_languages=len(corpus.languages),
        device=device,
    )


def build_engine(
    recipe: TrainRecipe,
    ranks: RankInfo,
    *,
    vocab_size: int,
    special_ids: Mapping[str, int],
    token_counts: npt.NDArray[np.int64],
    num_languages: int,
    device: torch.device,
) -> Any:
    """The model under DeepSpeed, ready for its first step.

    Args:
        recipe: resolved recipe.
        ranks: of this process; the process group is up.
        vocab_size, special_ids: of the shards' tokenizer.
        token_counts: of the run's texts, (vocab_size,); where the heads' biases start.
        num_languages: of the corpus.
        device: of this rank.
    """
    import deepspeed

    config = deepspeed_config(recipe, ranks.world_size)
    # transformers' own constructors index their embeddings, which are empty under zero.Init; ours do not.
    born_sharded = config["zero_optimization"]["stage"] == 3 and recipe.model.architecture == "glm"
    with deepspeed.zero.Init(config_dict_or_path=config, enabled=born_sharded):
        model = build_training_model(
            recipe.model,
            vocab_size=vocab_size,
            special_ids=special_ids,
            max_positions=longest_row(recipe.data, recipe.objectives),
            seed=recipe.run.seed,
            objectives=recipe.objectives,
            num_languages=num_languages,
            gathered=gathered,
        )
        start_from_frequencies(
            model,
            torch.from_numpy(token_counts),
            blank_end=special_ids["[eop]"],
            mean_blank_tokens=recipe.objectives.glm.mean_span_tokens,
            gathered=gathered,
        )
    return engine_around(model, parameter_groups(model, recipe.optimizer), recipe, ranks, device)


def engine_around(
    model: nn.Module, groups: list[dict[str, Any]], recipe: RunRecipe, ranks: RankInfo, device: torch.device
) -> Any:
    """A model under DeepSpeed with AdamW.

    Args:
        model: whole on every rank, or born sharded.
        groups: of parameters that learn, with "weight_decay", "learning_rate_scale" and, where they do not learn from
            the start, "first_step".
        recipe: resolved recipe.
        ranks: of this process.
        device: of this rank.
    """
    import deepspeed

    config = deepspeed_config(recipe, ranks.world_size)
    offloaded = config["zero_optimization"].get("offload_optimizer", {}).get("device", "none") != "none"
    optimizer = _adamw(groups, recipe.optimizer, offloaded=offloaded and device.type != "cpu")
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    return engine


def parameter_groups(model: TrainingModel, optimizer: OptimizerSection) -> list[dict[str, Any]]:
    """Token embeddings with a learning rate of their own; other matrices; vectors (norms, biases) without decay."""
    embeddings = {id(model.lm_head.weight)}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # Under ZeRO-3 a sharded parameter is flat; its own shape is in ds_shape.
    vectors = {id(p) for p in trained if len(getattr(p, "ds_shape", p.shape)) < 2}
    decay, scale = optimizer.weight_decay, optimizer.embedding_learning_rate_scale
    groups = [
        {"params": [p for p in trained if id(p) in embeddings], "weight_decay": decay, "learning_rate_scale": scale},
        {"params": [p for p in trained if id(p) not in embeddings | vectors], "weight_decay": decay},
        {"params": [p for p in trained if id(p) in vectors], "weight_decay": 0.0},
    ]
    return [{"learning_rate_scale": 1.0, **group} for group in groups if group["params"]]


def set_learning_rate(engine: Any, learning_rate: float, step: int) -> None:
    """Set every parameter group's learning rate for the coming step, counted from 0.

    Before its first step a group has a rate of 0, with which AdamW leaves every bit of its weights alone.
    """
    for group in engine.optimizer.param_groups:
        learns = step >= group.get("first_step", 0)
        group["lr"] = learning_rate * group["learning_rate_scale"] if learns else 0.0


def parameter_count(model: TrainingModel) -> int:
    """Trainable parameters, sharded or not; a tied parameter counts once."""
    return sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters() if p.requires_grad)


def gathered(parameter: nn.Parameter) -> AbstractContextManager[Any]:
    """Context in which a ZeRO-3 sharded parameter is whole; rank 0's changes reach every rank."""
    if not hasattr(parameter, "ds_id"):
        return contextlib.nullcontext()
    import deepspeed

    context: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters([parameter], modifier_rank=0)
    return context


def _adamw(groups: list[dict[str, Any]], optimizer: OptimizerSection, *, offloaded: bool) -> torch.optim.Optimizer:
    """AdamW over parameter groups; DeepSpeed's own where its states are in host memory."""
    if offloaded:
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        adam: torch.optim.Optimizer = DeepSpeedCPUAdam(
            groups, lr=optimizer.learning_rate, betas=optimizer.betas, eps=optimizer.epsilon, adamw_mode=True
        )
        return adam
    # One pass over memory instead of ten: on CPU the update of a large embedding is half as long as its forward.
    return torch.optim.AdamW(
        groups, lr=optimizer.learning_rate, betas=optimizer.betas, eps=optimizer.epsilon, fused=True
    )
