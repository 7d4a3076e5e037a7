"""The build: recipe to shards and manifest, by any number of processes, with the same bytes.

In:  a `PrepRecipe`; how this process was started.
Out: the output folder: the tokenizer's files, documents/, pairs/, rejected/, and manifest.json, which is written last:
     a folder without it holds no finished build.

Every process goes through the same stages (data_prep.stages) and takes whatever tasks nobody else has
(data_prep.claims). A build that was interrupted goes on where it was: what is finished is found in `.work`.
"""

from __future__ import annotations

import errno
import json
import shutil
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import ParamSpec, TypeVar

import mlc
from data_prep.board import Board
from data_prep.claims import Claims, do_together
from data_prep.encoding.hugging_face import CONFIG_NAME
from data_prep.encoding.reference import copy_tokenizer
from data_prep.plan import plan_shards, sources_digest
from data_prep.progress import BOARD, Progress, board_folder, watched
from data_prep.project import STAGE_NAMES, WORK_FOLDER, Project
from data_prep.ranks import Ranks
from data_prep.recipe import PrepRecipe
from data_prep.stages import Stages
from data_prep.token_report import write_report
from data_prep.units import plan_units
from mlc.data.manifest import MANIFEST_NAME, TOKENIZER_NAMES, Manifest, ShardEntry
from mlc.errors import MlcError, RecipeError, ShardError, UsageError

MARKER_NAME = ".mlc-build"
"""In the output folder from a build's start to its end: what lies there is ours to clear away."""
FAILED_NAME = "failed.json"
CLAIMS = "claims"
_SHARD_FOLDERS = ("documents", "pairs")

P = ParamSpec("P")
T = TypeVar("T")


class AnotherFailedError(MlcError):
    """Another process has failed; its own error says why."""


class FinishedElsewhereError(MlcError):
    """Processes that only the folder connects have finished the build while this one was still at work."""


@dataclass(frozen=True)
class BuildResult:
    """What a build came to; `built` is false where a finished build was found up to date."""

    manifest: Manifest
    built: bool


def build_shards(
    recipe: PrepRecipe, where: str, ranks: Ranks, overwrite: bool, progress: Progress, workers: int = 1
) -> BuildResult:
    """Build, or find that it was built.

    Args:
        recipe: what to build.
        where: the recipe's path, for errors.
        ranks: processes that were started together; all call this with the same arguments.
        overwrite: replace a finished build of another recipe or of other sources.
        progress: shown to the person.
        workers: processes that this one starts; 1 = it does the work itself.

    Raises:
        RecipeError: a source is missing, or the output holds another build and `overwrite` is false, or other files.
        DataError: the text cannot be used.
        MlcError: a file cannot be read or written (a full disk), or another process failed.
    """
    output = Path(recipe.build.output)
    started = time.monotonic()
    plans = ranks.on_first(_guarded(output, plan_shards, recipe, where))
    state = ranks.on_first(_guarded(output, sources_digest, plans, recipe))
    finished = ranks.on_first(_guarded(output, _start, recipe, output, state, overwrite, ranks.is_unconnected))
    if finished is not None:
        return BuildResult(finished, built=False)
    units = ranks.on_first(_guarded(output, plan_units, plans, recipe.build.unit_bytes))
    project = Project(recipe, output, plans, units)
    try:
        with watched(project, progress):
            if workers == 1:
                ranks.everywhere(_guarded(output, work_on, project, ranks.rank, ranks.size))
            else:
                _with_workers(project, workers)
        manifest = ranks.on_first(_guarded(output, _finish, project, state, started, ranks.size * workers))
    except MlcError:
        # Processes that know of one another through the folder alone finish at once, and clear it away for the others.
        if not (output / MANIFEST_NAME).exists():
            raise
        shutil.rmtree(project.work, ignore_errors=True)
        manifest = Manifest.read(output)
    return BuildResult(manifest, built=True)


