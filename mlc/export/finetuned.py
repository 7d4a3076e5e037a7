"""A fine-tuned model as a folder that its AutoModelFor... class opens, or onnxruntime.

In:  what `find_model` found of a run of `mlc finetune`: its best or newest checkpoint, or such an export.
Out: config.json and model.safetensors (model.int8.safetensors) with adapters merged; for the GLM also its code;
     onnx/model.onnx; the tokenizer; mlc.json, by which `mlc` opens the folder as the fine-tuned model that it is;
     README.md.

Before the folder gets its name every program opens it, and its logits on sample rows are compared with those of the
model it was made from.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from mlc.errors import MlcError, UsageError
from mlc.export.card_facts import CardNotes, kept_facts
from mlc.export.compare import LOGIT_LIMITS, Comparison
from mlc.export.folder import checked_folder
from mlc.export.report import ExportReport, holds_weights
from mlc.export.task_card import TaskCardModel, task_card
from mlc.export.task_outputs import SampleRows, compare_filled, compare_ids, compare_written, forward_of
from mlc.export.transformers_folder import CARD, Dtype, has_own_code, open_pretrained, write_pretrained
from mlc.files import write_json
from mlc.model.configuration_glm import MlcGlmConfig
from mlc.model.saving import FINETUNED_FORMAT, SHAPES
from mlc.tasks.fast_tokenizer import SAMPLE_TEXTS
from mlc.tasks.learned.models import FinetunedModel, load_finetuned
from mlc.tasks.learned.translation import EncoderDecoderTranslation, PartBTranslation
from mlc.tasks.locate import DESCRIPTION_FILE, ModelSource, find_model


def export_finetuned(
    source: ModelSource,
    out: Path,
    formats: Sequence[str],
    *,
    dtype: Dtype = "fp32",
    notes: CardNotes | None = None,
    sample: Sequence[str] = (),
) -> ExportReport:
    """Write and check an export.

    Args:
        source: fine-tuned.
        out: folder to make; what is there is replaced.
        formats: transformers, onnx; of a re-ranking model also sentence-transformers, whose CrossEncoder opens it.
        dtype: of the safetensors.
        notes: what the model card states about licence, data and scores.
        sample: texts, beside the built-in ones, on which tokenizers and logits are compared.

    Raises:
        UsageError: the formats or the kind of task are not those of a fine-tuned model.
        CheckpointError: the checkpoint is missing or damaged.
        MlcError: the export would not give the model's ids or logits; nothing is left behind.
    """
    tuned = load_finetuned(source)
    _check_kind(tuned, formats)
    texts = [text for text in (*SAMPLE_TEXTS, *sample) if text.split()]
    rows = SampleRows(tuned.task, tuned.encoder, texts)
    if isinstance(tuned.task, EncoderDecoderTranslation):  # transformers' generate then writes as the task does
        tuned.model.generation_config = tuned.task.generation_config(tuned.model, rows.rows)
    with checked_folder(out) as partial:
        if "transformers" in formats:
            write_pretrained(tuned.model, partial, dtype)
        else:
            tuned.model.config.save_pretrained(partial)
        tuned.encoder.tokenizer.save_pretrained(partial)
        description = _description(tuned, formats, dtype)
        write_json(partial / DESCRIPTION_FILE, description)
        comparisons = _compare(tuned, rows, partial, formats, dtype)
        weight_bytes = sum(file.stat().st_size for file in partial.rglob("*") if holds_weights(file))
        config = getattr(tuned.model.config, "encoder", tuned.model.config)
        facts = TaskCardModel(
            auto_class=tuned.task.auto_class.__name__,
            layers=int(config.num_hidden_layers),
            width=int(config.hidden_size),
            vocab_size=int(config.vocab_size),
            own_code=has_own_code(tuned.model),
            needs_package=not has_own_code(tuned.model) and isinstance(config, MlcGlmConfig),
            weight_bytes=sum(file.stat().st_size for file in partial.glob("*.safetensors")),
            inputs=tuple(rows.batch([0])),
        )
        (partial / CARD).write_text(task_card(description, facts, comparisons, notes), encoding="utf-8")
    return ExportReport(
        folder=out,
        checkpoint=source.name,
        step=description["step"],
        representation=None,
        formats=tuple(formats),
        dtype=dtype,
        comparisons=tuple(comparisons),
        max_difference=max(found.max_difference for found in comparisons),
        texts_compared=len(texts),
        weight_bytes=weight_bytes,
        skipped=source.skipped,
    )


def _check_kind(tuned: FinetunedModel, formats: Sequence[str]) -> None:
    """Refuse tasks without exports, and formats that are not the task's."""
    settings = tuned.task.settings
    if settings.cloze is not None:
        raise UsageError(
            "models that score words in a blank are not exported: other programs know no such task",
            found="cloze",
            where="MODEL",
            hint='mlc evaluate opens the run; task.kind = "classification" trains a model for other programs',
        )
    if "sentence-transformers" in formats and settings.kind != "ranking":
        raise UsageError(
            "sentence-transformers opens encoders and re-ranking models; this one was fine-tuned for another task",
            found=f"{settings.kind}, {tuned.source.name}",
            where="--format",
            hint="mlc export MODEL OUT --format transformers, or export what it was fine-tuned from",
        )
    if "onnx" in formats and settings.kind == "translation":
        raise UsageError(
            "a model that writes token by token does not fit into one graph",
            found="translation",
            where="--format",
            hint="mlc export MODEL OUT --format transformers",
        )


