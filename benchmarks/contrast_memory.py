"""Memory and time of the tiled contrast, beside the loss that stores its matrix of similarities.

    python benchmarks/contrast_memory.py      # the claims of docs/benchmarks.md: 65,536 rows alone, 8,192 both
    python benchmarks/contrast_memory.py --rows 16384 --width 512 --threads 4

Each measurement runs in a process of its own: its peak of resident memory is read before and after one forward and
backward pass, with embeddings and their gradients already there. The plain loss is torch's cross-entropy on the matrix
and on its transpose. Times are the least of several passes, both losses in turn.
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

TEMPERATURE = 0.05
PASSES = 5
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[8192, 65536], help="pairs of the batch")
    parser.add_argument("--width", type=int, default=256, help="embedding size")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--plain-up-to", type=int, default=8192, help="rows up to which the plain loss is measured too")
    parser.add_argument("--measure", choices=("tiled", "plain", "times"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        torch.set_num_threads(options.threads)
        print(json.dumps(measure(options.measure, options.rows[0], options.width)))
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


def measure(what: str, rows: int, width: int) -> dict[str, float]:
    """Peak memory and seconds of one pass, or seconds of both losses in turn."""
    if what == "times":
        views = _views(rows, width)
        seconds: dict[str, list[float]] = {"plain": [], "tiled": []}
        for _ in range(PASSES):
            for name, taken in seconds.items():
                taken.append(_pass(name, *views))
        return {name: min(taken) for name, taken in seconds.items()}
    _pass(what, *_views(256, width))  # libraries load and threads start
    views = _views(rows, width)
    for view in views:
        view.grad = torch.ones_like(view)
    before = _peak()
    seconds_taken = _pass(what, *views, keep_gradients=True)
    return {"mib": _peak() - before, "seconds": seconds_taken}


def _views(rows: int, width: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    first, second = (torch.randn(rows, width, generator=random) for _ in range(2))
    for view in (first, second):
        view.div_(view.norm(dim=1, keepdim=True)).requires_grad_()
    return first, second


def _pass(name: str, first: Tensor, second: Tensor, *, keep_gradients: bool = False) -> float:
    """Seconds of a forward and backward pass.

    With `keep_gradients` the old gradients make room for the new ones first, so that their memory counts once.
    """
    started = time.perf_counter()
    loss = _plain(first, second) if name == "plain" else _tiled(first, second)
    if keep_gradients:
        first.grad = second.grad = None
    gradients = torch.autograd.grad(loss, (first, second))
    first.grad, second.grad = gradients
    return time.perf_counter() - started


def _plain(first: Tensor, second: Tensor) -> Tensor:
    logits = first @ second.T / TEMPERATURE
    target = torch.arange(len(first))
    both = (
        functional.cross_entropy(logits, target, reduction="sum"),
        functional.cross_entropy(logits.T, target, reduction="sum"),
    )
    return (both[0] + both[1]) / 2


def _tiled(first: Tensor, second: Tensor) -> Tensor:
    index = torch.arange(len(first))
    identity = PairIdentity(
        group=index,
        first_text=index,
        second_text=len(first) + index,
        first_language=torch.zeros_like(index),
        second_language=torch.ones_like(index),
        valid=torch.ones(len(first), dtype=torch.bool),
    )
    return info_nce_sum(
        first,
        second,
        second,
        own_index_N=index,
        identity=identity,
        temperature=TEMPERATURE,
        settings=InfoNceSettings(),
    ).loss


def _peak() -> float:
    """Most resident memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB


def _in_process(what: str, rows: int, options: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", what, "--rows", str(rows)]
    command += ["--width", str(options.width), "--threads", str(options.threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


if __name__ == "__main__":
    main()
