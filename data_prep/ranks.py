"""Who works with us: alone, or under mpirun or srun. The only file of data_prep that reads rank variables.

In:  the environment a launcher left.
Out: a `Ranks`: this rank, how many there are, and two ways to work together that cannot leave a rank waiting for one
     that failed: every rank learns of every failure and raises it.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from mlc.errors import MlcError, UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those of one build; `communicator` is None where it is alone."""

    rank: int = 0
    size: int = 1
    communicator: Any = None

    @property
    def is_array(self) -> bool:
        """Whether there are others that only the output folder connects with this one: tasks of a job array."""
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
        UsageError: a launcher started several processes that MPI cannot bring together.
    """
    _refuse_separate_builds(environ)
    found = _launched_size(environ)
    if found is None:
        return _array_task(environ)
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
            hint="srun --mpi=pmix ...; or the mpirun beside this python; or run without a launcher",
        )
    if communicator.size == 1:
        return Ranks()
    return Ranks(communicator.rank, communicator.size, communicator)


def _array_task(environ: Mapping[str, str]) -> Ranks:
    """A task of a SLURM job array, which knows the others through the output folder alone; or a process by itself."""
    names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT")
    if not all(name in environ for name in names):
        return Ranks()
    number, first, count = (_number(environ, name) for name in names)
    return Ranks(number - first, count)


def _refuse_separate_builds(environ: Mapping[str, str]) -> None:
    """Processes that do not know of one another would each do the whole build, in one folder."""
    needed = "one process, or several under mpirun or srun --mpi=pmix"
    name = "WORLD_SIZE"
    if name in environ and _number(environ, name) > 1 and _launched_size(environ) is None:
        raise UsageError(
            "a launcher without MPI cannot share a build", found=f"{name} = {environ[name]}", needed=needed
        )


def _launched_size(environ: Mapping[str, str]) -> tuple[str, int | None] | None:
    """(launcher, processes or None where it does not say), or None where there is no launcher."""
    for name, launcher in (("OMPI_COMM_WORLD_SIZE", "mpirun"), ("PMI_SIZE", "mpiexec")):
        if name in environ:
            return launcher, _number(environ, name)
    if "SLURM_STEP_ID" in environ and "SLURM_PROCID" in environ:
        # SLURM_NTASKS is the job's number; a step may have another.
        name = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS"
        return "srun", _number(environ, name) if name in environ else None
    if "PMIX_RANK" in environ:
        return "a PMIx launcher", None
    return None


def _number(environ: Mapping[str, str], name: str) -> int:
    try:
        return int(environ[name])
    except ValueError:
        raise UsageError("a launcher's variable is no number", found=environ[name], where=name) from None
