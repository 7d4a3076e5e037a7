"""Several real processes on this machine that pose as hosts, with real faults; all at the same time."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from launchers.node_check.check import start
from launchers.node_check.command import is_bad
from launchers.node_check.findings import Host, ready_path
from launchers.node_check.local import Limits

pytestmark = pytest.mark.slow

SECONDS = 24.0
LIMITS = Limits(gpus=0, memory_gb=0.0, shared_memory_gb=0.0, folder_gb=0.0, clock_skew_seconds=2.0)
NOBODY = "192.0.2.1"
"""An address that is nobody's (RFC 5737)."""


def play_host(folder: Path, hosts: tuple[Host, ...], me: int, outcomes: Path) -> None:
    os.setsid()
    outcome = start(folder, hosts, me, LIMITS, SECONDS, {})
    (outcomes / f"{hosts[me].name}.json").write_text(json.dumps(outcome.findings.problems))
    sys.exit(1 if is_bad(outcome) else 0)


class Scene:
    """Hosts in a folder of their own."""

    def __init__(self, folder: Path, *hosts: str) -> None:
        self.folder, self.outcomes = folder / "shared", folder / "outcomes"
        self.outcomes.mkdir(parents=True)
        pairs = [host.partition("=") for host in hosts]
        self.hosts = tuple(Host(name, address or "127.0.0.1") for name, _, address in pairs)
        self.names = [host.name for host in self.hosts]
        self.processes: dict[str, ForkServerProcess] = {}

    def begin(self, *names: str, folder: Path | None = None) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch.distributed", "launchers.node_check.check"])
        for name in names:
            arguments = (folder or self.folder, self.hosts, self.names.index(name), self.outcomes)
            self.processes[name] = context.Process(target=play_host, args=arguments)
            self.processes[name].start()

    def wait(self, *names: str) -> dict[str, int | None]:
        for name in names:
            self.processes[name].join(2 * SECONDS)
        return {name: self.processes[name].exitcode for name in names}

    def kill(self) -> None:
        for process in self.processes.values():
            if process.is_alive() and process.pid is not None:
                os.killpg(process.pid, signal.SIGKILL)
            process.join()

    def verdict(self) -> dict[str, Any]:
        verdict: dict[str, Any] = json.loads((self.folder / "verdict.json").read_text())
        return verdict

    def bad_nodes(self) -> list[list[str]]:
        return [line.split("\t") for line in (self.folder / "bad-nodes.txt").read_text().splitlines()]

    def problems(self, name: str) -> list[str]:
        problems: list[str] = json.loads((self.outcomes / f"{name}.json").read_text())
        return problems


def wait_for(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Scene]]:
    folder = tmp_path_factory.mktemp("node-check")
    scenes = {
        "stopped": Scene(folder / "stopped", "n1", "n2", "n3", "n4"),
        "good": Scene(folder / "good", "n1", "n2", "n3"),
        "missing": Scene(folder / "missing", "n1", "n2", "n3", "n4", "n5"),
        "deaf": Scene(folder / "deaf", f"n1={NOBODY}", "n2", "n3"),
        "headless": Scene(folder / "headless", "n1", "n2"),
    }
    try:
        # The rounds wait for n4, so n3 is stopped before its first one.
        stopped = scenes["stopped"]
        stopped.begin("n1", "n2", "n3")
        wait_for(ready_path(stopped.folder, "n3").exists)
        process = stopped.processes["n3"].pid
        assert process is not None
        os.killpg(process, signal.SIGSTOP)
        stopped.begin("n4")
        scenes["good"].begin("n1", "n2", "n3")
        scenes["missing"].begin("n1", "n2", "n3")
        scenes["missing"].begin("n5", folder=folder / "elsewhere" / "shared")
        scenes["deaf"].begin("n1", "n2", "n3")
        scenes["headless"].folder.mkdir()
        scenes["headless"].begin("n2")
        yield scenes
    finally:
        for scene in scenes.values():
            scene.kill()


def test_good_hosts_meet_and_end_early(scenes: dict[str, Scene]) -> None:
    scene = scenes["good"]
    assert scene.wait("n1", "n2", "n3") == {"n1": 0, "n2": 0, "n3": 0}
    verdict = scene.verdict()
    assert (verdict["bad"], verdict["judge"]) == ({}, "n1")
    assert verdict["seconds"] < SECONDS / 2
    assert (scene.folder / "bad-nodes.txt").read_text() == ""
    for name in scene.names:
        found = json.loads((scene.folder / f"{name}.json").read_text())
        assert set(found["pairs"]) == set(scene.names) - {name}
        assert all(pair["megabytes_per_second"] > 0 for pair in found["pairs"].values())
        assert abs(found["folder"]["clock_offset_seconds"]) < 1
    assert [path.name for path in scene.folder.iterdir() if path.name.startswith(".")] == []


def test_a_host_that_never_starts_and_one_with_another_folder_are_named(scenes: dict[str, Scene]) -> None:
    scene = scenes["missing"]
    assert scene.wait("n1", "n2", "n3", "n5") == {"n1": 1, "n2": 1, "n3": 1, "n5": 1}
    reason = "wrote no file: its process did not start, or the shared folder is not there"
    assert scene.bad_nodes() == [["n4", reason], ["n5", reason]]
    assert scene.verdict()["seconds"] < SECONDS
    assert scene.problems("n5")[0] == "shared folder: OSError: it is not there"
    assert scene.problems("n1") == []
    assert not (scene.folder.parent.parent / "elsewhere").exists()  # a host makes no folder of its own


def test_a_host_that_is_stopped_is_named_and_not_its_partners(scenes: dict[str, Scene]) -> None:
    scene = scenes["stopped"]
    # The first three wait for the verdict; n4 ends when it has said what it found.
    assert scene.wait("n1", "n2", "n4") == {"n1": 1, "n2": 1, "n4": 0}
    assert scene.bad_nodes() == [["n3", "began and did not finish in time: it hangs or was stopped"]]
    found = json.loads((scene.folder / "n1.json").read_text())
    assert "no answer within" in found["pairs"]["n3"]["error"]
    assert found["pairs"]["n2"]["error"] is None


def test_a_host_that_nobody_reaches_is_named_though_it_is_the_judge(scenes: dict[str, Scene]) -> None:
    scene = scenes["deaf"]
    assert scene.wait("n1", "n2", "n3") == {"n1": 1, "n2": 1, "n3": 1}
    ((host, reason),) = scene.bad_nodes()
    assert host == "n1"
    assert reason.startswith("no collective with n2, n3 (2 of 2 partners): ")


def test_the_second_host_judges_where_the_first_is_gone(scenes: dict[str, Scene]) -> None:
    scene = scenes["headless"]
    assert scene.wait("n2") == {"n2": 1}
    assert scene.verdict()["judge"] == "n2"
    assert [host for host, _ in scene.bad_nodes()] == ["n1"]
