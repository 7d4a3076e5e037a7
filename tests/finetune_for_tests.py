"""Small data, models and recipes of fine-tuning, made on the spot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hugging_face_tokenizers import CONFIGS, make_tokenizer
from small_corpus import WORDS, text

from mlc.config import parse_recipe
from mlc.finetune.recipe import FinetuneRecipe
from mlc.model.saving import WeightReader, read_info
from mlc.tasks.locate import FORMATS

ROOT = Path(__file__).resolve().parent.parent
LANGUAGES = tuple(WORDS)


def finetune_table(folder: Path, **changes: dict[str, Any]) -> dict[str, Any]:
    """A recipe for a classifier of `make_encoder(folder / "start")` on `write_classes(folder)`."""
    table: dict[str, Any] = {
        "run": {"folder": str(folder / "run"), "precision": "fp32"},
        "task": {"kind": "classification"},
        "model": {"start": str(folder / "start")},
        "data": {"train": [str(folder / "train.jsonl")], "samples_per_step": 8, "max_tokens": 32},
        "optimizer": {"learning_rate": 1e-3},
        "schedule": {"kind": "constant", "total_steps": 6},
        "deepspeed": {"config": str(ROOT / "ds_configs" / "zero3.json")},
        "log": {"every_steps": 1, "tensorboard": False},
    }
    for section, values in changes.items():
        table[section] = {**table.get(section, {}), **values}
    return table


def finetune_recipe(folder: Path, **changes: dict[str, Any]) -> FinetuneRecipe:
    return parse_recipe(finetune_table(folder, **changes), FinetuneRecipe, where="test")


def saved_weights(model: Path) -> dict[str, torch.Tensor]:
    """All weights of a model folder by their names there, adapters beside the others."""
    with WeightReader(model, read_info(model, FORMATS)) as reader:
        return {name: reader.read(name).clone() for name in reader.shapes}


def class_of(number: int) -> str:
    return ("low", "middle", "high")[number % 3]


def write_classes(path: Path, examples: int = 60, *, language: str = LANGUAGES[0], first: int = 0) -> Path:
    """Texts whose first word says their class, in {"lang", "text", "label"}."""
    words = {"low": "aa", "middle": "bb", "high": "cc"}
    lines = [
        {
            "lang": language,
            "text": f"{words[class_of(number)]} {text(language, number, 3 + number % 7)}",
            "label": class_of(number),
        }
        for number in range(first, first + examples)
    ]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


def make_encoder(folder: Path, *, labels: int = 3, head: Callable[..., Any] | None = None, **sizes: Any) -> Path:
    """An XLM-R with random weights, without dropout, and with its tokenizer."""
    from transformers import AutoTokenizer, XLMRobertaConfig, XLMRobertaForSequenceClassification

    make_tokenizer("xlmr", folder)
    config = {**CONFIGS["xlmr"], "mask_token": "<mask>"}  # AutoTokenizer takes no table there
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    vocab_size = len(AutoTokenizer.from_pretrained(folder))
    settings = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 66,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.2,  # a model this small learns nothing from 0.02
        "pad_token_id": 1,
        "num_labels": labels,
        **sizes,
    }
    torch.manual_seed(0)
    (head or XLMRobertaForSequenceClassification)(XLMRobertaConfig(**settings)).save_pretrained(folder)
    return folder


def write_words(path: Path, examples: int = 24) -> Path:
    """Sentences in which every word "aa" is a name."""
    lines = []
    for number in range(examples):
        words = text(LANGUAGES[0], number, 4 + number % 5).split()
        words.insert(number % 3, "aa")
        lines.append({"lang": "en", "tokens": words, "labels": ["B-PER" if word == "aa" else "O" for word in words]})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def write_questions(path: Path, examples: int = 16) -> Path:
    """The answer is the word after "aa"."""
    lines = []
    for number in range(examples):
        words = text(LANGUAGES[0], number, 6).split()
        words[number % 4 : number % 4] = ["aa", f"w{number}"]
        context = " ".join(words)
        answer = {"text": [f"w{number}"], "answer_start": [context.index(f"w{number}")]}
        lines.append({"id": str(number), "lang": "en", "question": "aa ?", "context": context, "answers": answer})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def write_scores(path: Path, examples: int = 24) -> Path:
    """Pairs of texts, alike or not."""
    lines = []
    for number in range(examples):
        first = text(LANGUAGES[0], number, 4)
        second = first if number % 2 else text(LANGUAGES[0], number + 1000, 4)
        lines.append({"lang": "en", "sentence1": first, "sentence2": second, "score": float(number % 2)})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path
