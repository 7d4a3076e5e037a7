"""Exports with the heads that score tokens: by transformers without this package, and as a start of everything here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from exports_for_tests import run_without_package
from safetensors import safe_open
from small_models import GLM, make_checkpoint
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)

from mlc.errors import MlcError, UsageError
from mlc.export import hugging_face, token_heads
from mlc.export.hugging_face import export_model
from mlc.export.transformers_folder import Dtype
from mlc.generate.filling import BlankFiller
from mlc.generate.marked_text import read_marks
from mlc.model.decoding_glm import Decoding
from mlc.model.generation_glm import MlcGlmForBlankInfilling
from mlc.model.modeling_glm_tasks import MlcGlmForMaskedLM
from mlc.model.registration import register_auto_classes
from mlc.model.saving import load_training_model
from mlc.model.start_source import StartSource
from mlc.tasks.encoder import TextEncoder
from mlc.tasks.learned.cloze_model import new_cloze_model, part_b_tokens
from mlc.tasks.learned.translation_models import new_part_b
from mlc.tasks.loading import LoadedModel
from mlc.tasks.locate import find_model
from mlc.tasks.token_heads import Head, load_heads

TEXTS = ["The committee met on Tuesday.", "Das Komitee traf sich"]
DECODING = Decoding(max_new_tokens=20)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("heads")
    section = GLM.model_copy(update={"projection_size": 12})
    make_checkpoint(home / "run", 7, section=section, max_tokens=48)
    return home / "run"


@pytest.fixture(scope="module")
def out(run: Path) -> Path:
    """For transformers, sentence-transformers and onnxruntime."""
    export_model(run, run.parent / "out", formats=["sentence-transformers", "onnx"], heads=True)
    return run.parent / "out"


def state(model: Any) -> dict[str, torch.Tensor]:
    return dict(model.state_dict())


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_every_auto_class_opens_its_head(run: Path, out: Path) -> None:
    register_auto_classes()
    trained, _ = load_training_model(find_model(run).folder)
    for auto_class, model_class in (
        (AutoModelForSeq2SeqLM, MlcGlmForBlankInfilling),
        (AutoModelForMaskedLM, MlcGlmForMaskedLM),
    ):
        opened, report = auto_class.from_pretrained(out, output_loading_info=True)
        assert type(opened) is model_class
        assert not any(report.values()), report
        assert same(state(opened), state(model_class.from_training_model(trained)))
    opened, report = AutoModel.from_pretrained(out, output_loading_info=True)
    assert not any(report.values()), report
    assert same(state(opened), state(trained.backbone))
    # The backbone under another head, which alone is new.
    _, report = AutoModelForSequenceClassification.from_pretrained(out, output_loading_info=True)
    assert report["missing_keys"] == {"classifier.weight", "classifier.bias"}


def test_it_embeds_and_fills_as_the_checkpoint_does(run: Path, out: Path) -> None:
    encoders = [TextEncoder.load(model, device="cpu") for model in (run, out)]
    vectors = [encoder.encode(TEXTS) for encoder in encoders]
    assert encoders[0].representation == encoders[1].representation
    assert abs(vectors[0] - vectors[1]).max() < 1e-6
    texts = [read_marks(text, "here") for text in ("The committee [MASK] on Tuesday.", "[sMASK] Das [MASK]", "Das")]
    filled = []
    for model in (run, out):
        filler = BlankFiller.load(model, device="cpu")
        filled.append(filler.fill(texts, filler.prompts(texts, DECODING), DECODING))
    assert filled[0] == filled[1]


def test_the_cards_examples_fill_and_guess_without_this_package(run: Path, out: Path, tmp_path: Path) -> None:
    examples = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)
    assert len(examples) == 5
    blank, masked = (next(e for e in examples if f"AutoModelFor{name}" in e) for name in ("Seq2SeqLM", "MaskedLM"))
    script = [blank, "print(tokens)", masked, "print(logits.topk(5).indices.tolist())"]
    output = run_without_package(script, tmp_path, out)
    printed = [line for line in output.splitlines() if line.startswith("[") and "'" not in line]
    tokens, guesses = map(json.loads, printed)
    text = [read_marks("A text with [MASK] in its middle.", "here")]
    filler = BlankFiller.load(run, device="cpu")
    ((filled,),) = filler.fill(text, filler.prompts(text, DECODING), DECODING)
    assert tuple(tokens) == filled.pieces[0].tokens
    source = find_model(run)
    prompt = filler.prompts(text, DECODING)[0]
    ids = json.loads((out / "mlc.json").read_text())["special_ids"]
    row = [ids["[MLM]"] if place in prompt.places else token for place, token in enumerate(prompt.part_a)]
    with torch.inference_mode():
        logits = load_heads(source, ("mlm",))["mlm"](torch.tensor([row])).logits[0, prompt.places[0]]
    assert guesses == logits.topk(5).indices.tolist()


def test_a_new_run_starts_with_its_heads(run: Path, out: Path) -> None:
    weights = load_training_model(find_model(run).folder)[0].state_dict()
    with StartSource(out, "export", {}) as source:
        assert set(source.shapes) == set(weights) - {"lm_head.weight"}
        assert all(torch.equal(source.read(name), weights[name]) for name in source.shapes)


def test_what_writes_into_blanks_starts_from_it(run: Path, out: Path) -> None:
    one, other = find_model(run), find_model(out)
    assert part_b_tokens(one) == part_b_tokens(other)
    config = AutoConfig.from_pretrained(out)
    for make in (new_cloze_model, new_part_b):
        assert same(state(make(one, config)), state(make(other, config)))


def test_an_export_of_it_keeps_them_or_not(out: Path, tmp_path: Path) -> None:
    again = export_model(out, tmp_path / "again", dtype="bf16", heads=True)
    assert [c.what for c in again.comparisons] == [
        "token ids", "embeddings", "embeddings", "logits of blanks", "logits of masked tokens",
    ]  # fmt: skip
    export_model(out, tmp_path / "encoder")
    with safe_open(tmp_path / "encoder" / "model.safetensors", "pt") as file:
        assert not [name for name in file.keys() if "lm_" in name]  # noqa: SIM118 (a file, not a dict)
    with pytest.raises(UsageError, match=r"no Part B.*an export without the head.*--heads"):
        BlankFiller.load(tmp_path / "encoder")
    with pytest.raises(UsageError, match="no token head that was trained"):
        export_model(tmp_path / "encoder", tmp_path / "none", heads=True)


def test_only_trained_heads_are_written(run: Path, tmp_path: Path) -> None:
    checkpoint = find_model(run).folder
    model = tmp_path / "model"
    model.mkdir()
    for file in checkpoint.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    info = json.loads((model / "mlc.json").read_text())
    info["objectives"] = {"contrastive": {"weight": 1.0}, "glm": {"weight": 0.0}, "mlm": {"weight": 0.5}}
    (model / "mlc.json").write_text(json.dumps(info))
    export_model(model, tmp_path / "out", heads=True)
    assert json.loads((tmp_path / "out" / "mlc.json").read_text())["heads"] == ["mlm"]
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        heads = {name.split(".")[0] for name in file.keys() if not name.startswith("model.")}  # noqa: SIM118
    assert heads == {"mlm_transform", "mlm_bias"}
    with pytest.raises(UsageError, match="no Part B"):
        BlankFiller.load(tmp_path / "out")


@pytest.mark.parametrize("head", ["glm", "mlm"])
def test_a_wrong_head_leaves_nothing_behind(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: Head
) -> None:
    write = token_heads.write_heads

    def change_a_head(loaded: LoadedModel, folder: Path, dtype: Dtype) -> Any:
        heads = write(loaded, folder, dtype)
        getattr(heads[head], f"{head}_bias").bias.data[100] += 0.01
        return heads

    monkeypatch.setattr(hugging_face, "write_heads", change_a_head)
    what = {"glm": "blanks", "mlm": "masked tokens"}[head]
    with pytest.raises(MlcError, match=f"does not give the logits of {what}"):
        export_model(run, tmp_path / "out", heads=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "needed"), [({"dtype": "int8"}, "--dtype fp32, bf16 or fp16"), ({"formats": ["onnx"]}, "transformers")]
)
def test_files_that_cannot_hold_heads_are_refused(
    run: Path, tmp_path: Path, options: dict[str, Any], needed: str
) -> None:
    with pytest.raises(UsageError, match=needed):
        export_model(run, tmp_path / "out", heads=True, **options)
    assert not (tmp_path / "out").exists()
