"""Build the model under deepspeed.zero.Init and compare weights, outputs and gradients with the plain model; move token
embeddings beside DeepSpeed's hooks; save and load. Run by test_training_model.py. Prints "equal" at the end, or fails.
"""

from __future__ import annotations

import os
import socket
import tempfile
from typing import Any

import torch

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
os.environ.update(
    DS_ACCELERATOR="cpu", RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
)

import deepspeed
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_grad

from mlc.model import TrainingModel, build_training_model
from mlc.model.initialise import draw
from mlc.model.perturbation import EmbeddingPerturbation
from mlc.recipe import ModelSection
from mlc.recipe_objectives import ObjectivesSection

SECTION = ModelSection(layers=2, hidden_size=32, heads=2, feed_forward_size=48, projection_size=12)
ATTENTION = SECTION.model_copy(update={"pooling": "attention"})
OBJECTIVES = ObjectivesSection.model_validate(
    {"contrastive": {"weight": 1.0, "learn_temperature": True}, "language_adversary": {"weight": 1.0}}
)
CONFIG = {
    "train_micro_batch_size_per_gpu": 1,
    "gradient_accumulation_steps": 2,
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-2, "torch_adam": True}},
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
}
LENGTHS = torch.tensor([5, 9, 3])


def loss_of(outputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Some scalar that uses every output."""
    return sum((value.float() ** 3)[..., ::2].sum() for value in outputs.values())  # type: ignore[return-value]


def arguments() -> tuple[torch.Tensor, ...]:
    columns = torch.arange(9).expand(3, 9)
    ids = torch.randint(0, 100, (3, 9), generator=torch.Generator().manual_seed(3))
    return ids, LENGTHS, LENGTHS - 1, columns, columns // 7, torch.tensor([4, 13]), torch.tensor([1])


def plain_model(section: ModelSection, objectives: ObjectivesSection | None) -> TrainingModel:
    return build_training_model(section, 100, {"[PAD]": 0}, 64, seed=1, objectives=objectives, num_languages=4)


def engine_of(section: ModelSection, objectives: ObjectivesSection | None) -> Any:
    with deepspeed.zero.Init(config_dict_or_path=CONFIG):
        partitioned = build_training_model(
            section,
            100,
            {"[PAD]": 0},
            64,
            seed=1,
            objectives=objectives,
            num_languages=4,
            gathered=lambda parameter: deepspeed.zero.GatheredParameters([parameter], modifier_rank=0),
        )
    assert all(parameter.numel() == 0 for parameter in partitioned.parameters()), "zero.Init partitioned nothing"
    engine, *_ = deepspeed.initialize(model=partitioned, model_parameters=partitioned.parameters(), config=CONFIG)
    return engine


def compare(section: ModelSection, objectives: ObjectivesSection | None) -> Any:
    """The clean pass, then the one with moved embeddings, as the two micro-batches of a step."""
    plain, engine = plain_model(section, objectives), engine_of(section, objectives)
    for (name, parameter), shard in zip(plain.named_parameters(), engine.module.parameters(), strict=True):
        with deepspeed.zero.GatheredParameters([shard]):
            assert torch.equal(parameter, shard), f"{name} started differently"

    expected, found = EmbeddingPerturbation(plain, 2.0), EmbeddingPerturbation(engine.module, 2.0)
    with expected.recording():
        clean = loss_of(plain(*arguments()))
        clean.backward()
    with found.recording():
        engine.backward(loss_of(engine(*arguments())), scale_wrt_gas=False)
    check_gradients(plain, engine)
    engine.step()
    with expected.applied(LENGTHS):
        moved = loss_of(plain(*arguments()))
        moved.backward()
    assert not torch.isclose(moved, clean, rtol=1e-3), "the embeddings were not moved"
    with found.applied(LENGTHS):
        engine.backward(loss_of(engine(*arguments())), scale_wrt_gas=False)
    check_gradients(plain, engine)
    engine.step()
    return engine


def check_gradients(plain: TrainingModel, engine: Any) -> None:
    pairs = zip(plain.named_parameters(), engine.module.named_parameters(), strict=True)
    for (name, parameter), (other_name, shard) in pairs:
        assert name == other_name
        # The same operations on the same fp32 numbers.
        torch.testing.assert_close(safe_get_full_grad(shard), parameter.grad, rtol=1e-5, atol=1e-7, msg=name)


def check_resume(engine: Any) -> None:
    """DeepSpeed's own files keep the heads that model folders leave out."""
    trained = {name: safe_get_full_fp32_param(p).clone() for name, p in engine.module.named_parameters()}
    assert trained["temperature.moved"].item() != 0.0
    with tempfile.TemporaryDirectory() as folder:
        engine.save_checkpoint(folder, tag="one")
        again = engine_of(ATTENTION, OBJECTIVES)
        again.load_checkpoint(folder, tag="one")
    for name, shard in again.module.named_parameters():
        assert torch.equal(safe_get_full_fp32_param(shard), trained[name]), name


def check_draw_in_bf16() -> None:
    """Where zero.Init makes tensors in bf16, weights are drawn in fp32 all the same."""
    for shape in ((3, 8), (5,), (64, 7)):  # sizes that are no multiple of 16 are drawn by another loop in bf16
        expected = draw(shape, 0.5, 1, "a name")
        with deepspeed.zero.Init(config_dict_or_path={**CONFIG, "bf16": {"enabled": True}}):
            assert torch.equal(draw(shape, 0.5, 1, "a name"), expected), shape


def main() -> None:
    torch.set_num_threads(1)
    deepspeed.init_distributed("gloo")
    check_draw_in_bf16()
    compare(SECTION, None)
    check_resume(compare(ATTENTION, OBJECTIVES))
    print("equal")


if __name__ == "__main__":
    main()
