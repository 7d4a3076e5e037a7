"""Weights and optimizer state of an engine, saved under one ZeRO stage and number of ranks and loaded under another.

What DeepSpeed itself gathers from its shards is the reference: whole weights and moments before the save are compared,
bit for bit, with those after the load.
"""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from checkpoints_for_tests import load_run, no_guard, save_run, saver_of
from ranks import run_on_ranks
from recipes_for_tests import ROOT, train_recipe
from small_shards import write_small_shards

from mlc.checkpoint.record import Position, Record
from mlc.data.batches import BatchBuilder
from mlc.data.corpus import Corpus
from mlc.data.manifest import Manifest
from mlc.engine.parts import copied
from mlc.errors import CheckpointError
from mlc.recipe import TrainRecipe

STEPS = 3
FILES = ("zero1", "zero2", "zero3", "zero3_offload")
SECONDS_LATE = 0.7
"""Far more than a step takes."""
FROZEN, BUFFER = "pooling_norm_that_is_frozen", "a_buffer"
SAME_STEP_TOLERANCE = 1e-5
"""fp32: the order in which gradients are summed over ranks differs."""


def recipe_of(shards: Path, file: str, precision: str, **changes: dict[str, Any]) -> TrainRecipe:
    return train_recipe(
        run={"precision": precision},
        data={"shards": str(shards)},
        deepspeed={"config": str(ROOT / "ds_configs" / f"{file}.json")},
        **changes,
    )


class Trainer:
    """An engine that can take the steps of its recipe."""

    def __init__(self, recipe: TrainRecipe) -> None:
        from mlc.distributed.ranks import find_ranks
        from mlc.engine import construct
        from mlc.engine.step import TrainingStep

        ranks, manifest = find_ranks(os.environ), Manifest.read(recipe.data.shards)
        device = construct.prepare_process(recipe, ranks)
        if not dist.is_initialized():
            construct.start_process_group()
        corpus = Corpus(recipe.data, manifest, seed=1)
        with mock.patch.object(construct, "build_training_model", with_more(construct.build_training_model)):
            self.engine = construct.engine_for(recipe, ranks, corpus, device)
        self.builder = BatchBuilder.of(recipe, corpus, rank=ranks.rank, world_size=ranks.world_size)
        self.taker = TrainingStep.of(self.engine, recipe, languages=len(corpus.languages), device=device)

    def step(self, number: int) -> float:
        from mlc.engine.step import count_totals

        batch = self.builder.build(number)
        totals = count_totals(batch, device=torch.device("cpu"))
        return self.taker.take(batch, totals).loss["contrastive"]

    def whole(self) -> dict[str, torch.Tensor]:
        """Weights, moments, what is frozen, and what the model computes with; on rank 0."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        from mlc.engine.construct import gathered

        zero = self.engine.optimizer
        if hasattr(zero, "_lazy_init_hp_params_optimizer_state"):
            # DeepSpeed 0.19.8 links moments to parameters after the first group's first update, when the other groups
            # have none yet; and does not link them again.
            zero._hp_optimizer_states_linked = False
            zero._lazy_init_hp_params_optimizer_state()
        found: dict[str, torch.Tensor] = {BUFFER: self.engine.module.get_buffer(BUFFER).clone()}
        for name, parameter in self.engine.module.named_parameters():
            with gathered(parameter):
                found[f"model {name}"] = parameter.detach().float().clone()
            if parameter.requires_grad:
                found[name] = safe_get_full_fp32_param(parameter).clone()
                for key in ("exp_avg", "exp_avg_sq"):
                    found[f"{key} {name}"] = safe_get_full_optimizer_state(parameter, key).clone()
        return found if dist.get_rank() == 0 else {}


def with_more(build: Any) -> Any:
    """The model with a frozen parameter of an odd size and a buffer, whose values are not those of every start."""

    def built(*arguments: Any, **settings: Any) -> Any:
        model = build(*arguments, **settings)
        frozen = torch.nn.Parameter(torch.full((13,), float(os.environ["FROZEN_VALUE"])), requires_grad=False)
        model.register_parameter(FROZEN, frozen)
        model.register_buffer(BUFFER, torch.tensor([float(os.environ["FROZEN_VALUE"]), 2.0]))
        if hasattr(model.lm_head.weight, "ds_id"):  # under zero.Init what comes later is sharded by hand
            import deepspeed

            deepspeed.zero.Init(module=torch.nn.ParameterList([frozen]))
        return model

    return built


def write_all(shards: Path, folder: Path, cases: list[tuple[str, str]]) -> dict[tuple[str, str], Any]:
    """On every rank: train, save, and tell what was saved and what the next step's loss is."""
    found = {}
    for file, precision in cases:
        trainer = Trainer(recipe_of(shards, file, precision))
        for number in range(STEPS):
            trainer.step(number)
        save_run(trainer.engine, folder / f"{file}-{precision}", STEPS)
        found[file, precision] = trainer.whole(), trainer.step(STEPS)
        trainer.engine.destroy()
    return leave(found)


