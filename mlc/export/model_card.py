"""The README.md of an export.

In:  the export's mlc.json, the representation it was trained for, what was compared, and what the caller states.
Out: Markdown whose code examples run as they stand (a test runs them).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlc.export.card_examples import examples
from mlc.export.card_facts import CardNotes, ScoreRow
from mlc.export.compare import Comparison
from mlc.tasks.encoder import Representation, describe

MOST_FILES = 20
"""Names of source files that a card lists."""


@dataclass(frozen=True)
class CardModel:
    """The model of a card.

    Attributes:
        layers, width: of the backbone.
        own_code: the model is this project's GLM, whose code lies in the export.
        half: the backbone is the encoder of an encoder-decoder.
        weight_bytes: of the files of weights; 0 where there are none.
    """

    layers: int
    width: int
    own_code: bool
    half: bool
    weight_bytes: int = 0


def model_card(
    description: Mapping[str, Any],
    representation: Representation,
    model: CardModel,
    comparisons: Sequence[Comparison] = (),
    notes: CardNotes | None = None,
) -> str:
    """The card.

    Args:
        description: content of the export's mlc.json.
        representation: what the examples compute.
        model: its size and kind.
        comparisons: how the export was checked.
        notes: licence, data, scores.
    """
    notes = notes or CardNotes()
    parts = [
        _front_matter(description, notes),
        ["# Multilingual text encoder", "", "Written by `mlc export`.", ""],
        _facts(description, representation, model),
        _training_data(description, notes),
        *_scores(description, notes),
        *examples(description, representation, model.own_code, model.half),
        checks_section(comparisons),
        _limits(description, representation, model),
    ]
    return "\n".join(line for part in parts for line in part) + "\n"


def _front_matter(description: Mapping[str, Any], notes: CardNotes) -> list[str]:
    formats = description["formats"]
    sentences = "sentence-transformers" in formats
    lines = ["---", f"library_name: {'sentence-transformers' if sentences else 'transformers'}"]
    lines.append(f"pipeline_tag: {'sentence-similarity' if sentences else 'feature-extraction'}")
    if notes.license:
        lines.append(f'license: "{notes.license}"')
    lines += yaml_languages(description["languages"])
    lines += ["tags:", *(f"- {tag}" for tag in (*formats, "feature-extraction")), "---", ""]
    return lines


def yaml_languages(languages: Sequence[str]) -> list[str]:
    """The languages in a card's front matter; quoted: YAML reads a bare "no" (Norwegian) as false."""
    return ["language:", *(f'- "{language}"' for language in languages)] if languages else []


def _facts(description: Mapping[str, Any], representation: Representation, model: CardModel) -> list[str]:
    chosen = describe(representation, model.layers)
    trained = description["contrast"] is not None
    weights = f"{description['dtype']}, {model.weight_bytes / 1e6:.1f} MB" if model.weight_bytes else "ONNX only"
    rounded = [dtype for dtype in description["rounded"] if dtype != description["dtype"]]
    facts = {
        "Languages": ", ".join(description["languages"]) or "not recorded",
        "Size": f"{model.layers} layers, width {model.width}, {description['vocab_size']} tokens",
        "Weights": weights + (f"; rounded to {', '.join(rounded)} before" if rounded else ""),
        "Longest input": f"{description['max_tokens']} tokens, [CLS] and [SEP] included",
        "Training step": description["step"] if description["step"] is not None else "not recorded",
        "Embedding": f"layer {chosen['layer']} (0 = embeddings), {chosen['pooling']} pooling, "
        f"{'with' if chosen['projection'] else 'without'} projection"
        + ("" if trained else "; not trained with a contrastive objective"),
        "Objectives": ", ".join(_objectives(description)) or "not recorded",
    }
    if description.get("start"):
        facts["Trained from"] = start_of(description)
    return [*(f"* {name}: {value}" for name, value in facts.items()), ""]


def start_of(description: Mapping[str, Any]) -> str:
    """What a run began with, and the adapters that were merged."""
    adapters = description.get("merged_lora")
    return f"`{description['start']}`" + (f", with adapters of rank {adapters['rank']}, merged" if adapters else "")


def _objectives(description: Mapping[str, Any]) -> list[str]:
    objectives = description.get("objectives") or {}
    return [
        f"{name} (weight {section['weight']:g})"
        for name, section in objectives.items()
        if isinstance(section, dict) and section.get("weight")
    ]


