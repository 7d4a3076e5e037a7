"""Runs a function on several real processes that talk over gloo, for tests.

A test passes a module-level function (and picklable arguments); starting the processes costs seconds, so let one call
run many cases and return all their results.
"""

from __future__ import annotations

import multiprocessing.connection
import os
import pickle
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing

GRACE_SECONDS = 5.0
"""How long the other ranks may go on after one has failed; they usually hang in a collective."""


class RankFailed(Exception):
    """A rank ended in a way that left no exception to re-raise."""


def run_on_ranks(
    function: Callable[..., Any],
    world_size: int,
    *args: Any,
    process_group: bool = True,
    environ: Mapping[str, str] | None = None,
    timeout_seconds: float = 120.0,
) -> list[Any]:
    """Call `function(*args)` in `world_size` new processes and return the results in rank order.

    Args:
        function: importable by name, so not a lambda nor a function inside a test.
        process_group: start a gloo process group first, and end it afterwards; False leaves that to the function.
            RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_SIZE, MASTER_ADDR and MASTER_PORT are set either way.
        environ: more environment variables for the ranks, set before `function` is imported there.
        timeout_seconds: for everything, the start of the processes included.

    Raises:
        the exception of the rank that failed first, with its traceback as a note; RankFailed when there is none
            (a crash, a result that cannot be pickled); TimeoutError.
    """
    context = torch.multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="ranks-") as name:
        folder = Path(name)
        # The function travels as bytes, so that its module is imported after the environment is set.
        (folder / "call.pickle").write_bytes(pickle.dumps((function, args)))
        common = {
            "WORLD_SIZE": str(world_size),
            "LOCAL_SIZE": str(world_size),
            "LOCAL_WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            "OMP_NUM_THREADS": "1",
            **(environ or {}),
        }
        processes = [
            context.Process(target=_rank_main, args=(rank, world_size, folder, common, process_group), daemon=True)
            for rank in range(world_size)
        ]
        for process in processes:
            process.start()
        try:
            ended = _wait(processes, time.monotonic() + timeout_seconds)
        finally:
            for process in processes:
                process.kill()
                process.join()
        _raise_first_failure(folder, world_size, ended, timeout_seconds)
        return [pickle.loads((folder / f"result-{rank}.pickle").read_bytes()) for rank in range(world_size)]


def _rank_main(rank: int, world_size: int, folder: Path, environ: Mapping[str, str], process_group: bool) -> None:
    os.environ.update(environ, RANK=str(rank), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    try:
        function, args = pickle.loads((folder / "call.pickle").read_bytes())
        if process_group:
            dist.init_process_group(
                "gloo",
                init_method=f"file://{folder}/rendezvous",
                rank=rank,
                world_size=world_size,
                timeout=timedelta(seconds=60),
            )
        result = pickle.dumps(function(*args))
        if process_group:
            dist.barrier()  # no rank leaves while another still talks to it
            dist.destroy_process_group()
        (folder / f"result-{rank}.pickle").write_bytes(result)
        sys.stdout.flush()
        sys.stderr.flush()
        # Past the destructors of C++ libraries: what looks like one of them once aborted a rank ("terminate called
        # without an active exception").
        os._exit(0)
    except BaseException as error:
        record = (time.monotonic(), _as_bytes(error), traceback.format_exc())
        (folder / f"error-{rank}.pickle").write_bytes(pickle.dumps(record))
        sys.stderr.flush()
        os._exit(1)  # a normal exit may wait for the other ranks


def _wait(processes: list[Any], deadline: float) -> dict[int, int]:
    """Until all processes have ended, one has failed (and a grace is over), or the deadline: {rank: exit code}."""
    ended: dict[int, int] = {}
    while len(ended) < len(processes) and (left := deadline - time.monotonic()) > 0:
        running = [process.sentinel for rank, process in enumerate(processes) if rank not in ended]
        multiprocessing.connection.wait(running, timeout=left)
        # A sentinel may fire a moment before the exit code can be read.
        codes = {rank: process.exitcode for rank, process in enumerate(processes) if rank not in ended}
        new = {rank: code for rank, code in codes.items() if code is not None}
        if any(new.values()):
            deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
        ended |= new
    return ended


def _raise_first_failure(folder: Path, world_size: int, ended: Mapping[int, int], timeout_seconds: float) -> None:
    records = []
    for path in folder.glob("error-*.pickle"):
        seconds, error, text = pickle.loads(path.read_bytes())
        records.append((seconds, int(path.stem.removeprefix("error-")), error, text))
    for rank, code in ended.items():
        # First, because the end of one rank breaks connections and so makes the others raise.
        if code != 0 and rank not in [record[1] for record in records]:
            raise RankFailed(f"rank {rank} of {world_size} ended with exit code {code}")
    if records:
        _, rank, error_bytes, text = min(records)
        error = pickle.loads(error_bytes) if error_bytes else RankFailed(f"rank {rank} failed")
        error.add_note(f"on rank {rank} of {world_size}:\n{text}")
        raise error
    unfinished = sorted(set(range(world_size)) - set(ended))
    if unfinished:
        raise TimeoutError(f"ranks {unfinished} of {world_size} had no result after {timeout_seconds} s")


def _as_bytes(error: BaseException) -> bytes | None:
    """The pickled exception, or None if it does not survive the trip."""
    try:
        data = pickle.dumps(error)
        pickle.loads(data)
    except Exception:
        return None
    return data


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
