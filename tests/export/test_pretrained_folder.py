"""Models with a head as folders that their Auto class opens, also where this package does not exist."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from exports_for_tests import BLOCK
from small_models import SPECIAL_IDS, TRAINING_TEXTS, train_tokenizer
from transformers import (
    BertModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaForTokenClassification,
)

from mlc.errors import MlcError, UsageError
from mlc.export import transformers_folder
from mlc.export.transformers_folder import auto_class_name, export_pretrained, write_pretrained
from mlc.model import MlcGlmConfig
from mlc.model.modeling_glm_tasks import MlcGlmForSequenceClassification
from mlc.tasks.fast_tokenizer import convert_tokenizer

DESCRIPTION = {"contrast": None, "max_tokens": 24, "special_ids": SPECIAL_IDS, "vocab_size": 520, "task": "a test"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    file = train_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer.model")
    return convert_tokenizer(file, SPECIAL_IDS, max_tokens=24)


def glm_classifier(tokenizer: PreTrainedTokenizerFast) -> MlcGlmForSequenceClassification:
    torch.manual_seed(1)
    config = MlcGlmConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        num_labels=3,
        id2label={0: "bad", 1: "so so", 2: "good"},
        label2id={"bad": 0, "so so": 1, "good": 2},
    )
    model = MlcGlmForSequenceClassification(config).eval()
    torch.nn.init.normal_(model.classifier.bias)
    return model


def xlm_r_tagger(tokenizer: PreTrainedTokenizerFast) -> XLMRobertaForTokenClassification:
    torch.manual_seed(1)
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=40,
        num_labels=5,
    )
    return XLMRobertaForTokenClassification(config).eval()


SCRIPT = """
import numpy, torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(folder)
batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True).eval()
assert type(model).__module__.startswith("transformers_modules"), type(model)
assert model.config.id2label[2] == "good"
encoder, report = AutoModel.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
assert type(encoder).__name__ == "MlcGlmModel" and not report["missing_keys"]
with torch.inference_mode():
    numpy.save(out, model(**batch).logits.numpy())
"""


def test_a_glm_with_a_head_opens_by_its_auto_class_without_this_package(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = glm_classifier(tokenizer)
    out = tmp_path / "exported"
    ids, outputs = export_pretrained(model, tokenizer, out, description=DESCRIPTION, card="# A classifier\n")
    assert outputs.max_difference <= 1e-5
    assert ids.texts == outputs.texts > 20
    assert json.loads((out / "mlc.json").read_text())["task"] == "a test"
    assert (out / "README.md").read_text() == "# A classifier\n"
    texts = list(TRAINING_TEXTS)
    values = f"folder, texts, out = {str(out)!r}, {texts!r}, {str(tmp_path / 'logits.npy')!r}"
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-I", "-c", f"{BLOCK}\n{values}\n{SCRIPT}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with torch.inference_mode():
        batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        needed = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), needed.numpy(), atol=1e-5)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8"])
def test_a_head_of_transformers_needs_no_code(
    dtype: transformers_folder.Dtype, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    out = tmp_path / "exported"
    _, outputs = export_pretrained(
        xlm_r_tagger(tokenizer), tokenizer, out, description=DESCRIPTION, card="", dtype=dtype
    )
    assert (outputs.max_difference == 0) == (dtype == "fp32")
    assert not list(out.glob("*.py"))
    with pytest.raises(UsageError, match="the folder exists"):
        export_pretrained(xlm_r_tagger(tokenizer), tokenizer, out, description=DESCRIPTION, card="")
    export_pretrained(xlm_r_tagger(tokenizer), tokenizer, out, description=DESCRIPTION, card="", overwrite=True)


def test_a_wrong_head_leaves_nothing_behind(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change_a_weight(model: PreTrainedModel, folder: Path, dtype: transformers_folder.Dtype) -> None:
        model.classifier.bias.data[0] += 0.1
        write_pretrained(model, folder, dtype)
        model.classifier.bias.data[0] -= 0.1

    monkeypatch.setattr(transformers_folder, "write_pretrained", change_a_weight)
    with pytest.raises(MlcError, match="does not give the outputs"):
        export_pretrained(glm_classifier(tokenizer), tokenizer, tmp_path / "out", description=DESCRIPTION, card="")
    assert not list(tmp_path.iterdir())


def test_auto_classes_are_found_by_name() -> None:
    assert auto_class_name(BertModel) == "AutoModel"
    assert auto_class_name(XLMRobertaForTokenClassification) == "AutoModelForTokenClassification"
    with pytest.raises(UsageError, match="no Auto class"):
        auto_class_name(type("BertForTeaLeaves", (), {}))
