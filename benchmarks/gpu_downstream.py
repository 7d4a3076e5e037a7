"""Fine-tuning and embedding on one GPU against the CPU: first loss and gradient norm, resuming, speed, vectors.

Runs unattended and prints Markdown tables for docs/benchmarks.md:

1. every kind of fine-tuning under ZeRO-3, in fp32, bf16 and fp16 on the GPU: loss and gradient norm of the first step
   against those of the CPU in fp32, seconds, peak memory, and whether a run that was stopped half-way ends with the
   bytes of the last loss of one that was not;
2. `mlc embed` on the GPU in fp32 and bf16: the lowest cosine with the CPU's vectors in fp32, texts/s.

    python benchmarks/gpu_downstream.py --jobs 4 --out gpu_downstream.md
    python benchmarks/gpu_downstream.py --small        # on a CPU: checks that the script itself works

Models have random weights and texts are random words: what is compared is one computation on two devices.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from gpu_tables import print_tables, run_mlc

from mlc.engine.metrics import read_metrics
from mlc.recipe import ModelSection

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

Table = dict[str, Any]
STEPS = 8
LARGE = ModelSection(layers=4, hidden_size=256, heads=4, feed_forward_size=512, dropout=0.0, projection_size=64)
SMALL = ModelSection(layers=2, hidden_size=64, heads=2, feed_forward_size=96, dropout=0.0, projection_size=16)
REFERENCE = ("cpu", "fp32")
WORDING = {"pattern": "{text} It was [MASK].", "verbalizer": {"low": "the", "middle": ["on", "a"], "high": "Tuesday"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="also write the tables here")
    parser.add_argument("--jobs", type=int, default=1, help="cases side by side; figures of time need 1")
    parser.add_argument("--only", default="", help="cases, comma-separated")
    parser.add_argument("--small", action="store_true", help="tiny models, few texts")
    options = parser.parse_args()
    print_tables(tables(options), options.out)


def modes() -> list[tuple[str, str]]:
    """Devices and precisions that are compared with the reference; on a machine without a GPU, the CPU's bf16."""
    if torch.cuda.is_available():
        return [("cuda", "fp32"), ("cuda", "bf16"), ("cuda", "fp16")]
    return [("cpu", "bf16")]


def tables(options: argparse.Namespace) -> Iterator[str]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    yield f"Device: {device}; torch {torch.__version__}; {STEPS} steps a run, {options.jobs} side by side."
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _write_data(folder, SMALL if options.small else LARGE)
        chosen = set(filter(None, options.only.split(",")))
        cases = {name: table for name, table in _cases(folder).items() if not chosen or name in chosen}
        yield (
            "\n| fine-tuning, ZeRO-3 | device, precision | first loss, relative error | first gradient norm, "
            "relative error | last loss | resumed half-way, last loss | seconds/step | peak GPU memory, GiB |"
        )
        yield "|---|---|---|---|---|---|---|---|"
        with ThreadPoolExecutor(options.jobs) as pool:
            for rows in pool.map(lambda case: list(_case_rows(*case, folder)), cases.items()):
                yield from rows
        yield "\n| mlc embed | lowest cosine with the CPU in fp32 | texts/s |\n|---|---|---|"
        yield from _embed_rows(folder, 200 if options.small else 20_000)


def _write_data(folder: Path, section: ModelSection) -> None:
    from finetune_for_tests import make_encoder, write_classes, write_questions, write_scores, write_words
    from ranking_for_tests import write_rankings
    from small_models import make_checkpoint
    from translation_for_tests import write_pairs

    sizes = {
        "hidden_size": section.hidden_size,
        "num_hidden_layers": section.layers,
        "num_attention_heads": section.heads,
        "intermediate_size": section.feed_forward_size,
        # With 0.02 all texts are nearly one vector, and bf16 drowns what tells them apart: a third of the gradient.
        "initializer_range": 1.6 / section.hidden_size**0.5,
    }
    make_encoder(folder / "start", **sizes)
    make_checkpoint(folder / "glm", 1, section=section, max_tokens=64)
    write_classes(folder / "train.jsonl", 120)
    write_words(folder / "words.jsonl", 60)
    write_questions(folder / "questions.jsonl", 60)
    write_scores(folder / "scores.jsonl", 60)
    write_rankings(folder / "rankings.jsonl", 60, positives=2, negatives=4)
    write_pairs(folder / "pairs", "en", "de", 60)


