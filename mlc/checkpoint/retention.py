"""Which checkpoints are kept, and how the others go.

In:  checkpoint folders.
Out: those that are no longer needed; their removal, after which nothing that looks complete is left.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Collection, Sequence
from pathlib import Path

from mlc.checkpoint.record import step_of
from mlc.files import sync_folder


def superseded(
    folders: Sequence[Path],
    *,
    keep_last: int,
    keep_every: int,
    also: Collection[int] = (),
    amid_bad_steps: Collection[Path] = (),
) -> list[Path]:
    """The checkpoints that are no longer kept, oldest first.

    Args:
        folders: complete checkpoints, in any order. One that has not the name of a step is not judged and stays.
        keep_last: so many newest are kept, at least 1.
        keep_every: every one whose step is a multiple of this is kept too; 0 = none.
        also: steps whose checkpoints are kept too.
        amid_bad_steps: those to which the run does not return (mlc.checkpoint.record). They take no other's place, and
            go once there is a later one to which it does.
    """
    assert keep_last >= 1, "the newest checkpoint is the run"
    steps = {step: folder for folder in folders if (step := step_of(folder)) is not None}
    lasting = [step for step in sorted(steps) if steps[step] not in amid_bad_steps]
    kept = {step for place, step in enumerate(reversed(lasting)) if place < keep_last or _is_multiple(step, keep_every)}
    kept.update(also)
    newest = lasting[-1] if lasting else -1
    return [steps[step] for step in sorted(steps) if step not in kept and step <= newest]


def _is_multiple(step: int, keep_every: int) -> bool:
    return bool(keep_every) and step % keep_every == 0


def remove(folder: Path, trash: Path) -> None:
    """Delete a checkpoint. It leaves its place whole, by one rename, before anything in it is deleted.

    Args:
        folder: the checkpoint.
        trash: an existing folder on the same file system. Where it is the working folder of a start (`Fence.work`), a
            start that no longer owns the run removes nothing.

    Raises:
        OSError: it could not be renamed, or not all of it could be deleted from `trash`.
    """
    doomed = trash / f"{folder.name}-{uuid.uuid4().hex}"
    os.rename(folder, doomed)
    # Were the rename not durable before files go, a power failure could bring back a folder with some of them missing.
    sync_folder(folder.parent)
    sync_folder(trash)
    shutil.rmtree(doomed)
