"""The momentum encoder and the queue of negatives that it fills (He et al. 2020, "MoCo", algorithm 1 and eq. 2).

In:  the student's DeepSpeed engine under ZeRO-3, and the batches it has learned from.
Out: `QueuedPairs`: embeddings of earlier batches by a teacher whose weights follow the student's slowly.

The teacher's weights are an exponential moving average of the student's fp32 master weights. Both are sharded alike, so
each rank averages its own shard and nothing is communicated. The average is kept in fp32: in bf16 a momentum of 0.999
would never move a weight. The teacher computes in the student's precision, from a rounded copy.

Letters: R = rows, E = width of the embeddings, n = pairs of a micro-batch on this rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor, nn

from mlc.data.batches import BatchBuilder, MicroBatch, RankBatch, longest_row
from mlc.distributed.queue import NegativeQueue, QueuedPairs, gather_pairs
from mlc.engine.construct import gathered
from mlc.engine.deepspeed_config import deepspeed_config
from mlc.engine.shards import own_master, own_part
from mlc.errors import RecipeError
from mlc.model.build import build_training_model
from mlc.recipe import TrainRecipe
from mlc.tensor_files import Piece, PieceReader

FILL_SAMPLES_PER_PLACE = 4
"""The first filling reads no more samples a place than this, however few of them are valid pairs."""

STUDENT_ONLY = ("offload_optimizer", "zero_hpz_partition_size", "zero_quantized_nontrainable_weights")
"""Keys of zero_optimization without meaning for a model that is never trained, or that keep another copy of its weights
than the one that `MomentumEncoder.update` writes."""


def check_queue(recipe: TrainRecipe, config: Mapping[str, Any]) -> None:
    """Refuse a queue where the momentum encoder cannot follow the student.

    Args:
        recipe: resolved recipe.
        config: from `deepspeed_config`.

    Raises:
        RecipeError: another ZeRO stage than 3, or weights or optimizer states on NVMe.
    """
    zero = config["zero_optimization"]
    if not recipe.objectives.contrastive.queue.size:
        return
    on_nvme = [key for key in ("offload_param", "offload_optimizer") if zero.get(key, {}).get("device") == "nvme"]
    if zero["stage"] == 3 and not on_nvme:
        return
    raise RecipeError(
        "objectives.contrastive.queue needs ZeRO stage 3 in memory: its encoder follows this rank's shards of weights",
        found=f"{' and '.join(on_nvme)} on nvme" if on_nvme else f"stage {zero['stage']}",
        needed="zero_optimization.stage 3, offloaded to cpu or not at all",
        where=recipe.deepspeed.config,
        hint="--set deepspeed.config=ds_configs/zero3.json, or --set objectives.contrastive.queue.size=0",
    )


class MomentumEncoder:
    """A teacher whose weights are the moving average of the student's.

    Args:
        student: the module in the student's engine.
        teacher: a model whose parameters are among the student's by name and shape.
        config: DeepSpeed configuration of the teacher, from `teacher_config`.
        momentum: m of eq. 2.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, config: dict[str, Any], momentum: float) -> None:
        import deepspeed

        # Without an optimizer: for the hooks alone that gather a module's weights while it runs.
        self._engine, *_ = deepspeed.initialize(model=teacher.requires_grad_(False), config=config)
        self._engine.eval()
        self._momentum = momentum
        students: dict[str, Any] = dict(student.named_parameters())
        self._pairs: dict[str, tuple[Any, Any]] = {
            name: (students[name], parameter) for name, parameter in teacher.named_parameters()
        }
        self._average = {name: own_master(of_student).clone() for name, (of_student, _) in self._pairs.items()}
        self._copy_down()

    @torch.no_grad()
    def update(self) -> None:
        """Move the average by (1 - momentum) of the way to the student's weights; nothing is communicated."""
        for name, (of_student, _) in self._pairs.items():
            self._average[name].lerp_(own_master(of_student), 1 - self._momentum)
        self._copy_down()

    @torch.no_grad()
    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Embeddings (R, E), fp32; a collective, in which every rank may have other rows.

        Args:
            inputs: arguments of `TrainingModel.forward`, without places to predict.
        """
        embeddings_RE: Tensor = self._engine(**inputs)["embeddings"]
        return embeddings_RE.float()

    def pieces(self) -> list[Piece]:
        """This rank's pieces of the fp32 average; views of live memory."""
        return [
            Piece(name, dist.get_rank() * len(self._pairs[name][1].ds_tensor), shard)
            for name, shard in self._average.items()
        ]

    @torch.no_grad()
    def restore(self, average: PieceReader) -> None:
        """Take the average from what `pieces` gave, on whatever number of ranks.

        Raises:
            CheckpointError: it is of another model.
        """
        for piece in self.pieces():
            average.read_into(piece.key, piece.start, piece.values)
        self._copy_down()

    def _copy_down(self) -> None:
        for name, (_, of_teacher) in self._pairs.items():
            own_part(of_teacher, of_teacher.ds_tensor).copy_(self._average[name])
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()  # DeepSpeed gathers on a stream of its own, which waits for none