def read_all(shards: Path, checkpoints: list[Path], files: tuple[str, ...], precision: str) -> dict[Any, Any]:
    """On every rank: load every checkpoint into an engine that is somewhere else, and take the next step."""
    found = {}
    for file in files:
        trainer = Trainer(recipe_of(shards, file, precision))
        for checkpoint in checkpoints:
            trainer.step(7)
            load_run(trainer.engine, checkpoint)
            found[file, checkpoint] = trainer.whole(), trainer.step(STEPS)
        trainer.engine.destroy()
    return leave(found)


def save_behind_an_update(shards: Path, folder: Path, cases: list[tuple[str, str]]) -> dict[tuple[str, str], Any]:
    """On every rank: save in the background with a copy that begins late, and take two steps meanwhile."""
    found = {}
    for (file, precision), waits in itertools.product(cases, (True, False)):
        trainer = Trainer(recipe_of(shards, file, precision))
        for number in range(STEPS):
            trainer.step(number)
        before, run_folder = trainer.whole(), folder / f"{file}-{precision}-{waits}"
        saver = saver_of(trainer.engine, run_folder)
        with mock.patch("mlc.engine.saver.copied", late(copied)):
            if not waits:
                saver._hook.remove()
            saver.save(Position(step=STEPS), no_guard(), must_succeed=True)
            trainer.step(STEPS)
            trainer.engine.module.get_buffer(BUFFER).add_(1.0)
            trainer.step(STEPS + 1)
            saver.finish()
        after = trainer.whole()
        saver.close()
        load_run(trainer.engine, run_folder / "checkpoints" / f"step-{STEPS:08d}")
        found[file, precision, waits] = before, after, trainer.whole()
        trainer.engine.destroy()
    return leave(found)


def late(function: Any) -> Any:
    def slow(*arguments: Any) -> Any:
        time.sleep(SECONDS_LATE)
        return function(*arguments)

    return slow


def refuse_another_model(shards: Path, checkpoint: Path) -> str:
    trainer = Trainer(recipe_of(shards, "zero3", "fp32", model={"layers": 1}))
    with pytest.raises(CheckpointError) as refused:
        load_run(trainer.engine, checkpoint)
    return leave(str(refused.value))


def leave(result: Any) -> Any:
    dist.barrier()
    dist.destroy_process_group()
    return result


def spawn(function: Any, world_size: int, *arguments: Any, value: float) -> list[Any]:
    environ = {"DS_ACCELERATOR": "cpu", "FROZEN_VALUE": str(value)}
    return run_on_ranks(function, world_size, *arguments, process_group=False, environ=environ, timeout_seconds=240)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_small_shards(folder)
    return folder


@pytest.fixture(scope="module")
def written(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Any]:
    """What was saved, by checkpoint, from 2 and from 3 ranks."""
    found = {}
    for world_size, files in ((2, FILES), (3, FILES[1:3])):
        folder = tmp_path_factory.mktemp(f"of{world_size}")
        cases = [(file, "fp32") for file in files]
        of_rank_0 = spawn(write_all, world_size, shards, folder, cases, value=3.0)[0]
        for (file, precision), result in of_rank_0.items():
            found[folder / f"{file}-{precision}" / "checkpoints" / f"step-{STEPS:08d}"] = result
    return found


