"""What a host finds out about itself, and the command on one machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from launchers.node_check.check import own_index, parse_hosts
from launchers.node_check.children import Child, ChildFailed, call_until
from launchers.node_check.findings import Host, Ready, read_ready, ready_path, start_token, write_file
from launchers.node_check.gpus import GPU_QUERY, PROCESSES_QUERY, ROWS_QUERY, ask_nvidia_smi, check_smi
from launchers.node_check.local import Limits, available_memory_gb, check_folder, check_memory, process_age_seconds
from launchers.node_check.pairs import Meeting, wait_for_partners

LIMITS = Limits(gpus=0, memory_gb=0.0, shared_memory_gb=0.0, folder_gb=0.0, clock_skew_seconds=2.0)
A, B = "GPU-0a1b2c3d-0000-1111-2222-333344445555", "GPU-f0e1d2c3-0000-1111-2222-333344445555"
H100 = "NVIDIA H100 80GB HBM3"


def smi(gpus: str, rows: str = "", processes: str = "", expected: int = 2, visible: str = "") -> tuple[list[str], int]:
    """Problems, and number of GPUs found, where nvidia-smi prints these tables."""
    said = {GPU_QUERY: gpus, ROWS_QUERY: rows, PROCESSES_QUERY: processes}
    found = check_smi(expected, said.__getitem__, {"CUDA_VISIBLE_DEVICES": visible} if visible else {})
    assert found.warnings == []
    return found.problems, len(found.names)


GOOD = f"{A}, {H100}, 0, No\n{B}, {H100}, 0, No\n"


def test_healthy_gpus() -> None:
    assert smi(GOOD, f"{A}, 0, 0\n{B}, 0, 0\n") == ([], 2)


def test_gpus_without_error_correction_are_no_problem() -> None:
    gpus = f"{A}, NVIDIA GeForce RTX 4090, [N/A], [N/A]\n{B}, NVIDIA GeForce RTX 4090, N/A, [Not Supported]\n"
    assert smi(gpus, f"{A}, [N/A], [N/A]\n") == ([], 2)


def test_a_lost_gpu_is_a_problem() -> None:
    assert smi(f"{A}, {H100}, 0, No\n") == (["1 GPUs found, needed 2"], 1)
    assert smi("")[0] == ["0 GPUs found, needed 2"]


def test_memory_errors_are_named() -> None:
    problems, _ = smi(f"{A}, {H100}, 0, Yes\n{B}, {H100}, 3, No\n", f"{A}, 0, 1\n{B}, 1, 0\n")
    assert problems == [
        f"GPU 0 ({A}) must be reset: memory pages wait for retirement",
        f"GPU 1 ({B}) has 3 uncorrected memory errors",
        f"GPU 0 ({A}) has no spare memory rows left",
        f"GPU 1 ({B}) must be reset: memory rows wait for remapping",
    ]


def test_processes_on_the_gpus_are_named() -> None:
    problems, _ = smi(GOOD, processes=f"{B}, 4711, python, 1024\n{A}, 12, /opt/my, odd, name, [N/A]\n")
    assert problems == [
        "GPU 1 is in use: 1024 MiB by process 4711 (python)",
        "GPU 0 is in use: memory by process 12 (/opt/my, odd, name)",
    ]


def test_gpus_of_other_jobs_are_not_looked_at() -> None:
    bad = f"{A}, {H100}, 0, No\n{B}, {H100}, 3, No\n"
    assert smi(bad, processes=f"{B}, 4711, python, 1024\n", expected=1, visible=A) == ([], 1)
    assert len(smi(bad, visible="0")[0]) == 1


def program(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_nvidia_smi_is_asked_for_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, 'echo "$@"', monkeypatch)
    assert ask_nvidia_smi(GPU_QUERY, 5) == f"{GPU_QUERY} --format=csv,noheader,nounits\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18", "code 18: Failed to init"),
        ("exec sleep 600", "did not answer within 0 s"),
    ],
)
def test_a_failing_nvidia_smi_is_a_problem(
    text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, text, monkeypatch)
    found = check_smi(8, lambda query: ask_nvidia_smi(query, 0.3), {})
    assert len(found.problems) == 1
    assert "0 GPUs found, needed 8: nvidia-smi" in found.problems[0]
    assert said in found.problems[0]


def test_a_missing_nvidia_smi_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = check_smi(8, lambda query: ask_nvidia_smi(query, 5), {})
    assert found.problems == ["0 GPUs found, needed 8: nvidia-smi is not there"]


def test_memory_is_what_the_kernel_says(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       99999999 kB\nMemFree: 1 kB\nMemAvailable:    2000000 kB\n")
    assert available_memory_gb(meminfo) == 2.048
    limits = Limits(0, memory_gb=2.1, shared_memory_gb=1e9, folder_gb=0, clock_skew_seconds=2)
    memory, shared, problems = check_memory(meminfo, tmp_path, limits)
    assert memory == 2.048
    assert shared is not None
    assert problems == ["2.0 GB of memory available, needed 2.1", f"{shared:.1f} GB free in {tmp_path}, needed 1e+09"]
    assert check_memory(tmp_path / "no", tmp_path / "no", LIMITS)[:2] == (None, None)


def test_a_folder_is_written_and_left_empty(tmp_path: Path) -> None:
    facts = check_folder(tmp_path / "new", "n1", create=True, until=0.0)
    assert list((tmp_path / "new").iterdir()) == []
    assert facts.write_seconds > 0
    assert facts.clock_offset_seconds == 0.0
    with pytest.raises(OSError, match="it is not there"):
        check_folder(tmp_path / "other", "n2", create=False, until=0.0)


def test_the_age_of_a_process_includes_its_start() -> None:
    code = "import time; from launchers.node_check.local import process_age_seconds as age; print(age())"
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert 0.01 < float(done.stdout) <= time.monotonic() - began + 0.02
    assert process_age_seconds() > 0


def test_a_child_that_hangs_is_left_behind() -> None:
    source, _ = os.pipe()
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        call_until(lambda: os.read(source, 1).decode(), began + 0.3)
    assert 0.3 <= time.monotonic() - began < 3


def test_a_child_that_fails_says_why() -> None:
    with pytest.raises(ChildFailed, match="ZeroDivisionError: "):
        call_until(lambda: 1 // 0, time.monotonic() + 10)
    with pytest.raises(ChildFailed, match="ended early"):
        call_until(lambda: os._exit(3), time.monotonic() + 10)


def test_what_a_child_sent_before_it_hung_is_kept() -> None:
    source, _ = os.pipe()

    def work(send: object) -> None:
        assert callable(send)
        send({"text": "x" * 100_000})
        os.read(source, 1)

    child = Child(work)
    began = time.monotonic()
    values: list[object] = []
    while not values and time.monotonic() < began + 10:
        values += child.receive(time.monotonic() + 0.05)
    assert values == [{"text": "x" * 100_000}]
    assert not child.finished
    child.end()


def test_files_of_another_start_are_not_read(tmp_path: Path) -> None:
    token = start_token({"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1"})
    assert token == "7.1"
    write_file(ready_path(tmp_path, "n1"), Ready(token=token, ports={"n2": 5}, elapsed_seconds=1.5))
    assert read_ready(tmp_path, "n1", token) == Ready(token=token, ports={"n2": 5}, elapsed_seconds=1.5)
    assert read_ready(tmp_path, "n1", "7.2") is None
    with pytest.raises(OSError, match="not there"):
        write_file(ready_path(tmp_path / "no", "n1"), Ready(token=token, ports={}, elapsed_seconds=1.5))


def test_a_late_host_ends_its_rounds_with_the_others(tmp_path: Path) -> None:
    for name, elapsed in (("n1", 2.0), ("n2", 10.0), ("n3", 1.0)):
        write_file(ready_path(tmp_path, name), Ready(token="0.0", ports={}, elapsed_seconds=elapsed))
    now = time.monotonic()
    late = Meeting(tmp_path, parse_hosts("n1,n2,n3"), 2, "0.0", began=now - 1, ready_by=now + 30, rounds_by=now + 40)
    aligned = wait_for_partners(late, [0, 1])
    assert aligned.ready_by == pytest.approx(now + 21, abs=1)
    assert aligned.rounds_by == pytest.approx(now + 31, abs=1)
    first = replace(late, me=1)
    assert wait_for_partners(first, [0, 2]) == first


def test_hosts_and_the_own_one() -> None:
    hosts = parse_hosts("n1, n2=10.0.0.2,n3.cluster.org")
    assert hosts == (Host("n1", "n1"), Host("n2", "10.0.0.2"), Host("n3.cluster.org", "n3.cluster.org"))
    assert own_index(hosts, {"SLURMD_NODENAME": "n2"}, "n1") == 1
    assert own_index(hosts, {}, "n3") == 2
    assert own_index(hosts, {}, "n1.cluster.org") == 0
    assert own_index(hosts, {}, "n4") is None


def run_command(*arguments: str, name: str = "n1") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mlc", "check", "cluster", *arguments]
    environ = os.environ | {"SLURMD_NODENAME": name}
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)


def test_a_good_host_alone(tmp_path: Path) -> None:
    done = run_command("--folder", str(tmp_path / "check"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"node check: 1 of 1 hosts are good; {tmp_path / 'check' / 'verdict.json'}\n"
    assert (tmp_path / "check" / "bad-nodes.txt").read_text() == ""
    assert json.loads((tmp_path / "check" / "verdict.json").read_text())["bad"] == {}
    assert json.loads((tmp_path / "check" / "n1.json").read_text())["problems"] == []


def test_a_bad_host_alone(tmp_path: Path) -> None:
    done = run_command("--folder", str(tmp_path), "--min-memory-gb", "1e6", "--min-free-gb", "1e6")
    assert done.returncode == 1
    assert "node check: n1: bad: " in done.stdout
    assert "0 of 1 hosts are good" in done.stdout
    ((host, reason),) = [line.split("\t") for line in (tmp_path / "bad-nodes.txt").read_text().splitlines()]
    assert host == "n1"
    assert "of memory available, needed 1e+06; " in reason
    assert reason.endswith("GB free in the shared folder, needed 1e+06")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run_command("--folder", str(tmp_path / "file"))
    assert done.returncode == 1
    assert "n1: shared folder: NotADirectoryError" in done.stderr


def test_a_host_that_is_not_on_the_list_is_refused(tmp_path: Path) -> None:
    done = run_command("--folder", str(tmp_path), "--hosts", "n2,n3")
    assert done.returncode == 2
    assert "this host is not one of the hosts; found n1; needed n2,n3" in done.stderr
    assert run_command("--folder", str(tmp_path), "--hosts", "n1,n1").returncode == 2


def test_files_of_an_earlier_check_are_taken_away(tmp_path: Path) -> None:
    for name in ("verdict.json", "bad-nodes.txt", "n1.json"):
        (tmp_path / name).write_text("old")
    assert run_command("--folder", str(tmp_path), "--hosts", "n1,n2", "--seconds", "8").returncode == 1
    assert (tmp_path / "bad-nodes.txt").read_text().startswith("n2\twrote no file")
    assert run_command("--folder", str(tmp_path)).returncode == 0
    assert (tmp_path / "bad-nodes.txt").read_text() == ""
