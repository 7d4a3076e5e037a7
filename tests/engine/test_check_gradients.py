"""`mlc check gradients` passes where the training step is right, and fails, naming the objective, where it is not.

Two real ranks run every case in one start. Its reference is itself compared with the loops of naive_objectives.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import tomli_w
import torch
import torch.distributed as dist
from contrast_cases import ABSOLUTE, RELATIVE, ContrastCase, contrast_cases, naive
from engine_cases import RANKED, SOURCES
from hypothesis import given
from naive_objectives import Further
from ranks import run_on_ranks
from recipes_for_tests import ROOT, recipe_table, train_recipe
from small_shards import write_small_shards

from mlc.engine.check_gradients import CheckSettings, one_objective_each, small_recipe
from mlc.engine.gradient_report import FLOOR, compare
from mlc.engine.reference import StepGradient, Texts, info_nce
from mlc.errors import RecipeError, UsageError
from mlc.recipe import ModelSection
from mlc.recipe_objectives import InfoNceSection

OFF = {"weight": 0.0}
HUGGING_FACE = {"architecture": "huggingface", "config": str(ROOT / "recipes" / "encoders" / "xlm_roberta_tiny.json")}
EVERYTHING = {
    "contrastive": {
        "weight": 1.0,
        "learn_temperature": True,
        "temperature": 0.2,
        "hard_negatives": 1,
        "negatives": "same_language",
        "margin": 0.1,
        "queue": {"size": 64},
    },
    "mlm": {"weight": 0.25},
    "join_views": True,
    "language_adversary": {"weight": 0.3, "hidden_size": 8},
}
TWO, THREE = {"micro_batches": 2}, {"micro_batches": 3}
JOINT = ("contrastive", "glm", "joint")


@dataclass(frozen=True)
class Case:
    """One call of the command; `objectives` are added to InfoNCE of weight 1 and GLM of weight 0.5."""

    name: str
    stage: int = 3
    precision: str = "fp32"
    objectives: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    checked: tuple[str, ...] = JOINT
    mutant: str = ""
    failing: tuple[str, ...] = ()
    """Objectives that the command must name, and no others; empty = it must pass."""
    said: str = ""

    def write(self, shards: Path, folder: Path) -> None:
        table = recipe_table(
            run={"folder": str(folder / "run"), "precision": self.precision},
            data={"shards": str(shards), "samples_per_step": 40, "sources": SOURCES, **self.data},
            model={"layers": 3, "projection_size": 16, **self.model},
            objectives={"contrastive": {"weight": 1.0}, "glm": {"weight": 0.5}, "mlm": OFF, **self.objectives},
            deepspeed={"config": str(ROOT / "ds_configs" / f"zero{self.stage}.json")},
        )
        if "config" in self.model:
            table["model"] = self.model
        (folder / f"{self.name}.toml").write_text(tomli_w.dumps(table))


CASES = [
    *(Case(f"joint, ZeRO {stage}", stage) for stage in (1, 2, 3)),
    *(Case(f"two passes, ZeRO {stage}", stage, data=TWO) for stage in (1, 2, 3)),
    Case("bf16", precision="bf16"),
    Case("two passes in bf16", precision="bf16", data=TWO),
    Case(
        "everything",
        objectives=EVERYTHING,
        data={**TWO, "sources": RANKED},
        checked=("contrastive", "glm", "mlm", "language_adversary", "joint"),
        said="a made-up queue of 16 pairs",
    ),
    Case(
        "contrast of micro-batches",
        2,
        objectives={"contrastive": OFF, "micro_batch_contrastive": {"weight": 1.0, "decoupled": True}},
        data=THREE,
        checked=("micro_batch_contrastive", "glm", "joint"),
    ),
    Case(
        "perturbation",
        objectives={"perturbation": {"weight": 0.5, "size": 0.3}},
        model={"dropout": 0.2},
        checked=("contrastive", "glm", "joint with perturbation"),
        said="no dropout",
    ),
    Case(
        "Hugging Face",
        objectives={"glm": OFF, "mlm": {"weight": 0.5}},
        model=HUGGING_FACE,
        checked=("contrastive", "mlm", "joint"),
        said="2 layers, not 4",
    ),
    Case("detached gather", mutant="detached gather", failing=("contrastive", "joint")),
    Case("detached gather in two passes, bf16", 1, "bf16", {}, TWO, mutant="detached gather", failing=JOINT[::2]),
    Case("loss x W", mutant="loss x W", failing=JOINT),
    Case("local denominators", mutant="local denominators", failing=JOINT),
    Case("forgotten mask", mutant="forgotten mask", failing=("contrastive", "joint")),
]


@contextlib.contextmanager
def mutated(name: str) -> Iterator[None]:
    """The training step with one mistake."""
    import mlc.engine.contrast
    from mlc.distributed.gather import gather_rows_detached
    from mlc.engine import step
    from mlc.objectives.negatives import Negatives

    joint_loss, count_totals = step.joint_loss, step.count_totals

    def times_world_size(terms: Any, world_size: int) -> torch.Tensor:
        return joint_loss(terms, world_size) * world_size

    def of_this_rank(batch: Any, **settings: Any) -> Any:
        with mock.patch.object(step, "sum_over_ranks", lambda x: x * dist.get_world_size()):
            return count_totals(batch, **settings)

    def no_copies(self: Any, row: torch.Tensor, c: slice) -> torch.Tensor:
        return torch.zeros(len(row), len(self._candidates.group[c]), dtype=torch.bool)

    mutants: dict[str, Any] = {
        "": contextlib.nullcontext(),
        "detached gather": mock.patch.object(mlc.engine.contrast, "gather_rows", gather_rows_detached),
        "loss x W": mock.patch.object(step, "joint_loss", times_world_size),
        "local denominators": mock.patch("mlc.engine.check_gradients.count_totals", of_this_rank),
        "forgotten mask": mock.patch.object(Negatives, "_copies", no_copies),
    }
    with mutants[name]:
        yield


def run_cases(cases: list[Case], folder: Path) -> list[tuple[int, str]]:
    """On every rank: the exit code and what was printed, case by case."""
    import deepspeed  # noqa: F401

    import mlc.engine.check_gradients as check
    from mlc import cli

    gc.freeze()  # DeepSpeed collects garbage for every engine: among the modules there is none
    start, outcomes = check.start_process_group, []

    def start_once() -> None:
        if not dist.is_initialized():
            start()

    with (
        mock.patch.object(check, "start_process_group", start_once),
        mock.patch.object(check.dist, "destroy_process_group"),
    ):
        for case in cases:
            recipe, report = (str(folder / f"{case.name}.{suffix}") for suffix in ("toml", "json"))
            output = io.StringIO()
            with (
                mutated(case.mutant),
                mock.patch.object(sys, "argv", ["mlc", "check", "gradients", recipe, "--json", report]),
                contextlib.redirect_stdout(output),
                pytest.raises(SystemExit) as ending,
            ):
                cli.main()
            outcomes.append((int(ending.value.code or 0), output.getvalue()))
    dist.destroy_process_group()
    return outcomes


@dataclass(frozen=True)
class Outcome:
    codes: list[int]
    outputs: list[str]
    report: dict[str, Any]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """One start of two ranks for all cases."""
    folder = tmp_path_factory.mktemp("checks")
    write_small_shards(folder / "shards")
    for case in CASES:
        case.write(folder / "shards", folder)
    of_ranks = run_on_ranks(
        run_cases,
        2,
        CASES,
        folder,
        process_group=False,
        environ={"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        timeout_seconds=280,
    )
    assert not (folder / "run").exists()
    return {
        case.name: Outcome(
            [code for code, _ in of_case],
            [output for _, output in of_case],
            json.loads((folder / f"{case.name}.json").read_text()),
        )
        for case, of_case in zip(CASES, zip(*of_ranks, strict=True), strict=True)
    }


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_command_passes_the_right_step_and_names_what_a_wrong_one_gets_wrong(
    case: Case, outcomes: dict[str, Outcome]
) -> None:
    outcome = outcomes[case.name]
    output, silent = outcome.outputs
    assert outcome.codes == ([1, 1] if case.failing else [0, 0]), output
    assert silent == ""
    report = outcome.report
    assert report["passed"] is not bool(case.failing)
    assert (report["world_size"], report["zero_stage"], report["device"]) == (2, case.stage, "cpu")
    assert (report["precision"], report["tolerance"]) == (case.precision, {"fp32": 1e-5, "bf16": 2e-2}[case.precision])
    assert tuple(result["objective"] for result in report["objectives"]) == case.checked
    assert tuple(result["objective"] for result in report["objectives"] if not result["passed"]) == case.failing
    for result in report["objectives"]:
        assert (f"FAILED: {result['objective']}:" in output) is (not result["passed"])
        assert {"all", "embeddings", "encoder"} <= {part["parameters"] for part in result["comparisons"]}
        assert all(part["relative_error"] >= 0 and -1 <= part["cosine"] <= 1 + 1e-9 for part in result["comparisons"])
    assert f"checking {case.checked[-1]} ({len(case.checked)} of {len(case.checked)}) ..." in output
    assert case.said in output


@pytest.mark.slow
def test_precision_decides_the_error(outcomes: dict[str, Outcome]) -> None:
    """fp32 leaves errors of 1e-7 and bf16 errors of 1e-3: the check reads a real difference, and not 0 or noise."""

    def error(name: str) -> float:
        (joint,) = (r for r in outcomes[name].report["objectives"] if r["objective"] == "joint")
        return float(joint["comparisons"][0]["relative_error"])

    assert 1e-8 < error("joint, ZeRO 3") < 3e-6
    assert 1e-3 < error("bf16") < 2e-2


@given(contrast_cases())
def test_contrast_of_the_reference_is_the_formula(case: ContrastCase) -> None:
    """Against loops over pairs, values and gradients."""
    expected = naive(case)
    leaves = [case.first, case.second, *(_embeddings(more, case) for more in (case.more_second, case.more_first))]
    leaves = [leaf.clone().requires_grad_() for leaf in (*leaves, torch.tensor(case.temperature, dtype=torch.float64))]
    first_GD, second_GD, more_second_XD, more_first_XD, temperature = leaves
    ids, valid = case.identity, case.identity.valid
    first = Texts(first_GD, ids.group, ids.first_text, ids.second_text, ids.first_language).take(valid)
    second = Texts(second_GD, ids.group, ids.second_text, ids.first_text, ids.second_language).take(valid)
    settings = {name: getattr(case.settings, name) for name in ("symmetric", "decoupled", "margin", "negatives")}
    loss = info_nce(
        first,
        second,
        InfoNceSection(**settings),
        temperature,
        more_second=[_further(more_second_XD, case.more_second)],
        more_first=[_further(more_first_XD, case.more_first)],
    )
    (loss + 0 * sum(leaf.sum() for leaf in leaves)).backward()
    assert float(loss.detach()) == pytest.approx(expected.loss, rel=RELATIVE, abs=ABSOLUTE)
    for leaf, gradient in zip(leaves, expected.gradients, strict=True):
        torch.testing.assert_close(leaf.grad, gradient, rtol=RELATIVE, atol=ABSOLUTE)


def _embeddings(further: list[Further], case: ContrastCase) -> torch.Tensor:
    return torch.stack([f.embedding for f in further]) if further else torch.zeros(0, case.first.shape[1]).double()


def _further(embedding_XD: torch.Tensor, further: list[Further]) -> Texts:
    names = ("group", "text", "partner", "language")
    return Texts(embedding_XD, *(torch.tensor([getattr(f, n) for f in further], dtype=torch.int64) for n in names))


GROUPS = {"a": "encoder", "b": "encoder", "c": "heads"}


def _step(loss: float = 1.0, **gradients: list[float]) -> StepGradient:
    return StepGradient(loss, {name: torch.tensor(values) for name, values in gradients.items()})


def test_comparison_by_hand() -> None:
    result = compare("x", _step(a=[3.0], b=[4.0, 0.0], c=[0.0]), _step(a=[3.0], b=[0.0, 4.0], c=[0.0]), GROUPS, 1e-5)
    everything, encoder, worst = result.comparisons  # heads: no gradient on either side
    assert everything.relative_error == pytest.approx(32**0.5 / 5)
    assert everything.cosine == pytest.approx(9 / 25)
    assert (encoder.parameters, worst.parameters) == ("encoder", "worst: b")
    assert worst.relative_error == pytest.approx(2**0.5)
    assert result.problem.startswith("all: relative error 1.1e+00 > 1e-05")


def test_errors_are_relative_to_the_floor_where_a_gradient_is_nearly_0() -> None:
    result = compare("x", _step(a=[1.0], c=[2e-9]), _step(a=[1.0], c=[1e-9]), GROUPS, 1e-5)
    assert result.comparisons[-1].relative_error == pytest.approx(1e-9 / FLOOR, rel=1e-3)
    assert result.problem == ""


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (_step(a=[1.0], c=[0.01]), ""),
        (_step(a=[1.0]), "all: relative error 1.0e-02"),
        (_step(a=[1.0], b=[0.1], c=[0.01]), "all: relative error"),
        (_step(a=[1.0], c=[float("nan")]), "all: relative error inf"),
        (_step(a=[1.0], c=[0.0100005]), ""),
        (_step(a=[1.0], c=[0.010005]), "heads: relative error 5.0e-04 > 1e-04"),
        (_step(1.1, a=[1.0], c=[0.01]), "the losses differ"),
        (_step(float("nan"), a=[1.0], c=[0.01]), "the losses differ"),
    ],
)
def test_verdict(found: StepGradient, problem: str) -> None:
    """A missing gradient counts as 0; one small wrong part shows although the whole gradient hides it."""
    result = compare("x", found, _step(a=[1.0], c=[0.01]), GROUPS, 1e-5)
    assert result.problem.startswith(problem) and bool(result.problem) is bool(problem)  # noqa: PT018


def test_an_objective_without_gradient_is_not_checked_and_so_fails() -> None:
    result = compare("x", _step(0.0), _step(0.0), GROUPS, 1e-5)
    assert "raise --samples" in result.problem


def test_small_recipe(tmp_path: Path) -> None:
    recipe = train_recipe(
        data={"samples_per_step": 500, "micro_batches": 4},
        model={"layers": 5, "layer": 4, "dropout": 0.1},
        objectives={"contrastive": {"weight": 1.0, "queue": {"size": 600}}},
    )
    small, notes = small_recipe(recipe, 2, CheckSettings(), tmp_path)
    assert (small.data.samples_per_step, small.model.layers, small.model.layer, small.model.dropout) == (128, 2, 2, 0)
    assert small.objectives.contrastive.queue.size == 0
    told = ["128 samples", "2 layers", "model.layer = 2", "no dropout", "a made-up queue of 16 pairs"]
    assert [note.split(",")[0] for note in notes] == told
    # A rank must have a sample for every micro-batch, and more than the recipe's are fine where they are asked for.
    many = recipe.model_copy(update={"data": recipe.data.model_copy(update={"micro_batches": 100})})
    assert small_recipe(many, 2, CheckSettings(), tmp_path)[0].data.samples_per_step == 200
    assert small_recipe(recipe, 2, CheckSettings(samples=900), tmp_path)[0].data.samples_per_step == 900
    assert small_recipe(recipe, 2, CheckSettings(layers=9), tmp_path)[0].model.layers == 5
    with pytest.raises(UsageError, match="ranks x micro-batches = 8"):
        small_recipe(recipe, 2, CheckSettings(samples=7), tmp_path)


def test_a_shallow_hugging_face_encoder_has_no_dropout(tmp_path: Path) -> None:
    recipe = train_recipe(objectives={"glm": OFF})
    section = ModelSection(layer=3, **HUGGING_FACE)  # type: ignore[arg-type]
    small, notes = small_recipe(recipe.model_copy(update={"model": section}), 1, CheckSettings(), tmp_path)
    config = json.loads((Path(small.model.config) / "config.json").read_text())
    assert (config["num_hidden_layers"], small.model.layer) == (2, 2)
    assert config["hidden_dropout_prob"] == config["attention_probs_dropout_prob"] == 0
    assert notes == ["2 layers, not 4", "model.layer = 2, not 3", "no dropout"]


def test_loaded_weights_are_refused_with_a_way_out(tmp_path: Path) -> None:
    section = ModelSection(architecture="huggingface", path="models/mine")
    recipe = train_recipe(objectives={"glm": OFF}).model_copy(update={"model": section})
    with pytest.raises(RecipeError, match=r"--set model.path= --set model.config=models/mine"):
        small_recipe(recipe, 1, CheckSettings(), tmp_path)


def test_each_objective_has_its_own_recipe() -> None:
    recipe = train_recipe(data={"sources": RANKED}, objectives={**EVERYTHING, "perturbation": {"weight": 0.5}})
    each = one_objective_each(recipe)
    assert list(each) == ["contrastive", "glm", "mlm", "language_adversary", "joint with perturbation"]
    assert each.pop("joint with perturbation") == recipe
    for name, alone in each.items():
        sections = ("contrastive", "glm", "mlm", "language_adversary", "perturbation")
        weights = {section: getattr(alone.objectives, section).weight for section in sections}
        assert {section for section, weight in weights.items() if weight} == {name}
        assert alone.objectives.join_views is (name in ("glm", "mlm"))
    assert list(one_objective_each(each["mlm"])) == ["mlm"]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_on_one_gpu(precision: str, tmp_path: Path) -> None:
    """fp16 runs nowhere else: its loss scale has to be divided out, and its first steps may overflow."""
    write_small_shards(tmp_path / "shards")
    Case("gpu", precision=precision).write(tmp_path / "shards", tmp_path)
    command = [sys.executable, "-m", "mlc", "check", "gradients", str(tmp_path / "gpu.toml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