@pytest.mark.parametrize(
    ("world_size", "files"),
    [
        pytest.param(1, FILES, marks=pytest.mark.slow),
        (2, FILES[1:3]),
        pytest.param(2, (FILES[0], FILES[3]), marks=pytest.mark.slow),
        pytest.param(4, FILES, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_any_stage_and_number_of_ranks_reads_what_any_other_wrote(
    world_size: int, files: tuple[str, ...], shards: Path, written: dict[Path, Any]
) -> None:
    of_rank_0 = spawn(read_all, world_size, shards, list(written), files, "fp32", value=-1.0)[0]
    assert len(of_rank_0) == len(written) * len(files)
    for (file, checkpoint), (whole, loss) in of_rank_0.items():
        saved, next_loss = written[checkpoint]
        assert whole.keys() == saved.keys()
        for name, tensor in saved.items():
            assert torch.equal(whole[name], tensor), (file, str(checkpoint), name)
        assert loss == pytest.approx(next_loss, rel=SAME_STEP_TOLERANCE)


@pytest.mark.slow
def test_bf16_weights_are_the_rounded_masters(shards: Path, tmp_path: Path) -> None:
    """Masters and moments come back bit for bit, and the weights that the model computes with are made of them."""
    cases = [(file, "bf16") for file in FILES[:3]]  # three optimizers of DeepSpeed
    of_two = spawn(write_all, 2, shards, tmp_path, cases, value=3.0)[0]
    checkpoints = {
        tmp_path / f"{file}-bf16" / "checkpoints" / f"step-{STEPS:08d}": saved
        for (file, _), (saved, _) in of_two.items()
    }
    of_one = spawn(read_all, 1, shards, list(checkpoints), FILES[:3], "bf16", value=-1.0)[0]
    for (file, checkpoint), (whole, _) in of_one.items():
        for name, tensor in checkpoints[checkpoint].items():
            assert torch.equal(whole[name], tensor), (file, str(checkpoint), name)
            if name.startswith("model ") and name.removeprefix("model ") in whole:
                assert torch.equal(tensor, whole[name.removeprefix("model ")].bfloat16().float()), name


@pytest.mark.slow
def test_an_update_waits_for_the_copy(shards: Path, tmp_path: Path) -> None:
    """With each of DeepSpeed's optimizers; and without the wait it is not what was to be saved."""
    cases = [("zero1", "fp32"), ("zero1", "bf16"), ("zero2", "bf16"), ("zero3", "fp32"), ("zero3_offload", "fp32")]
    of_rank_0 = spawn(save_behind_an_update, 2, shards, tmp_path, cases, value=3.0)[0]
    for (*case, waits), (before, after, loaded) in of_rank_0.items():
        same = [name for name in before if torch.equal(before[name], loaded[name])]
        changed = [name for name in before if not torch.equal(before[name], after[name])]
        assert len(changed) > len(before) / 2, case
        assert BUFFER in changed
        assert BUFFER in same
        assert (len(same) == len(before)) == waits, (case, set(before) - set(same))


def test_no_element_is_written_twice_or_not_at_all(written: dict[Path, Any]) -> None:
    from safetensors import safe_open

    for checkpoint in written:
        shapes, counted = Record.read(checkpoint).parameters, dict[str, int]()
        for file in checkpoint.glob("model/weights-*.safetensors"):
            with safe_open(file, framework="pt") as opened:
                for piece in opened.keys():  # noqa: SIM118 (it is no mapping)
                    name = piece.rpartition("@")[0]
                    counted[name] = counted.get(name, 0) + opened.get_slice(piece).get_shape()[0]
        assert counted == {name: int(torch.Size(shape).numel()) for name, shape in shapes.items()}
        assert {FROZEN, BUFFER} <= set(shapes)


def test_another_model_is_refused(shards: Path, written: dict[Path, Any]) -> None:
    (message,) = spawn(refuse_another_model, 1, shards, next(iter(written)), value=0.0)
    assert "the checkpoint is of another model" in message
    assert "blocks.1" in message


def test_what_is_compared_is_not_empty(written: dict[Path, Any]) -> None:
    for whole, _ in written.values():
        moments = [tensor for name, tensor in whole.items() if name.startswith("exp_avg")]
        assert len(moments) > 20
        assert sum(bool(tensor.abs().max() > 0) for tensor in moments) > 20