def _compare(
    tuned: FinetunedModel, rows: SampleRows, folder: Path, formats: Sequence[str], dtype: Dtype
) -> list[Comparison]:
    reopened = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    comparisons = [compare_ids(rows, tuned.encoder, reopened, str(folder))]
    needed = rows.logits(forward_of(tuned.model))
    if "transformers" in formats:
        opened = open_pretrained(folder, tuned.task.auto_class, dtype)
        _check_labels(tuned, opened.config)
        opener = "transformers" if dtype != "int8" else "transformers, weights dequantised"
        comparisons.append(rows.compare(needed, forward_of(opened), opener, LOGIT_LIMITS[dtype]))
        again = load_finetuned(find_model(folder))
        if again.task.settings != tuned.task.settings:
            raise MlcError("the export is of another task", found=str(again.task.settings), where=str(folder))
        comparisons.append(rows.compare(needed, forward_of(again.model), "mlc", LOGIT_LIMITS[dtype]))
        if isinstance(tuned.task, EncoderDecoderTranslation) and dtype == "fp32":
            comparisons.append(compare_written(rows, tuned.model, opened))
        if isinstance(tuned.task, PartBTranslation) and dtype == "fp32":
            comparisons.append(compare_filled(rows, tuned.task, tuned.model, opened))
    if "sentence-transformers" in formats:
        from mlc.export.cross_encoder import compare_cross_encoder

        comparisons.append(compare_cross_encoder(rows, needed, folder, LOGIT_LIMITS[dtype]))
    if "onnx" in formats:
        from mlc.export.onnx_task import check_task_graph, write_task_graph

        write_task_graph(tuned.model, rows, tuned.task.settings.kind, folder)
        comparisons.append(check_task_graph(rows, needed, folder))
    return comparisons


def _check_labels(tuned: FinetunedModel, config: Any) -> None:
    labels = tuned.task.settings.labels
    found = tuple(config.id2label[place] for place in range(config.num_labels))
    if labels and found != labels:
        raise MlcError("config.json names other labels", found=", ".join(found), needed=", ".join(labels))


def _description(tuned: FinetunedModel, formats: Sequence[str], dtype: Dtype) -> dict[str, Any]:
    """mlc.json: what the checkpoint's says, without what only its pieces of weights and adapters need."""
    saved = {key: value for key, value in tuned.description.items() if key != SHAPES}
    return {
        **saved,
        **kept_facts(saved, tuned.source, dtype),
        "format": FINETUNED_FORMAT,
        "version": 1,
        "formats": list(formats),
        "lora": None,
    }
