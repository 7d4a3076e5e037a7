"""Classify with a few examples a class: a blank that the model fills with a word for the class, beside a new head.

    python docs/examples/few_shots.py runs/demo/joint --out runs/examples/few
    python docs/examples/few_shots.py runs/base --out runs/examples/mine --train tweets/en.train.jsonl \\
        --test tweets/en.val.jsonl --pattern '{text} It was [MASK].' --words positive=great,negative=terrible

A blank needs a GLM that was trained to fill some (objectives.glm). Files have an object a line with "text" and "label".
Without them the script makes up sentences with pleasant or unpleasant things in them. Each way is learned from
`--shots` examples a class, drawn by each of `--seeds`. Run it from the repository's folder, where ds_configs/ is.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from data_prep.demo_corpus.corpus import generate

WORDS = {"good": {"beautiful", "clean", "fresh", "sweet", "new"}, "bad": {"dirty", "strange", "old", "cheap", "lost"}}
RECIPE = """
[run]
folder = {folder}

[task]
kind = {kind}

[model]
start = {start}

[data]
train = {train}
test = {test}
samples_per_step = 8

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
CLOZE = """
[cloze]
pattern = {pattern}
verbalizer = {{ {verbalizer} }}
"""


def write_made_up_data(train: Path, test: Path) -> None:
    """Sentences with words of one class and none of the other."""
    corpus = generate(documents=120, held_out=40, seed=31)
    for file, records in ((train, corpus.train), (test, corpus.held_out)):
        rows = []
        for text in (line for record in records["en"] for line in record["text"].split("\n")):
            labels = [label for label, words in WORDS.items() if words & set(re.findall(r"\w+", text))]
            if len(labels) == 1:
                rows.append({"lang": "en", "text": text, "label": labels[0]})
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train both ways with every seed; `mlc finetune` prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a GLM: run folder, checkpoint, or export with heads")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--train", help="JSON lines")
    parser.add_argument("--test", help="JSON lines")
    parser.add_argument("--pattern", default="The [MASK] thing: {text}", help="has {text} and one [MASK]")
    parser.add_argument("--words", default="good=new,bad=old", help="LABEL=WORD of each class")
    parser.add_argument("--shots", default="8", help="examples a class; several with commas")
    parser.add_argument("--seeds", default="1,2")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    chosen = parser.parse_args(arguments)
    data = chosen.out / "data"
    data.mkdir(parents=True, exist_ok=True)
    train, test = Path(chosen.train or data / "train.jsonl"), Path(chosen.test or data / "test.jsonl")
    if not (chosen.train and chosen.test):
        write_made_up_data(train, test)
        print("made-up sentences")

    words = (pair.split("=", 1) for pair in chosen.words.split(","))
    # A JSON string or list is one of TOML as well.
    verbalizer = ", ".join(f"{json.dumps(label)} = [{json.dumps(word)}]" for label, word in words)
    for kind in ("cloze", "classification"):
        recipe = RECIPE.format(
            folder=json.dumps(str(chosen.out / kind)),
            kind=json.dumps(kind),
            start=json.dumps(chosen.model),
            train=json.dumps([str(train)]),
            test=json.dumps([str(test)]),
            learning_rate=chosen.learning_rate,
            steps=chosen.steps,
        )
        if kind == "cloze":
            recipe += CLOZE.format(pattern=json.dumps(chosen.pattern), verbalizer=verbalizer)
        file = chosen.out / f"{kind}.toml"
        file.write_text(recipe, encoding="utf-8")
        print(f"{kind}, {chosen.shots} examples a class:", flush=True)
        command = [sys.executable, "-m", "mlc", "finetune", str(file), "--seeds", chosen.seeds, "--shots", chosen.shots]
        subprocess.run([*command, "--json", str(chosen.out / f"{kind}.json")], check=True)
    for kind in ("cloze", "classification"):
        series = json.loads((chosen.out / f"{kind}.json").read_text())
        for row in series["series"]:
            mean = row["macro"]
            print(f"{kind}, {row['name']}: {series['score']} {mean['value']:.3f}, mean of {mean['n']} seeds")


if __name__ == "__main__":
    main()
