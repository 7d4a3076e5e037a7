"""Memory and time of the tiled contrast, beside the loss that stores its matrix of similarities.

    python benchmarks/contrast_memory.py      # the claims of docs/benchmarks.md: 65,536 rows alone, 8,192 both
    python benchmarks/contrast_memory.py --rows 16384 --width 512 --threads 4
    python benchmarks/contrast_memory.py --device cuda --rows 32768 262144 --width 1024 --plain-up-to 32768 --tile 8192

Each measurement runs in a process of its own: its peak of resident memory (on a GPU: of allocated memory) is read
before and after one forward and backward pass, with embeddings and their gradients already there. The plain loss is
torch's cross-entropy on the matrix and on its transpose, compiled with --compile-plain. Times are the least of several
passes, both losses in turn.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
from torch import Tensor
from torch.nn import functional

from mlc.objectives.info_nce import InfoNceSettings, PairIdentity, info_nce_sum
from mlc.objectives.tiles import TileSize

TEMPERATURE = 0.05
PASSES = 5
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[8192, 65536], help="pairs of the batch")
    parser.add_argument("--width", type=int, default=256, help="embedding size")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--plain-up-to", type=int, default=8192, help="rows up to which the plain loss is measured too")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--tile", type=int, help="rows and columns of a tile; default: the library's")
    parser.add_argument("--compile-plain", action="store_true", help="torch.compile for the plain loss")
    parser.add_argument("--measure", choices=("tiled", "plain", "times"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        torch.set_num_threads(options.threads)
        print(json.dumps(Bench(options).measure(options.measure, options.rows[0])))
        return
    print(
        f"| rows | width | loss | peak beyond embeddings and gradients, MiB | seconds | against plain |\n|{'---|' * 6}"
    )
    for rows in options.rows:
        both = rows <= options.plain_up_to
        memory = {name: _in_process(name, rows, options) for name in (("plain", "tiled") if both else ("tiled",))}
        times = _in_process("times", rows, options) if both else {"tiled": memory["tiled"]["seconds"]}
        for name, found in memory.items():
            ratio = f"{times[name] / times['plain']:.2f}" if both else "-"
            print(f"| {rows:,} | {options.width} | {name} | {found['mib']:,.1f} | {times[name]:.2f} | {ratio} |")


class Bench:
    """Both losses on one device."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device, self.width = torch.device(options.device), options.width
        self.tile = TileSize(options.tile, options.tile) if options.tile else TileSize()
        plain = torch.compile(plain_loss) if options.compile_plain else plain_loss
        self.losses = {"plain": plain, "tiled": self.tiled_loss}

    def measure(self, what: str, rows: int) -> dict[str, float]:
        """Peak memory and seconds of one pass, or seconds of both losses in turn."""
        if what == "times":
            views = self.views(rows)
            seconds: dict[str, list[float]] = {name: [] for name in self.losses}
            for _ in range(PASSES):
                for name, taken in seconds.items():
                    taken.append(self.timed_pass(name, *views))
            return {name: min(taken) for name, taken in seconds.items()}
        self.timed_pass(what, *self.views(256))  # libraries load and threads start
        views = self.views(rows)
        for view in views:
            view.grad = torch.ones_like(view)
        before = self.peak_mib(reset=True)
        seconds_taken = self.timed_pass(what, *views)
        return {"mib": self.peak_mib() - before, "seconds": seconds_taken}

    def views(self, rows: int) -> tuple[Tensor, Tensor]:
        random = torch.Generator(self.device).manual_seed(0)
        first, second = (torch.randn(rows, self.width, generator=random, device=self.device) for _ in range(2))
        for view in (first, second):
            view.div_(view.norm(dim=1, keepdim=True)).requires_grad_()
        return first, second

    def timed_pass(self, name: str, first: Tensor, second: Tensor) -> float:
        """Seconds of a forward and backward pass; old gradients make room for the new ones, which count once."""
        self.wait()
        started = time.perf_counter()
        loss = self.losses[name](first, second)
        first.grad = second.grad = None
        first.grad, second.grad = torch.autograd.grad(loss, (first, second))
        self.wait()
        return time.perf_counter() - started

    def tiled_loss(self, first: Tensor, second: Tensor) -> Tensor:
        index = torch.arange(len(first), device=self.device)
        identity = PairIdentity(
            group=index,
            first_text=index,
            second_text=len(first) + index,
            first_language=torch.zeros_like(index),
            second_language=torch.ones_like(index),
            valid=torch.ones_like(index, dtype=torch.bool),
        )
        settings = InfoNceSettings(tile=self.tile)
        return info_nce_sum(
            first, second, second, own_index_N=index, identity=identity, temperature=TEMPERATURE, settings=settings
        ).loss

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def peak_mib(self, *, reset: bool = False) -> float:
        """Most memory of this process so far; with `reset`, what is taken now becomes the new peak on a GPU."""
        if self.device.type == "cpu":
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated() / MIB


def plain_loss(first: Tensor, second: Tensor) -> Tensor:
    logits = first @ second.T / TEMPERATURE
    target = torch.arange(len(first), device=first.device)
    one_way = functional.cross_entropy(logits, target, reduction="sum")
    return (one_way + functional.cross_entropy(logits.T, target, reduction="sum")) / 2


def _in_process(what: str, rows: int, options: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", what, "--rows", str(rows)]
    command += ["--width", str(options.width), "--threads", str(options.threads), "--device", options.device]
    command += ["--tile", str(options.tile)] if options.tile else []
    command += ["--compile-plain"] if options.compile_plain else []
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


if __name__ == "__main__":
    main()
