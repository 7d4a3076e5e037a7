"""The `mlc` command in processes of its own, forked from the one that has imported everything."""

from __future__ import annotations

import io
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers  # noqa: F401 (so that children need not)

import mlc.cli
from mlc.embed import command, opening, search_command  # noqa: F401


@dataclass(frozen=True)
class Ended:
    """How a process ended: minus a signal's number where one killed it."""

    code: int
    out: str
    err: str


def run_mlc(
    *arguments: str | Path,
    world_size: int = 1,
    stdin: bytes | None = None,
    before: Callable[[], None] | None = None,
) -> list[Ended]:
    """Run `mlc` once a rank, all at the same time.

    Args:
        before: called in each child first.
    """
    context = multiprocessing.get_context("fork")
    started = []
    for rank in range(world_size):
        ours, theirs = context.Pipe(duplex=False)
        argv = [str(argument) for argument in arguments]
        child = context.Process(target=_child, args=(argv, rank, world_size, stdin, before, theirs))
        child.start()
        theirs.close()
        started.append((child, ours))
    ended = []
    for child, ours in started:
        try:
            out, err = ours.recv()
        except EOFError:  # killed
            out, err = "", ""
        child.join(60)
        ended.append(Ended(child.exitcode if child.exitcode is not None else -1, out, err))
    return ended


def _child(
    argv: Sequence[str],
    rank: int,
    world_size: int,
    stdin: bytes | None,
    before: Callable[[], None] | None,
    answer: Any,
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)
    if world_size > 1:
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(rank))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29500")
    torch.set_num_threads(1)
    sys.argv = ["mlc", *argv]
    sys.stdin = io.TextIOWrapper(io.BytesIO(stdin or b""))
    out, err, code = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            if before is not None:
                before()
            mlc.cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
    answer.send((out.getvalue(), err.getvalue()))
    answer.close()
    os._exit(code)
