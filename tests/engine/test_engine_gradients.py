"""The whole path, shards to gradient: what ZeRO hands to the optimizer is the gradient of J over the global batch.

The reference is one process in float64 with the losses written as plain loops (naive_objectives) and the joint
objective written out here; it shares with the engine only the model's forward and the batch of one rank.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from naive_objectives import Pair, naive_info_nce, naive_token_loss
from ranks import run_on_ranks
from recipes_for_tests import ROOT, train_recipe
from small_shards import write_small_shards

from mlc.config import TrainRecipe
from mlc.data.batches import BatchBuilder, RankBatch
from mlc.data.corpus import Corpus
from mlc.data.corruption import SpecialTokens
from mlc.data.manifest import Manifest

STAGES = (1, 2, 3)
# fp32 through two layers and a softmax over 64 candidates; a mistake of the method shows at 1e-3 and above.
TOLERANCE = 1e-5
# bf16 keeps 8 bits, 0.4 % an operation; over a whole gradient the errors of single elements average out.
BF16_TOLERANCE, BF16_COSINE = 3e-2, 0.999

OBJECTIVES: dict[str, dict[str, Any]] = {
    "joint": {"contrastive": {"weight": 1.0}, "glm": {"weight": 0.5}, "mlm": {"weight": 0.25}},
    "joint in bf16": {"contrastive": {"weight": 1.0}, "glm": {"weight": 0.5}, "mlm": {"weight": 0.25}},
    "contrastive one-way": {
        "contrastive": {"weight": 1.0, "symmetric": False},
        "glm": {"weight": 0.0},
        "mlm": {"weight": 0.0},
    },
    "glm": {"contrastive": {"weight": 0.0}, "glm": {"weight": 1.0}, "mlm": {"weight": 0.0}},
    "mlm": {"contrastive": {"weight": 0.0}, "glm": {"weight": 0.0}, "mlm": {"weight": 1.0}},
    "tokens in 3 micro-batches": {"contrastive": {"weight": 0.0}},
}
SOURCES = [
    {"kind": "documents", "view": "translations"},
    {"kind": "pairs", "view": "pair"},
    {"kind": "documents", "view": "text", "weight": 0.5},
]


def recipe_of(case: str, shards: str, stage: int) -> TrainRecipe:
    return train_recipe(
        run={"precision": "bf16" if case == "joint in bf16" else "fp32"},
        data={
            "shards": shards,
            "samples_per_step": 64,
            "sources": SOURCES,
            "micro_batches": 3 if case == "tokens in 3 micro-batches" else 1,
        },
        model={"projection_size": 16},
        objectives=OBJECTIVES[case],
        optimizer={"learning_rate": 1e-12, "gradient_clipping": 0.0},
        deepspeed={"config": str(ROOT / "ds_configs" / f"zero{stage}.json")},
    )


def rank_batch(recipe: TrainRecipe, manifest: Manifest, rank: int, world_size: int) -> RankBatch:
    corpus = Corpus(recipe.data, manifest, seed=recipe.run.seed)
    special = SpecialTokens.from_ids(manifest.tokenizer.special_ids, manifest.tokenizer.vocab_size)
    builder = BatchBuilder(
        corpus,
        special,
        recipe.objectives,
        seed=recipe.run.seed,
        samples_per_step=recipe.data.samples_per_step,
        micro_batches=recipe.data.micro_batches,
        rank=rank,
        world_size=world_size,
    )
    return builder.build(0)


def token_counts(recipe: TrainRecipe, manifest: Manifest) -> Any:
    return Corpus(recipe.data, manifest, seed=recipe.run.seed).token_counts(manifest.tokenizer.vocab_size)


def gradients_of_engine(shards: str) -> dict[tuple[str, int], tuple[dict[str, float], dict[str, torch.Tensor]]]:
    """On every rank: the step's losses and the full gradients, by case and stage."""
    from deepspeed.utils import safe_get_full_grad

    from mlc.distributed.ranks import find_ranks
    from mlc.engine.construct import build_engine, prepare_process, start_process_group
    from mlc.engine.step import count_totals, training_step

    ranks = find_ranks(os.environ)
    manifest = Manifest.read(shards)
    found = {}
    for case in OBJECTIVES:
        for stage in STAGES:
            recipe = recipe_of(case, shards, stage)
            device = prepare_process(recipe, ranks)
            if not torch.distributed.is_initialized():
                start_process_group()
            engine = build_engine(
                recipe,
                ranks,
                vocab_size=manifest.tokenizer.vocab_size,
                special_ids=manifest.tokenizer.special_ids,
                token_counts=token_counts(recipe, manifest),
                device=device,
            )
            batch = rank_batch(recipe, manifest, ranks.rank, ranks.world_size)
            totals = count_totals(batch, stop=False, device=device)
            gradients: dict[str, torch.Tensor] = {}
            take_step = engine.step

            def step(engine: Any = engine, gradients: dict = gradients, take_step: Any = take_step) -> None:
                # At the last micro-batch, before the optimizer drops them.
                if engine.is_gradient_accumulation_boundary():
                    for name, parameter in engine.module.named_parameters():
                        gradient = safe_get_full_grad(parameter)
                        if gradient is not None:
                            gradients[name] = gradient.clone()
                take_step()

            engine.step = step
            sums = training_step(engine, batch, totals, recipe.objectives, world_size=ranks.world_size, device=device)
            losses = {name: sums.loss[name] / max(1.0, count) for name, count in totals.denominators.items()}
            found[case, stage] = losses, gradients
            engine.destroy()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    return found


