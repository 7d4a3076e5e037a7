"""A study's budgets, scores, table and plot."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from statistics import fmean, stdev
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recipes_for_tests import ROOT, recipe_table
from small_models import make_checkpoint
from small_shards import write_small_shards
from study_for_tests import TOKENS, a_score, edited
from study_plan import Run, arm_table, count_steps, plan_runs, read_study, render_recipe
from study_score import TEXTS_PER_BATCH, heldout_batches, split_parallel_texts, token_losses
from study_table import Arm, plot, table

from mlc.data.corpus import Corpus
from mlc.data.manifest import Manifest
from mlc.errors import MlcError, RecipeError
from mlc.model.saving import load_training_model
from mlc.recipe_objectives import ObjectivesSection

# Budgets


@settings(max_examples=30)
@given(target=st.integers(1, 3000), seed=st.integers(0, 5), samples=st.integers(1, 9))
def test_steps_come_nearest_to_the_text_tokens(
    tmp_path_factory: pytest.TempPathFactory, target: int, seed: int, samples: int
) -> None:
    shards = tmp_path_factory.getbasetemp() / "counted"
    if not shards.exists():
        write_small_shards(shards)
    recipe = render_recipe(planned(shards, seed, samples), 10)
    budget = count_steps(recipe, target)
    corpus = Corpus(recipe.data, Manifest.read(shards), seed=seed)
    consumed = [0]
    for step in range(budget.steps + 1):
        texts = [t for s in corpus.samples(corpus.step_indices(step)) for t in (s.first, s.second) if t is not None]
        consumed.append(consumed[-1] + sum(map(len, texts)))
    assert budget.text_tokens == consumed[budget.steps]
    assert budget.steps >= 1
    distances = [abs(value - target) for value in consumed[1:]]
    assert distances[budget.steps - 1] == min(distances)


def planned(shards: Path, seed: int, samples: int) -> Run:
    table = recipe_table(
        run={"seed": seed, "folder": "run"},
        data={"shards": str(shards), "samples_per_step": samples, "sources": [{"kind": "pairs", "view": "pair"}]},
    )
    return Run("a", "A", seed, Path("a-seed1"), table, "", "")


def test_arms_with_one_and_two_views_get_equally_much_text(study_file: Path) -> None:
    one, two = (run for run in plan_runs(read_study(study_file)) if run.seed == 1)
    budgets = [count_steps(run.recipe, 20 * TOKENS) for run in (one, two)]
    assert budgets[0].steps > 1.5 * budgets[1].steps
    for budget in budgets:  # half a step; 40 tokens: steps differ in length
        assert budget.text_tokens == pytest.approx(
            20 * TOKENS, abs=0.5 * max(b.text_tokens / b.steps for b in budgets) * 2
        )


def test_schedules_keep_their_shares(study_file: Path) -> None:
    """Warm-up 10 and checkpoints every 20 of 100 steps."""
    run = plan_runs(read_study(study_file))[0]
    recipe = render_recipe(run, 250)
    assert (recipe.schedule.total_steps, recipe.schedule.warmup_steps, recipe.checkpoint.every_steps) == (250, 25, 50)
    assert render_recipe(run, 3).checkpoint.every_steps == 1


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"schedule": {"total_steps": 5}}, "cannot set schedule.total_steps"),
        ({"run": {"seed": 5}}, "cannot set run.seed"),
        ({"objectives": {"glm": {"wieght": 1.0}}}, "did you mean weight"),
    ],
)
def test_arms_that_cannot_be_are_refused(study_file: Path, change: dict[str, Any], complaint: str) -> None:
    edited(study_file, lambda t: t["arms"]["joint"].update(set=change))
    with pytest.raises(RecipeError, match=complaint):
        plan_runs(read_study(study_file))


@pytest.mark.parametrize(("name", "runs"), [("objectives", 21), ("lambda", 8)])
def test_shipped_studies_are_valid(name: str, runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    study = read_study(f"recipes/study_{name}.toml")
    assert study.study.name == name
    base = tomllib.loads(Path(study.study.base).read_text())
    tables = [arm_table(base, study, arm) for arm in study.arms]
    assert len(tables) * len(study.study.seeds) == runs
    assert len({json.dumps(table, sort_keys=True) for table in tables}) == len(tables)  # no arm twice


# Scores


def test_parallel_texts_are_cut_in_two(tmp_path: Path) -> None:
    lines = [{"deu": f"Satz {i}", "eng": f"sentence {i}"} for i in range(23)]
    (tmp_path / "deu-eng.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    folders = split_parallel_texts(tmp_path, tmp_path / "cut", ["de"], 5)
    found = [[json.loads(line) for line in (folder / "de-en.jsonl").read_text().splitlines()] for folder in folders]
    expected = [{"de": line["deu"], "en": line["eng"]} for line in lines]
    assert found[0] == [expected[4], expected[9], expected[14], expected[19]]
    assert found[1] == [line for line in expected if line not in found[0]]


@pytest.fixture
def heldout(tmp_path: Path) -> Manifest:
    return write_small_shards(tmp_path / "heldout", longest=30)


def checkpoint_with(run: Path, heldout: Manifest, weights: dict[str, float], seed: int) -> Path:
    """A random model of the held-out shards' vocabulary that says which objectives it was trained with."""
    folder = make_checkpoint(run, 3, seed=seed) / "model"
    info = json.loads((folder / "mlc.json").read_text())
    info["objectives"] = {name: {"weight": weight} for name, weight in weights.items()}
    info["tokenizer_sha256"] = heldout.tokenizer.sha256
    (folder / "mlc.json").write_text(json.dumps(info))
    return folder


