"""Starts of `mlc train` as real processes, for tests: as users start them, or forked from a server, which is fast.

What two such runs came to is compared here too.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import tomli_w
from faults_for_tests import Fault
from ranks import free_port
from recipes_for_tests import recipe_table
from small_shards import write_small_shards

from mlc.engine.compare import compare_runs
from mlc.engine.metrics import is_clock, read_metrics

SERVER = Path(__file__).parent / "training_server.py"
TIMEOUT_SECONDS = 240.0


def environment(**changes: str) -> dict[str, str]:
    keep = {
        key: value for key, value in os.environ.items() if not key.startswith(("RANK", "WORLD_", "OMPI_", "SLURM_"))
    }
    # Four threads on purpose: the recipe, not the environment, has to decide.
    return {**keep, "OMP_NUM_THREADS": "4", "DS_ACCELERATOR": "cpu", "COLUMNS": "200", **changes}


def rank_environment(rank: int, world_size: int, port: str) -> dict[str, str]:
    return environment(
        RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=port
    )


def train_arguments(recipe: Path, run_folder: Path, overrides: Sequence[str], command: str = "train") -> list[str]:
    arguments = [command, str(recipe)]
    for setting in (f"run.folder={run_folder}", *overrides):
        arguments += ["--set", setting]
    return arguments


def start_plain(recipe: Path, run_folder: Path, *overrides: str, world_size: int = 2) -> list[subprocess.Popen[str]]:
    """As srun would: `world_size` processes that share nothing but an address."""
    port = str(free_port())
    return [
        subprocess.Popen(
            [sys.executable, "-m", "mlc", *train_arguments(recipe, run_folder, overrides)],
            env=rank_environment(rank, world_size, port),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world_size)
    ]


def finish(processes: Sequence[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Exit code and output of each."""
    try:
        outputs = [process.communicate(timeout=TIMEOUT_SECONDS)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]


class TrainingServer:
    """Starts ranks that are forked from a process which has imported everything; a context manager, which ends them.

    Args:
        folder: for what ranks print.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._pids: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._codes: dict[int, int] = {}
        self._ended = threading.Condition()

    def __enter__(self) -> Self:
        # The number of threads is that of the recipe; of a library's own threads none would survive the fork.
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self._server = subprocess.Popen(
            [sys.executable, str(SERVER)],
            env=environment(**single),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._server.stdout is not None
        threading.Thread(target=self._read, args=(self._server.stdout,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.kill()
        self._server.wait()

    def start(
        self,
        recipe: Path,
        run_folder: Path,
        *overrides: str,
        world_size: int = 2,
        faults: Sequence[Fault] = (),
        command: str = "train",
    ) -> Training:
        """All ranks of one start of a run.

        Args:
            recipe, run_folder, overrides: of the run; an override is "section.key=value".
            world_size: number of ranks.
            command: of mlc: train or finetune.
            faults: what happens to them.
        """
        port = str(free_port())
        ranks = []
        for rank in range(world_size):
            descriptor, name = tempfile.mkstemp(dir=self._folder, prefix=f"{run_folder.name}-{rank}-", suffix=".txt")
            os.close(descriptor)
            request = {
                "arguments": train_arguments(recipe, run_folder, overrides, command),
                "environment": rank_environment(rank, world_size, port),
                "output": name,
                "faults": [asdict(fault) for fault in faults if fault.rank in (None, rank)],
            }
            assert self._server.stdin is not None
            self._server.stdin.write(json.dumps(request) + "\n")
            self._server.stdin.flush()
            ranks.append(RankProcess(self._pids.get(timeout=TIMEOUT_SECONDS), Path(name), self))
        return Training(ranks)

    def code(self, pid: int) -> int | None:
        """Exit code of a rank that has ended; a signal's number is negative."""
        return self._codes.get(pid)

    def wait_for_end(self, pid: int, timeout_seconds: float) -> int | None:
        with self._ended:
            self._ended.wait_for(lambda: pid in self._codes, timeout_seconds)
        return self.code(pid)

    def _read(self, answers: IO[str]) -> None:
        for line in answers:
            answer = json.loads(line)
            if "code" in answer:
                with self._ended:
                    self._codes[answer["pid"]] = answer["code"]
                    self._ended.notify_all()
            else:
                self._codes.pop(answer["pid"], None)  # the number of a process that is long gone
                self._pids.put(answer["pid"])


