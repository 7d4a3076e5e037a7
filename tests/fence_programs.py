"""What starts of a run do with a fence, and how what came of it is seen; for tests of races."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from mlc.checkpoint.fence import Fence
from mlc.errors import FencedError


def new_run(parent: Path) -> Path:
    folder = Path(tempfile.mkdtemp(dir=parent))
    for name in ("checkpoints", "taken"):
        (folder / name).mkdir()
    return folder


def tree(run: Path) -> dict[str, str | None]:
    """What is in place: every file's content, every folder, but for the working folders."""
    paths = [path for path in run.rglob("*") if path.relative_to(run).parts[0] != "attempts"]
    return {str(path.relative_to(run)): path.read_text() if path.is_file() else None for path in paths}


def attempts(run: Path) -> dict[str, bool]:
    """{name: whether it is a folder}"""
    return {path.name: path.is_dir() for path in sorted((run / "attempts").iterdir())}


def save(fence: Fence) -> None:
    """What a run does at a save, and when it removes or renames a checkpoint."""
    run = fence.run_folder
    folder = fence.work / "step-00000001"
    with fence.working():
        folder.mkdir()
        (folder / "part").write_text(str(fence.generation))
    final = run / "checkpoints" / f"of-{fence.generation}"
    fence.place(folder, final)
    fence.write(run / "checkpoints" / "latest", str(fence.generation).encode())
    doomed = fence.withdraw(final)
    fence.place(doomed, final.with_name(f"again-of-{fence.generation}"))
    doomed = fence.withdraw(final.with_name(f"again-of-{fence.generation}"))
    with fence.working():
        shutil.rmtree(doomed)
    fence.write(run / "placed", str(fence.generation).encode())
    fence.check()


def insist(fence: Fence) -> None:
    """The same by a program that minds no error, makes folders that are missing, and uses rename itself."""
    run = fence.run_folder
    tries: list[Callable[[], object]] = [
        lambda: save(fence),
        lambda: (fence.work / "step-00000009").mkdir(parents=True, exist_ok=True),
        lambda: fence.place(fence.work / "step-00000009", run / "checkpoints" / f"insisted-{fence.generation}"),
        lambda: fence.work.mkdir(parents=True, exist_ok=True),
        lambda: (fence.work / "file").write_text(str(fence.generation)),
        lambda: os.rename(fence.work / "file", run / "placed"),
        lambda: fence.withdraw(run / "owner.json"),
        lambda: fence.write(run / "owner.json", b"{}"),
        fence.check,
    ]
    for attempt in tries:
        with contextlib.suppress(OSError, FencedError):
            attempt()


def take_and_write(run: Path) -> int:
    fence = Fence.take(run, {})
    fence.write(run / "placed", str(fence.generation).encode())
    fence.check()
    return fence.generation


def take_and_insist(run: Path) -> int:
    fence = Fence.take(run, {})
    (run / "taken" / str(fence.generation)).mkdir()
    insist(fence)
    return fence.generation


def attempts_after(generation: int) -> dict[str, bool]:
    return {f"attempt-{number:08d}": number == generation for number in range(1, generation + 1)}