def work_on(project: Project, number: int = 0, processes: int = 1) -> None:
    """Go through the stages until every shard is joined, together with all who do the same.

    Args:
        project: the same in every process.
        number: of this process among those that were started together, which begin at different tasks.
        processes: how many these are.

    Raises:
        MlcError: a task failed, here or in another process.
    """
    failed, work = project.work / FAILED_NAME, project.work
    folders = [work / name for name in ("sample", "fingerprints", "units", "joined", CLAIMS)]
    for folder in (*folders, *(board_folder(project, stage) for stage in STAGE_NAMES)):
        folder.mkdir(parents=True, exist_ok=True)
    claims = Claims(work / CLAIMS)
    try:
        for stage in STAGE_NAMES:
            board = Board(board_folder(project, stage))
            board.note()
            tasks = Stages(project, board).tasks(stage)
            first = len(tasks) * number // processes
            do_together(tasks, claims, first=first, look=partial(_look_around, failed, project.output / MANIFEST_NAME))
            board.note()
    except FinishedElsewhereError:
        raise
    except Exception as error:
        if not failed.exists():
            with suppress(OSError):  # where the build has been finished by another process, there is no such folder
                failed.write_text(json.dumps({"error": str(error)}), encoding="utf-8")
        raise


def _look_around(failed: Path, manifest: Path) -> None:
    if manifest.exists():
        raise FinishedElsewhereError("another process has finished this build", where=str(manifest))
    if failed.exists():
        raise AnotherFailedError("another process of this build has failed", found=_failure(failed))


def _with_workers(project: Project, workers: int) -> None:
    """Start processes that do the work, and wait for them."""
    # Not forked: threads of libraries that this process has used would not be there.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(_work_in_child, project, number, workers) for number in range(workers)]
        try:
            errors = [future.result() for future in futures]
        except BrokenProcessPool:
            raise MlcError(
                "a worker has died",
                where=str(project.output),
                hint="look for a lack of memory; the same command goes on where the build was",
            ) from None
    found = sorted((error for error in errors if error is not None), key=lambda e: isinstance(e, AnotherFailedError))
    if found:
        raise found[0]


def _work_in_child(project: Project, number: int, processes: int) -> MlcError | None:
    try:
        _guarded(project.output, work_on, project, number, processes)()
    except MlcError as error:
        return error
    return None


def _failure(path: Path) -> str:
    try:
        return str(json.loads(path.read_bytes())["error"])
    except (OSError, ValueError, KeyError, TypeError):
        return "its message cannot be read"


