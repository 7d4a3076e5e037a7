"""The README.md of a fine-tuned model's export.

In:  the export's mlc.json, what was compared, and what the caller states.
Out: Markdown whose code examples run as they stand (a test runs them).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlc.export.card_facts import CardNotes
from mlc.export.compare import Comparison
from mlc.export.model_card import checks_section, run_scores, start_of, yaml_languages
from mlc.export.task_examples import PIPELINES, TITLES, task_examples

MOST_LABELS = 50
"""Names of labels that a card lists."""


@dataclass(frozen=True)
class TaskCardModel:
    """The model of a card.

    Attributes:
        auto_class: name of the class of transformers that opens it.
        layers, width, vocab_size: of the encoder.
        own_code: the model is this project's GLM, whose code lies in the export.
        needs_package: the GLM is a part of a model of transformers, which looks for no code in the export.
        weight_bytes: of the safetensors; 0 where there are none.
        inputs: names of the tensors that rows of the task have.
    """

    auto_class: str
    layers: int
    width: int
    vocab_size: int
    own_code: bool
    weight_bytes: int
    inputs: tuple[str, ...]
    needs_package: bool = False


def task_card(
    description: Mapping[str, Any],
    model: TaskCardModel,
    comparisons: Sequence[Comparison],
    notes: CardNotes | None = None,
) -> str:
    """The card.

    Args:
        description: content of the export's mlc.json.
        model: its size and kind.
        comparisons: how the export was checked.
        notes: licence, data, further scores.
    """
    notes = notes or CardNotes()
    parts = [
        _front_matter(description, notes),
        [f"# {TITLES[description['task']['kind']]}", "", "Written by `mlc export`.", ""],
        _facts(description, model),
        _training_data(description, notes),
        *run_scores(description.get("test"), notes.scores),
        *task_examples(description, model.auto_class, model.own_code, model.inputs, model.needs_package),
        checks_section(comparisons),
        _limits(description, model),
    ]
    return "\n".join(line for part in parts for line in part) + "\n"


def _front_matter(description: Mapping[str, Any], notes: CardNotes) -> list[str]:
    lines = ["---", "library_name: transformers", f"pipeline_tag: {PIPELINES[description['task']['kind']]}"]
    if notes.license:
        lines.append(f'license: "{notes.license}"')
    lines += yaml_languages(_languages(description))
    return [*lines, "tags:", *(f"- {tag}" for tag in description["formats"]), "---", ""]


def _facts(description: Mapping[str, Any], model: TaskCardModel) -> list[str]:
    task, labels = description["task"], description["task"]["labels"]
    more = f" and {len(labels) - MOST_LABELS} more" if len(labels) > MOST_LABELS else ""
    weights = f"{description['dtype']}, {model.weight_bytes / 1e6:.1f} MB" if model.weight_bytes else "ONNX only"
    rounded = [dtype for dtype in description["rounded"] if dtype != description["dtype"]]
    directions = f", {', '.join(task['translation']['directions'])}" if task.get("translation") else ""
    facts = {
        "Task": task["kind"] + (", of two texts" if task["has_pairs"] else "") + directions,
        "Labels": ", ".join(f"`{label}`" for label in labels[:MOST_LABELS]) + more if labels else "none",
        "Opened by": f"`{model.auto_class}`",
        "Fine-tuned from": start_of(description),
        "Training step": description["step"] if description["step"] is not None else "not recorded",
        "Size": f"{model.layers} layers, width {model.width}, {model.vocab_size} tokens",
        "Weights": weights + (f"; rounded to {', '.join(rounded)} before" if rounded else ""),
        "Longest input": f"{task['max_tokens']} tokens, special ones included",
    }
    return [*(f"* {name}: {value}" for name, value in facts.items()), ""]


def _training_data(description: Mapping[str, Any], notes: CardNotes) -> list[str]:
    data = description.get("data") or {}
    lines = ["## Training data", ""]
    lines.append(f"* Languages: {', '.join(_languages(description)) or 'not recorded'}")
    lines.append(f"* {data['examples']:,} examples" if "examples" in data else "* Number of examples: not recorded")
    if data.get("sha256"):
        lines.append(f"* sha256 of the examples: `{data['sha256']}`")
    lines.append(f"* {notes.data_note or 'What the texts are, and under which licences, was not stated.'}")
    return [*lines, f"* Licence of the model: {notes.license or 'not stated'}", ""]


def _limits(description: Mapping[str, Any], model: TaskCardModel) -> list[str]:
    kind = description["task"]["kind"]
    limits = [
        "## Limits",
        "",
        "* Scores hold for data like the test's. Languages other than those scored may do far worse.",
        "* Biases of the texts of pre-training and fine-tuning are in the answers.",
    ]
    if kind == "classification":
        limits.append("* There is no class for texts that fit none; probabilities were not calibrated.")
    if kind == "token_classification":
        limits.append(
            "* It learned words as its data separated them; a word has the label of its first piece. Pipelines "
            "separate by white space and punctuation, which fits languages that write it."
        )
    if kind == "question_answering":
        limits.append("* The example reads the first window of a context only; `mlc` reads all of them.")
    if kind == "translation":
        limits.append(
            "* Directions other than those above were never trained. What is written may be fluent and wrong."
        )
    if model.needs_package:
        limits.append("* The encoder is the GLM of the `mlc` package, which has to be installed.")
    if model.own_code:
        limits.append(
            "* `trust_remote_code=True` runs the Python files of this folder. Where the `mlc` package is installed, "
            "`mlc.model.register_auto_classes()` makes it unnecessary."
        )
    if "onnx" in description["formats"]:
        limits.append("* The graph does not check that the padding is on the right.")
    return limits


def _languages(description: Mapping[str, Any]) -> list[str]:
    return [code for code in description["languages"] if code]
