"""The README.md of an export.

In:  the export's mlc.json and the representation it was trained for.
Out: Markdown whose code example runs as it stands (a test runs it).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlc.tasks.encoder import Representation, describe

_POOLING_CODE = {
    "mean": ('mask = batch["attention_mask"].unsqueeze(-1)', "pooled = (states * mask).sum(1) / mask.sum(1)"),
    "cls": ("pooled = states[:, 0]",),
    "attention": (
        'query = load_file(f"{folder}/attention_pooling.safetensors")["query"]',
        'score = (states @ query).masked_fill(batch["attention_mask"] == 0, -torch.inf)',
        "pooled = (states * score.softmax(1).unsqueeze(-1)).sum(1)",
    ),
    "last": ('last = batch["attention_mask"].sum(1) - 1', "pooled = states[torch.arange(len(states)), last]"),
}


def model_card(
    description: Mapping[str, Any],
    representation: Representation,
    *,
    layers: int,
    width: int,
    own_code: bool,
    half: bool,
) -> str:
    """The card.

    Args:
        description: content of the export's mlc.json.
        layers, width: of the backbone.
        own_code: the model is this project's GLM, whose code lies in the export.
        half: the backbone is the encoder of an encoder-decoder.
    """
    languages: list[str] = description["languages"]
    chosen = describe(representation, layers)
    front = ["---", "library_name: transformers", "pipeline_tag: feature-extraction"]
    if languages:
        # Quoted: YAML reads a bare "no" (Norwegian) as false.
        front += ["language:", *(f'- "{language}"' for language in languages)]
    front += ["---", ""]
    trained = description["contrast"] is not None
    facts = {
        "Languages": ", ".join(languages) or "not recorded",
        "Size": f"{layers} layers, width {width}, {description['vocab_size']} tokens",
        "Longest input": f"{description['max_tokens']} tokens, [CLS] and [SEP] included",
        "Training step": description["step"] if description["step"] is not None else "not recorded",
        "Embedding": f"layer {chosen['layer']} (0 = embeddings), {chosen['pooling']} pooling, "
        f"{'with' if chosen['projection'] else 'without'} projection"
        + ("" if trained else "; not trained with a contrastive objective"),
        **{f"sha256 of the {key}": f"`{value}`" for key, value in description["identity"].items()},
    }
    return "\n".join(
        [
            *front,
            "# Multilingual text encoder",
            "",
            "Written by `mlc export`.",
            "",
            *(f"* {name}: {value}" for name, value in facts.items()),
            "",
            "## Use",
            "",
            "Run in this folder, or put its path in the place of `folder`:",
            "",
            "```python",
            *_example(representation, own_code, half),
            "```",
            "",
            *_limits(trained, own_code, half),
            "",
        ]
    )


def _example(representation: Representation, own_code: bool, half: bool) -> list[str]:
    trust = ", trust_remote_code=True" if own_code else ""
    states = (
        "output.last_hidden_state" if representation.layer == -1 else f"output.hidden_states[{representation.layer}]"
    )
    reads_files = representation.projection or representation.pooling == "attention"
    lines = [
        "import torch",
        *(["from safetensors.torch import load_file"] if reads_files else []),
        "from transformers import AutoModel, AutoTokenizer",
        "",
        'folder = "."',
        'texts = ["A text.", "Ein Text."]',
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        f"model = AutoModel.from_pretrained(folder{trust}){'.get_encoder()' if half else ''}.eval()",
        'batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")',
        "with torch.inference_mode():",
        "    output = model(**batch, output_hidden_states=True)",
        f"states = {states}",
        *_POOLING_CODE[representation.pooling],
    ]
    if representation.projection:
        lines.append('pooled = pooled @ load_file(f"{folder}/projection.safetensors")["weight"].T')
    return [*lines, "embeddings = torch.nn.functional.normalize(pooled, dim=-1)", "print(embeddings @ embeddings.T)"]


def _limits(trained: bool, own_code: bool, half: bool) -> list[str]:
    limits = [
        "## Limits",
        "",
        "* Texts in languages other than the above, or longer than the longest input, were not seen in training.",
        "* Similarity of embeddings says nothing of truth; biases of the training texts are in it.",
        "* The export holds the encoder only: no heads for masked tokens or for generation.",
    ]
    if not trained:
        limits.append("* No contrastive objective shaped the embeddings; other layers may retrieve better.")
    if half:
        limits.append("* Only the encoder was trained; the decoder's weights are random.")
    if own_code:
        limits.append(
            "* `trust_remote_code=True` runs the Python files of this folder. Where the `mlc` package is installed, "
            "`mlc.model.register_auto_classes()` makes it unnecessary."
        )
    return limits
