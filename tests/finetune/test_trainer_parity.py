"""`mlc finetune` against transformers' Trainer: the same weights, batches and settings give the same losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from finetune_for_tests import finetune_recipe, make_encoder, write_classes
from ranks import run_on_ranks
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

from mlc.engine.metrics import read_metrics
from mlc.finetune.batches import FinetuneBatches
from mlc.finetune.work import Finetuning

STEPS = 50
TOLERANCE = 1e-5
"""Both compute in fp32; sums are added up in another order, and DeepSpeed's clipping divides by the norm where torch
adds 1e-6 to it. Some 1e-6 after 50 steps here; another data order, or decay of biases, is some 1e-2."""
TOKENIZING = {"padding": True, "truncation": True, "max_length": 32, "return_tensors": "pt"}
OPTIMIZER = {"learning_rate": 3e-3, "betas": [0.9, 0.98], "weight_decay": 0.1, "gradient_clipping": 0.5}


def fine_tune(folder: Path, zero: int) -> None:
    recipe = finetune_recipe(
        folder,
        optimizer=OPTIMIZER,
        schedule={"total_steps": STEPS},
        deepspeed={"config": f"ds_configs/zero{zero}.json"},
    )
    from mlc.distributed.ranks import find_ranks
    from mlc.engine.attempt import run_work

    assert run_work(Finetuning(recipe), find_ranks({})) == 0


def trainer_losses(folder: Path, batches: list[list[int]], rows: Any, labels: Any) -> list[float]:
    """Losses of every step of a Trainer that gets these batches."""
    model = AutoModelForSequenceClassification.from_pretrained(folder / "start")
    tokenizer = AutoTokenizer.from_pretrained(folder / "start")
    losses: list[float] = []

    class Ordered(Trainer):
        def get_train_dataloader(self) -> Any:
            return [{**tokenizer([rows[i] for i in batch], **TOKENIZING), "labels": labels[batch]} for batch in batches]

        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(*args, **kwargs)
            losses.append(float(loss.detach()))
            return loss

    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        max_steps=STEPS,
        per_device_train_batch_size=8,
        learning_rate=OPTIMIZER["learning_rate"],
        adam_beta1=0.9,
        adam_beta2=0.98,
        adam_epsilon=1e-8,
        weight_decay=OPTIMIZER["weight_decay"],
        max_grad_norm=OPTIMIZER["gradient_clipping"],
        lr_scheduler_type="constant",
        warmup_steps=0,
        optim="adamw_torch",
        save_strategy="no",
        report_to=[],
        use_cpu=True,
    )
    Ordered(model=model, args=arguments, train_dataset=rows).train()
    return losses


@pytest.mark.parametrize("zero", [1, 3])
def test_losses_are_those_of_the_trainer(tmp_path: Path, zero: int) -> None:
    make_encoder(tmp_path / "start")
    write_classes(tmp_path / "train.jsonl", 60)
    run_on_ranks(fine_tune, 1, tmp_path, zero, process_group=False)
    found = [line["loss"] for line in read_metrics(tmp_path / "run")]

    work = Finetuning(finetune_recipe(tmp_path))
    work.check(1)
    work.open()
    order = FinetuneBatches(work._train, seed=1, samples_per_step=8, micro_batches=1, rank=0, world_size=1)
    batches = [order.places(part.samples).tolist() for s in range(STEPS) for part in order.build(s).micro_batches]
    texts = [example.text for example in work._data.train]
    needed = trainer_losses(tmp_path, batches, texts, torch.from_numpy(work._train.labels))
    assert len(found) == len(needed) == STEPS
    assert max(needed) - min(needed) > 0.5  # it learns
    print("DIFF", [f"{a - b:.1e}" for a, b in zip(found, needed, strict=True)])
    assert max(abs(a - b) for a, b in zip(found, needed, strict=True)) < TOLERANCE
