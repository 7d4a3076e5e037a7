"""Promise 1 through DeepSpeed: the gradient ZeRO hands to its optimizer is the single-process gradient.

One start of the processes per world size for all stages and cases; importing DeepSpeed costs seconds, and its very
first start on a machine compiles a small extension.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from ranks import run_on_ranks
from toy_run import Case, Method, Parameters, ToyModel, local_terms, make_batch, reference, relative_error

from mlc.objectives.joint import joint_loss

# fp32: 24 bits and a few dozen additions give about 1e-6; a mistake of the method shows at 1e-3 and above.
TOLERANCE = 1e-5

STAGES = [1, 2, 3]
CASES = [
    Case("joint", 12, contrastive=1.0, glm=0.6, mlm=0.3, copies=True),
    Case("joint uneven", 9, contrastive=1.0, glm=0.6, mlm=0.3, copies=True, with_partner=0.8),
    Case("joint fewer samples than ranks", 1, contrastive=1.0, glm=0.6, mlm=0.3),
    Case("joint without pairs", 6, contrastive=1.0, glm=0.6, mlm=0.3, with_partner=0.0),
]


def deepspeed_gradients(cases: list[Case], stages: list[int]) -> dict[tuple[int, str], Parameters]:
    """On every rank: full gradients by stage and case, read where the optimizer would read them."""
    import deepspeed
    from deepspeed.utils import safe_get_full_grad

    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    found = {}
    for stage in stages:
        model = ToyModel(torch.float32)
        names = {parameter: name for name, parameter in model.named_parameters()}
        engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=_config(stage))
        for case in cases:
            terms, _, _ = local_terms(case, make_batch(case), engine, Method())
            engine.backward(joint_loss(terms, dist.get_world_size()), scale_wrt_gas=False)
            found[stage, case.name] = {name: safe_get_full_grad(p).clone() for p, name in names.items()}
            engine.step()  # learning rate 0: only drops the gradients
        engine.destroy()
    dist.barrier()
    dist.destroy_process_group()
    return found


def _config(stage: int) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "optimizer": {"type": "Adam", "params": {"lr": 0.0, "torch_adam": True}},
        # threshold 0: otherwise all of so small a model stays whole on every rank
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
    }


@pytest.fixture(scope="module", params=[1, 2], ids=lambda world_size: f"ranks{world_size}")
def gradients_of_ranks(request: pytest.FixtureRequest) -> list[dict[tuple[int, str], Parameters]]:
    environ = {"DS_ACCELERATOR": "cpu"}
    return run_on_ranks(
        deepspeed_gradients, request.param, CASES, STAGES, process_group=False, environ=environ, timeout_seconds=240
    )


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_gradient_through_deepspeed_is_the_full_batch_gradient(
    case: Case, stage: int, gradients_of_ranks: list[dict[tuple[int, str], Parameters]]
) -> None:
    expected = reference(case).gradients
    for found in gradients_of_ranks:
        assert relative_error(found[stage, case.name], expected) <= TOLERANCE


def test_reference_weights_are_those_of_the_ranks() -> None:
    """The fp32 model starts from the float64 model's weights, or the comparison would mean nothing."""
    for single, double in zip(ToyModel(torch.float32).parameters(), ToyModel().parameters(), strict=True):
        assert torch.equal(single.double(), double)
