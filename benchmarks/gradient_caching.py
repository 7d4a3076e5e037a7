"""Memory and time of the two-pass contrast (gradient caching), beside plain accumulation over the same micro-batches.

    make demo && python benchmarks/gradient_caching.py                    # with the shards that the demo left
    python benchmarks/gradient_caching.py --ranks 2 --samples 64 2048 --per-micro-batch 64

Every row is a run of the real engine in processes of its own: some steps of a global batch in micro-batches of equal
size. "two passes" is objectives.contrastive, whose negatives are the global batch; "accumulation" is
objectives.micro_batch_contrastive, another loss of the same cost a micro-batch. Texts are cut so short that all have
the same length: micro-batches of equally many samples are then equally large. The time is the median step's, by sample.
Memory is the peak of rank 0's resident memory during a step over what it was before, in a run of its own in which
freed memory goes back to the system at once. ZeRO-1 keeps weights whole, ZeRO-3 gathers them in every pass: the
difference between the two is what its repeated gathers cost.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STEPS = 3
RETURNS_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""glibc then gives blocks of 64 KiB and more back when they are freed; otherwise it keeps most of them."""
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", default="runs/demo/shards", help="folder with manifest.json")
    parser.add_argument("--samples", type=int, nargs="*", default=[64, 256, 1024, 2048], help="global batches")
    parser.add_argument("--per-micro-batch", type=int, default=32, help="samples of a micro-batch, over all ranks")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--stages", type=int, nargs="*", default=[1, 3])
    parser.add_argument("--max-tokens", type=int, default=12, help="shorter than (nearly) every text of the shards")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(json.loads(options.measure))
        return
    print("| ZeRO | samples | micro-batches | step | peak, MiB | ms a sample | against accumulation |")
    print(f"|{'---|' * 7}")
    for stage in options.stages:
        for samples in options.samples:
            found = {name: _run(name, stage, samples, options) for name in ("accumulation", "two passes")}
            for name, numbers in found.items():
                ratio = numbers["ms"] / found["accumulation"]["ms"]
                cells = [stage, f"{samples:,}", samples // options.per_micro_batch, name]
                cells += [f"{numbers['mib']:,.0f}", f"{numbers['ms']:.1f}", f"{ratio:.2f}"]
                print(f"| {' | '.join(map(str, cells))} |", flush=True)


def _run(name: str, stage: int, samples: int, options: argparse.Namespace) -> dict[str, float]:
    objective = "contrastive" if name == "two passes" else "micro_batch_contrastive"
    recipe = {
        "run": {"folder": "unused", "precision": "bf16"},
        "data": {
            "shards": options.shards,
            "samples_per_step": samples,
            "micro_batches": samples // options.per_micro_batch,
            "max_tokens": options.max_tokens,
            "sources": [{"kind": "documents", "view": "translations"}],
        },
        "model": {"layers": options.layers, "hidden_size": 256, "heads": 4, "feed_forward_size": 683},
        "objectives": {objective: {"weight": 1.0}},
        "optimizer": {"learning_rate": 1e-4},
        "schedule": {"total_steps": STEPS},
        "deepspeed": {"config": f"ds_configs/zero{stage}.json"},
    }
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(options.ranks), __file__]
        numbers: dict[str, float] = {}
        for field, settings in (("ms", {}), ("mib", RETURNS_MEMORY)):
            task = {"recipe": recipe, "result": str(result)}
            environ = {**os.environ, **settings}
            done = subprocess.run(
                [*command, "--measure", json.dumps(task)], env=environ, capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise SystemExit(f"{name}, {samples} samples: failed\n{done.stderr[-3000:]}")
            numbers[field] = json.loads(result.read_text())[field]
    return numbers


def measure(task: dict[str, Any]) -> None:
    """On every rank: take the steps; rank 0 writes its peak memory and time a sample."""
    from mlc.config import parse_recipe
    from mlc.data.batches import BatchBuilder
    from mlc.data.corpus import Corpus
    from mlc.data.manifest import Manifest
    from mlc.distributed.ranks import find_ranks
    from mlc.engine.construct import engine_for, prepare_process, start_process_group
    from mlc.engine.step import TrainingStep, count_totals
    from mlc.recipe import TrainRecipe

    recipe, ranks = parse_recipe(task["recipe"], TrainRecipe, where="benchmark"), find_ranks(os.environ)
    manifest = Manifest.read(recipe.data.shards)
    device = prepare_process(recipe, ranks)
    start_process_group()
    corpus = Corpus(recipe.data, manifest, seed=1)
    builder = BatchBuilder.of(recipe, corpus, rank=ranks.rank, world_size=ranks.world_size)
    engine = engine_for(recipe, ranks, corpus, device)
    step = TrainingStep.of(engine, recipe, languages=len(corpus.languages), device=device)
    seconds, before, peak = [], 0.0, 0.0
    for number in range(STEPS):
        batch = builder.build(number)
        totals = count_totals(batch, device=device)
        if number == 1:  # the first step makes the optimizer's states
            before = _start_of_peak()
        started = time.perf_counter()
        step.take(batch, totals)
        seconds.append(time.perf_counter() - started)
        peak = _memory("VmHWM")
    if ranks.rank == 0:
        milliseconds = statistics.median(seconds[1:]) * 1000 / recipe.data.samples_per_step
        Path(task["result"]).write_text(json.dumps({"mib": peak - before, "ms": milliseconds}), encoding="utf-8")


def _start_of_peak() -> float:
    """Forget the peak so far; resident memory now, MiB."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _memory("VmRSS")


def _memory(field: str) -> float:
    """A field of this process's memory, MiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / MIB


if __name__ == "__main__":
    main()
