"""Forks ranks of `mlc train` from a process that has imported everything: a start costs a tenth of what it costs alone.

In:  a JSON object a line on stdin: {"arguments", "environment", "output", "faults"}; `training_processes` sends them.
Out: {"pid"} for each, and {"pid", "code"} when a rank has ended, a line each on stdout.

A forked rank is a process of its own that runs the same `mlc.cli.main` as `python -m mlc`, until the interpreter's own
end. It dies with this process, so no test leaves one behind.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import select
import signal
import sys
from collections.abc import Mapping
from typing import Any

from faults_for_tests import install

PRELOADED = (
    "deepspeed",
    "deepspeed.ops.adam",
    "deepspeed.runtime.bf16_optimizer",
    "deepspeed.runtime.zero.stage3",
    "deepspeed.runtime.zero.stage_1_and_2",
    "mlc.checkpoint.command",
    "mlc.cli",
    "mlc.engine.train",
    "mlc.evaluate.command",
    "mlc.export.command",
    "mlc.finetune.works",
    "mlc.tasks.scores_classes",
    "mlc.tasks.scores_words",
    "data_prep.command",
    "torch._dynamo",
    "torch._inductor.compile_fx",
    "torch.distributed.checkpoint",
    "torch.profiler",
)
PR_SET_PDEATHSIG = 1


def main() -> None:
    answers = os.dup(1)
    os.dup2(2, 1)  # libraries print while they are imported
    for name in PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what is never collected is never written to, so its memory stays shared
    threads = os.listdir("/proc/self/task")
    assert len(threads) == 1, "threads do not survive a fork, and what they hold locked stays locked"
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wake)
    waiting = b""
    while True:
        ready, _, _ = select.select([0, ended], [], [])
        if ended in ready:
            os.read(ended, 4096)
            _report_ends(answers)
        if 0 in ready:
            received = os.read(0, 1 << 16)
            if not received:
                return
            *requests, waiting = (waiting + received).split(b"\n")
            for request in requests:
                pid = os.fork()
                if pid == 0:
                    for descriptor in (answers, ended, wake):
                        os.close(descriptor)
                    _become_rank(json.loads(request))
                _answer(answers, {"pid": pid})


def _report_ends(answers: int) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        _answer(answers, {"pid": pid, "code": os.waitstatus_to_exitcode(status)})


def _answer(answers: int, content: Mapping[str, int]) -> None:
    os.write(answers, json.dumps(content).encode() + b"\n")


def _become_rank(request: Mapping[str, Any]) -> None:
    """In the forked process; ends it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["mlc", *request["arguments"]]
    from mlc.cli import main as run

    install(request["faults"])
    run()
    sys.exit(0)


if __name__ == "__main__":
    main()
