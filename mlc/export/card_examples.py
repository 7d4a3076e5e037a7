"""Code examples of a model card, one for each format of the export.

In:  mlc.json and the representation.
Out: lines of Markdown. Each example runs in the export's folder. Those of formats leave float32 unit vectors in
     `embeddings`, those of token heads print text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlc.model.int8_weights import INT8_FILE
from mlc.tasks.encoder import Representation
from mlc.tasks.token_heads import HEADS_KEY

_TEXTS = ('folder = "."', 'texts = ["A text.", "Ein Text."]')
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


def examples(
    description: Mapping[str, Any], representation: Representation, own_code: bool, half: bool
) -> Iterator[list[str]]:
    """One section a format."""
    formats = description["formats"]
    yield ["## Use", "", "Run in this folder, or put its path in the place of `folder`.", ""]
    if "sentence-transformers" in formats:
        yield _section("sentence-transformers", _sentence_transformers(representation, own_code))
    if "transformers" in formats:
        yield _section("transformers", _transformers(description["dtype"], representation, own_code, half))
    if "onnx" in formats:
        yield _section("onnxruntime", _onnx(own_code and "transformers" in formats))
    for head in description.get(HEADS_KEY, ()):
        if head == "glm":
            yield _fenced("Filling blanks", _fill_blank())
        else:
            yield _fenced("Guessing a masked token", _guess_masked())


def _section(title: str, code: list[str]) -> list[str]:
    return _fenced(f"With {title}", [*code, "print(embeddings @ embeddings.T)"])


def _fenced(title: str, code: list[str]) -> list[str]:
    return [f"### {title}", "", "```python", *code, "```", ""]


def _sentence_transformers(representation: Representation, own_code: bool) -> list[str]:
    trust = ", trust_remote_code=True" if own_code or representation.pooling == "attention" else ""
    return [
        "from sentence_transformers import SentenceTransformer",
        "",
        *_TEXTS,
        f"model = SentenceTransformer(folder{trust})",
        "embeddings = model.encode(texts)",
    ]


def _transformers(dtype: str, representation: Representation, own_code: bool, half: bool) -> list[str]:
    trust = ", trust_remote_code=True" if own_code else ""
    states = (
        "output.last_hidden_state" if representation.layer == -1 else f"output.hidden_states[{representation.layer}]"
    )
    reads_files = representation.projection or representation.pooling == "attention" or dtype == "int8"
    lines = [
        "import torch",
        *(["from safetensors.torch import load_file"] if reads_files else []),
        f"from transformers import {'AutoConfig, ' if dtype == 'int8' else ''}AutoModel, AutoTokenizer",
        "",
        *_TEXTS,
        f"tokenizer = AutoTokenizer.from_pretrained(folder{trust})",
        *(_int8_model(trust) if dtype == "int8" else [f"model = AutoModel.from_pretrained(folder{trust})"]),
        f"model = model{'.get_encoder()' if half else ''}.eval()",
        'batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")',
        "with torch.inference_mode():",
        "    output = model(**batch, output_hidden_states=True)",
        f"states = {states}.float()",
        *_POOLING_CODE[representation.pooling],
    ]
    if representation.projection:
        lines.append('pooled = pooled @ load_file(f"{folder}/projection.safetensors")["weight"].T')
    return [*lines, "embeddings = torch.nn.functional.normalize(pooled, dim=-1)"]


def _int8_model(trust: str) -> list[str]:
    return [
        f'stored = load_file(f"{{folder}}/{INT8_FILE}")',
        "weights = {",
        '    name: tensor * stored[f"{name}.scale"][:, None] if f"{name}.scale" in stored else tensor',
        "    for name, tensor in stored.items()",
        '    if not name.endswith(".scale")',
        "}",
        f"config = AutoConfig.from_pretrained(folder{trust})",
        f"model = AutoModel.from_config(config{trust})",
        "model.load_state_dict(weights, strict=False)",
    ]


def _onnx(own_code: bool) -> list[str]:
    trust = ", trust_remote_code=True" if own_code else ""
    return [
        "import onnxruntime",
        "from transformers import AutoTokenizer",
        "",
        *_TEXTS,
        f"tokenizer = AutoTokenizer.from_pretrained(folder{trust})",
        'batch = tokenizer(texts, padding=True, truncation=True, return_tensors="np")',
        'inputs = {name: batch[name].astype("int64") for name in ("input_ids", "attention_mask")}',
        'session = onnxruntime.InferenceSession(f"{folder}/onnx/model.onnx")',
        '(embeddings,) = session.run(["sentence_embedding"], inputs)',
    ]


def _fill_blank() -> list[str]:
    return [
        "import json",
        *_with_hole("AutoModelForSeq2SeqLM", "[MASK]"),
        'banned = [number for name, number in ids.items() if name != "[eop]"]',
        'blank, start, end = ids["[MASK]"], ids["[sop]"], ids["[eop]"]',
        "(tokens,) = model.fill(row, blank=blank, start=start, end=end, banned=banned, max_new_tokens=20)",
        "print(before, tokenizer.decode(tokens), after)",
    ]


def _guess_masked() -> list[str]:
    return [
        "import json",
        "import torch",
        *_with_hole("AutoModelForMaskedLM", "[MLM]"),
        "with torch.inference_mode():",
        '    logits = model(torch.tensor([row])).logits[0, row.index(ids["[MLM]"])]',
        "print(tokenizer.convert_ids_to_tokens(logits.topk(5).indices.tolist()))",
    ]


def _with_hole(auto_class: str, mark: str) -> list[str]:
    """A model with a token head, and a row with a mark in it."""
    return [
        f"from transformers import {auto_class}, AutoTokenizer",
        "",
        'folder = "."',
        'before, after = "A text with", "in its middle."',
        "tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)",
        f"model = {auto_class}.from_pretrained(folder, trust_remote_code=True).eval()",
        'ids = json.load(open(f"{folder}/mlc.json"))["special_ids"]',
        f'row = [*tokenizer(before)["input_ids"][:-1], ids["{mark}"], *tokenizer(after)["input_ids"][1:]]',
    ]
