"""Exports of translation models: transformers' generate writes what the run wrote."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from exports_for_tests import run_without_package
from finetuned_for_tests import MAX_TOKENS, make_finetuned
from small_models import TRAINING_TEXTS
from transformers import EncoderDecoderModel

from mlc.errors import UsageError
from mlc.export.hugging_face import export_model
from mlc.tasks.examples import Place, TranslationExample
from mlc.tasks.learned.predict import Predictor
from mlc.tasks.learned.translation_settings import TranslationSettings

BESIDE = TranslationSettings("encoder_decoder", ("en>de", "en>fr"), 12, layers=1)
PART_B = TranslationSettings("part_b", ("en>de",), 12)


@pytest.mark.parametrize("start", ["glm", "xlmr"])
def test_the_card_translates_as_the_run_does(start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_finetuned(tmp_path / "run", "translation", start=start, translation=BESIDE)
    report = export_model(run, tmp_path / "out")
    compared = {(found.what, found.opened_by) for found in report.comparisons}
    assert compared == {
        ("token ids", "transformers"), ("logits", "transformers"), ("logits", "mlc"), ("translations", "transformers"),
    }  # fmt: skip
    card = (report.folder / "README.md").read_text()
    assert "* Task: translation, en>de, en>fr" in card
    assert ("package, which has to be installed" in card) == (start == "glm")
    (example,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    texts = ["A text.", *TRAINING_TEXTS]
    examples = [TranslationExample(text, None, "de", Place("made up", 1, "en")) for text in texts]
    needed = Predictor.load(run, device="cpu").predict(examples)
    assert len(set(needed)) > 1
    found: dict[str, Any] = {}
    monkeypatch.chdir(report.folder)
    exec(example, found)
    assert isinstance(found["model"], EncoderDecoderModel)
    assert found["answers"][0].strip() == needed[0]
    batch = found["tokenizer"](
        [f"<2de> {text}" for text in texts], padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
    )
    written = found["tokenizer"].batch_decode(found["model"].generate(**batch), skip_special_tokens=True)
    assert [text.strip() for text in written] == needed
    assert Predictor.load(report.folder, device="cpu").predict(examples) == needed


def test_a_rounded_export_is_compared_by_logits(tmp_path: Path) -> None:
    run = make_finetuned(tmp_path / "run", "translation", start="xlmr", translation=BESIDE)
    for dtype in ("bf16", "int8"):
        report = export_model(run, tmp_path / dtype, dtype=dtype)
        assert "translations" not in {found.what for found in report.comparisons}


def test_the_card_of_part_b_translates_without_this_package(tmp_path: Path) -> None:
    run = make_finetuned(tmp_path / "run", "translation", translation=PART_B)
    report = export_model(run, tmp_path / "out")
    assert [(found.what, found.opened_by) for found in report.comparisons] == [
        ("token ids", "transformers"), ("logits", "transformers"), ("logits", "mlc"), ("translations", "transformers"),
    ]  # fmt: skip
    examples = [
        TranslationExample(text, None, "de", Place("made up", 1, "en")) for text in ("A text.", *TRAINING_TEXTS)
    ]
    needed = Predictor.load(run, device="cpu").predict(examples)
    assert len(set(needed)) > 1
    assert Predictor.load(report.folder, device="cpu").predict(examples) == needed
    (example,) = re.findall(r"```python\n(.*?)```", (report.folder / "README.md").read_text(), re.DOTALL)
    output = run_without_package([example], tmp_path, report.folder)
    assert ast.literal_eval(output.splitlines()[-1])[0].strip() == needed[0]
    for dtype in ("bf16", "int8"):
        rounded = export_model(run, tmp_path / dtype, dtype=dtype)
        assert "translations" not in {found.what for found in rounded.comparisons}


def test_what_has_no_export_is_refused(tmp_path: Path) -> None:
    run = make_finetuned(tmp_path / "run", "translation", translation=BESIDE)
    with pytest.raises(UsageError, match="does not fit into one graph"):
        export_model(run, tmp_path / "out", formats=["onnx"])
    with pytest.raises(UsageError, match="opens encoders and re-ranking models"):
        export_model(run, tmp_path / "out", formats=["sentence-transformers"])
    run = make_finetuned(tmp_path / "part-b", "translation", translation=PART_B)
    with pytest.raises(UsageError, match="does not fit into one graph"):
        export_model(run, tmp_path / "out", formats=["onnx"])
    with pytest.raises(UsageError, match="has the head of its task"):
        export_model(run, tmp_path / "out", heads=True)
    assert not (tmp_path / "out").exists()
