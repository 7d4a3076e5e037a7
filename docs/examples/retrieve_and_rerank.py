"""Search in two steps: vectors find passages, and a cross-encoder that read hard negatives orders them.

    python docs/examples/retrieve_and_rerank.py runs/demo/joint --out runs/examples/rerank
    python docs/examples/retrieve_and_rerank.py runs/base --out runs/examples/mine --train train.jsonl --test test.jsonl

Files have an object a line with "query" and "positives", a list of passages; others come from `mlc mine`. Without them
the script makes up sentences: German ones of the demo's grammar ask for their English translations. Run it from the
repository's folder, where ds_configs/ is.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from sentence_transformers import CrossEncoder

from data_prep.demo_corpus.corpus import generate
from mlc.model import register_auto_classes

RECIPE = """
[run]
folder = {folder}
seed = 1

[task]
kind = "reranking"

[model]
start = {start}

[data]
train = {train}
test = {test}
samples_per_step = 8

[ranking]
negatives_per_query = 3

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


def write_made_up_data(train: Path, test: Path) -> None:
    """Queries and the sentences that translate them."""
    corpus = generate(documents=60, held_out=20, seed=23)
    for file, records in ((train, corpus.train), (test, corpus.held_out)):
        rows = []
        for german, english in zip(records["de"], records["en"], strict=True):
            for query, passage in zip(german["text"].split("\n"), english["text"].split("\n"), strict=True):
                rows.append({"lang": "de", "query": query, "positives": [passage]})
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def mlc(*arguments: str) -> None:
    """Run a command as one would type it."""
    print("$ mlc", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "mlc", *arguments], check=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Mine, train, score before and after, export, order the passages of one query."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="run folder, checkpoint, export, Hugging Face folder or name")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--train", help="JSON lines")
    parser.add_argument("--test", help="JSON lines")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    chosen = parser.parse_args(arguments)
    data = chosen.out / "data"
    data.mkdir(parents=True, exist_ok=True)
    train, test = Path(chosen.train or data / "train.jsonl"), Path(chosen.test or data / "test.jsonl")
    if not (chosen.train and chosen.test):
        write_made_up_data(train, test)
        print("made-up sentences; German asks for English")

    # The test's candidates are mined as well: they are what the vectors take for right. A copy of a right passage is
    # left out by its vector, so the share is nearly 1 where passages are much alike.
    mined = {name: data / f"{name}.mined.jsonl" for name in ("train", "test")}
    for file, name in ((train, "train"), (test, "test")):
        mlc(
            "mine", chosen.model, "--data", str(file), "--out", str(mined[name]), "--share", "0.999", "--bare", "drop",
        )  # fmt: skip
    # A JSON string or list is one of TOML as well.
    recipe = RECIPE.format(
        folder=json.dumps(str(chosen.out / "run")),
        start=json.dumps(chosen.model),
        train=json.dumps([str(mined["train"])]),
        test=json.dumps([str(mined["test"])]),
        learning_rate=chosen.learning_rate,
        steps=chosen.steps,
    )
    (chosen.out / "recipe.toml").write_text(recipe, encoding="utf-8")
    mlc("finetune", str(chosen.out / "recipe.toml"))
    mlc("evaluate", "reranking", "--model", str(chosen.out / "run"), "--data", str(mined["test"]))

    exported = chosen.out / "exported"
    mlc("export", str(chosen.out / "run"), str(exported), "--format", "sentence-transformers", "--overwrite")
    register_auto_classes()  # where mlc is not installed: trust_remote_code=True, which runs the code in the folder
    line = json.loads(mined["test"].read_text(encoding="utf-8").splitlines()[0])
    ranked = CrossEncoder(str(exported)).rank(line["query"], [*line["positives"], *line["negatives"]], top_k=3)
    print(line["query"])
    for place in ranked:
        print(f"  {place['score']:.3f}  {[*line['positives'], *line['negatives']][place['corpus_id']]}")


if __name__ == "__main__":
    main()
