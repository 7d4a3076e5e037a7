"""Exports of fine-tuned models: their Auto classes and pipelines open them, with and without this package."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from exports_for_tests import run_without_package
from finetuned_for_tests import LABELS, MAX_TOKENS, STEP, make_finetuned
from sentence_transformers import CrossEncoder
from small_models import TRAINING_TEXTS
from transformers import AutoTokenizer, BertModel, PreTrainedModel, XLMRobertaForTokenClassification, pipeline

from mlc.errors import MlcError, UsageError
from mlc.export import finetuned
from mlc.export.card_facts import CardNotes
from mlc.export.compare import LOGIT_LIMITS, ONNX_MAX_DIFFERENCE
from mlc.export.hugging_face import ExportReport, export_model
from mlc.export.onnx_task import TaskGraph
from mlc.export.task_outputs import Inputs, SampleRows, head_outputs
from mlc.export.transformers_folder import Dtype, auto_class_name, write_pretrained
from mlc.tasks.examples import ClassificationExample, Place, RankingExample, RegressionExample, TaskKind
from mlc.tasks.learned.predict import Predictor
from mlc.tasks.locate import find_model

KINDS: tuple[TaskKind, ...] = tuple(LABELS)
PAIRS: tuple[TaskKind, ...] = ("regression", "ranking")
IN_INT8: TaskKind = "token_classification"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[TaskKind, ExportReport]:
    """A GLM of every kind; the classifier has adapters, one card is of int8."""
    home = tmp_path_factory.mktemp("finetuned")
    reports = {}
    for kind in KINDS:
        run = make_finetuned(home / f"run-{kind}", kind, pairs=kind in PAIRS, lora=kind == "classification")
        reports[kind] = export_model(
            run,
            home / f"out-{kind}",
            formats=["sentence-transformers" if kind == "ranking" else "transformers"],
            dtype="int8" if kind == IN_INT8 else "fp32",
            notes=CardNotes("cc-by-4.0", "Made-up sentences."),
        )
    return reports


# Runs after a card's example, which leaves tokenizer and model behind.
LOGITS = """
import numpy, torch
assert type(model).__module__.startswith("transformers_modules"), type(model)
batch = tokenizer(*given, padding=True, truncation=True, return_tensors="pt")
with torch.inference_mode():
    logits = model.eval()(**batch)[0]