def _guarded(output: Path, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Callable[[], T]:
    """The work as a call without arguments; what the file system refuses becomes an `MlcError`."""

    def run() -> T:
        try:
            return work(*args, **kwargs)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise MlcError(
                "a file of the build cannot be read or written",
                found=error.strerror or str(error),
                where=str(error.filename or output),
                hint="free space or name another build.output, then build again" if full else None,
            ) from error

    return run


def _start(recipe: PrepRecipe, output: Path, state: str, overwrite: bool, is_unconnected: bool) -> Manifest | None:
    """The finished build in the output folder, if it is the one asked for; otherwise the folder is made ready."""
    if is_unconnected and overwrite:
        raise UsageError(
            "tasks of srun or of an array cannot replace a build: the last to start would throw away what others did",
            hint=f"delete {output}, or build with one process or mpirun",
        )
    if (output / MANIFEST_NAME).exists():
        if not overwrite:
            manifest = _up_to_date(recipe, output, state)
            _clear_left_over(output)
            return manifest
        (output / MARKER_NAME).touch()
        _remove_build(output)
    elif output.is_dir() and any(output.iterdir()) and not (output / MARKER_NAME).exists():
        raise RecipeError(
            "the output folder holds other files than a build's",
            found=", ".join(sorted(path.name for path in output.iterdir())[:5]),
            needed="a folder that is new or empty, or was left by a build",
            where=f"build.output = {output}",
        )
    output.mkdir(parents=True, exist_ok=True)
    (output / MARKER_NAME).touch()
    (output / WORK_FOLDER / FAILED_NAME).unlink(missing_ok=True)
    if not is_unconnected:  # whoever wrote there has been stopped; if not, some work is done twice
        for name in (BOARD, CLAIMS):
            shutil.rmtree(output / WORK_FOLDER / name, ignore_errors=True)
    written_to = (f"{WORK_FOLDER}/units", f"{WORK_FOLDER}/cleaned", *_SHARD_FOLDERS)
    for folder in (output, *(output / name for name in written_to)):
        for left_over in () if is_unconnected else folder.glob("*.tmp"):  # of a build that was killed
            left_over.unlink(missing_ok=True)
    return None


def _up_to_date(recipe: PrepRecipe, output: Path, state: str) -> Manifest:
    hint = "add --overwrite to replace it, or name another build.output"
    try:
        manifest = Manifest.read(output)
        manifest.check()
    except ShardError as error:
        raise ShardError("the output folder holds a damaged build", found=str(error), hint=hint) from None
    for name, found, needed in (
        ("recipe", manifest.recipe_sha256, recipe.bytes_digest),
        ("source files", manifest.sources_digest, state),
    ):
        if found != needed:
            raise RecipeError(
                f"the output folder holds a finished build of another state of the {name}",
                found=f"{found[:12]} in {output / MANIFEST_NAME}",
                needed=needed[:12],
                where="build.output",
                hint=hint,
            )
    return manifest


def _remove_build(output: Path) -> None:
    """The manifest goes first, so that nobody reads a mixture of two builds."""
    try:
        files = [name for entry in Manifest.read(output).shards for name in entry.files]
    except ShardError:
        files = []
    (output / MANIFEST_NAME).unlink()
    for name in files:
        (output / name).unlink(missing_ok=True)


def _finish(project: Project, state: str, started: float, processes: int) -> Manifest:
    """Write the manifest, and clear away what a finished build does not need."""
    output, recipe = project.output, project.recipe
    board = Board(project.work / BOARD)
    stages = Stages(project, board)
    entries = stages.entries()
    tokenizer = copy_tokenizer(stages.tokenizer_file, output)
    for name in {*TOKENIZER_NAMES.values(), CONFIG_NAME} - tokenizer.files.keys():  # of the build that this replaces
        (output / name).unlink(missing_ok=True)
    manifest = Manifest(
        folder=output,
        tokenizer=tokenizer,
        shards=tuple(sorted(entries, key=lambda entry: entry.name)),
        recipe_sha256=recipe.bytes_digest,
        created_by=f"mlc {mlc.__version__}",
        timing={"seconds": round(time.monotonic() - started, 3), "processes": processes},
        sources_digest=state,
    )
    _remove_unlisted(output, entries)
    write_report(output, stages.token_counts())
    manifest.write(output)
    # At once: another process that is still at work there finds nothing, and then the manifest.
    done = output / f"{WORK_FOLDER}-{uuid.uuid4().hex}"
    project.work.rename(done)
    _clear_left_over(output)
    return manifest


def _clear_left_over(output: Path) -> None:
    """What a finished build does not need; also that of one that was killed between its manifest and this."""
    for folder in output.glob(f"{WORK_FOLDER}*"):
        shutil.rmtree(folder, ignore_errors=True)
    if (output / MARKER_NAME).exists():  # looked at first: a read-only disk refuses to remove what is not there, too
        (output / MARKER_NAME).unlink(missing_ok=True)


def _remove_unlisted(output: Path, entries: list[ShardEntry]) -> None:
    """Files of a build that was killed, of shards that the recipe no longer names."""
    listed = {name for entry in entries for name in entry.files}
    for folder in _SHARD_FOLDERS:
        for path in (output / folder).glob("*"):
            if path.is_file() and path.relative_to(output).as_posix() not in listed:
                path.unlink()
        rejected = output / "rejected" / folder
        for path in rejected.glob("*"):
            if f"{folder}/{path.name.removesuffix('.jsonl')}" not in {entry.name for entry in entries}:
                path.unlink()
