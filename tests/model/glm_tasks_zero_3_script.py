"""Build task models under deepspeed.zero.Init and compare weights and gradients with plain ones. Run by
test_glm_tasks.py. Prints "equal" at the end, or fails.
"""

from __future__ import annotations

import os
import socket
from typing import Any

import torch

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
os.environ.update(
    DS_ACCELERATOR="cpu", RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
)

import deepspeed
from deepspeed.utils import safe_get_full_grad

from mlc.model import MlcGlmConfig, initialise
from mlc.model.generation_glm import MlcGlmForBlankInfilling
from mlc.model.modeling_glm_tasks import (
    MlcGlmForMaskedLM,
    MlcGlmForQuestionAnswering,
    MlcGlmForSequenceClassification,
    MlcGlmForTokenClassification,
)

CONFIG = {
    "train_micro_batch_size_per_gpu": 1,
    "gradient_accumulation_steps": 2,
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-2, "torch_adam": True}},
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
}
IDS = torch.randint(1, 60, (3, 9), generator=torch.Generator().manual_seed(3))
MASK = (torch.arange(9) < torch.tensor([5, 9, 3])[:, None]).long()
TOKENS = torch.where(MASK.bool(), IDS % 3, -100)
CASES: dict[type, dict[str, Any]] = {
    MlcGlmForSequenceClassification: {"attention_mask": MASK, "labels": torch.tensor([2, 0, 1])},
    MlcGlmForTokenClassification: {"attention_mask": MASK, "labels": TOKENS},
    MlcGlmForQuestionAnswering: {
        "attention_mask": MASK,
        "start_positions": torch.tensor([1, 2, 0]),
        "end_positions": torch.tensor([3, 8, 2]),
    },
    MlcGlmForMaskedLM: {"attention_mask": MASK, "labels": TOKENS},
    MlcGlmForBlankInfilling: {
        "attention_mask": MASK,
        "part_a_lengths": torch.tensor([4, 5, 2]),
        "labels": torch.where(torch.arange(9) >= 5, TOKENS, -100),
    },
}


def compare(kind: type, arguments: dict[str, Any]) -> None:
    config = MlcGlmConfig(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        num_labels=3,
        problem_type="single_label_classification",
    )
    plain = kind(config)
    initialise(plain, 1)
    with deepspeed.zero.Init(config_dict_or_path=CONFIG):
        partitioned = kind(config)
        initialise(
            partitioned,
            1,
            gathered=lambda parameter: deepspeed.zero.GatheredParameters([parameter], modifier_rank=0),
        )
    assert all(parameter.numel() == 0 for parameter in partitioned.parameters()), "zero.Init partitioned nothing"
    engine, *_ = deepspeed.initialize(model=partitioned, model_parameters=partitioned.parameters(), config=CONFIG)
    for (name, parameter), shard in zip(plain.named_parameters(), engine.module.parameters(), strict=True):
        with deepspeed.zero.GatheredParameters([shard]):
            assert torch.equal(parameter, shard), f"{name} started differently"
    for _ in range(2):  # both micro-batches of a step
        plain(IDS, **arguments).loss.backward()
        engine.backward(engine(IDS, **arguments).loss, scale_wrt_gas=False)
    pairs = zip(plain.named_parameters(), engine.module.named_parameters(), strict=True)
    for (name, parameter), (other_name, shard) in pairs:
        assert name == other_name
        # The same operations on the same fp32 numbers.
        torch.testing.assert_close(safe_get_full_grad(shard), parameter.grad, rtol=1e-5, atol=1e-7, msg=name)
    engine.step()


def main() -> None:
    torch.set_num_threads(1)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else it is compiled, as mlc.engine.construct says
    deepspeed.init_distributed("gloo")
    for kind, arguments in CASES.items():
        compare(kind, arguments)
    print("equal")


if __name__ == "__main__":
    main()
