"""Data sets by their hub name, through `datasets` itself, from folders that are made on the spot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_task_files import write_json_lines

from mlc.errors import DataError, UsageError
from mlc.tasks.examples import ClassificationExample, TokenExample, TranslationExample
from mlc.tasks.task_files import read_task

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, and nothing written outside the test's folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.fixture
def nli(tmp_path: Path) -> Path:
    features = datasets.Features(
        {
            "premise": datasets.Value("string"),
            "hypothesis": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["entailment", "neutral", "contradiction"]),
        }
    )
    rows = {"premise": ["a", "b", "c"], "hypothesis": ["d", "e", "f"], "label": [2, 0, -1]}
    saved = datasets.Dataset.from_dict(rows, features)
    datasets.DatasetDict({"train": saved.select(range(2)), "test": saved}).save_to_disk(tmp_path / "xnli")
    saved.to_parquet(tmp_path / "xnli.de.parquet")
    return tmp_path / "xnli"


def test_numbers_become_the_names_of_the_features(nli: Path) -> None:
    data = read_task("classification", f"hub:{nli}::train", language="de")
    found = [(e.text, e.text_pair, e.label) for e in data.of(ClassificationExample)]
    assert found == [("a", "d", "contradiction"), ("b", "e", "entailment")]
    assert [str(e.place) for e in data.examples] == [f"hub:{nli}::train:{row}" for row in (1, 2)]
    assert [(e.place.record, e.place.language) for e in data.examples] == [(0, "de"), (1, "de")]
    assert data.files[0].columns == {"text": "premise", "text_pair": "hypothesis", "label": "label"}
    parquet = read_task("classification", f"{nli}.de.parquet", limit=2)
    assert [(e.text, e.text_pair, e.label) for e in parquet.of(ClassificationExample)] == found
    assert parquet.examples[1].place.language == "de"


def test_hidden_answers_are_no_label(nli: Path) -> None:
    with pytest.raises(DataError, match="no gold answer") as caught:
        read_task("classification", f"hub:{nli}::test")
    assert f"hub:{nli}::test:3: " in str(caught.value)
    found = read_task("classification", f"hub:{nli}::test", gold="optional").of(ClassificationExample)
    assert [e.label for e in found] == ["contradiction", "entailment", None]


def test_a_split_is_chosen_where_there_are_several(nli: Path) -> None:
    with pytest.raises(UsageError, match=r"which split is meant.*found train, test; needed hub:.*:train"):
        read_task("classification", f"hub:{nli}")
    with pytest.raises(DataError, match="cannot load"):
        read_task("classification", f"hub:{nli}::validation")
    with pytest.raises(DataError, match=r"cannot load(?s:.*)hub:\./FOLDER"):
        read_task("classification", f"hub:{nli.parent}/absent")
    with pytest.raises(UsageError, match="no name"):
        read_task("classification", "hub:")


def test_a_folder_without_a_script_and_with_configurations(tmp_path: Path) -> None:
    """As data sets of the hub are laid out: a README with configurations, JSON lines beside it."""
    folder = tmp_path / "tiny"
    for language in ("de", "en"):
        for split in ("train", "test"):
            records = [{"text": f"{language} {split} {k}", "label": "x"} for k in range(3)]
            write_json_lines(folder / language / f"{split}.jsonl", records)
    entries = [
        {"config_name": c, "data_files": [{"split": s, "path": f"{c}/{s}.jsonl"} for s in ("train", "test")]}
        for c in ("de", "en")
    ]
    (folder / "README.md").write_text(f"---\nconfigs: {json.dumps(entries)}\n---\n")
    data = read_task("classification", f"hub:{folder}:{{language}}:test", languages=["de", "en"], limit=2)
    assert [(e.text, e.place.language) for e in data.of(ClassificationExample)] == [
        ("de test 0", "de"), ("de test 1", "de"), ("en test 0", "en"), ("en test 1", "en")
    ]  # fmt: skip
    sliced = read_task("classification", f"hub:{folder}:de:train[1:]")
    assert [e.text for e in sliced.of(ClassificationExample)] == ["de train 1", "de train 2"]


def test_labels_of_words_and_translations(tmp_path: Path) -> None:
    tags = datasets.List(datasets.ClassLabel(names=["O", "B-PER", "I-PER"]))
    features = datasets.Features({"tokens": datasets.List(datasets.Value("string")), "ner_tags": tags})
    rows = {"tokens": [["Ada", "L.", "rechnet"]], "ner_tags": [[1, 2, 0]]}
    saved = datasets.Dataset.from_dict(rows, features)
    saved.save_to_disk(tmp_path / "ner")
    saved.to_parquet(tmp_path / "ner.parquet")
    for source in (f"hub:{tmp_path}/ner", f"{tmp_path}/ner.parquet"):
        (example,) = read_task("token_classification", source).of(TokenExample)
        assert (example.tokens, example.labels) == (("Ada", "L.", "rechnet"), ("B-PER", "I-PER", "O"))
    features = datasets.Features({"translation": datasets.Translation(languages=["de", "en"])})
    pairs = datasets.Dataset.from_dict({"translation": [{"de": "ja", "en": "yes"}]}, features)
    pairs.save_to_disk(tmp_path / "opus")
    (pair,) = read_task(
        "translation", f"hub:{tmp_path}/opus", columns={"source": "en", "target": "de"}
    ).of(TranslationExample)  # fmt: skip
    assert (pair.source, pair.target, pair.place.language, pair.target_language) == ("yes", "ja", "en", "de")
