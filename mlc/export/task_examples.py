"""Code examples of a fine-tuned model's card.

In:  mlc.json and what the card says of the model.
Out: lines of Markdown. Each example runs in the export's folder; what the model finds is in `answers` (transformers) or
     in `outputs` (onnxruntime; logits).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlc.model.int8_weights import INT8_FILE
from mlc.tasks.learned.translation_settings import TranslationSettings, tag

TEXT, SECOND = '"A text."', '"Another text."'
QUERY, PASSAGE = '"Who wrote the letter?"', '"The boy wrote a long letter to his friend."'
TITLES = {
    "classification": "Classification of texts",
    "regression": "A number for each text",
    "token_classification": "Labels of words",
    "question_answering": "Answers to questions, from a text",
    "ranking": "How well passages answer a query",
    "translation": "Translation",
}
"""Of the card, by kind of task."""
PIPELINES = {
    "classification": "text-classification",
    "regression": "text-classification",
    "token_classification": "token-classification",
    "question_answering": "question-answering",
    "ranking": "text-ranking",
    "translation": "translation",
}
"""The hub's names; transformers 5 has no pipeline for the last three."""


def task_examples(
    description: Mapping[str, Any], auto_class: str, own_code: bool, inputs: Sequence[str], needs_package: bool = False
) -> Iterator[list[str]]:
    """One section a format; for the arguments see mlc.export.task_card.TaskCardModel."""
    formats, task = description["formats"], description["task"]
    yield ["## Use", "", "Run in this folder, or put its path in the place of `folder`.", ""]
    # Also of the tokenizer: transformers looks at the model's configuration for it, and would ask.
    trust = ", trust_remote_code=True" if own_code else ""
    if "transformers" in formats:
        is_int8 = description["dtype"] == "int8"
        load = _int8_model(auto_class, trust) if is_int8 else [f"model = {auto_class}.from_pretrained(folder{trust})"]
        if needs_package:
            load = ["register_auto_classes()", *load]
        needed = ["AutoConfig", auto_class, "AutoTokenizer"] if is_int8 else [auto_class, "AutoTokenizer"]
        package = ["from mlc.model.registration import register_auto_classes"] if needs_package else []
        yield _section("transformers", [*package, *_transformers(task, load, needed, trust)])
    if "sentence-transformers" in formats:
        yield _section("sentence-transformers", _cross_encoder(own_code))
    if "onnx" in formats:
        taken = [name for name in inputs if name != "token_type_ids" or not own_code]
        yield _section("onnxruntime", _onnx(task, taken, trust if "transformers" in formats else ""))


def _section(title: str, code: Sequence[str]) -> list[str]:
    return [f"### With {title}", "", "```python", *code, "```", ""]


def _transformers(task: Mapping[str, Any], load: Sequence[str], needed: Sequence[str], trust: str) -> list[str]:
    by_hand = {"question_answering": _answer, "ranking": _rank, "translation": _translate}.get(task["kind"])
    start = [
        *(["import torch"] if by_hand or "AutoConfig" in needed else []),
        *(["from safetensors.torch import load_file"] if "AutoConfig" in needed else []),
        f"from transformers import {', '.join(needed)}{'' if by_hand else ', pipeline'}",
        "",
        'folder = "."',
        f"tokenizer = AutoTokenizer.from_pretrained(folder{trust})",
        *load,
    ]
    if by_hand:
        return [*start, *by_hand(task)]
    options = {
        "classification": "",
        "regression": ', function_to_apply="none"',
        "token_classification": ', aggregation_strategy="first"',
    }[task["kind"]]
    given = f'{{"text": {TEXT}, "text_pair": {SECOND}}}' if task["has_pairs"] else TEXT
    cut = ", truncation=True" if task["kind"] != "token_classification" else ""
    name = PIPELINES[task["kind"]]
    return [
        *start,
        f'apply = pipeline("{name}", model=model.eval(), tokenizer=tokenizer{options})',
        f"answers = apply([{given}]{cut})",
        "print(answers)",
    ]


