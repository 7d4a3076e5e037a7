"""Where a start begins: the newest checkpoint that verifies, loaded on however many ranks there are now.

In:  a run folder and the ranks.
Out: a `Start`, and an engine (and queue) with what was saved.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor

from mlc.checkpoint.fence import Fence
from mlc.checkpoint.record import LATEST_NAME, Record, checkpoint_folders
from mlc.checkpoint.retention import remove
from mlc.checkpoint.verify import damage, set_aside
from mlc.distributed.agree import from_rank_0
from mlc.engine.engine_state import EngineState, check_complete
from mlc.engine.momentum import MomentumQueue
from mlc.engine.parts import MOMENTS, MOMENTUM, QUEUE, WEIGHTS, of_rank
from mlc.errors import CheckpointError
from mlc.tensor_files import PieceReader


@dataclass(frozen=True)
class Start:
    """A checkpoint to go on from."""

    folder: Path
    record: Record


def newest_readable(run_folder: Path) -> Start | None:
    """The newest checkpoint whose record can be read, without a look at its files and without touching anything.

    Raises:
        RecipeError: it is of another version of this program.
    """
    for folder in reversed(checkpoint_folders(run_folder)):
        try:
            return Start(folder, Record.read(folder))
        except CheckpointError:
            continue
    return None


def newest_verified(
    run_folder: Path,
    fence: Fence | None,
    beat: Callable[[str], None],
    say: Callable[[str], None],
    *,
    to_return: bool = False,
) -> Start | None:
    """The newest checkpoint that verifies; a collective. What does not verify is set aside, with a line that says why.

    Args:
        run_folder: the run's folder, seen by all ranks.
        fence: on rank 0; None elsewhere.
        beat: called while files are read.
        say: called on rank 0.
        to_return: one that was saved amid bad steps does not count, so that a run which was stopped there returns to
            where it would have returned without.

    Returns:
        None where there is none.

    Raises:
        RecipeError: the newest is of another version of this program.
    """
    while (found := from_rank_0(lambda: _newest(run_folder, to_return))) is not None:
        folder, record = found
        if isinstance(record, str):
            problem = record
        elif (damaged := _damage_on_any_rank(folder, record, beat)) is None:
            return Start(folder, record)
        else:
            problem = damaged
        from_rank_0(lambda folder=folder, problem=problem: _set_aside(folder, problem, fence, say))  # type: ignore[misc]
    return None


def forget_later(start: Start, run_folder: Path, fence: Fence) -> None:
    """Delete the checkpoints after the one that a run returns to, on rank 0: they lead to the steps it takes back.

    Raises:
        FencedError: another start owns the run.
        CheckpointError: one cannot be deleted.
    """
    later = [folder for folder in checkpoint_folders(run_folder) if folder.name > start.folder.name]
    try:
        for folder in reversed(later):
            remove(folder, fence.work)
        if later:
            fence.write(start.folder.parent / LATEST_NAME, f"{start.folder.name}\n".encode())
    except OSError as error:
        fence.check()
        raise CheckpointError(
            "a checkpoint after the one that the run returns to cannot be deleted",
            found=str(error),
            where=str(start.folder.parent),
            hint="look at permissions and the file server, and start again",
        ) from None


def load(start: Start, state: EngineState, queue: MomentumQueue | None) -> bool:
    """Load what was saved; a collective.

    Args:
        start: verified.
        state: of an engine for the same model, under any ZeRO stage.
        queue: as it was built; None where the run has none.

    Returns:
        Whether the queue was loaded: a run that had none before has to fill it.

    Raises:
        CheckpointError: of another model, or a file cannot be read.
    """
    record = start.record
    check_complete(state.shapes(), record.parameters)
    with _reader(start, WEIGHTS) as weights, _reader(start, MOMENTS) as moments:
        state.restore(weights, moments, optimizer_steps=record.optimizer_steps, loss_scaler=record.loss_scaler)
    if queue is None or QUEUE not in record.files:
        return False
    with _reader(start, MOMENTUM) as average:
        queue.encoder.restore(average)
    queue.queue.load(_tensors(start.folder / QUEUE))
    return True


def _newest(run_folder: Path, to_return: bool) -> tuple[Path, Record | str] | None:
    """The newest folder with what it says of itself, or what is wrong with that."""
    for folder in reversed(checkpoint_folders(run_folder)):
        try:
            record = Record.read(folder)
        except CheckpointError as error:
            return folder, str(error)
        except OSError as error:
            raise _unreadable(folder, error) from None
        if not (to_return and record.bad_row):
            return folder, record
    return None


def _unreadable(folder: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        "a checkpoint cannot be read, which says nothing about its content",
        found=str(error),
        where=str(folder),
        hint="look at permissions and the file server, and start again; nothing was set aside",
    )


def _damage_on_any_rank(folder: Path, record: Record, beat: Callable[[str], None]) -> str | None:
    share = (dist.get_rank(), dist.get_world_size())
    own: str | OSError | None
    try:
        own = damage(folder, record, share=share, progress=lambda count: beat("verifying a checkpoint"))
    except OSError as error:
        own = error
    answers: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(answers, own)
    for answer in answers:
        if isinstance(answer, OSError):
            raise _unreadable(folder, answer)
    return next((answer for answer in answers if answer is not None), None)


def _set_aside(folder: Path, problem: str, fence: Fence | None, say: Callable[[str], None]) -> None:
    aside = set_aside(folder, fence)
    say(f"{folder.name} is not used, and set aside as {aside}: {problem}")


def _reader(start: Start, file: str) -> PieceReader:
    paths = [start.folder / name for name in sorted(start.record.files) if name.startswith(file)]
    return PieceReader(paths, first=start.folder / of_rank(file, dist.get_rank(), len(paths)))


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError("the queue of negatives cannot be read", found=str(error), where=str(path)) from None
    return tensors