def _cases(folder: Path) -> dict[str, Table]:
    """{name: recipe}; the starts are an XLM-R and a GLM."""
    from finetune_for_tests import finetune_table

    def case(kind: str, train: str, start: str = "start", **changes: Table) -> Table:
        tokens = {"classification": 32, "regression": 32, "token_classification": 32}.get(kind, 48)
        table = finetune_table(
            folder,
            task={"kind": kind},
            model={"start": str(folder / start), "dropout": 0.0},
            data={"train": [str(folder / train)], "samples_per_step": 16, "max_tokens": tokens},
            checkpoint={"min_free_gib": 0.0},
        )
        return table | changes

    adapters, ranking = {"rank": 4}, {"negatives_per_query": 2}
    pairs = "pairs/en-de.jsonl"
    return {
        "classification": case("classification", "train.jsonl"),
        "classification with LoRA": case("classification", "train.jsonl", lora=adapters),
        "GLM classification": case("classification", "train.jsonl", "glm"),
        "token classification": case("token_classification", "words.jsonl"),
        "question answering": case("question_answering", "questions.jsonl"),
        "regression": case("regression", "scores.jsonl"),
        "re-ranking": case("reranking", "rankings.jsonl", ranking=ranking),
        "retrieval": case("retrieval", "rankings.jsonl", ranking=ranking),
        "GLM retrieval": case("retrieval", "rankings.jsonl", "glm", ranking=ranking),
        "GLM retrieval with LoRA": case("retrieval", "rankings.jsonl", "glm", ranking=ranking, lora=adapters),
        "GLM cloze": case("cloze", "train.jsonl", "glm", cloze=WORDING),
        "GLM translation by Part B": case(
            "translation", pairs, "glm", translation={"decoder": "part_b", "max_target_tokens": 24}
        ),
        "GLM translation with a decoder": case(
            "translation", pairs, "glm", translation={"decoder": "encoder_decoder", "max_target_tokens": 24}
        ),
    }


def _case_rows(name: str, table: Table, folder: Path) -> Iterator[str]:
    place = folder / name.replace(" ", "-")
    reference, error = _fine_tune(table, place, REFERENCE, STEPS)
    if error:
        yield f"| {name} | {', '.join(REFERENCE)} | failed: {error} | | | | | |"
        return
    for mode in modes():
        label = f"| {name} | {', '.join(mode)} |"
        metrics, error = _fine_tune(table, place, mode, STEPS)
        if error:
            yield f"{label} failed: {error} | | | | | |"
            continue
        _, error = _fine_tune(table, place, mode, STEPS // 2, resumed=True)
        again: list[Table] = []
        if not error:
            again, error = _fine_tune(table, place, mode, STEPS, resumed=True)
        same = f"failed: {error}" if error else _compared(again[-1]["loss"], metrics[-1]["loss"])
        errors = [f"{abs(metrics[0][key] / reference[0][key] - 1):.1e}" for key in ("loss", "grad_norm")]
        tail = metrics[STEPS // 2 :]
        seconds = sum(line["seconds/step"] for line in tail) / len(tail)
        memory = metrics[-1].get("memory/peak_gib", "-")
        yield f"{label} {' | '.join(errors)} | {metrics[-1]['loss']:.4f} | {same} | {seconds:.3f} | {memory} |"


def _compared(found: float, needed: float) -> str:
    return "the same" if found == needed else f"differs by {abs(found / needed - 1):.1e}"


def _fine_tune(
    table: Table, place: Path, mode: tuple[str, str], steps: int, *, resumed: bool = False
) -> tuple[list[Table], str]:
    device, precision = mode
    run = place / f"{device}-{precision}{'-resumed' if resumed else ''}"
    run.mkdir(parents=True, exist_ok=True)
    settings = {
        "run": {**table["run"], "folder": str(run / "run"), "precision": precision, "allow_changes": ["schedule"]},
        "schedule": {"kind": "constant", "total_steps": steps},
    }
    recipe = run / "recipe.toml"
    recipe.write_text(tomli_w.dumps(table | settings))
    error, _ = _run_on(["finetune", str(recipe)], device)
    return ([], error) if error else (read_metrics(run / "run"), "")


def _embed_rows(folder: Path, count: int) -> Iterator[str]:
    from small_corpus import text

    texts = folder / "texts.txt"
    texts.write_text("".join(f"{text('en', number, 4 + number % 24)}\n" for number in range(count)))
    reference = None
    for device, precision in (REFERENCE, *(mode for mode in modes() if mode[1] != "fp16")):
        out = folder / f"{device}-{precision}.npy"
        arguments = ["embed", str(folder / "glm"), str(texts), "--out", str(out), "--precision", precision]
        error, printed = _run_on(arguments, device)
        if error:
            yield f"| {device}, {precision} | failed: {error} | |"
            continue
        vectors = np.load(out)
        reference = vectors if reference is None else reference
        lowest = float((vectors * reference).sum(axis=1).min())
        speed = re.search(r"(\d+) texts/s", printed)
        yield f"| {device}, {precision} | {lowest:.6f} | {speed[1] if speed else '-'} |"


def _run_on(arguments: list[str], device: str) -> tuple[str, str]:
    """`run_mlc` on one of the devices."""
    environment = {name: value for name, value in os.environ.items() if name != "DS_ACCELERATOR"}
    if device == "cpu":
        environment |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    return run_mlc(arguments, environment)


if __name__ == "__main__":
    main()
