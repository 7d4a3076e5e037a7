"""What a model card says of data, licence and scores, and which files of scores are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_models import make_checkpoint
from typer.testing import CliRunner

from mlc.cli import build_app
from mlc.errors import UsageError
from mlc.export.card_facts import read_scores

TATOEBA = {
    "task": "retrieval",
    "model": "runs/base",
    "step": 7,
    "data": ["tests/tatoeba"],
    "scores": {"mean_top1": {"value": 0.8125, "low": 0.75, "high": 0.875, "n": 64}, "mean_mrr": {"value": 0.9}},
    "by_pair": {"de-en": {"top1": {"value": 0.5}}},
    "texts": 128,
}
OLDER = {"task": "retrieval", "model": "runs/old", "step": None, "mean_top1": 0.25, "texts": 9, "limit": 3, "cut": 0}


def write(file: Path, content: Any) -> Path:
    file.write_text(json.dumps(content))
    return file


def test_the_card_holds_what_was_stated(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "run", 7)
    (checkpoint / "recipe.toml").write_text(
        '[data]\nshards = "gone"\nsamples_per_step = 8\nsources = [{ kind = "documents", view = "translations" }]\n'
    )
    scores = write(tmp_path / "tatoeba.json", TATOEBA)
    suite = write(tmp_path / "suite.json", {"results": [OLDER]})
    options = ["--license", "cc-by-sa-4.0", "--data-note", "Wikipedia of 2024, CC BY-SA 4.0."]
    options += ["--scores", str(scores), "--scores", str(suite), "--json", str(tmp_path / "out.json")]
    command = ["export", str(checkpoint / "model"), str(tmp_path / "out"), *options]
    done = CliRunner().invoke(build_app(), command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    card = (tmp_path / "out" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "cc-by-sa-4.0"
    assert front["language"] == ["de", "en", "no"]
    assert front["library_name"] == "transformers"
    for fact in (
        "| retrieval | mean_top1 | 0.812 (0.750 to 0.875) | tatoeba | base, step 7 |",
        "| retrieval | mean_mrr | 0.900 | tatoeba | base, step 7 |",
        "| retrieval | mean_top1 | 0.250 |  | old |",
        "* kind documents, view translations",
        "* Wikipedia of 2024, CC BY-SA 4.0.",
        "* Licence of the model: cc-by-sa-4.0",
        "* transformers: token ids equal on",
    ):
        assert fact in card, fact
    assert "texts |" not in card  # a count, not a score
    checked = json.loads((tmp_path / "out.json").read_text())
    assert [found["opened_by"] for found in checked["comparisons"]] == ["transformers", "transformers", "mlc"]
    assert checked["max_difference"] <= 1e-5
    again = ["export", str(tmp_path / "out"), str(tmp_path / "again"), "--dtype", "bf16"]
    assert CliRunner().invoke(build_app(), again, catch_exceptions=False).exit_code == 0
    assert "* kind documents, view translations" in (tmp_path / "again" / "README.md").read_text()


def test_a_card_without_statements_says_so(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "run", 7)
    CliRunner().invoke(build_app(), ["export", str(checkpoint), str(tmp_path / "out")], catch_exceptions=False)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license" not in card.split("---")[1]
    for fact in ("Licence of the model: not stated", "under which licences, was not stated", "None were given."):
        assert fact in card


REFUSED = {
    "no JSON": ("{", "cannot be read"),
    "no task": ('{"mean_top1": 1}', "no result of an evaluation"),
    "a list of numbers": ("[1, 2]", "no result of an evaluation"),
    "no scores": ('{"task": "retrieval", "texts": 3}', "has no scores"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_files_that_are_no_scores_are_refused(case: str, tmp_path: Path) -> None:
    content, message = REFUSED[case]
    file = tmp_path / "scores.json"
    file.write_text(content)
    with pytest.raises(UsageError, match=message) as caught:
        read_scores([file])
    assert str(file) in str(caught.value)
    with pytest.raises(UsageError, match="cannot be read"):
        read_scores([tmp_path / "missing.json"])
