"""What a DeepSpeed engine holds on this rank, as pieces of whole parameters; and the way back.

In:  an engine under ZeRO 1, 2 or 3.
Out: `Piece`s of the fp32 master weights and of Adam's moments, each with its place in the whole parameter.

ZeRO keeps a rank's part of many parameters in a few flat fp32 tensors, cut differently by every stage and number of
ranks. A piece says which elements of which parameter it is, so any other cut can be filled from pieces, and nothing has
to be gathered or converted. Pieces are views of live memory: copy or write them before the next update
(`before_update`).

DeepSpeed has no public name for some of what is read here; all of that is in this file. It has three optimizers (seen
in 0.19.8): one for stage 3, one for stage 2 and for stage 1 in fp32 and fp16, and `BF16_Optimizer` for stage 1 in bf16
with gradients summed in fp32. A parameter's part is padded under stage 3; pieces are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mlc.engine.shards import own_part
from mlc.errors import CheckpointError, RecipeError
from mlc.tensor_files import Piece

MOMENTS = ("exp_avg", "exp_avg_sq")
LOSS_SCALER_STATE = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
"""What a dynamic loss scaler (fp16) changes from step to step."""


class RangeReader(Protocol):
    """Gives ranges of whole parameters, as `mlc.tensor_files.PieceReader` does."""

    def read_into(self, key: str, start: int, out: Tensor) -> None:
        """Fill `out` (n,) with elements start .. start + n - 1 of the flattened tensor `key`."""
        ...


@dataclass(frozen=True)
class _Place:
    """Where this rank's part of a trained parameter is: `count` elements of `flat` from `offset` on.

    Attributes:
        start: place of its first element in the whole parameter.
    """

    name: str
    flat: Tensor
    offset: int
    count: int
    start: int

    def of(self, flat: Tensor) -> Tensor:
        """The part in a tensor laid out like `flat`."""
        return flat.detach().narrow(0, self.offset, self.count)


class EngineState:
    """Weights and optimizer state of an engine, to be saved and restored.

    Args:
        engine: DeepSpeed engine with AdamW.

    Raises:
        RecipeError: weights or optimizer states are on NVMe.
    """

    def __init__(self, engine: Any) -> None:
        self._module: nn.Module = engine.module
        self._zero = engine.optimizer
        self.stage = int(engine.zero_optimization_stage())
        _refuse_nvme(engine)
        self._places = self._places_under_3() if self.stage == 3 else self._places_under_1_and_2()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Whole shape of every parameter and of every buffer that is a part of the model; a tied parameter once."""
        parameters = {name: tuple(_shape(parameter)) for name, parameter in self._module.named_parameters()}
        return parameters | {name: tuple(buffer.shape) for name, buffer in self._buffers().items()}

    def weights(self) -> list[Piece]:
        """This rank's pieces of the fp32 master weights; frozen parameters and buffers too."""
        return self._masters() + self._shards_unlearned() + self._whole_unlearned()

    def weights_to_save(self) -> list[Piece]:
        """`weights`, but what every rank has whole is given by rank 0 alone, and buffers are copied."""
        buffers = self._buffers()
        whole = [
            replace(piece, values=piece.values.clone()) if piece.key in buffers else piece
            for piece in (self._whole_unlearned() if dist.get_rank() == 0 else ())
        ]
        return self._masters() + self._shards_unlearned() + whole

    def moments(self) -> list[Piece]:
        """This rank's pieces of Adam's moments, as "exp_avg/<parameter>"; none before the first update."""
        return [
            Piece(f"{key}/{place.name}", place.start, place.of(state[key]))
            for place in self._places
            if (state := self._zero.optimizer.state.get(place.flat))
            for key in MOMENTS
        ]

    def before_update(self, work: Callable[[], None]) -> RemovableHandle:
        """Have `work` done before every update. Nothing of `weights_to_save` and `moments` changes until then."""
        handle: RemovableHandle = self._zero.optimizer.register_step_pre_hook(lambda *_: work())
        return handle

    @property
    def optimizer_steps(self) -> int:
        """Updates taken: steps that DeepSpeed or a guard left out are not among them."""
        state = self._zero.optimizer.state.get(self._flats()[0])
        return int(state["step"]) if state else 0

    def loss_scaler(self) -> dict[str, float]:
        """State of the dynamic loss scaler; empty where there is none."""
        scaler = getattr(self._zero, "loss_scaler", None)
        dynamic = scaler is not None and scaler.dynamic
        return {name: float(getattr(scaler, name)) for name in LOSS_SCALER_STATE} if dynamic else {}

    @torch.no_grad()
    def restore(
        self, weights: RangeReader, moments: RangeReader, *, optimizer_steps: int, loss_scaler: Mapping[str, float]
    ) -> None:
        """Become what was saved, under whatever stage and on however many ranks that was; a collective.

        Args:
            weights, moments: what `weights` and `moments` gave on all ranks of the saved run.
            optimizer_steps, loss_scaler: as saved.

        Raises:
            CheckpointError: a parameter of this model is not among what was saved, in whole.
        """
        if self.stage == 3:
            self._zero.checkpoint_event_prologue()
        for piece in self.weights():
            weights.read_into(piece.key, piece.start, piece.values)
        for flat in self._flats():
            self._reset_moments(flat, optimizer_steps)
        for piece in self.moments():
            moments.read_into(piece.key, piece.start, piece.values)
        for name, value in loss_scaler.items() if self.loss_scaler() else ():
            kind = type(getattr(self._zero.loss_scaler, name))
            setattr(self._zero.loss_scaler, name, kind(value))
        self._round_down()

    def _places_under_3(self) -> list[_Place]:
        zero, places = self._zero, []
        for name, parameter in self._module.named_parameters():
            if parameter.requires_grad:
                group, offset, padded = zero.grad_position[zero.get_param_id(parameter)]
                start = dist.get_rank() * padded
                count = max(0, min(padded, parameter.ds_numel - start))  # type: ignore[attr-defined]
                places.append(_Place(name, zero.fp32_partitioned_groups_flat[group], offset, count, start))
        return [place for place in places if place.count]

    def _places_under_1_and_2(self) -> list[_Place]:
        places = []
        for name, parameter in self._module.named_parameters():
            if parameter.requires_grad and (part := parameter._hp_mapping) is not None:  # type: ignore[attr-defined]
                flat = self._flats()[part.param_group_index]  # type: ignore[union-attr]
                in_flat, in_parameter = part.hp_fragment_address, part.lp_fragment_address  # type: ignore[union-attr]
                places.append(_Place(name, flat, in_flat.start, in_flat.numel, in_parameter.start))
        return places

    def _flats(self) -> list[Tensor]:
        names = ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition")
        flats: list[Tensor] = next(getattr(self._zero, name) for name in names if hasattr(self._zero, name))
        return flats

    def _masters(self) -> list[Piece]:
        return [Piece(place.name, place.start, place.of(place.flat)) for place in self._places]

    def _frozen(self) -> list[tuple[str, Any]]:
        return [(name, parameter) for name, parameter in self._module.named_parameters() if not parameter.requires_grad]

    def _shards_unlearned(self) -> list[Piece]:
        """Frozen parameters under stage 3: sharded, but no optimizer owns them."""
        return [
            Piece(name, dist.get_rank() * len(parameter.ds_tensor), own_part(parameter, parameter.ds_tensor).detach())
            for name, parameter in self._frozen()
            if self.stage == 3
        ]

    def _whole_unlearned(self) -> list[Piece]:
        """Buffers, and under stages 1 and 2 frozen parameters: whole on every rank."""
        whole = dict(self._frozen()) if self.stage != 3 else {}
        return [Piece(name, 0, tensor.detach().view(-1)) for name, tensor in (whole | self._buffers()).items()]

    def _buffers(self) -> dict[str, Tensor]:
        """Buffers that belong to the model's state, and not those it computes for itself."""
        found = {}
        for prefix, module in self._module.named_modules():
            for name, buffer in module.named_buffers(recurse=False):
                if name not in module._non_persistent_buffers_set:
                    found[f"{prefix}.{name}" if prefix else name] = buffer
        return found

    def _reset_moments(self, flat: Tensor, optimizer_steps: int) -> None:
        """Adam's state of one flat tensor, as it is after so many updates but for the moments' values."""
        state = self._zero.optimizer.state
        if not optimizer_steps:
            state.pop(flat, None)
            return
        if flat not in state or not state[flat]:
            state[flat] = {key: torch.zeros_like(flat.detach()) for key in MOMENTS}
        count = torch.tensor(float(optimizer_steps), dtype=torch.float32, device=flat.device)
        state[flat]["step"] = count if _counts_in_tensors(self._zero.optimizer) else optimizer_steps

    def _round_down(self) -> None:
        """The weights that the model computes with, from the master weights; a collective."""
        zero = self._zero
        if self.stage == 3:
            for group, flat in enumerate(zero.fp32_partitioned_groups_flat):
                zero.fp16_partitioned_groups_flat[group].data.copy_(flat.data)
                zero._unflatten_partitioned_parameters(group)
            zero.checkpoint_event_epilogue()
            return
        zero.update_lp_params()
        for group in range(len(getattr(zero, "bit16_groups", ()))):
            zero._update_model_bit16_weights(group)


