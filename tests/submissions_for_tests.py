"""Requests of every kind and shape, and clients of SLURM that only note how they were called.

In:  a folder.
Out: (request, site) by a name; a folder for PATH; what its `sbatch` was called with.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from launchers.settings import CheckSettings, ContainerSettings, Resources, Site
from launchers.submission import Request, script_of
from mlc import cli

ODD_NAME = "-x 'a' \"b\" $(touch made) `touch made` #1 %j %% ;&|<> *?[0]{}!~ ä日 Restarts=7 JobState=CANCELLED UserId=x"
"""Of jobs and folders: what means something to bash, sbatch, srun, or to whoever reads `scontrol show job`."""
ODD_WORDS = (
    "",
    "-x",
    "--output=made",
    "a b",
    "$(touch made)",
    "`touch made`",
    "\\",
    "\\\\n",
    "'\"'",
    "#",
    "%j",
    "\n",
    "{recipe}",
)


def train(folder: Path, **changes: Any) -> Request:
    """A run, on any number of nodes between 1 and 2."""
    request = Request(
        kind="train",
        name=folder.name,
        folder=folder / "slurm",
        subject=folder,
        logs=folder / "logs",
        needed=folder,
        resources=Resources(nodes="1-2", ranks_per_node=2, time="1:00:00"),
        arguments=("train", "{recipe}"),
        recipe="",
        values={"run_folder": str(folder)},
    )
    return replace(request, **changes)


def prep(folder: Path, **changes: Any) -> Request:
    """A build."""
    values = {
        "work_of_build": str(folder / ".work"),
        "manifest_of_build": str(folder / "manifest.json"),
        "mpirun": "/opt/my mpi/bin/mpirun",
    }
    arguments = ("prep", "build", "{recipe}", "--set", "build.output=a b")
    return train(folder, **{"kind": "prep", "values": values, "arguments": arguments, **changes})


def command(folder: Path, **changes: Any) -> Request:
    """A command with arguments of all sorts."""
    words = ("printf", "%s\\n", *ODD_WORDS)
    return train(folder, **{"kind": "command", "values": {}, "arguments": words, "recipe": None, **changes})


def requests(folder: Path) -> dict[str, tuple[Request, Site]]:
    """One of every kind and shape; those whose names begin with "gpus" ask for 8 GPUs on a node."""
    site = Site(check=CheckSettings(enabled=False))
    gpus = Resources(nodes="2", gpus_per_node=8, cpus_per_rank=2, time="1-00:00:00", memory="8G", partition="main")
    image = {"image": "/images/my image.sqsh", "mounts": ("/a b:/a b", "/c:/d")}
    pyxis = ContainerSettings(kind="pyxis", options=("--container-workdir=/a b",), **image)
    apptainer = ContainerSettings(kind="apptainer", options=("--cleanenv",), **image)
    full = Site(
        resources=gpus,
        sbatch_options=("--exclusive", "--mail-user=a b@c"),
        srun_options=("--cpu-bind=none",),
        setup="module() { :; }\nmodule load 'cuda'",
        variables={"NCCL_SOCKET_IFNAME": "ib0", "ODD": ODD_NAME},
        python="/opt/my python/bin/python",
    )
    odd = folder / ODD_NAME
    return {
        "train": (train(folder), site),
        "train, with a check": (train(folder), Site()),
        "train, torchrun": (train(folder, start="torchrun"), site),
        "train, one after another": (train(folder, chain=3), site.model_copy(update={"requeue": False})),
        "train, no requeue": (train(folder), site.model_copy(update={"requeue": False})),
        "train, odd": (train(odd), Site(variables={"ODD": ODD_NAME})),
        "prep": (prep(folder), site),
        "prep, mpi": (prep(folder, start="mpi"), site),
        "prep, array": (prep(folder, tasks=4), site),
        "prep, odd": (prep(odd, start="mpi"), full.model_copy(update={"resources": Resources()})),
        "command": (command(folder), site),
        "command, odd": (command(odd), site),
        "gpus": (train(folder, resources=gpus), full),
        "gpus, gres": (train(folder, resources=gpus), full.model_copy(update={"gpu_request": "gres"})),
        "gpus, pyxis": (train(folder, resources=gpus), full.model_copy(update={"container": pyxis})),
        "gpus, apptainer": (train(odd, resources=gpus), full.model_copy(update={"container": apptainer})),
        "gpus, torchrun": (train(odd, resources=gpus, start="torchrun"), full),
    }


def write_scripts(folder: Path, submissions: Path) -> dict[str, Path]:
    """The batch script of each of `requests`, in files of plain names."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for number, (name, (request, site)) in enumerate(requests(submissions).items()):
        path = folder / f"{number}.sbatch"
        path.write_text(script_of(request, site, request.folder / "submit-00001"))
        written[name] = path
    return written


@dataclass(frozen=True)
class NotingClients:
    """`sbatch` and `squeue` for PATH.

    Args:
        folder: where they lie, and what they note.
    """

    folder: Path

    def write(self, queue: str = "", sbatch_code: int = 0) -> None:
        """`squeue` shows `queue`; `sbatch` gives job 17, or fails."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "queue").write_text(queue)
        note = f"""#!{sys.executable}
import json, os, sys
with open({str(self.folder / "calls")!r}, "a") as file:
    file.write(json.dumps([sys.argv[1:], dict(os.environ)]) + "\\n")
if {sbatch_code}:
    sys.exit("sbatch: error: no such partition")
print("17;cluster")
"""
        for name, text in (("sbatch", note), ("squeue", f"#!/bin/sh\ncat '{self.folder}/queue'\n")):
            path = self.folder / name
            path.write_text(text)
            path.chmod(0o755)

    def calls(self) -> list[tuple[list[str], Mapping[str, str]]]:
        """(arguments, environment) of every call of `sbatch`."""
        path = self.folder / "calls"
        return [tuple(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", f"{self.folder}{os.pathsep}{os.environ['PATH']}")


def call_mlc(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of `mlc` in this process."""
    monkeypatch.setattr(sys, "argv", ["mlc", *arguments])
    with pytest.raises(SystemExit) as ending:
        cli.main()
    return int(ending.value.code or 0)


def tree(folder: Path) -> dict[str, bytes]:
    """Every path below a folder, with the content of files."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}