def _training_data(description: Mapping[str, Any], notes: CardNotes) -> list[str]:
    lines = ["## Training data", ""]
    data = description.get("training_data") or {}
    for source in data.get("sources", ()):
        lines.append("* " + ", ".join(f"{key} {value}" for key, value in source.items()))
    if data.get("tokens"):
        lines.append(f"* {data['documents']:,} documents, {data['pairs']:,} pairs, {data['tokens']:,} tokens in shards")
    if data.get("examples"):
        lines.append(f"* {data['examples']:,} examples of fine-tuning")
    files = data.get("files", [])
    if files:
        more = f" and {len(files) - MOST_FILES} more" if len(files) > MOST_FILES else ""
        lines.append(f"* read from {', '.join(files[:MOST_FILES])}{more}")
    lines += [f"* sha256 of the {key}: `{value}`" for key, value in description["identity"].items()]
    lines.append(f"* {notes.data_note or 'What the texts are, and under which licences, was not stated.'}")
    lines.append(f"* Licence of the model: {notes.license or 'not stated'}")
    return [*lines, ""]


def _scores(description: Mapping[str, Any], notes: CardNotes) -> list[list[str]]:
    test = description.get("test")
    return [scores_section(notes.scores)] if test is None else run_scores(test, notes.scores)


def run_scores(test: Mapping[str, Any] | None, rows: Sequence[ScoreRow]) -> list[list[str]]:
    """The scores of a run on its test data, and those that the caller gave."""
    return [_test_section(test), *([scores_section(rows, "Further scores")] if rows else [])]


def scores_section(rows: Sequence[ScoreRow], title: str = "Scores") -> list[str]:
    """A table of scores that the caller gave."""
    lines = [f"## {title}", ""]
    if not rows:
        return [*lines, "None were given.", ""]
    lines += ["| task | score | value | data | of |", "|---|---|---|---|---|"]
    for row in rows:
        interval = f" ({row.low:.3f} to {row.high:.3f})" if row.low is not None and row.high is not None else ""
        cells = (row.task, row.name, f"{row.value:.3f}{interval}", row.data, row.model)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return [*lines, "", "As `mlc evaluate` wrote them; they were not computed again from this folder.", ""]


def _test_section(test: Mapping[str, Any] | None) -> list[str]:
    """A table of the scores of `read_test`, by language."""
    lines = ["## Scores", ""]
    if not test:
        return [*lines, "The run had no test data for this checkpoint.", ""]
    lines += [f"| language | {test['score']} | examples | trained on |", "|---|---|---|---|"]
    for code, score in test["languages"].items():
        trained = "yes" if code in test["trained"] else "no"
        lines.append(f"| {code} | {_with_interval(score)} | {test['examples'].get(code, '')} | {trained} |")
    lines.append(f"| mean | {_with_interval(test['macro'])} | | |")
    if test["zero_shot"]:
        lines.append(f"| mean of languages not trained on | {_with_interval(test['zero_shot'])} | | |")
    return [*lines, "", "On the test data of the run, by this checkpoint; 95 % intervals of the bootstrap.", ""]


def _with_interval(score: Mapping[str, float]) -> str:
    return f"{score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})"


def checks_section(comparisons: Sequence[Comparison]) -> list[str]:
    """What was compared before the export got its name."""
    lines = ["## How it was checked", "", "Before this folder got its name it was opened again and compared:", ""]
    return [*lines, *(f"* {comparison}" for comparison in comparisons), ""]


def _limits(description: Mapping[str, Any], representation: Representation, model: CardModel) -> list[str]:
    limits = [
        "## Limits",
        "",
        "* Texts in languages other than the above, or longer than the longest input, were not seen in training.",
        "* Similarity of embeddings says nothing of truth; biases of the training texts are in it.",
    ]
    if not description.get("heads"):
        limits.append("* The export holds the encoder only: no heads for masked tokens or for generation.")
    if description["contrast"] is None:
        limits.append("* No contrastive objective shaped the embeddings; other layers may retrieve better.")
    if model.half:
        limits.append("* Only the encoder was trained; the decoder's weights are random.")
    if model.own_code:
        limits.append(
            "* `trust_remote_code=True` runs the Python files of this folder. Where the `mlc` package is installed, "
            "`mlc.model.register_auto_classes()` makes it unnecessary."
        )
    elif representation.pooling == "attention" and "sentence-transformers" in description["formats"]:
        limits.append(
            "* sentence-transformers has no attention pooling: `trust_remote_code=True` runs `attention_pooling.py` of "
            "this folder. transformers needs no code from here."
        )
    if "onnx" in description["formats"]:
        limits.append("* The graph does not check that the padding is on the right.")
    return limits
