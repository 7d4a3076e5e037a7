"""Build the model under deepspeed.zero.Init and compare weights, outputs and gradients with the plain model.

Run by test_training_model.py. Prints "equal" at the end, or fails.
"""

from __future__ import annotations

import os
import socket

import torch

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
os.environ.update(
    DS_ACCELERATOR="cpu", RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
)

import deepspeed
from deepspeed.utils import safe_get_full_grad

from mlc.config import ModelSection
from mlc.model import build_training_model

SECTION = ModelSection(layers=2, hidden_size=32, heads=2, feed_forward_size=48, projection_size=12)
CONFIG = {
    "train_micro_batch_size_per_gpu": 1,
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}},
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
}


def loss_of(outputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Some scalar that uses every output."""
    return sum((value.float() ** 3)[:, ::2].sum() for value in outputs.values())  # type: ignore[return-value]


def main() -> None:
    torch.set_num_threads(1)
    deepspeed.init_distributed("gloo")
    plain = build_training_model(SECTION, 100, {"[PAD]": 0}, 64, seed=1)
    with deepspeed.zero.Init(config_dict_or_path=CONFIG):
        partitioned = build_training_model(
            SECTION,
            100,
            {"[PAD]": 0},
            64,
            seed=1,
            gathered=lambda parameter: deepspeed.zero.GatheredParameters([parameter], modifier_rank=0),
        )
    assert all(parameter.numel() == 0 for parameter in partitioned.parameters()), "zero.Init partitioned nothing"
    engine, *_ = deepspeed.initialize(model=partitioned, model_parameters=partitioned.parameters(), config=CONFIG)

    lengths = torch.tensor([5, 9, 3])
    columns = torch.arange(9).expand(3, 9)
    ids = torch.randint(0, 100, (3, 9), generator=torch.Generator().manual_seed(3))
    arguments = (ids, lengths, lengths - 1, columns, columns // 7, torch.tensor([4, 13]), torch.tensor([1]))
    engine.backward(loss_of(engine(*arguments)))
    loss_of(plain(*arguments)).backward()
    pairs = list(zip(plain.named_parameters(), partitioned.named_parameters(), strict=True))
    for (name, parameter), (other_name, shard) in pairs:
        assert name == other_name
        # The same operations on the same fp32 numbers.
        torch.testing.assert_close(safe_get_full_grad(shard), parameter.grad, rtol=1e-5, atol=1e-7, msg=name)
        with deepspeed.zero.GatheredParameters([shard]):
            assert torch.equal(parameter, shard), f"{name} started differently"
    print("equal")


if __name__ == "__main__":
    main()