def reference(case: str, manifest: Manifest) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Losses and gradients of one process over the whole batch, in float64."""
    from mlc.model.build import build_training_model
    from mlc.model.initialise import start_from_frequencies

    recipe = recipe_of(case, str(manifest.folder), 3)
    (batch,) = rank_batch(
        recipe.model_copy(update={"data": recipe.data.model_copy(update={"micro_batches": 1})}), manifest, 0, 1
    ).micro_batches
    model = build_training_model(
        recipe.model,
        vocab_size=manifest.tokenizer.vocab_size,
        special_ids=manifest.tokenizer.special_ids,
        max_positions=recipe.data.max_tokens,
        seed=recipe.run.seed,
    )
    start_from_frequencies(
        model,
        torch.from_numpy(token_counts(recipe, manifest)),
        blank_end=manifest.tokenizer.special_ids["[eop]"],
        mean_blank_tokens=recipe.objectives.glm.mean_span_tokens,
    )
    model = model.double()
    names = ("input_ids", "lengths", "part_a_lengths", "positions", "block_positions", "glm_index", "mlm_index")
    outputs = model(**{name: torch.from_numpy(getattr(batch, name)) for name in names})
    embeddings = outputs["embeddings"]
    pairs = [
        Pair(
            embeddings[batch.first_row[n]],
            embeddings[batch.second_row[n]],
            int(batch.group[n]),
            int(batch.first_text[n]),
            int(batch.second_text[n]),
        )
        for n in np_where(batch.valid)
    ]
    settings = recipe.objectives
    losses: dict[str, torch.Tensor] = {}
    if settings.contrastive.weight:
        sums = naive_info_nce(pairs, settings.contrastive.temperature, settings.contrastive.symmetric)
        losses["contrastive"] = sums.loss / len(pairs)
    for name in ("glm", "mlm"):
        if getattr(settings, name).weight:
            targets = getattr(batch, f"{name}_targets").tolist()
            losses[name] = naive_token_loss(list(outputs[f"{name}_logits"]), targets) / len(targets)
    total = sum(getattr(settings, name).weight * loss for name, loss in losses.items())
    assert isinstance(total, torch.Tensor)
    total.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: float(loss.detach()) for name, loss in losses.items()}, gradients


def np_where(valid: Any) -> list[int]:
    return [n for n, is_valid in enumerate(valid.tolist()) if is_valid]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write_small_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module", params=[1, 2, 3], ids=lambda world_size: f"ranks{world_size}")
def found(request: pytest.FixtureRequest, manifest: Manifest) -> list[Any]:
    return run_on_ranks(
        gradients_of_engine,
        request.param,
        str(manifest.folder),
        process_group=False,
        environ={"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        timeout_seconds=280,
    )


@pytest.fixture(scope="module")
def references(manifest: Manifest) -> dict[str, Any]:
    return {case: reference(case, manifest) for case in OBJECTIVES}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("case", OBJECTIVES)
def test_gradient_of_the_engine_is_the_full_batch_gradient(
    case: str, stage: int, found: list[Any], references: dict[str, Any]
) -> None:
    losses, gradients = references[case]
    for of_rank in found:
        found_losses, found_gradients = of_rank[case, stage]
        assert gradients.keys() <= found_gradients.keys()
        if case == "joint in bf16":
            _assert_close_in_bf16(found_losses, found_gradients, losses, gradients)
            continue
        for name, loss in losses.items():
            assert found_losses[name] == pytest.approx(loss, rel=TOLERANCE), name
        for name, gradient in found_gradients.items():
            expected = gradients.get(name, torch.zeros_like(gradient, dtype=torch.float64))
            scale = max(float(expected.norm()), 1e-3 * max(float(g.norm()) for g in gradients.values()))
            error = float((gradient.double() - expected).norm()) / scale
            assert error <= TOLERANCE, f"{name}: relative error {error:.1e}"


def _assert_close_in_bf16(
    found_losses: dict[str, float], found: dict[str, Any], losses: dict[str, float], gradients: dict[str, Any]
) -> None:
    for name, loss in losses.items():
        assert found_losses[name] == pytest.approx(loss, rel=BF16_TOLERANCE), name
    one = torch.cat([found[name].double().flatten() for name in gradients])
    other = torch.cat([gradients[name].flatten() for name in gradients])
    assert float((one - other).norm() / other.norm()) <= BF16_TOLERANCE
    assert float(torch.nn.functional.cosine_similarity(one, other, dim=0)) >= BF16_COSINE


def test_shards_hold_what_makes_the_case_hard(manifest: Manifest) -> None:
    """Samples without a partner and copies of the right answer are in the batch."""
    (batch,) = rank_batch(recipe_of("joint", str(manifest.folder), 3), manifest, 0, 1).micro_batches
    assert not batch.valid.all()
    groups, texts = batch.group[batch.valid].tolist(), batch.first_text[batch.valid].tolist()
    assert len(set(groups)) < len(groups) or len(set(texts)) < len(texts)
