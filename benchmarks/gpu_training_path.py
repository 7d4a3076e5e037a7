"""The training path on one GPU: every ZeRO file and precision, attention against the CPU, tokens/s and MFU.

Runs unattended and prints Markdown tables for docs/benchmarks.md:

1. the GLM's states and gradients on the GPU (fused attention) against the CPU's (three operations), fp32, relative;
2. ZeRO 1, 2, 3 and 3 with offload, each in bf16 and fp16: losses of the first and last step, seconds, peak memory;
3. each objective alone, and the joint one, under ZeRO-3 in bf16: tokens/s, TFLOP/s, MFU.

    python benchmarks/gpu_training_path.py --out gpu_tables.md
    python benchmarks/gpu_training_path.py --small        # on a CPU: checks that the script itself works

The texts are random tokens: speed does not depend on what they say.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tomli_w
import torch
from gpu_tables import print_tables, run_mlc

from mlc.engine.metrics import read_metrics
from mlc.model.build import build_training_model
from mlc.recipe import ModelSection

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

LARGE = {"layers": 12, "hidden_size": 768, "heads": 12, "feed_forward_size": 2048}
SMALL = {"layers": 2, "hidden_size": 64, "heads": 2, "feed_forward_size": 128}
JOINT: dict[str, Any] = {"contrastive": {"weight": 1.0}, "glm": {"weight": 1.0}, "mlm": {"weight": 1.0}}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "contrastive": {"contrastive": {"weight": 1.0}},
    "glm": {"glm": {"weight": 1.0}},
    "mlm": {"mlm": {"weight": 1.0}},
    "joint": JOINT,
    "joint, learned temperature": {**JOINT, "contrastive": {"weight": 1.0, "learn_temperature": True}},
    "joint, queue of 4,096": {**JOINT, "contrastive": {"weight": 1.0, "queue": {"size": 4096, "momentum": 0.99}}},
    "joint, both views as one text": {**JOINT, "join_views": True},
    "joint, language adversary": {**JOINT, "language_adversary": {"weight": 0.1}},
    "joint, perturbed embeddings": {**JOINT, "perturbation": {"weight": 1.0}},
}
IN_TWO_PASSES = "joint, two passes over 4 micro-batches"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="also write the tables here")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--small", action="store_true", help="tiny model and batch, and no fp16 without a GPU")
    options = parser.parse_args()
    print_tables(tables(options), options.out)


def tables(options: argparse.Namespace) -> Iterator[str]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    yield f"Device: {device}; torch {torch.__version__}; {options.steps} steps a row."
    yield from _attention_table(options.small)
    with tempfile.TemporaryDirectory() as temporary:
        table = _recipe(Path(temporary), options)
        yield from _zero_table(table, Path(temporary), options)
        yield from _objective_table(table, Path(temporary))
        yield from _gradient_table(table, Path(temporary))
        yield from _contrast_tables(options.small)


def _attention_table(small: bool) -> Iterator[str]:
    """States and gradients of one model and batch on both devices."""
    if not torch.cuda.is_available():
        yield "\nAttention against the CPU: not run, no GPU."
        return
    section = ModelSection(**(SMALL if small else {**LARGE, "layers": 4}))
    ids = {name: number for number, name in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]"))}
    model = build_training_model(section, 8000, ids, 128, seed=1)
    random = torch.Generator().manual_seed(0)
    lengths = torch.randint(8, 129, (64,), generator=random).sort(descending=True).values
    columns = torch.arange(128)
    batch = {
        "input_ids": torch.randint(10, 8000, (64, 128), generator=random) * (columns < lengths[:, None]),
        "lengths": lengths,
        "part_a_lengths": (lengths * 3) // 4,
        "positions": columns.expand(64, -1).contiguous(),
        "block_positions": (columns - ((lengths * 3) // 4)[:, None] + 1).clamp(min=0),
    }
    found = []
    for device in ("cpu", "cuda"):
        copied = copy.deepcopy(model).to(device)
        embeddings = copied(**{name: value.to(device) for name, value in batch.items()})["embeddings"]
        (embeddings * torch.arange(embeddings.shape[1], device=device)).sum().backward()
        gradients = [p.grad.flatten().cpu() for p in copied.parameters() if p.grad is not None]
        found.append((embeddings.detach().cpu(), torch.cat(gradients)))
    (cpu_states, cpu_gradient), (gpu_states, gpu_gradient) = found
    yield "\n| GLM in fp32, GPU against CPU | relative error |\n|---|---|"
    yield f"| embeddings | {float((gpu_states - cpu_states).norm() / cpu_states.norm()):.1e} |"
    yield f"| gradient of all parameters | {float((gpu_gradient - cpu_gradient).norm() / cpu_gradient.norm()):.1e} |"


def _zero_table(table: dict[str, Any], folder: Path, options: argparse.Namespace) -> Iterator[str]:
    yield "\n| file | precision | first loss | last loss | seconds/step | peak GPU memory, GiB |"
    yield "|---|---|---|---|---|---|"
    for name in ("zero1", "zero2", "zero3", "zero3_offload"):
        for precision in ("bf16", "fp16") if torch.cuda.is_available() else ("bf16",):
            table["deepspeed"] = {"config": str(ROOT / "ds_configs" / f"{name}.json")}
            table["run"] |= {"folder": str(folder / f"{name}-{precision}"), "precision": precision}
            metrics, error = _train(table, folder)
            if error:
                yield f"| {name} | {precision} | failed: {error} | | | |"
                continue
            tail = metrics[len(metrics) // 2 :]
            seconds = sum(line["seconds/step"] for line in tail) / len(tail)
            memory = metrics[-1].get("memory/peak_gib", "-")
            losses = f"{metrics[0]['loss']:.4f} | {metrics[-1]['loss']:.4f}"
            yield f"| {name} | {precision} | {losses} | {seconds:.3f} | {memory} |"


def _objective_table(table: dict[str, Any], folder: Path) -> Iterator[str]:
    yield "\n| objective (ZeRO-3, bf16) | tokens/s | TFLOP/s | MFU |\n|---|---|---|---|"
    table["deepspeed"] = {"config": str(ROOT / "ds_configs" / "zero3.json")}
    for name, objectives in {**OBJECTIVES, IN_TWO_PASSES: JOINT}.items():
        table["objectives"] = objectives
        table["data"]["micro_batches"] = 4 if name == IN_TWO_PASSES else 1
        table["run"] |= {"folder": str(folder / name.replace(" ", "-").replace(",", "")), "precision": "bf16"}
        metrics, error = _train(table, folder)
        if error:
            yield f"| {name} | failed: {error} | | |"
            continue
        tail = metrics[len(metrics) // 2 :]
        tokens, tflops = (
            sum(line[key] for line in tail) / len(tail) for key in ("tokens_per_second", "tflops_per_second")
        )
        mfu = tail[-1]["mfu"]
        yield f"| {name} | {tokens:,.0f} | {tflops:.2f} | {'-' if mfu is None else f'{mfu:.1%}'} |"


def _gradient_table(table: dict[str, Any], folder: Path) -> Iterator[str]:
    """`mlc check gradients` of the joint recipe, with one and with two micro-batches."""
    yield "\n| gradient of J against one process in float64 | precision | relative error | cosine |\n|---|---|---|---|"
    table["objectives"] = JOINT
    recipe, result = folder / "gradients.toml", folder / "gradients.json"
    for name, micro_batches in (("zero2", 1), ("zero3", 1), ("zero3", 2)):
        for precision in ("fp32", "bf16", "fp16") if torch.cuda.is_available() else ("fp32", "bf16"):
            table["deepspeed"] = {"config": str(ROOT / "ds_configs" / f"{name}.json")}
            table["data"]["micro_batches"] = micro_batches
            table["run"] |= {"precision": precision}
            recipe.write_text(tomli_w.dumps(table))
            result.unlink(missing_ok=True)
            error, _ = run_mlc(["check", "gradients", str(recipe), "--samples", "64", "--json", str(result)])
            label = f"{name}, {micro_batches} micro-batches | {precision}"
            if not result.exists():
                yield f"| {label} | failed: {error} | |"
                continue
            joint = next(o for o in json.loads(result.read_text())["objectives"] if o["objective"] == "joint")
            found = next(c for c in joint["comparisons"] if c["parameters"] == "all")
            yield f"| {label} | {found['relative_error']:.1e} | {found['cosine']:.6f} |"


def _contrast_tables(small: bool) -> Iterator[str]:
    """Memory and time of the tiled contrast on the GPU, for some sizes of tiles."""
    if not torch.cuda.is_available():
        yield "\nThe contrast on a GPU: not run, no GPU."
        return
    rows = ["1024"] if small else ["32768", "262144"]
    for tile in ("2048", "8192", "16384"):
        command = [sys.executable, str(ROOT / "benchmarks" / "contrast_memory.py"), "--device", "cuda"]
        command += ["--rows", *rows, "--width", "1024", "--plain-up-to", "32768", "--compile-plain", "--tile", tile]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        yield f"\nTiles of {tile} x {tile}, plain loss compiled:\n\n{done.stdout.strip()[-3000:]}"


def _recipe(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    from recipes_for_tests import recipe_table
    from small_shards import write_small_shards

    write_small_shards(folder / "shards", documents=20_000 if not options.small else 200, longest=48)
    return recipe_table(
        data={
            "shards": str(folder / "shards"),
            "samples_per_step": 16 if options.small else 512,
            "max_tokens": 256,
        },
        model=SMALL if options.small else LARGE,
        objectives=JOINT,
        schedule={"total_steps": options.steps, "warmup_steps": 2},
    )


def _train(table: dict[str, Any], folder: Path) -> tuple[list[dict[str, Any]], str]:
    recipe = folder / "recipe.toml"
    recipe.write_text(tomli_w.dumps(table))
    error, _ = run_mlc(["train", str(recipe)])
    if error:
        return [], error
    return read_metrics(Path(table["run"]["folder"])), ""


if __name__ == "__main__":
    main()
