"""The check of one host, and the verdict over all: what `mlc check cluster` runs on every node.

In:  the shared folder, all hosts, limits, seconds.
Out: this host's files in the folder; on the first host `verdict.json` and `bad-nodes.txt`; the verdict.

Whatever touches the shared folder, the GPUs or the network runs in a process of its own and is left behind when it
takes too long: a hung file system blocks a process inside the kernel, where no signal reaches it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from launchers.node_check.children import Child, ChildFailed, Send, call_until
from launchers.node_check.findings import (
    Findings,
    FolderFacts,
    Host,
    PairResult,
    findings_path,
    look_again,
    read_findings,
    ready_path,
    start_token,
    write_file,
)
from launchers.node_check.gpus import GpuFindings, ask_nvidia_smi, check_smi, multiply_on_all
from launchers.node_check.local import POLL_SECONDS, Limits, check_folder, check_memory, process_age_seconds
from launchers.node_check.pairs import Meeting, meet
from launchers.node_check.partners import rounds_of
from launchers.node_check.verdict import Verdict, judge
from mlc.files import write_atomically, write_json

ROUNDS_SHARE, JUDGE_SHARE, DEPUTY_SHARE, END_SHARE = 0.86, 0.92, 0.02, 0.99
"""Of all seconds: when rounds end, when the judge no longer waits for files, how much longer each deputy waits for the
judge, when everything ends."""
ROUND_SHARE, FEWEST_ROUNDS, LEAST_READY_SHARE = 0.05, 3, 0.45
"""How much of the time each round gets where partners are late, of at least so many rounds; how much there is in any
case to import torch, from a file system that is busy with all other hosts."""
VERDICT_NAME, BAD_NODES_NAME = "verdict.json", "bad-nodes.txt"
PARTS = {"folder": "shared folder", "gpus": "GPUs", "pairs": "meeting the others"}
JUDGES = 3
"""The first host judges; the second does where the first did not, and so on."""


@dataclass(frozen=True)
class Check:
    """What is checked, and by when.

    Attributes:
        folder: on the shared file system.
        hosts: all, in the same order on every host.
        me: index of this host.
        limits: what a host must have.
        seconds: for everything, from `began` on.
        began: of `time.monotonic`.
        token: which start of the check this is.
    """

    folder: Path
    hosts: tuple[Host, ...]
    me: int
    limits: Limits
    seconds: float
    began: float
    token: str

    def at(self, share: float) -> float:
        """When a share of the time has passed, of `time.monotonic`."""
        return self.began + share * self.seconds

    @property
    def ready_by(self) -> float:
        """When partners that are not there yet are given up, of `time.monotonic`."""
        rounds = max(FEWEST_ROUNDS, len(rounds_of(len(self.hosts))))
        return self.at(max(LEAST_READY_SHARE, ROUNDS_SHARE - ROUND_SHARE * rounds))


@dataclass(frozen=True)
class Outcome:
    """What one process of the check knows at its end.

    Attributes:
        findings: its own.
        verdict: over all hosts; None on a host that judges nothing, or where no verdict was reached.
        judged: whether this process reached the verdict.
    """

    findings: Findings
    verdict: Verdict | None
    judged: bool


def run_check(check: Check, environ: Mapping[str, str]) -> Outcome:
    """Check this host, meet the others, and judge where that falls to this host."""
    own = check.hosts[check.me].name
    children = {"folder": Child(lambda send: send(_folder(check)))}
    if check.limits.gpus:
        children["gpus"] = Child(lambda send: _gpus(check, environ, send))
    if len(check.hosts) > 1:
        children["pairs"] = Child(lambda send: _meet(check, send))
    findings = _gather(check, children)
    for child in children.values():
        child.end()
    try:
        path = findings_path(check.folder, own)
        call_until(lambda: write_file(path, findings), check.at(END_SHARE))
    except (TimeoutError, ChildFailed) as error:
        problem = f"cannot write into the shared folder: {str(error) or 'no answer'}"
        findings = findings.model_copy(update={"problems": [*findings.problems, problem]})
    if check.me >= JUDGES:
        return Outcome(findings, None, judged=False)
    try:
        judged, bad, warnings = call_until(lambda: _judge(check), check.at(1.0))
    except (TimeoutError, ChildFailed) as error:
        problem = f"no verdict: {str(error) or 'the shared folder does not answer'}"
        return Outcome(findings.model_copy(update={"problems": [*findings.problems, problem]}), None, judged=False)
    return Outcome(findings, Verdict(bad, warnings), judged)


def _folder(check: Check) -> dict[str, Any]:
    """Facts of the shared folder; files of an earlier check in it go."""
    own = check.hosts[check.me].name
    old = [findings_path(check.folder, own)]
    if check.me == 0:
        old += [check.folder / VERDICT_NAME, check.folder / BAD_NODES_NAME]
    for path in old:
        path.unlink(missing_ok=True)
    return check_folder(check.folder, own, check.me == 0, check.ready_by - 1.0).model_dump()


def _meet(check: Check, send: Send) -> None:
    ends = check.at(ROUNDS_SHARE)
    meet(Meeting(check.folder, check.hosts, check.me, check.token, check.began, check.ready_by, ends), send)


def _gpus(check: Check, environ: Mapping[str, str], send: Send) -> None:
    """Sends what nvidia-smi says, then what torch does: CUDA hangs on a broken GPU."""
    ask = partial(ask_nvidia_smi, seconds=0.25 * check.seconds)
    found = check_smi(check.limits.gpus, ask, environ)
    send(asdict(found))
    if found.names:  # torch says nothing more where nvidia-smi finds nothing
        send(asdict(multiply_on_all(check.limits.gpus)))


def _gather(check: Check, children: Mapping[str, Child]) -> Findings:
    """All that this host found; what did not come in time is a problem."""
    memory, shared, problems = check_memory(Path("/proc/meminfo"), Path("/dev/shm"), check.limits)
    ends = {"folder": check.ready_by, "gpus": check.at(ROUNDS_SHARE), "pairs": check.at(ROUNDS_SHARE) + 0.5}
    values: dict[str, list[Any]] = {}
    for part, child in children.items():
        values[part] = child.receive(ends[part])
        if not child.finished and part != "pairs":  # what is missing there, the verdict says
            problems.append(f"{PARTS[part]}: no answer within {ends[part] - check.began:.0f} s")
        elif child.failure is not None and (part != "pairs" or values["folder"]):  # without it nobody can be met
            problems.append(f"{PARTS[part]}: {child.failure}")
    folder = FolderFacts(**values["folder"][0]) if values["folder"] else None
    if folder is not None and folder.free_gb < check.limits.folder_gb:
        problems.append(f"{folder.free_gb:.1f} GB free in the shared folder, needed {check.limits.folder_gb:g}")
    gpus = [GpuFindings(**found) for found in values.get("gpus", [])]
    met = values.get("pairs", [])
    return Findings(
        token=check.token,
        host=check.hosts[check.me].name,
        problems=problems + [problem for found in gpus for problem in found.problems],
        warnings=[warning for found in gpus for warning in found.warnings],
        seconds=round(time.monotonic() - check.began, 2),
        memory_available_gb=memory,
        shared_memory_free_gb=shared,
        folder=folder,
        gpus=[name for found in gpus for name in found.names],
        ready=any("ready" in value for value in met),
        unseen_hosts=[host for value in met for host in value.get("unseen", [])],
        pairs={
            value["partner"]: PairResult(error=value["error"], megabytes_per_second=value["megabytes_per_second"])
            for value in met
            if "partner" in value
        },
    )


def _judge(check: Check) -> tuple[bool, dict[str, list[str]], dict[str, list[str]]]:
    """Whether this host judged, and the verdict: its own, or that of a host before it."""
    names = [host.name for host in check.hosts]
    own = names[check.me]
    turn = check.at(JUDGE_SHARE + DEPUTY_SHARE * check.me)
    findings: dict[str, Findings] = {}
    while True:
        look_again(check.folder, own)
        if check.me > 0 and (verdict := _read_verdict(check)) is not None:
            return False, verdict["bad"], verdict["warnings"]
        for name in names:
            if name not in findings and (found := read_findings(check.folder, name, check.token)) is not None:
                findings[name] = found
        all_there = len(findings) == len(names)
        if (all_there and check.me == 0) or time.monotonic() > turn:
            break
        time.sleep(POLL_SECONDS)
    began = [name for name in names if ready_path(check.folder, name).exists()]
    result = judge(names, findings, began, own, check.limits.clock_skew_seconds)
    seconds = round(time.monotonic() - check.began, 2)
    facts = {"token": check.token, "judge": own, "seconds": seconds, "hosts": names}
    write_json(check.folder / VERDICT_NAME, {**facts, "bad": result.bad, "warnings": result.warnings})
    lines = [f"{host}\t{'; '.join(reasons)}\n" for host, reasons in result.bad.items()]
    write_atomically(check.folder / BAD_NODES_NAME, "".join(lines).encode())
    return True, result.bad, result.warnings


def _read_verdict(check: Check) -> dict[str, Any] | None:
    try:
        verdict: dict[str, Any] = json.loads((check.folder / VERDICT_NAME).read_bytes())
    except FileNotFoundError:
        return None
    return verdict if verdict["token"] == check.token else None


def start(
    folder: Path, hosts: tuple[Host, ...], me: int, limits: Limits, seconds: float, environ: Mapping[str, str]
) -> Outcome:
    """Run the check; the arguments are those of `Check`. Its time began with this process, imports included."""
    began = time.monotonic() - process_age_seconds()
    return run_check(Check(folder, hosts, me, limits, seconds, began, start_token(environ)), environ)


def parse_hosts(text: str) -> tuple[Host, ...]:
    """Hosts of a list such as "n1,n2" or "n1=10.0.0.1,n2=10.0.0.2"."""
    parts = [part.strip().partition("=") for part in text.split(",") if part.strip()]
    return tuple(Host(name, address or name) for name, _, address in parts)


def own_index(hosts: tuple[Host, ...], environ: Mapping[str, str], hostname: str) -> int | None:
    """Which of the hosts this is: by SLURM's name, else the host's own, with or without its domain."""
    name = environ.get("SLURMD_NODENAME") or hostname
    for matches in (lambda host: host == name, lambda host: host.split(".")[0] == name.split(".")[0]):
        for index, host in enumerate(hosts):
            if matches(host.name):
                return index
    return None
