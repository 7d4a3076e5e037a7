"""Training runs on a test cluster: submitted by `mlc submit`, watched by their files and by SLURM.

In:  a running `SlurmCluster` and a folder that all its hosts see.
Out: `SlurmRuns.submit` and a `SlurmRun` to wait for and to ask.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from recipes_for_tests import ROOT, recipe_table
from slurm_cluster import SlurmCluster
from small_shards import write_small_shards

RANKS_PER_NODE = 2
TOTAL_STEPS = 48
EVERY_STEPS = 8
START_SECONDS = 240.0
"""Eight ranks import torch on two cores, perhaps beside other work."""
RUN_SECONDS = 480.0
ENVIRON = {
    "DS_ACCELERATOR": "cpu",
    "OMP_NUM_THREADS": "1",
    "GLOO_SOCKET_IFNAME": "eth0",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True)
class SlurmRun:
    """One run folder and its job."""

    cluster: SlurmCluster
    folder: Path
    job: str

    def metrics(self) -> list[dict[str, Any]]:
        """Whole lines of metrics.jsonl."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def step(self) -> int:
        """The last logged step, 0 without one."""
        lines = self.metrics()
        return int(lines[-1]["step"]) if lines else 0

    def saved_step(self) -> int:
        """Of the newest complete checkpoint."""
        found = self.folder.glob("checkpoints/step-*/complete.json")
        return max((int(path.parent.name.removeprefix("step-")) for path in found), default=0)

    def events(self, kind: str = "") -> list[dict[str, Any]]:
        """What the batch script noted."""
        lines = (
            line
            for path in sorted(self.folder.glob("slurm/submit-*/events.jsonl"))
            for line in path.read_text().splitlines()
        )
        return [event for event in map(json.loads, lines) if not kind or event["event"] == kind]

    def batch_log(self) -> str:
        """What the batch scripts said."""
        return "".join(path.read_text() for path in sorted(self.folder.glob("slurm/submit-*/batch.log")))

    def exit_code(self) -> int | None:
        """Of exit.json."""
        path = self.folder / "exit.json"
        try:
            return int(json.loads(path.read_text())["code"])
        except (OSError, ValueError):
            return None

    def state(self) -> str:
        """SLURM's word for the job."""
        return self.cluster.job(self.job).state

    def wait(self, predicate: Callable[[], bool], what: str, seconds: float = RUN_SECONDS) -> None:
        """Poll; a run that failed for good is an error at once."""

        def ended_or_true() -> bool:
            return predicate() or self._is_over()

        self.cluster.wait_for(ended_or_true, seconds, f"{self.folder.name}: {what}")
        assert predicate(), f"{what}: {self.state()}\n{self.batch_log()[-3000:]}\n{self.log_end()}"

    def _is_over(self) -> bool:
        return self.state() in ("FAILED", "CANCELLED", "TIMEOUT", "COMPLETED", "BOOT_FAIL", "OUT_OF_MEMORY", "DEADLINE")

    def wait_for_step(self, step: int, *, after_start: int = 0, seconds: float = RUN_SECONDS) -> None:
        """Until a step is logged, by the start of this number (0: the first)."""

        def there() -> bool:
            return len(self.events("start")) > after_start and self.step() >= step

        self.wait(there, f"step {step} of start {after_start}", seconds)

    def wait_for_end(self, seconds: float = RUN_SECONDS) -> None:
        """Until the job is completed; everything else is an error."""
        self.wait(lambda: self.state() == "COMPLETED", "the end of the job", seconds)
        assert self.exit_code() == 0, self.log_end()

    def log_of(self, start: dict[str, Any]) -> str:
        """What the ranks of a start printed, as far as it is there."""
        path = self.folder / "logs" / f"{start['job']}.{start['restart']}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def log_end(self) -> str:
        """The last lines of all starts' ranks."""
        logs = sorted(self.folder.glob("logs/*.log"), key=lambda path: path.stat().st_mtime)
        return "\n".join(f"== {path.name}\n{path.read_text(errors='replace')[-1500:]}" for path in logs[-2:])


class SlurmRuns:
    """Runs of one recipe on one cluster.

    Args:
        cluster: running.
        folder: empty; for shards, recipes and run folders.
    """

    def __init__(self, cluster: SlurmCluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        write_small_shards(folder / "shards")

    def site(self, **changes: Any) -> Path:
        """A site file for CPU ranks."""
        table: dict[str, Any] = {
            "warning_seconds": 60,
            "variables": ENVIRON,
            "resources": {"nodes": "4", "ranks_per_node": RANKS_PER_NODE, "time": "00:20:00"},
            "check": {"enabled": False},
        }
        for key, value in changes.items():
            table[key] = {**table[key], **value} if isinstance(table.get(key), dict) else value
        path = self.folder / f"site-{len(list(self.folder.glob('site-*')))}.toml"
        path.write_bytes(tomli_w.dumps(table).encode())
        return path

    def recipe(self, name: str, **changes: dict[str, Any]) -> Path:
        """A recipe whose run folder is `name`; sections are changed key by key."""
        table = recipe_table(
            run={"folder": str(self.folder / name), "precision": "bf16"},
            data={"shards": str(self.folder / "shards"), "samples_per_step": 24},
            schedule={"total_steps": TOTAL_STEPS},
            checkpoint={"every_steps": EVERY_STEPS, "keep_last": 2},
        )
        for section, values in changes.items():
            table[section] = {**table.get(section, {}), **values}
        path = self.folder / f"{name}.toml"
        path.write_bytes(tomli_w.dumps(table).encode())
        return path

    def submit(self, name: str, *options: str, site: Path | None = None, **changes: dict[str, Any]) -> SlurmRun:
        """`mlc submit` of a run."""
        recipe = self.recipe(name, **changes)
        printed = self.mlc("submit", str(recipe), "--site", str(site or self.site()), *options).stdout
        assert printed.startswith("job "), printed
        return SlurmRun(self.cluster, self.folder / name, printed.split()[1].rstrip(":"))

    def mlc(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command of mlc, on this machine, as a user of the cluster."""
        return self.cluster.run(sys.executable, "-m", "mlc", *arguments, check=check, cwd=ROOT)

    def torchrun(self, name: str, ranks: int, **changes: dict[str, Any]) -> Path:
        """The same run by torchrun on this machine alone; returns its folder."""
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        command += ["-m", "mlc", "train", str(self.recipe(name, **changes))]
        environ = {**self.cluster.environ, **ENVIRON, "GLOO_SOCKET_IFNAME": "lo"}
        done = subprocess.run(
            command, env=environ, cwd=ROOT, capture_output=True, text=True, check=False, timeout=RUN_SECONDS
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return self.folder / name
