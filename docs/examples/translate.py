"""Teach a model to translate, score it, and use it: the GLM writes the translation into a blank (its Part B).

    python docs/examples/translate.py runs/demo/joint --out runs/examples/translate
    python docs/examples/translate.py runs/base --out runs/examples/mine --train de-en.jsonl --test test/de-en.jsonl

Files are named after their languages and have an object a line with a text in each: {"de": "...", "en": "..."}. Without
them the script makes up sentences of the demo's grammar. With --decoder encoder_decoder any encoder serves as MODEL.
Run it from the repository's folder, where ds_configs/ is.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from data_prep.demo_corpus.corpus import generate
from mlc.tasks.learned.translation_decoding import Translator

RECIPE = """
[run]
folder = {folder}
seed = 1

[task]
kind = "translation"

[model]
start = {start}

[data]
train = {train}
test = {test}
samples_per_step = 32
max_tokens = 64

[translation]
decoder = {decoder}
both_directions = true
max_target_tokens = 48

[optimizer]
learning_rate = {learning_rate}

[schedule]
kind = "linear"
total_steps = {steps}
warmup_fraction = 0.1

[deepspeed]
config = "ds_configs/zero1.json"

[checkpoint]
every_steps = {steps}
keep_last = 1

[log]
tensorboard = false
"""


def write_made_up_data(folder: Path) -> None:
    """train/de-en.jsonl and test/de-en.jsonl."""
    corpus = generate(documents=200, held_out=5, seed=29)
    for part, records in (("train", corpus.train), ("test", corpus.held_out)):
        rows = []
        for german, english in zip(records["de"], records["en"], strict=True):
            for one, other in zip(german["text"].split("\n"), english["text"].split("\n"), strict=True):
                rows.append({"de": one, "en": other})
        (folder / part).mkdir(parents=True, exist_ok=True)
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / part / "de-en.jsonl").write_text("".join(lines), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, tell the scores, translate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a GLM: run folder, checkpoint, or export with heads")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--train", help="JSON lines, named FIRST-SECOND.jsonl")
    parser.add_argument("--test", help="JSON lines, named FIRST-SECOND.jsonl")
    parser.add_argument("--decoder", choices=("part_b", "encoder_decoder"), default="part_b")
    parser.add_argument("--text", action="append", help="a text in the first language; may be given several times")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    chosen = parser.parse_args(arguments)
    data = chosen.out / "data"
    if not (chosen.train and chosen.test):
        write_made_up_data(data)
        print("made-up sentences")
    test = Path(chosen.test or data / "test" / "de-en.jsonl")

    # A JSON string or list is one of TOML as well.
    recipe = RECIPE.format(
        folder=json.dumps(str(chosen.out / "run")),
        start=json.dumps(chosen.model),
        train=json.dumps([chosen.train or str(data / "train" / "de-en.jsonl")]),
        test=json.dumps([str(test)]),
        decoder=json.dumps(chosen.decoder),
        learning_rate=chosen.learning_rate,
        steps=chosen.steps,
    )
    (chosen.out / "recipe.toml").write_text(recipe, encoding="utf-8")
    # A process of its own, as several would be: torchrun --nproc-per-node 8 -m mlc finetune ...
    subprocess.run([sys.executable, "-m", "mlc", "finetune", str(chosen.out / "recipe.toml")], check=True)
    scores = json.loads((chosen.out / "run" / "test.json").read_text())
    for direction, score in scores["languages"].items():
        print(f"{direction}: {scores['score']} {score['value']:.1f} ({score['low']:.1f} to {score['high']:.1f})")

    first, second = test.name.removesuffix(".jsonl").split("-")[:2]
    texts = chosen.text or [json.loads(line)[first] for line in test.read_text(encoding="utf-8").splitlines()[:3]]
    translations = Translator.load(chosen.out / "run").translate(texts, second)
    for text, translation in zip(texts, translations, strict=True):
        print(f"{text} -> {translation}")


if __name__ == "__main__":
    main()
