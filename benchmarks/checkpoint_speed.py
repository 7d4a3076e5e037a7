"""Saving and resuming: what training waits for, against a save it waits for whole, and against DeepSpeed's own.

    python benchmarks/checkpoint_speed.py                        # 2 ranks, ZeRO-3, bf16, 57 M parameters
    python benchmarks/checkpoint_speed.py --layers 12 --hidden 768 --ranks 2 --repeats 5

All rows are of one engine on one machine in one run; ratios are of medians. "save, training waits" is
checkpoint.asynchronous = false; "blocked" is how long training waits when it is true; "lost" is by how much longer a
few steps take together with a save in the background than the same number before and after it without one. Without
hashes: the same save with the hash replaced by nothing. Loading: verifying every byte and loading, against
engine.load_checkpoint of DeepSpeed's own files. Right after a save these are still in the page cache, and ours never
were; so this is measured once more after the cache was dropped (which needs root).
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
from itertools import pairwise
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
    parser.add_argument("--samples", type=int, default=4, help="global batch")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--windows", type=int, default=12, help="of steps with a save in the background")
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
        ("verify and load, from disk", median["verify and load"], ""),
        (
            "DeepSpeed's load, from the page cache",
            median["DeepSpeed loads"],
            f"ours {median['verify and load'] / median['DeepSpeed loads']:.2f} x",
        ),
        ("verify and load, both from disk", median["verify and load, cold"], ""),
        (
            "DeepSpeed's load, both from disk",
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
        with mock.patch("mlc.streamed_file.xxhash.xxh3_64", NoHash):
            note("save, without hashes", lambda: save(behind=False))
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
    seconds |= measure_background(bench, saver, save, task["windows"])
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


def measure_background(bench: Bench, saver: Any, save: Callable[..., None], windows: int) -> dict[str, list[float]]:
    """Windows of as many steps as a save in the background needs, by turns with one and without.

    A window with a save is compared with the mean of the two around it, so that a machine that becomes slower or
    faster on the way changes nothing.
    """
    steps = 1 + max(window(bench, saver, save)[2] for _ in range(3))  # one more, so that no window needs more
    plain, saving, blocked = [window(bench, saver, None, steps)[0]], [], []
    for _ in range(windows):
        seconds, waited, taken = window(bench, saver, save, steps)
        assert taken == steps, f"a save took {taken} steps instead of {steps}"
        saving.append(seconds)
        blocked.append(waited)
        plain.append(window(bench, saver, None, steps)[0])
    around = [statistics.mean(both) for both in pairwise(plain)]
    lost = [with_save - without for with_save, without in zip(saving, around, strict=True)]
    return {"blocked": blocked, "lost": lost}


def window(bench: Bench, saver: Any, save: Callable[..., None] | None, steps: int = 1) -> tuple[float, float, int]:
    """At least so many steps, and until a save is in place: seconds in all, seconds blocked, steps."""
    import torch
    import torch.distributed as dist

    from mlc.engine.signals import RankSignals

    barrier()
    started = time.perf_counter()
    if save is not None:
        save(behind=True)
    taken = 0
    while taken < steps or (save is not None and saver.saved_step != bench.saving):
        bench.step()
        taken += 1
        own = torch.tensor([saver.written, saver.placed], dtype=torch.int64)
        dist.all_reduce(own)  # in a run these counts travel with the batch's
        saver.go_on(RankSignals(written=int(own[0]), placed=int(own[1])))
    barrier()
    return time.perf_counter() - started, saver.seconds, taken


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
