"""Random damages to checkpoints of a real run: each has to be noticed, and the checkpoint before it has to be used.

    python benchmarks/checkpoint_damage.py --count 2000
    python benchmarks/checkpoint_damage.py --count 2000 --run runs/mine --json damage.json

Without --run a small run on two ranks is made first. Every damage is done to a copy of the run's two newest
checkpoints; then `newest_verified`, which every start of `mlc train` calls, has to return the older one and to set the
other aside. What does not change a checkpoint (two files with the same content swapped) is no damage, and drawn again.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from fault_runs import RECORD_NAME, TrainingServer, checkpoints, problem_of, write_recipe

from mlc.checkpoint.record import Record
from mlc.checkpoint.verify import damage
from mlc.engine.resume import newest_verified
from mlc.errors import MlcError

SHARES = 3
"""As if so many ranks shared the work of reading."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--run", type=Path, help="a run folder with two checkpoints; it is only read")
    parser.add_argument("--json", type=Path, help="write the result here")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="damage-") as name:
        folder = Path(name)
        run = options.run or make_run(folder)
        result = damage_many(run, folder / "copy", options.count, options.seed)
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 1 if result["not_noticed"] or result["used_nevertheless"] else 0


def make_run(folder: Path) -> Path:
    """A run on two ranks with a queue, and so with every kind of file."""
    recipe, run = write_recipe(folder, total_steps=6, every_steps=3), folder / "run"
    with TrainingServer(folder / "printed") as server:
        training = server.start(recipe, run)
        if training.wait() != [0, 0]:
            raise RuntimeError(training.text)
    return run


def damage_many(run: Path, copy: Path, count: int, seed: int) -> dict[str, Any]:
    """Damage copies of the run's two newest checkpoints.

    Args:
        run: only read.
        copy: a folder to work in.
        count: of damages.
        seed: of what is damaged, and how.
    """
    older, newest = checkpoints(run)[-2:]
    done: collections.Counter[str] = collections.Counter()
    by_file: collections.Counter[str] = collections.Counter()
    not_noticed, used = [], []
    with _alone(copy.with_suffix(".rendezvous")):
        for number in range(count):
            damaged = Damaged(copy, older, newest, random.Random(f"{seed} {number}"))
            what = damaged.damage()
            done[what.partition(":")[0]] += 1
            by_file[_kind(what)] += 1
            if not damaged.is_noticed():
                not_noticed.append(f"{number}: {what}")
            if (found := damaged.used()) != damaged.expected:
                used.append(f"{number}: {what}: used {found}, needed {damaged.expected}")
    return {
        "damages": count,
        "by_kind": dict(sorted(done.items())),
        "by_file": dict(sorted(by_file.items())),
        "not_noticed": not_noticed,
        "used_nevertheless": used,
    }


