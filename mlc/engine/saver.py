"""Saves a run: every rank writes and hashes its own part, all or nothing is put in place.

In:  the state of a run at an optimizer-step boundary.
Out: `checkpoints/step-00001000/`, complete or absent; docs/checkpoints.md says what is in it.

1. Rank 0 makes a folder inside the attempt's own folder (mlc.checkpoint.fence).
2. Every rank writes its files there, synced and hashed on the way, in a thread. If training goes on, the thread makes
   a copy first; the next update waits for that, and the batch before it does not (Mohan et al. 2021, "CheckFreq":
   nothing of what is saved changes but in an update).
3. Once all have, they tell each other sizes and hashes, or what went wrong.
4. Rank 0 writes what is no tensor, `complete.json` last, and renames the folder: in a thread, too.
5. Once it has, all ranks hear how that went.

Threads talk to no other rank. That all parts are written (3) and the folder is in place (5) travels with the counts
that ranks share at every step (mlc.engine.signals), so each of these happens at one step on all ranks.
"""

from __future__ import annotations

import math
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from mlc.checkpoint.fence import Fence
from mlc.checkpoint.record import (
    LATEST_NAME,
    Plan,
    Position,
    Record,
    complete_checkpoints,
    is_amid_bad_steps,
    step_name,
)
from mlc.checkpoint.retention import remove, superseded
from mlc.distributed.agree import from_rank_0
from mlc.engine.divergence import DivergenceGuard
from mlc.engine.engine_state import EngineState
from mlc.engine.host_copies import HostCopies
from mlc.engine.momentum import MomentumQueue
from mlc.engine.parts import GIB, WEIGHTS, copied, parts_of, write_parts
from mlc.engine.signals import RankSignals
from mlc.errors import CheckpointError, FencedError, MlcError
from mlc.files import FileFacts, hash_file, sync_file
from mlc.recipe import CheckpointSection
from mlc.run_names import RECIPE_NAME

FOLDERS = ("model", "optimizer", "queue")


@dataclass(frozen=True)
class RunFacts:
    """What every checkpoint of a run says alike.

    Attributes:
        identity: digests that a resume compares (mlc.engine.preflight).
        plan, first_plan: see `Record`.
        precision: of the run.
        recipe: resolved recipe in TOML.
        model_files: writes all files of the model folder but the weights, given what to state of this checkpoint.
        also_keep: steps of checkpoints that are never superseded.
    """

    identity: dict[str, str]
    plan: Plan
    first_plan: Plan
    precision: str
    recipe: str
    model_files: Callable[[Path, Mapping[str, Any]], None]
    also_keep: Callable[[], frozenset[int]] = frozenset


@dataclass
class _Save:
    """A save that has begun.

    Attributes:
        copied: the parts are read from live memory no more, or training waits for them anyway.
        parts: what this rank wrote, once it is written.
        placing: whether all ranks know of each other's parts.
        placed: on rank 0, then: done once the checkpoint is in place.
    """

    folder: Path
    record: Record
    started: float
    must_succeed: bool
    copied: threading.Event
    parts: Future[dict[str, FileFacts]]
    placing: bool = False
    placed: Future[None] | None = None


