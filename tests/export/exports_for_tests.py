"""Exports of small models of many kinds, made once for all tests; their cards' code run in a fresh process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from small_models import GLM, TRAINING_TEXTS, make_checkpoint
from transformers import MT5Config, XLMRobertaConfig

from mlc.export.hugging_face import ExportReport, export_model
from mlc.recipe import ModelSection

TEXTS = [*TRAINING_TEXTS, "", "[MASK] is text here", TRAINING_TEXTS[0] * 3]

# Stands before the card's example: neither this package nor data_prep may be imported, and nothing may be fetched.
BLOCK = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("mlc", "data_prep"):
            raise ModuleNotFoundError(f"{name} was imported, which an export must not need")

sys.meta_path.insert(0, Refuse())
"""


CASES = {
    "mean of the last layer, projected": (GLM.model_copy(update={"projection_size": 12}), True),
    "cls of layer 1": (GLM.model_copy(update={"layer": 1, "pooling": "cls"}), True),
    "attention over layer 1, projected": (
        GLM.model_copy(update={"layer": 1, "pooling": "attention", "projection_size": 12}),
        True,
    ),
    "attention, never contrasted": (GLM.model_copy(update={"pooling": "attention"}), False),
    "last token": (GLM.model_copy(update={"pooling": "last"}), True),
    "never contrasted": (GLM.model_copy(update={"projection_size": 12}), False),
    "xlm-r": (ModelSection(architecture="huggingface", config="xlm-r", projection_size=8), True),
    "xlm-r, cls of layer 1": (ModelSection(architecture="huggingface", config="xlm-r", layer=1, pooling="cls"), True),
    "mt5": (ModelSection(architecture="huggingface", config="mt5", pooling="attention"), True),
}
FAST_CASES = ("mean of the last layer, projected", "attention over layer 1, projected", "xlm-r, cls of layer 1")
"""Every module and pooling with code of its own is in one of them; the others are for `make test-slow`."""
INT8, ONNX = "the first in int8", "the first as a graph alone"
CONFIGS = {
    "xlm-r": XLMRobertaConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=40
    ),
    "mt5": MT5Config(d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2),
}


def run_without_package(script: Sequence[str], home: Path, folder: Path | None = None) -> str:
    """What a script prints in a fresh process that may import neither this package nor data_prep.

    Args:
        script: pieces of code, one behind the other.
        home: for what transformers keeps.
        folder: to run in.
    """
    done = subprocess.run(
        [sys.executable, "-I", "-c", "\n".join([BLOCK, *script])],
        env={**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Do you wish to run" not in done.stdout  # transformers would wait for somebody to answer
    return done.stdout


def run_cards(folders: list[Path], texts: list[str], home: Path) -> list[list[np.ndarray]]:
    """Run the code examples of exports' README.md, each in its folder, in one fresh process; the embeddings of each."""
    script = ["import os", "import numpy"]
    counts = []
    for place, folder in enumerate(folders):
        examples = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
        script.append(f"os.chdir({str(folder)!r})")
        for number, example in enumerate(examples):
            changed = re.sub(r"^texts = .*$", lambda _: f"texts = {texts!r}", example, flags=re.MULTILINE)
            assert repr(texts) in changed
            file = str(home / f"{place}-{number}")
            script += [changed, f"numpy.save({file!r}, numpy.asarray(embeddings))", "del embeddings"]
        counts.append(len(examples))
    run_without_package(script, home)
    return [[np.load(home / f"{place}-{n}.npy") for n in range(count)] for place, count in enumerate(counts)]


@dataclass(frozen=True)
class Exported:
    run: Path
    out: Path
    report: ExportReport
    card_vectors: list[np.ndarray]
    """Of each example of the card: sentence-transformers, transformers, onnxruntime, as far as there are such."""


def export_cases(names: Sequence[str], home: Path, *, others: bool) -> dict[str, Exported]:
    """Exports of the cases; with `others` also the first of them in int8 and as a graph. One process runs all cards."""
    reports = {}
    for name in names:
        section, contrastive = CASES[name]
        located = section
        if section.config:
            CONFIGS[section.config].save_pretrained(home / f"config-{name}")
            located = section.model_copy(update={"config": str(home / f"config-{name}")})
        make_checkpoint(home / f"run-{name}", 7, section=located, contrastive=contrastive)
        reports[name] = export_model(home / f"run-{name}", home / f"out-{name}", formats=["sentence-transformers"])
    run = home / f"run-{names[0]}"
    if others:
        reports[INT8] = export_model(run, home / f"out-{INT8}", dtype="int8")
        reports[ONNX] = export_model(run, home / f"out-{ONNX}", formats=["onnx"])
    vectors = run_cards([report.folder for report in reports.values()], TEXTS, home)
    return {
        name: Exported(home / f"run-{name}" if name in CASES else run, report.folder, report, found)
        for (name, report), found in zip(reports.items(), vectors, strict=True)
    }


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    return export_cases(FAST_CASES, tmp_path_factory.mktemp("exports"), others=True)


@pytest.fixture(scope="session")
def exported_slowly(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    rest = [name for name in CASES if name not in FAST_CASES]
    return export_cases(rest, tmp_path_factory.mktemp("more-exports"), others=False)
