"""What the scripts about whole builds of shards share: a corpus under other names, recipes, commands, what came out.

In:  a folder of <language>.jsonl.zst.
Out: links to it, or pieces of it, in a folder of the script's; a recipe; the seconds of a command; the sha256 of files.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import zstandard

from mlc.data.manifest import BUILD_NAME, MANIFEST_NAME

SUFFIX = ".jsonl.zst"
HASHED_AT_A_TIME = 1 << 20
NOT_OF_THE_SHARDS = ("recipe_sha256", "sha256")
"""Of a manifest: what another spelling of the same recipe changes."""


def languages_of(corpus: Path, chosen: Sequence[str] = ()) -> list[str]:
    """Those that the corpus has, or the chosen ones."""
    found = sorted(path.name.removesuffix(SUFFIX) for path in corpus.glob(f"*{SUFFIX}"))
    missing = set(chosen) - set(found)
    if missing or not found:
        raise SystemExit(f"no {' '.join(sorted(missing)) or '*'}{SUFFIX} in {corpus}")
    return [name for name in found if name in chosen] if chosen else found


def link_corpus(corpus: Path, folder: Path, languages: Iterable[str], copies: int, *, first: int = 0) -> None:
    """`<folder>/<language>.<copy>.jsonl.zst` for every copy from `first` on, as links."""
    folder.mkdir(parents=True, exist_ok=True)
    for language in languages:
        for copy in range(first, copies):
            (folder / f"{language}.{copy}{SUFFIX}").symlink_to((corpus / f"{language}{SUFFIX}").resolve())


def write_piece(source: Path, target: Path, share: float = 1.0) -> None:
    """The first lines of a compressed file, a share of its bytes; `target` is compressed where its name says so."""
    with source.open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
        content = stream.read()
    if share < 1:
        content = content[: content.index(b"\n", int(share * len(content))) + 1]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(zstandard.ZstdCompressor().compress(content) if target.suffix == ".zst" else content)


def toml_list(values: Iterable[object]) -> str:
    """Strings and paths as TOML; JSON's strings are TOML's."""
    return json.dumps([str(value) for value in values])


def build_command(recipe: Path, output: Path, *arguments: str) -> list[str]:
    """`mlc prep build`, with this Python."""
    return [sys.executable, "-m", "mlc", "prep", "build", str(recipe), "--set", f"build.output={output}", *arguments]


def mpirun(ranks: int) -> list[str]:
    """What to put before a command; the mpirun beside this Python comes first."""
    found = shutil.which("mpirun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        raise SystemExit("no mpirun: pip install 'mlc[mpi]'")
    return [found, "--allow-run-as-root", "--oversubscribe", "-n", str(ranks)]


def array_task(number: int, count: int) -> dict[str, str]:
    """What SLURM sets for a task of a job array."""
    return {"SLURM_ARRAY_TASK_ID": str(number), "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_COUNT": str(count)}


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """For a command whose processes must not start threads of their own."""
    return {**os.environ, "OMP_NUM_THREADS": "1", **(more or {})}


def timed(command: Sequence[str], more: Mapping[str, str] | None = None) -> float:
    """Seconds of a whole command, which has to succeed."""
    started = time.perf_counter()
    done = subprocess.run(command, env=environment(more), capture_output=True, text=True, check=False)
    if done.returncode:
        failed(command, done.stdout, done.stderr)
    return time.perf_counter() - started


def failed(command: Sequence[str], *printed: str) -> NoReturn:
    """End the script with what a command printed last."""
    shown = "\n".join(text[-3000:] for text in printed)
    raise SystemExit(f"failed: {' '.join(command)}\n{shown}")


def text_bytes(output: Path) -> int:
    """UTF-8 bytes of text in a build."""
    manifest = json.loads((output / MANIFEST_NAME).read_bytes())
    return sum(entry["text_bytes"] for entry in manifest["shards"])


@dataclass(frozen=True)
class Built:
    """What a build has left in its folder.

    Attributes:
        files: {path in the folder: sha256}, but for the two below.
        manifest: the content of manifest.json. It has no timing fields: these are in build.json, which is left out.
    """

    files: dict[str, str]
    manifest: dict[str, Any]

    @classmethod
    def of(cls, folder: Path) -> Built:
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        named = {path.relative_to(folder).as_posix(): path for path in paths}
        files = {name: sha256_of(path) for name, path in named.items() if name not in (BUILD_NAME, MANIFEST_NAME)}
        return cls(files, json.loads((folder / MANIFEST_NAME).read_bytes()))

    def difference(self, other: Built, *, same_recipe: bool = True) -> str:
        """The first thing in which two builds differ; empty where there is none.

        Args:
            other: to compare with.
            same_recipe: whether digests of the recipe count.
        """
        for name in sorted(self.files.keys() | other.files.keys()):
            if self.files.get(name) != other.files.get(name):
                return f"{name} {'differs' if name in self.files and name in other.files else 'is in one alone'}"
        kept = [name for name in self.manifest if same_recipe or name not in NOT_OF_THE_SHARDS]
        return next((f"manifest: {name}" for name in kept if self.manifest[name] != other.manifest.get(name)), "")

    @property
    def shard_files(self) -> int:
        """How many files of shards were compared."""
        return sum(name.startswith(("documents/", "pairs/")) for name in self.files)


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in _blocks(file):
            digest.update(block)
    return digest.hexdigest()


def _blocks(file: Any) -> Iterator[bytes]:
    while block := file.read(HASHED_AT_A_TIME):
        yield block


def say(text: str) -> None:
    """A line of progress: on stderr, so that the table can be redirected."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