class CheckpointSaver:
    """Saves one start of a run.

    Args:
        run_folder: the run's folder.
        state: of the engine.
        queue: of negatives, where the run has one.
        section: of the recipe.
        facts: what does not change.
        fence: on rank 0; None elsewhere.
        beat: called between parts of long work, with what is being done.
        say: called on rank 0 with a line for people.
    """

    def __init__(
        self,
        run_folder: Path,
        state: EngineState,
        queue: MomentumQueue | None,
        section: CheckpointSection,
        facts: RunFacts,
        *,
        fence: Fence | None,
        beat: Callable[[str], None],
        say: Callable[[str], None],
    ) -> None:
        self._root = run_folder / "checkpoints"
        self._run_folder, self._state, self._queue = run_folder, state, queue
        self._section, self._facts, self._fence, self._beat, self._say = section, facts, fence, beat, say
        self._rank, self._world_size = dist.get_rank(), dist.get_world_size()
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._remover = ThreadPoolExecutor(1, "old checkpoints")
        self._flight: _Save | None = None
        self._copies = HostCopies()
        self._hook = state.before_update(self.wait_for_copy)
        self.seconds = 0.0
        """For how long the last save has kept training waiting."""
        self.longest_seconds = 0.0
        """Of a save from its beginning until it was in place."""
        self.saved_step: int | None = None
        """Step of the newest checkpoint in place."""

    @property
    def copied_bytes(self) -> int:
        """Host memory that this rank holds for saves in the background."""
        return self._copies.bytes

    @property
    def written(self) -> bool:
        """Whether this rank has written its part of a save in flight, or failed to, and others do not know yet."""
        return self._flight is not None and not self._flight.placing and self._flight.parts.done()

    @property
    def placed(self) -> bool:
        """On rank 0: whether the save in flight is in place, or failed, and others do not know yet."""
        return self._flight is not None and self._flight.placed is not None and self._flight.placed.done()

    def save(
        self,
        position: Position,
        guard: DivergenceGuard,
        *,
        first: Callable[[], None] = lambda: None,
        own: Callable[[], None] = lambda: None,
        must_succeed: bool = False,
        behind: bool = True,
    ) -> None:
        """Save the run at `position`; a collective. One save is in flight at most: an earlier one is waited for.

        Args:
            position: what has been consumed.
            guard: knows what was stepped over, and the bad steps up to now.
            first: done on rank 0 before anything is written; a CheckpointError of it is a failure to save.
            own: done on every rank before it writes its part; an error of it is a failure to save.
            must_succeed: a failure ends the run whatever the recipe says.
            behind: training may go on meanwhile, where the recipe wants that.

        Raises:
            CheckpointError: it failed, and may not.
            FencedError: another start owns the run by now.
        """
        started = time.perf_counter()
        self.finish()
        record = self._record(position, guard)
        try:
            folder = Path(from_rank_0(lambda: str(self._make_folder(record, first))))
        except MlcError as error:
            self._give_up(error, None, must_succeed=must_succeed)
            return
        behind = behind and self._section.asynchronous
        self._flight = self._begin(record, folder, started, own=own, must_succeed=must_succeed, behind=behind)
        if not behind:
            self.finish()
        self.seconds = time.perf_counter() - started

    def wait_for_copy(self) -> None:
        """Before anything of what is saved changes: wait until a save in flight has its copy."""
        if self._flight is not None and not self._flight.copied.is_set():
            started = time.perf_counter()
            self._flight.copied.wait()
            self.seconds += time.perf_counter() - started

    def go_on(self, signals: RankSignals) -> None:
        """Do what is next for a save in flight, if it can be done at once; a collective; errors as in `save`.

        Args:
            signals: summed over the ranks.
        """
        if signals.written == self._world_size:
            self._share_parts()
        elif signals.placed:
            self._settle()

    def finish(self) -> None:
        """Wait for the save in flight, if there is one, until it is in place; a collective; errors as in `save`."""
        if self._flight is None:
            return
        if not self._flight.placing:
            wait([self._flight.parts])
            self._share_parts()
        self._settle()

    def _share_parts(self) -> None:
        save = self._flight
        assert save is not None
        started = time.perf_counter()
        answers: list[Any] = [None] * self._world_size
        dist.all_gather_object(answers, _outcome(save.parts))
        save.placing = True
        if self._rank == 0:
            save.placed = self._writer.submit(self._put_in_place, save, answers)
        self.seconds += time.perf_counter() - started

    def _settle(self) -> None:
        save, self._flight = self._flight, None
        assert save is not None
        started = time.perf_counter()
        try:
            from_rank_0(lambda: save.placed.result() if save.placed else None)
            self.saved_step = save.record.position.step
            self.longest_seconds = max(self.longest_seconds, time.perf_counter() - save.started)
        except MlcError as error:
            self._give_up(error, save.folder, must_succeed=save.must_succeed)
        self.seconds += time.perf_counter() - started

    def close(self) -> None:
        """Wait for what is being deleted; no save begins after this."""
        self._hook.remove()
        self._writer.shutdown()
        self._remover.shutdown()

    def _record(self, position: Position, guard: DivergenceGuard) -> Record:
        return Record(
            position=position,
            plan=self._facts.plan,
            first_plan=self._facts.first_plan,
            zero_stage=self._state.stage,
            precision=self._facts.precision,
            generation=0 if self._fence is None else self._fence.generation,
            identity=self._facts.identity,
            optimizer_steps=self._state.optimizer_steps,
            loss_scaler=self._state.loss_scaler(),
            skipped_batches=guard.skipped.batches,
            bad_row=guard.row,
            parameters=self._state.shapes(),
            files={},
        )

    def _make_folder(self, record: Record, first: Callable[[], None]) -> Path:
        assert self._fence is not None
        self._fence.check()
        first()
        self._check_space(record)
        folder = self._fence.work / step_name(record.position.step)
        try:
            if folder.exists():  # of a save that failed
                shutil.rmtree(folder)
            folder.mkdir()
            for name in FOLDERS[: 3 if self._queue else 2]:
                (folder / name).mkdir()
        except OSError as error:
            self._fence.check()
            raise _cannot_write(error, folder) from None
        return folder

    def _check_space(self, record: Record) -> None:
        numbers = sum(math.prod(shape) for shape in record.parameters.values())
        needed = 4 * numbers * (4 if self._queue else 3)
        needed += self._queue.queue.bytes if self._queue else 0
        free = shutil.disk_usage(self._run_folder).free
        spare = self._section.min_free_gib * GIB
        if free < needed + spare:
            raise CheckpointError(
                "too little disk space for a checkpoint",
                found=f"{free / GIB:.2f} GiB free",
                needed=f"{needed / GIB:.2f} GiB, and {spare / GIB:g} GiB to spare (checkpoint.min_free_gib)",
                where=str(self._run_folder),
                hint=f"free some space, or mlc checkpoints prune {self._run_folder} --keep-last 1",
            )

    def _begin(
        self,
        record: Record,
        folder: Path,
        started: float,
        *,
        own: Callable[[], None],
        must_succeed: bool,
        behind: bool,
    ) -> _Save:
        parts, has_copy, ready = parts_of(self._state, self._queue), threading.Event(), None
        if torch.cuda.is_available():
            ready = torch.cuda.Event()
            ready.record()
        say = self._say if self._rank == 0 and not behind else None

        def write() -> dict[str, FileFacts]:
            try:
                to_write = copied(parts, self._copies, ready) if behind or ready is not None else parts
            finally:
                has_copy.set()
            own()
            return write_parts(folder, to_write, beat=self._beat, say=say)

        return _Save(folder, record, started, must_succeed, has_copy, self._writer.submit(write))

    def _put_in_place(self, save: _Save, answers: list[Any]) -> None:
        """On rank 0, in a thread: describe, rename, and have deleted what is no longer kept."""
        assert self._fence is not None
        problems = [f"rank {rank}: {answer}" for rank, answer in enumerate(answers) if isinstance(answer, str)]
        if problems:
            self._fence.check()
            raise CheckpointError(
                f"{step_name(save.record.position.step)} could not be written",
                found="; ".join(problems[:3]),
                where=str(save.folder),
                hint="look at free space, quota and permissions of the run folder",
            )
        files: dict[str, FileFacts] = {name: facts for answer in answers for name, facts in answer.items()}
        try:
            files |= self._describe(save.folder, save.record)
            record = replace(save.record, files=dict(sorted(files.items())))
            record.write(save.folder)
            self._root.mkdir(exist_ok=True)
            final = self._root / save.folder.name
            if final.exists():
                remove(final, self._fence.work)
            self._fence.place(save.folder, final)
            self._fence.write(self._root / LATEST_NAME, f"{final.name}\n".encode())
        except OSError as error:
            self._fence.check()
            raise _cannot_write(error, save.folder) from None
        size = sum(facts.bytes for facts in files.values())
        self._say(f"saved {final.name}: {size / 1e6:,.1f} MB in {time.perf_counter() - save.started:.1f} s")
        self._remover.submit(self._remove_superseded)

    def _describe(self, folder: Path, record: Record) -> dict[str, FileFacts]:
        """Write what is no tensor."""
        self._facts.model_files(folder / "model", {"parameters": record.parameters, **vars(record.position)})
        (folder / RECIPE_NAME).write_text(self._facts.recipe, encoding="utf-8")
        written = {path.relative_to(folder).as_posix() for path in (folder / "model").iterdir()}
        names = [RECIPE_NAME, *sorted(name for name in written if not name.startswith(WEIGHTS))]
        for name in names:
            sync_file(folder / name)
        return {name: FileFacts((folder / name).stat().st_size, hash_file(folder / name)) for name in names}

    def _remove_superseded(self) -> None:
        assert self._fence is not None
        section = self._section
        folders = complete_checkpoints(self._run_folder)
        amid = [folder for folder in folders if is_amid_bad_steps(folder)]
        kept = self._facts.also_keep()
        for folder in superseded(
            folders, keep_last=section.keep_last, keep_every=section.keep_every, also=kept, amid_bad_steps=amid
        ):
            try:
                remove(folder, self._fence.work)
            except OSError as error:
                self._say(f"{folder} could not be deleted: {error}")

    def _give_up(self, error: MlcError, folder: Path | None, *, must_succeed: bool) -> None:
        if self._rank == 0 and folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        if must_succeed or self._section.on_failure == "stop" or isinstance(error, FencedError):
            raise error
        self._say(f'{error}\n  training goes on (checkpoint.on_failure = "continue"); the checkpoints before are whole')


def _outcome(parts: Future[dict[str, FileFacts]]) -> dict[str, FileFacts] | str:
    """What a rank tells the others: its files, or what went wrong."""
    error = parts.exception()
    return parts.result() if error is None else f"{type(error).__name__}: {error}"


def _cannot_write(error: OSError, where: Path) -> CheckpointError:
    return CheckpointError(
        "a checkpoint cannot be written",
        found=str(error),
        where=str(where),
        hint="look at free space, quota and permissions of the run folder",
    )