def _answer(task: Mapping[str, Any]) -> list[str]:
    """The best span of one window, as BERT's example programs choose it."""
    del task
    return [
        f"question, context = {QUERY}, {PASSAGE}",
        'options = {"truncation": "only_second", "return_offsets_mapping": True, "return_tensors": "pt"}',
        "batch = tokenizer(question, context, **options)",
        'places = batch.pop("offset_mapping")[0].tolist()',
        "with torch.inference_mode():",
        "    output = model.eval()(**batch)",
        "inside = torch.tensor([part == 1 for part in batch.sequence_ids(0)])",
        "starts = output.start_logits[0].float().masked_fill(~inside, -torch.inf)",
        "ends = output.end_logits[0].float().masked_fill(~inside, -torch.inf)",
        "score = (starts[:, None] + ends[None, :]).triu().tril(30)  # 31 tokens at most",
        "possible = torch.ones_like(score, dtype=torch.bool).triu().tril(30)",
        "first, last = divmod(int(score.masked_fill(~possible, -torch.inf).argmax()), len(ends))",
        "answers = [context[places[first][0] : places[last][1]]]",
        "print(answers)",
    ]


def _rank(task: Mapping[str, Any]) -> list[str]:
    del task
    return [
        f"query, passages = {QUERY}, [{PASSAGE}]",
        'options = {"padding": True, "truncation": True, "return_tensors": "pt"}',
        "batch = tokenizer([query] * len(passages), passages, **options)",
        "with torch.inference_mode():",
        "    answers = model.eval()(**batch).logits[:, 0].tolist()",
        "print(answers)  # higher = a better answer",
    ]


def _translate(task: Mapping[str, Any]) -> list[str]:
    translation = task["translation"]
    language = translation["directions"][0].split(">")[1]
    if translation["decoder"] == "part_b":
        return _fill(task, language)
    return [
        f'text = "{tag(language)} " + {TEXT}  # the language to write',
        f'batch = tokenizer([text], truncation=True, max_length={task["max_tokens"]}, return_tensors="pt")',
        "written = model.eval().generate(**batch)",
        "answers = tokenizer.batch_decode(written, skip_special_tokens=True)",
        "print(answers)",
    ]


def _fill(task: Mapping[str, Any], language: str) -> list[str]:
    longest, most = task["max_tokens"] - 2, TranslationSettings(**task["translation"]).most_tokens
    return [
        f'text = "{tag(language)} " + {TEXT}  # the language to write',
        'blank, start, end = tokenizer.convert_tokens_to_ids(["[gMASK]", "[sop]", "[eop]"])',
        f'row = tokenizer(text, truncation=True, max_length={longest})["input_ids"]',
        "row += [blank, tokenizer.sep_token_id]",
        "unused = range(len(tokenizer), model.config.vocab_size)",
        "banned = {*tokenizer.all_special_ids, blank, start, *unused} - {end}",
        'ids = {"blank": blank, "start": start, "end": end, "banned": sorted(banned)}',
        f"(tokens,) = model.eval().fill(row, **ids, max_new_tokens={most})",
        "answers = [tokenizer.decode(tokens, skip_special_tokens=True)]",
        "print(answers)",
    ]


def _cross_encoder(own_code: bool) -> list[str]:
    trust = ", trust_remote_code=True" if own_code else ""
    return [
        "from sentence_transformers import CrossEncoder",
        "",
        'folder = "."',
        f"cross_encoder = CrossEncoder(folder{trust})",
        f"ranked = cross_encoder.rank({QUERY}, [{PASSAGE}])",
        "print(ranked)",
    ]


def _int8_model(auto_class: str, trust: str) -> list[str]:
    return [
        f'stored = load_file(f"{{folder}}/{INT8_FILE}")',
        "weights = {",
        '    name: tensor * stored[f"{name}.scale"][:, None] if f"{name}.scale" in stored else tensor',
        "    for name, tensor in stored.items()",
        '    if not name.endswith(".scale")',
        "}",
        f"config = AutoConfig.from_pretrained(folder{trust})",
        f"model = {auto_class}.from_config(config{trust})",
        "model.load_state_dict(weights, strict=False)",
    ]


def _onnx(task: Mapping[str, Any], inputs: Sequence[str], trust: str) -> list[str]:
    pairs = task["has_pairs"] or task["kind"] == "question_answering"
    given = f"[{TEXT}], [{SECOND}]" if pairs else f"[{TEXT}]"
    return [
        "import onnxruntime",
        "from transformers import AutoTokenizer",
        "",
        'folder = "."',
        f"tokenizer = AutoTokenizer.from_pretrained(folder{trust})",
        f'batch = tokenizer({given}, padding=True, truncation=True, return_tensors="np")',
        f'inputs = {{name: batch[name].astype("int64") for name in {tuple(inputs)!r}}}'.replace("'", '"'),
        'session = onnxruntime.InferenceSession(f"{folder}/onnx/model.onnx")',
        "outputs = session.run(None, inputs)",
        "print(outputs)",
    ]
