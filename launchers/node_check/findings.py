"""What hosts tell one another through the shared folder.

In:  values, and files of other hosts.
Out: `<host>.ready.json` (this host can be met, at these ports), `<host>.json` (what it found), both whole or absent.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from mlc.files import write_atomically


@dataclass(frozen=True)
class Host:
    """A host of the check.

    Attributes:
        name: as SLURM calls it.
        address: what the others connect to; the name itself where none is given.
    """

    name: str
    address: str


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Ready(_File):
    """This host waits for its partners.

    Attributes:
        token: which start of the check this belongs to.
        ports: by the name of the partner who connects; a port of its own for each.
        elapsed_seconds: from this host's start to the writing of the file.
    """

    token: str
    ports: dict[str, int]
    elapsed_seconds: float


class PairResult(_File):
    """One collective with one partner.

    Attributes:
        error: why it failed; None where the sum was right.
        megabytes_per_second: size of the reduced tensor by the time of one all-reduce.
    """

    error: str | None
    megabytes_per_second: float | None = None


class FolderFacts(_File):
    """What one host saw of the shared folder.

    Attributes:
        write_seconds: to write, sync, rename and read back a small file.
        free_gb: space left for this user, in 10^9 bytes.
        clock_offset_seconds: this host's clock minus the file server's.
    """

    write_seconds: float
    free_gb: float
    clock_offset_seconds: float


class Findings(_File):
    """All that one host found.

    Attributes:
        token: which start of the check this belongs to.
        problems: what makes the host unfit, whatever the others say.
        warnings: what somebody should look at.
        seconds: from its start to this file.
        memory_available_gb, shared_memory_free_gb: in 10^9 bytes; None where it could not be read.
        folder: None where the check of the folder did not end.
        gpus: names of the GPUs found.
        ready: whether it could be met by the others in time.
        unseen_hosts: whose files it could not see at the end, though there was time.
        pairs: by partner; partners that were not ready are not in it.
    """

    token: str
    host: str
    problems: list[str]
    warnings: list[str]
    seconds: float
    memory_available_gb: float | None
    shared_memory_free_gb: float | None
    folder: FolderFacts | None
    gpus: list[str]
    ready: bool
    unseen_hosts: list[str]
    pairs: dict[str, PairResult]


def start_token(environ: Mapping[str, str]) -> str:
    """Tells this start of a job from others in the same folder.

    The number of the step is no part of it: each host may be a step of its own.
    """
    return ".".join(environ.get(f"SLURM_{part}", "0") for part in ("JOB_ID", "RESTART_COUNT"))


def ready_path(folder: Path, host: str) -> Path:
    """Where a host says that it can be met."""
    return folder / f"{host}.ready.json"


def findings_path(folder: Path, host: str) -> Path:
    """Where a host writes what it found."""
    return folder / f"{host}.json"


def write_file(path: Path, content: BaseModel) -> None:
    """Write it as JSON that people can read, all of it or nothing.

    Raises:
        OSError: not written; its folder is not made, since it is that of another host.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is not there")
    write_atomically(path, (content.model_dump_json(indent=2) + "\n").encode())


def read_ready(folder: Path, host: str, token: str) -> Ready | None:
    """What a host wrote in this start of the check; None before it did."""
    with contextlib.suppress(FileNotFoundError, ValidationError):
        ready = Ready.model_validate_json(ready_path(folder, host).read_bytes())
        return ready if ready.token == token else None
    return None


def began_at(folder: Path, host: str, ready: Ready) -> float:
    """When a host began, by the file server's clock, which is the same for all hosts."""
    return ready_path(folder, host).stat().st_mtime - ready.elapsed_seconds


def read_findings(folder: Path, host: str, token: str) -> Findings | None:
    """What a host wrote in this start of the check; None before it did."""
    with contextlib.suppress(FileNotFoundError, ValidationError):
        findings = Findings.model_validate_json(findings_path(folder, host).read_bytes())
        return findings if findings.token == token else None
    return None


def look_again(folder: Path, host: str) -> None:
    """Make an NFS client ask the server what is in a folder, instead of its cache (up to a minute old): change it."""
    path = folder / f".{host}.{uuid.uuid4().hex}"
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    path.unlink()