@dataclass(frozen=True)
class RankProcess:
    """One forked rank."""

    pid: int
    output: Path
    server: TrainingServer

    @property
    def code(self) -> int | None:
        return self.server.code(self.pid)

    @property
    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def wait(self, timeout_seconds: float = TIMEOUT_SECONDS) -> int | None:
        return self.server.wait_for_end(self.pid, timeout_seconds)

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def freeze(self) -> None:
        """SIGSTOP, and wait until every thread of it has stopped or the process has ended."""
        self.send(signal.SIGSTOP)
        wait_until(lambda: self.code is not None or self.is_frozen(), "a rank to stop")

    def is_frozen(self) -> bool:
        """Whether all its threads are stopped (or it is a zombie)."""
        states = []
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for task in Path(f"/proc/{self.pid}/task").iterdir():
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    states.append((task / "stat").read_text().rpartition(")")[2].split()[0])
        return all(state in "TZX" for state in states)


@dataclass(frozen=True)
class Training:
    """One start of a run."""

    ranks: list[RankProcess]

    def __getitem__(self, rank: int) -> RankProcess:
        return self.ranks[rank]

    @property
    def codes(self) -> list[int | None]:
        return [rank.code for rank in self.ranks]

    @property
    def is_over(self) -> bool:
        return None not in self.codes

    @property
    def text(self) -> str:
        """What all ranks have printed."""
        return "\n".join(f"--- rank {number}, {rank.code}\n{rank.text}" for number, rank in enumerate(self.ranks))

    def wait(self, timeout_seconds: float = TIMEOUT_SECONDS) -> list[int | None]:
        """Exit codes; None for a rank that has not ended in time, which is killed."""
        deadline = time.monotonic() + timeout_seconds
        codes = [rank.wait(max(0.0, deadline - time.monotonic())) for rank in self.ranks]
        self.kill()
        return codes

    def send(self, number: signal.Signals) -> None:
        for rank in self.ranks:
            rank.send(number)

    def freeze(self) -> None:
        self.send(signal.SIGSTOP)
        for rank in self.ranks:
            rank.freeze()

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        for rank in self.ranks:
            rank.wait()


def wait_until(happened: Callable[[], bool], what: str, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
    """Poll for an event."""
    deadline = time.monotonic() + timeout_seconds
    while not happened():
        assert time.monotonic() < deadline, f"waited {timeout_seconds:g} s for {what}"
        time.sleep(0.002)  # polling for an event, not waiting out a time


def wait_for_lines(run_folder: Path, count: int, training: Training) -> None:
    """Until the run has logged so many steps."""
    wait_until(lambda: len(read_metrics(run_folder)) >= count or training.is_over, f"{count} steps")
    assert not training.is_over, training.text


def write_recipe(folder: Path, **changes: Mapping[str, Any]) -> Path:
    """A recipe of a small run over shards of random tokens, both in `folder`."""
    if not (folder / "shards").exists():
        write_small_shards(folder / "shards")
    changes = {
        **changes,
        "data": {"shards": str(folder / "shards"), **changes.get("data", {})},
        "checkpoint": {"min_free_gib": 0.0, **changes.get("checkpoint", {})},
    }
    path = Path(tempfile.mkstemp(dir=folder, prefix="recipe-", suffix=".toml")[1])
    path.write_text(tomli_w.dumps(recipe_table(**{name: dict(table) for name, table in changes.items()})))
    return path


def without_clocks(run_folder: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if not is_clock(key)} for line in read_metrics(run_folder)]


def final_checkpoint(run_folder: Path) -> Path:
    return max((run_folder / "checkpoints").glob("step-*"))


def assert_same_end(run_folder: Path, unbroken: Path) -> None:
    """All metrics but clocks, and every file of tensors in the last checkpoint, byte by byte."""
    assert compare_runs(run_folder, unbroken).difference is None
    assert without_clocks(run_folder) == without_clocks(unbroken)
    one, other = final_checkpoint(run_folder), final_checkpoint(unbroken)
    assert one.name == other.name
    files = [sorted(path.relative_to(folder) for path in folder.rglob("*.safetensors")) for folder in (one, other)]
    assert files[0] == files[1] != []
    for name in files[0]:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
