"""Fine-tune a reader that answers questions from a text, on English, and score it on other languages.

    python docs/examples/question_answering.py runs/demo/joint --out runs/examples/questions
    python docs/examples/question_answering.py runs/base --out runs/examples/squad --train squad/train.json \\
        --dev squad/dev.json --test 'xquad/xquad.{language}.json' --languages de,en,tr

Data: SQuAD's JSON, or JSON lines of question, context and answers (docs/task_data.md). Without them the script makes up
contexts of three sentences from templates. Run it from the repository's folder.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mlc.tasks.examples import Place, QuestionExample
from mlc.tasks.learned.predict import Predictor

PEOPLE = ("Anna", "Boris", "Clara", "David", "Elif", "Franz", "Greta", "Hugo", "Iris", "Jonas")
CITIES = ("Berlin", "Paris", "Ankara", "Madrid", "Oslo", "Lima", "Kyoto", "Porto", "Delhi", "Cairo")
TEMPLATES = {
    "en": ("{person} lives in {city}.", "Where does {person} live?", "Who lives in {city}?"),
    "de": ("{person} wohnt in {city}.", "Wo wohnt {person}?", "Wer wohnt in {city}?"),
    "es": ("{person} vive en {city}.", "¿Dónde vive {person}?", "¿Quién vive en {city}?"),
}
RECIPE = """
[run]
folder = {folder}
seed = 1

[task]
kind = "question_answering"

[model]
start = {start}

[data]
train = {train}
dev = {dev}
test = {test}
test_languages = {languages}
samples_per_step = 16
max_tokens = 64

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
        ("train", "en", 400),
        ("dev", "en", 60),
        *(("test", language, 60) for language in TEMPLATES),
    ):
        said, where, who = TEMPLATES[language]
        lines = []
        for number in range(count):
            people, cities = generator.sample(PEOPLE, 2), generator.sample(CITIES, 2)
            context = " ".join(said.format(person=p, city=c) for p, c in zip(people, cities, strict=True))
            asked = generator.randrange(2)
            answer = (cities if number % 2 else people)[asked]
            question = (where if number % 2 else who).format(person=people[asked], city=cities[asked])
            record = {"id": f"{name}-{language}-{number}", "lang": language, "question": question, "context": context}
            record["answers"] = [{"text": answer, "answer_start": context.index(answer)}]
            lines.append(json.dumps(record, ensure_ascii=False) + "\n")
        (folder / f"{name}.{language}.jsonl").write_text("".join(lines), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, tell the scores, answer a question."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="run folder, checkpoint, export, Hugging Face folder or name")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--train")
    parser.add_argument("--dev", help="chooses the checkpoint")
    parser.add_argument("--test", help="one file a language, {language} in its place")
    parser.add_argument("--languages", default=",".join(TEMPLATES), help="of --test")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    chosen = parser.parse_args(arguments)
    data = chosen.out / "data"
    if not chosen.train:
        write_made_up_data(data)
        print("made-up contexts from templates; trained on English")

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

    # Contexts longer than a row are read in overlapping windows; the best answer of all of them counts.
    context = "Clara wohnt in Porto. Hugo wohnt in Lima."
    question = QuestionExample("1", "Wo wohnt Hugo?", context, None, Place("this script", 1))
    (answered,) = Predictor.load(chosen.out / "run").predict([question])
    print(f"{question.context} {question.question} -> {answered.text(None)}")


if __name__ == "__main__":
    main()
