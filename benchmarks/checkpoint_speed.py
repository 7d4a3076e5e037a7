"""Saving and resuming: what training waits for, against a save it waits for whole, and against DeepSpeed's own.

    python benchmarks/checkpoint_speed.py                        # 2 ranks, ZeRO-3, bf16, 57 M parameters
    python benchmarks/checkpoint_speed.py --layers 12 --hidden 768 --ranks 2 --repeats 5

All rows are of one engine on one machine in one run; ratios are of medians. "save, training waits" is
checkpoint.asynchronous = false; "blocked" is how long training waits when it is true; "lost" is by how much the steps
during a save in the background are longer in all than as many steps without one. Without hashes: the same save with
the hash replaced by nothing. Loading: verifying every byte and loading, against engine.load_checkpoint of DeepSpeed's
own files; with a cold cache where this process may drop the system's.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

WARM_UP_STEPS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--samples", type=int, default=8, help="global batch")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--stage", type=int, default=3, choices=(1, 2, 3))
    parser.add_argument("--folder", help="where checkpoints are written; default: a temporary folder")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        sys.path.insert(
            0, str(Path(__file__).resolve().parent.parent / "tests")
        )  # made-up shards, a run without a loop
        measure(json.loads(options.measure))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        task = {**vars(options), "folder": folder}
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(options.ranks), __file__]
        done = subprocess.run([*command, "--measure", json.dumps(task)], check=False)
        if done.returncode:
            raise SystemExit(f"failed with exit code {done.returncode}")
        print(table(json.loads((Path(folder) / "result.json").read_text(encoding="utf-8"))))


def table(found: dict[str, Any]) -> str:
    """Markdown, with the limits that the project has set itself."""
    median = {name: statistics.median(values) for name, values in found["seconds"].items()}
    whole, without = median["save, training waits"], median["save, without hashes"]
    rows = [
        ("save, training waits", whole, ""),
        ("save, without hashes", without, f"hashing adds {whole / without - 1:.1%} (limit 10 %)"),
        ("blocked by a save in the background", median["blocked"], f"{median['blocked'] / whole:.1%} (limit 15 %)"),
        ("lost to a save in the background", median["lost"], f"{median['lost'] / whole:.1%} (limit 60 %)"),
        ("DeepSpeed's save", median["DeepSpeed saves"], f"{median['DeepSpeed saves'] / whole:.2f} of ours"),
        ("verify and load", median["verify and load"], ""),
        (
            "DeepSpeed's load",
            median["DeepSpeed loads"],
            f"ours {median['verify and load'] / median['DeepSpeed loads']:.2f} x (limit 1.2)",
        ),
        ("verify and load, cold", median["verify and load, cold"], ""),
        (
            "DeepSpeed's load, cold",
            median["DeepSpeed loads, cold"],
            f"ours {median['verify and load, cold'] / median['DeepSpeed loads, cold']:.2f} x (limit 1.2)",
        ),
    ]
    head = f"{found['parameters'] / 1e6:.1f} M parameters, checkpoint {found['megabytes']:,.0f} MB; "
    head += f"step {median['step']:.2f} s, copy in memory {found['copy_megabytes']:,.0f} MB a rank"
    lines = [head, "", "| | seconds | |", "|---|---|---|"]
    return "\n".join(lines + [f"| {name} | {seconds:.2f} | {note} |" for name, seconds, note in rows])


class Bench:
    """An engine with its batches on one rank."""

    def __init__(self, task: dict[str, Any]) -> None:
        from small_shards import write_small_shards

        from mlc.config import parse_recipe
        from mlc.data.batches import BatchBuilder
        from mlc.data.corpus import Corpus
        from mlc.data.manifest import Manifest
        from mlc.distributed.ranks import find_ranks
        from mlc.engine.construct import engine_for, prepare_process, start_process_group
        from mlc.engine.step import TrainingStep
        from mlc.recipe import TrainRecipe

        self.folder = Path(task["folder"])
        recipe = parse_recipe(recipe_of(task), TrainRecipe, where="benchmark")
        ranks = find_ranks(os.environ)
        device = prepare_process(recipe, ranks)
        start_process_group()
        self.rank = ranks.rank
        if ranks.rank == 0:
            write_small_shards(self.folder / "shards", vocab_size=task["vocabulary"])
        barrier()
        manifest = Manifest.read(recipe.data.shards)
        corpus = Corpus(recipe.data, manifest, seed=1)
        self.builder = BatchBuilder.of(recipe, corpus, rank=ranks.rank, world_size=ranks.world_size)
        self.engine = engine_for(recipe, ranks, corpus, device)
        self.device = device
        self.taker = TrainingStep.of(self.engine, recipe, languages=len(corpus.languages), device=device)
        self.number = self.saving = 0

    def step(self) -> None:
        from mlc.engine.step import count_totals

        batch = self.builder.build(self.number)
        self.taker.take(batch, count_totals(batch, device=self.device))
        self.number += 1


def measure(task: dict[str, Any]) -> None:
    """On every rank; rank 0 writes what it found."""
    from checkpoints_for_tests import no_guard, saver_of

    from mlc.checkpoint.record import Position, Record, checkpoint_folders
    from mlc.engine.construct import parameter_count
    from mlc.engine.engine_state import EngineState
    from mlc.engine.resume import load, newest_verified

    bench = Bench(task)
    for _ in range(WARM_UP_STEPS):
        bench.step()
    run = bench.folder / "run"
    saver, guard, state = saver_of(bench.engine, run), no_guard(), EngineState(bench.engine)
    seconds: dict[str, list[float]] = {}

    def note(name: str, work: Callable[[], Any]) -> Any:
        barrier()
        started = time.perf_counter()
        result = work()
        barrier()
        seconds.setdefault(name, []).append(time.perf_counter() - started)
        return result

    def save(*, behind: bool) -> None:
        bench.saving = bench.number
        saver.save(Position(step=bench.number, batch=bench.number), guard, must_succeed=True, behind=behind)

    for repeat in range(task["repeats"] + 1):
        note("step", bench.step)
        note("save, training waits", lambda: save(behind=False))
        bench.step()
        with mock.patch("mlc.tensor_files.xxhash.xxh3_64", NoHash):
            note("save, without hashes", lambda: save(behind=False))
        bench.step()
        lost(bench, note, saver, save, seconds)
        note("DeepSpeed saves", lambda: bench.engine.save_checkpoint(str(bench.folder / "deepspeed"), tag="one"))
        for cold in ("", ", cold"):
            drop_caches(bool(cold), bench.rank)
            note(
                f"DeepSpeed loads{cold}",
                lambda: bench.engine.load_checkpoint(str(bench.folder / "deepspeed"), tag="one"),
            )
            drop_caches(bool(cold), bench.rank)

            def ours() -> None:
                start = newest_verified(run, None, lambda doing: None, lambda line: None)
                assert start is not None
                load(start, state, None)

            note(f"verify and load{cold}", ours)
        bench.step()
        if repeat == 0:  # the first of everything pays for buffers and files that are there later
            seconds.clear()
    saver.close()
    if bench.rank == 0:
        newest = checkpoint_folders(run)[-1]
        found = {
            "seconds": seconds,
            "parameters": parameter_count(bench.engine.module),
            "megabytes": sum(facts.bytes for facts in Record.read(newest).files.values()) / 1e6,
            "copy_megabytes": saver.copied_bytes / 1e6,
        }
        (bench.folder / "result.json").write_text(json.dumps(found), encoding="utf-8")
        shutil.rmtree(bench.folder / "deepspeed")


def lost(bench: Bench, note: Any, saver: Any, save: Callable[..., None], seconds: dict[str, list[float]]) -> None:
    """Steps until a save in the background is in place, against as many steps without one."""
    import torch
    import torch.distributed as dist

    from mlc.engine.signals import RankSignals

    barrier()
    started = time.perf_counter()
    save(behind=True)
    blocked, steps = time.perf_counter() - started, 0
    while saver.saved_step != bench.saving:
        bench.step()
        steps += 1
        own = torch.tensor([saver.written, saver.placed], dtype=torch.int64)
        dist.all_reduce(own)  # in a run these counts travel with the batch's
        at = time.perf_counter()
        saver.go_on(RankSignals(written=int(own[0]), placed=int(own[1])))
        blocked += time.perf_counter() - at
    barrier()
    with_save = time.perf_counter() - started
    started = time.perf_counter()
    for _ in range(steps):
        bench.step()
    barrier()
    seconds.setdefault("lost", []).append(with_save - (time.perf_counter() - started))
    seconds.setdefault("blocked", []).append(blocked)


class NoHash:
    """Stands for xxh3_64."""

    def update(self, block: Any) -> None:
        """Nothing."""

    def hexdigest(self) -> str:
        """Of nothing."""
        return "0" * 16


def drop_caches(wanted: bool, rank: int) -> None:
    """Make the next reads come from the disk, where this process may."""
    if wanted:
        barrier()
        if rank == 0:
            subprocess.run(["sync"], check=True)
            Path("/proc/sys/vm/drop_caches").write_text("1", encoding="ascii")
        barrier()


def barrier() -> None:
    """Wait for all ranks."""
    import torch.distributed as dist

    dist.barrier()


def recipe_of(task: dict[str, Any]) -> dict[str, Any]:
    """A GLM of the size that was asked for, on made-up texts."""
    return {
        "run": {"folder": "unused", "precision": "bf16"},
        "data": {
            "shards": str(Path(task["folder"]) / "shards"),
            "samples_per_step": task["samples"],
            "sources": [{"kind": "documents", "view": "translations"}],
        },
        "model": {
            "layers": task["layers"],
            "hidden_size": task["hidden"],
            "heads": 8,
            "feed_forward_size": task["hidden"] * 8 // 3,
        },
        "objectives": {"contrastive": {"weight": 1.0}, "glm": {"weight": 0.5}},
        "optimizer": {"learning_rate": 1e-4},
        "schedule": {"total_steps": 1000},
        "deepspeed": {"config": f"ds_configs/zero{task['stage']}.json"},
    }


if __name__ == "__main__":
    main()
