"""A collective with one partner after another, as training will make it with all at once.

In:  the hosts, this host's rounds and the times by which they end.
Out: this host's `<host>.ready.json`; one result a partner.

Ports are free ones that the system chose, one a partner, opened before the file that names them is written: no two
jobs on a host can take one another's, and who comes first waits inside the kernel.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from launchers.node_check.children import ChildFailed, Send, call_until
from launchers.node_check.findings import Host, Ready, began_at, look_again, read_ready, ready_path, write_file
from launchers.node_check.local import POLL_SECONDS
from launchers.node_check.partners import rounds_of

TENSOR_MEGABYTES = 8
TIMED_REDUCTIONS = 3


@dataclass(frozen=True)
class Meeting:
    """All that a host needs to meet its partners.

    Attributes:
        folder: the shared one.
        hosts: all, in the same order on every host.
        me: index of this host.
        token: which start of the check this is.
        began: when this host began, of `time.monotonic`.
        ready_by, rounds_by: of `time.monotonic`: how long partners are waited for before the first round, and when
            the last round ends. The time between is divided evenly; a round may begin earlier, never end later.
    """

    folder: Path
    hosts: tuple[Host, ...]
    me: int
    token: str
    began: float
    ready_by: float
    rounds_by: float

    def partners(self) -> list[int | None]:
        """This host's partner of every round."""
        return [partners[self.me] for partners in rounds_of(len(self.hosts))]

    def round_ends(self, number: int) -> float:
        """When a round is given up, of `time.monotonic`."""
        return self.ready_by + (number + 1) * (self.rounds_by - self.ready_by) / len(self.partners())


def meet(meeting: Meeting, send: Send) -> None:
    """Say that this host is ready, wait for the others, and reduce a tensor with each partner.

    Sends {"ready": true}, then for each partner that was ready {"partner", "error", "megabytes_per_second"}, last
    {"unseen": names of hosts whose files this one does not see}.
    """
    own = meeting.hosts[meeting.me].name
    ready_path(meeting.folder, own).unlink(missing_ok=True)  # of an earlier check in this folder
    # Its own lines about connections that fail would say again, in many words, what the result says.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    import torch.distributed as dist

    assert dist.is_gloo_available()
    partners = [partner for partner in meeting.partners() if partner is not None]
    listeners = {partner: _listen() for partner in partners if partner > meeting.me}
    own = meeting.hosts[meeting.me].name
    while not meeting.folder.is_dir() and time.monotonic() < meeting.ready_by:
        time.sleep(POLL_SECONDS)
    ports = {meeting.hosts[partner].name: port for partner, (_, port) in listeners.items()}
    elapsed = time.monotonic() - meeting.began
    write_file(ready_path(meeting.folder, own), Ready(token=meeting.token, ports=ports, elapsed_seconds=elapsed))
    send({"ready": True})
    meeting = wait_for_partners(meeting, partners)
    for number, partner in enumerate(meeting.partners()):
        if partner is None:
            continue
        name = meeting.hosts[partner].name
        there = read_ready(meeting.folder, name, meeting.token)
        if there is not None:  # who is missing is not waited for
            listener, _ = listeners.get(partner, (None, 0))
            port = there.ports.get(own, 0)
            error, speed = _try_partner(meeting, number, partner, listener, port)
            send({"partner": name, "error": error, "megabytes_per_second": speed})
    look_again(meeting.folder, own)
    send({"unseen": [host.name for host in meeting.hosts if not ready_path(meeting.folder, host.name).exists()]})


def _listen() -> tuple[socket.socket, int]:
    if socket.has_dualstack_ipv6():
        listener = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    else:
        listener = socket.create_server(("", 0))
    return listener, listener.getsockname()[1]


def wait_for_partners(meeting: Meeting, partners: list[int]) -> Meeting:
    """Wait until all partners are ready or it is time; the meeting with the times of whoever began first.

    A host that SLURM started seconds after the others ends its rounds with them: else it would be late for partners
    that wait for it, and for the judge.
    """
    own = meeting.hosts[meeting.me].name
    missing = {meeting.hosts[partner].name for partner in partners}
    unseen = missing | {own, meeting.hosts[0].name}  # the first host judges
    began: dict[str, float] = {}
    aligned = meeting
    while True:
        look_again(meeting.folder, own)
        for name in sorted(unseen):
            ready = read_ready(meeting.folder, name, meeting.token)
            if ready is not None:
                began[name] = began_at(meeting.folder, name, ready)
        unseen -= began.keys()
        if own in began:
            lag = began[own] - min(began.values())
            aligned = replace(meeting, ready_by=meeting.ready_by - lag, rounds_by=meeting.rounds_by - lag)
        if not missing & unseen or time.monotonic() > aligned.ready_by:
            return aligned
        time.sleep(POLL_SECONDS)


def _try_partner(
    meeting: Meeting, number: int, partner: int, listener: socket.socket | None, port: int
) -> tuple[str | None, float | None]:
    """What went wrong with a partner, or MB/s. The round has a process of its own: whatever hangs there is killed."""
    began, ends = time.monotonic(), meeting.round_ends(number)
    try:
        return None, call_until(lambda: _reduce(meeting.hosts[partner], listener, port, ends - began), ends)
    except TimeoutError:
        return f"no answer within {ends - began:.1f} s", None
    except ChildFailed as failure:
        return str(failure), None
    finally:
        if listener is not None:
            listener.close()


def _reduce(partner: Host, listener: socket.socket | None, port: int, seconds: float) -> float:
    """MB/s of all-reduces with one partner; the lower host of the two is rank 0 and keeps the store.

    Raises:
        RuntimeError: no connection, or a wrong sum.
    """
    import torch
    import torch.distributed as dist
    from torch._C._distributed_c10d import TCPStore  # torch.distributed has it, unknown to mypy

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    torch.set_num_threads(1)
    timeout = timedelta(seconds=max(seconds, 0.1))
    rank = 0 if listener is not None else 1
    if listener is not None:
        own_port, descriptor = listener.getsockname()[1], listener.detach()
        store = TCPStore("localhost", own_port, 2, True, timeout, wait_for_workers=False, master_listen_fd=descriptor)
    else:
        store = TCPStore(partner.address, port, 2, False, timeout, wait_for_workers=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timeout)
    # Whole numbers: the sum is exact.
    values = torch.arange(TENSOR_MEGABYTES * 10**6 // 4, dtype=torch.float32).remainder_(1000)
    dist.all_reduce(torch.zeros(1))
    elapsed = 0.0
    for _ in range(TIMED_REDUCTIONS):
        reduced = values + rank
        began = time.monotonic()
        dist.all_reduce(reduced)
        elapsed += time.monotonic() - began
        if not torch.equal(reduced, 2 * values + 1):
            raise RuntimeError("the sum of two tensors is wrong")
    return TENSOR_MEGABYTES * TIMED_REDUCTIONS / elapsed
