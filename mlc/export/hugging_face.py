"""A model as a folder for transformers, sentence-transformers or onnxruntime.

In:  a run, one of its checkpoints, or an export (mlc.tasks.locate).
Out: a folder with, according to its formats,

     transformers           config.json, model.safetensors (or model.int8.safetensors); for the GLM also its code
     sentence-transformers  that, and modules.json with what it names (mlc.export.sentence_folder)
     onnx                   config.json and onnx/model.onnx (mlc.export.onnx_graph)
     all                    tokenizer.json with its configuration, tokenizer.model where the shards were made with one,
                            mlc.json (what the contrast was trained on), projection.safetensors and
                            attention_pooling.safetensors where there are such, README.md

An export is written into a hidden folder beside its place, opened again by every program it is meant for, compared with
the model it was made from, and only then renamed to its name. The GLM's classes are this package's in that check: the
copied code is not run (tests do that, in a process of its own).
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from mlc.data.manifest import TOKENIZER_NAMES
from mlc.errors import CheckpointError, UsageError
from mlc.export.card_facts import CardNotes, kept_facts, training_data
from mlc.export.compare import MAX_DIFFERENCE, Comparison, compare_vectors, limit_of
from mlc.export.folder import checked_folder, refuse_existing
from mlc.export.model_card import CardModel, model_card
from mlc.export.report import FORMATS, ExportReport, Format, check_formats, holds_weights
from mlc.export.token_heads import Heads, check_heads, compare_heads, write_heads
from mlc.export.transformers_folder import CARD, Dtype, has_own_code, open_pretrained, write_pretrained
from mlc.files import write_json
from mlc.model.build import encoder_of
from mlc.tasks.encoder import Representation, TextEncoder, choose_representation, pool_states
from mlc.tasks.fast_tokenizer import SAMPLE_TEXTS, check_same_ids, convert_tokenizer
from mlc.tasks.fast_tokenizer_json import complete_tokenizer, texts_with_added_tokens
from mlc.tasks.loading import (
    PROJECTION_FILE,
    PROJECTION_KEY,
    QUERY_FILE,
    QUERY_KEY,
    LoadedModel,
    load_model,
    tokenizer_kind,
)
from mlc.tasks.locate import DESCRIPTION_FILE, EXPORT_FORMAT, ModelSource, find_model
from mlc.tasks.token_heads import HEADS_KEY

__all__ = ["FORMATS", "MAX_DIFFERENCE", "ExportReport", "export_model"]


def export_model(
    model: str | Path,
    out: str | Path,
    *,
    formats: Sequence[str] = ("transformers",),
    dtype: Dtype = "fp32",
    notes: CardNotes | None = None,
    overwrite: bool = False,
    sample: Sequence[str] = (),
    heads: bool = False,
) -> ExportReport:
    """Write and check an export.

    Args:
        model: run folder, checkpoint, or export.
        out: folder to make.
        formats: one or more of `FORMATS`.
        dtype: of the safetensors; an ONNX graph is fp32 whatever it says.
        notes: what the model card states about licence, data and scores.
        overwrite: replace `out`, if it is an export.
        sample: texts, beside the built-in ones, on which tokenizers and embeddings are compared.
        heads: of a pre-trained GLM, its trained token heads as well.

    Raises:
        UsageError: `out` exists, `model` is none of this project, formats, dtype and heads do not go together, or there
            are no heads.
        CheckpointError: the checkpoint is missing or damaged.
        MlcError: the export would not give the model's ids or embeddings; nothing is left behind.
    """
    chosen = check_formats(formats, dtype)
    out = Path(out).expanduser().absolute()
    refuse_existing(out, overwrite=overwrite)
    source = find_model(model)
    if source.kind == "finetuned":
        from mlc.export.finetuned import export_finetuned

        if heads:
            raise UsageError(
                "a fine-tuned model has the head of its task", found=source.name, where="--heads",
                hint="leave out --heads, or export what it was fine-tuned from",
            )  # fmt: skip
        return export_finetuned(source, out, chosen, dtype=dtype, notes=notes, sample=sample)
    if source.kind not in ("checkpoint", "export"):
        raise UsageError(
            "only checkpoints and exports of this project are exported",
            found=f"{source.kind} {source.name}",
            where=str(model),
        )
    if heads:
        check_heads(source, chosen, dtype)
    return _export_encoder(source, out, chosen, dtype, notes, sample, heads)


def _export_encoder(
    source: ModelSource,
    out: Path,
    formats: tuple[Format, ...],
    dtype: Dtype,
    notes: CardNotes | None,
    sample: Sequence[str],
    heads: bool,
) -> ExportReport:
    loaded = load_model(source)
    representation = choose_representation(loaded)
    with checked_folder(out) as partial:
        written = _write_model(loaded, partial, dtype, weights=formats != ("onnx",), heads=heads)
        texts = _write_tokenizer(loaded, partial, sample)
        description = {**_description(loaded, formats, dtype), HEADS_KEY: list(written)}
        write_json(partial / DESCRIPTION_FILE, description)
        comparisons = [Comparison("token ids", "transformers", texts, 0.0, None, 0.0)]
        comparisons += _write_and_compare(loaded, representation, partial, formats, dtype, sample)
        comparisons += compare_heads(written, partial, description["special_ids"], [*SAMPLE_TEXTS, *sample], dtype)
        weight_bytes = sum(file.stat().st_size for file in partial.rglob("*") if holds_weights(file))
        facts = CardModel(
            loaded.layers,
            loaded.width,
            own_code=has_own_code(_whole_model(loaded)),
            half=bool(loaded.config.is_encoder_decoder),
            weight_bytes=sum(file.stat().st_size for file in partial.glob("*.safetensors")),
        )
        card = model_card(description, representation, facts, comparisons, notes)
        (partial / CARD).write_text(card, encoding="utf-8")
    return ExportReport(
        folder=out,
        checkpoint=source.name,
        step=description["step"],
        representation=representation,
        formats=formats,
        dtype=dtype,
        comparisons=tuple(comparisons),
        max_difference=max(found.max_difference for found in comparisons if found.what == "embeddings"),
        texts_compared=texts,
        weight_bytes=weight_bytes,
        skipped=source.skipped,
    )


def _write_and_compare(
    loaded: LoadedModel,
    representation: Representation,
    folder: Path,
    formats: Sequence[str],
    dtype: Dtype,
    sample: Sequence[str],
) -> list[Comparison]:
    """Write what the formats need besides the model, and compare the embeddings of every program that reads them."""
    texts = [text for text in (*SAMPLE_TEXTS, *sample) if text.strip()]
    encoder = TextEncoder(loaded, representation)
    needed = encoder.encode(texts)
    comparisons = []
    found: dict[str, NDArray[np.float32]] = {}
    if "transformers" in formats:
        opener = "transformers" if dtype != "int8" else "transformers, weights dequantised"
        found[opener] = _encode_with_transformers(folder, representation, texts, dtype)
        found["mlc"] = TextEncoder.load(folder, device="cpu").encode(texts)
    if "sentence-transformers" in formats:
        from mlc.export.sentence_folder import encode_with_sentence_transformers, write_sentence_modules

        write_sentence_modules(loaded, representation, folder, encoder.max_tokens)
        found["sentence-transformers"] = encode_with_sentence_transformers(folder, texts)
    for program, vectors in found.items():
        comparisons.append(compare_vectors("embeddings", program, needed, vectors, limit_of(dtype, program)))
    if "onnx" in formats:
        from mlc.export.onnx_graph import check_onnx, write_onnx

        write_onnx(loaded, representation, folder)
        comparisons += check_onnx(encoder, folder, texts)
    return comparisons


def _write_model(loaded: LoadedModel, folder: Path, dtype: Dtype, *, weights: bool, heads: bool) -> Heads:
    """Everything of a model but its tokenizer; the models with heads, where they are wanted."""
    written: Heads = {}
    if not weights:
        loaded.config.save_pretrained(folder)
        return written
    if heads:
        written = write_heads(loaded, folder, dtype)
    else:
        write_pretrained(_whole_model(loaded), folder, dtype)
    if loaded.projection is not None:
        weight = loaded.projection.weight.detach().contiguous()
        save_file({PROJECTION_KEY: weight}, folder / PROJECTION_FILE, metadata={"format": "pt"})
    if loaded.pooling_query is not None:
        save_file({QUERY_KEY: loaded.pooling_query.contiguous()}, folder / QUERY_FILE, metadata={"format": "pt"})
    return written


def _whole_model(loaded: LoadedModel) -> Any:
    """What AutoModel opens: the backbone, or the encoder-decoder around it, whose decoder was never trained."""
    if not loaded.config.is_encoder_decoder:
        return loaded.backbone
    whole = AutoModel.from_config(loaded.config)
    whole.get_encoder().load_state_dict(loaded.backbone.state_dict())
    return whole


def _write_tokenizer(loaded: LoadedModel, folder: Path, sample: Sequence[str]) -> int:
    kind = tokenizer_kind(loaded.description)
    source, special_ids = loaded.source, loaded.description["special_ids"]
    model_file = source.folder / TOKENIZER_NAMES[kind]
    max_tokens = loaded.description["max_tokens"]
    if source.kind == "export":  # converted and compared with the shards' own when it was written
        AutoTokenizer.from_pretrained(source.folder, trust_remote_code=False).save_pretrained(folder)
    else:
        _check_identity(loaded, model_file)
        convert = complete_tokenizer if kind == "hugging_face" else convert_tokenizer
        convert(model_file, special_ids, max_tokens=max_tokens).save_pretrained(folder)
    if kind == "hugging_face":
        sample = (*sample, *texts_with_added_tokens(model_file))
    else:
        shutil.copyfile(model_file, folder / model_file.name)
    reopened = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return check_same_ids(reopened, model_file, special_ids, sample, kind)


def _check_identity(loaded: LoadedModel, model_file: Path) -> None:
    stated = loaded.description.get("tokenizer_sha256")
    found = hashlib.sha256(model_file.read_bytes()).hexdigest()
    if stated and stated != found:
        raise CheckpointError(
            "the tokenizer is not the one of the training data",
            found=f"sha256 {found[:12]}",
            needed=f"{stated[:12]}",
            where=str(model_file),
        )


def _description(loaded: LoadedModel, formats: Sequence[str], dtype: Dtype) -> dict[str, Any]:
    saved = loaded.description
    return {
        **kept_facts(saved, loaded.source, dtype),
        "format": EXPORT_FORMAT,
        "version": 1,
        "formats": list(formats),
        "contrast": loaded.contrast,
        "max_tokens": saved["max_tokens"],
        "special_ids": saved["special_ids"],
        "tokenizer_sha256": saved.get("tokenizer_sha256"),
        "tokenizer_kind": tokenizer_kind(saved),
        "vocab_size": saved["vocab_size"],
        "languages": list(saved.get("languages", ())),
        "objectives": saved.get("objectives"),
        "identity": _identity(loaded),
        "training_data": training_data(loaded),
    }


def _identity(loaded: LoadedModel) -> dict[str, str]:
    """Digests of what the weights were made from, as far as the checkpoint states them."""
    if loaded.source.kind == "export":
        return dict(loaded.description.get("identity", {}))
    stated = {"shards' manifest": "shards_sha256", "tokenizer": "tokenizer_sha256"}
    found = {name: loaded.description[key] for name, key in stated.items() if loaded.description.get(key)}
    if "data" in loaded.description:
        found["examples"] = loaded.description["data"]["sha256"]
    return found


@torch.inference_mode()
def _encode_with_transformers(
    folder: Path, representation: Representation, texts: Sequence[str], dtype: Dtype
) -> NDArray[np.float32]:
    """As the model card's example computes them: in the dtype of the weights, pooled in fp32."""
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model = encoder_of(open_pretrained(folder, AutoModel, dtype))
    query = load_file(folder / QUERY_FILE)[QUERY_KEY] if representation.pooling == "attention" else None
    vectors = []
    for text in texts:  # one by one: another batching than the encoder's
        batch = tokenizer([text], truncation=True, return_tensors="pt")
        output = model(**batch, output_hidden_states=True)
        layers = (*output.hidden_states[:-1], output.last_hidden_state)
        states = layers[representation.layer].float()
        pooled = pool_states(states, batch["attention_mask"].bool(), representation.pooling, query)
        if representation.projection:
            pooled = pooled @ load_file(folder / PROJECTION_FILE)[PROJECTION_KEY].T
        vectors.append(torch.nn.functional.normalize(pooled, dim=-1))
    result: NDArray[np.float32] = torch.cat(vectors).numpy()
    return result
