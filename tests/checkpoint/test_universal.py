"""The universal checkpoint in a plain DeepSpeed script: weights, moments, and the steps that follow."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_on_ranks
from recipes_for_tests import train_recipe
from small_checkpoints import MOMENTS, random_tensors, with_moments, write_checkpoint
from torch import Tensor, nn

from mlc.checkpoint.convert import convert
from mlc.errors import CheckpointError

STEPS = 7
RECIPE = train_recipe(optimizer={"betas": [0.8, 0.95], "epsilon": 1e-6, "learning_rate": 0.5})
CASES = ((1, "fp32"), (1, "bf16"), (2, "fp32"), (3, "fp32"), (3, "bf16"))
ENVIRONMENT = {"DS_ACCELERATOR": "cpu"}
RTOL = 1e-5
"""Two steps of Adam in fp32, with another order of sums."""


def small_model() -> nn.Module:
    """Sizes that no number of ranks divides."""
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Settings of the script's own, other than those of any recipe."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    return [
        {"params": matrices, "lr": 1e-2, "weight_decay": 0.3},
        {"params": vectors, "lr": 2e-2, "weight_decay": 0.0},
    ]


def loss_of(model: Any) -> Tensor:
    rows = torch.linspace(-1, 1, 20).reshape(4, 5)
    loss: Tensor = model(rows.to(next(model.parameters()).dtype)).float().pow(2).mean()
    return loss


def saved_tensors() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    shapes = {name: tuple(parameter.shape) for name, parameter in small_model().named_parameters()}
    weights = {name: value - 1 for name, value in random_tensors(shapes).items()}
    return weights, {key: value.abs() / 10 for key, value in with_moments(weights).items()}


@pytest.fixture(scope="module")
def universal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("universal")
    weights, moments = saved_tensors()
    checkpoint = write_checkpoint(
        folder / "run",
        STEPS + 1,
        weights,
        moments,
        world_size=3,
        recipe=RECIPE.to_toml(),
        optimizer_steps=STEPS,
    )
    convert(checkpoint, folder / "out", "universal")
    return folder / "out"


def plain_scripts(folder: str) -> dict[tuple[int, str], dict[str, Any]]:
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("gloo", verbose=False)
    return {(stage, precision): plain_script(folder, stage, precision) for stage, precision in CASES}


def plain_script(folder: str, stage: int, precision: str) -> dict[str, Any]:
    """What a user's own script does, as `write_universal` says."""
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    model = small_model()
    config = {
        "train_micro_batch_size_per_gpu": 4,
        "zero_optimization": {"stage": stage},
        "bf16": {"enabled": precision == "bf16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "checkpoint": {"load_universal": True},
        "steps_per_print": 1_000_000,
    }
    optimizer = torch.optim.AdamW(parameter_groups(model))
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    path, client_state = engine.load_checkpoint(folder, load_lr_scheduler_states=False)
    names = dict(engine.module.named_parameters())
    result: dict[str, Any] = {
        "path": path,
        "mlc": client_state["mlc"],
        "steps": (engine.global_steps, engine.skipped_steps),
        "fp32": {name: safe_get_full_fp32_param(parameter).clone() for name, parameter in names.items()},
        "groups": [
            {key: group[key] for key in ("lr", "weight_decay", "betas", "eps")}
            for group in engine.optimizer.param_groups
        ],
    }
    for moment in MOMENTS:
        result[moment] = {
            name: safe_get_full_optimizer_state(parameter, moment).clone() for name, parameter in names.items()
        }
    if stage == 3:
        for state in engine.optimizer.optimizer.state.values():
            state["step"] = state["step"].clone()
    for _ in range(2):
        engine.backward(loss_of(engine))
        engine.step()
    result["later"] = {name: safe_get_full_fp32_param(parameter).clone() for name, parameter in names.items()}
    return result


def expected_later() -> dict[str, Tensor]:
    """The same two steps with torch alone, on one process."""
    weights, moments = saved_tensors()
    model = small_model()
    model.load_state_dict(weights)
    optimizer = torch.optim.AdamW(parameter_groups(model), betas=RECIPE.optimizer.betas, eps=RECIPE.optimizer.epsilon)
    for name, parameter in model.named_parameters():
        state = {moment: moments[f"{moment}/{name}"].clone() for moment in MOMENTS}
        optimizer.state[parameter] = {"step": torch.tensor(float(STEPS)), **state}
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(model).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


@pytest.fixture(scope="module")
def loaded(universal: Path) -> list[dict[tuple[int, str], dict[str, Any]]]:
    return run_on_ranks(plain_scripts, 2, str(universal), process_group=False, environ=ENVIRONMENT)


@pytest.mark.parametrize(("stage", "precision"), CASES)
def test_a_plain_script_continues(
    universal: Path, loaded: list[dict[tuple[int, str], dict[str, Any]]], stage: int, precision: str
) -> None:
    weights, moments = saved_tensors()
    later = expected_later()
    for result in (of_rank[stage, precision] for of_rank in loaded):
        for name, weight in weights.items():
            assert torch.equal(result["fp32"][name], weight)
            assert all(torch.equal(result[moment][name], moments[f"{moment}/{name}"]) for moment in MOMENTS)
            if precision == "fp32":
                torch.testing.assert_close(result["later"][name], later[name], rtol=RTOL, atol=1e-7)
        assert Path(result["path"]).parent == universal / "step-00000008"
        assert result["steps"] == (STEPS + 1, 1)
        # The script's own, but for what is the same for all groups of the run.
        assert [(group["lr"], group["weight_decay"]) for group in result["groups"]] == [(1e-2, 0.3), (2e-2, 0.0)]
        assert all((group["betas"], group["eps"]) == ((0.8, 0.95), 1e-6) for group in result["groups"])
        assert result["mlc"]["position"] == {"step": 8, "batch": 8, "samples": 64, "tokens": 800}
        assert result["mlc"]["recipe"]["optimizer"] == tomllib.loads(RECIPE.to_toml())["optimizer"]


def test_what_is_not_trained_has_weights_alone(tmp_path: Path) -> None:
    weights = random_tensors({"frozen": (3, 2), "trained": (4,)})
    moments = with_moments({"trained": weights["trained"]})
    done = convert(write_checkpoint(tmp_path / "run", 3, weights, moments), tmp_path / "out", "universal")
    root = tmp_path / "out" / "step-00000003" / "zero"
    assert {path.name for path in (root / "trained").iterdir()} == {
        "fp32.pt", "exp_avg.pt", "exp_avg_sq.pt", "step.pt"
    }  # fmt: skip
    assert [path.name for path in (root / "frozen").iterdir()] == ["fp32.pt"]
    assert torch.equal(torch.load(root / "frozen" / "fp32.pt")["param"], weights["frozen"])
    assert (done.tensors, done.recipe) == (4, False)
    settings = torch.load(root / "optimizer_state.pt")
    assert settings["param_groups"] == [{}]


def test_a_checkpoint_without_optimizer_state_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "run", 0, random_tensors({"w": (3,)}))
    with pytest.raises(CheckpointError, match="holds no optimizer state"):
        convert(folder, tmp_path / "out", "universal")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