class MomentumQueue:
    """A queue of negatives with the momentum encoder that fills it.

    Args:
        encoder: the teacher.
        queue: what it fills; the same on every rank.
        device: of the teacher's inputs.
    """

    def __init__(self, encoder: MomentumEncoder, queue: NegativeQueue, device: torch.device) -> None:
        self.encoder, self.queue, self._device = encoder, queue, device

    def fill(self, builder: BatchBuilder, first_step: int) -> None:
        """Fill the queue before the first step; a collective.

        Args:
            builder: of the run's batches.
            first_step: the batches from here on are read: after the run's last step, so that none is seen twice.
        """
        samples, step = 0, first_step
        _say(f"queue: encoding samples that come after the last step, for {len(self.queue)} places")
        while self.queue.filled < len(self.queue) and samples < FILL_SAMPLES_PER_PLACE * len(self.queue):
            batch = builder.build(step)
            self.queue.push(self._encode(batch, step=-1))
            samples += dist.get_world_size() * sum(len(part.samples) for part in batch.micro_batches)
            step += 1
        _say(f"queue: {self.queue.filled} of {len(self.queue)} places filled from {step - first_step} batches")

    def advance(self, batch: RankBatch) -> None:
        """After the student's step on `batch`: move the teacher, let it encode the batch, and queue the pairs.

        A collective.
        """
        self.encoder.update()
        self.queue.push(self._encode(batch, step=batch.step))

    def pairs(self) -> QueuedPairs:
        """The queue's own tensors: read them before the next `advance`."""
        return self.queue.pairs()

    def _encode(self, batch: RankBatch, step: int) -> QueuedPairs:
        """The valid pairs of all ranks, in the order of their samples."""
        parts = batch.micro_batches
        both = [self._encode_views(part) for part in parts]
        own = QueuedPairs(
            first_QE=torch.cat([first_nE for first_nE, _ in both]),
            second_QE=torch.cat([second_nE for _, second_nE in both]),
            group=self._joined([part.group for part in parts]),
            first_text=self._joined([part.first_text for part in parts]),
            second_text=self._joined([part.second_text for part in parts]),
            first_language=self._joined([part.first_language for part in parts]),
            second_language=self._joined([part.second_language for part in parts]),
            valid=self._joined([part.valid for part in parts]),
            step=torch.full((sum(len(part.valid) for part in parts),), step, device=self._device),
        )
        return gather_pairs(own, self._joined([part.samples for part in parts]))

    def _encode_views(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """Embeddings (n, E) of both views, from Part A of the rows that the contrast reads."""
        rows, place = np.unique(np.stack([batch.first_row, batch.second_row]), return_inverse=True)
        # Part A sees nothing of Part B, and its embedding is all that is needed.
        lengths = batch.part_a_lengths[rows]
        columns = max(1, int(lengths.max()))
        inputs = {
            "input_ids": batch.input_ids[rows, :columns],
            "lengths": lengths,
            "part_a_lengths": lengths,
            "positions": batch.positions[rows, :columns],
            "block_positions": batch.block_positions[rows, :columns],
        }
        embeddings_RE = self.encoder.encode({name: self._joined([array]) for name, array in inputs.items()})
        first_n, second_n = self._joined([place.reshape(2, -1)])
        return embeddings_RE[first_n], embeddings_RE[second_n]

    def _joined(self, arrays: list[npt.NDArray[Any]]) -> Tensor:
        return torch.from_numpy(np.concatenate(arrays)).to(self._device)


def build_momentum_queue(
    recipe: TrainRecipe,
    engine: Any,
    *,
    vocab_size: int,
    special_ids: Mapping[str, int],
    device: torch.device,
) -> MomentumQueue | None:
    """The queue of a run, empty, and its teacher, equal to the student; None where the recipe wants no queue.

    Args:
        recipe: resolved recipe.
        engine: the student's, under ZeRO-3.
        vocab_size, special_ids: of the shards' tokenizer.
        device: of this rank.
    """
    section = recipe.objectives.contrastive.queue
    if not section.size:
        return None
    import deepspeed

    config = teacher_config(deepspeed_config(recipe, dist.get_world_size()))
    with deepspeed.zero.Init(config_dict_or_path=config, enabled=recipe.model.architecture == "glm"):
        teacher = build_training_model(
            recipe.model,
            vocab_size=vocab_size,
            special_ids=special_ids,
            max_positions=longest_row(recipe.data, recipe.objectives),
            seed=recipe.run.seed,
            gathered=gathered,
        )
    encoder = MomentumEncoder(engine.module, teacher, config, section.momentum)
    width = recipe.model.projection_size or int(teacher.backbone_config.hidden_size)
    return MomentumQueue(encoder, NegativeQueue(section.size, width, device), device)


def teacher_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The DeepSpeed configuration of a teacher beside the student of `config`."""
    zero = {key: value for key, value in config["zero_optimization"].items() if key not in STUDENT_ONLY}
    # A small parameter that stays gathered after its first use would keep the values it had then.
    return {**config, "zero_optimization": {**zero, "stage3_param_persistence_threshold": 0}}


def _say(line: str) -> None:
    if dist.get_rank() == 0:
        print(line, flush=True)
