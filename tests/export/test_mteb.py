"""mteb runs a sentence-transformers export, here offline on a task made on the spot."""

from __future__ import annotations

import json
from pathlib import Path

import mteb
import numpy as np
import pytest
from mteb.abstasks import AbsTaskBitextMining
from mteb.abstasks.task_metadata import TaskMetadata
from sentence_transformers import SentenceTransformer
from small_corpus import text
from small_models import make_checkpoint

from mlc.export.hugging_face import export_model
from mlc.model import register_auto_classes
from mlc.tasks.encoder import TextEncoder

LANGUAGES = ("de", "en")


def local_task(folder: Path) -> AbsTaskBitextMining:
    """A task whose data are the files of `folder`: what mteb takes from the hub, `datasets` reads from there too."""

    class LocalBitextMining(AbsTaskBitextMining):
        metadata = TaskMetadata(
            dataset={"path": str(folder), "revision": "local"},
            name="LocalBitextMining",
            description="Pairs of sentences.",
            type="BitextMining",
            category="t2t",
            eval_langs=["deu-Latn", "eng-Latn"],
            main_score="accuracy",
        )

    return LocalBitextMining()


@pytest.mark.slow  # importing mteb takes longer than the test
def test_mteb_scores_an_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_checkpoint(tmp_path / "run", 3, max_tokens=48)
    export_model(tmp_path / "run", tmp_path / "out", formats=["sentence-transformers"])
    pairs = [[text(language, number, 6) for number in range(24)] for language in LANGUAGES]
    (tmp_path / "data").mkdir()
    rows = [json.dumps({"sentence1": first, "sentence2": second}) for first, second in zip(*pairs, strict=True)]
    (tmp_path / "data" / "test.jsonl").write_text("\n".join(rows))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    register_auto_classes()
    model = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    results = mteb.evaluate(model, [local_task(tmp_path / "data")], cache=None, show_progress_bar=False)
    ((found,),) = (result.scores["test"] for result in results.task_results)
    first, second = (TextEncoder.load(tmp_path / "out", device="cpu").encode(texts) for texts in pairs)
    needed = float(np.mean((first @ second.T).argmax(1) == np.arange(len(first))))
    assert 0 < needed < 1  # a random model that shares words: a score of nothing would be 1/24 or less
    assert found["accuracy"] == pytest.approx(needed, abs=1e-9)