@pytest.mark.parametrize("name", ["mlm", "glm"])
def test_token_losses_are_those_of_single_rows(tmp_path: Path, heldout: Manifest, name: str) -> None:
    """Every row alone through the model, in float64, with a softmax written out."""
    folder = checkpoint_with(tmp_path / "run", heldout, {"mlm": 1.0, "glm": 1.0}, seed=2)
    scores = token_losses(folder, str(heldout.folder), 2 * TEXTS_PER_BATCH - 1, 0.3)
    model, info = load_training_model(folder)
    model = model.double()
    other = "glm" if name == "mlm" else "mlm"
    weights = {name: {"weight": 1.0, "mask_fraction": 0.3}, other: {"weight": 0.0}}
    builder = heldout_batches(heldout, ObjectivesSection.model_validate(weights), info["max_tokens"])
    losses: list[float] = []
    for step in range(2):
        (batch,) = builder.build(step).micro_batches
        assert len(batch.lengths) == TEXTS_PER_BATCH
        columns = batch.input_ids.shape[1]
        index, targets = getattr(batch, f"{name}_index"), getattr(batch, f"{name}_targets")
        assert not getattr(batch, f"{other}_weights").any()
        for row in range(len(batch.lengths)):
            mine = np.flatnonzero(index // columns == row)
            fields = ("input_ids", "lengths", "part_a_lengths", "positions", "block_positions")
            inputs = {field: torch.from_numpy(getattr(batch, field)[row : row + 1]) for field in fields}
            inputs[f"{name}_index"] = torch.from_numpy(index[mine] % columns)
            if len(mine):
                logits = model(**inputs)[f"{name}_logits"].detach().numpy()
                log_sum = np.log(np.exp(logits).sum(axis=1))
                losses += list(log_sum - logits[np.arange(len(mine)), targets[mine]])
    assert scores[name]["predicted_tokens"] == len(losses)
    # float32 against float64, sums of a few hundred losses of about 6
    assert scores[name]["loss"] == pytest.approx(fmean(losses), rel=1e-5)


def test_every_model_is_scored_on_the_same_texts_and_untrained_heads_are_not(tmp_path: Path, heldout: Manifest) -> None:
    arguments = (str(heldout.folder), 40, 0.2)
    only = token_losses(checkpoint_with(tmp_path / "a", heldout, {"mlm": 1.0, "glm": 0.0}, 1), *arguments)
    both = token_losses(checkpoint_with(tmp_path / "b", heldout, {"mlm": 0.1, "glm": 0.1}, 1), *arguments)
    other = token_losses(checkpoint_with(tmp_path / "c", heldout, {"mlm": 0.1, "glm": 0.1}, 5), *arguments)
    assert only["glm"] is None
    assert only["mlm"] == both["mlm"]  # blanks of the other objective do not get into the text
    assert other["mlm"]["predicted_tokens"] == only["mlm"]["predicted_tokens"]
    assert other["mlm"]["loss"] != only["mlm"]["loss"]


def test_another_tokenizer_is_refused(tmp_path: Path, heldout: Manifest) -> None:
    folder = checkpoint_with(tmp_path / "run", heldout, {"mlm": 1.0, "glm": 1.0}, 1)
    other = write_small_shards(tmp_path / "other", tokenizer=b"another")
    with pytest.raises(MlcError, match="another tokenizer"):
        token_losses(folder, str(other.folder), 10, 0.15)


# Tables


@given(values=st.lists(st.floats(0, 1), min_size=2, max_size=4))
def test_the_table_shows_mean_and_spread(values: list[float]) -> None:
    costs = {"steps": 4, "text_tokens": 600}
    done = Arm("Joint", [{**costs, **a_score(value)} for value in values], len(values))
    begun = Arm("MLM", [{**costs, **a_score(0.5, mlm=None)}], 3)
    lines = list(table([done, begun, Arm("Later", [], 3)]))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    scores, costs_rows = rows[:5], rows[5:10]
    assert len({len(row) for row in scores}) == 1
    assert scores[2][:4] == ["Joint", str(len(values)), "2", f"{fmean(values):.3f} ± {stdev(values):.3f}"]
    assert scores[2][4:] == ["5.00 ± 0.00", "-"]
    assert scores[3] == ["MLM", "1 of 3", "2", "0.500", "-", "-"]
    assert scores[4] == ["Later", "0 of 3", "-", "-", "-", "-"]
    assert costs_rows[2] == ["Joint", str(len(values)), "4", "600", "700", "2.0"]


def test_the_plot_has_a_dot_for_each_score() -> None:
    arms = [
        Arm("MLM <&>", [a_score(0.1), a_score(0.2)], 2),
        Arm("GLM", [a_score(0.3, mlm=None, glm=6.0)], 2),
        Arm("none", [], 2),
    ]
    picture = ElementTree.fromstring(plot(arms, "Study"))
    name = "{http://www.w3.org/2000/svg}"
    assert len(picture.findall(f"{name}circle")) == 3 + 2 + 1  # retrieval, MLM, GLM
    texts = [element.text for element in picture.findall(f"{name}text")]
    assert "MLM <&>" in texts
    dots = [float(element.attrib["cx"]) for element in picture.findall(f"{name}circle")][:3]
    assert dots[1] > dots[0] + 50
    # Three values at equal distances lie at equal distances; coordinates have one decimal.
    assert dots[1] - dots[0] == pytest.approx(dots[2] - dots[1], abs=0.2)
    assert ElementTree.fromstring(plot([], "nothing yet")) is not None