def _counts_in_tensors(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer counts its steps in tensors, as torch's do; DeepSpeed's CPU Adam counts in ints."""
    return type(optimizer).__module__.startswith("torch.")


def _shape(parameter: Any) -> torch.Size:
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return shape


def _refuse_nvme(engine: Any) -> None:
    config = engine.config["zero_optimization"]
    for key in ("offload_param", "offload_optimizer"):
        if config.get(key, {}).get("device") == "nvme":
            raise RecipeError(
                "weights and optimizer states on NVMe cannot be saved by this program",
                found=f'zero_optimization.{key}.device = "nvme"',
                needed='"cpu", or no offloading',
                where="deepspeed.config",
                hint="--set deepspeed.config=ds_configs/zero3_offload.json",
            )


def check_complete(needed: Mapping[str, tuple[int, ...]], saved: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a checkpoint of another model.

    Args:
        needed, saved: shapes by name.

    Raises:
        CheckpointError: names or shapes differ.
    """
    different = sorted(name for name in {*needed, *saved} if needed.get(name) != saved.get(name))
    if different:
        name = different[0]
        raise CheckpointError(
            "the checkpoint is of another model",
            found=f"{name} {saved.get(name, 'absent')}" + (f" and {len(different) - 1} more" * (len(different) > 1)),
            needed=f"{name} {needed.get(name, 'absent')}",
        )