class Damaged:
    """A copy of two checkpoints, of which the newer one is damaged."""

    def __init__(self, copy: Path, older: Path, newest: Path, chance: random.Random) -> None:
        self.copy, self.chance = copy, chance
        shutil.rmtree(copy, ignore_errors=True)
        for folder in (older, newest):
            shutil.copytree(folder, copy / "checkpoints" / folder.name)
        self.older, self.newest = (copy / "checkpoints" / folder.name for folder in (older, newest))
        self.expected: str | None = older.name

    def damage(self) -> str:
        """Do one; returns "kind: file"."""
        kinds: list[Callable[[], str]] = [
            self.flip, self.flip, self.overwrite, self.truncate, self.empty, self.delete, self.append, self.cut_out,
            self.lose_a_block, self.another_digit, self.swap_within, self.swap_between, self.take_from_older,
            self.become_a_folder, self.remove_a_folder, self.rename_a_folder, self.rename, self.swap_folders,
        ]  # fmt: skip
        before = _content(self.copy)
        while True:
            what = self.chance.choice(kinds)()
            if _content(self.copy) != before:
                return what

    def is_noticed(self) -> bool:
        """By the two functions that judge a checkpoint, and by nobody else."""
        for folder in (self.newest, self.older) if self.expected is None else (self.newest,):
            if folder.exists():
                try:
                    record = Record.read(folder)
                except MlcError:
                    continue
                if not any(damage(folder, record, share=(share, SHARES)) for share in range(SHARES)):
                    return False
        return True

    def used(self) -> str | None:
        """Name of the checkpoint that a start would load."""
        start = newest_verified(self.copy, None, lambda doing: None, lambda line: None)
        if start is not None and (problem := problem_of(start.folder)) is not None:
            return f"{start.folder.name}, although {problem}"
        return None if start is None else start.folder.name

    def flip(self) -> str:
        """One bit."""
        path, content = self._some_content()
        content[self.chance.randrange(len(content))] ^= 1 << self.chance.randrange(8)
        return self._write("flip", path, content)

    def overwrite(self) -> str:
        """Some bytes in a row."""
        path, content = self._some_content()
        start = self.chance.randrange(len(content))
        end = min(len(content), start + self.chance.randint(1, 64))
        content[start:end] = self.chance.randbytes(end - start)
        return self._write("overwrite", path, content)

    def truncate(self) -> str:
        path, content = self._some_content()
        return self._write("truncate", path, content[: self.chance.randrange(len(content))])

    def empty(self) -> str:
        path, _ = self._some_content()
        return self._write("empty", path, bytearray())

    def delete(self) -> str:
        path = self._some_file()
        path.unlink()
        return f"delete: {path.name}"

    def append(self) -> str:
        path, content = self._some_content()
        return self._write("append", path, content + b"\x00" + self.chance.randbytes(self.chance.randint(0, 64)))

    def cut_out(self) -> str:
        """The same with another end: as long as before, with bytes missing in the middle."""
        path, content = self._some_content()
        start = self.chance.randrange(len(content))
        count = min(self.chance.randint(1, 64), len(content) - start)
        return self._write("cut out", path, content[:start] + content[start + count :] + bytes(count))

    def lose_a_block(self) -> str:
        """Zeros where a page was never written, as after a loss of power."""
        path, content = self._some_content()
        start = self.chance.randrange(0, len(content), 4096)
        content[start : start + 4096] = bytes(len(content[start : start + 4096]))
        return self._write("lost block", path, content)

    def another_digit(self) -> str:
        """In complete.json, which is still one afterwards."""
        path = self.newest / RECORD_NAME
        content = bytearray(path.read_bytes())
        digits = [place for place, character in enumerate(content) if chr(character).isdigit()]
        content[self.chance.choice(digits)] = ord(self.chance.choice("0123456789"))
        return self._write("another digit", path, content)

    def swap_within(self) -> str:
        one, other = self._some_file(), self._some_file()
        return self._swap("swap within", one, other)

    def swap_between(self) -> str:
        one = self._some_file()
        other = self.older / one.relative_to(self.newest)
        what = self._swap("swap between steps", one, other)
        if problem_of(self.older) is not None:
            self.expected = None
        return what

    def take_from_older(self) -> str:
        path = self._some_file()
        shutil.copyfile(self.older / path.relative_to(self.newest), path)
        return f"take from the step before: {path.name}"

    def become_a_folder(self) -> str:
        path = self._some_file()
        path.unlink()
        path.mkdir()
        return f"become a folder: {path.name}"

    def remove_a_folder(self) -> str:
        folder = self._some_folder()
        shutil.rmtree(folder)
        return f"remove a folder: {folder.name}"

    def rename_a_folder(self) -> str:
        folder = self._some_folder()
        folder.rename(folder.with_name("renamed"))
        return f"rename a folder: {folder.name}"

    def rename(self) -> str:
        """The older checkpoint as if it were the newest, or the newest under another number."""
        newest, older = int(self.newest.name[5:]), int(self.older.name[5:])
        pretended = self.chance.choice([newest + 1, newest * 10, newest + self.chance.randint(2, 10**6)])
        name = f"step-{pretended:08d}"
        if self.chance.random() < 0.5:
            # The real newest one is away, and the older one is in its place or in a later one.
            shutil.rmtree(self.newest)
            self.newest = self.older.rename(self.newest.with_name(self.chance.choice([name, f"step-{newest:08d}"])))
            self.expected = None
            return "rename: the older one to a later step"
        self.newest = self.newest.rename(self.newest.with_name(name))
        assert older < newest
        return "rename: the newest one to a later step"

    def swap_folders(self) -> str:
        away = self.newest.with_name("away")
        self.newest.rename(away)
        self.older.rename(self.newest)
        away.rename(self.older)
        self.expected = None
        return "swap folders: both"

    def _some_file(self) -> Path:
        """Every third time complete.json: it is small, and everything hangs on it."""
        if self.chance.random() < 1 / 3:
            return self.newest / RECORD_NAME
        return self.chance.choice(sorted(path for path in self.newest.rglob("*") if path.is_file()))

    def _some_folder(self) -> Path:
        return self.chance.choice(sorted(path for path in self.newest.iterdir() if path.is_dir()))

    def _some_content(self) -> tuple[Path, bytearray]:
        while True:
            path = self._some_file()
            if content := bytearray(path.read_bytes()):
                return path, content

    def _write(self, kind: str, path: Path, content: bytearray) -> str:
        path.write_bytes(content)
        return f"{kind}: {path.name}"

    def _swap(self, kind: str, one: Path, other: Path) -> str:
        contents = one.read_bytes(), other.read_bytes()
        for path, content in zip((other, one), contents, strict=True):
            path.write_bytes(content)
        return f"{kind}: {one.name}"


@contextlib.contextmanager
def _alone(rendezvous: Path) -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _content(copy: Path) -> dict[str, Any]:
    """What is in a run's checkpoints: bytes, but of complete.json what its JSON says, wherever it can be read."""
    found: dict[str, Any] = {}
    for folder, _, names in os.walk(copy / "checkpoints"):
        found[str(Path(folder).relative_to(copy))] = None
        for name in names:
            path = Path(folder) / name
            content: Any = path.read_bytes()
            if name == RECORD_NAME:
                with contextlib.suppress(ValueError):
                    content = json.loads(content)
            found[str(path.relative_to(copy))] = content
    return found


def _kind(what: str) -> str:
    """Of the file that was damaged."""
    name = what.partition(": ")[2]
    return name.partition("-")[0] if name.endswith(".safetensors") else name


if __name__ == "__main__":
    sys.exit(main())
