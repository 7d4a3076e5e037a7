"""Who works with us: nobody, ranks of MPI, or processes that only the output folder connects with this one.

In:  the environment a launcher left; nothing else of data_prep reads a launcher's variables.
Out: a `Ranks`: this rank, how many there are, and two ways to work together that cannot leave a rank waiting for one
     that failed: every rank learns of every failure and raises it.

A build needs nothing but the folder (data_prep.claims). So MPI is used where a launcher offers it, and tasks of srun or
of a job array do without: how many of them there are decides where each begins, and about no byte.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from mlc.errors import MlcError, UsageError

ASKED_SIZE = "MLC_WORLD_SIZE"
"""Set by batch scripts (launchers/templates)."""

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those of one build; `communicator` is None where it is alone."""

    rank: int = 0
    size: int = 1
    communicator: Any = None

    @property
    def is_unconnected(self) -> bool:
        """Whether there are others that only the output folder connects with this one."""
        return self.communicator is None and self.size > 1

    def everywhere(self, work: Callable[[], T]) -> list[T]:
        """Every rank does its `work`; all get all results, in the order of ranks.

        Raises:
            MlcError: the error of the first rank that failed, on every rank, after all have ended their work.
        """
        if self.communicator is None:
            return [work()]
        outcomes = self.communicator.allgather(self._try(work))
        return [self._value_of(outcome, rank) for rank, outcome in enumerate(outcomes)]

    def on_first(self, work: Callable[[], T]) -> T:
        """Rank 0 does the `work`; all get its result, or raise its error. Without a communicator every process does it.

        Raises:
            MlcError: of the work.
        """
        if self.communicator is None:
            return work()
        value: T = self._value_of(self.communicator.bcast(self._try(work) if self.rank == 0 else None), 0)
        return value

    def _try(self, work: Callable[[], T]) -> tuple[T | None, MlcError | None]:
        try:
            return work(), None
        except MlcError as error:
            return None, error
        except Exception as error:
            # A fault of ours: its traceback belongs to the rank where it happened, the others get one line.
            traceback.print_exc(file=sys.stderr)
            return None, MlcError(f"{type(error).__name__}: {error}")

    def _value_of(self, outcome: Any, rank: int) -> Any:
        value, error = outcome
        if error is not None:
            if rank != self.rank and self.size > 1:
                error.args = (f"rank {rank}: {error}",)
            raise error
        return value


def find_ranks(environ: Mapping[str, str]) -> Ranks:
    """Read the launcher's variables; MPI is imported only where one of them is set.

    Args:
        environ: `os.environ`, or a test's stand-in.

    Raises:
        UsageError: a launcher of MPI started several processes that MPI cannot bring together, or not as many as
            the batch script asked for.
    """
    ranks = _find(environ)
    asked = _number(environ, ASKED_SIZE) if ASKED_SIZE in environ else ranks.size
    if asked != ranks.size:
        raise UsageError(
            "this is not the number of processes that was asked for",
            found=ranks.size,
            needed=f"{asked} ({ASKED_SIZE})",
            hint="the mpirun beside this python, or mlc submit prep --start srun: the shards are the same",
        )
    return ranks


def _find(environ: Mapping[str, str]) -> Ranks:
    found = _launched_by_mpi(environ)
    if found is None:
        return _unconnected(environ)
    launcher, size = found
    if size == 1:
        return Ranks()
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise UsageError(
            f"{launcher} started this program, but no MPI can be loaded",
            found=str(error).splitlines()[0],
            hint="pip install 'mlc[mpi]', or load the cluster's MPI module; or run without a launcher",
        ) from None
    communicator = MPI.COMM_WORLD
    if size is not None and communicator.size != size:
        raise UsageError(
            "the launcher and MPI disagree about the number of processes",
            found=f"{launcher} started {size}, MPI sees {communicator.size}",
            needed="the mpirun of the MPI that mpi4py was built for, or srun with a matching --mpi",
            hint="the mpirun beside this python, srun --mpi=none, or no launcher at all: the shards are the same",
        )
    if communicator.size == 1:
        return Ranks()
    return Ranks(communicator.rank, communicator.size, communicator)


def _launched_by_mpi(environ: Mapping[str, str]) -> tuple[str, int | None] | None:
    """(launcher, processes or None where it does not say), or None where no launcher offers MPI."""
    for name, launcher in (("OMPI_COMM_WORLD_SIZE", "mpirun"), ("PMI_SIZE", "mpiexec")):
        if name in environ:
            return launcher, _number(environ, name)
    if "PMIX_RANK" not in environ:
        return None
    step = _step(environ)
    return ("srun", step[1]) if step else ("a PMIx launcher", None)


def _unconnected(environ: Mapping[str, str]) -> Ranks:
    """A task of srun, of a job array, of srun in a job array, or of a launcher such as torchrun; or nobody's."""
    number, count = _step(environ) or _torchrun(environ) or (0, 1)
    names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT")
    if all(name in environ for name in names):
        task, first, tasks = (_number(environ, name) for name in names)
        # Numbers of an array may have gaps ("1-9:2"): what is needed is a place, and some may share it.
        number, count = min(task - first, tasks - 1) * count + number, tasks * count
    return Ranks(number, count)


def _step(environ: Mapping[str, str]) -> tuple[int, int] | None:
    """Number of this task of srun, and how many there are; None in a batch script, which is no step."""
    if "SLURM_STEP_ID" not in environ or "SLURM_PROCID" not in environ:
        return None
    # SLURM_NTASKS is the job's number; a step may have another.
    name = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS"
    return (_number(environ, "SLURM_PROCID"), _number(environ, name)) if name in environ else None


def _torchrun(environ: Mapping[str, str]) -> tuple[int, int] | None:
    if "RANK" not in environ or "WORLD_SIZE" not in environ:
        return None
    return _number(environ, "RANK"), _number(environ, "WORLD_SIZE")


def _number(environ: Mapping[str, str], name: str) -> int:
    try:
        return int(environ[name])
    except ValueError:
        raise UsageError("a launcher's variable is no number", found=environ[name], where=name) from None
