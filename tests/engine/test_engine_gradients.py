"""The whole path, shards to gradient: what ZeRO hands to the optimizer is the gradient of J over the global batch.

Every objective and every way to take a step, against one process in float64 (engine_cases).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import engine_cases
import pytest
import torch
from engine_cases import ALL_SIZES, CASES, EngineCase, Step, reference_step, steps_of_engine
from ranks import run_on_ranks
from small_shards import write_small_shards

from mlc.data.manifest import Manifest

# fp32 through two layers and a softmax over some 40 candidates; a mistake of the method shows at 1e-3 and above.
TOLERANCE = 1e-5
# bf16 keeps 8 bits, 0.4 % an operation; over a whole gradient the errors of single elements average out. The reference
# starts from the weights that the engine computes with.
BF16_TOLERANCE, BF16_COSINE = 2e-2, 0.999
ENVIRON = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write_small_shards(tmp_path_factory.mktemp("shards"))


QUICK_SIZES = (2,)
"""The others take minutes on two cores."""


@pytest.fixture(
    scope="module",
    params=[size if size in QUICK_SIZES else pytest.param(size, marks=pytest.mark.slow) for size in ALL_SIZES],
    ids=lambda world_size: f"ranks{world_size}",
)
def found(request: pytest.FixtureRequest, manifest: Manifest) -> tuple[int, list[dict[tuple[str, int], Step]]]:
    """One start of the processes for all cases."""
    cases = [case for case in CASES if request.param in case.world_sizes]
    steps = run_on_ranks(
        steps_of_engine,
        request.param,
        str(manifest.folder),
        cases,
        process_group=False,
        environ=ENVIRON,
        timeout_seconds=400,
    )
    return request.param, steps


@pytest.fixture(scope="module")
def references(manifest: Manifest, found: tuple[int, list[dict[tuple[str, int], Step]]]) -> dict[str, Step]:
    """Only the contrast of micro-batches depends on the number of ranks; the others are made once."""
    made = _references_of_any_world_size(str(manifest.folder))
    ranked = [case for case in CASES if case.micro_batch_negatives and found[0] in case.world_sizes]
    return made | {case.name: reference_step(case, manifest, found[0]) for case in ranked}


@cache
def _references_of_any_world_size(folder: str) -> dict[str, Step]:
    cases = [case for case in CASES if not case.micro_batch_negatives]
    return {case.name: reference_step(case, Manifest.read(folder), 1) for case in cases}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_gradient_of_the_engine_is_the_full_batch_gradient(
    case: EngineCase, found: tuple[int, list[dict[tuple[str, int], Step]]], references: dict[str, Step]
) -> None:
    world_size, steps = found
    if world_size not in case.world_sizes:
        assert all(case.name != name for name, _ in steps[0])
        return
    for of_rank in steps:
        for stage in case.stages:
            if case.precision == "bf16":
                _assert_close_in_bf16(of_rank[case.name, stage], references[case.name])
            else:
                _assert_close(of_rank[case.name, stage], references[case.name])
            # What a difference of two sums keeps of fp32, and of bf16's rounding of the terms themselves.
            tolerance = 3e-2 if case.precision == "bf16" else 1e-4
            assert of_rank[case.name, stage].cosines == pytest.approx(
                references[case.name].cosines, rel=tolerance, abs=tolerance
            )
            assert bool(references[case.name].cosines) == case.by_terms


def _assert_close(found: Step, expected: Step) -> None:
    for name, loss in expected.losses.items():
        assert found.losses[name] == pytest.approx(loss, rel=TOLERANCE), name
    assert expected.gradients.keys() <= found.gradients.keys()
    largest = max(float(gradient.norm()) for gradient in expected.gradients.values())
    for name, gradient in found.gradients.items():
        wanted = expected.gradients.get(name, torch.zeros_like(gradient, dtype=torch.float64))
        error = float((gradient.double() - wanted).norm()) / max(float(wanted.norm()), 1e-3 * largest)
        assert error <= TOLERANCE, f"{name}: relative error {error:.1e}"


def _assert_close_in_bf16(found: Step, expected: Step) -> None:
    for name, loss in expected.losses.items():
        assert found.losses[name] == pytest.approx(loss, rel=BF16_TOLERANCE), name
    one = torch.cat([found.gradients[name].double().flatten() for name in expected.gradients])
    other = torch.cat([gradient.flatten() for gradient in expected.gradients.values()])
    assert float((one - other).norm() / other.norm()) <= BF16_TOLERANCE
    assert float(torch.nn.functional.cosine_similarity(one, other, dim=0)) >= BF16_COSINE


def test_batches_hold_what_makes_the_cases_hard(manifest: Manifest) -> None:
    """Samples without a partner, copies of the right answer, hard negatives, a queue that shares texts."""
    by_name = {case.name: case for case in CASES}

    def batch_of(name: str) -> Any:
        return engine_cases.whole_batch(by_name[name].recipe(str(manifest.folder), 3), manifest)

    batch = batch_of("joint")
    assert not batch.valid.all()
    groups, texts = batch.group[batch.valid].tolist(), batch.first_text[batch.valid].tolist()
    assert len(set(groups)) < len(groups) or len(set(texts)) < len(texts)
    assert batch_of("hard negatives").hard_valid.sum() >= 5
    blanks = batch_of("all kinds of blanks")
    assert 0 < blanks.valid.sum() < batch.valid.sum()
    queue = engine_cases.queued_pairs(batch, 16)
    known = {*batch.first_text.tolist(), *batch.second_text.tolist()}
    assert not queue.valid.all()
    assert known & set(queue.first_text.tolist())


def test_second_pass_repeats_the_dropout_of_the_first(manifest: Manifest) -> None:
    """Two passes with dropout have the gradient of one graph in which the same elements are dropped."""
    case = EngineCase(
        "dropout", {**engine_cases.OFF, "contrastive": {"weight": 1.0}}, {"micro_batches": 2}, {"dropout": 0.3}
    )
    (found,) = run_on_ranks(steps_of_engine, 1, str(manifest.folder), [case], process_group=False, environ=ENVIRON)
    step = found[case.name, 3]
    recipe = case.recipe(str(manifest.folder), 3)
    model = engine_cases.plain_model(recipe, manifest).train()
    _assert_close(step, engine_cases.one_graph_with_dropout(recipe, model, manifest))
    other_seed = recipe.model_copy(update={"run": recipe.run.model_copy(update={"seed": 2})})
    assert engine_cases.one_graph_with_dropout(other_seed, model, manifest).losses != step.losses