numpy.savez(out, logits=logits, ids=batch["input_ids"])
assert len(answers) == 1
"""


def test_cards_run_where_this_package_does_not_exist(exported: dict[TaskKind, ExportReport], tmp_path: Path) -> None:
    texts = list(TRAINING_TEXTS)
    script = ["import os"]
    for kind, report in exported.items():
        examples = re.findall(r"```python\n(.*?)```", (report.folder / "README.md").read_text(), re.DOTALL)
        assert len(examples) == len(report.formats)
        given = (texts, texts[::-1]) if kind in (*PAIRS, "question_answering") else (texts,)
        out = str(tmp_path / f"{kind}.npz")
        script += [f"os.chdir({str(report.folder)!r})", *examples, f"given, out = {given!r}, {out!r}", LOGITS]
    run_without_package(script, tmp_path)
    for kind, report in exported.items():
        found = np.load(tmp_path / f"{kind}.npz")
        model = Predictor.load(report.folder.with_name(f"run-{kind}"), device="cpu").finetuned
        given = (texts, texts[::-1]) if kind in (*PAIRS, "question_answering") else (texts,)
        batch = model.encoder.tokenizer(*given, padding=True, truncation=True, return_tensors="pt")
        np.testing.assert_array_equal(found["ids"], batch["input_ids"].numpy())
        with torch.inference_mode():
            needed = model.model(batch["input_ids"], batch["attention_mask"])[0].numpy()
        real = np.broadcast_to(batch["attention_mask"].numpy().astype(bool), needed.shape[:2]) if kind in (
            "token_classification",
            "question_answering",
        ) else np.ones(len(needed), bool)  # fmt: skip
        # In fp32 the same sums; in int8 the limit that exports have.
        limit = LOGIT_LIMITS["int8"].max_difference * max(1, abs(needed[real]).max()) if kind == IN_INT8 else 1e-5
        np.testing.assert_allclose(found["logits"][real], needed[real], atol=limit)
        assert np.abs(needed[real]).max() > 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_is_the_fine_tuned_model_again(exported: dict[TaskKind, ExportReport], kind: TaskKind) -> None:
    out = exported[kind].folder
    source = find_model(out)
    assert source.kind == "finetuned"
    config = json.loads((out / "config.json").read_text())
    if LABELS[kind]:
        assert config["id2label"] == {str(place): label for place, label in enumerate(LABELS[kind])}
    description = json.loads((out / "mlc.json").read_text())
    assert description["task"]["kind"] == kind
    assert description["lora"] is None
    assert (description["merged_lora"] is None) == (kind != "classification")
    assert description["step"] == exported[kind].step == STEP
    again = Predictor.load(out, device="cpu")
    assert again.task.settings.labels == LABELS[kind]
    assert again.trained_languages == ("en",)


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_the_export_answers_as_the_run_does(exported: dict[TaskKind, ExportReport], kind: TaskKind) -> None:
    make: Any = ClassificationExample if kind == "classification" else RegressionExample
    pair = None if kind == "classification" else "Das Komitee"
    examples = [make(text, pair, None, Place("made up", line)) for line, text in enumerate(TRAINING_TEXTS)]
    out = exported[kind].folder
    answers = [Predictor.load(f, device="cpu").predict(examples) for f in (out.with_name(f"run-{kind}"), out)]
    if kind == "classification":
        assert answers[0] == answers[1]
        assert len(set(answers[0])) > 1
    else:
        np.testing.assert_allclose(answers[1], answers[0], atol=1e-5)


def test_the_card_tells_task_data_and_scores(exported: dict[TaskKind, ExportReport]) -> None:
    card = (exported["classification"].folder / "README.md").read_text()
    for line in (
        "pipeline_tag: text-classification",
        'license: "cc-by-4.0"',
        '- "en"',
        "* Labels: `bad`, `so so`, `good`",
        "* Fine-tuned from: `run-classification-start`, with adapters of rank 4, merged",
        "* 40 examples",
        "* Made-up sentences.",
        "| language | accuracy | examples | trained on |",
        "| de | 0.625 (0.500 to 0.750) | 16 | no |",
        "| mean of languages not trained on | 0.625 (0.500 to 0.750) | | |",
    ):
        assert f"\n{line}\n" in card, line


def test_scores_of_another_checkpoint_are_not_told(tmp_path: Path) -> None:
    run = make_finetuned(tmp_path / "run", "classification")
    test = json.loads((run / "test.json").read_text())
    (run / "test.json").write_text(json.dumps({**test, "step": STEP + 1}))
    report = export_model(run, tmp_path / "out")
    assert "The run had no test data for this checkpoint." in (report.folder / "README.md").read_text()
    again = export_model(report.folder, tmp_path / "again", dtype="bf16")
    assert "bf16" in (again.folder / "README.md").read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_graph_of_the_glm_is_made_of_gives_the_logits(
    exported: dict[TaskKind, ExportReport], kind: TaskKind
) -> None:
    """Padded rows in the place of packed ones, under the same head."""
    tuned = Predictor.load(exported[kind].folder, device="cpu").finetuned
    rows = SampleRows(tuned.task, tuned.encoder, TRAINING_TEXTS)
    graph = TaskGraph(tuned.model, head_outputs(kind).names)
    needed = rows.logits(lambda inputs: tuned.model(**inputs))

    def run(inputs: Inputs) -> dict[str, torch.Tensor]:
        return dict(zip(needed, graph(inputs["input_ids"], inputs["attention_mask"]), strict=True))

    result = rows.compare(needed, run, "torch", LOGIT_LIMITS["fp32"], rows_per_batch=4)
    assert result.texts == len(TRAINING_TEXTS)


@pytest.mark.parametrize("start", ["glm", "xlmr"])
def test_a_cross_encoder_ranks_as_the_run_does(start: str, tmp_path: Path) -> None:
    run = make_finetuned(tmp_path / "run", "ranking", start=start, pairs=True)
    report = export_model(run, tmp_path / "out", formats=["sentence-transformers"])
    assert "sentence-transformers" in {found.opened_by for found in report.comparisons}
    query, *passages = TRAINING_TEXTS
    example = RankingExample(query, tuple(passages), (), Place("made up", 1))
    (scores,) = Predictor.load(run, device="cpu").predict([example])
    assert np.ptp(scores) > 1e-3  # ranks tell something
    ranked = CrossEncoder(str(report.folder), device="cpu").rank(query, passages, activation_fn=torch.nn.Identity())
    for entry in ranked:
        assert entry["score"] == pytest.approx(scores[entry["corpus_id"]], abs=1e-5)
    np.testing.assert_allclose([entry["score"] for entry in ranked], sorted(scores, reverse=True), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["glm", "xlmr"])
@pytest.mark.parametrize("kind", KINDS)
def test_graphs_give_the_logits(start: str, kind: TaskKind, tmp_path: Path) -> None:
    pairs = kind in (*PAIRS, "question_answering")
    run = make_finetuned(tmp_path / "run", kind, start=start, pairs=kind in PAIRS)
    report = export_model(run, tmp_path / "out", formats=["onnx"])
    assert [found.opened_by for found in report.comparisons] == ["transformers", "onnxruntime"]
    texts = list(TRAINING_TEXTS)
    given = (texts, texts[::-1]) if pairs else (texts,)
    batch = AutoTokenizer.from_pretrained(report.folder)(*given, padding=True, truncation=True, return_tensors="pt")
    session = onnxruntime.InferenceSession(str(report.folder / "onnx" / "model.onnx"))
    found = session.run(None, {put.name: batch[put.name].numpy() for put in session.get_inputs()})[0]
    with torch.inference_mode():
        needed = Predictor.load(run, device="cpu").finetuned.model(**batch)[0].numpy()
    real = batch["attention_mask"].numpy().astype(bool) if found.shape[1] == batch["input_ids"].shape[1] else ...
    np.testing.assert_allclose(found[real], needed[real], atol=ONNX_MAX_DIFFERENCE)
    with pytest.raises(MlcError, match="no weights"):
        Predictor.load(report.folder)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_pipeline_opens_a_model_of_transformers_by_its_path(dtype: Dtype, tmp_path: Path) -> None:
    run = make_finetuned(tmp_path / "run", "classification", start="xlmr")
    out = export_model(run, tmp_path / "out", dtype=dtype).folder
    assert not list(out.glob("*.py"))
    with pytest.raises(UsageError, match="the folder exists"):
        export_model(run, out)
    export_model(run, out, dtype=dtype, overwrite=True)
    texts = list(TRAINING_TEXTS)
    found = pipeline("text-classification", model=str(out))(texts, truncation=True)
    examples = [ClassificationExample(text, None, None, Place("made up", line)) for line, text in enumerate(texts)]
    assert [answer["label"] for answer in found] == Predictor.load(out, device="cpu").predict(examples)


def test_a_wrong_head_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def change_a_weight(model: PreTrainedModel, folder: Path, dtype: Dtype) -> None:
        model.classifier.bias.data[0] += 0.1
        write_pretrained(model, folder, dtype)
        model.classifier.bias.data[0] -= 0.1

    run = make_finetuned(tmp_path / "run", "classification")
    monkeypatch.setattr(finetuned, "write_pretrained", change_a_weight)
    with pytest.raises(MlcError, match="does not give the logits"):
        export_model(run, tmp_path / "here" / "out")
    assert not list((tmp_path / "here").iterdir())


def test_what_is_no_export_is_not_replaced(tmp_path: Path) -> None:
    run = make_finetuned(tmp_path / "run", "classification")
    model = run / "checkpoints" / f"step-{STEP:08d}" / "model"
    with pytest.raises(UsageError, match="replaces exports only"):
        export_model(run, model, overwrite=True)
    with pytest.raises(UsageError, match="opens encoders and re-ranking models"):
        export_model(run, tmp_path / "out", formats=["sentence-transformers"])
    assert find_model(run).step == STEP
    assert Predictor.load(run, device="cpu").task.settings.max_tokens == MAX_TOKENS


def test_auto_classes_are_found_by_name() -> None:
    assert auto_class_name(BertModel) == "AutoModel"
    assert auto_class_name(XLMRobertaForTokenClassification) == "AutoModelForTokenClassification"
    with pytest.raises(UsageError, match="no Auto class"):
        auto_class_name(type("BertForTeaLeaves", (), {}))
