"""Fine-tune a classifier on one language, score it on others, export it, and use it as a pipeline.

    python docs/examples/sentiment.py runs/demo/joint --out runs/examples/sentiment
    python docs/examples/sentiment.py runs/base --out runs/examples/tweets --train tweets/en.train.jsonl \\
        --dev tweets/en.val.jsonl --test 'tweets/{language}.val.jsonl' --languages ar,de,en,fr,hi

Files have an object a line with "text" and "label". Without them the script makes up sentences: those of the demo's
grammar with pleasant or unpleasant things in them, so this is no sentiment that anybody felt. Run it from the
repository's folder, where ds_configs/ is.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from transformers import pipeline

from data_prep.demo_corpus.corpus import generate
from mlc.export.hugging_face import export_model
from mlc.model import register_auto_classes

LANGUAGES = ("de", "en", "es", "tr")
WORDS = {
    "good": {"beautiful", "clean", "fresh", "sweet", "new", "interesting", "praised"},
    "bad": {"dirty", "strange", "old", "cheap", "damaged", "lost"},
}
RECIPE = """
[run]
folder = {folder}
seed = 1

[task]
kind = "classification"

[model]
start = {start}

[data]
train = {train}
dev = {dev}
test = {test}
test_languages = {languages}
samples_per_step = 16

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
    """train.en.jsonl, dev.en.jsonl, and test.<language>.jsonl. A translation has the label of the English sentence."""
    corpus = generate(documents=300, held_out=100, seed=19)
    folder.mkdir(parents=True, exist_ok=True)
    for part, languages in (("train", ("en",)), ("dev", ("en",)), ("test", LANGUAGES)):
        records = corpus.train if part == "train" else corpus.held_out
        half = len(records["en"]) // 2
        places = range(half) if part == "dev" else range(half if part == "test" else 0, len(records["en"]))
        for language in languages:
            rows = []
            for place in places:
                pairs = zip(
                    records["en"][place]["text"].split("\n"), records[language][place]["text"].split("\n"), strict=True
                )
                for english, text in pairs:
                    said = set(re.findall(r"\w+", english))
                    labels = [label for label, words in WORDS.items() if said & words]
                    if len(labels) == 1:
                        rows.append({"lang": language, "text": text, "label": labels[0]})
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (folder / f"{part}.{language}.jsonl").write_text("".join(lines), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, tell the scores, export, classify."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="run folder, checkpoint, export, Hugging Face folder or name")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--train", help="JSON lines")
    parser.add_argument("--dev", help="JSON lines; chooses the checkpoint")
    parser.add_argument("--test", help="JSON lines, one file a language, {language} in its place")
    parser.add_argument("--languages", default=",".join(LANGUAGES), help="of --test")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    chosen = parser.parse_args(arguments)
    data = chosen.out / "data"
    if not chosen.train:
        write_made_up_data(data)
        print("made-up sentences; trained on English")

    # A JSON string or list is one of TOML as well.
    recipe = RECIPE.format(
        folder=json.dumps(str(chosen.out / "run")),
        start=json.dumps(chosen.model),
        train=json.dumps([chosen.train or str(data / "train.en.jsonl")]),
        dev=json.dumps([chosen.dev or str(data / "dev.en.jsonl")]),
        test=json.dumps([chosen.test or str(data / "test.{language}.jsonl")]),
        languages=json.dumps(chosen.languages.split(",")),
        learning_rate=chosen.learning_rate,
        steps=chosen.steps,
    )
    (chosen.out / "recipe.toml").write_text(recipe, encoding="utf-8")
    # A process of its own, as several would be: torchrun --nproc-per-node 8 -m mlc finetune ...
    subprocess.run([sys.executable, "-m", "mlc", "finetune", str(chosen.out / "recipe.toml")], check=True)

    test = json.loads((chosen.out / "run" / "test.json").read_text())
    for language, score in test["languages"].items():
        seen = "trained on" if language in test["trained"] else "zero-shot"
        print(f"{language}: {test['score']} {score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f}), {seen}")

    export_model(chosen.out / "run", chosen.out / "exported", overwrite=True)
    register_auto_classes()  # where mlc is not installed: trust_remote_code=True, which runs the code in the folder
    classify = pipeline("text-classification", model=str(chosen.out / "exported"))
    text = "Die Tante hat einen schmutzigen Koffer."
    print(f"{text} -> {classify(text)[0]['label']}")


if __name__ == "__main__":
    main()
