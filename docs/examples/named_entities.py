"""Fine-tune a tagger of names on English sentences, and score it on other languages.

    python docs/examples/named_entities.py runs/demo/joint --out runs/examples/names
    python docs/examples/named_entities.py runs/base --out runs/examples/wikiann --train wikiann/en.train.conll \\
        --dev wikiann/en.dev.conll --test 'wikiann/{language}.test.conll' --languages de,en,tr

Data: CoNLL files, or JSON lines with "tokens" and "labels" in IOB2 (docs/task_data.md). Without them the script makes
up sentences from three templates, in which nothing but the names changes. Run it from the repository's folder.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mlc.tasks.examples import Place, TokenExample
from mlc.tasks.learned.predict import Predictor

PEOPLE = ("Anna", "Boris", "Clara", "David", "Elif", "Franz", "Greta", "Hugo", "Iris", "Jonas")
CITIES = ("Berlin", "Paris", "Ankara", "Madrid", "Oslo", "Lima", "Kyoto", "Porto", "Delhi", "Cairo")
TEMPLATES = {
    "en": ("PER lives in LOC .", "On Monday PER went to LOC .", "LOC is far from here , said PER ."),
    "de": ("PER wohnt in LOC .", "Am Montag ging PER nach LOC .", "LOC ist weit von hier , sagte PER ."),
    "es": ("PER vive en LOC .", "El lunes PER fue a LOC .", "LOC está lejos de aquí , dijo PER ."),
}
RECIPE = """
[run]
folder = {folder}
seed = 1

[task]
kind = "token_classification"

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
    """train.en.jsonl, dev.en.jsonl, test.<language>.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = random.Random(1)
    for name, language, count in (
        ("train", "en", 300),
        ("dev", "en", 60),
        *(("test", language, 60) for language in TEMPLATES),
    ):
        lines = []
        for _ in range(count):
            words = generator.choice(TEMPLATES[language]).split()
            tokens = [
                {"PER": generator.choice(PEOPLE), "LOC": generator.choice(CITIES)}.get(word, word) for word in words
            ]
            labels = [f"B-{word}" if word in ("PER", "LOC") else "O" for word in words]
            lines.append(json.dumps({"lang": language, "tokens": tokens, "labels": labels}) + "\n")
        (folder / f"{name}.{language}.jsonl").write_text("".join(lines), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, tell the scores, tag a sentence."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="run folder, checkpoint, export, Hugging Face folder or name")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--train")
    parser.add_argument("--dev", help="chooses the checkpoint")
    parser.add_argument("--test", help="one file a language, {language} in its place")
    parser.add_argument("--languages", default=",".join(TEMPLATES), help="of --test")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    chosen = parser.parse_args(arguments)
    data = chosen.out / "data"
    if not chosen.train:
        write_made_up_data(data)
        print("made-up sentences from templates; trained on English")

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
    subprocess.run([sys.executable, "-m", "mlc", "finetune", str(chosen.out / "recipe.toml")], check=True)

    test = json.loads((chosen.out / "run" / "test.json").read_text())
    for language, score in test["languages"].items():
        seen = "trained on" if language in test["trained"] else "zero-shot"
        print(f"{language}: {test['score']} {score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f}), {seen}")

    # The newest model in this process: words come in as they were split, however long the sentence is.
    words = ("Gestern", "ging", "Clara", "nach", "Porto", ".")
    (labels,) = Predictor.load(chosen.out / "run").predict([TokenExample(words, None, Place("this script", 1))])
    print(" ".join(f"{word}/{label}" for word, label in zip(words, labels, strict=True)))


if __name__ == "__main__":
    main()
